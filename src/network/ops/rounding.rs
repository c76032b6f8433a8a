//! Activations rounded to integers.

use serde::{Deserialize, Serialize};

use super::grid::{Grid, Shape};
use super::lanes::{LANES, Lanes, load};
use super::number::Digits;
use crate::isa::{Isa, Simd, Task};

/// How values become integers: `QuantizeLinear` of ONNX, and the zero point taken away again.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(in crate::network) struct Rounding {
    /// What an integer of 1 stands for.
    scale: f32,
    /// The least and the greatest integer.
    least: i16,
    most: i16,
}

/// Greatest magnitude of an integer: four of them are added up in an `i16`.
const GREATEST: i16 = i16::MAX / 4;

impl Rounding {
    /// `None` where `scale` is no positive number, or the integers are too large.
    pub fn new(scale: f32, [least, most]: [i16; 2]) -> Option<Self> {
        let rounding = Self { scale, least, most };
        rounding.is_sound().then_some(rounding)
    }

    /// Whether values can be rounded so.
    pub fn is_sound(self) -> bool {
        let is_bounded = -GREATEST <= self.least && self.least <= self.most && self.most <= GREATEST;
        is_bounded && self.scale.is_normal() && self.scale > 0.0
    }

    /// Greatest magnitude of an integer.
    pub fn magnitude(self) -> usize {
        self.least.unsigned_abs().max(self.most.unsigned_abs()).into()
    }

    /// What an integer of 1 stands for.
    pub(super) fn scale(self) -> f32 {
        self.scale
    }

    #[inline(always)]
    fn rounded(self, values: Lanes) -> [i16; LANES] {
        let [least, most] = [self.least, self.most].map(f32::from);
        let mut integers = [0; LANES];
        for i in 0..LANES {
            integers[i] = nearest((values[i] / self.scale).max(least).min(most));
        }
        integers
    }

    /// Rounds all of `x` into `out`, whose pixels lie side by side; behind them it has zeros for one more.
    pub(super) fn round(self, isa: Isa, x: Grid, out: &mut [i16]) {
        isa.run(Round { rounding: self, x, out });
    }

    /// How many digits of `i8` an integer less [`Self::middle`] has: one where there are at most 256 integers from the least
    /// to the greatest, 0, which stands outside the picture, being one of them.
    fn digits(self) -> usize {
        match self.most.max(0) - self.least.min(0) {
            ..=255 => 1,
            _ => 2,
        }
    }

    /// What is taken from integers so that one digit, −128…127, suffices; their sums are given it back. 0 where there are two.
    pub(super) fn middle(self) -> i16 {
        match self.digits() {
            1 => self.least.min(0) + 128,
            _ => 0,
        }
    }

    /// That of the digits of an activation of `shape`: those of a pixel are `[digits, channels / LANES rounded up]`, the
    /// low ones first.
    pub(super) fn digits_shape(self, shape: Shape) -> Shape {
        Shape { channels: self.digits() * shape.channels.div_ceil(LANES), ..shape }
    }

    /// Rounds all of `x` into the digits `out`, of [`Self::digits_shape`], whose pixels lie side by side; behind them it has
    /// those of zeros for one more.
    pub(super) fn round_to_digits(self, isa: Isa, x: Grid, out: &mut [Digits]) {
        isa.run(RoundToDigits { rounding: self, x, out });
    }
}

struct Round<'a> {
    rounding: Rounding,
    x: Grid<'a>,
    out: &'a mut [i16],
}

impl Task for Round<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { rounding, x, out } = self;
        let Shape { channels, width, .. } = x.view.shape;
        let (pixels, zeros) = out.split_at_mut(x.view.shape.len());
        for (at, out) in pixels.chunks_exact_mut(channels).enumerate() {
            let values = x.pixel(at / width, at % width);
            for (values, out) in values.chunks(LANES).zip(out.chunks_mut(LANES)) {
                out.copy_from_slice(&rounding.rounded(load(values))[..out.len()]);
            }
        }
        zeros.fill(0);
    }
}

struct RoundToDigits<'a> {
    rounding: Rounding,
    x: Grid<'a>,
    out: &'a mut [Digits],
}

impl Task for RoundToDigits<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { rounding, x, out } = self;
        let Shape { channels, width, .. } = x.view.shape;
        let (shape, middle) = (rounding.digits_shape(x.view.shape), rounding.middle());
        let (pixels, zeros) = out.split_at_mut(shape.len());
        for (at, out) in pixels.chunks_exact_mut(shape.channels).enumerate() {
            let values = x.pixel(at / width, at % width);
            let (low, high) = out.split_at_mut(channels.div_ceil(LANES));
            for (i, values) in values.chunks(LANES).enumerate() {
                let mut integers = rounding.rounded(load(values));
                for integer in &mut integers {
                    *integer -= middle;
                }
                low[i] = lows(integers);
                if let Some(high) = high.get_mut(i) {
                    *high = highs(integers);
                }
            }
        }
        zeros.fill(lows([-middle; LANES]));
    }
}

/// The low digits of integers.
#[inline(always)]
fn lows(integers: [i16; LANES]) -> Digits {
    let mut digits = [0; LANES];
    for i in 0..LANES {
        digits[i] = integers[i] as i8;
    }
    digits
}

/// The high digits, each worth 256. Low ones have a sign, so that the high one is the next greater from 128 on.
#[inline(always)]
fn highs(integers: [i16; LANES]) -> Digits {
    let mut digits = [0; LANES];
    for i in 0..LANES {
        digits[i] = ((integers[i] + 128) >> 8) as i8;
    }
    digits
}

/// The nearest integer, of two the even one, of a value within −2²²…2²².
#[inline(always)]
fn nearest(value: f32) -> i16 {
    // Adding 1.5·2²³ rounds to the nearest integer, which is left in the low bits.
    (value + 12_582_912.0).to_bits() as i16
}
