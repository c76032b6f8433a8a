//! Training the decoder on, encoder and codebook fixed: the codes, and with them database and denoiser, stay what
//! they are while the pictures get better.

use std::path::Path;

use rissole::{Error, Result};
use serde::{Deserialize, Serialize};

use super::Trainer;
use super::checkpoint::{Checkpoint, settings_hash};
use super::measures::Measures;
use super::optimizer::OptimizerConfig;
use super::perceptual::PerceptualTraining;
use super::picture_loss::{self, DiscriminatorTraining, ErrorWeights, PictureLoss};
use super::together::Together;
use super::vqgan::{Vqgan, VqganTraining, float_input};
use crate::backend::codes::CodeSet;
use crate::backend::pictures::{Cut, PictureSet};
use crate::backend::{AdamW, Backend, Pace};
use crate::model::layers::Maker;
use crate::model::vqgan::{Decoder, VqganConfig};
use crate::random::Random;
use crate::tape::{ParamSet, Tape, len};

/// Settings of a recipe's `[decoder]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderTraining {
    /// The optimizer.
    pub optimizer: OptimizerConfig,
    /// Pictures a step.
    pub batch: usize,
    /// Pixels along the side of a square that is cut out of each, anywhere; absent: whole pictures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop: Option<usize>,
    /// Steps.
    pub steps: u64,
    /// Weight of the squared error beside the absolute error, which counts 1.
    pub squared_weight: f32,
    /// Weight of the absolute error of the differences between neighbouring pixels (Mathieu et al. 2016, eq. 6): flat
    /// areas and edges count beside colours.
    pub difference_weight: f32,
    /// The perceptual loss; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perceptual: Option<PerceptualTraining>,
    /// The discriminator; absent: errors only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discriminator: Option<DiscriminatorTraining>,
}

/// A decoder in training.
#[derive(Debug)]
pub struct DecoderTrainer<'a, B: Backend> {
    backend: &'a B,
    together: Together<'a>,
    config: DecoderTraining,
    settings: String,
    model: VqganConfig,
    set: ParamSet<B>,
    decoder: Decoder,
    loss: PictureLoss<'a, B>,
    /// Steps done.
    pub step: u64,
    /// Draws batches.
    pub random: Random,
    measures: Measures<B>,
    /// What is trained on: pictures, and the codes of their latents.
    data: Option<(B::Pictures, B::Codes)>,
    /// Buffers of the last step, and the recording of what is done with them.
    kept: Option<(Inputs<B>, B::Recording)>,
}

/// What a step is told, in buffers that stay where they are.
#[derive(Debug)]
struct Inputs<B: Backend> {
    /// Of the pictures.
    shape: [usize; 4],
    /// Whether the critic is at work.
    adversarial: bool,
    /// Where latents are cut out, and where pictures are.
    cuts: [B::Buffer; 2],
    /// Latents, floats.
    latents: B::Buffer,
    /// The pictures, floats.
    images: B::Buffer,
    pace: B::Buffer,
}

impl<'a, B: Backend> DecoderTrainer<'a, B> {
    /// The decoder of `vqgan`, which was trained with the settings `before`.
    pub fn new(backend: &'a B, config: &DecoderTraining, before: &VqganTraining, vqgan: &Vqgan<B>, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut set = ParamSet::default();
        let decoder = Decoder::new(&mut Maker { backend, set: &mut set, random: &mut random }, &before.model);
        set.copy_from(backend, vqgan.weights());
        let weights = ErrorWeights { squared: config.squared_weight, differences: config.difference_weight };
        let loss =
            PictureLoss::new(backend, weights, config.perceptual.as_ref(), config.discriminator.as_ref(), &mut random);
        Self {
            backend,
            together: Together::alone(),
            config: config.clone(),
            settings: settings_hash(&(config, before, seed)),
            model: before.model.clone(),
            set,
            decoder,
            loss,
            step: 0,
            random,
            measures: Measures::new(backend, picture_loss::MEASURES.len()),
            data: None,
            kept: None,
        }
    }

    /// The same decoder, trained with other processes: each is given its share of a batch.
    pub fn with(self, together: Together<'a>) -> Self {
        Self { together, ..self }
    }

    /// The same decoder, trained on `pictures` and the latents of them that `codes` name.
    pub fn on(self, pictures: PictureSet, codes: CodeSet) -> Self {
        Self { data: Some((self.backend.pictures(pictures), self.backend.codes(codes))), ..self }
    }

