//! Convolution over NHWC as implicit matrix products: no im2col, no padded copy.
//!
//! Each output row of a register tile reads its input pixel in place, tap by tap; a tap outside the picture
//! reads a row of zeros, or is skipped where that holds for the whole tile. `unsafe` is allowed for the raw
//! row pointers.
#![allow(unsafe_code)]

use rayon::prelude::*;

use super::super::{Conv, Window};
use super::simd::{COLS, ROWS, SKIP, Tap, Tile, outer_product, product};

/// Rows of the output worked on before moving to the next panel, so that their inputs stay in L2.
const CHUNK_ROWS: usize = 40 * ROWS;
/// Pixels summed into a weight-gradient tile before moving on, so that their gradients stay in L1/L2.
const CHUNK_PIXELS: usize = 384;
/// Largest number of kernel taps.
const MAX_TAPS: usize = 25;

/// A weight matrix `depth × columns` cut into panels of [`COLS`] columns, zero-padded.
struct Panels {
    values: Vec<f32>,
    depth: usize,
}

impl Panels {
    fn pack(depth: usize, columns: usize, fill: impl Fn(usize, usize, &mut [f32]) + Sync) -> Self {
        let mut values = vec![0.0; columns.div_ceil(COLS) * depth * COLS];
        values.par_chunks_mut(depth * COLS).enumerate().for_each(|(panel, out)| {
            let first = panel * COLS;
            let width = COLS.min(columns - first);
            for (k, out) in out.chunks_exact_mut(COLS).enumerate() {
                fill(k, first, &mut out[..width]);
            }
        });
        Self { values, depth }
    }

    /// The panel that starts at column `COLS · index`, from row `row`.
    fn at(&self, index: usize, row: usize) -> *const f32 {
        self.values[(index * self.depth + row) * COLS..].as_ptr()
    }
}

/// For every output pixel and tap, the source pixel or [`SKIP`].
struct Gather {
    /// Output pixels of a sample in the order they are worked on.
    order: Vec<u32>,
    /// `order.len() × taps` source pixels, in that order.
    sources: Vec<u32>,
    taps: usize,
    source_pixels: usize,
}

impl Gather {
    fn forward(g: &Conv) -> Self {
        let (out_h, out_w) = g.out_size();
        let order: Vec<u32> = (0..(out_h * out_w) as u32).collect();
        Self::new(g, order, g.height * g.width, |place, tap| {
            g.window.pixel([place / out_w, place % out_w], tap, g.height, g.width)
        })
    }

    /// Sources are pixels of the output's gradient. Pixels of one stride phase stand together, so that whole
    /// tiles skip the taps that do not reach them.
    fn backward(g: &Conv) -> Self {
        let (out_h, out_w) = g.out_size();
        let Window { sides: [_, columns], stride, before: [above, left], .. } = g.window;
        let source = |i: usize, k: usize, pad: usize, size: usize| {
            let scaled = (i + pad).checked_sub(k)?;
            (scaled % stride == 0 && scaled / stride < size).then_some(scaled / stride)
        };
        let mut order: Vec<u32> = (0..(g.height * g.width) as u32).collect();
        order.sort_by_key(|&p| (p as usize / g.width % stride, p as usize % g.width % stride));
        Self::new(g, order, out_h * out_w, |pixel, tap| {
            let y = source(pixel / g.width, tap / columns, above, out_h)?;
            Some(y * out_w + source(pixel % g.width, tap % columns, left, out_w)?)
        })
    }

    fn new(g: &Conv, order: Vec<u32>, source_pixels: usize, source: impl Fn(usize, usize) -> Option<usize>) -> Self {
        let taps = g.taps();
        assert!(taps <= MAX_TAPS, "a kernel has at most {MAX_TAPS} taps");
        let sources = order
            .iter()
            .flat_map(|&pixel| (0..taps).map(move |tap| (pixel as usize, tap)))
            .map(|(pixel, tap)| source(pixel, tap).map_or(SKIP, |s| s as u32))
            .collect();
        Self { order, sources, taps, source_pixels }
    }

    /// `out[n, pixel, :] = bias + Σ_taps source[n, source(pixel, tap), :] · panels[tap]`.
    fn multiply(
        &self,
        source: &[f32],
        depth: usize,
        panels: &Panels,
        bias: Option<&[f32]>,
        columns: usize,
        out: &mut [f32],
    ) {
        let pixels = self.order.len();
        let batch = out.len() / (pixels * columns);
        assert_eq!(source.len(), batch * self.source_pixels * depth);
        assert_eq!(panels.depth, self.taps * depth);
        let zeros = vec![0.0; depth];
        let samples = CHUNK_ROWS.div_ceil(pixels).min(batch.div_ceil(2 * rayon::current_num_threads())).max(1);
        out.par_chunks_mut(samples * pixels * columns).enumerate().for_each(|(chunk, out)| {
            let rows = out.len() / columns;
            let source = &source[chunk * samples * self.source_pixels * depth..];
            for first in (0..rows).step_by(CHUNK_ROWS) {
                let last = (first + CHUNK_ROWS).min(rows);
                for panel in 0..columns.div_ceil(COLS) {
                    for row in (first..last).step_by(ROWS) {
                        let count = ROWS.min(last - row);
                        self.tile(source, depth, &zeros, panels, panel, row, count, bias, columns, out);
                    }
                }
            }
        });
    }

