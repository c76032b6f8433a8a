//! Convolution, and a linear layer as its 1×1 case: implicit matrix products, nothing is unfolded or padded.

mod direct;
mod winograd;

use serde::{Deserialize, Serialize};

use super::grid::{Grid, GridMut, Shape};
use super::lanes::{LANES, Lanes, add, fma, load, silus, store};
use super::weights::Weights;
use crate::isa::Isa;

/// How a convolution moves over its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::network) struct Geometry {
    /// Rows and columns of input that an output pixel looks at.
    pub size: usize,
    pub stride: usize,
    /// Zeros that stand around the input, on every side.
    pub pad: usize,
    /// Whether the input is first made twice as high and wide, each pixel four times. Needs size 3, stride 1, pad 1.
    pub upsample: bool,
}

impl Geometry {
    /// That of a linear layer.
    pub const LINEAR: Self = Self { size: 1, stride: 1, pad: 0, upsample: false };
    /// That which leaves height and width as they are and looks at the eight pixels around.
    const SAME: Self = Self { size: 3, stride: 1, pad: 1, upsample: false };

    /// The output's shape for an input of `shape`, or `None` where there is none.
    pub fn output(self, shape: Shape, outputs: usize) -> Option<Shape> {
        let Self { size, stride, pad, upsample } = self;
        let side = |side: usize| {
            let side = if upsample { side.checked_mul(2)? } else { side };
            side.checked_add(pad.checked_mul(2)?)?.checked_sub(size)?.checked_div(stride)?.checked_add(1)
        };
        let fits = !upsample || (size, stride, pad) == (3, 1, 1);
        fits.then_some(Shape { channels: outputs, height: side(shape.height)?, width: side(shape.width)? })
    }
}

/// Convolution: `act(weights ∗ x + bias + vector + residual)`.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::network) struct Conv {
    pub weights: Weights,
    /// Of the weights' size.
    pub geometry: Geometry,
    /// Whether SiLU is applied.
    pub silu: bool,
}

/// Where a convolution begins that computes a window of its output alone; the default is its whole output. Each is for
/// rows, then columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::network) struct Corner {
    /// Pixels of the input before the one that the first output pixel stands on.
    pub before: [usize; 2],
    /// 1 where the first output pixel is an odd one of the whole output, else 0.
    pub odd: [usize; 2],
}

/// What a convolution reads.
#[derive(Debug, Clone, Copy)]
pub(in crate::network) struct ConvInputs<'a> {
    /// The buffer ends in as many zeros as the activation has channels.
    pub x: Grid<'a>,
    /// One value for each output channel, added to every pixel.
    pub vector: Option<&'a [f32]>,
    /// Of the output's shape, added.
    pub residual: Option<Grid<'a>>,
    pub corner: Corner,
}

impl Conv {
    /// Values of scratch that [`Self::run`] takes for an output of `shape` from `corner` on, or `None` where that
    /// overflows.
    pub fn scratch(&self, shape: Shape, corner: Corner) -> Option<usize> {
        match self.is_turned() {
            true => winograd::scratch(&self.weights, shape, corner),
            false => Some(self.weights.scratch()),
        }
    }

    /// Computes it.
    pub fn run(&self, isa: Isa, inputs: ConvInputs, out: GridMut, scratch: &mut [f32]) {
        match self.is_turned() {
            true => winograd::run(self, isa, inputs, out, scratch),
            false => direct::run(self, isa, inputs, out, scratch),
        }
    }

    /// Whether [`winograd`] is used: where channels are so many that turning costs less than it saves. It rounds
    /// otherwise, so this may depend on nothing but the network.
    fn is_turned(&self) -> bool {
        self.geometry == Geometry::SAME && self.weights.kernel.inputs >= LANES
    }

    /// What becomes of the sums of a panel of outputs.
    fn finish<'a>(&self, panel: usize, vector: Option<&[f32]>, residual: Option<Grid<'a>>) -> Finish<'a> {
        let channel = panel * LANES;
        let channels = (self.weights.kernel.outputs - channel).min(LANES);
        let (scale, bias) = self.weights.affine(panel);
        let bias = vector.map_or(bias, |vector| add(bias, load(&vector[channel..][..channels])));
        let residual = residual.map(|grid| Grid { view: grid.view.channels(channel, channels), ..grid });
        Finish { channel, channels, scale, bias, residual, silu: self.silu }
    }
}

/// What becomes of the sums of a panel of outputs.
#[derive(Debug, Clone, Copy)]
struct Finish<'a> {
    /// The panel's first channel, and how many it has.
    channel: usize,
    channels: usize,
    scale: Lanes,
    bias: Lanes,
    /// The panel's channels alone.
    residual: Option<Grid<'a>>,
    silu: bool,
}

impl Finish<'_> {
    /// The panel's channels of `out`.
    fn narrow<'b>(&self, out: &'b mut GridMut) -> GridMut<'b> {
        GridMut { view: out.view.channels(self.channel, self.channels), values: out.values }
    }

    /// Writes the pixel of `out`, already narrowed, whose sums these are.
    #[inline(always)]
    fn write(&self, sums: Lanes, y: usize, x: usize, out: &mut GridMut) {
        let mut value = fma(sums, self.scale, self.bias);
        if let Some(residual) = self.residual {
            value = add(value, load(residual.pixel(y, x)));
        }
        if self.silu {
            value = silus(value);
        }
        store(value, out.pixel(y, x));
    }
}

/// Adds to each row's sums its values times their weights, `[values of a row, LANES]`, from first to last.
#[inline(always)]
fn accumulate<const P: usize>(mut rows: [&[f32]; P], weights: &[f32], mut sums: [Lanes; P]) -> [Lanes; P] {
    let weights = weights.as_chunks::<LANES>().0;
    // Of one length that the compiler knows: no bounds are checked below.
    for row in &mut rows {
        *row = &row[..weights.len()];
    }
    for (i, weights) in weights.iter().enumerate() {
        for p in 0..P {
            let value = rows[p][i];
            for lane in 0..LANES {
                sums[p][lane] = value.mul_add(weights[lane], sums[p][lane]);
            }
        }
    }
    sums
}
