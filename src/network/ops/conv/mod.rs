//! Convolution, and a linear layer as its 1×1 case: implicit matrix products, nothing is unfolded or padded.

mod direct;
mod winograd;

use std::ops::Range;

use bytemuck::Pod;
use serde::{Deserialize, Serialize};

use super::grid::{Grid, GridMut, Shape, View};
use super::lanes::{LANES, Lanes, add, fma, load, scaled, silus, store};
use super::number::{Digits, Turnable};
use super::pointwise::copy;
use super::weights::{ByDigits, Floats, Panels, TurnablePanels, Weights};
use crate::isa::Isa;
use crate::network::team::{Grain, Scratch, Team};

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

/// Convolution: `act(weights ∗ x + bias + vector + residual)`. Where the weights say so, x is rounded to integers first;
/// products and sums are then exact.
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
pub(in crate::network) struct ConvInputs<'a, T = f32> {
    /// The buffer ends in as many zeros as the activation has channels.
    pub x: Grid<'a, T>,
    /// One value for each output channel, added to every pixel.
    pub vector: Option<&'a [f32]>,
    /// Of the output's shape, added.
    pub residual: Option<Grid<'a>>,
    pub corner: Corner,
}

impl<T> ConvInputs<'_, T> {
    /// What `height` output rows from `first` on are computed from.
    fn below(self, first: usize, height: usize, geometry: Geometry) -> Self {
        let Corner { before: [above, left], odd: [row, column] } = self.corner;
        let passed = if geometry.upsample { first / 2 } else { first * geometry.stride };
        let corner = Corner { before: [above + passed, left], odd: [(row + first) % 2, column] };
        Self { residual: self.residual.map(|residual| residual.rows(first, height)), corner, ..self }
    }
}

impl Conv {
    /// The scratch that [`Self::run`] takes for an input of shape `x` and an output of shape `out` from `corner` on, or
    /// `None` where that overflows.
    pub fn scratch(&self, x: Shape, out: Shape, corner: Corner) -> Option<Scratch> {
        Some(match self.weights.integers() {
            None => Scratch { common: 0, each: self.scratch_of::<f32>(out, corner)? },
            // What suffices with any instruction set: plans for RAM do not depend on the CPU.
            Some((rounding, _)) => {
                let rounded = held::<i16>(x.len().checked_add(x.channels)?)?;
                let digits = rounding.digits_shape(x);
                let digits = held::<Digits>(digits.len().checked_add(digits.channels)?)?;
                let each = held::<Digits>(self.weights.kernel.digits_len())?;
                Scratch { common: rounded.max(digits), each: self.scratch_of::<i16>(out, corner)?.max(each) }
            }
        })
    }

    fn scratch_of<N: Turnable>(&self, out: Shape, corner: Corner) -> Option<usize> {
        match self.is_turned() {
            true => {
                let part = if winograd::has_few_tiles(out, corner) { out.len() } else { 0 };
                winograd::scratch::<N>(self.weights.kernel, out, corner)?.checked_add(part)
            }
            false => held::<N>(self.weights.kernel.panel_len()),
        }
    }

    /// Computes it.
    pub fn run(&self, isa: Isa, inputs: ConvInputs, out: GridMut, team: &mut Team) {
        let (common, team) = team.for_work(self.weights.kernel.products().saturating_mul(out.view.shape.pixels()));
        let Some((rounding, integers)) = self.weights.integers() else {
            return self.share(Floats(&self.weights), isa, inputs, out, team);
        };
        let ConvInputs { x, vector, residual, corner } = inputs;
        if isa.has_dots() {
            // Not by Winograd's convolution: its weights, turned, do not fit `i8`.
            let shape = rounding.digits_shape(x.view.shape);
            let (digits, _) = take(common, shape.len() + shape.channels);
            rounding.round_to_digits(isa, x, digits);
            let x = Grid { values: &*digits, view: View::whole(shape) };
            let weights = ByDigits { integers, middle: rounding.middle() };
            return self.share_rows(weights, isa, ConvInputs { x, vector, residual, corner }, out, team);
        }
        let shape = x.view.shape;
        let (rounded, _) = take(common, shape.len() + shape.channels);
        rounding.round(isa, x, rounded);
        let x = Grid { values: &*rounded, view: View::whole(shape) };
        self.share(integers, isa, ConvInputs { x, vector, residual, corner }, out, team);
    }

