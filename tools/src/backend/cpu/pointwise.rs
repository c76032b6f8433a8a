//! Elementwise operations, rearrangements and the optimizer.

use rayon::prelude::*;

use super::super::{AdamW, Mask, Plane, Trained};
use super::simd::simd;

/// Elements one task works on.
const CHUNK: usize = 1 << 15;

/// 1 / (1 + e^−x), within 3e-7 of the exact value; vectorises.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// e^x for x clamped to −87…87: round to a power of two, then a degree-6 polynomial.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding 1.5·2²³ rounds to an integer that stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 87.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.0 + r * (1.0 + r * (0.5 + r * (0.166_666_66 + r * (0.041_666_6 + r * (0.008_333_4 + r * 0.001_388_9)))));
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// Applies `f` to matching chunks of inputs and output, in parallel.
macro_rules! pointwise {
    ($(#[$meta:meta])* $name:ident, $body:ident, ($($k:ident: $kt:ty),*), ($($x:ident),+) => $value:expr) => {
        $(#[$meta])*
        pub fn $name($($k: $kt,)* $($x: &[f32],)+ out: &mut [f32]) {
            out.par_chunks_mut(CHUNK).enumerate().for_each(|(i, out)| {
                let range = i * CHUNK..i * CHUNK + out.len();
                $body($($k,)* $(&$x[range.clone()],)+ out);
            });
        }
        simd! {
            fn $body($($k: $kt,)* $($x: &[f32],)+ out: &mut [f32]) {
                for (i, out) in out.iter_mut().enumerate() {
                    $(let $x = $x[i];)+
                    *out = $value;
                }
            }
        }
    };
}

pointwise!(
    /// x · sigmoid(x).
    silu, silu_chunk, (), (x) => x * sigmoid(x)
);
pointwise!(
    /// Gradient of [`silu`].
    silu_grad, silu_grad_chunk, (), (x, grad) => {
        let s = sigmoid(x);
        grad * s * (1.0 + x * (1.0 - s))
    }
);
pointwise!(
    /// x where positive, else slope · x.
    leaky_relu, leaky_relu_chunk, (slope: f32), (x) => if x > 0.0 { x } else { slope * x }
);
pointwise!(
    /// Gradient of [`leaky_relu`].
    leaky_relu_grad, leaky_relu_grad_chunk, (slope: f32), (x, grad) => if x > 0.0 { grad } else { slope * grad }
);
pointwise!(
    /// factor · x + summand.
    affine, affine_chunk, (factor: f32, summand: f32), (x) => factor * x + summand
);
pointwise!(
    /// a + b.
    add, add_chunk, (), (a, b) => a + b
);

/// See [`Backend::dropout`](super::super::Backend::dropout).
pub fn dropout(mask: &Mask, seed: [u32; 2], x: &[f32], out: &mut [f32]) {
    let (threshold, scale) = (mask.threshold(), mask.scale());
    // The kernel has the same.
    let key = mix(mix(seed[0] ^ mix(mask.number)) ^ seed[1]);
    out.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).enumerate().for_each(|(chunk, (out, x))| {
        let first = mask.first.wrapping_add((chunk * CHUNK) as u32);
        for (i, (out, x)) in (0..).zip(out.iter_mut().zip(x)) {
            let kept = mix(mix(first.wrapping_add(i)) ^ key) >= threshold;
            *out = if kept { scale * x } else { 0.0 };
        }
    });
}

/// A permutation of 32 bits in which every bit of the input changes about half of those of the output (Wellons 2018,
/// lowbias32).
fn mix(mut x: u32) -> u32 {
    x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// `to += from`.
pub fn accumulate(from: &[f32], to: &mut [f32]) {
    to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| {
        to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
    });
}

/// Sum of squares, in chunks of fixed size so that the result does not depend on threads.
pub fn square_sum(x: &[f32]) -> f64 {
    let partial = |x: &[f32]| x.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>();
    x.par_chunks(CHUNK).map(partial).collect::<Vec<_>>().iter().sum()
}

/// `out[n,p,c] = x[n,p,c] + v[n,c]`.
pub fn add_vector(batch: usize, channels: usize, x: &[f32], v: &[f32], out: &mut [f32]) {
    let len = out.len() / batch;
    out.par_chunks_mut(len).zip(x.par_chunks(len)).zip(v.par_chunks(channels)).for_each(|((out, x), v)| {
        for (out, x) in out.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
            for ((out, x), v) in out.iter_mut().zip(x).zip(v) {
                *out = x + v;
            }
        }
    });
}

