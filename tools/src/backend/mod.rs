//! What a device must be able to compute for the tape.
//!
//! A [`Backend`] owns its buffers and gives one method per forward and backward rule. The CPU backend is
//! [`cpu::Cpu`], that of an NVIDIA GPU [`cuda::Cuda`]; [`parity`] compares any two.

pub mod choice;
pub mod codes;
pub mod cpu;
pub mod cuda;
mod geometry;
pub mod parity;
pub mod philox;
pub mod pictures;
pub mod windows;

pub use geometry::*;

use crate::group::Group;
use codes::CodeSet;
use pictures::PictureSet;
use windows::{Batch, LatentSet, Layout, WindowSettings};

/// A device that runs the tape. Buffers hold floats, or activations: what flows through the networks and its gradients,
/// which a device may keep in a narrower type. Lengths are the caller's to get right and are checked; every method says
/// which of its arguments are activations.
///
/// Methods named `_grad` *set* gradients of activations and *add to* gradients of parameters.
pub trait Backend {
    /// An array on the device.
    type Buffer: std::fmt::Debug;
    /// A set of latents on the device.
    type Latents: std::fmt::Debug;
    /// Pictures on the device.
    type Pictures: std::fmt::Debug;
    /// Latents of pictures on the device, as codes.
    type Codes: std::fmt::Debug;
    /// Work that is done again and again.
    type Recording: std::fmt::Debug + Default;

    /// The first fault of the device since the last call. After one, operations do nothing and downloads give NaN,
    /// until the caller stops.
    ///
    /// # Errors
    /// [`rissole::Error::Usage`] when the work does not fit the device; [`rissole::Error::Internal`] when it failed.
    fn check(&self) -> rissole::Result<()> {
        Ok(())
    }

    /// The same after a step on `samples` samples, of which nothing is in use any more: where memory was out, the fault
    /// says what the step takes and how many samples would fit.
    ///
    /// # Errors
    /// As [`Self::check`].
    fn check_batch(&self, _samples: usize) -> rissole::Result<()> {
        self.check()
    }

    /// Activations with unspecified contents.
    fn alloc(&self, len: usize) -> Self::Buffer;
    /// Floats with unspecified contents.
    fn alloc_floats(&self, len: usize) -> Self::Buffer;
    /// Zeros, floats.
    fn zeros(&self, len: usize) -> Self::Buffer;
    /// Host values as floats.
    fn upload(&self, values: &[f32]) -> Self::Buffer;
    /// Host values as activations.
    fn upload_activations(&self, values: &[f32]) -> Self::Buffer;
    /// Host values in place of as many floats.
    fn write(&self, values: &[f32], to: &mut Self::Buffer);
    /// A host copy.
    fn download(&self, buffer: &Self::Buffer) -> Vec<f32>;
    /// Gives a buffer back for reuse.
    fn release(&self, buffer: Self::Buffer);
    /// `to = from`.
    fn copy(&self, from: &Self::Buffer, to: &mut Self::Buffer);
    /// `to = 0`.
    fn clear(&self, to: &mut Self::Buffer);
    /// `to += from`.
    fn accumulate(&self, from: &Self::Buffer, to: &mut Self::Buffer);
    /// Activations of floats.
    fn convert(&self, from: &Self::Buffer, to: &mut Self::Buffer);
    /// `to = value`, activations.
    fn fill(&self, value: f32, to: &mut Self::Buffer);
    /// `out = factor · x + summand`.
    fn affine(&self, factor: f32, summand: f32, x: &Self::Buffer, out: &mut Self::Buffer);
    /// `to += scale[0] · x`; `scale` is a float.
    fn add_scaled(&self, scale: &Self::Buffer, x: &Self::Buffer, to: &mut Self::Buffer);
    /// `log[row[0] · columns + column …] = values`, all floats.
    fn note(&self, values: &Self::Buffer, column_of: [usize; 2], row: &Self::Buffer, log: &mut Self::Buffer);
    /// `out[0] = Σ x²`, a float.
    fn square_sum(&self, x: &Self::Buffer, out: &mut Self::Buffer);

