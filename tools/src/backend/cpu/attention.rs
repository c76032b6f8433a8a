//! Small self-attention: one sample and head at a time, plain loops over tokens.

use rayon::prelude::*;

use super::super::Attention;
use super::simd::simd;

/// See [`Backend::attention`](super::super::Backend::attention).
pub fn forward(g: &Attention, qkv: &[f32], out: &mut [f32], weights: &mut [f32]) {
    let (tokens, channels) = (g.tokens, g.channels);
    out.par_chunks_mut(tokens * channels)
        .zip(weights.par_chunks_mut(g.heads * tokens * tokens))
        .zip(qkv.par_chunks(tokens * 3 * channels))
        .for_each(|((out, weights), qkv)| {
            for (head, weights) in weights.chunks_exact_mut(tokens * tokens).enumerate() {
                forward_head(g, head, qkv, out, weights);
            }
        });
}

/// See [`Backend::attention_grad`](super::super::Backend::attention_grad).
pub fn backward(g: &Attention, qkv: &[f32], weights: &[f32], grad: &[f32], out: &mut [f32]) {
    let (tokens, channels) = (g.tokens, g.channels);
    out.par_chunks_mut(tokens * 3 * channels)
        .zip(qkv.par_chunks(tokens * 3 * channels).zip(grad.par_chunks(tokens * channels)))
        .zip(weights.par_chunks(g.heads * tokens * tokens))
        .for_each(|((out, (qkv, grad)), weights)| {
            out.fill(0.0);
            let mut scores = vec![0.0; tokens];
            for (head, weights) in weights.chunks_exact(tokens * tokens).enumerate() {
                backward_head(g, head, qkv, weights, grad, out, &mut scores);
            }
        });
}

/// Ranges of a head's query, key and value within a token's `3 · channels`.
#[inline(always)]
fn parts(g: &Attention, head: usize) -> [std::ops::Range<usize>; 3] {
    let size = g.channels / g.heads;
    [0, 1, 2].map(|part| part * g.channels + head * size..part * g.channels + (head + 1) * size)
}

/// Row `token` of an array of rows of `width`.
#[inline(always)]
fn row(x: &[f32], token: usize, width: usize) -> &[f32] {
    &x[token * width..(token + 1) * width]
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    for (a, b) in a.chunks(16).zip(b.chunks(16)) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    lanes.iter().sum()
}

#[inline(always)]
fn add_scaled(factor: f32, from: &[f32], to: &mut [f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += factor * from;
    }
}

simd! {
    fn forward_head(g: &Attention, head: usize, qkv: &[f32], out: &mut [f32], weights: &mut [f32]) {
        let [q, k, v] = parts(g, head);
        let width = 3 * g.channels;
        let scale = 1.0 / (q.len() as f32).sqrt();
        for (i, scores) in weights.chunks_exact_mut(g.tokens).enumerate() {
            let query = &row(qkv, i, width)[q.clone()];
            for (j, score) in scores.iter_mut().enumerate() {
                *score = dot(query, &row(qkv, j, width)[k.clone()]) * scale;
            }
            let max = scores.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
            scores.iter_mut().for_each(|s| *s = (*s - max).exp());
            let share = 1.0 / scores.iter().sum::<f32>();
            scores.iter_mut().for_each(|s| *s *= share);
            let to = &mut out[i * g.channels..][q.clone()];
            to.fill(0.0);
            for (j, &score) in scores.iter().enumerate() {
                add_scaled(score, &row(qkv, j, width)[v.clone()], to);
            }
        }
    }
}

simd! {
    fn backward_head(
        g: &Attention, head: usize, qkv: &[f32], weights: &[f32], grad: &[f32], out: &mut [f32], scores: &mut [f32],
    ) {
        let [q, k, v] = parts(g, head);
        let width = 3 * g.channels;
        let scale = 1.0 / (q.len() as f32).sqrt();
        for (i, weights) in weights.chunks_exact(g.tokens).enumerate() {
            let grad = &row(grad, i, g.channels)[q.clone()];
            let mut mean = 0.0;
            for j in 0..g.tokens {
                scores[j] = dot(grad, &row(qkv, j, width)[v.clone()]);
                mean += weights[j] * scores[j];
                add_scaled(weights[j], grad, &mut out[j * width..][v.clone()]);
            }
            for j in 0..g.tokens {
                let slope = weights[j] * (scores[j] - mean) * scale;
                add_scaled(slope, &row(qkv, j, width)[k.clone()], &mut out[i * width..][q.clone()]);
                add_scaled(slope, &row(qkv, i, width)[q.clone()], &mut out[j * width..][k.clone()]);
            }
        }
    }
}
