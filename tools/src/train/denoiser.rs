//! Training of conditioner and denoiser together on windows of latents.

mod recorded;

use std::path::Path;

use rissole::bundle::manifest::{NeighbourSource, Prediction, ScheduleKind};
use rissole::{BlockGrid, Error, LatentShape, Result};
use serde::{Deserialize, Serialize};

use super::Trainer;
use super::checkpoint::{Checkpoint, settings_hash};
use super::consistency::{ConsistencyTraining, Pairs};
use super::latents::BatchSettings;
use super::measures::Measures;
use super::optimizer::OptimizerConfig;
use super::together::Together;
use crate::backend::windows::{self, Batch, LatentSet, Subject, WindowSettings};
use crate::backend::{Backend, Pace};
use crate::model::denoiser::{Conditioner, Denoiser, DenoiserShape};
use crate::model::layers::Maker;
use crate::model::unet::{UnetConfig, is_zero};
use crate::random::Random;
use crate::tape::{Dropping, ParamSet, Tape};
pub use recorded::TrainedDenoiser;
use recorded::record_prediction;

/// Settings of a recipe's `[denoiser]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenoiserTraining {
    /// Rows of blocks.
    pub rows: usize,
    /// Columns of blocks.
    pub cols: usize,
    /// Coherence: draw the averaged latent first and condition the next level on it.
    pub thumbnail: bool,
    /// Coherence: levels drawn between the thumbnail and the blocks, each the latent averaged down to half as many blocks
    /// along either side as the next; absent: none.
    #[serde(default, skip_serializing_if = "no_levels")]
    pub levels_between: usize,
    /// Coherence: cells of neighbouring blocks' noisy values that a block sees; 0 none, at most 2 where they end before the
    /// U-Net.
    pub margin: usize,
    /// Coherence: carry the margin through the U-Net, at more arithmetic; absent: it ends before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub margin_through_unet: bool,
    /// Tell the network its position (needed with a thumbnail).
    pub position_embedding: bool,
    /// Condition on the block drawn before (needs margin 0).
    pub previous_block: bool,
    /// Neighbours k.
    pub neighbours: usize,
    /// Whether a picture may not retrieve itself.
    pub exclude_self: bool,
    /// What fills the neighbour input: `database`, or `noise` for the ablation without retrieval.
    pub source: NeighbourSource,
    /// Share of samples that are trained without neighbours, so that the bundle can be sampled with guidance; absent: none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub neighbour_dropout: f32,
    /// Entries of the thumbnails' codebook.
    pub thumbnail_codebook_size: usize,
    /// The U-Net.
    pub unet: UnetConfig,
    /// Timesteps T.
    pub timesteps: usize,
    /// Noise schedule.
    pub schedule: ScheduleKind,
    /// What is predicted.
    pub prediction: Prediction,
    /// Cap γ of the min-SNR weight; absent: off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_snr: Option<f64>,
    /// Share of thumbnails in a batch; blocks of all other levels are as likely as each other.
    pub thumbnail_share: f32,
    /// Largest deviation of the noise on the thumbnail, or other level, that conditions the next.
    pub thumbnail_noise: f32,
    /// The optimizer.
    pub optimizer: OptimizerConfig,
    /// Windows a step.
    pub batch: usize,
    /// Steps.
    pub steps: u64,
}

impl DenoiserTraining {
    /// Shape of the networks over `latent`.
    ///
    /// # Errors
    /// [`Error::Usage`] when the settings do not go together.
    pub fn shape(&self, latent: LatentShape) -> Result<DenoiserShape> {
        let grid = BlockGrid::new(latent, self.rows, self.cols, self.thumbnail, self.margin)?
            .with_levels_between(self.levels_between)?;
        if self.margin_through_unet && self.margin == 0 {
            return Err(Error::Usage("margin_through_unet needs a margin".into()));
        }
        let most = Denoiser::MOST_MARGIN_BEFORE_UNET;
        if self.margin > most && !self.margin_through_unet {
            let margin = self.margin;
            return Err(Error::Usage(format!(
                "a margin of {margin} cells is more than the {most} that are seen before the U-Net; margin_through_unet \
                 sees more"
            )));
        }
        let (halved, what) = if self.margin_through_unet { (grid.window(), "window") } else { (grid.block(), "block") };
        let halvings = self.unet.widths.len().saturating_sub(1) as u32;
        let divides = |side: usize| 1usize.checked_shl(halvings).is_some_and(|d| side.is_multiple_of(d));
        if self.unet.widths.is_empty() || !divides(halved.height) || !divides(halved.width) {
            let (h, w) = (halved.height, halved.width);
            return Err(Error::Usage(format!("a {h}×{w} {what} does not halve {halvings} times")));
        }
        if self.unet.embedding == 0 || !self.unet.embedding.is_multiple_of(2) {
            return Err(Error::Usage("unet.embedding must be even".into()));
        }
        Ok(DenoiserShape {
            grid,
            margin_through_unet: self.margin_through_unet,
            neighbours: self.neighbours,
            position_embedding: self.position_embedding,
            previous_block: self.previous_block,
        })
    }

