//! The CPU backend: own register-tiled kernels, rayon for threads.
//!
//! Results do not depend on the number of threads: every sum is taken in an order fixed by the shapes.

mod attention;
mod book;
mod conv;
mod loss;
mod nearest;
mod norm;
mod pointwise;
mod pool;
mod simd;
mod windows;

use std::cell::RefCell;
use std::collections::HashMap;

pub use book::{advance as advance_book, sum as sum_book};
pub use nearest::nearest;
use rayon::prelude::*;
pub use windows::Latents;

use super::codes::CodeSet;
use super::pictures::{Cut, PictureSet};
use super::windows::{Batch, LatentSet, Layout, WindowSettings};
use super::{AdamW, Attention, Backend, Book, BookStep, Conv, Mask, Norm, PictureError, Plane, Pool, Trained};

/// The CPU. Keeps released buffers by length, since a training step asks for the same ones again.
#[derive(Debug, Default)]
pub struct Cpu {
    free: RefCell<HashMap<usize, Vec<Vec<f32>>>>,
}

impl Backend for Cpu {
    type Buffer = Vec<f32>;
    type Latents = Latents;
    type Pictures = PictureSet;
    type Codes = CodeSet;
    type Recording = ();

    fn alloc(&self, len: usize) -> Vec<f32> {
        self.free.borrow_mut().get_mut(&len).and_then(Vec::pop).unwrap_or_else(|| vec![0.0; len])
    }

    fn alloc_floats(&self, len: usize) -> Vec<f32> {
        self.alloc(len)
    }

    fn zeros(&self, len: usize) -> Vec<f32> {
        let mut buffer = self.alloc(len);
        buffer.fill(0.0);
        buffer
    }

    fn upload(&self, values: &[f32]) -> Vec<f32> {
        let mut buffer = self.alloc(values.len());
        buffer.copy_from_slice(values);
        buffer
    }

    fn upload_activations(&self, values: &[f32]) -> Vec<f32> {
        self.upload(values)
    }

    fn write(&self, values: &[f32], to: &mut Vec<f32>) {
        to.copy_from_slice(values);
    }

    fn download(&self, buffer: &Vec<f32>) -> Vec<f32> {
        buffer.clone()
    }

    fn release(&self, buffer: Vec<f32>) {
        self.free.borrow_mut().entry(buffer.len()).or_default().push(buffer);
    }

    fn copy(&self, from: &Vec<f32>, to: &mut Vec<f32>) {
        to.copy_from_slice(from);
    }

    fn clear(&self, to: &mut Vec<f32>) {
        to.fill(0.0);
    }

    fn accumulate(&self, from: &Vec<f32>, to: &mut Vec<f32>) {
        pointwise::accumulate(from, to);
    }

    fn convert(&self, from: &Vec<f32>, to: &mut Vec<f32>) {
        to.copy_from_slice(from);
    }

    fn fill(&self, value: f32, to: &mut Vec<f32>) {
        to.fill(value);
    }

    fn affine(&self, factor: f32, summand: f32, x: &Vec<f32>, out: &mut Vec<f32>) {
        pointwise::affine(factor, summand, x, out);
    }

    fn add_scaled(&self, scale: &Vec<f32>, x: &Vec<f32>, to: &mut Vec<f32>) {
        to.iter_mut().zip(x).for_each(|(to, x)| *to += scale[0] * x);
    }

    fn note(&self, values: &Vec<f32>, [column, columns]: [usize; 2], row: &Vec<f32>, log: &mut Vec<f32>) {
        log[row[0] as usize * columns..][..columns][column..][..values.len()].copy_from_slice(values);
    }

    fn square_sum(&self, x: &Vec<f32>, out: &mut Vec<f32>) {
        out[0] = pointwise::square_sum(x) as f32;
    }

    fn conv(&self, g: &Conv, x: &Vec<f32>, weight: &Vec<f32>, bias: &Vec<f32>, out: &mut Vec<f32>) {
        conv::forward(g, x, weight, bias, out);
    }

    fn conv_grad_input(&self, g: &Conv, weight: &Vec<f32>, grad: &Vec<f32>, out: &mut Vec<f32>) {
        conv::grad_input(g, weight, grad, out);
    }

    fn conv_grad_weight(&self, g: &Conv, x: &Vec<f32>, grad: &Vec<f32>, weight: &mut Vec<f32>, bias: &mut Vec<f32>) {
        conv::grad_weight(g, x, grad, weight, bias);
    }

    fn group_norm(
        &self,
        g: &Norm,
        x: &Vec<f32>,
        scale: &Vec<f32>,
        shift: &Vec<f32>,
        out: &mut Vec<f32>,
        stats: &mut Vec<f32>,
    ) {
        norm::group_norm(g, x, scale, shift, out, stats);
    }

