//! Operators that treat each value, or move it.

use super::grid::{Grid, GridMut, Shape};
use super::lanes::{LANES, load, silus, store};
use crate::isa::{Isa, Simd, Task};

/// SiLU.
pub(in crate::network) fn silu(isa: Isa, x: Grid, out: GridMut) {
    isa.run(Silu { x, out });
}

struct Silu<'a> {
    x: Grid<'a>,
    out: GridMut<'a>,
}

impl Task for Silu<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self) {
        let Shape { channels, height, width } = self.x.view.shape;
        for y in 0..height {
            for x in 0..width {
                let (value, out) = (self.x.pixel(y, x), self.out.pixel(y, x));
                for c in (0..channels).step_by(LANES) {
                    store(silus(load(&value[c..])), &mut out[c..]);
                }
            }
        }
    }
}

/// The sum of two.
pub(in crate::network) fn add(a: Grid, b: Grid, mut out: GridMut) {
    let Shape { height, width, .. } = a.view.shape;
    for y in 0..height {
        for x in 0..width {
            let sums = a.pixel(y, x).iter().zip(b.pixel(y, x)).map(|(a, b)| a + b);
            out.pixel(y, x).iter_mut().zip(sums).for_each(|(out, sum)| *out = sum);
        }
    }
}

/// Adds one value per channel to every pixel.
pub(in crate::network) fn add_vector(a: Grid, vector: &[f32], mut out: GridMut) {
    let Shape { height, width, .. } = a.view.shape;
    for y in 0..height {
        for x in 0..width {
            let sums = a.pixel(y, x).iter().zip(vector).map(|(a, b)| a + b);
            out.pixel(y, x).iter_mut().zip(sums).for_each(|(out, sum)| *out = sum);
        }
    }
}

/// Copies.
pub(in crate::network) fn copy(a: Grid, mut out: GridMut) {
    let Shape { height, width, .. } = a.view.shape;
    for y in 0..height {
        for x in 0..width {
            out.pixel(y, x).copy_from_slice(a.pixel(y, x));
        }
    }
}

/// Of every pixel's channels `[block, block, C]` makes block × block pixels of C channels.
pub(in crate::network) fn depth_to_space(a: Grid, block: usize, mut out: GridMut) {
    let Shape { height, width, channels } = out.view.shape;
    for y in 0..height {
        for x in 0..width {
            let from = (y % block * block + x % block) * channels;
            out.pixel(y, x).copy_from_slice(&a.pixel(y / block, x / block)[from..][..channels]);
        }
    }
}

/// The cosines of `t` times each of `rates`, then the sines.
pub(in crate::network) fn sinusoid(t: f32, rates: &[f32], mut out: GridMut) {
    let (cosines, sines) = out.pixel(0, 0).split_at_mut(rates.len());
    for ((cosine, sine), rate) in cosines.iter_mut().zip(sines).zip(rates) {
        // Of this crate, not of the system: the same bits everywhere.
        (*cosine, *sine) = (libm::cosf(t * rate), libm::sinf(t * rate));
    }
}

/// From `planes` channel × height × width.
pub(in crate::network) fn read_planes(planes: &[f32], mut out: GridMut) {
    let Shape { height, width, .. } = out.view.shape;
    for y in 0..height {
        for x in 0..width {
            let values = planes[y * width + x..].iter().step_by(height * width);
            out.pixel(y, x).iter_mut().zip(values).for_each(|(out, value)| *out = *value);
        }
    }
}

/// To `planes` channel × height × width.
pub(in crate::network) fn write_planes(a: Grid, planes: &mut [f32]) {
    let Shape { height, width, .. } = a.view.shape;
    for y in 0..height {
        for x in 0..width {
            let out = planes[y * width + x..].iter_mut().step_by(height * width);
            out.zip(a.pixel(y, x)).for_each(|(out, value)| *out = *value);
        }
    }
}
