//! What training adds: codebook, losses, batches, optimizer.

use rissole::bundle::manifest::{NeighbourSource, Prediction};
use rissole::{BlockGrid, LatentShape};

use super::super::codes::CodeSet;
use super::super::pictures::{Cut, PictureSet};
use super::super::windows::{LatentSet, Subject, WindowSettings};
use super::super::{AdamW, Backend, Book, BookStep, DEAD, Pace, PictureError, Plane, Trained};
use super::{FloatPoison, FloatValues, Given, Pair, Poison, act, floats, upload};
use crate::random::Random;

pub(super) fn nearest<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
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

pub(super) fn codebook<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    for (rows, channels, entries) in [(1, 1, 1), (9, 3, 5), (300, 7, 257usize)] {
        // Entries apart from each other, and rows near to one of them: no rounding makes another the nearest. The last
        // third is used by none, and was used by few before.
        let value = |entry: usize, c: usize| ((entry * 31 + c * 17) % 257) as f32;
        let codes: Vec<usize> = (0..rows).map(|_| pair.random.below(entries.div_ceil(3))).collect();
        let near: Vec<f32> = codes.iter().flat_map(|&e| (0..channels).map(move |c| value(e, c) + 0.25)).collect();
        let book: Vec<f32> = (0..entries).flat_map(|e| (0..channels).map(move |c| value(e, c))).collect();
        let inputs = vec![act(near.clone()), floats(book.clone())];
        let outputs = [FloatPoison(rows), Poison(rows * channels)];
        compare!(pair, inputs inputs, outputs outputs, |b, [rows, entries], [codes, chosen]| {
            b.assign(channels, rows, entries, codes, chosen)
        });
        let codes: Vec<f32> = codes.iter().map(|&code| code as f32).collect();
        let (k, n) = (entries, entries * channels);
        for share in [[0, 1], [1, 3], [2, 3]] {
            let inputs = vec![act(near.clone()), floats(codes.clone()), floats(vec![3.0, 16_777_215.0])];
            let outputs = [FloatPoison(k), FloatPoison(n), FloatPoison(n)];
            compare!(pair, inputs inputs, outputs outputs, |b, [rows, codes, key], [counts, sums, starts]| {
                let poison = [&*counts, sums, starts].map(|poison| copy(b, poison));
                let [of_counts, of_sums, of_starts] = poison;
                let mut step = BookStep { counts: of_counts, sums: of_sums, rows: of_starts };
                b.sum_book(share, rows, codes, key, &mut step);
                for (from, to) in [(step.counts, counts), (step.sums, sums), (step.rows, starts)] {
                    b.copy(&from, to);
                    b.release(from);
                }
            });
        }
        let uses = (0..k).map(|e| if 3 * e > 2 * k { DEAD } else { 1.0 + e as f32 }).collect();
        let counts = (0..k).map(|e| if 3 * e > k { 0.0 } else { e as f32 }).collect();
        let inputs = [counts, pair.normal(n), pair.normal(n), book, uses, pair.normal(n)].map(floats).into();
        let outputs = [FloatPoison(n), FloatPoison(k), FloatPoison(n)];
        compare!(pair, inputs inputs, outputs outputs,
            |b, [counts, sums, starts, entries, uses, before], [entries_out, uses_out, sums_out]| {
            // The operation works in place.
            let [counts, sums, rows] = [counts, sums, starts].map(|given| copy(b, given));
            let step = BookStep { counts, sums, rows };
            let [entries, uses, sums] = [entries, uses, before].map(|given| copy(b, given));
            let mut book = Book { size: k, channels, entries, uses, sums };
            b.move_book(0.9, 3, &step, &mut book);
            for (from, to) in [(&book.entries, entries_out), (&book.uses, uses_out), (&book.sums, sums_out)] {
                b.copy(from, to);
            }
            [book.entries, book.uses, book.sums].into_iter().for_each(|array| b.release(array));
            [step.counts, step.sums, step.rows].into_iter().for_each(|array| b.release(array));
        });
    }
}

/// The same floats in an array of their own.
fn copy<B: Backend>(backend: &B, floats: &B::Buffer) -> B::Buffer {
    backend.upload(&backend.download(floats))
}

