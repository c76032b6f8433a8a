//! Training of conditioner and denoiser together on windows of latents.

use std::path::Path;

use rissole::bundle::manifest::{NeighbourSource, Prediction, ScheduleKind};
use rissole::{BlockGrid, Error, LatentShape, Result};
use serde::{Deserialize, Serialize};

use super::Trainer;
use super::checkpoint::{Checkpoint, settings_hash};
use super::consistency::ConsistencyTraining;
use super::group::Group;
use super::latents::{Batch, BatchSettings};
use super::optimizer::OptimizerConfig;
use crate::backend::Backend;
use crate::model::denoiser::{Conditioner, Conditions, Denoiser, DenoiserShape};
use crate::model::layers::Maker;
use crate::model::unet::{UnetConfig, is_zero};
use crate::random::Random;
use crate::tape::{Dropping, NodeId, ParamSet, Tape};

/// Settings of a recipe's `[denoiser]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenoiserTraining {
    /// Rows of blocks.
    pub rows: usize,
    /// Columns of blocks.
    pub cols: usize,
    /// Coherence: draw the averaged latent first and condition on it.
    pub thumbnail: bool,
    /// Coherence: cells of neighbouring blocks' noisy values that a block sees; 0 none.
    pub margin: usize,
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
    /// Share of thumbnails in a batch.
    pub thumbnail_share: f32,
    /// Largest deviation of the noise on the conditioning thumbnail.
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
        let grid = BlockGrid::new(latent, self.rows, self.cols, self.thumbnail, self.margin)?;
        let window = grid.window();
        let halvings = self.unet.widths.len().saturating_sub(1) as u32;
        let divides = |side: usize| 1usize.checked_shl(halvings).is_some_and(|d| side.is_multiple_of(d));
        if self.unet.widths.is_empty() || !divides(window.height) || !divides(window.width) {
            let (h, w) = (window.height, window.width);
            return Err(Error::Usage(format!("a {h}×{w} window does not halve {halvings} times")));
        }
        if self.unet.embedding == 0 || !self.unet.embedding.is_multiple_of(2) {
            return Err(Error::Usage("unet.embedding must be even".into()));
        }
        Ok(DenoiserShape {
            grid,
            neighbours: self.neighbours,
            position_embedding: self.position_embedding,
            previous_block: self.previous_block,
        })
    }

    /// How batches are drawn, given ᾱ of every timestep.
    pub fn batch_settings<'a>(&self, alphas: &'a [f64]) -> BatchSettings<'a> {
        BatchSettings {
            alphas,
            prediction: self.prediction,
            min_snr: self.min_snr,
            thumbnail_share: self.thumbnail_share,
            thumbnail_noise: self.thumbnail_noise,
            source: self.source,
            neighbour_dropout: self.neighbour_dropout,
            previous_block: self.previous_block,
        }
    }
}

