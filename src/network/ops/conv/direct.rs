//! Any convolution, as a product of its weights with the pixels that each output pixel looks at.

use super::super::grid::{Grid, GridMut, Shape, View};
use super::super::lanes::LANES;
use super::super::number::Number;
use super::super::weights::{Panels, Quarter, folded};
use super::{Conv, ConvInputs, Corner, Finish, Geometry, take};
use crate::isa::{Isa, Simd, Task};

/// Computes `conv`.
pub(super) fn run<W: Panels>(
    conv: &Conv,
    weights: W,
    isa: Isa,
    inputs: ConvInputs<W::Number>,
    out: GridMut,
    scratch: &mut [f32],
) {
    let (scratch, _) = take(scratch, weights.panel_len());
    let mut part = |quarter: Option<Quarter>| {
        let shrunk = |view: View| quarter.map_or(view, |quarter| every_second(view, quarter));
        let out = GridMut { view: shrunk(out.view), values: &mut *out.values };
        let residual = inputs.residual.map(|grid| Grid { view: shrunk(grid.view), ..grid });
        panels(conv, weights, isa, ConvInputs { residual, ..inputs }, quarter, out, scratch);
    };
    match conv.geometry.upsample {
        false => part(None),
        true => [[0, 0], [0, 1], [1, 0], [1, 1]].into_iter().for_each(|quarter| part(Some(quarter))),
    }
}

/// Computes a panel of outputs for all pixels, then the next, so that a panel's weights stay in cache.
fn panels<W: Panels>(
    conv: &Conv,
    weights: W,
    isa: Isa,
    ConvInputs { x, vector, residual, corner: Corner { before, .. } }: ConvInputs<W::Number>,
    quarter: Option<Quarter>,
    mut out: GridMut,
    scratch: &mut [W::Number],
) {
    let Geometry { size, pad, stride, .. } = conv.geometry;
    let ([top, left], size) = match quarter {
        Some([row, column]) => ([1 - row, 1 - column], if W::ARE_FOLDED { 2 } else { 3 }),
        None => ([pad; 2], size),
    };
    let unfolded = quarter.filter(|_| !W::ARE_FOLDED);
    let window = Window { top: top.wrapping_sub(before[0]), left: left.wrapping_sub(before[1]), size, unfolded };
    for panel in 0..conv.weights.panels() {
        let finish = conv.finish(panel, 1.0, vector, residual);
        let start = weights.start(isa, panel);
        let weights = weights.panel(isa, panel, quarter, scratch);
        let values = weights.len() / (size * size * LANES);
        let digits = x.view.shape.channels / values;
        let work = Panel { x, digits, window, stride, start, weights, finish };
        let mut out = finish.narrow(0, &mut out);
        match isa {
            // As many sums as there are registers for.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Vnni => work.tiles::<14>(isa, &mut out),
            _ => match W::Number::LOADED {
                true => work.tiles::<5>(isa, &mut out),
                false => work.tiles::<6>(isa, &mut out),
            },
        }
    }
}

/// The pixels of `view` in rows and columns from `quarter` on, every second.
fn every_second(view: View, [row, column]: Quarter) -> View {
    let Shape { channels, height, width } = view.shape;
    let shape = Shape { channels, height: height / 2, width: width / 2 };
    View { shape, offset: view.at(row, column), pixel: 2 * view.pixel, row: 2 * view.row }
}

/// Which input pixels an output pixel looks at: `size` rows and columns, from `top` above and `left` of where the output
/// pixel's own would be, were the first its first. Below 0 they wrap.
#[derive(Debug, Clone, Copy)]
struct Window {
    top: usize,
    left: usize,
    size: usize,
    /// For this quarter of a picture of twice the size, whose pixels lie in it twice in either direction.
    unfolded: Option<Quarter>,
}

impl Window {
    /// Where the pixel of a tap lies in the window.
    #[inline(always)]
    fn pixel(self, [row, column]: [usize; 2]) -> [usize; 2] {
        match self.unfolded {
            Some(quarter) => [folded(quarter[0], row), folded(quarter[1], column)],
            None => [row, column],
        }
    }
}

