//! Every operation on two backends with the same random inputs of odd sizes: forward and backward, outputs
//! poisoned with NaN before.

use rissole::bundle::manifest::{NeighbourSource, Prediction};
use rissole::{BlockGrid, LatentShape};

use super::windows::{LatentSet, Subject, WindowSettings};
use super::{AdamW, Attention, Backend, Conv, Mask, Norm, Pace, Plane, Pool, Trained, Window};
use crate::random::Random;

/// Largest error of an operation in `f32`, as [`error`] measures it.
pub const TOLERANCE: f64 = 1e-4;

/// The same where activations are bf16; what goes in then is rounded to that before.
pub const BF16_TOLERANCE: f64 = 2e-2;

/// Two backends, and the largest error so far.
#[derive(Debug)]
pub struct Pair<'a, A, B> {
    reference: &'a A,
    candidate: &'a B,
    random: Random,
    /// Whether activations are rounded to bf16 before they go in.
    rounds: bool,
    worst: f64,
}

/// A named comparison.
pub type Check<A, B> = (&'static str, fn(&mut Pair<A, B>));

/// What goes into an operation.
enum Given {
    Activations(Vec<f32>),
    Floats(Vec<f32>),
}

fn act(values: Vec<f32>) -> Given {
    Given::Activations(values)
}

fn floats(values: Vec<f32>) -> Given {
    Given::Floats(values)
}

/// What an output holds before the operation.
enum Before {
    /// Activations of NaN: the operation must write all of it.
    Poison(usize),
    /// The same in floats.
    FloatPoison(usize),
    /// Random activations: the operation must add to them.
    Values(usize),
    /// The same in floats.
    FloatValues(usize),
}
use Before::{FloatPoison, FloatValues, Poison, Values};

/// Runs `check`; returns the largest error of any value, relative to the value and to the array's root mean square
/// together. A value that is not finite has an infinite error. With `rounds` activations are rounded to bf16 before they
/// go in, to both.
pub fn error<A: Backend, B: Backend>(reference: &A, candidate: &B, check: Check<A, B>, rounds: bool) -> f64 {
    let mut pair = Pair { reference, candidate, random: Random::new(7), rounds, worst: 0.0 };
    check.1(&mut pair);
    pair.worst
}

/// To the nearest bf16, of two equally near to the even one.
fn to_bf16(value: f32) -> f32 {
    let bits = value.to_bits();
    f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}

impl<A: Backend, B: Backend> Pair<'_, A, B> {
    fn normal(&mut self, n: usize) -> Vec<f32> {
        let mut values = vec![0.0; n];
        self.random.fill_normal(&mut values);
        values
    }

    /// The same as it goes in.
    fn rounded(&self, given: Given) -> Given {
        match given {
            Given::Activations(values) if self.rounds => act(values.into_iter().map(to_bf16).collect()),
            given => given,
        }
    }

    fn given(&self, given: Vec<Given>) -> Vec<Given> {
        given.into_iter().map(|given| self.rounded(given)).collect()
    }

    fn before(&mut self, outputs: &[Before]) -> Vec<Given> {
        let mut before = |output: &Before| match *output {
            Poison(n) => act(vec![f32::NAN; n]),
            FloatPoison(n) => floats(vec![f32::NAN; n]),
            Values(n) => {
                let values = act(self.normal(n));
                self.rounded(values)
            }
            FloatValues(n) => floats(self.normal(n)),
        };
        outputs.iter().map(&mut before).collect()
    }

    fn compare(&mut self, expected: &[Vec<f32>], got: &[Vec<f32>]) {
        for (expected, got) in expected.iter().zip(got) {
            let squares: f64 = expected.iter().map(|&e| f64::from(e).powi(2)).sum();
            let size = (squares / expected.len() as f64).sqrt().max(1e-9);
            for (&e, &g) in expected.iter().zip(got) {
                let (e, g) = (f64::from(e), f64::from(g));
                let error = (e - g).abs() / (e.abs() + size);
                self.worst = if error.is_finite() { self.worst.max(error) } else { f64::INFINITY };
            }
        }
    }
}

