//! Normalisation, its affine and SiLU.

use serde::{Deserialize, Serialize};

use super::array::{Array, Visitor};
use super::grid::{Grid, GridMut, Shape};
use super::lanes::{LANES, Lanes, add, fma, load, negated, silus, store};
use crate::isa::{Isa, Simd, Task};
use crate::network::team::{Grain, Team};

/// Group normalisation: each group of channels to mean 0 and variance 1 over all its values, then one scale and
/// shift per channel (Wu & He 2018).
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::network) struct GroupNorm {
    /// Divides the channels.
    pub groups: usize,
    /// Added to the variance.
    pub epsilon: f32,
    pub scale: Array<f32>,
    pub shift: Array<f32>,
    /// Whether SiLU follows.
    pub silu: bool,
}

/// Layer normalisation over all values, with one scale and shift per value (Ba et al. 2016).
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::network) struct LayerNorm {
    /// Added to the variance.
    pub epsilon: f32,
    /// By row, column, channel.
    pub scale: Array<f32>,
    pub shift: Array<f32>,
}

/// Operations for each value, about, with an exponential for SiLU.
const OPERATIONS: usize = 16;

impl GroupNorm {
    /// Shows `visitor` every array.
    pub fn visit(&mut self, visitor: &mut impl Visitor) -> Result<(), String> {
        visitor.visit(&mut self.scale)?;
        visitor.visit(&mut self.shift)
    }

    /// Computes it; the common scratch of `team` holds two values per channel.
    pub fn run(&self, isa: Isa, x: Grid, out: GridMut, team: &mut Team) {
        let Shape { channels, .. } = x.view.shape;
        let (common, team) = team.for_work(OPERATIONS * x.view.shape.len());
        let (means, factors) = common[..2 * channels].split_at_mut(channels);
        self.share_moments(isa, x, means, factors, &team);
        for (c, factor) in factors.iter_mut().enumerate() {
            *factor *= self.scale[c];
        }
        let (means, factors) = (&*means, &*factors);
        team.share_rows(out, Grain::row(), |out, first, _| {
            let x = x.rows(first, out.view.shape.height);
            isa.run(Affine { x, means, factors, shift: &self.shift, silu: self.silu, out });
        });
    }

    fn share_moments(&self, isa: Isa, x: Grid, means: &mut [f32], factors: &mut [f32], team: &Team) {
        let Shape { channels, .. } = x.view.shape;
        // Whole groups; whole lanes where that can be.
        let per_group = channels / self.groups;
        let groups = self.groups.div_ceil(team.members()).next_multiple_of(LANES.div_ceil(per_group));
        let len = (groups * per_group).min(channels);
        let parts = means.chunks_mut(len).zip(factors.chunks_mut(len)).enumerate();
        team.each(parts, |(i, (means, factors))| {
            let x = Grid { view: x.view.channels(i * len, means.len()), ..x };
            isa.run(Moments { x, groups: means.len() / per_group, epsilon: self.epsilon, means, factors });
        });
    }
}

impl LayerNorm {
    /// Shows `visitor` every array.
    pub fn visit(&mut self, visitor: &mut impl Visitor) -> Result<(), String> {
        visitor.visit(&mut self.scale)?;
        visitor.visit(&mut self.shift)
    }

    /// Computes it; the common scratch of `team` holds two values per channel.
    pub fn run(&self, isa: Isa, x: Grid, out: GridMut, team: &mut Team) {
        let channels = x.view.shape.channels;
        let (means, factors) = team.common()[..2 * channels].split_at_mut(channels);
        isa.run(Moments { x, groups: 1, epsilon: self.epsilon, means, factors });
        isa.run(AffineByValue { x, mean: means[0], factor: factors[0], norm: self, out });
    }
}

/// For each channel, the mean of its group and 1 / √(variance + ε).
struct Moments<'a> {
    x: Grid<'a>,
    groups: usize,
    epsilon: f32,
    means: &'a mut [f32],
    factors: &'a mut [f32],
}

impl Task for Moments<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { x, groups, epsilon, means, factors } = self;
        let shape = x.view.shape;
        let per_group = shape.channels / groups;
        let count = (shape.pixels() * per_group) as f32;
        for c in (0..shape.channels).step_by(LANES) {
            store(sums(x, c, add), &mut means[c..]);
        }
        means.chunks_exact_mut(per_group).for_each(|group| group.fill(group.iter().sum::<f32>() / count));
        for c in (0..shape.channels).step_by(LANES) {
            let mean = negated(load(&means[c..]));
            let squares = sums(x, c, |sum, value| {
                let apart = add(value, mean);
                fma(apart, apart, sum)
            });
            store(squares, &mut factors[c..]);
        }
        for group in factors.chunks_exact_mut(per_group) {
            let variance = group.iter().sum::<f32>() / count;
            group.fill(1.0 / (variance + epsilon).sqrt());
        }
    }
}

/// Folds the channels from `c` on over all pixels.
#[inline(always)]
fn sums(x: Grid, c: usize, fold: impl Fn(Lanes, Lanes) -> Lanes) -> Lanes {
    let Shape { height, width, .. } = x.view.shape;
    let mut sums = [0.0; LANES];
    for row in 0..height {
        for column in 0..width {
            sums = fold(sums, load(&x.pixel(row, column)[c..]));
        }
    }
    sums
}

struct Affine<'a> {
    x: Grid<'a>,
    means: &'a [f32],
    factors: &'a [f32],
    shift: &'a [f32],
    silu: bool,
    out: GridMut<'a>,
}

impl Task for Affine<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self) {
        let Shape { channels, height, width } = self.x.view.shape;
        for c in (0..channels).step_by(LANES) {
            let (mean, factor) = (load(&self.means[c..]), load(&self.factors[c..]));
            let shift = load(&self.shift[c..]);
            let shift = fma(negated(mean), factor, shift);
            for row in 0..height {
                for column in 0..width {
                    let value = fma(load(&self.x.pixel(row, column)[c..]), factor, shift);
                    let value = if self.silu { silus(value) } else { value };
                    store(value, &mut self.out.pixel(row, column)[c..]);
                }
            }
        }
    }
}

struct AffineByValue<'a> {
    x: Grid<'a>,
    mean: f32,
    factor: f32,
    norm: &'a LayerNorm,
    out: GridMut<'a>,
}

impl Task for AffineByValue<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self) {
        let Shape { channels, height, width } = self.x.view.shape;
        for row in 0..height {
            for column in 0..width {
                let start = (row * width + column) * channels;
                let affine = self.norm.scale[start..][..channels].iter().zip(&self.norm.shift[start..][..channels]);
                let values = self.x.pixel(row, column).iter().zip(affine);
                for (out, (value, (scale, shift))) in self.out.pixel(row, column).iter_mut().zip(values) {
                    *out = ((value - self.mean) * self.factor).mul_add(*scale, *shift);
                }
            }
        }
    }
}