/// A panel of outputs.
#[derive(Debug, Clone, Copy)]
struct Panel<'a, N: Number> {
    /// A pixel's values are those of its lowest digit, of the next and so on.
    x: Grid<'a, N>,
    digits: usize,
    window: Window,
    stride: usize,
    /// What the sums of the highest digit begin with.
    start: [N::Sum; LANES],
    /// `[size·size, values of a digit, LANES]`
    weights: &'a [N],
    finish: Finish<'a>,
}

impl<N: Number> Panel<'_, N> {
    /// All output pixels, `P` at a time.
    fn tiles<const P: usize>(&self, isa: Isa, out: &mut GridMut) {
        for first in (0..out.view.shape.pixels()).step_by(P) {
            isa.run(Tile::<N, P> { panel: self, first, out: GridMut { view: out.view, values: out.values } });
        }
    }

    /// The sums of products of the pixels at `positions`: over digits, then over taps, then over channels.
    #[inline(always)]
    fn sums<S: Simd, const P: usize>(&self, positions: [(usize, usize); P]) -> [[N::Sum; LANES]; P] {
        let mut sums = [self.start; P];
        for digit in (0..self.digits).rev() {
            sums = self.add_digit::<S, P>(digit, positions, sums);
            if digit > 0 {
                for sums in &mut sums {
                    *sums = N::raised(*sums);
                }
            }
        }
        sums
    }

    #[inline(always)]
    fn add_digit<S: Simd, const P: usize>(
        &self,
        digit: usize,
        positions: [(usize, usize); P],
        mut sums: [[N::Sum; LANES]; P],
    ) -> [[N::Sum; LANES]; P] {
        let Self { x: Grid { values, view }, window, stride, weights, .. } = *self;
        let Shape { channels, height, width } = view.shape;
        // Zeros stand for pixels outside. They lie behind the others, so that a choice of offset is a choice of both.
        let outside = values.len() - channels;
        let channels = channels / self.digits;
        let values = &values[digit * channels..];
        let (mut row, mut column) = (0, 0);
        for weights in weights.as_chunks().0.chunks_exact(channels) {
            let [dy, dx] = window.pixel([row, column]);
            let mut rows: [&[N]; P] = [&[]; P];
            for (row, (y, x)) in rows.iter_mut().zip(positions) {
                let (y, x) = ((y * stride + dy).wrapping_sub(window.top), (x * stride + dx).wrapping_sub(window.left));
                let inside = (y < height) & (x < width);
                let offset =
                    view.offset.wrapping_add(y.wrapping_mul(view.row)).wrapping_add(x.wrapping_mul(view.pixel));
                *row = &values[if inside { offset } else { outside }..][..channels];
            }
            sums = N::accumulate::<S, P>(rows, weights, sums);
            column += 1;
            (row, column) = if column == window.size { (row + 1, 0) } else { (row, column) };
        }
        sums
    }
}

/// Up to `P` pixels of a panel's outputs, from number `first` on.
struct Tile<'a, N: Number, const P: usize> {
    panel: &'a Panel<'a, N>,
    first: usize,
    out: GridMut<'a>,
}

impl<N: Number, const P: usize> Task for Tile<'_, N, P> {
    #[inline(always)]
    fn run<S: Simd>(mut self) {
        let positions = self.positions();
        let sums = self.panel.sums::<S, P>(positions);
        let pixels = self.out.view.shape.pixels() - self.first;
        for (sums, (y, x)) in sums.iter().zip(positions).take(pixels) {
            self.panel.finish.write(N::floats(*sums), y, x, &mut self.out);
        }
    }
}

impl<N: Number, const P: usize> Tile<'_, N, P> {
    /// Rows and columns of the tile's pixels; beyond the last pixel they go on as if there were more rows.
    #[inline(always)]
    fn positions(&self) -> [(usize, usize); P] {
        let width = self.out.view.shape.width;
        let (mut y, mut x) = (self.first / width, self.first % width);
        let mut positions = [(0, 0); P];
        for position in &mut positions {
            *position = (y, x);
            x += 1;
            (y, x) = if x == width { (y + 1, 0) } else { (y, x) };
        }
        positions
    }
}
