//! Stages: encode the training pictures into the block database, and build its index.

use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;

use rissole::index::{IndexSettings, build_index_while, order_by_likeness};
use rissole::store::{BlockDatabase, DatabaseContents, RowBuffer};
use rissole::{BlockGrid, Error, Result};

use super::{Run, Stage, interrupted, progress};
use crate::backend::Backend;
use crate::backend::choice::on_device;
use crate::backend::cpu::Cpu;
use crate::backend::pictures::Cut;
use crate::data::{Dataset, Split};
use crate::random::Random;
use crate::train::codebook::Codebook;
use crate::train::vqgan::Vqgan;

/// The position that pictures are looked up by: the thumbnail, or the first block.
const QUERY_POSITION: usize = 0;
/// Pictures encoded at a time.
const BATCH: usize = 32;
/// Largest number of shards.
pub const MAX_SHARDS: usize = 10_000;
/// Averaged cells that the thumbnails' codebook is fitted to.
const THUMBNAIL_ROWS: usize = 100_000;
/// Rounds of k-means for the thumbnails' codebook.
const K_MEANS_ROUNDS: usize = 12;

/// One of several nearly equal parts of the training pictures, `1/8` to `8/8`: for machines that share the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// From 0.
    index: usize,
    of: usize,
}

impl Shard {
    fn range(self, images: usize) -> Range<usize> {
        let start = |index: usize| index * images / self.of;
        start(self.index)..start(self.index + 1)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let numbers = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match numbers {
            Some((index, of)) if (1..=of).contains(&index) && of <= MAX_SHARDS => Ok(Self { index: index - 1, of }),
            _ => Err(format!("a shard is I/N with I from 1 to N, N at most {MAX_SHARDS}")),
        }
    }
}

impl Run {
    pub(super) fn encode(&self) -> Result<()> {
        on_device!(&self.device.open()?, |backend| self.encode_on(backend))
    }

    fn encode_on<B: Backend>(&self, backend: &B) -> Result<()> {
        let (dataset, split) = self.dataset()?;
        let mut vqgan = self.vqgan(backend)?;
        let codes = self.encode_pictures(&mut vqgan, &dataset, &split.train)?;
        self.write_database(&dataset, &split, &vqgan.codebook, &codes)
    }

    /// Encodes the pictures of `shard` alone, into a database of their own without thumbnails; where the recipe flips, the
    /// same pictures mirrored come after them.
    ///
    /// # Errors
    /// As [`Self::stage`].
    pub fn encode_shard(&self, shard: Shard) -> Result<()> {
        on_device!(&self.device.open()?, |backend| self.encode_shard_on(backend, shard))
    }

    fn encode_shard_on<B: Backend>(&self, backend: &B, shard: Shard) -> Result<()> {
        let (dataset, split) = self.dataset()?;
        let images = &split.train[shard.range(split.train.len())];
        let mut vqgan = self.vqgan(backend)?;
        let codes = self.encode_pictures(&mut vqgan, &dataset, images)?;
        let grid = self.shard_grid()?;
        let contents = DatabaseContents {
            grid,
            codebook: vqgan.codebook.entries,
            thumbnail_codebook: None,
            codes: block_codes(&grid, &codes),
            names: self.names_of_encoded(&dataset, images),
        };
        let path = self.shard_path(shard);
        contents.write(&path)?;
        log::info!("encode: {} pictures in {}", images.len(), path.display());
        Ok(())
    }

    /// Makes the database out of `shards` shards.
    ///
    /// # Errors
    /// [`Error::File`] naming the shard that is damaged, or of other pictures or another VQ-GAN; as [`Self::stage`].
    pub fn merge_shards(&self, shards: usize) -> Result<()> {
        let (dataset, split) = self.dataset()?;
        let backend = Cpu::default();
        let vqgan = self.vqgan(&backend)?;
        let grid = self.shard_grid()?;
        let (mut codes, mut mirrored) = (Vec::new(), Vec::new());
        for shard in (0..shards).map(|index| Shard { index, of: shards }) {
            let path = self.shard_path(shard);
            let database = BlockDatabase::open(&path)?;
            database.verify()?;
            let images = &split.train[shard.range(split.train.len())];
            let expected = self.names_of_encoded(&dataset, images);
            let found = (0..database.images()).map(|image| Ok(database.name(image)?.unwrap_or_default()));
            if database.codebook() != vqgan.codebook.entries || found.collect::<Result<Vec<_>>>()? != expected {
                return Err(Error::file(&path, "made of other pictures or with another VQ-GAN; encode it again"));
            }
            let all: Vec<u32> = latent_codes(&database, &grid)?.into_iter().map(u32::from).collect();
            let (own, others) = all.split_at(images.len() * grid.latent().cells());
            codes.extend_from_slice(own);
            mirrored.extend_from_slice(others);
        }
        codes.extend(mirrored);
        self.write_database(&dataset, &split, &vqgan.codebook, &codes)?;
        self.mark_done(Stage::Encode, self.settings(Stage::Encode)?)
    }

    fn shard_path(&self, Shard { index, of }: Shard) -> PathBuf {
        self.dir.join(format!("blocks.{}-of-{of}.rsdb", index + 1))
    }

    /// How latents are cut in a shard: as in the database, without thumbnails, whose codebook takes all pictures.
    fn shard_grid(&self) -> Result<BlockGrid> {
        let d = &self.recipe.denoiser;
        BlockGrid::new(self.recipe.latent_shape(), d.rows, d.cols, false, 0)
    }

