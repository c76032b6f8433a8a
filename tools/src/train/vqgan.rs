//! Training of the VQ-GAN: reconstruction (L1 and L2), commitment, codebook by moving averages, and where the
//! recipe asks for it the patch discriminator with hinge loss and adaptive weight (Esser et al. 2021, eq. 7).

use std::path::Path;

use rissole::{Error, Result};
use serde::{Deserialize, Serialize};

use super::checkpoint::{Checkpoint, settings_hash};
use super::codebook::{self, Codebook};
use super::optimizer::OptimizerConfig;
use crate::backend::AdamW;
use crate::backend::{Backend, Plane};
use crate::model::discriminator::Discriminator;
use crate::model::layers::Maker;
use crate::model::vqgan::{Decoder, Encoder, VqganConfig};
use crate::random::Random;
use crate::tape::{NodeId, ParamSet, Tape};

/// Settings of a recipe's `[vqgan]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VqganTraining {
    /// The networks.
    pub model: VqganConfig,
    /// The optimizer.
    pub optimizer: OptimizerConfig,
    /// Pictures a step.
    pub batch: usize,
    /// Steps.
    pub steps: u64,
    /// Steps at the start that pass latents through unquantized, so that the codebook starts on sensible ones.
    pub quantize_from: u64,
    /// Weight of the squared error beside the absolute error, which counts 1.
    pub squared_weight: f32,
    /// Weight of the commitment loss.
    pub commitment: f32,
    /// The discriminator; absent: reconstruction losses only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discriminator: Option<DiscriminatorTraining>,
}

/// Settings of the adversarial loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiscriminatorTraining {
    /// Channels of its first layer.
    pub width: usize,
    /// First step with the adversarial loss.
    pub from: u64,
    /// Factor on the adaptive weight.
    pub weight: f32,
    /// Its learning rate, held; absent: that of the autoencoder, which has fallen far when a late critic starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f32>,
}

/// What one step saw.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct VqganLosses {
    /// Mean absolute error, pixels in −1…1.
    pub absolute: f64,
    /// Mean squared error, pixels in −1…1.
    pub squared: f64,
    /// Mean squared distance of latents to their codes.
    pub commitment: f64,
    /// Adaptive weight of the adversarial loss.
    pub adversarial_weight: f64,
    /// Hinge loss of the discriminator.
    pub discriminator: f64,
    /// Entries revived.
    pub revived: usize,
}

/// A VQ-GAN in training.
#[derive(Debug)]
pub struct VqganTrainer<'a, B: Backend> {
    backend: &'a B,
    config: VqganTraining,
    seed: u64,
    set: ParamSet<B>,
    encoder: Encoder,
    decoder: Decoder,
    codebook: Option<Codebook>,
    critic_set: ParamSet<B>,
    critic: Option<Discriminator>,
    /// Steps done.
    pub step: u64,
    /// Draws batches, initial codes and revivals.
    pub random: Random,
}

impl<'a, B: Backend> VqganTrainer<'a, B> {
    /// Untrained networks.
    pub fn new(backend: &'a B, config: &VqganTraining, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut set = ParamSet::default();
        let mut maker = Maker { backend, set: &mut set, random: &mut random };
        let encoder = Encoder::new(&mut maker, &config.model);
        let decoder = Decoder::new(&mut maker, &config.model);
        let mut critic_set = ParamSet::default();
        let mut maker = Maker { backend, set: &mut critic_set, random: &mut random };
        let critic = config.discriminator.as_ref().map(|d| Discriminator::new(&mut maker, d.width));
        Self {
            backend,
            config: config.clone(),
            seed,
            set,
            encoder,
            decoder,
            codebook: None,
            critic_set,
            critic,
            step: 0,
            random,
        }
    }