    /// `out = x ∗ weight + bias`.
    fn conv(&self, g: &Conv, x: &Self::Buffer, weight: &Self::Buffer, bias: &Self::Buffer, out: &mut Self::Buffer);
    /// Gradient of the input.
    fn conv_grad_input(&self, g: &Conv, weight: &Self::Buffer, grad: &Self::Buffer, out: &mut Self::Buffer);
    /// Gradients of weight and bias.
    fn conv_grad_weight(
        &self,
        g: &Conv,
        x: &Self::Buffer,
        grad: &Self::Buffer,
        weight: &mut Self::Buffer,
        bias: &mut Self::Buffer,
    );

    /// Group normalisation, affine per channel, optional SiLU. `stats` gets mean and 1/σ per sample and group.
    fn group_norm(
        &self,
        g: &Norm,
        x: &Self::Buffer,
        scale: &Self::Buffer,
        shift: &Self::Buffer,
        out: &mut Self::Buffer,
        stats: &mut Self::Buffer,
    );
    /// Its gradients.
    #[allow(clippy::too_many_arguments)]
    fn group_norm_grad(
        &self,
        g: &Norm,
        x: &Self::Buffer,
        scale: &Self::Buffer,
        shift: &Self::Buffer,
        stats: &Self::Buffer,
        grad: &Self::Buffer,
        out: &mut Self::Buffer,
        grad_scale: &mut Self::Buffer,
        grad_shift: &mut Self::Buffer,
    );
    /// Layer normalisation of `batch` rows of `len` with affine per element. `stats` as in `group_norm`.
    #[allow(clippy::too_many_arguments)]
    fn layer_norm(
        &self,
        batch: usize,
        len: usize,
        x: &Self::Buffer,
        scale: &Self::Buffer,
        shift: &Self::Buffer,
        out: &mut Self::Buffer,
        stats: &mut Self::Buffer,
    );
    /// Its gradients.
    #[allow(clippy::too_many_arguments)]
    fn layer_norm_grad(
        &self,
        batch: usize,
        len: usize,
        x: &Self::Buffer,
        scale: &Self::Buffer,
        stats: &Self::Buffer,
        grad: &Self::Buffer,
        out: &mut Self::Buffer,
        grad_scale: &mut Self::Buffer,
        grad_shift: &mut Self::Buffer,
    );

    /// x · sigmoid(x).
    fn silu(&self, x: &Self::Buffer, out: &mut Self::Buffer);
    /// Its gradient.
    fn silu_grad(&self, x: &Self::Buffer, grad: &Self::Buffer, out: &mut Self::Buffer);
    /// x where positive, else `slope`·x.
    fn leaky_relu(&self, slope: f32, x: &Self::Buffer, out: &mut Self::Buffer);
    /// Its gradient.
    fn leaky_relu_grad(&self, slope: f32, x: &Self::Buffer, grad: &Self::Buffer, out: &mut Self::Buffer);

    /// Dropout (Srivastava et al. 2014): `out[i] = scale · x[i]` where the hash of the step's `seed` (two whole numbers below
    /// 2²⁴), the mask's number and `first + i` is at least the threshold, else 0. With the same mask it is its own gradient.
    fn dropout(&self, mask: &Mask, seed: &Self::Buffer, x: &Self::Buffer, out: &mut Self::Buffer);

    /// `out = a + b`.
    fn add(&self, a: &Self::Buffer, b: &Self::Buffer, out: &mut Self::Buffer);
    /// `out[n,p,c] = x[n,p,c] + v[n,c]`.
    fn add_vector(&self, batch: usize, channels: usize, x: &Self::Buffer, v: &Self::Buffer, out: &mut Self::Buffer);
    /// Gradient of `v`: the sum over pixels.
    fn sum_pixels(&self, batch: usize, channels: usize, grad: &Self::Buffer, out: &mut Self::Buffer);

