//! What teaches a decoder: the error of its pictures, and where the recipe asks for them a perceptual loss and a patch
//! discriminator with hinge loss and adaptive weight (Esser et al. 2021, eq. 7).

use rissole::Result;
use serde::{Deserialize, Serialize};

use super::checkpoint::Checkpoint;
use super::perceptual::{Perceptual, PerceptualTraining};
use crate::backend::{AdamW, Backend, Pace, Plane};
use crate::model::discriminator::Discriminator;
use crate::model::layers::Maker;
use crate::model::vqgan::Decoded;
use crate::random::Random;
use crate::tape::{NodeId, ParamSet, Tape};

/// Weights of the errors of a picture beside its mean absolute error, which counts 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ErrorWeights {
    /// Of the mean squared error.
    pub squared: f32,
    /// Of the mean absolute error of the differences between neighbouring pixels, across and down.
    pub differences: f32,
}

/// Settings of the adversarial loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiscriminatorTraining {
    /// Channels of its first layer.
    pub width: usize,
    /// Last step without the adversarial loss.
    pub from: u64,
    /// Factor on the adaptive weight.
    pub weight: f32,
    /// Its learning rate, held; absent: that of the autoencoder, which has fallen far when a late critic starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f32>,
}

/// What one step saw of its pictures.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PictureErrors {
    /// Mean absolute error, pixels in −1…1.
    pub absolute: f64,
    /// Mean squared error, pixels in −1…1.
    pub squared: f64,
    /// Perceptual loss, weighted.
    pub perceptual: f64,
    /// Adaptive weight of the adversarial loss.
    pub adversarial_weight: f64,
    /// Hinge loss of the discriminator.
    pub discriminator: f64,
}

/// The loss, with the critic in training where there is one.
#[derive(Debug)]
pub struct PictureLoss<'a, B: Backend> {
    backend: &'a B,
    weights: ErrorWeights,
    perceptual: Option<PerceptualTraining>,
    /// Opened when it is first needed: a network that is trained can do without.
    opened: Option<Perceptual<'a, B>>,
    critic: Option<(Discriminator, DiscriminatorTraining)>,
    critic_set: ParamSet<B>,
}

impl<'a, B: Backend> PictureLoss<'a, B> {
    /// With an untrained critic where `discriminator` asks for one.
    pub fn new(
        backend: &'a B,
        weights: ErrorWeights,
        perceptual: Option<&PerceptualTraining>,
        discriminator: Option<&DiscriminatorTraining>,
        random: &mut Random,
    ) -> Self {
        let mut critic_set = ParamSet::default();
        let mut maker = Maker { backend, set: &mut critic_set, random };
        let critic = discriminator.map(|settings| (Discriminator::new(&mut maker, settings.width), settings.clone()));
        Self { backend, weights, perceptual: perceptual.cloned(), opened: None, critic, critic_set }
    }

    /// Gradient of the loss at the picture `decoded`, whose values are `fake`, against `real`; both of `shape`.
    ///
    /// # Errors
    /// As [`Perceptual::open`] and [`Perceptual::check`].
    pub fn grad(
        &mut self,
        step: u64,
        tape: &Tape<B>,
        decoded: Decoded,
        (fake, real): (&[f32], &[f32]),
        shape: [usize; 4],
    ) -> Result<(Vec<f32>, PictureErrors)> {
        let (mut grad, mut errors) = error_grad(fake, real, shape, self.weights);
        if let Some(perceptual) = self.perceptual(shape)? {
            let (more, loss) = perceptual.grad(fake, real, shape);
            grad.iter_mut().zip(&more).for_each(|(g, m)| *g += m);
            errors.perceptual = loss;
        }
        if let Some((critic, settings)) = self.critic.as_ref().filter(|(_, c)| step > c.from) {
            let from_critic = generator_grad(self.backend, &mut self.critic_set, critic, fake, shape);
            let last = |grad: &[f32]| gradient_at_last(self.backend, tape, decoded.last, grad, shape);
            let adaptive = (last(&grad) / (last(&from_critic) + 1e-4)).min(1e4);
            errors.adversarial_weight = adaptive * f64::from(settings.weight);
            let weight = errors.adversarial_weight as f32;
            grad.iter_mut().zip(&from_critic).for_each(|(g, a)| *g += weight * a);
        }
        Ok((grad, errors))
    }

