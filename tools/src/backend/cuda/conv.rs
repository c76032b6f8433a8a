//! Convolution as a product over patches, made for as many samples at a time as a fixed amount of memory holds.

use super::super::{Conv, Window};
use super::gemm::{Array, Form, Product};
use super::memory::Buffer;
use super::{Cuda, Operand, arguments};

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
    g.window == Window::centred(1, 1)
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
        let narrow = self.narrowed(weight, 0, weight.len());
        for chunk in chunks(g, self.patch_elements) {
            let product = Product { form: Form::Plain, rows: chunk.rows, columns: g.outputs, depth: depth(g) };
            let patches = self.patches(g, &chunk, x);
            let left = self.array(patches.as_ref(), x, chunk.input);
            let right = self.array(narrow.as_ref(), weight, 0);
            self.multiply(&product, left, right, Array { buffer: out, start: chunk.output, bf16: false });
        }
        self.each("add_bias", out.len(), &arguments![g.outputs, bias, out]);
    }

    pub(super) fn conv_backward_input(&self, g: &Conv, weight: &Buffer, grad: &Buffer, out: &mut Buffer) {
        let narrow_weight = self.narrowed(weight, 0, weight.len());
        for chunk in chunks(g, self.patch_elements) {
            let product =
                Product { form: Form::TransposedRight, rows: chunk.rows, columns: depth(g), depth: g.outputs };
            let narrow_grad = self.narrowed(grad, chunk.output, chunk.rows * g.outputs);
            let left = self.array(narrow_grad.as_ref(), grad, chunk.output);
            let right = self.array(narrow_weight.as_ref(), weight, 0);
            if is_linear(g) {
                self.multiply(&product, left, right, Array { buffer: out, start: chunk.input, bf16: false });
                continue;
            }
            let patches = self.operand_scratch(chunk.rows * depth(g));
            self.multiply(&product, left, right, Array { buffer: &patches, start: 0, bf16: self.bf16 });
            let kernel = if self.bf16 { "patches_grad_bf16" } else { "patches_grad" };
            let n = chunk.batch * g.height * g.width * g.inputs;
            self.each(kernel, n, &patch_arguments(g, patches.address(), out.at(chunk.input)));
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
            let narrow_grad = self.narrowed(grad, chunk.output, chunk.rows * g.outputs);
            let left = self.array(patches.as_ref(), x, chunk.input);
            let right = self.array(narrow_grad.as_ref(), grad, chunk.output);
            self.multiply(&product, left, right, Array { buffer: weight, start: 0, bf16: false });
        }
        self.add_column_sums(grad, bias);
    }

    /// The patches of a chunk, as an operand; `None` where the input is that itself.
    fn patches(&self, g: &Conv, chunk: &Chunk, x: &Buffer) -> Option<Buffer> {
        let n = chunk.rows * depth(g);
        if is_linear(g) {
            return self.narrowed(x, chunk.input, n);
        }
        let patches = self.operand_scratch(n);
        let kernel = if self.bf16 { "patches_bf16" } else { "patches" };
        self.each(kernel, n, &patch_arguments(g, x.at(chunk.input), patches.address()));
        Some(patches)
    }

    /// `n` elements of `x` in bf16, where products take that.
    fn narrowed(&self, x: &Buffer, start: usize, n: usize) -> Option<Buffer> {
        self.bf16.then(|| {
            let narrow = self.operand_scratch(n);
            self.each("to_bf16", n, &arguments![x.at(start), narrow]);
            narrow
        })
    }

    /// Memory for `n` elements of an operand.
    fn operand_scratch(&self, n: usize) -> Buffer {
        self.scratch(if self.bf16 { n.div_ceil(2) } else { n })
    }

    /// The operand made for a product, else the array from `start` on.
    fn array<'a>(&self, made: Option<&'a Buffer>, x: &'a Buffer, start: usize) -> Array<'a> {
        match made {
            Some(buffer) => Array { buffer, start: 0, bf16: self.bf16 },
            None => Array { buffer: x, start, bf16: false },
        }
    }
}

fn patch_arguments(g: &Conv, from: u64, to: u64) -> [Operand; 12] {
    let (h, w) = g.out_size();
    let Window { sides: [rows, columns], stride, before: [above, left], .. } = g.window;
    arguments![g.height, g.width, g.inputs, rows, columns, stride, above, left, h, w, from, to]
}