/// `out[n,c] = Σ_p grad[n,p,c]`.
pub fn sum_pixels(batch: usize, channels: usize, grad: &[f32], out: &mut [f32]) {
    let len = grad.len() / batch;
    out.par_chunks_mut(channels).zip(grad.par_chunks(len)).for_each(|(out, grad)| {
        out.fill(0.0);
        for row in grad.chunks_exact(channels) {
            out.iter_mut().zip(row).for_each(|(out, v)| *out += v);
        }
    });
}

/// Channels of `a`, then of `b`, for each of `rows` pixels.
pub fn concat(rows: usize, a: &[f32], b: &[f32], out: &mut [f32]) {
    let (ca, cb) = (a.len() / rows, b.len() / rows);
    out.par_chunks_mut(64 * (ca + cb)).zip(a.par_chunks(64 * ca).zip(b.par_chunks(64 * cb))).for_each(
        |(out, (a, b))| {
            for ((out, a), b) in out.chunks_exact_mut(ca + cb).zip(a.chunks_exact(ca)).zip(b.chunks_exact(cb)) {
                out[..ca].copy_from_slice(a);
                out[ca..].copy_from_slice(b);
            }
        },
    );
}

/// Inverse of [`concat()`].
pub fn split(rows: usize, x: &[f32], a: &mut [f32], b: &mut [f32]) {
    let (ca, cb) = (a.len() / rows, b.len() / rows);
    for ((x, a), b) in x.chunks_exact(ca + cb).zip(a.chunks_exact_mut(ca)).zip(b.chunks_exact_mut(cb)) {
        a.copy_from_slice(&x[..ca]);
        b.copy_from_slice(&x[ca..]);
    }
}

/// Nearest upsampling by 2.
pub fn upsample(g: &Plane, x: &[f32], out: &mut [f32]) {
    let c = g.channels;
    out.par_chunks_mut(4 * g.width * c).zip(x.par_chunks(g.width * c)).for_each(|(out, row)| {
        let (top, bottom) = out.split_at_mut(2 * g.width * c);
        for (out, pixel) in top.chunks_exact_mut(2 * c).zip(row.chunks_exact(c)) {
            out[..c].copy_from_slice(pixel);
            out[c..].copy_from_slice(pixel);
        }
        bottom.copy_from_slice(top);
    });
}

/// Gradient of [`upsample`]: sums of 2×2 pixels.
pub fn upsample_grad(g: &Plane, grad: &[f32], out: &mut [f32]) {
    let c = g.channels;
    out.par_chunks_mut(g.width * c).zip(grad.par_chunks(4 * g.width * c)).for_each(|(out, grad)| {
        let (top, bottom) = grad.split_at(2 * g.width * c);
        let pairs = top.chunks_exact(2 * c).zip(bottom.chunks_exact(2 * c));
        for (out, (top, bottom)) in out.chunks_exact_mut(c).zip(pairs) {
            for i in 0..c {
                out[i] = top[i] + top[c + i] + bottom[i] + bottom[c + i];
            }
        }
    });
}

/// `[N,H,W,4C]` → `[N,2H,2W,C]`; `g` is the input.
pub fn depth_to_space(g: &Plane, x: &[f32], out: &mut [f32]) {
    for_pixel_pairs(g, |pair, deep| out[pair].copy_from_slice(&x[deep]));
}