    /// How batches are drawn, given ᾱ of every timestep.
    pub fn batch_settings<'a>(&self, alphas: &'a [f64]) -> BatchSettings<'a> {
        BatchSettings {
            alphas,
            windows: self.windows(),
            min_snr: self.min_snr,
            thumbnail_share: self.thumbnail_share,
            thumbnail_noise: self.thumbnail_noise,
            neighbour_dropout: self.neighbour_dropout,
        }
    }

    /// What is made of a window.
    pub fn windows(&self) -> WindowSettings {
        let &Self { prediction, source, previous_block, .. } = self;
        WindowSettings { prediction, source, previous_block }
    }
}

/// For a setting that is left out where there are none.
fn no_levels(count: &usize) -> bool {
    *count == 0
}

/// Part of every hash of settings; another where the same settings have come to mean another network.
pub const NETWORK: &str = "margin seen before the U-Net";

const MEASURES: &[&str] = &["loss"];

/// Conditioner and denoiser in training.
#[derive(Debug)]
pub struct DenoiserTrainer<'a, B: Backend> {
    backend: &'a B,
    together: Together<'a>,
    /// Hash of all settings that the weights depend on.
    settings: String,
    seed: u64,
    optimizer: OptimizerConfig,
    /// Steps in all.
    steps: u64,
    shape: DenoiserShape,
    /// Channels of a condition.
    width: usize,
    set: ParamSet<B>,
    conditioner: Conditioner,
    denoiser: Denoiser,
    /// Steps done.
    pub step: u64,
    /// Draws batches.
    pub random: Random,
    measures: Measures<B>,
    /// What is trained on.
    latents: Option<B::Latents>,
    /// Buffers of the last step, and the recording of what is done with them.
    kept: Option<(Inputs<B>, B::Recording)>,
}

/// What a step is told, in buffers that stay where they are.
#[derive(Debug)]
struct Inputs<B: Backend> {
    /// Subjects, as they are and at an earlier timestep.
    subjects: [B::Buffer; 2],
    /// How many there are of each.
    samples: [usize; 2],
    /// Seed of dropout.
    seed: B::Buffer,
    pace: B::Buffer,
}

impl<'a, B: Backend> DenoiserTrainer<'a, B> {
    /// Untrained networks over `latent`.
    ///
    /// # Errors
    /// As [`DenoiserTraining::shape`].
    pub fn new(backend: &'a B, config: &DenoiserTraining, latent: LatentShape, seed: u64) -> Result<Self> {
        let shape = config.shape(latent)?;
        let mut random = Random::new(seed);
        let mut set = ParamSet::default();
        let mut maker = Maker { backend, set: &mut set, random: &mut random };
        let conditioner = Conditioner::new(&mut maker, &shape, config.unet.widths[0]);
        let denoiser = Denoiser::new(&mut maker, &shape, &config.unet);
        Ok(Self {
            backend,
            together: Together::alone(),
            settings: settings_hash(&(NETWORK, config, seed)),
            seed,
            optimizer: config.optimizer.clone(),
            steps: config.steps,
            shape,
            width: config.unet.widths[0],
            set,
            conditioner,
            denoiser,
            step: 0,
            random,
            measures: Measures::new(backend, MEASURES.len()),
            latents: None,
            kept: None,
        })
    }

