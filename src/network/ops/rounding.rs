//! Activations rounded to 8 bits.

use serde::{Deserialize, Serialize};

use super::grid::{Grid, Shape};
use super::lanes::{LANES, load};
use crate::isa::{Isa, Simd, Task};

/// How values become integers of 8 bits: `QuantizeLinear` of ONNX to `uint8`, and `zero` taken away again.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(in crate::network) struct Rounding {
    /// What an integer of 1 stands for.
    scale: f32,
    /// The integer of 0, of 0…255.
    zero: u8,
}

impl Rounding {
    /// `None` where `scale` is no positive number.
    pub fn new(scale: f32, zero: u8) -> Option<Self> {
        let rounding = Self { scale, zero };
        rounding.is_sound().then_some(rounding)
    }

    /// Whether values can be rounded so.
    pub fn is_sound(self) -> bool {
        self.scale.is_normal() && self.scale > 0.0
    }

    /// What an integer of 1 stands for.
    pub(super) fn scale(self) -> f32 {
        self.scale
    }

    /// Rounds all of `x`, −255…255, into `out`, whose pixels lie side by side; behind them it has zeros for one more.
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
        let Self { rounding: Rounding { scale, zero }, x, out } = self;
        let Shape { channels, width, .. } = x.view.shape;
        let (pixels, zeros) = out.split_at_mut(x.view.shape.len());
        let [least, most] = [-f32::from(zero), 255.0 - f32::from(zero)];
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
