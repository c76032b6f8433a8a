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
    /// Multiplies the arrays that start at the given elements of `a`, `b` and `out`.
    pub(super) fn multiply(&self, p: &Product, a: (&Buffer, usize), b: (&Buffer, usize), out: (&mut Buffer, usize)) {
        if p.rows * p.columns == 0 {
            return;
        }
        let fits = |(buffer, start): (&Buffer, usize), len: usize| start + len <= buffer.len();
        assert!(fits(a, p.rows * p.depth) && fits(b, p.depth * p.columns), "operands of {p:?}");
        assert!(fits((&*out.0, out.1), p.rows * p.columns), "result of {p:?}");
        if let Some(blas) = self.device.blas().filter(|_| self.blas) {
            let (a, b, out) = (a.0.at(a.1), b.0.at(b.1), out.0.at(out.1));
            self.run(|_| blas.multiply(p, a, b, out));
        } else {
            self.multiply_here(p, a.0.at(a.1), b.0.at(b.1), out);
        }
    }

    fn multiply_here(&self, p: &Product, a: u64, b: u64, (out, start): (&mut Buffer, usize)) {
        let tiles = [p.rows.div_ceil(TILE), p.columns.div_ceil(TILE)];
        if p.form != Form::TransposedLeft {
            let kernel = if p.form == Form::Plain { "gemm_nn" } else { "gemm_nt" };
            let out = out.at(start);
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
        self.add_partials(p.rows * p.columns, slices, p.rows * p.columns, 0, &partial, out.at(start));
    }
}