/// Inverse of [`depth_to_space`]; `g` is the deep side.
pub fn space_to_depth(g: &Plane, grad: &[f32], out: &mut [f32]) {
    for_pixel_pairs(g, |pair, deep| out[deep].copy_from_slice(&grad[pair]));
}

/// For every deep pixel and each of its two rows: the range of its two pixels in the wide array, and of the
/// half of its channels that they hold.
fn for_pixel_pairs(g: &Plane, mut f: impl FnMut(std::ops::Range<usize>, std::ops::Range<usize>)) {
    let half = g.channels / 2;
    for deep in 0..g.batch * g.height * g.width {
        let (row, col) = (deep / g.width, deep % g.width);
        for i in 0..2 {
            let wide = ((row * 2 + i) * g.width + col) * half;
            let from = deep * g.channels + i * half;
            f(wide..wide + half, from..from + half);
        }
    }
}

/// Drops `margin` pixels on each side; `g` is the input.
pub fn crop(g: &Plane, margin: usize, x: &[f32], out: &mut [f32]) {
    for_cropped_rows(g, margin, |outer, inner| out[inner].copy_from_slice(&x[outer]));
}

/// Gradient of [`crop`]: zeros around.
pub fn crop_grad(g: &Plane, margin: usize, grad: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    for_cropped_rows(g, margin, |outer, inner| out[outer].copy_from_slice(&grad[inner]));
}

fn for_cropped_rows(g: &Plane, margin: usize, mut f: impl FnMut(std::ops::Range<usize>, std::ops::Range<usize>)) {
    let (height, width) = (g.height - 2 * margin, g.width - 2 * margin);
    for row in 0..g.batch * height {
        let (sample, row_in) = (row / height, row % height + margin);
        let outer = ((sample * g.height + row_in) * g.width + margin) * g.channels;
        let inner = row * width * g.channels;
        f(outer..outer + width * g.channels, inner..inner + width * g.channels);
    }
}

/// Cosines then sines of `t · 10000^(−i/(dim/2))`.
pub fn sinusoid(dim: usize, t: &[f32], out: &mut [f32]) {
    let half = dim / 2;
    for (&t, out) in t.iter().zip(out.chunks_exact_mut(dim)) {
        for i in 0..half {
            let angle = t * (-(10_000f32.ln()) * i as f32 / half as f32).exp();
            out[i] = angle.cos();
            out[half + i] = angle.sin();
        }
    }
}

/// See [`Backend::squared_error`](super::super::Backend::squared_error); returns the loss.
pub fn squared_error(predicted: &[f32], target: &[f32], weights: &[f32], grad: &mut [f32]) -> f64 {
    let per_sample = predicted.len() / weights.len();
    let share = 1.0 / predicted.len() as f32;
    let mut loss = 0.0;
    for (i, ((grad, p), t)) in grad.iter_mut().zip(predicted).zip(target).enumerate() {
        let (weight, d) = (weights[i / per_sample], p - t);
        loss += f64::from(share * weight * d * d);
        *grad = 2.0 * share * weight * d;
    }
    loss
}

/// `to += weights[sample] · (a − b)`.
pub fn add_difference(weights: &[f32], a: &[f32], b: &[f32], to: &mut [f32]) {
    let per_sample = to.len() / weights.len();
    for (i, (to, (a, b))) in to.iter_mut().zip(a.iter().zip(b)).enumerate() {
        *to += weights[i / per_sample] * (a - b);
    }
}

