//! Row-major matrix products, by cublasLt or by own kernels.

use super::memory::{Buffer, Place};
use super::profile::Cost;
use super::{Cuda, arguments};

/// Side of an own kernel's tile.
const TILE: usize = 64;

/// How the operands lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
        self.multiply_and_add(p, a, b, None, out);
    }

    /// The same, with `bias` added to every row; not for [`Form::TransposedLeft`].
    pub(super) fn multiply_and_add(&self, p: &Product, a: Array, b: Array, bias: Option<&Buffer>, out: Array) {
        if p.rows * p.columns == 0 {
            return;
        }
        let (a, b, out) = (a.place(p.rows * p.depth), b.place(p.depth * p.columns), out.place(p.rows * p.columns));
        // cublasLt adds a bias of the result's type only, and a bias is float.
        let within = bias.filter(|_| !out.narrow).map(|bias| bias.at(0));
        if within.is_some() && self.multiply_by_library(p, a, b, within, out) {
            return;
        }
        if !self.multiply_by_library(p, a, b, None, out) {
            self.multiply_here(p, a, b, out);
        }
        if let Some(bias) = bias {
            self.each("add_bias", p.rows * p.columns, &arguments![p.columns, bias, out]);
        }
    }

    /// Whether cublasLt did it, or would have but for a fault before.
    fn multiply_by_library(&self, p: &Product, a: Place, b: Place, bias: Option<Place>, out: Place) -> bool {
        let Some(blas) = self.device.blas().filter(|_| self.blas) else { return false };
        let mut done = self.broken.get();
        self.run(|device| {
            device.bind()?;
            let Some(plan) = blas.plan(p, a, b, bias, out)? else { return Ok(()) };
            done = true;
            device.timed("product (cublasLt)", p.cost(a, out), || blas.multiply(&plan, a, b, bias, out))
        });
        done
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