    /// Writes the database of the training pictures, whose latents have `codes`, `N × H·W`; where as many again come
    /// after them, also that of the mirrored pictures, in the same order.
    fn write_database(&self, dataset: &Dataset, split: &Split, codebook: &Codebook, codes: &[u32]) -> Result<()> {
        let grid = self.recipe.denoiser.shape(self.recipe.latent_shape())?.grid.stored();
        let (codes, mirrored) = codes.split_at(split.train.len() * grid.latent().cells());
        let thumbnails = grid
            .has_thumbnail()
            .then(|| self.fit_thumbnails(&averaged_cells(&grid, codebook, codes), codebook.channels));
        let positions = |codes: &[u32]| {
            let thumbnails = thumbnails.as_ref().map(|book| {
                let averages = averaged_cells(&grid, codebook, codes);
                book.assign(&averages).into_iter().map(|c| c as u16).collect()
            });
            thumbnails.into_iter().chain(block_codes(&grid, codes)).collect::<Vec<_>>()
        };
        let mut contents = DatabaseContents {
            grid,
            codebook: codebook.entries.clone(),
            thumbnail_codebook: thumbnails.as_ref().map(|book| book.entries.clone()),
            codes: positions(codes),
            names: names(dataset, &split.train),
        };
        // Put in order together, as if they were further blocks of the same pictures.
        if self.recipe.data.flip {
            contents.codes.extend(positions(mirrored));
        }
        order_by_likeness(&mut contents, QUERY_POSITION);
        let mirrored = contents.codes.split_off(grid.positions());
        if self.recipe.data.flip {
            DatabaseContents { codes: mirrored, ..contents.clone() }.write(self.mirrored_path())?;
        }
        contents.write(self.product(Stage::Encode))
    }

    fn mirrored_path(&self) -> PathBuf {
        self.dir.join("mirrored.rsdb")
    }

    /// The pictures of `database` mirrored, in the same order, where the recipe flips.
    ///
    /// # Errors
    /// [`Error::File`] where they were not made together.
    pub(super) fn mirrored(&self, database: &BlockDatabase) -> Result<Option<BlockDatabase>> {
        if !self.recipe.data.flip {
            return Ok(None);
        }
        let mirrored = BlockDatabase::open(self.mirrored_path())?;
        let same = mirrored.images() == database.images()
            && mirrored.codebook() == database.codebook()
            && mirrored.thumbnail_codebook() == database.thumbnail_codebook();
        match same {
            true => Ok(Some(mirrored)),
            false => Err(Error::file(mirrored.path(), "is not of the pictures of blocks.rsdb; encode them again")),
        }
    }

    /// Codes of whole latents, `N × H·W`; where the recipe flips, of the same pictures mirrored after them.
    fn encode_pictures<B: Backend>(&self, vqgan: &mut Vqgan<B>, dataset: &Dataset, images: &[u32]) -> Result<Vec<u32>> {
        let mut codes = encode_pictures(vqgan, dataset, images, false)?;
        if self.recipe.data.flip {
            codes.extend(encode_pictures(vqgan, dataset, images, true)?);
        }
        Ok(codes)
    }

    /// Names in the order of [`Self::encode_pictures`].
    fn names_of_encoded(&self, dataset: &Dataset, images: &[u32]) -> Vec<String> {
        let names = names(dataset, images);
        if self.recipe.data.flip { [names.clone(), names].concat() } else { names }
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
        let summary = build_index_while(&database, QUERY_POSITION, IndexSettings::default(), path, &check_interrupted)?;
        log::info!("index: {summary:?}");
        Ok(())
    }
}

/// Codes of whole latents, `N × H·W`.
fn encode_pictures<B: Backend>(
    vqgan: &mut Vqgan<B>,
    dataset: &Dataset,
    images: &[u32],
    mirrored: bool,
) -> Result<Vec<u32>> {
    let bar = progress(if mirrored { "mirrored" } else { "encode" }, images.len() as u64);
    let (mut codes, size) = (Vec::new(), [dataset.height, dataset.width]);
    for images in images.chunks(BATCH) {
        check_interrupted()?;
        let values = |&image: &u32| {
            let cut = Cut { image: image as usize, mirrored, top: 0, left: 0 };
            cut.values(&dataset.pixels, size, size)
        };
        let pixels: Vec<f32> = images.iter().flat_map(values).collect();
        codes.extend(vqgan.encode(&pixels, dataset.height, dataset.width)?);
        bar.inc(images.len() as u64);
    }
    bar.finish_and_clear();
    Ok(codes)
}

fn names(dataset: &Dataset, images: &[u32]) -> Vec<String> {
    images.iter().map(|&i| dataset.names[i as usize].clone()).collect()
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
    let (mut codes, mut buffer) = (vec![0u16; images as usize * cells], RowBuffer::default());
    for (image, latent) in (0..images).zip(codes.chunks_exact_mut(cells)) {
        for block in 0..grid.blocks() {
            let row = database.row(image, database.grid().position_of(block), &mut buffer)?;
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
    let (thumbnails, over) = (out.chunks_exact_mut(grid.block().cells() * c), grid.over(grid.finest(), 0));
    for (thumbnail, latent) in thumbnails.zip(codes.chunks_exact(grid.latent().cells())) {
        for (cell, &code) in latent.iter().enumerate() {
            let to = &mut thumbnail[over(cell) * c..][..c];
            let from = &codebook.entries[code as usize * c..][..c];
            to.iter_mut().zip(from).for_each(|(to, from)| *to += share * from);
        }
    }
    out
}