fn upload<B: Backend>(backend: &B, given: &Given) -> B::Buffer {
    match given {
        Given::Activations(values) => backend.upload_activations(values),
        Given::Floats(values) => backend.upload(values),
    }
}

/// Runs an operation on both backends.
macro_rules! compare {
    ($pair:expr, inputs $inputs:expr, outputs $outputs:expr, |$b:ident, [$($x:ident),*], [$($out:ident),*]| $run:expr) => {{
        let inputs: Vec<Given> = $inputs;
        let inputs = $pair.given(inputs);
        let before = $pair.before(&$outputs);
        let (reference, candidate) = ($pair.reference, $pair.candidate);
        let expected = compare!(reference, inputs, before, $b, [$($x),*], [$($out),*], $run);
        let got = compare!(candidate, inputs, before, $b, [$($x),*], [$($out),*], $run);
        $pair.compare(&expected, &got);
    }};
    ($backend:ident, $inputs:ident, $before:ident, $b:ident, [$($x:ident),*], [$($out:ident),*], $run:expr) => {{
        let $b = $backend;
        let inputs: Vec<_> = $inputs.iter().map(|given| upload($b, given)).collect();
        let mut outputs: Vec<_> = $before.iter().map(|given| upload($b, given)).collect();
        let [$($x),*] = &inputs[..] else { unreachable!("as many inputs as names") };
        let [$($out),*] = &mut outputs[..] else { unreachable!("as many outputs as names") };
        $run;
        let values: Vec<Vec<f32>> = outputs.iter().map(|out| $b.download(out)).collect();
        inputs.into_iter().chain(outputs).for_each(|buffer| $b.release(buffer));
        values
    }};
}

/// All comparisons.
pub fn checks<A: Backend, B: Backend>() -> Vec<Check<A, B>> {
    vec![
        ("copies", copies),
        ("pointwise", pointwise),
        ("dropout", dropout),
        ("sums", sums),
        ("convolution", convolution),
        ("convolution gradients", convolution_gradients),
        ("group normalisation", group_norm),
        ("group normalisation gradients", group_norm_gradients),
        ("layer normalisation", layer_norm),
        ("channels", channels),
        ("pixels", pixels),
        ("pools", pools),
        ("attention", attention),
        ("attention gradient", attention_gradient),
        ("timestep embedding", sinusoid),
        ("nearest entries", nearest),
        ("squared error", squared_error),
        ("differences", differences),
        ("windows", windows),
        ("update", update),
    ]
}

fn copies<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    for n in [1, 33, 4_099] {
        compare!(pair, inputs vec![act(pair.normal(n))], outputs [Poison(n)], |b, [x], [out]| b.copy(x, out));
        compare!(pair, inputs vec![], outputs [Poison(n)], |b, [], [out]| b.clear(out));
        compare!(pair, inputs vec![act(pair.normal(n))], outputs [Values(n)], |b, [x], [out]| b.accumulate(x, out));
    }
}

fn pointwise<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    for n in [1, 31, 1_000, 70_001] {
        // Wide enough for both ends of the sigmoid.
        let x: Vec<f32> = pair.normal(n).iter().map(|v| 20.0 * v).collect();
        let grad = pair.normal(n);
        let (one, both) = (|| vec![act(x.clone())], || vec![act(x.clone()), act(grad.clone())]);
        compare!(pair, inputs one(), outputs [Poison(n)], |b, [x], [out]| b.silu(x, out));
        compare!(pair, inputs both(), outputs [Poison(n)], |b, [x, grad], [out]| b.silu_grad(x, grad, out));
        compare!(pair, inputs one(), outputs [Poison(n)], |b, [x], [out]| b.leaky_relu(0.2, x, out));
        compare!(pair, inputs both(), outputs [Poison(n)], |b, [x, g], [out]| b.leaky_relu_grad(0.2, x, g, out));
        compare!(pair, inputs both(), outputs [Poison(n)], |b, [x, y], [out]| b.add(x, y, out));
    }
}

