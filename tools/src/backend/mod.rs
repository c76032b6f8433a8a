//! What a device must be able to compute for the tape.
//!
//! A [`Backend`] owns its buffers and gives one method per forward and backward rule. The CPU backend is
//! [`cpu::Cpu`], that of an NVIDIA GPU [`cuda::Cuda`]; [`parity`] compares any two.

pub mod choice;
pub mod cpu;
pub mod cuda;
pub mod parity;
pub mod philox;
pub mod windows;

use windows::{Batch, LatentSet, Layout, WindowSettings};

/// How a window moves over the pixels of a map: the kernel of a convolution, or a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Its rows and columns.
    pub sides: [usize; 2],
    /// Step, down and across.
    pub stride: usize,
    /// Rows above the map and columns to the left of it that it sees: zeros to a convolution, nothing to a pool.
    pub before: [usize; 2],
    /// The same below the map and to the right of it.
    pub after: [usize; 2],
}

impl Window {
    /// A square one of odd `side`, centred on the pixels 0, `stride`, 2 · `stride`…
    pub fn centred(side: usize, stride: usize) -> Self {
        let around = [side / 2; 2];
        Self { sides: [side; 2], stride, before: around, after: around }
    }

    /// Pixels in it.
    pub fn taps(&self) -> usize {
        self.sides[0] * self.sides[1]
    }

    /// Rows and columns of its places on a map of `height × width`; `None` where it is larger than the map.
    pub fn places(&self, height: usize, width: usize) -> Option<[usize; 2]> {
        let along = |i: usize, size: usize| {
            let room = (self.before[i] + size + self.after[i]).checked_sub(self.sides[i])?;
            Some(room / self.stride + 1)
        };
        Some([along(0, height)?, along(1, width)?])
    }

    /// The pixel of a map of `height × width` that stands under `tap` (row by row) at `place` (row and column); `None`
    /// outside the map.
    pub fn pixel(&self, place: [usize; 2], tap: usize, height: usize, width: usize) -> Option<usize> {
        let tap = [tap / self.sides[1], tap % self.sides[1]];
        let along = |i: usize, size: usize| {
            (place[i] * self.stride + tap[i]).checked_sub(self.before[i]).filter(|&at| at < size)
        };
        Some(along(0, height)? * width + along(1, width)?)
    }
}

/// Geometry of a convolution over NHWC arrays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv {
    /// Samples.
    pub batch: usize,
    /// Input height.
    pub height: usize,
    /// Input width.
    pub width: usize,
    /// Input channels.
    pub inputs: usize,
    /// Output channels.
    pub outputs: usize,
    /// The kernel.
    pub window: Window,
}

impl Conv {
    /// Height and width of the output.
    ///
    /// # Panics
    /// Where the kernel is larger than the map.
    pub fn out_size(&self) -> (usize, usize) {
        let [height, width] = self.window.places(self.height, self.width).expect("the kernel fits the map");
        (height, width)
    }

    /// Kernel taps.
    pub fn taps(&self) -> usize {
        self.window.taps()
    }
}

/// Geometry of a pool over NHWC arrays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// The input.
    pub plane: Plane,
    /// What is pooled.
    pub window: Window,
    /// Whether to its mean (over what of it lies in the map) or to its largest value.
    pub mean: bool,
}

impl Pool {
    /// Height and width of the output.
    ///
    /// # Panics
    /// Where the window is larger than the map.
    pub fn out_size(&self) -> (usize, usize) {
        let [height, width] = self.window.places(self.plane.height, self.plane.width).expect("the window fits the map");
        (height, width)
    }
}

/// Geometry of a normalisation: each of `batch` samples is `pixels × channels` in `groups` groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Norm {
    /// Samples.
    pub batch: usize,
    /// Pixels of a sample.
    pub pixels: usize,
    /// Channels.
    pub channels: usize,
    /// Groups of channels, each normalised over all pixels.
    pub groups: usize,
    /// Whether SiLU follows the affine.
    pub silu: bool,
}