    /// Channels of `a`, then of `b`, for each of `rows` pixels.
    fn concat(&self, rows: usize, a: &Self::Buffer, b: &Self::Buffer, out: &mut Self::Buffer);
    /// Its inverse.
    fn split(&self, rows: usize, x: &Self::Buffer, a: &mut Self::Buffer, b: &mut Self::Buffer);
    /// Nearest upsampling by 2.
    fn upsample(&self, g: &Plane, x: &Self::Buffer, out: &mut Self::Buffer);
    /// Its gradient: `out` has `g`'s size, `grad` twice that.
    fn upsample_grad(&self, g: &Plane, grad: &Self::Buffer, out: &mut Self::Buffer);
    /// Depth to space by 2; `g` is the input.
    fn depth_to_space(&self, g: &Plane, x: &Self::Buffer, out: &mut Self::Buffer);
    /// Its inverse.
    fn space_to_depth(&self, g: &Plane, grad: &Self::Buffer, out: &mut Self::Buffer);
    /// Drops `margin` pixels on each side; `g` is the input.
    fn crop(&self, g: &Plane, margin: usize, x: &Self::Buffer, out: &mut Self::Buffer);
    /// Its gradient: zeros around.
    fn crop_grad(&self, g: &Plane, margin: usize, grad: &Self::Buffer, out: &mut Self::Buffer);

    /// The largest value of each window, or its mean.
    fn pool(&self, g: &Pool, x: &Self::Buffer, out: &mut Self::Buffer);
    /// Its gradient; of equally large values, the first in its window has it.
    fn pool_grad(&self, g: &Pool, x: &Self::Buffer, grad: &Self::Buffer, out: &mut Self::Buffer);

    /// Self-attention; `weights` gets the softmax, `batch × heads × tokens × tokens`.
    fn attention(&self, g: &Attention, qkv: &Self::Buffer, out: &mut Self::Buffer, weights: &mut Self::Buffer);
    /// Its gradient.
    fn attention_grad(
        &self,
        g: &Attention,
        qkv: &Self::Buffer,
        weights: &Self::Buffer,
        grad: &Self::Buffer,
        out: &mut Self::Buffer,
    );
    /// Cosines then sines of `t · 10000^(−i/(dim/2))`.
    fn sinusoid(&self, dim: usize, t: &Self::Buffer, out: &mut Self::Buffer);

    /// For each row of `channels` values the nearest of `entries`, the first of equals.
    fn nearest(&self, channels: usize, rows: &Self::Buffer, entries: &[f32]) -> Vec<u32>;
    /// The same where `entries` are on the device: `codes` gets them as floats, `chosen` (activations) the entries named.
    fn assign(
        &self,
        channels: usize,
        rows: &Self::Buffer,
        entries: &Self::Buffer,
        codes: &mut Self::Buffer,
        chosen: &mut Self::Buffer,
    );
    /// What a step gives a codebook: its `rows` by the entries that their `codes` name, and for each entry one that follows
    /// from `key` (two whole numbers below 2²⁴) of the rows of several equal shares, zeros where that is in another than this
    /// one; `share` is its number, and how many there are.
    fn sum_book(
        &self,
        share: [usize; 2],
        rows: &Self::Buffer,
        codes: &Self::Buffer,
        key: &Self::Buffer,
        step: &mut BookStep<Self::Buffer>,
    );
    /// Moves the entries of `book` toward what `times` steps give it of which `step` is the mean, with moving averages of
    /// `decay`, and entries that are [`DEAD`] onto the rows of the step, `times` as large.
    fn move_book(&self, decay: f32, times: usize, step: &BookStep<Self::Buffer>, book: &mut Book<Self::Buffer>);

