//! Pools over NHWC: the largest value of each window, or its mean.

use rayon::prelude::*;

use super::super::Pool;

/// Calls `work` with the index of every window in a sample and its pixels in the map, row by row.
fn for_windows(g: &Pool, mut work: impl FnMut(usize, &[usize])) {
    let (out_h, out_w) = g.out_size();
    let mut pixels = Vec::with_capacity(g.window.taps());
    for place in 0..out_h * out_w {
        pixels.clear();
        let pixel = |tap| g.window.pixel([place / out_w, place % out_w], tap, g.plane.height, g.plane.width);
        pixels.extend((0..g.window.taps()).filter_map(pixel));
        work(place, &pixels);
    }
}

/// Values of a sample before and after.
fn lengths(g: &Pool) -> (usize, usize) {
    let (out_h, out_w) = g.out_size();
    (g.plane.height * g.plane.width * g.plane.channels, out_h * out_w * g.plane.channels)
}

/// See [`Backend::pool`](super::super::Backend::pool).
pub fn forward(g: &Pool, x: &[f32], out: &mut [f32]) {
    let (c, (before, after)) = (g.plane.channels, lengths(g));
    out.par_chunks_mut(after).zip(x.par_chunks(before)).for_each(|(out, x)| {
        for_windows(g, |place, pixels| {
            let out = &mut out[place * c..][..c];
            out.fill(if g.mean { 0.0 } else { f32::NEG_INFINITY });
            for pixel in pixels {
                for (out, &value) in out.iter_mut().zip(&x[pixel * c..][..c]) {
                    *out = if g.mean { *out + value } else { out.max(value) };
                }
            }
            if g.mean {
                out.iter_mut().for_each(|out| *out /= pixels.len() as f32);
            }
        });
    });
}

/// See [`Backend::pool_grad`](super::super::Backend::pool_grad).
pub fn gradient(g: &Pool, x: &[f32], grad: &[f32], out: &mut [f32]) {
    let (c, (before, after)) = (g.plane.channels, lengths(g));
    out.par_chunks_mut(before).zip(x.par_chunks(before)).zip(grad.par_chunks(after)).for_each(|((out, x), grad)| {
        out.fill(0.0);
        for_windows(g, |place, pixels| {
            for (channel, &slope) in grad[place * c..][..c].iter().enumerate() {
                if g.mean {
                    let share = slope / pixels.len() as f32;
                    pixels.iter().for_each(|pixel| out[pixel * c + channel] += share);
                } else {
                    let value = |pixel: usize| x[pixel * c + channel];
                    let first = pixels.iter().copied().reduce(|a, b| if value(b) > value(a) { b } else { a });
                    first.into_iter().for_each(|pixel| out[pixel * c + channel] += slope);
                }
            }
        });
    });
}
