//! Training of the VQ-GAN: errors of the pictures, commitment, codebook by moving averages.

use std::path::Path;

use rissole::{Error, Result};
use serde::{Deserialize, Serialize};

use super::Trainer;
use super::checkpoint::{Checkpoint, settings_hash};
use super::codebook::{self, Codebook};
use super::optimizer::OptimizerConfig;
use super::perceptual::PerceptualTraining;
use super::picture_loss::{DiscriminatorTraining, ErrorWeights, PictureErrors, PictureLoss, mean_square};
use crate::backend::Backend;
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
    /// Pixels along the side of a square that is cut out of each, anywhere; absent: whole pictures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop: Option<usize>,
    /// Steps.
    pub steps: u64,
    /// Steps at the start that pass latents through unquantized, so that the codebook starts on sensible ones.
    pub quantize_from: u64,
    /// Weight of the squared error beside the absolute error, which counts 1.
    pub squared_weight: f32,
    /// Weight of the commitment loss.
    pub commitment: f32,
    /// The perceptual loss; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perceptual: Option<PerceptualTraining>,
    /// The discriminator; absent: reconstruction losses only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discriminator: Option<DiscriminatorTraining>,
}

/// What one step saw.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct VqganLosses {
    /// Of the pictures.
    pub picture: PictureErrors,
    /// Mean squared distance of latents to their codes.
    pub commitment: f64,
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
    loss: PictureLoss<'a, B>,
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
        let weights = ErrorWeights { squared: config.squared_weight, differences: 0.0 };
        let loss =
            PictureLoss::new(backend, weights, config.perceptual.as_ref(), config.discriminator.as_ref(), &mut random);
        Self { backend, config: config.clone(), seed, set, encoder, decoder, codebook: None, loss, step: 0, random }
    }

    /// The networks with the moving average of their weights, for encoding, evaluation and export.
    pub fn into_averaged(mut self) -> Result<Vqgan<'a, B>> {
        let codebook = self.codebook.take().ok_or_else(|| {
            Error::Usage("the VQ-GAN has no codebook yet: train for more steps than quantize_from".into())
        })?;
        self.set.swap_averages();
        Ok(Vqgan { backend: self.backend, set: self.set, encoder: self.encoder, decoder: self.decoder, codebook })
    }

    /// One step on `images`, `[N,height,width,3]` in −1…1.
    ///
    /// # Errors
    /// As [`Backend::check`] and [`PictureLoss::grad`].
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

        let (grad, errors) = self.loss.grad(self.step, &tape, decoded, (&fake, images), shape)?;
        losses.picture = errors;
        tape.seed(decoded.image, &grad);
        if let Some(grad) = &commitment_grad {
            tape.seed(latent, grad);
        }
        tape.backward();
        drop(tape);
        let optimizer = &self.config.optimizer;
        let (settings, pace) = (optimizer.adamw(), optimizer.at(self.step, self.config.steps));
        self.set.update(self.backend, &settings, &pace);
        losses.picture.discriminator = self.loss.train_critic((&fake, images), shape, (&settings, &pace));
        self.backend.check_batch(batch)?;
        Ok(losses)
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
        self.loss.take(&mut checkpoint)?;
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

impl<B: Backend> Trainer for VqganTrainer<'_, B> {
    fn parameters(&self) -> usize {
        self.set.count()
    }

    fn step(&self) -> u64 {
        self.step
    }

    fn checkpoint(&self) -> Result<Checkpoint> {
        let mut checkpoint = Checkpoint::new(self.step, self.settings(), &self.random);
        checkpoint.put_params("vqgan", self.backend, &self.set);
        self.loss.put(&mut checkpoint);
        if let Some(c) = &self.codebook {
            for (name, values) in [("entries", &c.entries), ("uses", &c.uses), ("sums", &c.sums)] {
                checkpoint.tensors.insert(format!("codebook/{name}"), values.clone());
            }
        }
        self.backend.check()?;
        Ok(checkpoint)
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

    /// Puts the averaged weights of `trained` in place of the decoder's.
    pub fn replace_decoder(&mut self, trained: &ParamSet<B>) {
        self.set.copy_from(self.backend, trained);
    }

    /// The weights of encoder and decoder, averaged.
    pub fn weights(&self) -> &ParamSet<B> {
        &self.set
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
