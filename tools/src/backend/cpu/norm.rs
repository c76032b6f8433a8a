//! Normalisations. Statistics take two passes (mean, then squared deviations) in `f32` per channel.

use rayon::prelude::*;

use super::super::Norm;
use super::pointwise::sigmoid;
use super::simd::simd;

/// Added to the variance.
pub const EPSILON: f32 = 1e-5;

/// See [`Backend::group_norm`](super::super::Backend::group_norm).
pub fn group_norm(g: &Norm, x: &[f32], scale: &[f32], shift: &[f32], out: &mut [f32], stats: &mut [f32]) {
    let len = g.pixels * g.channels;
    out.par_chunks_mut(len).zip(stats.par_chunks_mut(2 * g.groups)).zip(x.par_chunks(len)).for_each(
        |((out, stats), x)| group_norm_sample(g, x, scale, shift, out, stats, &mut vec![0.0; 2 * g.channels]),
    );
}

simd! {
    fn group_norm_sample(
        g: &Norm, x: &[f32], scale: &[f32], shift: &[f32], out: &mut [f32], stats: &mut [f32], work: &mut [f32],
    ) {
        let (mul, add) = work.split_at_mut(g.channels);
        let size = g.channels / g.groups;
        let share = 1.0 / (g.pixels * size) as f32;
        for row in x.chunks_exact(g.channels) {
            for (sum, v) in add.iter_mut().zip(row) {
                *sum += v;
            }
        }
        for (stats, sums) in stats.chunks_exact_mut(2).zip(add.chunks_exact_mut(size)) {
            stats[0] = sums.iter().sum::<f32>() * share;
            sums.fill(stats[0]);
        }
        for row in x.chunks_exact(g.channels) {
            for ((sum, v), mean) in mul.iter_mut().zip(row).zip(add.iter()) {
                *sum += (v - mean) * (v - mean);
            }
        }
        for (group, stats) in stats.chunks_exact_mut(2).enumerate() {
            let channels = group * size..(group + 1) * size;
            stats[1] = 1.0 / (mul[channels.clone()].iter().sum::<f32>() * share + EPSILON).sqrt();
            for c in channels {
                mul[c] = stats[1] * scale[c];
                add[c] = shift[c] - stats[0] * mul[c];
            }
        }
        for (out, row) in out.chunks_exact_mut(g.channels).zip(x.chunks_exact(g.channels)) {
            for (((out, v), mul), add) in out.iter_mut().zip(row).zip(mul.iter()).zip(add.iter()) {
                let y = v * mul + add;
                *out = if g.silu { y * sigmoid(y) } else { y };
            }
        }
    }
}

/// See [`Backend::group_norm_grad`](super::super::Backend::group_norm_grad).
#[allow(clippy::too_many_arguments)]
pub fn group_norm_grad(
    g: &Norm,
    x: &[f32],
    scale: &[f32],
    shift: &[f32],
    stats: &[f32],
    grad: &[f32],
    out: &mut [f32],
    grad_scale: &mut [f32],
    grad_shift: &mut [f32],
) {
    let len = g.pixels * g.channels;
    let mut sums = vec![0.0; g.batch * 2 * g.channels];
    out.par_chunks_mut(len)
        .zip(sums.par_chunks_mut(2 * g.channels))
        .zip(x.par_chunks(len).zip(grad.par_chunks(len)))
        .zip(stats.par_chunks(2 * g.groups))
        .for_each(|(((out, sums), (x, grad)), stats)| {
            group_norm_grad_sample(g, x, scale, shift, stats, grad, out, sums, &mut vec![0.0; 4 * g.channels]);
        });
    for sums in sums.chunks_exact(2 * g.channels) {
        add(&sums[..g.channels], grad_shift);
        add(&sums[g.channels..], grad_scale);
    }
}