pub(super) fn notes<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    for (values, column) in [(1, 0), (2, 3), (5, 0)] {
        let inputs = vec![floats(pair.normal(values)), floats(vec![6.0])];
        compare!(pair, inputs inputs, outputs [FloatValues(7 * 5)], |b, [values, row], [log]| {
            b.note(values, [column, 5], row, log)
        });
    }
}

pub(super) fn picture_errors<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    let plane = |batch, height, width, channels| Plane { batch, height, width, channels };
    for plane in [plane(1, 1, 1, 1), plane(2, 5, 7, 3), plane(3, 33, 40, 3)] {
        let n = plane.batch * plane.height * plane.width * plane.channels;
        for (squared, differences) in [(0.7, 0.0), (0.3, 1.5)] {
            let g = PictureError { plane, squared, differences };
            // Some pixels are right, and so are some of their differences.
            let fake: Vec<f32> = pair.normal(n).iter().map(|v| (4.0 * v).round() / 4.0).collect();
            let inputs = vec![act(fake), floats(pair.normal(n).iter().map(|v| v.round()).collect())];
            compare!(pair, inputs inputs, outputs [Poison(n), FloatPoison(2)], |b, [fake, real], [grad, errors]| {
                b.picture_error(&g, fake, real, grad, errors)
            });
        }
        for sign in [1.0, -1.0] {
            let inputs = vec![act(pair.normal(n))];
            compare!(pair, inputs inputs, outputs [Poison(n), FloatValues(1)], |b, [scores], [grad, loss]| {
                b.hinge(sign, scores, grad, loss)
            });
        }
    }
}

pub(super) fn loss_weights<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    for (a, c) in [(2.0, 3.0), (0.0, 0.0), (1e12, 0.0)] {
        let inputs = vec![floats(vec![a]), floats(vec![c])];
        compare!(pair, inputs inputs, outputs [FloatPoison(1)], |b, [x, y], [out]| b.adaptive_weight(0.8, x, y, out));
        compare!(pair, inputs vec![floats(vec![a])], outputs [FloatPoison(5)], |b, [x], [out]| {
            b.over_mean_square(0.7, 40, x, out)
        });
    }
}

pub(super) fn squared_error<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    for (samples, len) in [(1, 1), (3, 35), (7, 640), (65, 1_600)] {
        let n = samples * len;
        let weights = pair.normal(samples).iter().map(|w| w.abs()).collect();
        let inputs = vec![act(pair.normal(n)), floats(pair.normal(n)), floats(weights)];
        compare!(pair, inputs inputs, outputs [Poison(n), FloatPoison(1)], |b, [predicted, target, weights], [grad, loss]| {
            b.squared_error(predicted, target, weights, grad, loss)
        });
    }
}

pub(super) fn differences<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    for (samples, len) in [(1, 1), (3, 35), (65, 1_600)] {
        let n = samples * len;
        let inputs = vec![floats(pair.normal(samples)), act(pair.normal(n)), floats(pair.normal(n))];
        compare!(pair, inputs inputs, outputs [FloatValues(n)], |b, [weights, x, y], [to]| b.add_difference(weights, x, y, to));
    }
}

pub(super) fn pictures<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    let (height, width) = (9, 11);
    let pixels = (0..3 * height * width * 3).map(|_| pair.random.below(256) as u8).collect();
    let set = PictureSet { height, width, pixels };
    let on_both = (pair.reference.pictures(set.clone()), pair.candidate.pictures(set));
    // Cells of two channels, of a codebook of 300.
    let codes = (0..3 * height * width).map(|_| pair.random.below(300) as u16).collect();
    let set = CodeSet { height, width, channels: 2, codebook: pair.normal(600), codes };
    let coded = (pair.reference.codes(set.clone()), pair.candidate.codes(set));
    for size in [[9, 11], [4, 7], [1, 1]] {
        let cut = |i: usize| Cut {
            image: i % 3,
            mirrored: i % 2 == 1,
            top: i % (height - size[0] + 1),
            left: 2 * i % (width - size[1] + 1),
        };
        let words = Cut::words(&(0..7).map(cut).collect::<Vec<_>>());
        let n = 7 * size[0] * size[1] * 3;
        let expected = cut_out(pair.reference, &on_both.0, size, &words, n);
        let got = cut_out(pair.candidate, &on_both.1, size, &words, n);
        pair.compare(&[expected], &[got]);
        let n = 7 * size[0] * size[1] * 2;
        let expected = cut_latents(pair.reference, &coded.0, size, &words, n);
        let got = cut_latents(pair.candidate, &coded.1, size, &words, n);
        pair.compare(&[expected], &[got]);
    }
}