fn dropout<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    for (n, rate, first) in [(1, 0.5, 0), (1_000, 0.1, 7), (70_001, 0.9, u32::MAX - 70)] {
        let mask = Mask { rate, number: first ^ 5, first };
        let inputs = vec![act(pair.normal(n)), floats(vec![7.0, 16_777_215.0])];
        compare!(pair, inputs inputs, outputs [Poison(n)], |b, [x, seed], [out]| b.dropout(&mask, seed, x, out));
    }
}

fn sums<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    for n in [1, 255, 1_000, 300_001] {
        let x = act(pair.normal(n));
        let x = pair.rounded(x);
        let (on_reference, on_candidate) = (upload(pair.reference, &x), upload(pair.candidate, &x));
        let expected = pair.reference.square_sum(&on_reference) as f32;
        let got = pair.candidate.square_sum(&on_candidate) as f32;
        pair.compare(&[vec![expected]], &[vec![got]]);
        pair.reference.release(on_reference);
        pair.candidate.release(on_candidate);
    }
    for (batch, pixels, channels) in [(1, 1, 1), (3, 5, 7), (5, 64, 33), (2, 257, 130)] {
        let n = batch * pixels * channels;
        let inputs = vec![act(pair.normal(n)), act(pair.normal(batch * channels))];
        compare!(pair, inputs inputs, outputs [Poison(n)], |b, [x, v], [out]| b.add_vector(batch, channels, x, v, out));
        compare!(pair, inputs vec![act(pair.normal(n))], outputs [Poison(batch * channels)], |b, [grad], [out]| {
            b.sum_pixels(batch, channels, grad, out)
        });
    }
}

/// Geometries of convolutions: every kernel and stride, odd and even sides, more than a tile of channels.
fn convolutions() -> Vec<Conv> {
    let conv = |batch, height, width, inputs, outputs, kernel, stride| {
        let window = Window::centred(kernel, stride);
        Conv { batch, height, width, inputs, outputs, window }
    };
    let other = |sides, stride, before, after| {
        let window = Window { sides, stride, before, after };
        Conv { batch: 2, height: 9, width: 8, inputs: 5, outputs: 6, window }
    };
    vec![
        conv(1, 1, 1, 1, 1, 1, 1),
        conv(7, 1, 1, 13, 66, 1, 1),
        conv(3, 5, 7, 10, 9, 1, 1),
        conv(2, 5, 7, 3, 5, 1, 2),
        conv(2, 5, 3, 7, 19, 3, 1),
        conv(3, 8, 8, 10, 64, 3, 1),
        conv(2, 4, 6, 3, 5, 3, 2),
        conv(1, 5, 3, 8, 2, 3, 2),
        conv(2, 12, 9, 17, 33, 3, 2),
        conv(3, 5, 7, 12, 9, 3, 1),
        conv(2, 7, 6, 20, 36, 3, 2),
        conv(5, 4, 4, 66, 70, 3, 1),
        conv(2, 7, 6, 4, 9, 5, 1),
        other([3, 3], 2, [0, 0], [0, 0]),
        other([3, 3], 1, [0, 0], [0, 0]),
        other([1, 7], 1, [0, 3], [0, 3]),
        other([7, 1], 1, [3, 0], [3, 0]),
        other([2, 3], 2, [1, 0], [0, 2]),
    ]
}

fn convolution<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    for g in convolutions() {
        let (x, out, weight) = conv_lengths(&g);
        let inputs = vec![act(pair.normal(x)), floats(pair.normal(weight)), floats(pair.normal(g.outputs))];
        compare!(pair, inputs inputs, outputs [Poison(out)], |b, [x, w, bias], [out]| b.conv(&g, x, w, bias, out));
    }
}