/// See [`Backend::update`](super::super::Backend::update).
pub fn update(settings: &AdamW, pace: &[f32], tensors: &mut [Trained<'_, Vec<f32>>]) {
    let norm = tensors.iter().map(|t| square_sum(t.grad)).sum::<f64>().sqrt();
    let grad_scale = if norm > f64::from(settings.max_norm) { settings.max_norm / norm as f32 } else { 1.0 };
    for t in tensors {
        let settings = AdamW { weight_decay: if t.decays { settings.weight_decay } else { 0.0 }, ..*settings };
        t.value
            .par_chunks_mut(CHUNK)
            .zip(t.first_moment.par_chunks_mut(CHUNK))
            .zip(t.second_moment.par_chunks_mut(CHUNK))
            .zip(t.average.par_chunks_mut(CHUNK))
            .zip(t.grad.par_chunks_mut(CHUNK))
            .for_each(|((((value, m), v), average), grad)| {
                adamw_chunk(&settings, pace, grad_scale, grad, value, m, v, average);
            });
    }
}

simd! {
    fn adamw_chunk(
        s: &AdamW, pace: &[f32], grad_scale: f32, grad: &mut [f32], value: &mut [f32], m: &mut [f32], v: &mut [f32],
        average: &mut [f32],
    ) {
        let (rate, correct1, correct2, average_decay) = (pace[0], pace[1], pace[2], pace[3]);
        let n = value.len();
        let (grad, m, v, average) = (&mut grad[..n], &mut m[..n], &mut v[..n], &mut average[..n]);
        for i in 0..n {
            let g = grad[i] * grad_scale;
            grad[i] = 0.0;
            m[i] = s.beta1 * m[i] + (1.0 - s.beta1) * g;
            v[i] = s.beta2 * v[i] + (1.0 - s.beta2) * g * g;
            let update = m[i] * correct1 / ((v[i] * correct2).sqrt() + 1e-8);
            value[i] -= rate * (update + s.weight_decay * value[i]);
            average[i] = average_decay * average[i] + (1.0 - average_decay) * value[i];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{dropout, sigmoid};
    use crate::backend::Mask;

    #[test]
    fn dropout_drops_as_much_as_said_keeps_the_mean_and_goes_on_where_a_part_begins() {
        let x = vec![1.0; 100_000];
        let with_seed = |mask: Mask, seed, x: &[f32]| {
            let mut out = vec![f32::NAN; x.len()];
            dropout(&mask, seed, x, &mut out);
            out
        };
        let dropped = |mask: Mask, x: &[f32]| with_seed(mask, [3, 4], x);
        for rate in [0.1, 0.5, 0.9] {
            let mask = Mask { rate, number: 2, first: u32::MAX - 500 };
            let out = dropped(mask, &x);
            let zeros = out.iter().filter(|&&v| v == 0.0).count() as f32 / x.len() as f32;
            assert!((zeros - rate).abs() < 0.005, "{zeros} of {rate}");
            assert!(out.iter().all(|&v| v == 0.0 || v == mask.scale()));
            let part = dropped(Mask { first: mask.first.wrapping_add(77), ..mask }, &x[77..]);
            assert_eq!(part, out[77..]);
            // Independent of another seed's and of another mask's: they agree as often as chance has it.
            for (seed, number) in [([3, 5], 2), ([4, 4], 2), ([4, 3], 2), ([3, 4], 1), ([2, 4], 3)] {
                let other = with_seed(Mask { number, ..mask }, seed, &x);
                let agree = out.iter().zip(&other).filter(|(a, b)| a == b).count() as f32 / x.len() as f32;
                let chance = rate * rate + (1.0 - rate) * (1.0 - rate);
                assert!((agree - chance).abs() < 0.01, "{agree} of {chance}");
            }
        }
    }

    #[test]
    fn the_sigmoid_is_close_to_the_exact_one_everywhere() {
        for i in -1_000..=1_000 {
            let x = i as f32 * 0.1;
            let exact = 1.0 / (1.0 + (-f64::from(x)).exp());
            assert!((f64::from(sigmoid(x)) - exact).abs() < 3e-7, "sigmoid({x})");
        }
    }
}
