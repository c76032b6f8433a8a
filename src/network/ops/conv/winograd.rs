//! Convolution of size 3 and stride 1 by Winograd's F(2×2, 3×3) (Lavin & Gray 2016): 16 products for 2×2 outputs
//! instead of 36.
//!
//! Input and weights are each turned into 16 matrices, one for each place of a 4×4 tile; their 16 products are turned
//! back into outputs. Weights of `i8` stay so in memory: turning a panel of them, which is exact, costs little beside
//! its use. With inputs of integers too all of it is exact: turned, inputs are within four times their bounds, weights
//! within ±1152 (and four times what the paper has), and sums that wrap around on the way end where they belong.

use std::ops::Range;

use bytemuck::Zeroable;

use super::super::grid::{Grid, GridMut, Shape};
use super::super::lanes::{LANES, load, store};
use super::super::number::{Number, Turnable};
use super::super::weights::{Kernel, PLACES, TurnablePanels};
use super::{Conv, ConvInputs, Corner, Finish, held, take};
use crate::isa::{Isa, Simd, Task};

/// Tiles whose input is turned at a time, so that it stays in cache.
const BAND: usize = 48;
/// Tiles whose sums are held in registers at once.
const AT_ONCE: usize = 6;
/// Input channels whose weights are turned at a time, for the same reason: a whole panel of many channels would be written
/// past the nearest cache before it is read. 16 of `f32`, 32 of `i16`.
const fn slice<N>() -> usize {
    64 / size_of::<N>()
}

/// Tiles across and in all, for an output of `shape`; each is 2×2 pixels, at the edge perhaps less. They are those of the
/// whole output, since a pixel's bits depend on its place in the tile.
fn tiles(shape: Shape, Corner { odd: [row, column], .. }: Corner) -> (usize, usize) {
    let across = (shape.width + column).div_ceil(2);
    (across, (shape.height + row).div_ceil(2) * across)
}

/// Whether turning the weights takes longer than all that is done for each tile.
pub(super) fn has_few_tiles(shape: Shape, corner: Corner) -> bool {
    tiles(shape, corner).1 <= 24
}

/// Values of scratch that [`run`] takes for an output of `shape` from `corner` on, or `None` where that overflows.
pub(super) fn scratch<N: Turnable>(kernel: Kernel, shape: Shape, corner: Corner) -> Option<usize> {
    let (tiles, inputs) = (tiles(shape, corner).1.min(BAND), kernel.inputs);
    let numbers = inputs.checked_mul(tiles)?.checked_add(inputs.min(slice::<N>()) * LANES)?.checked_mul(PLACES)?;
    held::<N>(numbers)?.checked_add(PLACES * tiles * LANES)
}

/// Computes some panels of `conv`, which has [`super::Geometry::SAME`], into `out`, which has no others.
pub(super) fn run<W: TurnablePanels>(
    conv: &Conv,
    weights: W,
    isa: Isa,
    inputs: ConvInputs<W::Number>,
    panels: Range<usize>,
    mut out: GridMut,
    scratch: &mut [f32],
) {
    let (channels, corner) = (inputs.x.view.shape.channels, inputs.corner);
    let (across, tiles) = tiles(out.view.shape, corner);
    let (turned, rest) = take(scratch, PLACES * channels.min(slice::<W::Number>()) * LANES);
    let (sums, rest) = take(rest, tiles.min(BAND) * PLACES * LANES);
    let (rows, _) = take(rest, tiles.min(BAND) * PLACES * channels);
    for first in (0..tiles).step_by(BAND) {
        let count = (tiles - first).min(BAND);
        let rows = &mut rows[..PLACES * count * channels];
        isa.run(TurnInput { x: inputs.x, corner, across, first, count, out: rows });
        let band = Band { rows, channels, count, corner, across, first };
        let sums = &mut sums.as_chunks_mut().0.as_chunks_mut().0[..count];
        for panel in panels.clone() {
            sums.fill([[Zeroable::zeroed(); LANES]; PLACES]);
            for start in (0..channels).step_by(slice::<W::Number>()) {
                let slice = start..channels.min(start + slice::<W::Number>());
                let turned = &mut turned[..PLACES * slice.len() * LANES];
                weights.turn(isa, panel, slice.clone(), turned);
                band.add_products(isa, slice, turned, sums);
            }
            let finish = conv.finish(panel, W::Number::TURNED, inputs.vector, inputs.residual);
            isa.run(TurnBack { band: &band, sums, finish, out: finish.narrow(panels.start * LANES, &mut out) });
        }
    }
}

/// Turns the 4×4 pixels that each tile looks at: `out` is `[PLACES, count, channels]`.
struct TurnInput<'a, N> {
    x: Grid<'a, N>,
    corner: Corner,
    across: usize,
    first: usize,
    count: usize,
    out: &'a mut [N],
}