/// Conditioner and denoiser in training.
#[derive(Debug)]
pub struct DenoiserTrainer<'a, B: Backend> {
    backend: &'a B,
    group: Option<&'a Group>,
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
    /// Loss and samples of the step that was submitted and not yet waited for.
    submitted: Option<(B::Buffer, usize)>,
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
            group: None,
            settings: settings_hash(&(config, seed)),
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
            submitted: None,
        })
    }

    /// The same networks, trained together with the other processes of `group`: each is given its share of a batch.
    pub fn within(self, group: &'a Group) -> Self {
        Self { group: Some(group), ..self }
    }

    /// The same networks with the weights of `trained`, to be tuned as `tuning` says.
    pub fn tuned(self, trained: &TrainedDenoiser<B>, tuning: &ConsistencyTraining) -> Self {
        let mut set = self.set;
        set.copy_from(self.backend, &trained.set);
        let settings = settings_hash(&(self.settings, tuning));
        Self { settings, optimizer: tuning.optimizer.clone(), steps: tuning.steps, set, ..self }
    }

    /// One step. Returns the weighted mean squared error.
    ///
    /// # Errors
    /// As [`Backend::check`] and [`Group::average`].
    pub fn train(&mut self, batch: &Batch) -> Result<f64> {
        self.submit(batch)?;
        self.finish()
    }

    /// Hands one step to the device. Until [`Self::finish`] the host may do something else.
    ///
    /// # Errors
    /// As [`Group::average`].
    pub fn submit(&mut self, batch: &Batch) -> Result<()> {
        self.step += 1;
        self.set.clear_grads(self.backend);
        // Masks follow from the step, so that a run that goes on from a checkpoint drops what it would have dropped.
        let rank = self.group.map_or(0, Group::rank);
        let dropping = Dropping {
            random: Random::new(self.seed.wrapping_add(self.step)),
            first_sample: rank * batch.weights.len(),
        };
        let mut tape = Tape::new(self.backend, &mut self.set).dropping(dropping);
        // All copies to the device come before any work: one in the midst of it would wait.
        let (samples, block) = (batch.weights.len(), self.shape.grid.block());
        let target = tape.input("", [samples, block.height, block.width, block.channels], &batch.target);
        let weights = tape.input("", [samples, 1, 1, 1], &batch.weights);
        let prediction = record_prediction(&mut tape, &self.shape, (&self.conditioner, &self.denoiser), batch);
        let loss = tape.seed_squared_error(prediction, target, weights);
        tape.backward();
        drop(tape);
        if let Some(group) = self.group {
            self.set.average_grads(self.backend, group)?;
        }
        self.set.update(self.backend, &self.optimizer.at(self.step, self.steps));
        self.submitted = Some((loss, samples));
        Ok(())
    }

    /// What the networks predict of `batch`, `[N, block h, block w, C]`, with the weights as they are.
    ///
    /// # Errors
    /// As [`Backend::check`].
    pub fn predict(&mut self, batch: &Batch) -> Result<Vec<f32>> {
        let mut tape = Tape::new(self.backend, &mut self.set);
        let prediction = record_prediction(&mut tape, &self.shape, (&self.conditioner, &self.denoiser), batch);
        let values = tape.value(prediction);
        self.backend.check()?;
        Ok(values)
    }

    /// Waits for the step that was submitted. Returns the weighted mean squared error.
    ///
    /// # Errors
    /// As [`Backend::check`].
    ///
    /// # Panics
    /// When none was.
    pub fn finish(&mut self) -> Result<f64> {
        let (loss, samples) = self.submitted.take().expect("a step was submitted");
        let mut value = [self.backend.download(&loss)[0]];
        self.backend.release(loss);
        self.backend.check_batch(samples)?;
        if let Some(group) = self.group {
            group.average(&mut value)?;
        }
        Ok(f64::from(value[0]))
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
        let Some(mut checkpoint) = Checkpoint::load(path)? else { return Ok(()) };
        if checkpoint.settings != self.settings {
            return Err(Error::file(
                path,
                "the checkpoint was made with other settings of [denoiser] or [consistency]",
            ));
        }
        checkpoint
            .take_params("denoiser", self.backend, &mut self.set)
            .map_err(|e| Error::file(path, e.to_string()))?;
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

    fn checkpoint(&self) -> Result<Checkpoint> {
        let mut checkpoint = Checkpoint::new(self.step, self.settings.clone(), &self.random);
        checkpoint.put_params("denoiser", self.backend, &self.set);
        self.backend.check()?;
        Ok(checkpoint)
    }
}

/// Trained conditioner and denoiser.
#[derive(Debug)]
pub struct TrainedDenoiser<'a, B: Backend> {
    backend: &'a B,
    shape: DenoiserShape,
    set: ParamSet<B>,
    conditioner: Conditioner,
    denoiser: Denoiser,
    width: usize,
}

impl<B: Backend> TrainedDenoiser<'_, B> {
    /// Records the conditioner on one window, for export. Returns the tape and the condition.
    pub fn record_conditioner(&mut self) -> (Tape<'_, B>, NodeId) {
        let batch = blank(&self.shape);
        let mut tape = Tape::new(self.backend, &mut self.set);
        let condition = record_conditioner(&mut tape, &self.shape, &self.conditioner, &batch, true);
        (tape, condition)
    }

    /// Records the denoiser on one window, for export. Returns the tape and the prediction.
    pub fn record_denoiser(&mut self) -> (Tape<'_, B>, NodeId) {
        let (batch, window) = (blank(&self.shape), self.shape.grid.window());
        let mut tape = Tape::new(self.backend, &mut self.set);
        let (noisy, timestep, position) = denoiser_inputs(&mut tape, &self.shape, &batch, true);
        let shape = [1, window.height, window.width, self.width];
        let condition = tape.input("condition", shape, &vec![0.0; window.cells() * self.width]);
        let prediction = self.denoiser.apply(&mut tape, noisy, timestep, position, condition);
        (tape, prediction)
    }
}

