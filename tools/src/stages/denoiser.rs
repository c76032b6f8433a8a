//! Stage: train conditioner and denoiser.

use rayon::prelude::*;
use rissole::diffusion::Schedule;
use rissole::index::{FrozenIndex, SearchScratch};
use rissole::store::{BlockDatabase, RowBuffer};
use rissole::{Error, Result};

use super::database::latent_codes;
use super::training::Training;
use super::{Run, Stage};
use crate::backend::Backend;
use crate::backend::choice::on_device;
use crate::backend::windows::{LatentSet, Subject};
use crate::random::Random;
use crate::train::Trainer;
use crate::train::denoiser::{DenoiserTrainer, TrainedDenoiser};
use crate::train::latents::Sampler;
use crate::train::together::Together;

struct OnBlocks<'a, B: Backend> {
    trainer: DenoiserTrainer<'a, B>,
    sampler: Sampler<'a>,
    batch: usize,
}

impl<B: Backend> Training for OnBlocks<'_, B> {
    fn trainer(&mut self) -> &mut dyn Trainer {
        &mut self.trainer
    }

    fn advance(&mut self) -> Result<()> {
        let subjects = self.sampler.draw(self.batch, &mut self.trainer.random);
        self.trainer.train(&subjects)
    }
}

impl Run {
    pub(super) fn train_denoiser(&self) -> Result<()> {
        self.with_device(|opened| on_device!(opened, |backend| self.train_denoiser_on(backend)))
    }

    fn train_denoiser_on<B: Backend>(&self, backend: &B) -> Result<()> {
        let config = &self.recipe.denoiser;
        let set = self.latent_set()?;
        let schedule = Schedule::new(config.schedule, config.timesteps)?;
        let sampler = Sampler::new(&set, config.batch_settings(schedule.alphas_cumprod()));
        let sampler = sampler.drawing(self.share(Stage::Denoiser)?);
        let together = Together::within(backend, &self.group)?;
        let mut trainer = self.denoiser_trainer(backend)?.with(together).on(set, config.windows());
        trainer.resume(&self.product(Stage::Denoiser))?;
        let training = OnBlocks { trainer, sampler, batch: config.batch };
        self.train(Stage::Denoiser, training, config.steps)?;
        together.leave(backend)
    }

    /// The trained conditioner and denoiser.
    pub(super) fn denoiser<'a, B: Backend>(&self, backend: &'a B) -> Result<TrainedDenoiser<'a, B>> {
        let path = self.product(Stage::Denoiser);
        let mut trainer = self.denoiser_trainer(backend)?;
        trainer.resume(&path)?;
        if trainer.step == 0 {
            return Err(Error::file(&path, "no trained denoiser; run the stage denoiser first"));
        }
        Ok(trainer.into_averaged())
    }

    /// Conditioner and denoiser of the recipe, untrained.
    pub(super) fn denoiser_trainer<'a, B: Backend>(&self, backend: &'a B) -> Result<DenoiserTrainer<'a, B>> {
        let recipe = &self.recipe;
        DenoiserTrainer::new(backend, &recipe.denoiser, recipe.latent_shape(), recipe.seed)
    }

    /// The database as the denoiser's training set, with the neighbours that sampling would find.
    pub(super) fn latent_set(&self) -> Result<LatentSet> {
        let config = &self.recipe.denoiser;
        let database = BlockDatabase::open(self.product(Stage::Encode))?;
        let grid = config.shape(self.recipe.latent_shape())?.grid;
        let scale = latent_scale(&database, &grid)?;
        let scaled = |values: &[f32]| values.iter().map(|v| v * scale).collect::<Vec<_>>();
        let images = database.images();
        let most = Subject::MAX_IMAGES / if self.recipe.data.flip { 2 } else { 1 };
        if images as usize > most {
            return Err(Error::Usage(format!("{images} pictures are more than the {most} that can be trained on")));
        }
        log::info!("denoiser: looking up {} neighbours of {images} pictures", config.neighbours);
        let set = LatentSet {
            grid,
            codebook: scaled(database.codebook()),
            codes: latent_codes(&database, &grid)?,
            thumbnail_codebook: scaled(database.thumbnail_codebook().unwrap_or_default()),
            thumbnail_codes: thumbnail_codes(&database)?,
            neighbours: self.training_neighbours(&database)?,
            neighbours_per_image: config.neighbours,
        };
        Ok(match self.mirrored(&database)? {
            Some(mirrored) => set.with_mirrored(latent_codes(&mirrored, &grid)?, thumbnail_codes(&mirrored)?),
            None => set,
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

/// Codes of all thumbnails of a database, `N × h·w`; none where it has none.
fn thumbnail_codes(database: &BlockDatabase) -> Result<Vec<u16>> {
    let (mut codes, mut buffer) = (Vec::new(), RowBuffer::default());
    if database.grid().has_thumbnail() {
        for image in 0..database.images() {
            codes.extend(database.row(image, 0, &mut buffer)?.iter().map(|code| code as u16));
        }
    }
    Ok(codes)
}

/// What brings the database's latents to unit standard deviation, over at most 2,000 of its pictures.
pub(super) fn latent_scale(database: &BlockDatabase, grid: &rissole::BlockGrid) -> Result<f32> {
    let mut block = vec![0.0; grid.block().len()];
    let (mut sum, mut squares, mut count) = (0.0f64, 0.0f64, 0.0f64);
    let mut order: Vec<u32> = (0..database.images()).collect();
    Random::new(1).shuffle(&mut order);
    for &image in order.iter().take(2_000) {
        for b in 0..grid.blocks() {
            database.read_block(image, database.grid().position_of(b), &mut block)?;
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
