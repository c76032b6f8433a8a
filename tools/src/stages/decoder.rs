//! Stage: train the decoder on, encoder and codebook fixed, where the recipe asks for it.

use std::collections::HashMap;
use std::ops::Range;

use rissole::network::Window;
use rissole::store::BlockDatabase;
use rissole::{Error, LatentShape, Result};

use super::database::latent_codes;
use super::training::Training;
use super::{Run, Stage, cut_out, take_pictures};
use crate::backend::Backend;
use crate::backend::choice::on_device;
use crate::backend::codes::CodeSet;
use crate::backend::pictures::Cut;
use crate::data::{Dataset, Split};
use crate::train::Trainer;
use crate::train::decoder::DecoderTrainer;
use crate::train::together::Together;
use crate::train::vqgan::Vqgan;

struct OnLatents<'a, B: Backend> {
    trainer: DecoderTrainer<'a, B>,
    dataset: Dataset,
    /// The pictures of the dataset in the order of the database.
    pictures: Vec<u32>,
    /// Latents: of those pictures, then maybe of the same mirrored.
    latents: usize,
    latent: LatentShape,
    /// Cells of a square along its side, where squares are cut out.
    crop: Option<usize>,
    batch: usize,
    /// What of a batch is this process's.
    share: Range<usize>,
}

impl<B: Backend> Training for OnLatents<'_, B> {
    fn trainer(&mut self) -> &mut dyn Trainer {
        &mut self.trainer
    }

    fn advance(&mut self) -> Result<()> {
        let (images, LatentShape { height, width, .. }) = (self.pictures.len(), self.latent);
        let cell = self.dataset.width / width; // pixels along its side
        let mut cells = Window { top: 0, left: 0, height, width };
        let (whole, mut cuts) = (cells, [vec![], vec![]]);
        for _ in 0..self.batch {
            let drawn = self.trainer.random.below(self.latents);
            cells = cut_out(whole, self.crop, &mut self.trainer.random);
            let pixels = of_cells(cells, cell);
            cuts[0].push(Cut { image: drawn, mirrored: false, top: cells.top, left: cells.left });
            let image = self.pictures[drawn % images] as usize;
            cuts[1].push(Cut { image, mirrored: drawn >= images, top: pixels.top, left: pixels.left });
        }
        let Window { height, width, .. } = of_cells(cells, cell);
        self.trainer.train([&cuts[0][self.share.clone()], &cuts[1][self.share.clone()]], height, width)
    }
}

/// The pixels of `cells`, each `cell` pixels high and wide.
fn of_cells(cells: Window, cell: usize) -> Window {
    let [top, left, height, width] = [cells.top, cells.left, cells.height, cells.width].map(|cells| cell * cells);
    Window { top, left, height, width }
}

/// The training pictures in the order of `database`, which has them under their names.
fn pictures_of(database: &BlockDatabase, dataset: &Dataset, split: &Split) -> Result<Vec<u32>> {
    let named = split.train.iter().map(|&picture| (dataset.names[picture as usize].as_str(), picture));
    let named: HashMap<&str, u32> = named.collect();
    let picture = |image: u32| {
        let name = database.name(image)?.unwrap_or_default();
        let unknown =
            || Error::file(database.path(), format!("{name:?} is no training picture, or the name of several"));
        named.get(name.as_str()).copied().filter(|_| named.len() == split.train.len()).ok_or_else(unknown)
    };
    (0..database.images()).map(picture).collect()
}

impl Run {
    pub(super) fn train_decoder(&self) -> Result<()> {
        self.with_device(|opened| on_device!(opened, |backend| self.train_decoder_on(backend)))
    }

    fn train_decoder_on<B: Backend>(&self, backend: &B) -> Result<()> {
        let Some(config) = &self.recipe.decoder else { return Ok(()) };
        let (mut dataset, split) = self.dataset()?;
        let database = BlockDatabase::open(self.product(Stage::Encode))?;
        let grid = self.recipe.denoiser.shape(self.recipe.latent_shape())?.grid;
        let mut codes = latent_codes(&database, &grid)?;
        if let Some(mirrored) = self.mirrored(&database)? {
            codes.extend(latent_codes(&mirrored, &grid)?);
        }
        let (latent, codebook) = (grid.latent(), database.codebook().to_vec());
        let set = CodeSet { height: latent.height, width: latent.width, channels: latent.channels, codebook, codes };
        let (share, latents) = (self.share(Stage::Decoder)?, set.count());
        let together = Together::within(backend, &self.group)?;
        let trainer = self.decoder_trainer(backend, &self.vqgan(backend)?)?.with(together);
        let training = OnLatents {
            trainer: trainer.on(take_pictures(&mut dataset), set),
            pictures: pictures_of(&database, &dataset, &split)?,
            dataset,
            latents,
            latent,
            crop: config.crop.map(|side| side / self.recipe.vqgan.model.downsampling()),
            batch: config.batch,
            share,
        };
        self.train(Stage::Decoder, training, config.steps)?;
        together.leave(backend)
    }

    fn decoder_trainer<'a, B: Backend>(&self, backend: &'a B, vqgan: &Vqgan<B>) -> Result<DecoderTrainer<'a, B>> {
        let recipe = &self.recipe;
        let config = recipe.decoder.as_ref().ok_or_else(|| Error::Internal("no [decoder]".into()))?;
        let mut trainer = DecoderTrainer::new(backend, config, &recipe.vqgan, vqgan, recipe.seed);
        trainer.resume(&self.product(Stage::Decoder))?;
        Ok(trainer)
    }

    /// The trained VQ-GAN with the decoder of this stage, where the recipe has one.
    pub(super) fn finished_vqgan<'a, B: Backend>(&self, backend: &'a B) -> Result<Vqgan<'a, B>> {
        let mut vqgan = self.vqgan(backend)?;
        if self.recipe.decoder.is_some() {
            let trainer = self.decoder_trainer(backend, &vqgan)?;
            if trainer.step == 0 {
                let path = self.product(Stage::Decoder);
                return Err(Error::file(&path, "the decoder is not trained on; run the stage decoder first"));
            }
            vqgan.replace_decoder(&trainer.into_averaged());
        }
        Ok(vqgan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_and_pixels_are_of_the_same_square() {
        let cells = Window { top: 1, left: 2, height: 2, width: 3 };
        assert_eq!(of_cells(cells, 4), Window { top: 4, left: 8, height: 8, width: 12 });
    }
}