    /// The networks with the moving average of their weights, for encoding, evaluation and export.
    pub fn into_averaged(mut self) -> Result<Vqgan<'a, B>> {
        let codebook = self.codebook.take().ok_or_else(|| {
            Error::Usage("the VQ-GAN has no codebook yet: train for more steps than quantize_from".into())
        })?;
        self.set.swap_averages();
        Ok(Vqgan { backend: self.backend, set: self.set, encoder: self.encoder, decoder: self.decoder, codebook })
    }

    /// Number of trained values in encoder and decoder.
    pub fn parameters(&self) -> usize {
        self.set.count()
    }

    /// One step on `images`, `[N,height,width,3]` in −1…1.
    ///
    /// # Errors
    /// As [`Backend::check`].
    pub fn train(&mut self, images: &[f32], height: usize, width: usize) -> Result<VqganLosses> {
        self.step += 1;
        let batch = images.len() / (height * width * 3);
        let shape = [batch, height, width, 3];
        let mut losses = VqganLosses::default();
        self.set.clear_grads(self.backend);
        let mut tape = Tape::new(self.backend, &mut self.set);
        let input = tape.input("", shape, images);
        let latent = self.encoder.apply(&mut tape, input);
        let (decoded_from, commitment_grad) = if self.step > self.config.quantize_from {
            let rows = tape.value(latent);
            let model = &self.config.model;
            let codebook = self.codebook.get_or_insert_with(|| {
                Codebook::from_rows(model.codebook_size, model.latent_channels, &rows, &mut self.random)
            });
            let codes = tape.nearest(latent, &codebook.entries);
            let nearest = codebook.look_up(&codes);
            losses.revived = codebook.update(&rows, &codes, codebook::DECAY, &mut self.random);
            let scale = 2.0 * self.config.commitment / rows.len() as f32;
            let grad: Vec<f32> = rows.iter().zip(&nearest).map(|(z, e)| scale * (z - e)).collect();
            losses.commitment = mean_square(rows.iter().zip(&nearest).map(|(z, e)| z - e), rows.len());
            (tape.straight_through(latent, &nearest), Some(grad))
        } else {
            (latent, None)
        };
        let decoded = self.decoder.apply(&mut tape, decoded_from);
        let fake = tape.value(decoded.image);

        let mut grad = reconstruction_grad(&fake, images, self.config.squared_weight, &mut losses);
        let adversary = self.config.discriminator.as_ref().filter(|d| self.step > d.from);
        if let (Some(settings), Some(critic)) = (adversary, &self.critic) {
            let from_critic = generator_grad(self.backend, &mut self.critic_set, critic, &fake, shape);
            let last = |grad: &[f32]| gradient_at_last(self.backend, &tape, decoded.last, grad, shape);
            let adaptive = (last(&grad) / (last(&from_critic) + 1e-4)).min(1e4);
            losses.adversarial_weight = adaptive * f64::from(settings.weight);
            let weight = losses.adversarial_weight as f32;
            grad.iter_mut().zip(&from_critic).for_each(|(g, a)| *g += weight * a);
        }
        tape.seed(decoded.image, &grad);
        if let Some(grad) = &commitment_grad {
            tape.seed(latent, grad);
        }
        tape.backward();
        drop(tape);
        let settings = self.config.optimizer.at(self.step, self.config.steps);
        self.set.update(self.backend, &settings);

        if let (true, Some(critic)) = (adversary.is_some(), &self.critic) {
            losses.discriminator = train_critic(self.backend, &mut self.critic_set, critic, images, &fake, shape);
            let rate = adversary.and_then(|d| d.rate).unwrap_or(settings.rate);
            self.critic_set.update(self.backend, &AdamW { rate, ..settings });
        }
        self.backend.check()?;
        Ok(losses)
    }

    /// Saves the run.
    ///
    /// # Errors
    /// As [`Self::checkpoint`]; [`Error::Io`].
    pub fn save(&self, path: &Path) -> Result<()> {
        self.checkpoint()?.save(path)
    }

    /// The run as it stands.
    ///
    /// # Errors
    /// As [`Backend::check`]: a device that failed must not overwrite what was saved before.
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        let mut checkpoint = Checkpoint::new(self.step, self.settings(), &self.random);
        checkpoint.put_params("vqgan", self.backend, &self.set);
        checkpoint.put_params("critic", self.backend, &self.critic_set);
        if let Some(c) = &self.codebook {
            for (name, values) in [("entries", &c.entries), ("uses", &c.uses), ("sums", &c.sums)] {
                checkpoint.tensors.insert(format!("codebook/{name}"), values.clone());
            }
        }
        self.backend.check()?;
        Ok(checkpoint)
    }

    /// Goes on from the checkpoint at `path`, where there is one.
    ///
    /// # Errors
    /// [`Error::File`] when it is damaged or of other settings.
    pub fn resume(&mut self, path: &Path) -> Result<()> {
        let Some(checkpoint) = Checkpoint::load(path)? else { return Ok(()) };
        self.restore(checkpoint).map_err(|e| Error::file(path, e.to_string()))
    }

    fn restore(&mut self, mut checkpoint: Checkpoint) -> Result<()> {
        if checkpoint.settings != self.settings() {
            return Err(Error::Usage("the checkpoint was made with other settings of [vqgan]".into()));
        }
        checkpoint.take_params("vqgan", self.backend, &mut self.set)?;
        checkpoint.take_params("critic", self.backend, &mut self.critic_set)?;
        let (k, c) = (self.config.model.codebook_size, self.config.model.latent_channels);
        if checkpoint.tensors.contains_key("codebook/entries") {
            self.codebook = Some(Codebook {
                channels: c,
                entries: checkpoint.take("codebook/entries", k * c)?,
                uses: checkpoint.take("codebook/uses", k)?,
                sums: checkpoint.take("codebook/sums", k * c)?,
            });
        }
        self.step = checkpoint.step;
        self.random = Random::from_state(checkpoint.random);
        Ok(())
    }

    fn settings(&self) -> String {
        settings_hash(&(&self.config, self.seed))
    }
}