    /// `errors` = mean absolute and mean squared error of `fake` (activations) against `real` (floats); `grad` gets the
    /// gradient of all errors, weighted, at `fake`.
    fn picture_error(
        &self,
        g: &PictureError,
        fake: &Self::Buffer,
        real: &Self::Buffer,
        grad: &mut Self::Buffer,
        errors: &mut Self::Buffer,
    );
    /// Adds ½ mean max(0, 1 − sign · score) to `loss[0]`; `grad` gets its gradient at the scores.
    fn hinge(&self, sign: f32, scores: &Self::Buffer, grad: &mut Self::Buffer, loss: &mut Self::Buffer);
    /// `out[0]` = weight · min(√a / (√b + 1e-4), 1e4), of floats: how much a loss counts beside another, by the squares of
    /// the gradients that they give the last layer (Esser et al. 2021, eq. 7).
    fn adaptive_weight(&self, weight: f32, a: &Self::Buffer, b: &Self::Buffer, out: &mut Self::Buffer);
    /// Every `out` = weight / max(`square_sum[0]` / n, 1e-12), of floats.
    fn over_mean_square(&self, weight: f32, n: usize, square_sum: &Self::Buffer, out: &mut Self::Buffer);
    /// `loss[0]` = mean over samples of weight · mean (predicted − target)²; `grad` gets its gradient with respect to
    /// `predicted`. `weights` has one value a sample.
    fn squared_error(
        &self,
        predicted: &Self::Buffer,
        target: &Self::Buffer,
        weights: &Self::Buffer,
        grad: &mut Self::Buffer,
        loss: &mut Self::Buffer,
    );
    /// `to[n, …] += weights[n] · (a[n, …] − b[n, …])`.
    fn add_difference(&self, weights: &Self::Buffer, a: &Self::Buffer, b: &Self::Buffer, to: &mut Self::Buffer);
    /// One AdamW update of all tensors of a network at `pace` ([`Pace::words`]), then `average ← d·average + (1−d)·value`
    /// and `gradient ← 0`: the next step adds to it.
    fn update(&self, settings: &AdamW, pace: &Self::Buffer, tensors: &mut [Trained<'_, Self::Buffer>]);

    /// Brings pictures to the device.
    fn pictures(&self, set: PictureSet) -> Self::Pictures;
    /// Cuts out parts of `size` (rows, columns), as `cuts` ([`pictures::Cut::words`]) tells: `out` gets floats in −1…1.
    fn cut_out(&self, pictures: &Self::Pictures, size: [usize; 2], cuts: &Self::Buffer, out: &mut Self::Buffer);

    /// Brings the codes of whole latents to the device.
    fn codes(&self, set: CodeSet) -> Self::Codes;
    /// Cuts out parts of `size` (rows, columns of cells), as `cuts` ([`pictures::Cut::words`]) tells: `out` gets the entries
    /// that the codes name, floats.
    fn cut_latents(&self, codes: &Self::Codes, size: [usize; 2], cuts: &Self::Buffer, out: &mut Self::Buffer);

    /// Brings a set of latents to the device.
    fn latents(&self, set: LatentSet, settings: WindowSettings) -> Self::Latents;
    /// How the windows of a set lie.
    fn layout<'l>(&self, latents: &'l Self::Latents) -> &'l Layout;
    /// Cuts out the windows of `subjects` ([`windows::Subject::words`]) and makes a batch of them.
    fn draw(&self, latents: &Self::Latents, subjects: &Self::Buffer, batch: &mut Batch<Self::Buffer>);

    /// Whether this device can average arrays with those of other processes by itself.
    fn can_join(&self) -> bool {
        false
    }
    /// Joins the devices of the processes of `group`, all of which [can](Self::can_join) and do so at the same time.
    ///
    /// # Errors
    /// [`rissole::Error::Usage`] when they do not come together.
    fn join(&self, _group: &Group) -> rissole::Result<()> {
        Err(rissole::Error::Internal("this device joins no others".into()))
    }
    /// Parts them again, when nothing is recorded any more and all of them do.
    ///
    /// # Errors
    /// [`rissole::Error::Usage`] when that fails.
    fn part(&self) -> rissole::Result<()> {
        Ok(())
    }
    /// Replaces each array, of floats, by its mean over the devices that were joined.
    fn average(&self, _arrays: &mut [&mut Self::Buffer]) {
        unreachable!("only devices that were joined average");
    }

    /// Does `work`. A device may record what is submitted to it, and do the same again without asking when it is called
    /// with that recording again. So `work` must be the same operations on the same buffers every time, or on ones that it
    /// asks for and releases; what changes is written into buffers before; nothing may be uploaded or downloaded in it.
    fn repeat(&self, recording: &mut Self::Recording, work: impl FnMut());
}
