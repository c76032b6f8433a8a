//! Self-attention over the pixels of an activation (Vaswani et al. 2017).

use serde::{Deserialize, Serialize};

use super::grid::{Grid, GridMut, Shape};
use super::lanes::{LANES, Lanes, exp, fma, load, store};
use crate::isa::{Isa, Simd, Task};
use crate::network::team::{Grain, Team};

/// Self-attention: softmax(scale · queries · keysᵀ) · values for each head. The channels of the input are queries,
/// keys and values, each of them head by head.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(in crate::network) struct Attention {
    /// Divides the channels of the output.
    pub heads: usize,
    /// What queries are multiplied by.
    pub scale: f32,
}

impl Attention {
    /// Values of scratch that [`Self::run`] takes for an output of `shape`, or `None` where that overflows.
    pub fn scratch(self, shape: Shape) -> Option<usize> {
        let tokens = shape.pixels().checked_next_multiple_of(LANES)?;
        (shape.channels / self.heads).checked_add(1)?.checked_mul(tokens)
    }

    /// Computes it.
    pub fn run(self, isa: Isa, qkv: Grid, out: GridMut, team: &mut Team) {
        let Shape { channels, .. } = out.view.shape;
        let tokens = out.view.shape.pixels();
        let (_, team) = team.for_work((2 * tokens * tokens).saturating_mul(channels));
        team.share_rows(out, Grain::row(), |out, first, scratch| self.run_rows(isa, qkv, first, out, scratch));
    }

    /// The rows from `first` on of the output.
    fn run_rows(self, isa: Isa, qkv: Grid, first: usize, out: GridMut, scratch: &mut [f32]) {
        let Shape { channels, height, .. } = out.view.shape;
        let size = channels / self.heads;
        let tokens = qkv.view.shape.pixels().next_multiple_of(LANES);
        let (keys, weights) = scratch.split_at_mut(size * tokens);
        for head in 0..self.heads {
            let part = |i: usize| Grid { view: qkv.view.channels(i * channels + head * size, size), ..qkv };
            let out = GridMut { view: out.view.channels(head * size, size), values: out.values };
            let [queries, values] = [part(0).rows(first, height), part(2)];
            transpose(part(1), keys, tokens);
            isa.run(Head { queries, keys, values, scale: self.scale, weights: &mut weights[..tokens], out });
        }
    }
}

/// `out` [channels, tokens] of the pixels of `x`, filled up with zeros.
fn transpose(x: Grid, out: &mut [f32], tokens: usize) {
    out.fill(0.0);
    let Shape { height, width, .. } = x.view.shape;
    for y in 0..height {
        for column in 0..width {
            for (c, value) in x.pixel(y, column).iter().enumerate() {
                out[c * tokens + y * width + column] = *value;
            }
        }
    }
}

/// One head.
struct Head<'a> {
    queries: Grid<'a>,
    /// `[channels, tokens]`, tokens filled up to whole [`LANES`].
    keys: &'a [f32],
    values: Grid<'a>,
    scale: f32,
    /// One for each token.
    weights: &'a mut [f32],
    out: GridMut<'a>,
}

impl Task for Head<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self) {
        let Shape { height, width, .. } = self.queries.view.shape;
        let tokens = self.values.view.shape.pixels();
        for y in 0..height {
            for x in 0..width {
                self.score(self.queries.pixel(y, x));
                softmax(&mut self.weights[..tokens]);
                self.mix(y, x);
            }
        }
    }
}

impl Head<'_> {
    /// The scores of all keys for one query.
    #[inline(always)]
    fn score(&mut self, query: &[f32]) {
        let tokens = self.weights.len();
        for (i, scores) in self.weights.chunks_exact_mut(LANES).enumerate() {
            let mut sums: Lanes = [0.0; LANES];
            for (value, keys) in query.iter().zip(self.keys.chunks_exact(tokens)) {
                let (value, keys) = (value * self.scale, load(&keys[i * LANES..]));
                sums = fma([value; LANES], keys, sums);
            }
            store(sums, scores);
        }
    }

    /// The sum of all values by their weights.
    #[inline(always)]
    fn mix(&mut self, y: usize, x: usize) {
        let Shape { channels, height, width } = self.values.view.shape;
        for c in (0..channels).step_by(LANES) {
            let mut sums: Lanes = [0.0; LANES];
            for row in 0..height {
                for column in 0..width {
                    let weight = self.weights[row * width + column];
                    let value = load(&self.values.pixel(row, column)[c..]);
                    sums = fma([weight; LANES], value, sums);
                }
            }
            store(sums, &mut self.out.pixel(y, x)[c..]);
        }
    }
}

#[inline(always)]
fn softmax(scores: &mut [f32]) {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    scores.iter_mut().for_each(|score| *score = exp(*score - most));
    let sum: f32 = scores.iter().sum();
    scores.iter_mut().for_each(|weight| *weight /= sum);
}
