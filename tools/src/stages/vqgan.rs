//! Stage: train the VQ-GAN.

use rissole::{Error, Result};

use super::curve::Curve;
use super::{Run, Stage, interrupted, normalised, progress};
use crate::backend::Backend;
use crate::backend::choice::on_device;
use crate::data::{Dataset, Split};
use crate::train::vqgan::{Vqgan, VqganTrainer};

/// Steps between two rows of the curve.
const REPORT_EVERY: u64 = 50;
/// Steps between two checkpoints.
const SAVE_EVERY: u64 = 250;

impl Run {
    pub(super) fn train_vqgan(&self) -> Result<()> {
        on_device!(&self.device.open()?, |backend| self.train_vqgan_on(backend))
    }

    fn train_vqgan_on<B: Backend>(&self, backend: &B) -> Result<()> {
        let (dataset, split) = self.dataset()?;
        let config = &self.recipe.vqgan;
        let path = self.product(Stage::Vqgan);
        let mut trainer = VqganTrainer::new(backend, config, self.recipe.seed);
        trainer.resume(&path)?;
        log::info!("vqgan: {} parameters, from step {}", trainer.parameters(), trainer.step);
        let header = "step,absolute,squared,commitment,adversarial_weight,discriminator";
        let mut curve = Curve::open(&self.dir.join("vqgan.csv"), header, trainer.step)?;
        let bar = progress("vqgan", config.steps);
        let mut sums = [0.0; 5];
        while trainer.step < config.steps {
            let batch = draw(&dataset, &split, config.batch, &mut trainer);
            let l = trainer.train(&batch, dataset.height, dataset.width)?;
            let row = [l.absolute, l.squared, l.commitment, l.adversarial_weight, l.discriminator];
            if !row.iter().all(|v| v.is_finite()) {
                return Err(Error::Usage(format!("vqgan: the loss is not finite at step {}", trainer.step)));
            }
            sums.iter_mut().zip(row).for_each(|(sum, v)| *sum += v);
            bar.set_position(trainer.step);
            if trainer.step.is_multiple_of(REPORT_EVERY) {
                let means = sums.map(|s| s / REPORT_EVERY as f64);
                curve.add(trainer.step, &means)?;
                log::debug!("vqgan step {}: absolute {:.4} squared {:.4}", trainer.step, means[0], means[1]);
                bar.set_message(format!("absolute error {:.4}", means[0]));
                sums = [0.0; 5];
            }
            if trainer.step.is_multiple_of(SAVE_EVERY) {
                trainer.save(&path)?;
            }
            if interrupted() {
                trainer.save(&path)?;
                return Err(Error::Interrupted);
            }
        }
        bar.finish_and_clear();
        trainer.save(&path)
    }

    /// The trained VQ-GAN.
    pub(super) fn vqgan<'a, B: Backend>(&self, backend: &'a B) -> Result<Vqgan<'a, B>> {
        let path = self.product(Stage::Vqgan);
        let mut trainer = VqganTrainer::new(backend, &self.recipe.vqgan, self.recipe.seed);
        trainer.resume(&path)?;
        if trainer.step == 0 {
            return Err(Error::file(&path, "no trained VQ-GAN; run the stage vqgan first"));
        }
        trainer.into_averaged().map_err(|e| Error::file(&path, e.to_string()))
    }
}

fn draw<B: Backend>(dataset: &Dataset, split: &Split, count: usize, trainer: &mut VqganTrainer<B>) -> Vec<f32> {
    let mut batch = Vec::with_capacity(count * dataset.width * dataset.height * 3);
    for _ in 0..count {
        let image = split.train[trainer.random.below(split.train.len())] as usize;
        batch.extend(normalised(dataset, image));
    }
    batch
}