fn convolution_gradients<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    for g in convolutions() {
        let (x, out, weight) = conv_lengths(&g);
        let inputs = vec![floats(pair.normal(weight)), act(pair.normal(out))];
        compare!(pair, inputs inputs, outputs [Poison(x)], |b, [w, grad], [dx]| b.conv_grad_input(&g, w, grad, dx));
        let inputs = vec![act(pair.normal(x)), act(pair.normal(out))];
        compare!(pair, inputs inputs, outputs [FloatValues(weight), FloatValues(g.outputs)], |b, [x, grad], [dw, db]| {
            b.conv_grad_weight(&g, x, grad, dw, db)
        });
    }
}

/// Elements of input, output and weight.
fn conv_lengths(g: &Conv) -> (usize, usize, usize) {
    let (h, w) = g.out_size();
    let input = g.batch * g.height * g.width * g.inputs;
    (input, g.batch * h * w * g.outputs, g.taps() * g.inputs * g.outputs)
}

fn norms() -> Vec<Norm> {
    let norm = |batch, pixels, channels, groups, silu| Norm { batch, pixels, channels, groups, silu };
    vec![
        norm(1, 2, 1, 1, false),
        norm(2, 6, 6, 3, false),
        norm(2, 6, 6, 3, true),
        norm(3, 64, 64, 8, true),
        norm(2, 35, 66, 2, true),
        norm(2, 9, 20, 1, false),
        norm(2, 5, 600, 2, true),
        norm(300, 4, 16, 2, true),
    ]
}

fn group_norm<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    for g in norms() {
        let n = g.batch * g.pixels * g.channels;
        let [scale, shift] = [(); 2].map(|()| floats(pair.normal(g.channels)));
        let inputs = vec![act(off_centre(pair, n)), scale, shift];
        let outputs = [Poison(n), FloatPoison(2 * g.batch * g.groups)];
        compare!(pair, inputs inputs, outputs outputs, |b, [x, scale, shift], [out, stats]| {
            b.group_norm(&g, x, scale, shift, out, stats)
        });
    }
}

/// Values whose mean is not zero: a variance taken as a difference of squares would show.
fn off_centre<A: Backend, B: Backend>(pair: &mut Pair<A, B>, n: usize) -> Vec<f32> {
    pair.normal(n).iter().map(|v| 10.0 + v).collect()
}

fn group_norm_gradients<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    for g in norms() {
        let (n, c) = (g.batch * g.pixels * g.channels, g.channels);
        let stats = (0..g.batch * g.groups).flat_map(|i| [0.1 + 0.01 * i as f32, 0.9]).collect();
        let [scale, shift] = [(); 2].map(|()| floats(pair.normal(c)));
        let inputs = vec![act(pair.normal(n)), scale, shift, floats(stats), act(pair.normal(n))];
        let outputs = [Poison(n), FloatValues(c), FloatValues(c)];
        compare!(pair, inputs inputs, outputs outputs, |b, [x, scale, shift, stats, grad], [out, ds, db]| {
            b.group_norm_grad(&g, x, scale, shift, stats, grad, out, ds, db)
        });
    }
}

fn layer_norm<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    for (batch, len) in [(1, 2), (2, 30), (3, 257), (65, 640)] {
        let n = batch * len;
        let [scale, shift] = [(); 2].map(|()| floats(pair.normal(len)));
        let inputs = vec![act(off_centre(pair, n)), scale, shift];
        compare!(pair, inputs inputs, outputs [Poison(n), FloatPoison(2 * batch)], |b, [x, scale, shift], [out, stats]| {
            b.layer_norm(batch, len, x, scale, shift, out, stats)
        });
        let stats = (0..batch).flat_map(|i| [0.1 - 0.01 * i as f32, 1.1]).collect();
        let inputs = vec![act(pair.normal(n)), floats(pair.normal(len)), floats(stats), act(pair.normal(n))];
        let outputs = [Poison(n), FloatValues(len), FloatValues(len)];
        compare!(pair, inputs inputs, outputs outputs, |b, [x, scale, stats, grad], [out, ds, db]| {
            b.layer_norm_grad(batch, len, x, scale, stats, grad, out, ds, db)
        });
    }
}