impl<N: Turnable> Task for TurnInput<'_, N> {
    #[inline(always)]
    fn run<S: Simd>(self) {
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
                let mut half = [[[N::zeroed(); LANES]; 4]; 4];
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
fn turned<N: Turnable>([a, b, c, d]: [[N; LANES]; 4]) -> [[N; LANES]; 4] {
    [N::sub(a, c), N::add(b, c), N::sub(c, b), N::sub(b, d)]
}

/// The sums of a tile at each of its places.
type Sums<N> = [[<N as Number>::Sum; LANES]; PLACES];

/// A band of tiles.
#[derive(Debug, Clone, Copy)]
struct Band<'a, N> {
    /// `[PLACES, count, channels]`
    rows: &'a [N],
    channels: usize,
    count: usize,
    corner: Corner,
    across: usize,
    /// The first tile's number.
    first: usize,
}

impl<N: Turnable> Band<'_, N> {
    /// Adds to the sums of each tile the products of the channels `slice` with `weights`, `[PLACES, slice, LANES]`. The
    /// tiles go in groups as equal as can be.
    fn add_products(&self, isa: Isa, slice: Range<usize>, weights: &[N], sums: &mut [Sums<N>]) {
        let groups = self.count.div_ceil(AT_ONCE);
        for group in 0..groups {
            let (start, end) = (group * self.count / groups, (group + 1) * self.count / groups);
            let (slice, sums) = (slice.clone(), &mut sums[start..end]);
            match end - start {
                ..=4 => isa.run(Group::<N, 4> { band: self, start, slice, weights, sums }),
                5 => isa.run(Group::<N, 5> { band: self, start, slice, weights, sums }),
                _ => isa.run(Group::<N, AT_ONCE> { band: self, start, slice, weights, sums }),
            }
        }
    }
}

/// Tiles of a band from `start` on, as many as there are `sums`, `P` at most.
struct Group<'a, N: Turnable, const P: usize> {
    band: &'a Band<'a, N>,
    start: usize,
    slice: Range<usize>,
    weights: &'a [N],
    sums: &'a mut [Sums<N>],
}

impl<N: Turnable, const P: usize> Task for Group<'_, N, P> {
    /// Where there are less than `P` tiles, the last is taken again.
    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { band: &Band { rows, channels, count, .. }, start, slice, weights, sums } = self;
        let last = sums.len() - 1;
        let places = rows.chunks_exact(count * channels).zip(weights.as_chunks().0.chunks_exact(slice.len()));
        for (place, (values, weights)) in places.enumerate() {
            let mut rows: [&[N]; P] = [&[]; P];
            let mut added = [[N::Sum::zeroed(); LANES]; P];
            for p in 0..P {
                rows[p] = &values[(start + p.min(last)) * channels..][slice.clone()];
                added[p] = sums[p.min(last)][place];
            }
            let added = N::accumulate::<S, P>(rows, weights, added);
            for (sums, added) in sums.iter_mut().zip(added) {
                sums[place] = added;
            }
        }
    }
}

/// Turns the sums of a band back into a panel of outputs.
struct TurnBack<'a, N: Turnable> {
    band: &'a Band<'a, N>,
    sums: &'a [Sums<N>],
    finish: Finish<'a>,
    out: GridMut<'a>,
}

impl<N: Turnable> Task for TurnBack<'_, N> {
    #[inline(always)]
    fn run<S: Simd>(mut self) {
        let Shape { height, width, .. } = self.out.view.shape;
        let &Band { corner: Corner { odd: [row, column], .. }, across, first, .. } = self.band;
        for (tile, sums) in self.sums.iter().enumerate() {
            let (top, left) = ((first + tile) / across * 2, (first + tile) % across * 2);
            for (i, output) in turn_back::<N>(sums).iter().enumerate() {
                let (y, x) = ((top + i / 2).wrapping_sub(row), (left + i % 2).wrapping_sub(column));
                if y < height && x < width {
                    self.finish.write(N::floats(*output), y, x, &mut self.out);
                }
            }
        }
    }
}

/// Aᵀ · sums · A of the paper: the outputs of a tile, row by row.
#[inline(always)]
fn turn_back<N: Turnable>(sums: &Sums<N>) -> [[N::Sum; LANES]; 4] {
    let (add, sub) = (N::add_sums, N::sub_sums);
    let mut half = [[[N::Sum::zeroed(); LANES]; 4]; 2];
    for i in 0..4 {
        let [a, b, c, d] = [sums[i], sums[4 + i], sums[8 + i], sums[12 + i]];
        half[0][i] = add(add(a, b), c);
        half[1][i] = sub(sub(b, c), d);
    }
    let mut outputs = [[N::Sum::zeroed(); LANES]; 4];
    for (i, [a, b, c, d]) in half.into_iter().enumerate() {
        outputs[2 * i] = add(add(a, b), c);
        outputs[2 * i + 1] = sub(sub(b, c), d);
    }
    outputs
}
