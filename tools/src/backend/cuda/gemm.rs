//! Row-major matrix products, by cuBLAS or by own kernels.

use super::memory::Buffer;
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
    /// Whether elements are bf16, two in the space of a float.
    pub bf16: bool,
}

impl Array<'_> {
    /// Address of the first of `len` elements, which must be there.
    fn address(&self, len: usize) -> u64 {
        let size = if self.bf16 { size_of::<u16>() } else { size_of::<f32>() };
        assert!((self.start + len) * size <= self.buffer.bytes(), "{len} elements from {} on", self.start);
        self.buffer.address() + (self.start * size) as u64
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

impl Cuda {
    /// Multiplies `a` and `b` into `out`. Operands in bf16 need cuBLAS.
    pub(super) fn multiply(&self, p: &Product, a: Array, b: Array, out: Array) {
        if p.rows * p.columns == 0 {
            return;
        }
        let at = (a.address(p.rows * p.depth), b.address(p.depth * p.columns), out.address(p.rows * p.columns));
        match self.device.blas().filter(|_| self.blas) {
            Some(blas) => self.run(|_| blas.multiply(p, (at.0, a.bf16), (at.1, b.bf16), (at.2, out.bf16))),
            None => self.multiply_here(p, at.0, at.1, at.2),
        }
    }

    fn multiply_here(&self, p: &Product, a: u64, b: u64, out: u64) {
        let tiles = [p.rows.div_ceil(TILE), p.columns.div_ceil(TILE)];
        if p.form != Form::TransposedLeft {
            let kernel = if p.form == Form::Plain { "gemm_nn" } else { "gemm_nt" };
            let arguments = arguments![p.rows, p.columns, p.depth, p.depth, a, b, out];
            return self.launch(kernel, [tiles[0], tiles[1], 1], &arguments);
        }
        // Long sums of few elements: slices of the depth fill the device, and are then added in order.
        let wanted = (4 * self.device.multiprocessors as usize).div_ceil(tiles[0] * tiles[1]);
        let slice = p.depth.div_ceil(wanted).max(TILE);
        let slices = p.depth.div_ceil(slice).max(1);
        let partial = self.scratch(slices * p.rows * p.columns);
        let arguments = arguments![p.rows, p.columns, p.depth, slice, a, b, partial];
        self.launch("gemm_tn", [tiles[0], tiles[1], slices], &arguments);
        self.add_partials(p.rows * p.columns, slices, p.rows * p.columns, 0, &partial, out);
    }
}
