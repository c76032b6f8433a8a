//! Convolution as a product over patches, made for as many samples at a time as a fixed amount of memory holds.

use super::super::Conv;
use super::gemm::{Form, Product};
use super::memory::Buffer;
use super::{Cuda, arguments};

/// Some of the samples, and where their rows start.
struct Chunk {
    batch: usize,
    /// First element of the input.
    input: usize,
    /// First element of the output.
    output: usize,
    /// Output pixels, the rows of patches.
    rows: usize,
}

/// Values of a patch.
fn depth(g: &Conv) -> usize {
    g.taps() * g.inputs
}

/// Whether the input is its own patches.
fn is_linear(g: &Conv) -> bool {
    g.kernel == 1 && g.stride == 1
}

/// The samples in chunks of at most `elements` of patches, but at least one sample.
fn chunks(g: &Conv, elements: usize) -> impl Iterator<Item = Chunk> + use<> {
    let (h, w) = g.out_size();
    let (g, pixels) = (*g, h * w);
    let fitting = if is_linear(&g) { g.batch } else { elements / (pixels * depth(&g)) };
    let most = fitting.clamp(1, g.batch.max(1));
    (0..g.batch).step_by(most).map(move |first| {
        let batch = most.min(g.batch - first);
        Chunk {
            batch,
            input: first * g.height * g.width * g.inputs,
            output: first * pixels * g.outputs,
            rows: batch * pixels,
        }
    })
}

impl Cuda {
    pub(super) fn conv_forward(&self, g: &Conv, x: &Buffer, weight: &Buffer, bias: &Buffer, out: &mut Buffer) {
        for chunk in chunks(g, self.patch_elements) {
            let product = Product { form: Form::Plain, rows: chunk.rows, columns: g.outputs, depth: depth(g) };
            let patches = self.patches(g, &chunk, x);
            let left = patches.as_ref().map_or((x, chunk.input), |p| (p, 0));
            self.multiply(&product, left, (weight, 0), (out, chunk.output));
        }
        self.each("add_bias", out.len(), &arguments![g.outputs, bias, out]);
    }

    pub(super) fn conv_backward_input(&self, g: &Conv, weight: &Buffer, grad: &Buffer, out: &mut Buffer) {
        for chunk in chunks(g, self.patch_elements) {
            let product =
                Product { form: Form::TransposedRight, rows: chunk.rows, columns: depth(g), depth: g.outputs };
            if is_linear(g) {
                self.multiply(&product, (grad, chunk.output), (weight, 0), (out, chunk.input));
                continue;
            }
            let mut patches = self.scratch(chunk.rows * depth(g));
            self.multiply(&product, (grad, chunk.output), (weight, 0), (&mut patches, 0));
            let n = chunk.batch * g.height * g.width * g.inputs;
            let to = out.at(chunk.input);
            self.each("patches_grad", n, &self.patch_arguments(g, patches.address(), to));
        }
    }

    pub(super) fn conv_backward_weight(
        &self,
        g: &Conv,
        x: &Buffer,
        grad: &Buffer,
        weight: &mut Buffer,
        bias: &mut Buffer,
    ) {
        for chunk in chunks(g, self.patch_elements) {
            let product = Product { form: Form::TransposedLeft, rows: depth(g), columns: g.outputs, depth: chunk.rows };
            let patches = self.patches(g, &chunk, x);
            let left = patches.as_ref().map_or((x, chunk.input), |p| (p, 0));
            self.multiply(&product, left, (grad, chunk.output), (weight, 0));
        }
        self.add_column_sums(grad, bias);
    }

    /// The patches of a chunk; `None` where the input is its own.
    fn patches(&self, g: &Conv, chunk: &Chunk, x: &Buffer) -> Option<Buffer> {
        if is_linear(g) {
            return None;
        }
        let patches = self.scratch(chunk.rows * depth(g));
        self.each("patches", patches.len(), &self.patch_arguments(g, x.at(chunk.input), patches.address()));
        Some(patches)
    }

    fn patch_arguments(&self, g: &Conv, from: u64, to: u64) -> [super::Operand; 9] {
        let (h, w) = g.out_size();
        arguments![g.height, g.width, g.inputs, g.kernel, g.stride, h, w, from, to]
    }
}
