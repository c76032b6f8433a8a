//! Activations rounded to integers.

use serde::{Deserialize, Serialize};

use super::grid::{Grid, Shape};
use super::lanes::{LANES, load};
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

    /// Rounds all of `x` into `out`, whose pixels lie side by side; behind them it has zeros for one more.
    pub(super) fn round(self, isa: Isa, x: Grid, out: &mut [i16]) {
        isa.run(Round { rounding: self, x, out });
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
        let Self { rounding: Rounding { scale, least, most }, x, out } = self;
        let Shape { channels, width, .. } = x.view.shape;
        let (pixels, zeros) = out.split_at_mut(x.view.shape.len());
        let [least, most] = [least, most].map(f32::from);
        for (at, out) in pixels.chunks_exact_mut(channels).enumerate() {
            let values = x.pixel(at / width, at % width);
            for (values, out) in values.chunks(LANES).zip(out.chunks_mut(LANES)) {
                let mut integers = [0; LANES];
                for (integer, value) in integers.iter_mut().zip(load(values)) {
                    *integer = nearest((value / scale).max(least).min(most));
                }
                out.copy_from_slice(&integers[..out.len()]);
            }
        }
        zeros.fill(0);
    }
}

/// The nearest integer, of two the even one, of a value within −2²²…2²².
#[inline(always)]
fn nearest(value: f32) -> i16 {
    // Adding 1.5·2²³ rounds to the nearest integer, which is left in the low bits.
    (value + 12_582_912.0).to_bits() as i16
}