/// A batch of one window of zeros.
fn blank(shape: &DenoiserShape) -> Batch {
    let (cells, c) = (shape.grid.window().cells(), shape.grid.window().channels);
    let zeros = |wanted: bool, n: usize| vec![0.0; if wanted { n } else { 0 }];
    Batch {
        noisy: vec![0.0; cells * shape.noisy_channels()],
        timesteps: vec![0.0],
        positions: vec![0.0; shape.grid.positions()],
        neighbours: vec![0.0; cells * c * shape.neighbours],
        thumbnail: zeros(shape.grid.has_thumbnail(), cells * c),
        previous: zeros(shape.previous_block, cells * c),
        ..Batch::default()
    }
}

/// Records the conditioner. Inputs carry their names only for export: unnamed ones get no gradient.
fn record_conditioner<B: Backend>(
    tape: &mut Tape<B>,
    shape: &DenoiserShape,
    conditioner: &Conditioner,
    batch: &Batch,
    named: bool,
) -> NodeId {
    let (n, window) = (batch.timesteps.len(), shape.grid.window());
    let mut input = |name: &str, channels: usize, values: &[f32]| {
        tape.input(if named { name } else { "" }, [n, window.height, window.width, channels], values)
    };
    let inputs = Conditions {
        neighbours: input("neighbours", shape.neighbours * window.channels, &batch.neighbours),
        thumbnail: shape.grid.has_thumbnail().then(|| input("thumbnail", window.channels, &batch.thumbnail)),
        previous: shape.previous_block.then(|| input("previous", window.channels, &batch.previous)),
    };
    conditioner.apply(tape, inputs)
}

/// Records conditioner and denoiser for training.
fn record_prediction<B: Backend>(
    tape: &mut Tape<B>,
    shape: &DenoiserShape,
    (conditioner, denoiser): (&Conditioner, &Denoiser),
    batch: &Batch,
) -> NodeId {
    let (noisy, timestep, position) = denoiser_inputs(tape, shape, batch, false);
    let condition = record_conditioner(tape, shape, conditioner, batch, false);
    denoiser.apply(tape, noisy, timestep, position, condition)
}

/// Records the denoiser's inputs but the condition.
fn denoiser_inputs<B: Backend>(
    tape: &mut Tape<B>,
    shape: &DenoiserShape,
    batch: &Batch,
    named: bool,
) -> (NodeId, NodeId, Option<NodeId>) {
    let (n, window) = (batch.timesteps.len(), shape.grid.window());
    let mut input = |name: &str, shape, values: &[f32]| tape.input(if named { name } else { "" }, shape, values);
    let noisy = input("latent", [n, window.height, window.width, shape.noisy_channels()], &batch.noisy);
    let timestep = input("timestep", [n, 1, 1, 1], &batch.timesteps);
    let position =
        shape.position_embedding.then(|| input("position", [n, 1, 1, shape.grid.positions()], &batch.positions));
    (noisy, timestep, position)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;
    use crate::train::latents::{LatentSet, Sampler};

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
        let batch = sampler.draw(3, &mut Random::new(2));
        let cpu = Cpu::default();
        // What is predicted of new networks, and the loss of their step of the number `step`.
        let begin = |dropout: f32, step: u64| {
            let mut trainer = DenoiserTrainer::new(&cpu, &config(dropout), latent, 7).unwrap();
            trainer.step = step - 1;
            (trainer.predict(&batch).unwrap(), trainer.train(&batch).unwrap())
        };
        let (whole, dropped) = (begin(0.0, 1), begin(0.5, 1));
        assert!(whole.0 == dropped.0 && whole.1 != dropped.1);
        assert_eq!(dropped, begin(0.5, 1));
        assert!(whole == begin(0.0, 4) && dropped.1 != begin(0.5, 4).1);
    }
}
