//! Row-major matrix products, by cuBLAS or by own kernels.

use super::memory::{Buffer, Place};
use super::profile::Cost;
use super::{Cuda, arguments};

/// Side of an own kernel's tile.
const TILE: usize = 64;

/// How the operands lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `out = a · b`: a is rows × depth, b depth × columns.
    Plain,
    /// `out = a · bᵀ`: b is columns × depth.
    TransposedRight,
    /// `out += aᵀ · b`: a is depth × rows.
    TransposedLeft,
}

/// A matrix's elements: an array from some element on.
#[derive(Debug, Clone, Copy)]
pub struct Array<'a> {
    /// The memory.
    pub buffer: &'a Buffer,
    /// First element.
    pub start: usize,
}

impl Array<'_> {
    /// The first of `len` elements, which must be there.
    fn place(&self, len: usize) -> Place {
        assert!(self.start + len <= self.buffer.len(), "{len} elements from {} on", self.start);
        self.buffer.at(self.start)
    }
}

/// Sizes of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Product {
    /// How the operands lie.
    pub form: Form,
    /// Rows of the result.
    pub rows: usize,
    /// Columns of the result.
    pub columns: usize,
    /// Terms of each sum.
    pub depth: usize,
}

impl Product {
    /// Operations, and bytes of operands and result.
    fn cost(&self, operands: Place, out: Place) -> Cost {
        let size = |place: Place| if place.narrow { size_of::<u16>() } else { size_of::<f32>() };
        let read = (self.rows + self.columns) * self.depth * size(operands);
        let written = self.rows * self.columns * size(out);
        Cost { bytes: (read + written) as u64, operations: 2 * (self.rows * self.columns * self.depth) as u64 }
    }
}

impl Cuda {
    /// Multiplies `a` and `b`, both activations or both floats, into `out`. Sums are float.
    pub(super) fn multiply(&self, p: &Product, a: Array, b: Array, out: Array) {
        if p.rows * p.columns == 0 {
            return;
        }
        let (a, b, out) = (a.place(p.rows * p.depth), b.place(p.depth * p.columns), out.place(p.rows * p.columns));
        match self.device.blas().filter(|_| self.blas) {
            Some(blas) => {
                self.run(|device| device.timed("product (cuBLAS)", p.cost(a, out), || blas.multiply(p, a, b, out)));
            }
            None => self.multiply_here(p, a, b, out),
        }
    }

    fn multiply_here(&self, p: &Product, a: Place, b: Place, out: Place) {
        let tiles = [p.rows.div_ceil(TILE), p.columns.div_ceil(TILE)];
        let more = Cost { bytes: 0, ..p.cost(a, out) };
        if p.form != Form::TransposedLeft {
            let kernel = match (p.form, a.narrow) {
                (Form::Plain, _) => "gemm_nn",
                (_, true) => "gemm_nt",
                (_, false) => "gemm_nt_floats",
            };
            let arguments = arguments![p.rows, p.columns, p.depth, p.depth, a, b, out];
            return self.launch_counted(kernel, [tiles[0], tiles[1], 1], &arguments, more);
        }
        // Long sums of few elements: slices of the depth fill the device, and are then added in order.
        let wanted = (4 * self.device.multiprocessors as usize).div_ceil(tiles[0] * tiles[1]);
        let slice = p.depth.div_ceil(wanted).max(TILE);
        let slices = p.depth.div_ceil(slice).max(1);
        let partial = self.scratch(slices * p.rows * p.columns);
        let arguments = arguments![p.rows, p.columns, p.depth, slice, a, b, partial];
        self.launch_counted("gemm_tn", [tiles[0], tiles[1], slices], &arguments, more);
        self.add_partials(p.rows * p.columns, slices, p.rows * p.columns, 0, &partial, out);
    }
}