fn channels<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    for (rows, ca, cb) in [(1, 1, 1), (5, 3, 7), (300, 64, 33)] {
        let (a, c) = (rows * ca, rows * cb);
        let inputs = vec![act(pair.normal(a)), act(pair.normal(c))];
        compare!(pair, inputs inputs, outputs [Poison(a + c)], |b, [x, y], [out]| b.concat(rows, x, y, out));
        compare!(pair, inputs vec![act(pair.normal(a + c))], outputs [Poison(a), Poison(c)], |b, [x], [left, right]| {
            b.split(rows, x, left, right)
        });
    }
}

fn pixels<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    let plane = |batch, height, width, channels| Plane { batch, height, width, channels };
    for g in [plane(1, 1, 1, 4), plane(2, 3, 5, 12), plane(3, 8, 7, 20)] {
        let n = g.batch * g.height * g.width * g.channels;
        compare!(pair, inputs vec![act(pair.normal(n))], outputs [Poison(4 * n)], |b, [x], [out]| b.upsample(&g, x, out));
        compare!(pair, inputs vec![act(pair.normal(4 * n))], outputs [Poison(n)], |b, [x], [out]| {
            b.upsample_grad(&g, x, out)
        });
        compare!(pair, inputs vec![act(pair.normal(n))], outputs [Poison(n)], |b, [x], [out]| b.depth_to_space(&g, x, out));
        compare!(pair, inputs vec![act(pair.normal(n))], outputs [Poison(n)], |b, [x], [out]| b.space_to_depth(&g, x, out));
    }
    for (g, margin) in [(plane(1, 5, 5, 3), 2), (plane(3, 12, 9, 10), 1), (plane(2, 4, 6, 7), 0)] {
        let n = g.batch * g.height * g.width * g.channels;
        let inner = g.batch * (g.height - 2 * margin) * (g.width - 2 * margin) * g.channels;
        compare!(pair, inputs vec![act(pair.normal(n))], outputs [Poison(inner)], |b, [x], [out]| b.crop(&g, margin, x, out));
        compare!(pair, inputs vec![act(pair.normal(inner))], outputs [Poison(n)], |b, [x], [out]| {
            b.crop_grad(&g, margin, x, out)
        });
    }
}

fn pools<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    let window =
        |side, stride, before, after| Window { sides: [side; 2], stride, before: [before; 2], after: [after; 2] };
    for window in [window(3, 2, 0, 0), window(3, 1, 1, 1), window(2, 2, 0, 1), window(1, 3, 0, 0)] {
        for mean in [false, true] {
            let plane = Plane { batch: 3, height: 7, width: 6, channels: 5 };
            let g = Pool { plane, window, mean };
            let (h, w) = g.out_size();
            let (n, after) = (3 * 7 * 6 * 5, 3 * h * w * 5);
            // Rectified, so that windows have many largest values.
            let x: Vec<f32> = pair.normal(n).iter().map(|v| v.max(0.0)).collect();
            compare!(pair, inputs vec![act(x.clone())], outputs [Poison(after)], |b, [x], [out]| b.pool(&g, x, out));
            let inputs = vec![act(x), act(pair.normal(after))];
            compare!(pair, inputs inputs, outputs [Poison(n)], |b, [x, grad], [out]| b.pool_grad(&g, x, grad, out));
        }
    }
}

fn attentions() -> Vec<Attention> {
    let attention = |batch, tokens, channels, heads| Attention { batch, tokens, channels, heads };
    vec![
        attention(1, 1, 1, 1),
        attention(2, 6, 12, 2),
        attention(3, 16, 64, 2),
        attention(1, 37, 35, 5),
        attention(2, 64, 32, 1),
    ]
}

