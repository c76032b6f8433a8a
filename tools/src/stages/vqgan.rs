//! Stage: train the VQ-GAN.

use std::ops::Range;

use rissole::{Error, Result};

use super::training::Training;
use super::{Run, Stage, cut_out, take_pictures, whole};
use crate::backend::Backend;
use crate::backend::choice::on_device;
use crate::backend::cpu::Cpu;
use crate::backend::pictures::Cut;
use crate::data::{Dataset, Split};
use crate::train::Trainer;
use crate::train::perceptual::Perceptual;
use crate::train::together::Together;
use crate::train::vqgan::{Vqgan, VqganTrainer, VqganTraining};

struct OnPictures<'a, B: Backend> {
    trainer: VqganTrainer<'a, B>,
    dataset: Dataset,
    split: Split,
    batch: usize,
    /// What of a batch is this process's.
    share: Range<usize>,
    flip: bool,
    crop: Option<usize>,
}

impl<B: Backend> Training for OnPictures<'_, B> {
    fn trainer(&mut self) -> &mut dyn Trainer {
        &mut self.trainer
    }

    fn advance(&mut self) -> Result<()> {
        let Self { trainer, dataset, split, batch, share, flip, crop } = self;
        let images = split.train.len();
        // The pictures, then the same mirrored.
        let all = if *flip { 2 * images } else { images };
        let mut cuts = vec![];
        let mut window = whole(dataset);
        for _ in 0..*batch {
            let i = trainer.random.below(all);
            window = cut_out(whole(dataset), *crop, &mut trainer.random);
            let image = split.train[i % images] as usize;
            cuts.push(Cut { image, mirrored: i >= images, top: window.top, left: window.left });
        }
        trainer.train(&cuts[share.clone()], window.height, window.width)
    }
}

impl Run {
    pub(super) fn train_vqgan(&self) -> Result<()> {
        self.with_device(|opened| on_device!(opened, |backend| self.train_vqgan_on(backend)))
    }

    fn train_vqgan_on<B: Backend>(&self, backend: &B) -> Result<()> {
        let (mut dataset, split) = self.dataset()?;
        // That of a later stage too: not found wanting after hours.
        let config = &self.recipe.vqgan;
        let later = self.recipe.decoder.as_ref().map(|decoder| (&decoder.perceptual, decoder.crop));
        for (perceptual, crop) in [(&config.perceptual, config.crop)].into_iter().chain(later) {
            if let Some(settings) = perceptual {
                let [height, width] = [dataset.height, dataset.width].map(|whole| crop.unwrap_or(whole));
                Perceptual::open(&Cpu::default(), settings)?.check(height, width)?;
            }
        }
        let share = self.share(Stage::Vqgan)?;
        let together = Together::within(backend, &self.group)?;
        let trainer = VqganTrainer::new(backend, config, self.recipe.seed).with(together);
        let mut trainer = trainer.on(take_pictures(&mut dataset));
        trainer.resume(&self.product(Stage::Vqgan))?;
        let &VqganTraining { batch, crop, .. } = config;
        let training = OnPictures { trainer, dataset, split, batch, share, flip: self.recipe.data.flip, crop };
        self.train(Stage::Vqgan, training, config.steps)?;
        together.leave(backend)
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