/// A trained VQ-GAN.
#[derive(Debug)]
pub struct Vqgan<'a, B: Backend> {
    backend: &'a B,
    set: ParamSet<B>,
    encoder: Encoder,
    decoder: Decoder,
    /// The codebook.
    pub codebook: Codebook,
}

impl<B: Backend> Vqgan<'_, B> {
    /// Codes of `images`, `[N,height,width,3]` in −1…1: one for each latent cell, row by row.
    ///
    /// # Errors
    /// As [`Backend::check`].
    pub fn encode(&mut self, images: &[f32], height: usize, width: usize) -> Result<Vec<u32>> {
        let batch = images.len() / (height * width * 3);
        let mut tape = Tape::new(self.backend, &mut self.set);
        let input = tape.input("image", [batch, height, width, 3], images);
        let latent = self.encoder.apply(&mut tape, input);
        let codes = tape.nearest(latent, &self.codebook.entries);
        self.backend.check()?;
        Ok(codes)
    }

    /// Records the encoder on one picture, for export. Returns the tape and the latent.
    pub fn record_encoder(&mut self, height: usize, width: usize) -> (Tape<'_, B>, NodeId) {
        let mut tape = Tape::new(self.backend, &mut self.set);
        let input = tape.input("image", [1, height, width, 3], &vec![0.0; height * width * 3]);
        let latent = self.encoder.apply(&mut tape, input);
        (tape, latent)
    }

    /// Records the decoder on one latent of `height × width` cells, for export. Returns the tape and the image.
    pub fn record_decoder(&mut self, height: usize, width: usize) -> (Tape<'_, B>, NodeId) {
        let c = self.codebook.channels;
        let mut tape = Tape::new(self.backend, &mut self.set);
        let input = tape.input("latent", [1, height, width, c], &vec![0.0; height * width * c]);
        let image = self.decoder.apply(&mut tape, input).image;
        (tape, image)
    }
}

fn mean_square(differences: impl Iterator<Item = f32>, count: usize) -> f64 {
    differences.map(|d| f64::from(d) * f64::from(d)).sum::<f64>() / count as f64
}

/// Gradient of mean |fake − real| + w · mean (fake − real)².
fn reconstruction_grad(fake: &[f32], real: &[f32], squared_weight: f32, losses: &mut VqganLosses) -> Vec<f32> {
    let share = 1.0 / fake.len() as f32;
    losses.absolute = fake.iter().zip(real).map(|(f, r)| f64::from((f - r).abs())).sum::<f64>() / fake.len() as f64;
    losses.squared = mean_square(fake.iter().zip(real).map(|(f, r)| f - r), fake.len());
    fake.iter()
        .zip(real)
        .map(|(f, r)| {
            let d = f - r;
            let sign = if d == 0.0 { 0.0 } else { d.signum() };
            share * (sign + 2.0 * squared_weight * d)
        })
        .collect()
}

/// Gradient of −mean critic(fake) with respect to the picture. The critic's own gradients are dropped.
fn generator_grad<B: Backend>(
    backend: &B,
    set: &mut ParamSet<B>,
    critic: &Discriminator,
    fake: &[f32],
    shape: [usize; 4],
) -> Vec<f32> {
    let mut tape = Tape::new(backend, set);
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
    let (wide, mut deep) = (backend.upload(grad), backend.alloc(grad.len()));
    backend.space_to_depth(&plane, &wide, &mut deep);
    let norm = tape.conv_weight_grad_norm(last, &backend.download(&deep));
    [wide, deep].into_iter().for_each(|b| backend.release(b));
    norm
}

/// Hinge loss of the critic on real and fake pictures, its gradients left in `set`.
fn train_critic<B: Backend>(
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