fn attention<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    for g in attentions() {
        let n = g.batch * g.tokens * g.channels;
        let outputs = [Poison(n), Poison(g.batch * g.heads * g.tokens * g.tokens)];
        compare!(pair, inputs vec![act(pair.normal(3 * n))], outputs outputs, |b, [qkv], [out, weights]| {
            b.attention(&g, qkv, out, weights)
        });
    }
}

fn attention_gradient<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    for g in attentions() {
        let n = g.batch * g.tokens * g.channels;
        let weights = (0..g.batch * g.heads * g.tokens * g.tokens).map(|_| pair.random.uniform()).collect();
        let inputs = vec![act(pair.normal(3 * n)), act(weights), act(pair.normal(n))];
        compare!(pair, inputs inputs, outputs [Poison(3 * n)], |b, [qkv, weights, grad], [out]| {
            b.attention_grad(&g, qkv, weights, grad, out)
        });
    }
}

fn sinusoid<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    let t = vec![0.0, 1.0, 17.0, 500.0, 999.0];
    for dim in [2, 6, 128] {
        let n = t.len() * dim;
        compare!(pair, inputs vec![floats(t.clone())], outputs [Poison(n)], |b, [t], [out]| b.sinusoid(dim, t, out));
    }
}

fn nearest<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    for (rows, channels, entries) in [(1, 1, 1), (9, 3, 5), (77, 10, 64), (300, 7, 257)] {
        let book = pair.normal(entries * channels);
        let values = act(pair.normal(rows * channels));
        let values = pair.rounded(values);
        let (on_reference, on_candidate) = (upload(pair.reference, &values), upload(pair.candidate, &values));
        let expected = pair.reference.nearest(channels, &on_reference, &book);
        let got = pair.candidate.nearest(channels, &on_candidate, &book);
        // What they name, since of two equally near either will do.
        let named =
            |codes: &[u32]| codes.iter().flat_map(|&c| &book[c as usize * channels..][..channels]).copied().collect();
        pair.compare(&[named(&expected)], &[named(&got)]);
        pair.reference.release(on_reference);
        pair.candidate.release(on_candidate);
    }
}

fn squared_error<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    for (samples, len) in [(1, 1), (3, 35), (7, 640), (65, 1_600)] {
        let n = samples * len;
        let weights = pair.normal(samples).iter().map(|w| w.abs()).collect();
        let inputs = vec![act(pair.normal(n)), floats(pair.normal(n)), floats(weights)];
        compare!(pair, inputs inputs, outputs [Poison(n), FloatPoison(1)], |b, [predicted, target, weights], [grad, loss]| {
            b.squared_error(predicted, target, weights, grad, loss)
        });
    }
}

fn differences<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    for (samples, len) in [(1, 1), (3, 35), (65, 1_600)] {
        let n = samples * len;
        let inputs = vec![floats(pair.normal(samples)), act(pair.normal(n)), floats(pair.normal(n))];
        compare!(pair, inputs inputs, outputs [FloatValues(n)], |b, [weights, x, y], [to]| b.add_difference(weights, x, y, to));
    }
}

/// Pictures of random codes, with thumbnails and neighbours.
fn pictures(grid: BlockGrid, random: &mut Random) -> LatentSet {
    const IMAGES: usize = 11;
    let mut set = LatentSet::random(grid, 19, IMAGES, 3, random);
    set.thumbnail_codebook = vec![0.0; 7 * grid.latent().channels];
    random.fill_normal(&mut set.thumbnail_codebook);
    set.thumbnail_codes = (0..IMAGES * grid.block().cells()).map(|_| random.below(7) as u16).collect();
    set.neighbours = (0..IMAGES * 3).map(|_| random.below(IMAGES) as u32).collect();
    set
}

