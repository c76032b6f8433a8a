//! Stage: train conditioner and denoiser.

use rayon::prelude::*;
use rissole::diffusion::Schedule;
use rissole::index::{FrozenIndex, SearchScratch};
use rissole::store::BlockDatabase;
use rissole::{Error, Result};

use super::curve::Curve;
use super::{Run, Stage, interrupted, progress};
use crate::backend::Backend;
use crate::backend::choice::on_device;
use crate::random::Random;
use crate::train::denoiser::{DenoiserTrainer, TrainedDenoiser};
use crate::train::latents::{LatentSet, Sampler};

/// Steps between two rows of the curve.
const REPORT_EVERY: u64 = 50;
/// Steps between two checkpoints.
const SAVE_EVERY: u64 = 250;

impl Run {
    pub(super) fn train_denoiser(&self) -> Result<()> {
        on_device!(&self.device.open()?, |backend| self.train_denoiser_on(backend))
    }

    fn train_denoiser_on<B: Backend>(&self, backend: &B) -> Result<()> {
        let config = &self.recipe.denoiser;
        let path = self.product(Stage::Denoiser);
        let set = self.latent_set()?;
        let schedule = Schedule::new(config.schedule, config.timesteps)?;
        let sampler = Sampler::new(&set, config.batch_settings(schedule.alphas_cumprod()));
        let mut trainer = DenoiserTrainer::new(backend, config, set.grid.latent(), self.recipe.seed)?;
        trainer.resume(&path)?;
        log::info!("denoiser: {} parameters, from step {}", trainer.parameters(), trainer.step);
        let mut curve = Curve::open(&self.dir.join("denoiser.csv"), "step,loss", trainer.step)?;
        let bar = progress("denoiser", config.steps);
        let mut sum = 0.0;
        let mut ahead = None;
        while trainer.step < config.steps {
            let batch = ahead.take().unwrap_or_else(|| sampler.draw(config.batch, &mut trainer.random));
            trainer.submit(&batch);
            // The next batch is drawn while a GPU works, but not before a checkpoint, which keeps the random state.
            let saves = trainer.step == config.steps || trainer.step.is_multiple_of(SAVE_EVERY) || interrupted();
            ahead = (!saves).then(|| sampler.draw(config.batch, &mut trainer.random));
            let loss = trainer.finish()?;
            if !loss.is_finite() {
                return Err(Error::Usage(format!("denoiser: the loss is not finite at step {}", trainer.step)));
            }
            sum += loss;
            bar.set_position(trainer.step);
            if trainer.step.is_multiple_of(REPORT_EVERY) {
                let mean = sum / REPORT_EVERY as f64;
                curve.add(trainer.step, &[mean])?;
                log::debug!("denoiser step {}: loss {mean:.4}", trainer.step);
                bar.set_message(format!("loss {mean:.4}"));
                sum = 0.0;
            }
            if trainer.step.is_multiple_of(SAVE_EVERY) {
                trainer.save(&path)?;
            }
            if interrupted() && ahead.is_none() {
                trainer.save(&path)?;
                return Err(Error::Interrupted);
            }
        }
        bar.finish_and_clear();
        trainer.save(&path)
    }

    /// The trained conditioner and denoiser.
    pub(super) fn denoiser<'a, B: Backend>(&self, backend: &'a B) -> Result<TrainedDenoiser<'a, B>> {
        let path = self.product(Stage::Denoiser);
        let recipe = &self.recipe;
        let mut trainer = DenoiserTrainer::new(backend, &recipe.denoiser, recipe.latent_shape(), recipe.seed)?;
        trainer.resume(&path)?;
        if trainer.step == 0 {
            return Err(Error::file(&path, "no trained denoiser; run the stage denoiser first"));
        }
        Ok(trainer.into_averaged())
    }

    /// Steps that the denoiser's checkpoint has done.
    pub(super) fn denoiser_steps(&self) -> Result<u64> {
        let checkpoint = crate::train::checkpoint::Checkpoint::load(&self.product(Stage::Denoiser))?;
        Ok(checkpoint.map_or(0, |c| c.step))
    }

    /// The database as the denoiser's training set, with the neighbours that sampling would find.
    fn latent_set(&self) -> Result<LatentSet> {
        let config = &self.recipe.denoiser;
        let database = BlockDatabase::open(self.product(Stage::Encode))?;
        let grid = config.shape(self.recipe.latent_shape())?.grid;
        let scale = latent_scale(&database, &grid)?;
        let scaled = |values: &[f32]| values.iter().map(|v| v * scale).collect::<Vec<_>>();
        let (images, cells) = (database.images(), grid.latent().cells());
        let mut codes = vec![0u16; images as usize * cells];
        let mut thumbnail_codes = Vec::new();
        for image in 0..images {
            for block in 0..grid.blocks() {
                let row = database.code_row(image, grid.position_of(block))?;
                for (cell, code) in grid.block_cells(block).zip(row.iter()) {
                    codes[image as usize * cells + cell] = code as u16;
                }
            }
            if grid.has_thumbnail() {
                thumbnail_codes.extend(database.code_row(image, 0)?.iter().map(|code| code as u16));
            }
        }
        log::info!("denoiser: looking up {} neighbours of {images} pictures", config.neighbours);
        let neighbours = self.training_neighbours(&database)?;
        Ok(LatentSet {
            grid,
            codebook: scaled(database.codebook()),
            codes,
            thumbnail_codebook: scaled(database.thumbnail_codebook().unwrap_or_default()),
            thumbnail_codes,
            neighbours,
            neighbours_per_image: config.neighbours,
        })
    }

    fn training_neighbours(&self, database: &BlockDatabase) -> Result<Vec<u32>> {
        let config = &self.recipe.denoiser;
        let index = FrozenIndex::open(self.product(Stage::Index), database)?;
        let found: Vec<Vec<u32>> = (0..database.images())
            .into_par_iter()
            .map_init(
                || (SearchScratch::default(), vec![0.0; database.grid().block().len()]),
                |(scratch, query), image| {
                    database.read_block(image, 0, query)?;
                    let own = config.exclude_self.then_some(image);
                    let found = index.search(database, query, config.neighbours, own, scratch)?;
                    Ok(found.iter().map(|n| n.image).collect())
                },
            )
            .collect::<Result<_>>()?;
        Ok(found.concat())
    }
}

/// What brings the database's latents to unit standard deviation, over at most 2,000 of its pictures.
pub(super) fn latent_scale(database: &BlockDatabase, grid: &rissole::BlockGrid) -> Result<f32> {
    let mut block = vec![0.0; grid.block().len()];
    let (mut sum, mut squares, mut count) = (0.0f64, 0.0f64, 0.0f64);
    let mut order: Vec<u32> = (0..database.images()).collect();
    Random::new(1).shuffle(&mut order);
    for &image in order.iter().take(2_000) {
        for b in 0..grid.blocks() {
            database.read_block(image, grid.position_of(b), &mut block)?;
            for &v in &block {
                sum += f64::from(v);
                squares += f64::from(v) * f64::from(v);
            }
            count += block.len() as f64;
        }
    }
    let deviation = (squares / count - (sum / count).powi(2)).sqrt();
    if !(deviation.is_finite() && deviation > 0.0) {
        return Err(Error::Usage("the database's latents do not vary".into()));
    }
    Ok((1.0 / deviation) as f32)
}