    fn group_norm_grad(
        &self,
        g: &Norm,
        x: &Vec<f32>,
        scale: &Vec<f32>,
        shift: &Vec<f32>,
        stats: &Vec<f32>,
        grad: &Vec<f32>,
        out: &mut Vec<f32>,
        grad_scale: &mut Vec<f32>,
        grad_shift: &mut Vec<f32>,
    ) {
        norm::group_norm_grad(g, x, scale, shift, stats, grad, out, grad_scale, grad_shift);
    }

    fn layer_norm(
        &self,
        _batch: usize,
        len: usize,
        x: &Vec<f32>,
        scale: &Vec<f32>,
        shift: &Vec<f32>,
        out: &mut Vec<f32>,
        stats: &mut Vec<f32>,
    ) {
        norm::layer_norm(len, x, scale, shift, out, stats);
    }

    fn layer_norm_grad(
        &self,
        _batch: usize,
        len: usize,
        x: &Vec<f32>,
        scale: &Vec<f32>,
        stats: &Vec<f32>,
        grad: &Vec<f32>,
        out: &mut Vec<f32>,
        grad_scale: &mut Vec<f32>,
        grad_shift: &mut Vec<f32>,
    ) {
        norm::layer_norm_grad(len, x, scale, stats, grad, out, grad_scale, grad_shift);
    }

    fn silu(&self, x: &Vec<f32>, out: &mut Vec<f32>) {
        pointwise::silu(x, out);
    }

    fn silu_grad(&self, x: &Vec<f32>, grad: &Vec<f32>, out: &mut Vec<f32>) {
        pointwise::silu_grad(x, grad, out);
    }

    fn leaky_relu(&self, slope: f32, x: &Vec<f32>, out: &mut Vec<f32>) {
        pointwise::leaky_relu(slope, x, out);
    }

    fn leaky_relu_grad(&self, slope: f32, x: &Vec<f32>, grad: &Vec<f32>, out: &mut Vec<f32>) {
        pointwise::leaky_relu_grad(slope, x, grad, out);
    }

    fn dropout(&self, mask: &Mask, seed: &Vec<f32>, x: &Vec<f32>, out: &mut Vec<f32>) {
        pointwise::dropout(mask, [seed[0] as u32, seed[1] as u32], x, out);
    }

    fn add(&self, a: &Vec<f32>, b: &Vec<f32>, out: &mut Vec<f32>) {
        pointwise::add(a, b, out);
    }

    fn add_vector(&self, batch: usize, channels: usize, x: &Vec<f32>, v: &Vec<f32>, out: &mut Vec<f32>) {
        pointwise::add_vector(batch, channels, x, v, out);
    }

    fn sum_pixels(&self, batch: usize, channels: usize, grad: &Vec<f32>, out: &mut Vec<f32>) {
        pointwise::sum_pixels(batch, channels, grad, out);
    }

    fn concat(&self, rows: usize, a: &Vec<f32>, b: &Vec<f32>, out: &mut Vec<f32>) {
        pointwise::concat(rows, a, b, out);
    }

    fn split(&self, rows: usize, x: &Vec<f32>, a: &mut Vec<f32>, b: &mut Vec<f32>) {
        pointwise::split(rows, x, a, b);
    }

    fn upsample(&self, g: &Plane, x: &Vec<f32>, out: &mut Vec<f32>) {
        pointwise::upsample(g, x, out);
    }

    fn upsample_grad(&self, g: &Plane, grad: &Vec<f32>, out: &mut Vec<f32>) {
        pointwise::upsample_grad(g, grad, out);
    }

    fn depth_to_space(&self, g: &Plane, x: &Vec<f32>, out: &mut Vec<f32>) {
        pointwise::depth_to_space(g, x, out);
    }

    fn space_to_depth(&self, g: &Plane, grad: &Vec<f32>, out: &mut Vec<f32>) {
        pointwise::space_to_depth(g, grad, out);
    }

    fn crop(&self, g: &Plane, margin: usize, x: &Vec<f32>, out: &mut Vec<f32>) {
        pointwise::crop(g, margin, x, out);
    }

    fn crop_grad(&self, g: &Plane, margin: usize, grad: &Vec<f32>, out: &mut Vec<f32>) {
        pointwise::crop_grad(g, margin, grad, out);
    }

    fn pool(&self, g: &Pool, x: &Vec<f32>, out: &mut Vec<f32>) {
        pool::forward(g, x, out);
    }

    fn pool_grad(&self, g: &Pool, x: &Vec<f32>, grad: &Vec<f32>, out: &mut Vec<f32>) {
        pool::gradient(g, x, grad, out);
    }

    fn attention(&self, g: &Attention, qkv: &Vec<f32>, out: &mut Vec<f32>, weights: &mut Vec<f32>) {
        attention::forward(g, qkv, out, weights);
    }

    fn attention_grad(&self, g: &Attention, qkv: &Vec<f32>, weights: &Vec<f32>, grad: &Vec<f32>, out: &mut Vec<f32>) {
        attention::backward(g, qkv, weights, grad, out);
    }

