//! Sums in two passes, in an order that the shapes fix.

use super::super::{PictureError, Plane};
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

    /// See [`Backend::square_sum`](super::super::Backend::square_sum).
    pub(super) fn sum_of_squares(&self, x: &Buffer, out: &mut Buffer) {
        let blocks = blocks(x.len()).max(1);
        let partial = self.scratch(2 * blocks);
        let kernel = if x.is_narrow() { "square_sums" } else { "square_sums_floats" };
        self.launch(kernel, [blocks, 1, 1], &arguments![x.len(), x, partial]);
        self.launch("sum_partials", [1, 1, 1], &arguments![blocks, partial, out]);
    }

    /// See [`Backend::picture_error`](super::super::Backend::picture_error).
    pub(super) fn errors_of_pictures(
        &self,
        g: &PictureError,
        fake: &Buffer,
        real: &Buffer,
        grad: &mut Buffer,
        errors: &mut Buffer,
    ) {
        let (n, blocks) = (fake.len(), blocks(fake.len()));
        let partial = self.scratch(4 * blocks);
        let Plane { height, width, channels, .. } = g.plane;
        let sizes = arguments![n, height, width, channels, g.squared, g.differences];
        let arguments = [&sizes[..], &arguments![fake, real, grad, partial]].concat();
        self.launch("picture_error", [blocks, 1, 1], &arguments);
        for (i, from) in [0, 2 * blocks].into_iter().enumerate() {
            self.launch("sum_partials", [1, 1, 1], &arguments![blocks, partial.at(from), errors.at(i)]);
        }
    }

    /// See [`Backend::hinge`](super::super::Backend::hinge).
    pub(super) fn hinge_loss(&self, sign: f32, scores: &Buffer, grad: &mut Buffer, loss: &mut Buffer) {
        let (blocks, part) = (blocks(scores.len()), self.scratch(1));
        let partial = self.scratch(2 * blocks);
        self.launch("hinge", [blocks, 1, 1], &arguments![scores.len(), sign, scores, grad, partial]);
        self.launch("sum_partials", [1, 1, 1], &arguments![blocks, partial, part]);
        self.each("accumulate_floats", 1, &arguments![part, loss]);
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
