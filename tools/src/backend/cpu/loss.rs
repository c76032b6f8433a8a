//! Losses of pictures and their gradients.

use super::super::PictureError;

/// See [`Backend::picture_error`](super::super::Backend::picture_error); returns the two errors.
pub fn picture_error(g: &PictureError, fake: &[f32], real: &[f32], grad: &mut [f32]) -> [f32; 2] {
    let share = 1.0 / fake.len() as f32;
    let wrong: Vec<f32> = fake.iter().zip(real).map(|(f, r)| f - r).collect();
    grad.iter_mut().zip(&wrong).for_each(|(grad, &d)| *grad = share * (sign(d) + 2.0 * g.squared * d));
    if g.differences > 0.0 {
        add_difference_grad(g, &wrong, grad);
    }
    let mean = |of: fn(f64) -> f64| wrong.iter().map(|&d| of(f64::from(d))).sum::<f64>() / wrong.len() as f64;
    [mean(f64::abs) as f32, mean(|d| d * d) as f32]
}

/// Adds the gradient of Σ |wrong at a pixel − wrong at the next|, weighted, next being right and below.
fn add_difference_grad(g: &PictureError, wrong: &[f32], grad: &mut [f32]) {
    let (row, channels) = (g.plane.width * g.plane.channels, g.plane.channels);
    let share = g.differences / wrong.len() as f32;
    let pictures = grad.chunks_exact_mut(g.plane.height * row).zip(wrong.chunks_exact(g.plane.height * row));
    for (grad, wrong) in pictures {
        let mut add = |at: usize, next: usize| {
            let slope = share * sign(wrong[at] - wrong[next]);
            grad[at] += slope;
            grad[next] -= slope;
        };
        for at in 0..wrong.len() {
            if at % row + channels < row {
                add(at, at + channels);
            }
            if at + row < wrong.len() {
                add(at, at + row);
            }
        }
    }
}

fn sign(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { x.signum() }
}

/// See [`Backend::hinge`](super::super::Backend::hinge); returns what is added to the loss.
pub fn hinge(sign: f32, scores: &[f32], grad: &mut [f32]) -> f64 {
    let share = 0.5 / scores.len() as f32;
    let slope = |score: &f32| if sign * score < 1.0 { -sign * share } else { 0.0 };
    grad.iter_mut().zip(scores).for_each(|(grad, score)| *grad = slope(score));
    scores.iter().map(|score| f64::from(share * (1.0 - sign * score).max(0.0))).sum()
}

/// See [`Backend::adaptive_weight`](super::super::Backend::adaptive_weight).
pub fn adaptive_weight(weight: f32, a: f32, b: f32) -> f32 {
    weight * (a.sqrt() / (b.sqrt() + 1e-4)).min(1e4)
}
