//! The errors against finite differences; the critic by itself: it must tell sharp pictures from blurred ones, and
//! its gradient must lead back.

use super::*;
use crate::backend::cpu::Cpu;
use crate::train::optimizer::OptimizerConfig;

const SIDE: usize = 32;
const BATCH: usize = 8;
const SHAPE: [usize; 4] = [BATCH, SIDE, SIDE, 3];

/// Pictures of flat rectangles in −1…1.
fn sharp(random: &mut Random) -> Vec<f32> {
    let mut images = vec![0.0f32; SHAPE.iter().product()];
    for image in images.chunks_exact_mut(SIDE * SIDE * 3) {
        for _ in 0..6 {
            let [left, top] = [0; 2].map(|_| random.below(SIDE - 8));
            let [width, height] = [0; 2].map(|_| 4 + random.below(12));
            let colour = [0; 3].map(|_| random.below(200) as f32 / 100.0 - 1.0);
            for y in top..(top + height).min(SIDE) {
                for x in left..(left + width).min(SIDE) {
                    image[(y * SIDE + x) * 3..][..3].copy_from_slice(&colour);
                }
            }
        }
    }
    images
}

/// Each pixel the mean of itself and its right and lower neighbours.
fn blurred(images: &[f32]) -> Vec<f32> {
    let at = |n: usize, y: usize, x: usize, c: usize| {
        images[((n * SIDE + y.min(SIDE - 1)) * SIDE + x.min(SIDE - 1)) * 3 + c]
    };
    let pixel = |i: usize| (i / (SIDE * SIDE * 3), i / (SIDE * 3) % SIDE, i / 3 % SIDE, i % 3);
    (0..images.len())
        .map(|i| {
            let (n, y, x, c) = pixel(i);
            (at(n, y, x, c) + at(n, y, x + 1, c) + at(n, y + 1, x, c)) / 3.0
        })
        .collect()
}

#[test]
fn the_critic_learns_to_tell_sharp_from_blurred() {
    let backend = Cpu::default();
    let mut random = Random::new(3);
    let mut set = ParamSet::default();
    let critic = Discriminator::new(&mut Maker { backend: &backend, set: &mut set, random: &mut random }, 16);
    let config = OptimizerConfig { rate: 2e-3, warmup: 1, weight_decay: 0.0, max_norm: 1.0, average_decay: 0.99 };
    let mut losses = vec![];
    for step in 1..=200 {
        let real = sharp(&mut random);
        let fake = blurred(&real);
        let mut loss = vec![f32::NAN];
        hinge(&backend, &mut set, &critic, [real, fake], SHAPE, &mut loss);
        losses.push(f64::from(loss[0]));
        let pace = config.at(step, 200).words(&config.adamw()).to_vec();
        set.update(&backend, &config.adamw(), &pace);
        if step % 20 == 0 {
            println!("{step} {:.4}", losses.last().unwrap());
        }
    }
    let last = losses[180..].iter().sum::<f64>() / 20.0;
    assert!(last < 0.6, "{last}");

    // Downhill from blurred pictures the critic likes them better.
    let fake = blurred(&sharp(&mut random));
    let grad = generator_grad(&backend, &mut set, &critic, &fake, SHAPE);
    let scored = |images: &[f32], set: &mut ParamSet<Cpu>| {
        let mut tape = Tape::new(&backend, set);
        let input = tape.input("", SHAPE, images);
        let scores = critic.apply(&mut tape, input);
        let values = tape.value(scores);
        values.iter().sum::<f32>() / values.len() as f32
    };
    let norm = grad.iter().map(|g| g * g).sum::<f32>();
    let step = 1e-3;
    let moved: Vec<f32> = fake.iter().zip(&grad).map(|(f, g)| f - step * g / norm.sqrt()).collect();
    let (rise, expected) = (scored(&moved, &mut set) - scored(&fake, &mut set), step * norm.sqrt());
    assert!((rise / expected - 1.0).abs() < 0.1, "{rise} {expected}");
}

/// The loss itself, in f64, written pixel by pixel.
fn slow_loss(fake: &[f32], real: &[f32], [n, h, w, c]: [usize; 4], weights: ErrorWeights) -> f64 {
    let wrong = |n: usize, y: usize, x: usize, c_: usize| {
        let at = ((n * h + y) * w + x) * c + c_;
        f64::from(fake[at]) - f64::from(real[at])
    };
    let mut sum = 0.0;
    for (n, y, x, c) in (0..n * h * w * c).map(|i| (i / (h * w * c), i / (w * c) % h, i / c % w, i % c)) {
        let here = wrong(n, y, x, c);
        sum += here.abs() + f64::from(weights.squared) * here * here;
        let right = (x + 1 < w).then(|| (here - wrong(n, y, x + 1, c)).abs());
        let below = (y + 1 < h).then(|| (here - wrong(n, y + 1, x, c)).abs());
        sum += f64::from(weights.differences) * (right.unwrap_or(0.0) + below.unwrap_or(0.0));
    }
    sum / fake.len() as f64
}

#[test]
fn the_gradient_of_the_errors_is_that_of_finite_differences() {
    let shape = [2, 3, 5, 3];
    let mut random = Random::new(5);
    let mut draw = || (0..90).map(|_| 2.0 * random.uniform() - 1.0).collect::<Vec<f32>>();
    let (fake, real) = (draw(), draw());
    for weights in [ErrorWeights { squared: 0.7, differences: 0.0 }, ErrorWeights { squared: 0.3, differences: 1.5 }] {
        let plane = Plane { batch: 2, height: 3, width: 5, channels: 3 };
        let g = PictureError { plane, squared: weights.squared, differences: weights.differences };
        let (mut grad, mut errors) = (vec![f32::NAN; fake.len()], vec![f32::NAN; 2]);
        Cpu::default().picture_error(&g, &fake, &real, &mut grad, &mut errors);
        let only_absolute = ErrorWeights { squared: 0.0, differences: 0.0 };
        assert!((f64::from(errors[0]) - slow_loss(&fake, &real, shape, only_absolute)).abs() < 1e-6);
        for i in 0..fake.len() {
            // Small enough that no sign changes on the way, but for pixels that are nearly equal.
            let step = 1e-4;
            let moved = |by: f32| {
                let mut fake = fake.clone();
                fake[i] += by;
                slow_loss(&fake, &real, shape, weights)
            };
            let slope = (moved(step) - moved(-step)) / f64::from(2.0 * step);
            assert!((slope - f64::from(grad[i])).abs() < 1e-4, "{i}: {slope} {}", grad[i]);
        }
    }
}
