//! Convolution, and a linear layer as its 1×1 case: implicit matrix product, nothing is unfolded or padded.

use super::grid::{Grid, GridMut, Shape, View};
use super::isa::{Isa, Task};
use super::lanes::{LANES, Lanes, add, fma, load, silus, store};
use super::weights::{Quarter, Weights};

/// How a convolution moves over its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
#[derive(Debug)]
pub(in crate::network) struct Conv {
    pub weights: Weights,
    /// Of the weights' size.
    pub geometry: Geometry,
    /// Whether SiLU is applied.
    pub silu: bool,
}

/// What a convolution reads.
#[derive(Debug, Clone, Copy)]
pub(in crate::network) struct ConvInputs<'a> {
    pub x: Grid<'a>,
    /// One value for each output channel, added to every pixel.
    pub vector: Option<&'a [f32]>,
    /// Of the output's shape, added.
    pub residual: Option<Grid<'a>>,
}

impl Conv {
    /// Values of scratch that [`Self::run`] takes.
    pub fn scratch(&self) -> usize {
        self.weights.scratch()
    }

    /// Computes it. The buffer of `inputs.x` ends in as many zeros as the input has channels.
    pub fn run(&self, isa: Isa, inputs: ConvInputs, out: GridMut, scratch: &mut [f32]) {
        let mut part = |quarter: Option<Quarter>| {
            let shrunk = |view: View| quarter.map_or(view, |quarter| every_second(view, quarter));
            let out = GridMut { view: shrunk(out.view), values: out.values };
            let residual = inputs.residual.map(|grid| Grid { view: shrunk(grid.view), ..grid });
            let window = match quarter {
                Some([row, column]) => Window { top: 1 - row, left: 1 - column, size: 2 },
                None => Window { top: self.geometry.pad, left: self.geometry.pad, size: self.geometry.size },
            };
            self.panels(isa, ConvInputs { residual, ..inputs }, window, quarter, out, scratch);
        };
        match self.geometry.upsample {
            false => part(None),
            true => [[0, 0], [0, 1], [1, 0], [1, 1]].into_iter().for_each(|quarter| part(Some(quarter))),
        }
    }

    /// Computes a panel of outputs for all pixels, then the next, so that a panel's weights stay in cache.
    fn panels(
        &self,
        isa: Isa,
        ConvInputs { x, vector, residual }: ConvInputs,
        window: Window,
        quarter: Option<Quarter>,
        out: GridMut,
        scratch: &mut [f32],
    ) {
        for panel in 0..self.weights.panels() {
            let channel = panel * LANES;
            let channels = (self.weights.kernel.outputs - channel).min(LANES);
            let (scale, bias) = self.weights.affine(panel);
            let bias = vector.map_or(bias, |vector| add(bias, load(&vector[channel..][..channels])));
            let weights = self.weights.panel(isa, panel, quarter, scratch);
            let residual = residual.map(|grid| Grid { view: grid.view.channels(channel, channels), ..grid });
            let work =
                Panel { x, window, stride: self.geometry.stride, weights, scale, bias, residual, silu: self.silu };
            let mut out = GridMut { view: out.view.channels(channel, channels), values: out.values };
            match isa {
                // As many accumulators as there are registers for.
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => work.tiles::<14>(isa, &mut out),
                _ => work.tiles::<6>(isa, &mut out),
            }
        }
    }
}

/// The pixels of `view` in rows and columns from `quarter` on, every second.
fn every_second(view: View, [row, column]: Quarter) -> View {
    let Shape { channels, height, width } = view.shape;
    let shape = Shape { channels, height: height / 2, width: width / 2 };
    View { shape, offset: view.at(row, column), pixel: 2 * view.pixel, row: 2 * view.row }
}

/// Which input pixels an output pixel looks at: `size` rows and columns, from `top` above and `left` of its own.
#[derive(Debug, Clone, Copy)]
struct Window {
    top: usize,
    left: usize,
    size: usize,
}

/// A panel of outputs.
#[derive(Debug, Clone, Copy)]
struct Panel<'a> {
    x: Grid<'a>,
    window: Window,
    stride: usize,
    /// `[size·size, input channels, LANES]`
    weights: &'a [f32],
    scale: Lanes,
    bias: Lanes,
    residual: Option<Grid<'a>>,
    silu: bool,
}

impl Panel<'_> {
    /// All output pixels, `P` at a time.
    fn tiles<const P: usize>(&self, isa: Isa, out: &mut GridMut) {
        for first in (0..out.view.shape.pixels()).step_by(P) {
            isa.run(Tile::<P> { panel: self, first, out: GridMut { view: out.view, values: out.values } });
        }
    }
}

/// Up to `P` pixels of a panel's outputs, from number `first` on.
struct Tile<'a, const P: usize> {
    panel: &'a Panel<'a>,
    first: usize,
    out: GridMut<'a>,
}

impl<const P: usize> Task for Tile<'_, P> {
    #[inline(always)]
    fn run(mut self) {
        let positions = self.positions();
        let sums = self.panel.sums(positions);
        let Panel { scale, bias, residual, silu, .. } = *self.panel;
        let pixels = self.out.view.shape.pixels() - self.first;
        for (sum, (y, x)) in sums.iter().zip(positions).take(pixels) {
            let mut value = fma(*sum, scale, bias);
            if let Some(residual) = residual {
                value = add(value, load(residual.pixel(y, x)));
            }
            if silu {
                value = silus(value);
            }
            store(value, self.out.pixel(y, x));
        }
    }
}

impl<const P: usize> Tile<'_, P> {
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

impl Panel<'_> {
    /// The sums of products of the pixels at `positions`: over taps, then over channels.
    #[inline(always)]
    fn sums<const P: usize>(&self, positions: [(usize, usize); P]) -> [Lanes; P] {
        let Panel { x: Grid { values, view }, window, stride, weights, .. } = *self;
        let Shape { channels, height, width } = view.shape;
        // Zeros stand for pixels outside. They lie behind the others, so that a choice of offset is a choice of both.
        let outside = values.len() - channels;
        let mut sums = [[0.0; LANES]; P];
        let (mut dy, mut dx) = (0, 0);
        for weights in weights.chunks_exact(channels * LANES) {
            let mut rows: [&[f32]; P] = [&[]; P];
            for (row, (y, x)) in rows.iter_mut().zip(positions) {
                let (y, x) = ((y * stride + dy).wrapping_sub(window.top), (x * stride + dx).wrapping_sub(window.left));
                let inside = (y < height) & (x < width);
                let offset =
                    view.offset.wrapping_add(y.wrapping_mul(view.row)).wrapping_add(x.wrapping_mul(view.pixel));
                *row = &values[if inside { offset } else { outside }..][..channels];
            }
            sums = accumulate(rows, weights, sums);
            dx += 1;
            (dy, dx) = if dx == window.size { (dy + 1, 0) } else { (dy, dx) };
        }
        sums
    }
}

/// Adds to each pixel's sums its values times their weights.
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