    #[allow(clippy::too_many_arguments)]
    fn tile(
        &self,
        source: &[f32],
        depth: usize,
        zeros: &[f32],
        panels: &Panels,
        panel: usize,
        row: usize,
        count: usize,
        bias: Option<&[f32]>,
        columns: usize,
        out: &mut [f32],
    ) {
        let pixels = self.order.len();
        let empty = Tap { rows: [zeros.as_ptr(); ROWS], panel: std::ptr::null() };
        let mut taps = [empty; MAX_TAPS];
        let mut used = 0;
        for tap in 0..self.taps {
            let mut reaches = false;
            taps[used] = Tap { panel: panels.at(panel, tap * depth), ..empty };
            for r in 0..count {
                let (sample, pixel) = ((row + r) / pixels, (row + r) % pixels);
                let from = self.sources[pixel * self.taps + tap];
                if from != SKIP {
                    let start = (sample * self.source_pixels + from as usize) * depth;
                    taps[used].rows[r] = source[start..start + depth].as_ptr();
                    reaches = true;
                }
            }
            used += usize::from(reaches);
        }
        let mut tile: Tile = [[0.0; COLS]; ROWS];
        // SAFETY: every row was taken from a slice of `depth` values (zeros has as many), every panel from
        // row `tap · depth` of `taps · depth`.
        unsafe { product(&taps[..used], depth, &mut tile) };

        let first = panel * COLS;
        let width = COLS.min(columns - first);
        for (r, values) in tile.iter().enumerate().take(count) {
            let (sample, pixel) = ((row + r) / pixels, (row + r) % pixels);
            let start = (sample * pixels + self.order[pixel] as usize) * columns + first;
            let out = &mut out[start..start + width];
            match bias {
                Some(bias) => {
                    for ((out, value), bias) in out.iter_mut().zip(values).zip(&bias[first..]) {
                        *out = value + bias;
                    }
                }
                None => out.copy_from_slice(&values[..width]),
            }
        }
    }
}

/// `out = x ∗ weight + bias`; see [`Conv`] for shapes.
pub fn forward(g: &Conv, x: &[f32], weight: &[f32], bias: &[f32], out: &mut [f32]) {
    let panels = Panels::pack(g.taps() * g.inputs, g.outputs, |k, first, to| {
        let from = k * g.outputs + first;
        to.copy_from_slice(&weight[from..from + to.len()]);
    });
    Gather::forward(g).multiply(x, g.inputs, &panels, Some(bias), g.outputs, out);
}

/// Gradient of the input.
pub fn grad_input(g: &Conv, weight: &[f32], grad: &[f32], out: &mut [f32]) {
    let panels = Panels::pack(g.taps() * g.outputs, g.inputs, |k, first, to| {
        let (tap, output) = (k / g.outputs, k % g.outputs);
        for (i, to) in to.iter_mut().enumerate() {
            *to = weight[(tap * g.inputs + first + i) * g.outputs + output];
        }
    });
    Gather::backward(g).multiply(grad, g.outputs, &panels, None, g.inputs, out);
}

/// Adds the gradients of weight and bias.
pub fn grad_weight(g: &Conv, x: &[f32], grad: &[f32], weight: &mut [f32], bias: &mut [f32]) {
    let gather = Gather::forward(g);
    let (pixels, taps) = (gather.order.len(), g.taps());
    let total = g.batch * pixels;
    assert_eq!(grad.len(), total * g.outputs);
    assert_eq!(x.len(), g.batch * gather.source_pixels * g.inputs);
    let panels = Panels::pack(total, g.outputs, |row, first, to| {
        let from = row * g.outputs + first;
        to.copy_from_slice(&grad[from..from + to.len()]);
    });
    for row in grad.chunks_exact(g.outputs) {
        for (bias, value) in bias.iter_mut().zip(row) {
            *bias += value;
        }
    }
    let offsets: Vec<u32> = (0..taps)
        .flat_map(|tap| (0..total).map(move |p| (p / pixels, p % pixels, tap)))
        .map(|(sample, pixel, tap)| match gather.sources[pixel * taps + tap] {
            SKIP => SKIP,
            from => (sample * gather.source_pixels) as u32 + from,
        })
        .collect();

    // Tasks of a few tiles each: one tap, up to `rows` input channels.
    let rows = g.inputs.div_ceil(2).next_multiple_of(ROWS).min(8 * ROWS);
    let tasks: Vec<(usize, usize, &mut [f32])> = weight
        .chunks_exact_mut(g.inputs * g.outputs)
        .enumerate()
        .flat_map(|(tap, w)| w.chunks_mut(rows * g.outputs).enumerate().map(move |(i, w)| (tap, i * rows, w)))
        .collect();
    tasks.into_par_iter().for_each(|(tap, first_input, weight)| {
        let inputs = weight.len() / g.outputs;
        let offsets = &offsets[tap * total..(tap + 1) * total];
        for start in (0..total).step_by(CHUNK_PIXELS) {
            let offsets = &offsets[start..(start + CHUNK_PIXELS).min(total)];
            for panel in 0..g.outputs.div_ceil(COLS) {
                for input in (0..inputs).step_by(ROWS) {
                    let count = ROWS.min(inputs - input);
                    let mut tile: Tile = [[0.0; COLS]; ROWS];
                    // SAFETY: an offset is a pixel of x, of which channels first_input + input .. + count are
                    // read; the panel has `total` rows, of which start .. + offsets.len() are read.
                    unsafe {
                        let x = x.as_ptr().add(first_input + input);
                        outer_product(x, offsets, g.inputs, panels.at(panel, start), count, &mut tile);
                    }
                    let first = panel * COLS;
                    let width = COLS.min(g.outputs - first);
                    for (r, values) in tile.iter().enumerate().take(count) {
                        let at = (input + r) * g.outputs + first;
                        for (out, value) in weight[at..at + width].iter_mut().zip(values) {
                            *out += value;
                        }
                    }
                }
            }
        }
    });
}