    /// The perceptual loss, where there is one, ready for pictures of `shape`.
    fn perceptual(&mut self, [_, height, width, _]: [usize; 4]) -> Result<Option<&mut Perceptual<'a, B>>> {
        if let (Some(settings), None) = (&self.perceptual, &self.opened) {
            let opened = Perceptual::open(self.backend, settings)?;
            opened.check(height, width)?;
            self.opened = Some(opened);
        }
        Ok(self.opened.as_mut())
    }

    /// Trains the critic, where it is at work, on the pictures of this step. Returns its hinge loss.
    pub fn train_critic(
        &mut self,
        (fake, real): (&[f32], &[f32]),
        shape: [usize; 4],
        (optimizer, pace): (&AdamW, &Pace),
    ) -> f64 {
        let Some((critic, settings)) = self.critic.as_ref().filter(|(_, c)| pace.step > c.from) else {
            return 0.0;
        };
        let loss = hinge(self.backend, &mut self.critic_set, critic, real, fake, shape);
        let rate = settings.rate.unwrap_or(pace.rate);
        self.critic_set.update(self.backend, optimizer, &Pace { rate, ..*pace });
        loss
    }

    /// Adds the critic to a checkpoint.
    pub fn put(&self, checkpoint: &mut Checkpoint) {
        checkpoint.put_params("critic", self.backend, &self.critic_set);
    }

    /// Restores what [`Self::put`] saved.
    ///
    /// # Errors
    /// As [`Checkpoint::take_params`].
    pub fn take(&mut self, checkpoint: &mut Checkpoint) -> Result<()> {
        checkpoint.take_params("critic", self.backend, &mut self.critic_set)
    }
}

/// Mean square of `count` differences.
pub fn mean_square(differences: impl Iterator<Item = f32>, count: usize) -> f64 {
    differences.map(|d| f64::from(d) * f64::from(d)).sum::<f64>() / count as f64
}

fn sign(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { x.signum() }
}

/// Gradient at `fake` of its weighted errors against `real`.
fn error_grad(fake: &[f32], real: &[f32], shape: [usize; 4], weights: ErrorWeights) -> (Vec<f32>, PictureErrors) {
    let share = 1.0 / fake.len() as f32;
    let wrong: Vec<f32> = fake.iter().zip(real).map(|(f, r)| f - r).collect();
    let mut grad: Vec<f32> = wrong.iter().map(|&d| share * (sign(d) + 2.0 * weights.squared * d)).collect();
    if weights.differences > 0.0 {
        add_difference_grad(&mut grad, &wrong, shape, weights.differences * share);
    }
    let errors = PictureErrors {
        absolute: wrong.iter().map(|d| f64::from(d.abs())).sum::<f64>() / wrong.len() as f64,
        squared: mean_square(wrong.iter().copied(), wrong.len()),
        ..PictureErrors::default()
    };
    (grad, errors)
}

/// Adds the gradient of `share` · Σ |wrong at a pixel − wrong at the next|, next being right and below.
fn add_difference_grad(grad: &mut [f32], wrong: &[f32], [_, height, width, channels]: [usize; 4], share: f32) {
    let row = width * channels;
    let pictures = grad.chunks_exact_mut(height * row).zip(wrong.chunks_exact(height * row));
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

/// Gradient of −mean critic(fake) with respect to the picture. The critic itself gets none.
fn generator_grad<B: Backend>(
    backend: &B,
    set: &mut ParamSet<B>,
    critic: &Discriminator,
    fake: &[f32],
    shape: [usize; 4],
) -> Vec<f32> {
    let mut tape = Tape::new(backend, set).frozen();
    let input = tape.input("image", shape, fake);
    let scores = critic.apply(&mut tape, input);
    let count = tape.value(scores).len();
    tape.seed(scores, &vec![-1.0 / count as f32; count]);
    tape.backward();
    tape.grad(input).expect("named inputs keep their gradient")
}

/// Norm of the gradient that `grad` of the picture gives the weights of the decoder's last layer.
fn gradient_at_last<B: Backend>(backend: &B, tape: &Tape<B>, last: NodeId, grad: &[f32], image: [usize; 4]) -> f64 {
    let [batch, height, width, channels] = image;
    let plane = Plane { batch, height: height / 2, width: width / 2, channels: 4 * channels };
    let (wide, mut deep) = (backend.upload_activations(grad), backend.alloc(grad.len()));
    backend.space_to_depth(&plane, &wide, &mut deep);
    let norm = tape.conv_weight_grad_norm(last, &backend.download(&deep));
    [wide, deep].into_iter().for_each(|b| backend.release(b));
    norm
}

/// Hinge loss of the critic on real and fake pictures, its gradients left in `set`.
fn hinge<B: Backend>(
    backend: &B,
    set: &mut ParamSet<B>,
    critic: &Discriminator,
    real: &[f32],
    fake: &[f32],
    shape: [usize; 4],
) -> f64 {
    set.clear_grads(backend);
    let mut loss = 0.0;
    for (images, sign) in [(real, 1.0f32), (fake, -1.0)] {
        let mut tape = Tape::new(backend, set);
        let input = tape.input("", shape, images);
        let scores = critic.apply(&mut tape, input);
        let values = tape.value(scores);
        let share = 0.5 / values.len() as f32;
        loss += values.iter().map(|v| f64::from(share * (1.0 - sign * v).max(0.0))).sum::<f64>();
        let grad: Vec<f32> = values.iter().map(|v| if sign * v < 1.0 { -sign * share } else { 0.0 }).collect();
        tape.seed(scores, &grad);
        tape.backward();
    }
    loss
}

#[cfg(test)]
mod tests;