    fn share<W: TurnablePanels>(&self, weights: W, isa: Isa, inputs: ConvInputs<W::Number>, out: GridMut, team: Team) {
        if !self.is_turned() {
            return self.share_rows(weights, isa, inputs, out, team);
        }
        if winograd::has_few_tiles(out.view.shape, inputs.corner) && team.members() > 1 {
            return self.share_panels(weights, isa, inputs, out, team);
        }
        team.share_rows(out, pairs(inputs.corner), |band, first, scratch| {
            let inputs = inputs.below(first, band.view.shape.height, self.geometry);
            winograd::run(self, weights, isa, inputs, 0..self.weights.panels(), band, scratch);
        });
    }

    fn share_rows<W: Panels>(&self, weights: W, isa: Isa, inputs: ConvInputs<W::Number>, out: GridMut, team: Team) {
        let grain = if self.geometry.upsample { pairs(inputs.corner) } else { Grain::row() };
        team.share_rows(out, grain, |band, first, scratch| {
            let inputs = inputs.below(first, band.view.shape.height, self.geometry);
            direct::run(self, weights, isa, inputs, band, scratch);
        });
    }

    /// Has each member turn the weights of other panels, where that takes longer than to turn the pixels. As pixels lie,
    /// their panels are not apart: each member's are put in its scratch first.
    fn share_panels<W: TurnablePanels>(
        &self,
        weights: W,
        isa: Isa,
        inputs: ConvInputs<W::Number>,
        out: GridMut,
        team: Team,
    ) {
        let shape = out.view.shape;
        let of = |panels: &Range<usize>| {
            let channels = shape.channels.min(panels.end * LANES) - panels.start * LANES;
            View::whole(Shape { channels, ..shape })
        };
        let work = |panels: Range<usize>, scratch: &mut [f32]| {
            let view = of(&panels);
            let (values, scratch) = scratch.split_at_mut(view.shape.len());
            winograd::run(self, weights, isa, inputs, panels, GridMut { values, view }, scratch);
        };
        team.share_range(self.weights.panels(), work, |panels, values| {
            let view = of(&panels);
            let to = out.view.channels(panels.start * LANES, view.shape.channels);
            copy(Grid { values, view }, GridMut { values: &mut *out.values, view: to });
        });
    }

    /// Whether its input is rounded, and its products are those of integers.
    pub fn is_of_integers(&self) -> bool {
        self.weights.integers().is_some()
    }

    /// Whether [`winograd`] is used: where channels are so many that turning costs less than it saves. In `f32` it rounds
    /// otherwise, so this may depend on nothing but the network.
    fn is_turned(&self) -> bool {
        self.geometry == Geometry::SAME && self.weights.kernel.inputs >= LANES
    }

    /// What becomes of the sums of a panel of outputs, to be multiplied by `factor` first.
    fn finish<'a>(&self, panel: usize, factor: f32, vector: Option<&[f32]>, residual: Option<Grid<'a>>) -> Finish<'a> {
        let channel = panel * LANES;
        let channels = (self.weights.kernel.outputs - channel).min(LANES);
        let (scale, bias) = self.weights.affine(panel);
        let scale = scaled(scale, factor);
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
    /// The panel's channels of `out`, whose own begin at `first`.
    fn narrow<'b>(&self, first: usize, out: &'b mut GridMut) -> GridMut<'b> {
        GridMut { view: out.view.channels(self.channel - first, self.channels), values: out.values }
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

/// Pairs of rows, of which the first begins with an even row of the whole output.
fn pairs(corner: Corner) -> Grain {
    Grain { rows: 2, before: corner.odd[0] }
}

/// How many `f32` of scratch `len` numbers take, or `None` where that overflows.
fn held<T: Pod>(len: usize) -> Option<usize> {
    Some(len.checked_mul(size_of::<T>())?.div_ceil(size_of::<f32>()))
}

/// The first `len` numbers of `scratch`, and what is left.
fn take<T: Pod>(scratch: &mut [f32], len: usize) -> (&mut [T], &mut [f32]) {
    let (taken, left) = scratch.split_at_mut((len * size_of::<T>()).div_ceil(size_of::<f32>()));
    (&mut bytemuck::cast_slice_mut(taken)[..len], left)
}
