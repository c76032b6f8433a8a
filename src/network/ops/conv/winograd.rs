//! Convolution of size 3 and stride 1 by Winograd's F(2×2, 3×3) (Lavin & Gray 2016): 16 products for 2×2 outputs
//! instead of 36.
//!
//! Input and weights are each turned into 16 matrices, one for each place of a 4×4 tile; their 16 products are turned
//! back into outputs. Weights of `i8` stay so in memory: turning a panel of them, which is exact, costs little beside
//! its use.

use super::super::grid::{Grid, GridMut, Shape};
use super::super::lanes::{LANES, Lanes, add, load, store, sub};
use super::super::weights::{PLACES, Weights};
use super::{Conv, ConvInputs, Corner, Finish, accumulate};
use crate::isa::{Isa, Task};

/// Tiles whose input is turned at a time, so that it stays in cache.
const BAND: usize = 48;
/// Tiles whose sums are held in registers at once.
const AT_ONCE: usize = 6;

/// Tiles across and in all, for an output of `shape`; each is 2×2 pixels, at the edge perhaps less. They are those of the
/// whole output, since a pixel's bits depend on its place in the tile.
fn tiles(shape: Shape, Corner { odd: [row, column], .. }: Corner) -> (usize, usize) {
    let across = (shape.width + column).div_ceil(2);
    (across, (shape.height + row).div_ceil(2) * across)
}

/// Values of scratch that [`run`] takes for an output of `shape` from `corner` on, or `None` where that overflows.
pub(super) fn scratch(weights: &Weights, shape: Shape, corner: Corner) -> Option<usize> {
    let rows = tiles(shape, corner).1.min(BAND).checked_add(LANES)?;
    weights.kernel.inputs.checked_mul(PLACES)?.checked_mul(rows)
}

/// Computes `conv`, which has [`super::Geometry::SAME`].
pub(super) fn run(conv: &Conv, isa: Isa, inputs: ConvInputs, mut out: GridMut, scratch: &mut [f32]) {
    let (channels, corner) = (inputs.x.view.shape.channels, inputs.corner);
    let (across, tiles) = tiles(out.view.shape, corner);
    let (turned, rows) = scratch.split_at_mut(PLACES * channels * LANES);
    for first in (0..tiles).step_by(BAND) {
        let count = (tiles - first).min(BAND);
        let rows = &mut rows[..PLACES * count * channels];
        isa.run(TurnInput { x: inputs.x, corner, across, first, count, out: rows });
        for panel in 0..conv.weights.panels() {
            conv.weights.turn(isa, panel, turned);
            let finish = conv.finish(panel, inputs.vector, inputs.residual);
            let band = Band { rows, weights: turned, channels, count, corner, across, first, finish };
            band.products(isa, &mut finish.narrow(&mut out));
        }
    }
}

/// Turns the 4×4 pixels that each tile looks at: `out` is `[PLACES, count, channels]`.
struct TurnInput<'a> {
    x: Grid<'a>,
    corner: Corner,
    across: usize,
    first: usize,
    count: usize,
    out: &'a mut [f32],
}

impl Task for TurnInput<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { x: Grid { values, view }, corner: Corner { before, odd }, across, first, count, out } = self;
        let Shape { channels, height, width } = view.shape;
        let outside = values.len() - channels;
        for tile in 0..count {
            let (top, left) = ((first + tile) / across * 2, (first + tile) % across * 2);
            let mut starts = [0; PLACES];
            // From above and left of the tile on. A row or column that no output of the window depends on may be missing.
            for (place, start) in starts.iter_mut().enumerate() {
                let y = (top + place / 4 + before[0]).wrapping_sub(1 + odd[0]);
                let x = (left + place % 4 + before[1]).wrapping_sub(1 + odd[1]);
                *start = if y < height && x < width { view.at(y, x) } else { outside };
            }
            for c in (0..channels).step_by(LANES) {
                // Columns first, then rows.
                let mut half = [[[0.0; LANES]; 4]; 4];
                for column in 0..4 {
                    let pixel = |row: usize| load(&values[starts[row * 4 + column]..][c..channels]);
                    let turned = turned([pixel(0), pixel(1), pixel(2), pixel(3)]);
                    for row in 0..4 {
                        half[row][column] = turned[row];
                    }
                }
                for (row, half) in half.iter().enumerate() {
                    for (column, value) in turned(*half).iter().enumerate() {
                        let place = row * 4 + column;
                        store(*value, &mut out[(place * count + tile) * channels..][c..channels]);
                    }
                }
            }
        }
    }
}

