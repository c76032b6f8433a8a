//! Convolution as a product over patches, made for as many samples at a time as a fixed amount of memory holds; where
//! there are tensor cores for it, without (`direct.rs`); by cuDNN where that is asked for (`cudnn.rs`).

use std::rc::Rc;

use super::super::{Conv, Window};
use super::cudnn::{Cudnn, Plan, Task};
use super::direct::cost;
use super::gemm::{Array, Form, Product};
use super::memory::{Buffer, Extent, Place};
use super::profile::Cost;
use super::{Cuda, Operand, arguments};

/// How convolutions are done on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Convolutions {
    /// In bf16, with channels in multiples of 8, on tensor cores without patches in memory; else as patches.
    #[default]
    Direct,
    /// As matrix products over patches in memory.
    Patches,
    /// By cuDNN where it can, else as direct. In bf16 it rounds the gradients of weights to that.
    Cudnn,
}

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

/// Whether cuDNN can be told of it: it sees as many zeros below a map as above, and to its right as to its left.
fn is_even(g: &Conv) -> bool {
    let even = Window { after: g.window.before, ..g.window };
    even.places(g.height, g.width) == g.window.places(g.height, g.width)
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
        let weight = narrow.as_deref().unwrap_or(weight);
        if let Some((cudnn, plan)) = self.cudnn_plan(g, Task::Output) {
            self.convolve(g, cudnn, &plan, [x, &self.filters(g, weight)], out);
            return self.each("add_bias", out.len(), &arguments![g.outputs, bias, out]);
        }
        if self.is_direct(g) {
            return self.direct_forward(g, x, weight, bias, out);
        }
        let weight = Array { buffer: weight, start: 0 };
        for chunk in chunks(g, self.patch_elements) {
            let product = Product { form: Form::Plain, rows: chunk.rows, columns: g.outputs, depth: depth(g) };
            let patches = self.patches(g, &chunk, x);
            let out = Array { buffer: out, start: chunk.output };
            self.multiply_and_add(&product, operand(&patches, x, &chunk), weight, Some(bias), out);
        }
    }

    pub(super) fn conv_backward_input(&self, g: &Conv, weight: &Buffer, grad: &Buffer, out: &mut Buffer) {
        let narrow = self.narrow_weight(weight);
        let weight = narrow.as_deref().unwrap_or(weight);
        if let Some((cudnn, plan)) = self.cudnn_plan(g, Task::InputGradient) {
            return self.convolve(g, cudnn, &plan, [&self.filters(g, weight), grad], out);
        }
        if self.is_direct(g) {
            return self.direct_backward_input(g, weight, grad, out);
        }
        let weight = Array { buffer: weight, start: 0 };
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
        self.add_column_sums(grad, bias);
        if let Some((cudnn, plan)) = self.cudnn_plan(g, Task::FilterGradient) {
            let filters = self.activations(weight.len());
            self.convolve(g, cudnn, &plan, [x, grad], &filters);
            return self.each("add_transposed", weight.len(), &arguments![g.outputs, depth(g), filters, weight]);
        }
        if self.is_direct(g) {
            return self.direct_backward_weight(g, x, grad, weight);
        }
        for chunk in chunks(g, self.patch_elements) {
            let product = Product { form: Form::TransposedLeft, rows: depth(g), columns: g.outputs, depth: chunk.rows };
            let patches = self.patches(g, &chunk, x);
            let grad = Array { buffer: grad, start: chunk.output };
            self.multiply(&product, operand(&patches, x, &chunk), grad, Array { buffer: weight, start: 0 });
        }
    }

    /// cuDNN's way of doing a task, where it is to do it and can. What is a product as it stands remains one.
    fn cudnn_plan(&self, g: &Conv, task: Task) -> Option<(&Cudnn, Rc<Plan>)> {
        let cudnn = self.cudnn.as_deref().filter(|_| g.batch > 0 && !is_linear(g) && is_even(g))?;
        // After a fault too: what a step takes is counted then, and this is for the host alone.
        match self.device.bind().and_then(|()| cudnn.plan(g, task, self.bf16)) {
            Ok(plan) => Some((cudnn, plan?)),
            Err(fault) => {
                self.run(|_| Err(fault));
                None
            }
        }
    }

    fn convolve(&self, g: &Conv, cudnn: &Cudnn, plan: &Plan, from: [&Buffer; 2], to: &Buffer) {
        // In few sizes, so that convolutions one after the other share it.
        let workspace = self.scratch(plan.workspace.div_ceil(size_of::<f32>()).next_power_of_two());
        let [a, b] = from;
        let cost = Cost { bytes: (a.bytes() + b.bytes() + to.bytes()) as u64, ..cost(g) };
        self.run(|device| {
            device.timed("convolution (cuDNN)", cost, || {
                cudnn.convolve(plan, [a.at(0), b.at(0)], to.at(0), workspace.at(0))
            })
        });
    }

    /// Weights as cuDNN takes them.
    fn filters(&self, g: &Conv, weight: &Buffer) -> Buffer {
        let filters = self.activations(weight.len());
        self.each("transpose", weight.len(), &arguments![depth(g), g.outputs, weight, filters]);
        filters
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
