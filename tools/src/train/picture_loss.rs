//! What teaches a decoder: the error of its pictures, and where the recipe asks for them a perceptual loss and a patch
//! discriminator with hinge loss and adaptive weight (Esser et al. 2021, eq. 7).

use rissole::Result;
use serde::{Deserialize, Serialize};

use super::checkpoint::Checkpoint;
use super::measures::Measures;
use super::perceptual::{Perceptual, PerceptualTraining};
use super::together::Together;
use crate::backend::{AdamW, Backend, Pace, PictureError, Plane};
use crate::model::discriminator::Discriminator;
use crate::model::layers::Maker;
use crate::model::vqgan::Decoded;
use crate::random::Random;
use crate::tape::{NodeId, ParamSet, Tape, len};

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

/// What is measured: mean absolute and mean squared error of pixels in −1…1, the weighted perceptual loss, the adaptive
/// weight of the adversarial loss, the hinge loss of the discriminator. What a step does without is 0.
pub const MEASURES: [&str; 5] = ["absolute", "squared", "perceptual", "adversarial_weight", "discriminator"];

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
    measured: Measured<B>,
    /// Pace of the critic.
    pace: B::Buffer,
}

/// What a step saw, on the device.
#[derive(Debug)]
struct Measured<B: Backend> {
    /// Absolute and squared.
    errors: B::Buffer,
    perceptual: B::Buffer,
    adversarial_weight: B::Buffer,
    discriminator: B::Buffer,
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
        let measured = Measured {
            errors: backend.zeros(2),
            perceptual: backend.zeros(1),
            adversarial_weight: backend.zeros(1),
            discriminator: backend.zeros(1),
        };
        let pace = backend.zeros(Pace::WORDS);
        Self { backend, weights, perceptual: perceptual.cloned(), opened: None, critic, critic_set, measured, pace }
    }

    /// Before a step at `pace` on pictures of `shape`: gets ready what it needs. Returns whether the critic is at work.
    ///
    /// # Errors
    /// As [`Perceptual::open`] and [`Perceptual::check`].
    pub fn prepare(&mut self, shape: [usize; 4], optimizer: &AdamW, pace: &Pace) -> Result<bool> {
        if let (Some(settings), None) = (&self.perceptual, &self.opened) {
            let opened = Perceptual::open(self.backend, settings)?;
            opened.check(shape[1], shape[2])?;
            self.opened = Some(opened);
        }
        let Some((_, settings)) = self.critic.as_ref().filter(|(_, critic)| pace.step > critic.from) else {
            return Ok(false);
        };
        let pace = Pace { rate: settings.rate.unwrap_or(pace.rate), ..*pace };
        self.backend.write(&pace.words(optimizer), &mut self.pace);
        Ok(true)
    }

    /// Seeds the gradient of the loss at the picture `decoded` against `real` (floats). With `adversarial` the critic has
    /// its say, and a copy of the picture is returned for [`Self::train_critic`].
    ///
    /// # Errors
    /// As [`Together::average`].
    pub fn seed(
        &mut self,
        tape: &mut Tape<B>,
        decoded: Decoded,
        real: &B::Buffer,
        adversarial: bool,
        together: Together,
    ) -> Result<Option<B::Buffer>> {
        let (backend, shape) = (self.backend, tape.shape(decoded.image));
        let [batch, height, width, channels] = shape;
        let plane = Plane { batch, height, width, channels };
        let ErrorWeights { squared, differences } = self.weights;
        let mut grad = backend.alloc(len(shape));
        let geometry = PictureError { plane, squared, differences };
        let fake = tape.buffer(decoded.image);
        backend.picture_error(&geometry, fake, real, &mut grad, &mut self.measured.errors);
        if let Some(perceptual) = &mut self.opened {
            perceptual.add_grad(fake, real, shape, &mut grad, &mut self.measured.perceptual, together)?;
        }
        let critic = self.critic.as_ref().filter(|_| adversarial);
        let mut copied = None;
        if let Some((critic, settings)) = critic {
            let mut copy = backend.alloc(len(shape));
            backend.copy(fake, &mut copy);
            let from_critic = generator_grad(backend, &mut self.critic_set, critic, fake, shape);
            let mut at_last =
                [&grad, &from_critic].map(|grad| gradient_at_last(backend, tape, decoded.last, grad, plane));
            together.average(backend, &mut at_last.each_mut())?;
            let squares = at_last.map(|grad| square_norm(backend, grad));
            let weight = &mut self.measured.adversarial_weight;
            backend.adaptive_weight(settings.weight, &squares[0], &squares[1], weight);
            backend.add_scaled(weight, &from_critic, &mut grad);
            squares.into_iter().chain([from_critic]).for_each(|buffer| backend.release(buffer));
            copied = Some(copy);
        }
        tape.seed_with(decoded.image, grad);
        Ok(copied)
    }

    /// Trains the critic, where there is one, on the picture that [`Self::seed`] returned and on `real` (floats).
    ///
    /// # Errors
    /// As [`Together::average`].
    pub fn train_critic(
        &mut self,
        fake: B::Buffer,
        real: &B::Buffer,
        shape: [usize; 4],
        optimizer: &AdamW,
        together: Together,
    ) -> Result<()> {
        let Some((critic, _)) = &self.critic else { return Ok(()) };
        let mut right = self.backend.alloc(len(shape));
        self.backend.convert(real, &mut right);
        hinge(self.backend, &mut self.critic_set, critic, [right, fake], shape, &mut self.measured.discriminator);
        together.average(self.backend, &mut self.critic_set.grads())?;
        self.critic_set.update(self.backend, optimizer, &self.pace);
        Ok(())
    }

    /// Notes what the step saw in the first columns, as [`MEASURES`] names them.
    pub fn note(&self, measures: &mut Measures<B>) {
        let Measured { errors, perceptual, adversarial_weight, discriminator } = &self.measured;
        for (column, values) in [(0, errors), (2, perceptual), (3, adversarial_weight), (4, discriminator)] {
            measures.note(self.backend, column, values);
        }
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

/// Gradient of −mean critic(fake) with respect to the picture. The critic itself gets none.
fn generator_grad<B: Backend>(
    backend: &B,
    set: &mut ParamSet<B>,
    critic: &Discriminator,
    fake: &B::Buffer,
    shape: [usize; 4],
) -> B::Buffer {
    let mut picture = backend.alloc(len(shape));
    backend.copy(fake, &mut picture);
    let mut tape = Tape::new(backend, set).frozen();
    let input = tape.device_input("image", shape, picture);
    let scores = critic.apply(&mut tape, input);
    let count = len(tape.shape(scores));
    let mut grad = backend.alloc(count);
    backend.fill(-1.0 / count as f32, &mut grad);
    tape.seed_with(scores, grad);
    tape.backward();
    tape.take_grad(input)
}

/// The gradient that `grad` of the picture gives the weights of the decoder's last layer.
fn gradient_at_last<B: Backend>(
    backend: &B,
    tape: &Tape<B>,
    last: NodeId,
    grad: &B::Buffer,
    image: Plane,
) -> B::Buffer {
    let Plane { batch, height, width, channels } = image;
    let plane = Plane { batch, height: height / 2, width: width / 2, channels: 4 * channels };
    let mut deep = backend.alloc(batch * height * width * channels);
    backend.space_to_depth(&plane, grad, &mut deep);
    let at_last = tape.conv_weight_grad(last, &deep);
    backend.release(deep);
    at_last
}

/// The square of the norm of `grad`.
fn square_norm<B: Backend>(backend: &B, grad: B::Buffer) -> B::Buffer {
    let mut square = backend.alloc_floats(1);
    backend.square_sum(&grad, &mut square);
    backend.release(grad);
    square
}

/// Hinge loss of the critic on pictures, real and fake, into `loss`; its gradients are left in `set`.
fn hinge<B: Backend>(
    backend: &B,
    set: &mut ParamSet<B>,
    critic: &Discriminator,
    pictures: [B::Buffer; 2],
    shape: [usize; 4],
    loss: &mut B::Buffer,
) {
    backend.clear(loss);
    for (picture, sign) in pictures.into_iter().zip([1.0f32, -1.0]) {
        let mut tape = Tape::new(backend, set);
        let input = tape.device_input("", shape, picture);
        let scores = critic.apply(&mut tape, input);
        let mut grad = backend.alloc(len(tape.shape(scores)));
        backend.hinge(sign, tape.buffer(scores), &mut grad, loss);
        tape.seed_with(scores, grad);
        tape.backward();
    }
}

#[cfg(test)]
mod tests;