simd! {
    /// `sums` gets Σ dy and Σ dy·x̂ per channel, where y is the value before SiLU.
    fn group_norm_grad_sample(
        g: &Norm, x: &[f32], scale: &[f32], shift: &[f32], stats: &[f32], grad: &[f32], out: &mut [f32],
        sums: &mut [f32], work: &mut [f32],
    ) {
        let size = g.channels / g.groups;
        let (mean, rest) = work.split_at_mut(g.channels);
        let (rstd, rest) = rest.split_at_mut(g.channels);
        let (offset, slope) = rest.split_at_mut(g.channels);
        for c in 0..g.channels {
            mean[c] = stats[2 * (c / size)];
            rstd[c] = stats[2 * (c / size) + 1];
        }
        let (shift_sum, scale_sum) = sums.split_at_mut(g.channels);
        for ((out, x), grad) in
            out.chunks_exact_mut(g.channels).zip(x.chunks_exact(g.channels)).zip(grad.chunks_exact(g.channels))
        {
            for c in 0..g.channels {
                let normal = (x[c] - mean[c]) * rstd[c];
                let mut dy = grad[c];
                if g.silu {
                    let y = normal * scale[c] + shift[c];
                    let s = sigmoid(y);
                    dy *= s * (1.0 + y * (1.0 - s));
                }
                out[c] = dy;
                shift_sum[c] += dy;
                scale_sum[c] += dy * normal;
            }
        }
        let share = 1.0 / (g.pixels * size) as f32;
        for group in 0..g.groups {
            let channels = group * size..(group + 1) * size;
            let (mut m1, mut m2) = (0.0, 0.0);
            for c in channels.clone() {
                m1 += scale[c] * shift_sum[c];
                m2 += scale[c] * scale_sum[c];
            }
            for c in channels {
                // dx = rstd·(scale·dy − m1 − x̂·m2), as out·(rstd·scale) − (offset + slope·x).
                slope[c] = rstd[c] * rstd[c] * m2 * share;
                offset[c] = rstd[c] * m1 * share - slope[c] * mean[c];
            }
        }
        for (out, x) in out.chunks_exact_mut(g.channels).zip(x.chunks_exact(g.channels)) {
            for c in 0..g.channels {
                out[c] = out[c] * (rstd[c] * scale[c]) - (offset[c] + slope[c] * x[c]);
            }
        }
    }
}

/// See [`Backend::layer_norm`](super::super::Backend::layer_norm).
pub fn layer_norm(len: usize, x: &[f32], scale: &[f32], shift: &[f32], out: &mut [f32], stats: &mut [f32]) {
    out.par_chunks_mut(len)
        .zip(stats.par_chunks_mut(2))
        .zip(x.par_chunks(len))
        .for_each(|((out, stats), x)| layer_norm_row(x, scale, shift, out, stats));
}

simd! {
    fn layer_norm_row(x: &[f32], scale: &[f32], shift: &[f32], out: &mut [f32], stats: &mut [f32]) {
        let mean = lanes_sum(x, |v| v) / x.len() as f32;
        let rstd = 1.0 / (lanes_sum(x, |v| (v - mean) * (v - mean)) / x.len() as f32 + EPSILON).sqrt();
        (stats[0], stats[1]) = (mean, rstd);
        for (((out, x), scale), shift) in out.iter_mut().zip(x).zip(scale).zip(shift) {
            *out = (x - mean) * rstd * scale + shift;
        }
    }
}

/// See [`Backend::layer_norm_grad`](super::super::Backend::layer_norm_grad).
#[allow(clippy::too_many_arguments)]
pub fn layer_norm_grad(
    len: usize,
    x: &[f32],
    scale: &[f32],
    stats: &[f32],
    grad: &[f32],
    out: &mut [f32],
    grad_scale: &mut [f32],
    grad_shift: &mut [f32],
) {
    out.par_chunks_mut(len)
        .zip(x.par_chunks(len).zip(grad.par_chunks(len)))
        .zip(stats.par_chunks(2))
        .for_each(|((out, (x, grad)), stats)| layer_norm_grad_row(x, scale, stats, grad, out));
    for ((x, grad), stats) in x.chunks_exact(len).zip(grad.chunks_exact(len)).zip(stats.chunks_exact(2)) {
        layer_norm_grad_affine(x, stats, grad, grad_scale, grad_shift);
    }
}

simd! {
    fn layer_norm_grad_row(x: &[f32], scale: &[f32], stats: &[f32], grad: &[f32], out: &mut [f32]) {
        let (mean, rstd) = (stats[0], stats[1]);
        for ((out, grad), scale) in out.iter_mut().zip(grad).zip(scale) {
            *out = grad * scale;
        }
        let m1 = lanes_sum(out, |v| v) / x.len() as f32;
        let mut lanes = [0.0f32; 16];
        for (out, x) in out.chunks(16).zip(x.chunks(16)) {
            for ((lane, out), x) in lanes.iter_mut().zip(out).zip(x) {
                *lane += out * (x - mean) * rstd;
            }
        }
        let m2 = lanes.iter().sum::<f32>() / x.len() as f32;
        for (out, x) in out.iter_mut().zip(x) {
            *out = rstd * (*out - m1 - (x - mean) * rstd * m2);
        }
    }
}

simd! {
    fn layer_norm_grad_affine(
        x: &[f32], stats: &[f32], grad: &[f32], grad_scale: &mut [f32], grad_shift: &mut [f32],
    ) {
        for (((scale, shift), x), grad) in grad_scale.iter_mut().zip(grad_shift).zip(x).zip(grad) {
            *shift += grad;
            *scale += grad * (x - stats[0]) * stats[1];
        }
    }
}

/// Σ f(v) in sixteen interleaved sums.
#[inline(always)]
fn lanes_sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; 16];
    for chunk in x.chunks(16) {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane += f(v);
        }
    }
    lanes.iter().sum()
}

fn add(from: &[f32], to: &mut [f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}
