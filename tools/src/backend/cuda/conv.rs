//! Convolution as a product over patches, made for as many samples at a time as a fixed amount of memory holds; where
//! there are tensor cores for it, without: see `direct.rs`.

use std::rc::Rc;

use super::super::{Conv, Window};
use super::gemm::{Array, Form, Product};
use super::memory::{Buffer, Extent, Place};
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
pub(super) fn depth(g: &Conv) -> usize {
    g.taps() * g.inputs
}

/// Whether the input is its own patches.
pub(super) fn is_linear(g: &Conv) -> bool {
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
        let narrow = self.narrow_weight(weight);
        if let Some(weight) = narrow.as_ref().filter(|_| self.is_direct(g)) {
            return self.direct_forward(g, x, weight, bias, out);
        }
        let weight = Array { buffer: narrow.as_deref().unwrap_or(weight), start: 0 };
        for chunk in chunks(g, self.patch_elements) {
            let product = Product { form: Form::Plain, rows: chunk.rows, columns: g.outputs, depth: depth(g) };
            let patches = self.patches(g, &chunk, x);
            let out = Array { buffer: out, start: chunk.output };
            self.multiply_and_add(&product, operand(&patches, x, &chunk), weight, Some(bias), out);
        }
    }

    pub(super) fn conv_backward_input(&self, g: &Conv, weight: &Buffer, grad: &Buffer, out: &mut Buffer) {
        let narrow = self.narrow_weight(weight);
        if let Some(weight) = narrow.as_ref().filter(|_| self.is_direct(g)) {
            return self.direct_backward_input(g, weight, grad, out);
        }
        let weight = Array { buffer: narrow.as_deref().unwrap_or(weight), start: 0 };
        for chunk in chunks(g, self.patch_elements) {
            let product =
                Product { form: Form::TransposedRight, rows: chunk.rows, columns: depth(g), depth: g.outputs };
            let grad = Array { buffer: grad, start: chunk.output };
            if is_linear(g) {
                self.multiply(&product, grad, weight, Array { buffer: out, start: chunk.input });
                continue;
            }
            let patches = self.activations(chunk.rows * depth(g));
            self.multiply(&product, grad, weight, Array { buffer: &patches, start: 0 });
            let n = chunk.batch * g.height * g.width * g.inputs;
            self.each("patches_grad", n, &patch_arguments(g, patches.at(0), out.at(chunk.input)));
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
        if self.is_direct(g) {
            self.direct_backward_weight(g, x, grad, weight);
            return self.add_column_sums(grad, bias);
        }
        for chunk in chunks(g, self.patch_elements) {
            let product = Product { form: Form::TransposedLeft, rows: depth(g), columns: g.outputs, depth: chunk.rows };
            let patches = self.patches(g, &chunk, x);
            let grad = Array { buffer: grad, start: chunk.output };
            self.multiply(&product, operand(&patches, x, &chunk), grad, Array { buffer: weight, start: 0 });
        }
        self.add_column_sums(grad, bias);
    }

    /// The patches of a chunk; `None` where the input is that itself.
    fn patches(&self, g: &Conv, chunk: &Chunk, x: &Buffer) -> Option<Buffer> {
        if is_linear(g) {
            return None;
        }
        let n = chunk.rows * depth(g);
        let patches = self.activations(n);
        self.each("patches", n, &patch_arguments(g, x.at(chunk.input), patches.at(0)));
        Some(patches)
    }

    /// A weight as an operand of products with activations, where it is not that itself.
    fn narrow_weight(&self, weight: &Buffer) -> Option<Rc<Buffer>> {
        self.bf16.then(|| {
            weight.narrow_copy().unwrap_or_else(|| {
                let copy = Rc::new(self.lasting(Extent { len: weight.len(), narrow: true }));
                self.each("to_activations", weight.len(), &arguments![weight, &*copy]);
                if !self.broken.get() {
                    weight.keep_narrow_copy(copy.clone());
                }
                copy
            })
        })
    }
}

/// The patches that were made of a chunk, else its input.
fn operand<'a>(patches: &'a Option<Buffer>, x: &'a Buffer, chunk: &Chunk) -> Array<'a> {
    match patches {
        Some(buffer) => Array { buffer, start: 0 },
        None => Array { buffer: x, start: chunk.input },
    }
}

fn patch_arguments(g: &Conv, from: Place, to: Place) -> [Operand; 12] {
    let (h, w) = g.out_size();
    let Window { sides: [rows, columns], stride, before: [above, left], .. } = g.window;
    arguments![g.height, g.width, g.inputs, rows, columns, stride, above, left, h, w, from, to]
}