    /// The same networks, trained with other processes: each is given its share of a batch.
    pub fn with(self, together: Together<'a>) -> Self {
        Self { together, ..self }
    }

    /// The same networks, trained on windows of `set`.
    pub fn on(self, set: LatentSet, windows: WindowSettings) -> Self {
        Self { latents: Some(self.backend.latents(set, windows)), ..self }
    }

    /// The same networks with the weights of `trained`, to be tuned as `tuning` says.
    pub fn tuned(self, trained: &TrainedDenoiser<B>, tuning: &ConsistencyTraining) -> Self {
        let mut set = self.set;
        set.copy_from(self.backend, &trained.set);
        let settings = settings_hash(&(self.settings, tuning));
        Self { settings, optimizer: tuning.optimizer.clone(), steps: tuning.steps, set, ..self }
    }

    /// One step on `subjects`.
    ///
    /// # Errors
    /// As [`Backend::check`] and [`Together::average`].
    ///
    /// # Panics
    /// Before [`Self::on`].
    pub fn train(&mut self, subjects: &[Subject]) -> Result<()> {
        self.step([subjects, &[]])
    }

    /// One step of consistency tuning on `pairs`.
    ///
    /// # Errors
    /// As [`Self::train`].
    ///
    /// # Panics
    /// Before [`Self::on`].
    pub fn tune(&mut self, pairs: &Pairs) -> Result<()> {
        self.step([&pairs.later, &pairs.earlier])
    }

    fn step(&mut self, subjects: [&[Subject]; 2]) -> Result<()> {
        self.step += 1;
        let (inputs, mut recording) = self.write_inputs(subjects);
        self.measures.begin(self.backend);
        self.together.repeat(self.backend, &mut recording, || self.compute(&inputs))?;
        let samples = inputs.samples[0];
        self.kept = Some((inputs, recording));
        self.backend.check_batch(samples)
    }

    /// Tells the device what this step is about, in buffers that come with their recording.
    fn write_inputs(&mut self, subjects: [&[Subject]; 2]) -> (Inputs<B>, B::Recording) {
        let (backend, samples) = (self.backend, subjects.map(<[Subject]>::len));
        let kept = self.kept.take().filter(|(kept, _)| kept.samples == samples);
        let (mut inputs, recording) = kept.unwrap_or_else(|| {
            let inputs = Inputs {
                subjects: samples.map(|n| backend.alloc_floats(n * Subject::WORDS)),
                samples,
                seed: backend.alloc_floats(2),
                pace: backend.alloc_floats(Pace::WORDS),
            };
            (inputs, B::Recording::default())
        });
        for (subjects, buffer) in subjects.iter().zip(&mut inputs.subjects) {
            backend.write(&Subject::words(subjects), buffer);
        }
        // Masks follow from the step, so that a run that goes on from a checkpoint drops what it would have dropped.
        let seed = Random::new(self.seed.wrapping_add(self.step)).key();
        backend.write(&seed.map(|part| part as f32), &mut inputs.seed);
        let pace = self.optimizer.at(self.step, self.steps);
        backend.write(&pace.words(&self.optimizer.adamw()), &mut inputs.pace);
        (inputs, recording)
    }

    /// All of a step that the device does.
    fn compute(&mut self, inputs: &Inputs<B>) -> Result<()> {
        self.gradients(inputs);
        self.together.average(self.backend, &mut self.set.grads())?;
        self.set.update(self.backend, &self.optimizer.adamw(), &inputs.pace);
        Ok(())
    }

    /// Computes the gradients of a step and its loss, the weighted mean squared error.
    fn gradients(&mut self, inputs: &Inputs<B>) {
        let (backend, samples) = (self.backend, inputs.samples[0]);
        let networks = (&self.conditioner, &self.denoiser);
        let mut batch = self.draw(&inputs.subjects[0], samples);
        if inputs.samples[1] > 0 {
            let earlier = self.draw(&inputs.subjects[1], samples);
            let mut tape = Tape::new(backend, &mut self.set);
            let (predicted, target, ratios) = record_prediction(&mut tape, &self.shape, networks, (samples, earlier));
            tape.add_difference(&ratios, predicted, &target, &mut batch.target);
            drop(tape);
            [target, ratios].into_iter().for_each(|buffer| backend.release(buffer));
        }
        let dropping = Dropping { seed: &inputs.seed, first_sample: self.together.rank() * samples };
        let mut tape = Tape::new(backend, &mut self.set).dropping(dropping);
        let (prediction, target, weights) = record_prediction(&mut tape, &self.shape, networks, (samples, batch));
        let target = tape.device_input("", tape.shape(prediction), target);
        let weights = tape.device_input("", [samples, 1, 1, 1], weights);
        let loss = tape.seed_squared_error(prediction, target, weights);
        tape.backward();
        drop(tape);
        self.measures.note(backend, 0, &loss);
        backend.release(loss);
    }

