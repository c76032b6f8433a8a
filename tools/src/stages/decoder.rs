//! Stage: train the decoder on, encoder and codebook fixed, where the recipe asks for it.

use std::collections::HashMap;

use rissole::network::Window;
use rissole::store::BlockDatabase;
use rissole::{Error, LatentShape, Result};

use super::database::latent_codes;
use super::training::Training;
use super::{Run, Stage, cut_out, take_pictures};
use crate::backend::Backend;
use crate::backend::choice::on_device;
use crate::backend::pictures::Cut;
use crate::data::{Dataset, Split};
use crate::train::Trainer;
use crate::train::decoder::DecoderTrainer;
use crate::train::vqgan::Vqgan;

struct OnLatents<'a, B: Backend> {
    trainer: DecoderTrainer<'a, B>,
    dataset: Dataset,
    /// The pictures of the dataset in the order of the database.
    pictures: Vec<u32>,
    /// `K × C`.
    codebook: Vec<f32>,
    /// Codes of the latents in the order of the database, `N × H·W`; then maybe those of the same pictures mirrored.
    codes: Vec<u16>,
    latent: LatentShape,
    /// Cells of a square along its side, where squares are cut out.
    crop: Option<usize>,
    batch: usize,
}

impl<B: Backend> Training for OnLatents<'_, B> {
    const MEASURES: &'static [&'static str] =
        &["absolute", "squared", "perceptual", "adversarial_weight", "discriminator"];

    fn trainer(&self) -> &dyn Trainer {
        &self.trainer
    }

    fn advance(&mut self) -> Result<Vec<f64>> {
        let (images, LatentShape { height, width, channels }) = (self.pictures.len(), self.latent);
        let cell = self.dataset.width / width; // pixels along its side
        let all = Window { top: 0, left: 0, height, width };
        let mut cells = all;
        let (mut latents, mut cuts) = (Vec::new(), Vec::new());
        for _ in 0..self.batch {
            let drawn = self.trainer.random.below(self.codes.len() / self.latent.cells());
            cells = cut_out(all, self.crop, &mut self.trainer.random);
            let codes = &self.codes[drawn * self.latent.cells()..][..self.latent.cells()];
            for code in window_of(codes, width, cells) {
                latents.extend(&self.codebook[usize::from(code) * channels..][..channels]);
            }
            let Window { top, left, .. } = of_cells(cells, cell);
            let image = self.pictures[drawn % images] as usize;
            cuts.push(Cut { image, mirrored: drawn >= images, top, left });
        }
        let Window { height, width, .. } = of_cells(cells, cell);
        let e = self.trainer.train(&latents, &cuts, height, width)?;
        Ok(vec![e.absolute, e.squared, e.perceptual, e.adversarial_weight, e.discriminator])
    }
}

/// The pixels of `cells`, each `cell` pixels high and wide.
fn of_cells(cells: Window, cell: usize) -> Window {
    let [top, left, height, width] = [cells.top, cells.left, cells.height, cells.width].map(|cells| cell * cells);
    Window { top, left, height, width }
}

/// The codes in `cells` of a latent of `width` cells a row.
fn window_of(codes: &[u16], width: usize, cells: Window) -> impl Iterator<Item = u16> {
    let rows = codes.chunks_exact(width).skip(cells.top).take(cells.height);
    rows.flat_map(move |row| row[cells.left..][..cells.width].iter().copied())
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
        on_device!(&self.device.open()?, |backend| self.train_decoder_on(backend))
    }

    fn train_decoder_on<B: Backend>(&self, backend: &B) -> Result<()> {
        let Some(config) = &self.recipe.decoder else { return Ok(()) };
        let (mut dataset, split) = self.dataset()?;
        let database = BlockDatabase::open(self.product(Stage::Encode))?;
        let grid = self.recipe.denoiser.shape(self.recipe.latent_shape())?.grid;
        let trainer = self.decoder_trainer(backend, &self.vqgan(backend)?)?.on(take_pictures(&mut dataset));
        let mut codes = latent_codes(&database, &grid)?;
        if let Some(mirrored) = self.mirrored(&database)? {
            codes.extend(latent_codes(&mirrored, &grid)?);
        }
        let training = OnLatents {
            trainer,
            pictures: pictures_of(&database, &dataset, &split)?,
            dataset,
            codebook: database.codebook().to_vec(),
            codes,
            latent: grid.latent(),
            crop: config.crop.map(|side| side / self.recipe.vqgan.model.downsampling()),
            batch: config.batch,
        };
        self.train(Stage::Decoder, training, config.steps)
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
    fn codes_and_pixels_are_of_the_same_square() {
        let cells = Window { top: 1, left: 2, height: 2, width: 3 };
        let codes: Vec<u16> = (0..30).collect();
        assert!(window_of(&codes, 6, cells).eq([8, 9, 10, 14, 15, 16]));
        assert_eq!(of_cells(cells, 4), Window { top: 4, left: 8, height: 8, width: 12 });
    }
}