fn windows<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    use NeighbourSource::{Database, Noise};
    use Prediction::{Epsilon, V};
    let cases = [
        (true, 1, Database, V, false),
        (false, 0, Database, Epsilon, true),
        (true, 2, Noise, V, false),
        (false, 1, Noise, Epsilon, false),
    ];
    for (thumbnail, margin, source, prediction, previous_block) in cases {
        let latent = LatentShape { channels: 5, height: 6, width: 8 };
        let grid = BlockGrid::new(latent, 2, 2, thumbnail, margin).expect("the grid fits");
        let set = pictures(grid, &mut pair.random);
        let settings = WindowSettings { prediction, source, previous_block };
        // Every position, each once without neighbours.
        let subject = |i: usize| Subject {
            image: i % set.images(),
            position: i / 2 % grid.positions(),
            timestep: 37 * i,
            alpha: 0.8,
            sigma: 0.6,
            weight: 0.5 + i as f32,
            without_neighbours: i % 2 == 1,
            thumbnail_deviation: 0.1 * i as f32,
            key: [i as u32, 0xff_ffff - i as u32],
        };
        let words = Subject::words(&(0..2 * grid.positions()).map(subject).collect::<Vec<_>>());
        let (expected, got) =
            (drawn(pair.reference, &set, settings, &words), drawn(pair.candidate, &set, settings, &words));
        pair.compare(&expected, &got);
    }
}

/// The arrays of a batch.
fn drawn<B: Backend>(backend: &B, set: &LatentSet, settings: WindowSettings, words: &[f32]) -> Vec<Vec<f32>> {
    let latents = backend.latents(set, settings);
    let subjects = backend.upload(words);
    let lengths = backend.layout(&latents).lengths(words.len() / Subject::WORDS);
    let poison = |n: usize| vec![f32::NAN; n];
    let mut batch = lengths.map(|&n| backend.upload_activations(&poison(n)));
    batch.timesteps = backend.upload(&poison(lengths.timesteps));
    batch.target = backend.upload(&poison(lengths.target));
    batch.weights = backend.upload(&poison(lengths.weights));
    backend.draw(&latents, &subjects, &mut batch);
    let mut arrays = Vec::new();
    batch.map(|array| arrays.push(backend.download(array)));
    arrays
}

fn update<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    // Gradients within the norm and far past it; a tensor of several chunks and a small one.
    for (n, m, step, max_norm) in [(1, 3, 1, 1e6), (1_000, 1, 1, 1.0), (40_001, 777, 777, 0.1)] {
        let settings = AdamW { beta1: 0.9, beta2: 0.99, weight_decay: 0.1, max_norm };
        let pace = Pace { rate: 1e-2, step, average_decay: 0.9 }.words(&settings);
        let inputs = [n, n, n, n, n, m, m, m, m, m].map(|n| floats(pair.normal(n).iter().map(|v| v.abs()).collect()));
        let outputs = [n, n, n, n, m, m, m, m].map(FloatPoison);
        compare!(pair, inputs inputs.into_iter().collect(), outputs outputs,
            |b, [grad, value, first, second, average, grad2, value2, first2, second2, average2],
             [value_out, first_out, second_out, average_out, value2_out, first2_out, second2_out, average2_out]| {
            // The operation works in place.
            b.copy(value, value_out);
            b.copy(first, first_out);
            b.copy(second, second_out);
            b.copy(average, average_out);
            b.copy(value2, value2_out);
            b.copy(first2, first2_out);
            b.copy(second2, second2_out);
            b.copy(average2, average2_out);
            let mut tensors = [
                Trained {
                    grad,
                    value: value_out,
                    first_moment: first_out,
                    second_moment: second_out,
                    average: average_out,
                    decays: true,
                },
                Trained {
                    grad: grad2,
                    value: value2_out,
                    first_moment: first2_out,
                    second_moment: second2_out,
                    average: average2_out,
                    decays: false,
                },
            ];
            let pace = b.upload(&pace);
            b.update(&settings, &pace, &mut tensors);
            b.release(pace);
        });
    }
}
