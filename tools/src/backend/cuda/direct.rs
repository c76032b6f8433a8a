//! Convolution on tensor cores without patches in memory, in bf16.

use super::super::{Conv, Window};
use super::conv::{Convolutions, depth, is_linear};
use super::memory::Buffer;
use super::profile::Cost;
use super::{Cuda, arguments};

/// Rows and columns of a tile of a map.
const TILE: [usize; 2] = [128, 64];
/// Rows and columns of a tile of weights.
const WEIGHT_TILE: usize = 64;
/// Channels that a thread moves at a time.
const CHANNELS: usize = 8;
/// Fewest pixels of a slice of the sums of weights.
const SLICE: usize = 256;

impl Cuda {
    /// Whether a convolution is done without patches.
    pub(super) fn is_direct(&self, g: &Conv) -> bool {
        let by_eight = g.inputs.is_multiple_of(CHANNELS) && g.outputs.is_multiple_of(CHANNELS);
        self.bf16 && self.convolutions != Convolutions::Patches && by_eight && !is_linear(g)
    }

    pub(super) fn direct_forward(&self, g: &Conv, x: &Buffer, weight: &Buffer, bias: &Buffer, out: &Buffer) {
        let ((h, w), (m, n)) = (g.out_size(), (pixels(g), g.outputs));
        let Window { sides: [rows, columns], stride, before: [above, left], .. } = g.window;
        let sizes = arguments![m, n, h, w, g.height, g.width, g.inputs, rows, columns, stride, above, left];
        let arguments = [&sizes[..], &arguments![x, weight, bias, out]].concat();
        self.launch_counted("direct_conv", [m.div_ceil(TILE[0]), n.div_ceil(TILE[1]), 1], &arguments, cost(g));
    }

    pub(super) fn direct_backward_input(&self, g: &Conv, weight: &Buffer, grad: &Buffer, out: &Buffer) {
        let ((h, w), m, n) = (g.out_size(), g.batch * g.height * g.width, g.inputs);
        let Window { sides: [rows, columns], stride, before: [above, left], .. } = g.window;
        let sizes = arguments![m, n, g.height, g.width, h, w, g.outputs, rows, columns, stride, above, left];
        let arguments = [&sizes[..], &arguments![grad, weight, out]].concat();
        let grid = [m.div_ceil(TILE[0]), n.div_ceil(TILE[1]), 1];
        self.launch_counted("direct_conv_grad_input", grid, &arguments, cost(g));
    }

    /// Adds to `weight`.
    pub(super) fn direct_backward_weight(&self, g: &Conv, x: &Buffer, grad: &Buffer, weight: &Buffer) {
        let ((h, w), pixels) = (g.out_size(), pixels(g));
        let tiles = [depth(g).div_ceil(WEIGHT_TILE), g.outputs.div_ceil(WEIGHT_TILE)];
        // Long sums of few elements: slices of the pixels fill the device, and are then added in order.
        let wanted = (2 * self.device.multiprocessors as usize).div_ceil(tiles[0] * tiles[1]);
        let slice = pixels.div_ceil(wanted).max(SLICE);
        let slices = pixels.div_ceil(slice).max(1);
        let partial = self.scratch(slices * weight.len());
        let Window { sides: [rows, columns], stride, before: [above, left], .. } = g.window;
        let sizes = arguments![pixels, g.outputs, slice, h, w, g.height, g.width, g.inputs, rows, columns, stride];
        let arguments = [&sizes[..], &arguments![above, left, x, grad, partial]].concat();
        self.launch_counted("direct_conv_grad_weight", [tiles[0], tiles[1], slices], &arguments, cost(g));
        self.add_partials(weight.len(), slices, weight.len(), 0, &partial, weight.at(0));
    }
}

/// Pixels of the output.
fn pixels(g: &Conv) -> usize {
    let (h, w) = g.out_size();
    g.batch * h * w
}

/// Operations.
pub(super) fn cost(g: &Conv) -> Cost {
    Cost { bytes: 0, operations: 2 * (pixels(g) * depth(g) * g.outputs) as u64 }
}