    /// One step on parts of `height × width` pixels: `cuts` of latents, in cells, and of the pictures.
    ///
    /// # Errors
    /// As [`Backend::check`], [`PictureLoss::prepare`] and [`Together::average`].
    ///
    /// # Panics
    /// Before [`Self::on`].
    pub fn train(&mut self, cuts: [&[Cut]; 2], height: usize, width: usize) -> Result<()> {
        self.step += 1;
        let optimizer = self.config.optimizer.adamw();
        let pace = self.config.optimizer.at(self.step, self.config.steps);
        let shape = [cuts[1].len(), height, width, 3];
        let adversarial = self.loss.prepare(shape, &optimizer, &pace)?;
        let (mut inputs, mut recording) = self.inputs_for(shape, adversarial);
        for (cuts, buffer) in cuts.into_iter().zip(&mut inputs.cuts) {
            self.backend.write(&Cut::words(cuts), buffer);
        }
        self.backend.write(&pace.words(&optimizer), &mut inputs.pace);
        self.measures.begin(self.backend);
        self.together.repeat(self.backend, &mut recording, || self.compute(&mut inputs, &optimizer))?;
        self.kept = Some((inputs, recording));
        self.backend.check_batch(shape[0])
    }

    /// Buffers for steps of that kind, with their recording.
    fn inputs_for(&mut self, shape: [usize; 4], adversarial: bool) -> (Inputs<B>, B::Recording) {
        let kept = self.kept.take().filter(|(kept, _)| (kept.shape, kept.adversarial) == (shape, adversarial));
        kept.unwrap_or_else(|| {
            let inputs = Inputs {
                shape,
                adversarial,
                cuts: [(); 2].map(|()| self.backend.alloc_floats(shape[0] * Cut::WORDS)),
                latents: self.backend.alloc_floats(len(self.latent_shape(shape))),
                images: self.backend.alloc_floats(len(shape)),
                pace: self.backend.alloc_floats(Pace::WORDS),
            };
            (inputs, B::Recording::default())
        })
    }

    /// Shape of the latents of pictures of `shape`.
    fn latent_shape(&self, [batch, height, width, _]: [usize; 4]) -> [usize; 4] {
        let down = self.model.downsampling();
        [batch, height / down, width / down, self.model.latent_channels]
    }

    /// All of a step that the device does.
    fn compute(&mut self, inputs: &mut Inputs<B>, optimizer: &AdamW) -> Result<()> {
        let (backend, latent, [_, height, width, _]) = (self.backend, self.latent_shape(inputs.shape), inputs.shape);
        let (pictures, codes) = self.data.as_ref().expect("there is something to train on");
        backend.cut_out(pictures, [height, width], &inputs.cuts[1], &mut inputs.images);
        backend.cut_latents(codes, [latent[1], latent[2]], &inputs.cuts[0], &mut inputs.latents);
        let mut tape = Tape::new(backend, &mut self.set);
        let input = float_input(backend, &mut tape, &inputs.latents, latent);
        let decoded = self.decoder.apply(&mut tape, input);
        let fake = self.loss.seed(&mut tape, decoded, &inputs.images, inputs.adversarial, self.together)?;
        tape.backward();
        drop(tape);
        self.together.average(backend, &mut self.set.grads())?;
        self.set.update(backend, optimizer, &inputs.pace);
        if let Some(fake) = fake {
            self.loss.train_critic(fake, &inputs.images, inputs.shape, optimizer, self.together)?;
        }
        self.loss.note(&mut self.measures);
        Ok(())
    }

    /// The decoder's moving average as its weights.
    pub fn into_averaged(mut self) -> ParamSet<B> {
        self.set.swap_averages();
        self.set
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
        if checkpoint.settings != self.settings {
            return Err(Error::Usage("the checkpoint was made with other settings of [vqgan] or [decoder]".into()));
        }
        checkpoint.take_params("decoder", self.backend, &mut self.set)?;
        self.loss.take(&mut checkpoint)?;
        self.step = checkpoint.step;
        self.random = Random::from_state(checkpoint.random);
        Ok(())
    }
}

impl<B: Backend> Trainer for DecoderTrainer<'_, B> {
    fn parameters(&self) -> usize {
        self.set.count()
    }

    fn step(&self) -> u64 {
        self.step
    }

    fn measures(&self) -> &'static [&'static str] {
        &picture_loss::MEASURES
    }

    fn measured(&mut self) -> Result<Vec<Vec<f64>>> {
        self.measures.take(self.backend, self.together)
    }

    fn checkpoint(&self) -> Result<Checkpoint> {
        let mut checkpoint = Checkpoint::new(self.step, self.settings.clone(), &self.random);
        checkpoint.put_params("decoder", self.backend, &self.set);
        self.loss.put(&mut checkpoint);
        self.backend.check()?;
        Ok(checkpoint)
    }
}
