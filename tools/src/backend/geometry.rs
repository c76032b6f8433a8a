//! What the operations of a backend are told beside their arrays: shapes and settings.

/// How a window moves over the pixels of a map: the kernel of a convolution, or a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    pub grad: &'a mut T,
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

/// Geometry and weights of the errors of pictures, NHWC. The mean absolute error counts 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PictureError {
    /// The pictures.
    pub plane: Plane,
    /// Weight of the mean squared error.
    pub squared: f32,
    /// Weight of the mean absolute error of the differences between neighbouring pixels, across and down.
    pub differences: f32,
}

/// A codebook that moves with the vectors that use it (van den Oord et al. 2017, appendix A.1).
#[derive(Debug, Clone, PartialEq)]
pub struct Book<T> {
    /// Entries K.
    pub size: usize,
    /// Values of a vector.
    pub channels: usize,
    /// Entries, `K × channels`.
    pub entries: T,
    /// Moving average of how often each entry is used in a step, `K`.
    pub uses: T,
    /// Moving average of the sum of vectors that use it, `K × channels`.
    pub sums: T,
}

/// What a step gives a codebook.
#[derive(Debug, Clone, PartialEq)]
pub struct BookStep<T> {
    /// How many vectors use each entry, `K`.
    pub counts: T,
    /// The sums of those, `K × channels`.
    pub sums: T,
    /// Vectors that entries may begin anew at, `K × channels`.
    pub rows: T,
}

/// An entry used less often than this (moving average, vectors a step) is moved onto a vector of the batch.
pub const DEAD: f32 = 0.05;
