//! Stage: tune the denoiser to few sampling steps, where the recipe asks for it.

use rissole::diffusion::Schedule;
use rissole::{Error, Result};

use super::training::Training;
use super::{Run, Stage};
use crate::backend::Backend;
use crate::backend::choice::on_device;
use crate::train::Trainer;
use crate::train::consistency::ConsistencyTraining;
use crate::train::denoiser::{DenoiserTrainer, TrainedDenoiser};
use crate::train::latents::{BatchSettings, Sampler};
use crate::train::together::Together;

struct OnPairs<'a, B: Backend> {
    trainer: DenoiserTrainer<'a, B>,
    sampler: Sampler<'a>,
    config: &'a ConsistencyTraining,
}

impl<B: Backend> Training for OnPairs<'_, B> {
    fn trainer(&mut self) -> &mut dyn Trainer {
        &mut self.trainer
    }

    fn advance(&mut self) -> Result<()> {
        let Self { trainer, sampler, config } = self;
        let pairs = sampler.draw_pairs(config.batch, config.gap(trainer.step + 1), &mut trainer.random);
        trainer.tune(&pairs)
    }
}

impl Run {
    pub(super) fn train_consistency(&self) -> Result<()> {
        self.with_device(|opened| on_device!(opened, |backend| self.train_consistency_on(backend)))
    }

    fn train_consistency_on<B: Backend>(&self, backend: &B) -> Result<()> {
        let Some(config) = &self.recipe.consistency else { return Ok(()) };
        let denoiser = &self.recipe.denoiser;
        let set = self.latent_set()?;
        let schedule = Schedule::new(denoiser.schedule, denoiser.timesteps)?;
        // What counts is the data that is reached from the noisiest timesteps, which min-SNR weighs least.
        let settings = BatchSettings { min_snr: None, ..denoiser.batch_settings(schedule.alphas_cumprod()) };
        let sampler = Sampler::new(&set, settings).drawing(self.share(Stage::Consistency)?);
        let together = Together::within(backend, &self.group)?;
        let trainer = self.consistency_trainer(backend, config)?.with(together).on(set, denoiser.windows());
        let training = OnPairs { trainer, sampler, config };
        self.train(Stage::Consistency, training, config.steps)?;
        together.leave(backend)
    }

    fn consistency_trainer<'a, B: Backend>(
        &self,
        backend: &'a B,
        config: &ConsistencyTraining,
    ) -> Result<DenoiserTrainer<'a, B>> {
        let trained = self.denoiser(backend)?;
        let mut trainer = self.denoiser_trainer(backend)?.tuned(&trained, config);
        trainer.resume(&self.product(Stage::Consistency))?;
        Ok(trainer)
    }

    /// The trained denoiser, tuned where the recipe says so.
    pub(super) fn finished_denoiser<'a, B: Backend>(&self, backend: &'a B) -> Result<TrainedDenoiser<'a, B>> {
        let Some(config) = &self.recipe.consistency else { return self.denoiser(backend) };
        let trainer = self.consistency_trainer(backend, config)?;
        if trainer.step == 0 {
            let path = self.product(Stage::Consistency);
            return Err(Error::file(&path, "the denoiser is not tuned; run the stage consistency first"));
        }
        Ok(trainer.into_averaged())
    }
}
