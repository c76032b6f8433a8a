//! What networks are made of.

use super::super::{Attention, Backend, Conv, Mask, Norm, Plane, Pool, Window};
use super::{FloatPoison, FloatValues, Given, Pair, Poison, Values, act, floats, upload};

pub(super) fn copies<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    for n in [1, 33, 4_099] {
        compare!(pair, inputs vec![act(pair.normal(n))], outputs [Poison(n)], |b, [x], [out]| b.copy(x, out));
        compare!(pair, inputs vec![], outputs [Poison(n)], |b, [], [out]| b.clear(out));
        compare!(pair, inputs vec![act(pair.normal(n))], outputs [Values(n)], |b, [x], [out]| b.accumulate(x, out));
        compare!(pair, inputs vec![floats(pair.normal(n))], outputs [FloatValues(n)], |b, [x], [out]| {
            b.accumulate(x, out)
        });
        compare!(pair, inputs vec![floats(pair.normal(n))], outputs [Poison(n)], |b, [x], [out]| b.convert(x, out));
        compare!(pair, inputs vec![], outputs [Poison(n)], |b, [], [out]| b.fill(-0.3, out));
    }
    many_uploads(pair);
}

/// More than a device takes note of at a time, before any of it is asked for.
fn many_uploads<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    let arrays: Vec<Vec<f32>> = (0..40).map(|i| vec![i as f32; 20_000 + i]).collect();
    let uploaded: Vec<_> = arrays.iter().map(|array| pair.candidate.upload(array)).collect();
    let got: Vec<_> = uploaded.iter().map(|buffer| pair.candidate.download(buffer)).collect();
    pair.compare(&arrays, &got);
    uploaded.into_iter().for_each(|buffer| pair.candidate.release(buffer));
}

pub(super) fn pointwise<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
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
        compare!(pair, inputs one(), outputs [Poison(n)], |b, [x], [out]| b.affine(-1.3, 0.4, x, out));
        let inputs = vec![floats(vec![0.7]), act(x.clone())];
        compare!(pair, inputs inputs, outputs [Values(n)], |b, [scale, x], [to]| b.add_scaled(scale, x, to));
    }
}

pub(super) fn dropout<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    for (n, rate, first) in [(1, 0.5, 0), (1_000, 0.1, 7), (70_001, 0.9, u32::MAX - 70)] {
        let mask = Mask { rate, number: first ^ 5, first };
        let inputs = vec![act(pair.normal(n)), floats(vec![7.0, 16_777_215.0])];
        compare!(pair, inputs inputs, outputs [Poison(n)], |b, [x, seed], [out]| b.dropout(&mask, seed, x, out));
    }
}

pub(super) fn sums<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    for n in [1, 255, 1_000, 300_001] {
        for x in [act(pair.normal(n)), floats(pair.normal(n))] {
            compare!(pair, inputs vec![x], outputs [FloatPoison(1)], |b, [x], [out]| b.square_sum(x, out));
        }
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
        conv(3, 8, 8, 16, 24, 3, 1),
        conv(5, 9, 7, 40, 72, 3, 2),
        conv(2, 6, 5, 8, 136, 5, 1),
        conv(2, 7, 6, 4, 9, 5, 1),
        other([3, 3], 2, [0, 0], [0, 0]),
        other([3, 3], 1, [0, 0], [0, 0]),
        other([1, 7], 1, [0, 3], [0, 3]),
        other([7, 1], 1, [3, 0], [3, 0]),
        other([2, 3], 2, [1, 0], [0, 2]),
        Conv { inputs: 16, outputs: 8, ..other([2, 3], 2, [1, 0], [0, 2]) },
    ]
}

pub(super) fn convolution<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    for g in convolutions() {
        let (x, out, weight) = conv_lengths(&g);
        let inputs = vec![act(pair.normal(x)), floats(pair.normal(weight)), floats(pair.normal(g.outputs))];
        compare!(pair, inputs inputs, outputs [Poison(out)], |b, [x, w, bias], [out]| b.conv(&g, x, w, bias, out));
    }
}

pub(super) fn convolution_gradients<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
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

pub(super) fn group_norm<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
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
pub(super) fn off_centre<A: Backend, B: Backend>(pair: &mut Pair<A, B>, n: usize) -> Vec<f32> {
    pair.normal(n).iter().map(|v| 10.0 + v).collect()
}

pub(super) fn group_norm_gradients<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
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

pub(super) fn layer_norm<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
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

pub(super) fn channels<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    for (rows, ca, cb) in [(1, 1, 1), (5, 3, 7), (300, 64, 33)] {
        let (a, c) = (rows * ca, rows * cb);
        let inputs = vec![act(pair.normal(a)), act(pair.normal(c))];
        compare!(pair, inputs inputs, outputs [Poison(a + c)], |b, [x, y], [out]| b.concat(rows, x, y, out));
        compare!(pair, inputs vec![act(pair.normal(a + c))], outputs [Poison(a), Poison(c)], |b, [x], [left, right]| {
            b.split(rows, x, left, right)
        });
    }
}

pub(super) fn pixels<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
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

pub(super) fn pools<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
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
        attention(2, 36, 112, 1),
        attention(1, 17, 144, 2),
        attention(1, 70, 12, 3),
    ]
}

pub(super) fn attention<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    for g in attentions() {
        let n = g.batch * g.tokens * g.channels;
        let outputs = [Poison(n), Poison(g.batch * g.heads * g.tokens * g.tokens)];
        compare!(pair, inputs vec![act(pair.normal(3 * n))], outputs outputs, |b, [qkv], [out, weights]| {
            b.attention(&g, qkv, out, weights)
        });
    }
}

pub(super) fn attention_gradient<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    for g in attentions() {
        let n = g.batch * g.tokens * g.channels;
        let weights = (0..g.batch * g.heads * g.tokens * g.tokens).map(|_| pair.random.uniform()).collect();
        let inputs = vec![act(pair.normal(3 * n)), act(weights), act(pair.normal(n))];
        compare!(pair, inputs inputs, outputs [Poison(3 * n)], |b, [qkv, weights, grad], [out]| {
            b.attention_grad(&g, qkv, weights, grad, out)
        });
    }
}

pub(super) fn sinusoid<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    let t = vec![0.0, 1.0, 17.0, 500.0, 999.0];
    for dim in [2, 6, 128] {
        let n = t.len() * dim;
        compare!(pair, inputs vec![floats(t.clone())], outputs [Poison(n)], |b, [t], [out]| b.sinusoid(dim, t, out));
    }
}