    /// The batch of `samples` subjects.
    fn draw(&self, subjects: &B::Buffer, samples: usize) -> Batch<B::Buffer> {
        let latents = self.latents.as_ref().expect("there is something to train on");
        let mut batch = windows::alloc(self.backend, self.backend.layout(latents), samples);
        self.backend.draw(latents, subjects, &mut batch);
        batch
    }

    /// The networks with averaged weights, for export.
    pub fn into_averaged(mut self) -> TrainedDenoiser<'a, B> {
        self.set.swap_averages();
        TrainedDenoiser {
            backend: self.backend,
            width: self.width,
            shape: self.shape,
            set: self.set,
            conditioner: self.conditioner,
            denoiser: self.denoiser,
        }
    }

    /// Goes on from the checkpoint at `path`, where there is one.
    ///
    /// # Errors
    /// [`Error::File`] when it is damaged or of other settings.
    pub fn resume(&mut self, path: &Path) -> Result<()> {
        let Some(checkpoint) = Checkpoint::load(path)? else { return Ok(()) };
        if checkpoint.settings != self.settings {
            return Err(Error::file(
                path,
                "the checkpoint was made with other settings of [denoiser] or [consistency]",
            ));
        }
        self.restore(checkpoint).map_err(|e| Error::file(path, e.to_string()))
    }

    /// Goes on from `checkpoint`, of the same settings.
    ///
    /// # Errors
    /// As [`Checkpoint::take_params`].
    pub fn restore(&mut self, mut checkpoint: Checkpoint) -> Result<()> {
        checkpoint.take_params("denoiser", self.backend, &mut self.set)?;
        self.step = checkpoint.step;
        self.random = Random::from_state(checkpoint.random);
        Ok(())
    }
}