/// Geometry of a self-attention over `tokens` of `channels` in `heads` heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attention {
    /// Samples.
    pub batch: usize,
    /// Tokens of a sample.
    pub tokens: usize,
    /// Channels of the output; the input has three times as many.
    pub channels: usize,
    /// Heads.
    pub heads: usize,
}

/// A whole-array rearrangement of NHWC pixels, given as sizes of its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plane {
    /// Samples.
    pub batch: usize,
    /// Height.
    pub height: usize,
    /// Width.
    pub width: usize,
    /// Channels.
    pub channels: usize,
}

/// Which elements dropout keeps, beside the seed of the step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mask {
    /// Share that is dropped, below 1.
    pub rate: f32,
    /// Number of the mask among those of a step.
    pub number: u32,
    /// Index of the first element, where an array is a part of a larger one.
    pub first: u32,
}

impl Mask {
    /// Hashes from here on are kept.
    pub fn threshold(&self) -> u32 {
        (f64::from(self.rate) * 2f64.powi(32)) as u32
    }

    /// What kept elements are multiplied by, which keeps the mean.
    pub fn scale(&self) -> f32 {
        1.0 / (1.0 - self.rate)
    }
}

/// Settings of AdamW (Loshchilov & Hutter 2019) with gradient clipping that are the same at every step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Decoupled weight decay, where a tensor takes it.
    pub weight_decay: f32,
    /// Largest norm of all gradients together; larger ones are scaled down to it.
    pub max_norm: f32,
}

/// What of an update changes from step to step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Learning rate.
    pub rate: f32,
    /// 1-based step, for bias correction.
    pub step: u64,
    /// Decay of the moving average of the weights.
    pub average_decay: f32,
}

impl Pace {
    /// Floats that a device is told of it.
    pub const WORDS: usize = 4;

    /// What a device is told: rate, factors of bias correction of the two moments, decay of the average.
    pub fn words(&self, settings: &AdamW) -> [f32; Self::WORDS] {
        let correct = |beta: f32| 1.0 / (1.0 - beta.powf(self.step as f32));
        [self.rate, correct(settings.beta1), correct(settings.beta2), self.average_decay]
    }
}

/// A tensor that an update changes, with its gradient.
#[derive(Debug)]
pub struct Trained<'a, T> {
    /// Gradient.
    pub grad: &'a T,
    /// Value.
    pub value: &'a mut T,
    /// First moment.
    pub first_moment: &'a mut T,
    /// Second moment.
    pub second_moment: &'a mut T,
    /// Moving average of the value.
    pub average: &'a mut T,
    /// Whether weight decay falls on it.
    pub decays: bool,
}

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
    /// Sum of squares.
    fn square_sum(&self, x: &Self::Buffer) -> f64;

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
    /// One AdamW update of all tensors of a network at `pace` ([`Pace::words`]), then `average ← d·average + (1−d)·value`.
    fn update(&self, settings: &AdamW, pace: &Self::Buffer, tensors: &mut [Trained<'_, Self::Buffer>]);

    /// Brings a set of latents to the device.
    fn latents(&self, set: &LatentSet, settings: WindowSettings) -> Self::Latents;
    /// How the windows of a set lie.
    fn layout<'l>(&self, latents: &'l Self::Latents) -> &'l Layout;
    /// Cuts out the windows of `subjects` ([`windows::Subject::words`]) and makes a batch of them.
    fn draw(&self, latents: &Self::Latents, subjects: &Self::Buffer, batch: &mut Batch<Self::Buffer>);

    /// Does `work`. A device may record what is submitted to it, and do the same again without asking when it is called
    /// with that recording again. So `work` must be the same operations on the same buffers every time, or on ones that it
    /// asks for and releases; what changes is written into buffers before; nothing may be uploaded or downloaded in it.
    fn repeat(&self, recording: &mut Self::Recording, work: impl FnMut());
}