/// Bᵀ of the paper, times four pixels.
#[inline(always)]
fn turned([a, b, c, d]: [Lanes; 4]) -> [Lanes; 4] {
    [sub(a, c), add(b, c), sub(c, b), sub(b, d)]
}

/// A panel of outputs for a band of tiles.
#[derive(Debug, Clone, Copy)]
struct Band<'a> {
    /// `[PLACES, count, channels]`
    rows: &'a [f32],
    /// `[PLACES, channels, LANES]`
    weights: &'a [f32],
    channels: usize,
    count: usize,
    corner: Corner,
    across: usize,
    /// The first tile's number.
    first: usize,
    finish: Finish<'a>,
}

impl Band<'_> {
    /// All tiles, in groups as equal as can be.
    fn products(&self, isa: Isa, out: &mut GridMut) {
        let groups = self.count.div_ceil(AT_ONCE);
        for group in 0..groups {
            let (start, end) = (group * self.count / groups, (group + 1) * self.count / groups);
            let out = GridMut { view: out.view, values: &mut *out.values };
            match end - start {
                ..=4 => isa.run(Group::<4> { band: self, start, end, out }),
                5 => isa.run(Group::<5> { band: self, start, end, out }),
                _ => isa.run(Group::<AT_ONCE> { band: self, start, end, out }),
            }
        }
    }
}

/// Tiles `start` to `end` of a band, `P` at most.
struct Group<'a, const P: usize> {
    band: &'a Band<'a>,
    start: usize,
    end: usize,
    out: GridMut<'a>,
}

impl<const P: usize> Task for Group<'_, P> {
    #[inline(always)]
    fn run(mut self) {
        let sums = self.sums();
        let Shape { height, width, .. } = self.out.view.shape;
        let [row, column] = self.band.corner.odd;
        for tile in self.start..self.end {
            let number = self.band.first + tile;
            let (top, left) = (number / self.band.across * 2, number % self.band.across * 2);
            let outputs = turn_back(&sums, tile - self.start);
            for (i, output) in outputs.iter().enumerate() {
                let (y, x) = ((top + i / 2).wrapping_sub(row), (left + i % 2).wrapping_sub(column));
                if y < height && x < width {
                    self.band.finish.write(*output, y, x, &mut self.out);
                }
            }
        }
    }
}

impl<const P: usize> Group<'_, P> {
    /// At each place, the products of each tile's row with the weights. Where there are less than `P` tiles, the last
    /// is taken again.
    #[inline(always)]
    fn sums(&self) -> [[Lanes; P]; PLACES] {
        let Band { rows, weights, channels, count, .. } = *self.band;
        let mut sums = [[[0.0; LANES]; P]; PLACES];
        let places = rows.chunks_exact(count * channels).zip(weights.chunks_exact(channels * LANES));
        for (sums, (values, weights)) in sums.iter_mut().zip(places) {
            let mut rows: [&[f32]; P] = [&[]; P];
            for (p, row) in rows.iter_mut().enumerate() {
                *row = &values[(self.start + p).min(self.end - 1) * channels..][..channels];
            }
            *sums = accumulate(rows, weights, [[0.0; LANES]; P]);
        }
        sums
    }
}

/// Aᵀ · sums · A of the paper for tile `p`: its outputs, row by row.
#[inline(always)]
fn turn_back<const P: usize>(sums: &[[Lanes; P]; PLACES], p: usize) -> [Lanes; 4] {
    let mut half = [[[0.0; LANES]; 4]; 2];
    for i in 0..4 {
        let [a, b, c, d] = [sums[i][p], sums[4 + i][p], sums[8 + i][p], sums[12 + i][p]];
        half[0][i] = add(add(a, b), c);
        half[1][i] = sub(sub(b, c), d);
    }
    let mut outputs = [[0.0; LANES]; 4];
    for (i, [a, b, c, d]) in half.into_iter().enumerate() {
        outputs[2 * i] = add(add(a, b), c);
        outputs[2 * i + 1] = sub(sub(b, c), d);
    }
    outputs
}
