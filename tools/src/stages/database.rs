//! Stages: encode the training pictures into the block database, and build its index.

use rissole::index::{IndexSettings, build_index_while};
use rissole::store::{BlockDatabase, DatabaseContents};
use rissole::{BlockGrid, Error, Result};

use super::{Run, Stage, interrupted, normalised, progress};
use crate::backend::Backend;
use crate::backend::choice::on_device;
use crate::random::Random;
use crate::train::codebook::Codebook;

/// Pictures encoded at a time.
const BATCH: usize = 32;
/// Averaged cells that the thumbnails' codebook is fitted to.
const THUMBNAIL_ROWS: usize = 100_000;
/// Rounds of k-means for the thumbnails' codebook.
const K_MEANS_ROUNDS: usize = 12;

impl Run {
    pub(super) fn encode(&self) -> Result<()> {
        on_device!(&self.device.open()?, |backend| self.encode_on(backend))
    }

    fn encode_on<B: Backend>(&self, backend: &B) -> Result<()> {
        let (dataset, split) = self.dataset()?;
        let mut vqgan = self.vqgan(backend)?;
        let grid = self.recipe.denoiser.shape(self.recipe.latent_shape())?.grid;
        let bar = progress("encode", split.train.len() as u64);
        let mut codes = Vec::new();
        for images in split.train.chunks(BATCH) {
            check_interrupted()?;
            let pixels: Vec<f32> = images.iter().flat_map(|&i| normalised(&dataset, i as usize)).collect();
            codes.extend(vqgan.encode(&pixels, dataset.height, dataset.width)?);
            bar.inc(images.len() as u64);
        }
        bar.finish_and_clear();
        let mut positions = block_codes(&grid, &codes);
        let thumbnail_codebook = grid.has_thumbnail().then(|| {
            let averages = averaged_cells(&grid, &vqgan.codebook, &codes);
            let book = self.fit_thumbnails(&averages, vqgan.codebook.channels);
            positions.insert(0, book.assign(&averages).into_iter().map(|c| c as u16).collect());
            book.entries
        });
        let contents = DatabaseContents {
            grid,
            codebook: vqgan.codebook.entries.clone(),
            thumbnail_codebook,
            codes: positions,
            names: split.train.iter().map(|&i| dataset.names[i as usize].clone()).collect(),
        };
        contents.write(self.product(Stage::Encode))
    }

    fn fit_thumbnails(&self, averages: &[f32], channels: usize) -> Codebook {
        let mut random = Random::new(self.recipe.seed);
        let count = averages.len() / channels;
        let rows: Vec<f32> = (0..count.min(THUMBNAIL_ROWS))
            .flat_map(|_| {
                let row = random.below(count);
                averages[row * channels..][..channels].to_vec()
            })
            .collect();
        let size = self.recipe.denoiser.thumbnail_codebook_size;
        Codebook::k_means(size, channels, &rows, K_MEANS_ROUNDS, &mut random)
    }

    pub(super) fn build_index(&self) -> Result<()> {
        let database = BlockDatabase::open(self.product(Stage::Encode))?;
        let path = self.product(Stage::Index);
        let summary = build_index_while(&database, 0, IndexSettings::default(), path, &check_interrupted)?;
        log::info!("index: {summary:?}");
        Ok(())
    }
}

fn check_interrupted() -> Result<()> {
    if interrupted() { Err(Error::Interrupted) } else { Ok(()) }
}

/// Codes of whole latents (`N × H·W`) → codes of each block position (`N × h·w`).
fn block_codes(grid: &BlockGrid, codes: &[u32]) -> Vec<Vec<u16>> {
    let latents = || codes.chunks_exact(grid.latent().cells());
    let of_block = |block| latents().flat_map(move |l| grid.block_cells(block).map(|cell| l[cell] as u16)).collect();
    (0..grid.blocks()).map(of_block).collect()
}

/// Codes of all latents of a database, `N × H·W`: the other way round.
pub(super) fn latent_codes(database: &BlockDatabase, grid: &BlockGrid) -> Result<Vec<u16>> {
    let (images, cells) = (database.images(), grid.latent().cells());
    let mut codes = vec![0u16; images as usize * cells];
    for (image, latent) in (0..images).zip(codes.chunks_exact_mut(cells)) {
        for block in 0..grid.blocks() {
            let row = database.code_row(image, grid.position_of(block))?;
            grid.block_cells(block).zip(row.iter()).for_each(|(cell, code)| latent[cell] = code as u16);
        }
    }
    Ok(codes)
}

/// Averages of the cells under each thumbnail cell, `N × h·w × C`.
fn averaged_cells(grid: &BlockGrid, codebook: &Codebook, codes: &[u32]) -> Vec<f32> {
    let c = codebook.channels;
    let share = 1.0 / grid.blocks() as f32;
    let mut out = vec![0.0; codes.len() / grid.blocks() * c];
    let thumbnails = out.chunks_exact_mut(grid.block().cells() * c);
    for (thumbnail, latent) in thumbnails.zip(codes.chunks_exact(grid.latent().cells())) {
        for (cell, &code) in latent.iter().enumerate() {
            let to = &mut thumbnail[grid.thumbnail_cell_over(cell) * c..][..c];
            let from = &codebook.entries[code as usize * c..][..c];
            to.iter_mut().zip(from).for_each(|(to, from)| *to += share * from);
        }
    }
    out
}