impl<B: Backend> Trainer for DenoiserTrainer<'_, B> {
    fn parameters(&self) -> usize {
        self.set.count()
    }

    fn step(&self) -> u64 {
        self.step
    }

    fn measures(&self) -> &'static [&'static str] {
        MEASURES
    }

    fn measured(&mut self) -> Result<Vec<Vec<f64>>> {
        self.measures.take(self.backend, self.together)
    }

    fn checkpoint(&self) -> Result<Checkpoint> {
        let mut checkpoint = Checkpoint::new(self.step, self.settings.clone(), &self.random);
        checkpoint.put_params("denoiser", self.backend, &self.set);
        self.backend.check()?;
        Ok(checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;
    use crate::train::latents::Sampler;

    const SETTINGS: &str = r#"
        rows = 2
        cols = 2
        thumbnail = false
        margin = 1
        position_embedding = true
        previous_block = false
        neighbours = 1
        exclude_self = true
        source = "noise"
        thumbnail_codebook_size = 0
        timesteps = 10
        schedule = "cosine"
        prediction = "v"
        thumbnail_share = 0.0
        thumbnail_noise = 0.0
        batch = 3
        steps = 9
        unet = { widths = [8], residuals = 1, embedding = 8 }
        optimizer = { rate = 1e-2, warmup = 1, weight_decay = 0.0, max_norm = 1.0, average_decay = 0.9 }
    "#;

    #[test]
    fn a_margin_that_the_network_does_not_see_is_refused() {
        let latent = LatentShape { channels: 2, height: 8, width: 8 };
        let shape = |margin, margin_through_unet| {
            let config = DenoiserTraining { margin, margin_through_unet, ..toml::from_str(SETTINGS).unwrap() };
            config.shape(latent)
        };
        assert!(shape(2, false).is_ok() && shape(3, true).is_ok());
        let error = shape(3, false).unwrap_err().to_string();
        assert!(error.contains("a margin of 3 cells is more than the 2 that are seen before the U-Net"), "{error}");
        assert!(shape(0, true).unwrap_err().to_string().contains("margin_through_unet needs a margin"));
    }

    #[test]
    fn what_goes_through_the_unet_must_halve() {
        let latent = LatentShape { channels: 2, height: 8, width: 8 };
        let error = |widths: &[usize], margin_through_unet| {
            let mut config = DenoiserTraining { margin_through_unet, ..toml::from_str(SETTINGS).unwrap() };
            config.unet.widths = widths.to_vec();
            config.shape(latent).map(|_| ()).map_err(|e| e.to_string()).err()
        };
        // Blocks of 4×4, windows of 6×6.
        assert_eq!([error(&[8, 16, 32], false), error(&[8, 16], true)], [None, None]);
        assert!(error(&[8, 16, 32], true).unwrap().contains("a 6×6 window does not halve 2 times"));
        assert!(error(&[8; 4], false).unwrap().contains("a 4×4 block does not halve 3 times"));
    }

    #[test]
    fn where_the_margin_ends_makes_another_network_of_as_many_parameters() {
        let latent = LatentShape { channels: 2, height: 8, width: 8 };
        let cpu = Cpu::default();
        let begin = |margin_through_unet| {
            let config = DenoiserTraining { margin_through_unet, ..toml::from_str(SETTINGS).unwrap() };
            let grid = config.shape(latent).unwrap().grid;
            let set = LatentSet::random(grid, 5, 3, 1, &mut Random::new(1));
            let alphas: Vec<f64> = (1..=10).map(|t| 1.0 - f64::from(t) / 11.0).collect();
            let subjects = Sampler::new(&set, config.batch_settings(&alphas)).draw(3, &mut Random::new(2));
            let mut trainer = DenoiserTrainer::new(&cpu, &config, latent, 7).unwrap().on(set, config.windows());
            trainer.train(&subjects).unwrap();
            (trainer.parameters(), trainer.measured().unwrap()[0][0])
        };
        let ((parameters, loss), (as_many, other)) = (begin(false), begin(true));
        assert_eq!(parameters, as_many);
        assert!(loss.is_finite() && other.is_finite() && loss != other);
    }

    #[test]
    fn dropout_is_for_training_alone_and_another_at_every_step() {
        let latent = LatentShape { channels: 2, height: 4, width: 4 };
        let config = |dropout| {
            let mut config: DenoiserTraining = toml::from_str(SETTINGS).unwrap();
            config.unet.dropout = dropout;
            config
        };
        let grid = config(0.0).shape(latent).unwrap().grid;
        let set = LatentSet::random(grid, 5, 3, 1, &mut Random::new(1));
        let alphas: Vec<f64> = (1..=10).map(|t| 1.0 - f64::from(t) / 11.0).collect();
        let sampler = Sampler::new(&set, config(0.0).batch_settings(&alphas));
        let subjects = sampler.draw(3, &mut Random::new(2));
        let cpu = Cpu::default();
        // The loss of the step of the number `step`, of new networks.
        let begin = |dropout: f32, step: u64| {
            let trainer = DenoiserTrainer::new(&cpu, &config(dropout), latent, 7).unwrap();
            let mut trainer = trainer.on(set.clone(), config(0.0).windows());
            trainer.step = step - 1;
            trainer.train(&subjects).unwrap();
            trainer.measured().unwrap()[0][0]
        };
        assert!(begin(0.0, 1) != begin(0.5, 1));
        assert_eq!(begin(0.5, 1), begin(0.5, 1));
        assert!(begin(0.0, 1) == begin(0.0, 4) && begin(0.5, 1) != begin(0.5, 4));
        // What is tuned towards is predicted without.
        let pairs = sampler.draw_pairs(3, 0.5, &mut Random::new(2));
        let tune = |dropout: f32| {
            let trainer = DenoiserTrainer::new(&cpu, &config(dropout), latent, 7).unwrap();
            let mut trainer = trainer.on(set.clone(), config(0.0).windows());
            trainer.tune(&pairs).unwrap();
            trainer.measured().unwrap()[0][0]
        };
        assert!(tune(0.0) != tune(0.5) && tune(0.5) == tune(0.5));
    }
}
