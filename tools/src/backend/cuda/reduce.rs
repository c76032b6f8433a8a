//! Sums in two passes, in an order that the shapes fix.

use super::memory::{Buffer, Place};
use super::{BLOCK, Cuda, arguments};

/// Columns of one block.
const COLUMNS: usize = 32;
/// Fewest rows of a slice.
const SLICE_ROWS: usize = 64;
/// Most slices.
const SLICES: usize = 128;
/// Most blocks that sum one array in double.
const DOUBLE_BLOCKS: usize = 256;

/// Blocks that sum an array of `n`.
fn blocks(n: usize) -> usize {
    n.div_ceil(BLOCK as usize).min(DOUBLE_BLOCKS)
}

impl Cuda {
    /// Partial sums of the columns of `x`, rows × columns, to be finished by [`Self::add_partials`]; with the number
    /// of slices.
    pub(super) fn column_sums(&self, rows: usize, columns: usize, x: &Buffer) -> (Buffer, usize) {
        assert_eq!(x.len(), rows * columns, "rows and columns of a sum");
        let slice_rows = rows.div_ceil(SLICES).max(SLICE_ROWS);
        let slices = rows.div_ceil(slice_rows).max(1);
        let partial = self.scratch(slices * columns);
        let arguments = arguments![rows, columns, slice_rows, x, partial];
        let kernel = if x.is_narrow() { "column_sums" } else { "column_sums_floats" };
        self.launch(kernel, [columns.div_ceil(COLUMNS), slices, 1], &arguments);
        (partial, slices)
    }

    /// `out[i] += Σ partial[slice · stride + offset + i]` for the `n` elements from `out` on.
    pub(super) fn add_partials(
        &self,
        n: usize,
        slices: usize,
        stride: usize,
        offset: usize,
        partial: &Buffer,
        out: Place,
    ) {
        self.each("add_partials", n, &arguments![slices, stride, offset, partial, out]);
    }

    /// `out += ` the sums of the columns of `x`, which has `out.len()` of them.
    pub(super) fn add_column_sums(&self, x: &Buffer, out: &mut Buffer) {
        let columns = out.len();
        let (partial, slices) = self.column_sums(x.len() / columns, columns, x);
        self.add_partials(columns, slices, columns, 0, &partial, out.at(0));
    }

    /// Σ x², waited for.
    pub(super) fn sum_of_squares(&self, x: &Buffer) -> f64 {
        if x.is_empty() {
            return 0.0;
        }
        let blocks = blocks(x.len());
        let partial = self.scratch(2 * blocks);
        let kernel = if x.is_narrow() { "square_sums" } else { "square_sums_floats" };
        self.launch(kernel, [blocks, 1, 1], &arguments![x.len(), x, partial]);
        let mut sums = vec![f64::NAN; blocks];
        self.run(|device| device.download(partial.address(), &mut sums));
        sums.iter().sum()
    }

    /// See [`Backend::squared_error`](super::super::Backend::squared_error).
    pub(super) fn mean_squared_error(
        &self,
        predicted: &Buffer,
        target: &Buffer,
        weights: &Buffer,
        grad: &mut Buffer,
        loss: &mut Buffer,
    ) {
        let (n, blocks) = (predicted.len(), blocks(predicted.len()));
        let wide = self.widened(target);
        let target = wide.as_ref().unwrap_or(target);
        let partial = self.scratch(2 * blocks);
        let arguments = arguments![n, n / weights.len(), predicted, target, weights, grad, partial];
        self.launch("squared_error", [blocks, 1, 1], &arguments);
        self.launch("sum_partials", [1, 1, 1], &arguments![blocks, partial, loss]);
    }
}