    fn sinusoid(&self, dim: usize, t: &Vec<f32>, out: &mut Vec<f32>) {
        pointwise::sinusoid(dim, t, out);
    }

    fn nearest(&self, channels: usize, rows: &Vec<f32>, entries: &[f32]) -> Vec<u32> {
        nearest(channels, rows, entries)
    }

    fn assign(
        &self,
        channels: usize,
        rows: &Vec<f32>,
        entries: &Vec<f32>,
        codes: &mut Vec<f32>,
        chosen: &mut Vec<f32>,
    ) {
        let found = nearest(channels, rows, entries);
        for ((code, chosen), found) in codes.iter_mut().zip(chosen.chunks_exact_mut(channels)).zip(found) {
            *code = found as f32;
            chosen.copy_from_slice(&entries[found as usize * channels..][..channels]);
        }
    }

    fn sum_book(
        &self,
        share: [usize; 2],
        rows: &Vec<f32>,
        codes: &Vec<f32>,
        key: &Vec<f32>,
        step: &mut BookStep<Vec<f32>>,
    ) {
        let codes: Vec<u32> = codes.iter().map(|&code| code as u32).collect();
        book::sum(share, rows, &codes, [key[0] as u32, key[1] as u32], step);
    }

    fn move_book(&self, decay: f32, times: usize, step: &BookStep<Vec<f32>>, book: &mut Book<Vec<f32>>) {
        book::advance(decay, times, step, book);
    }

    fn picture_error(
        &self,
        g: &PictureError,
        fake: &Vec<f32>,
        real: &Vec<f32>,
        grad: &mut Vec<f32>,
        errors: &mut Vec<f32>,
    ) {
        errors.copy_from_slice(&loss::picture_error(g, fake, real, grad));
    }

    fn hinge(&self, sign: f32, scores: &Vec<f32>, grad: &mut Vec<f32>, loss: &mut Vec<f32>) {
        loss[0] += loss::hinge(sign, scores, grad) as f32;
    }

    fn adaptive_weight(&self, weight: f32, a: &Vec<f32>, b: &Vec<f32>, out: &mut Vec<f32>) {
        out[0] = loss::adaptive_weight(weight, a[0], b[0]);
    }

    fn over_mean_square(&self, weight: f32, n: usize, square_sum: &Vec<f32>, out: &mut Vec<f32>) {
        out.fill(weight / (square_sum[0] / n as f32).max(1e-12));
    }

    fn squared_error(
        &self,
        predicted: &Vec<f32>,
        target: &Vec<f32>,
        weights: &Vec<f32>,
        grad: &mut Vec<f32>,
        loss: &mut Vec<f32>,
    ) {
        loss[0] = pointwise::squared_error(predicted, target, weights, grad) as f32;
    }

    fn add_difference(&self, weights: &Vec<f32>, a: &Vec<f32>, b: &Vec<f32>, to: &mut Vec<f32>) {
        pointwise::add_difference(weights, a, b, to);
    }

    fn update(&self, settings: &AdamW, pace: &Vec<f32>, tensors: &mut [Trained<'_, Vec<f32>>]) {
        pointwise::update(settings, pace, tensors);
    }

    fn pictures(&self, set: PictureSet) -> PictureSet {
        set
    }

    fn cut_out(&self, pictures: &PictureSet, size: [usize; 2], cuts: &Vec<f32>, out: &mut Vec<f32>) {
        let cuts: Vec<Cut> = cuts.chunks_exact(Cut::WORDS).map(Cut::read).collect();
        out.par_chunks_exact_mut(3 * size[0] * size[1]).zip(cuts).for_each(|(out, cut)| {
            let values = cut.values(&pictures.pixels, [pictures.height, pictures.width], size);
            out.iter_mut().zip(values).for_each(|(out, value)| *out = value);
        });
    }

    fn codes(&self, set: CodeSet) -> CodeSet {
        set
    }

    fn cut_latents(&self, codes: &CodeSet, size: [usize; 2], cuts: &Vec<f32>, out: &mut Vec<f32>) {
        let cuts: Vec<Cut> = cuts.chunks_exact(Cut::WORDS).map(Cut::read).collect();
        out.par_chunks_exact_mut(codes.channels * size[0] * size[1]).zip(cuts).for_each(|(out, cut)| {
            out.iter_mut().zip(codes.values(cut, size)).for_each(|(out, value)| *out = value);
        });
    }

    fn latents(&self, set: LatentSet, settings: WindowSettings) -> Latents {
        Latents::new(set, settings)
    }

    fn layout<'l>(&self, latents: &'l Latents) -> &'l Layout {
        latents.layout()
    }

    fn draw(&self, latents: &Latents, subjects: &Vec<f32>, batch: &mut Batch<Vec<f32>>) {
        latents.draw(subjects, batch);
    }

    fn repeat(&self, (): &mut (), mut work: impl FnMut()) {
        work();
    }
}