fn cut_latents<B: Backend>(backend: &B, codes: &B::Codes, size: [usize; 2], words: &[f32], n: usize) -> Vec<f32> {
    let (cuts, mut out) = (backend.upload(words), backend.upload(&vec![f32::NAN; n]));
    backend.cut_latents(codes, size, &cuts, &mut out);
    backend.download(&out)
}

fn cut_out<B: Backend>(backend: &B, pictures: &B::Pictures, size: [usize; 2], words: &[f32], n: usize) -> Vec<f32> {
    let (cuts, mut out) = (backend.upload(words), backend.upload(&vec![f32::NAN; n]));
    backend.cut_out(pictures, size, &cuts, &mut out);
    backend.download(&out)
}

/// Pictures of random codes, with thumbnails and neighbours.
fn coded(grid: BlockGrid, random: &mut Random) -> LatentSet {
    const IMAGES: usize = 11;
    let mut set = LatentSet::random(grid, 19, IMAGES, 3, random);
    set.thumbnail_codebook = vec![0.0; 7 * grid.latent().channels];
    random.fill_normal(&mut set.thumbnail_codebook);
    set.thumbnail_codes = (0..IMAGES * grid.block().cells()).map(|_| random.below(7) as u16).collect();
    set.neighbours = (0..IMAGES * 3).map(|_| random.below(IMAGES) as u32).collect();
    set
}

pub(super) fn windows<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    use NeighbourSource::{Database, Noise};
    use Prediction::{Epsilon, V};
    let grid = |rows, cols, thumbnail, margin| {
        BlockGrid::new(LatentShape { channels: 5, height: 8, width: 16 }, rows, cols, thumbnail, margin)
    };
    let pyramid = |levels, margin| grid(4, 8, true, margin).and_then(|grid| grid.with_levels_between(levels));
    let cases = [
        (grid(2, 2, true, 1), Database, V, false),
        (grid(2, 2, false, 0), Database, Epsilon, true),
        (grid(2, 2, true, 2), Noise, V, false),
        (grid(2, 2, false, 1), Noise, Epsilon, false),
        (pyramid(1, 1), Database, V, false),
        (pyramid(2, 0), Database, Epsilon, true),
    ];
    for (grid, source, prediction, previous_block) in cases {
        let grid = grid.expect("the grid fits");
        let set = coded(grid, &mut pair.random);
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
    let latents = backend.latents(set.clone(), settings);
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

pub(super) fn update<A: Backend, B: Backend>(pair: &mut Pair<A, B>) {
    // Gradients within the norm and far past it; a tensor of several chunks and a small one.
    for (n, m, step, max_norm) in [(1, 3, 1, 1e6), (1_000, 1, 1, 1.0), (40_001, 777, 777, 0.1)] {
        let settings = AdamW { beta1: 0.9, beta2: 0.99, weight_decay: 0.1, max_norm };
        let pace = Pace { rate: 1e-2, step, average_decay: 0.9 }.words(&settings);
        let inputs = [n, n, n, n, n, m, m, m, m, m].map(|n| floats(pair.normal(n).iter().map(|v| v.abs()).collect()));
        let outputs = [n, n, n, n, n, m, m, m, m, m].map(FloatPoison);
        compare!(pair, inputs inputs.into_iter().collect(), outputs outputs,
            |b, [grad, value, first, second, average, grad2, value2, first2, second2, average2],
             [grad_out, value_out, first_out, second_out, average_out,
              grad2_out, value2_out, first2_out, second2_out, average2_out]| {
            // The operation works in place.
            b.copy(grad, grad_out);
            b.copy(grad2, grad2_out);
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
                    grad: grad_out,
                    value: value_out,
                    first_moment: first_out,
                    second_moment: second_out,
                    average: average_out,
                    decays: true,
                },
                Trained {
                    grad: grad2_out,
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
