//! Other pictures in the codebooks of a database: what a device adds of its own.

use half::f16;

use super::{BlockDatabase, DatabaseContents};
use crate::error::{Error, Result};
use crate::latent::{BlockGrid, gather_cells};

/// Latents on their way into a new database that shares grid and codebooks with an old one.
#[derive(Debug)]
pub struct Collection {
    contents: DatabaseContents,
}

impl Collection {
    /// An empty collection with the grid and the codebooks of `model`.
    pub fn new(model: &BlockDatabase) -> Self {
        let grid = model.grid();
        let contents = DatabaseContents {
            grid,
            codebook: model.codebook().to_vec(),
            thumbnail_codebook: model.thumbnail_codebook().map(<[f32]>::to_vec),
            codes: vec![Vec::new(); grid.positions()],
            names: Vec::new(),
        };
        Self { contents }
    }

    /// Adds a picture by its `latent` (CHW, unscaled): every cell becomes the nearest entry of the codebook, and
    /// the average of those cells the nearest entry of the thumbnails' codebook. Without a codebook values are rounded
    /// to f16; those beyond its range become its largest.
    ///
    /// # Errors
    /// [`Error::Usage`] where the latent is not as long as the database's, or, without a codebook, has a value that is no
    /// number.
    pub fn add(&mut self, name: String, latent: &[f32]) -> Result<()> {
        let DatabaseContents { grid, codebook, thumbnail_codebook, codes, names } = &mut self.contents;
        let shape = grid.latent();
        if latent.len() != shape.len() {
            return Err(Error::Usage(format!(
                "a latent of {} values, the database's has {}",
                latent.len(),
                shape.len()
            )));
        }
        if codebook.is_empty() && latent.iter().any(|value| value.is_nan()) {
            return Err(Error::Usage(format!("the latent of {name} has a value that is no number")));
        }
        names.push(name);
        if codebook.is_empty() {
            let mut block = vec![0.0; grid.block().len()];
            for i in 0..grid.blocks() {
                grid.read_block(latent, i, &mut block);
                codes[grid.position_of(i)].extend(halves(&block));
            }
            if grid.has_thumbnail() {
                codes[0].extend(halves(&grid.average_down(latent, 0)));
            }
            return Ok(());
        }
        let whole = nearest_codes(latent, shape.channels, codebook);
        for block in 0..grid.blocks() {
            codes[grid.position_of(block)].extend(block_cells(grid, block).map(|cell| whole[cell]));
        }
        if let Some(book) = thumbnail_codebook {
            let quantized = values(&whole, shape.channels, codebook);
            codes[0].extend(nearest_codes(&grid.average_down(&quantized, 0), shape.channels, book));
        }
        Ok(())
    }

    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.contents.names.len()
    }

    /// True before the first picture.
    pub fn is_empty(&self) -> bool {
        self.contents.names.is_empty()
    }

    /// What a database of these pictures holds.
    pub fn into_contents(self) -> DatabaseContents {
        self.contents
    }
}

/// The bits of `values` as f16.
fn halves(values: &[f32]) -> impl Iterator<Item = u16> {
    let most = f16::MAX.to_f32();
    values.iter().map(move |value| f16::from_f32(value.clamp(-most, most)).to_bits())
}

/// The cells of block `block` in the latent's plane, row-major.
fn block_cells(grid: &BlockGrid, block: usize) -> impl Iterator<Item = usize> {
    let ((row0, col0), (width, size)) = (grid.origin(block), (grid.latent().width, grid.block()));
    (0..size.cells()).map(move |i| (row0 + i / size.width) * width + col0 + i % size.width)
}

/// For each cell of `planes` (C planes) the entry of `codebook` (K×C, K ≤ 65,536) nearest by L2; of equals, the
/// first.
fn nearest_codes(planes: &[f32], channels: usize, codebook: &[f32]) -> Vec<u16> {
    let cells = planes.len() / channels;
    let mut value = vec![0.0; channels];
    (0..cells)
        .map(|cell| {
            gather_cells(planes, cells, &[Some(cell)], &mut value);
            let distance = |entry: &[f32]| value.iter().zip(entry).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
            let mut best = (0, f32::INFINITY);
            for (code, entry) in (0..=u16::MAX).zip(codebook.chunks_exact(channels)) {
                let distance = distance(entry);
                if distance < best.1 {
                    best = (code, distance);
                }
            }
            best.0
        })
        .collect()
}

/// The planes (C × cells) that `codes` stand for.
fn values(codes: &[u16], channels: usize, codebook: &[f32]) -> Vec<f32> {
    let value = |c: usize| codes.iter().map(move |&code| codebook[usize::from(code) * channels + c]);
    (0..channels).flat_map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latent::LatentShape;

    /// A database with two pictures, 1 channel, 2×4 cells in two blocks and a thumbnail.
    fn model(path: &std::path::Path) -> BlockDatabase {
        let grid =
            BlockGrid::new(LatentShape { channels: 1, height: 2, width: 4 }, 1, 2, true, 0).expect("a sound grid");
        let contents = DatabaseContents {
            grid,
            codebook: vec![0.0, 1.0, 2.0, 4.0],
            thumbnail_codebook: Some(vec![0.5, 3.0]),
            codes: vec![vec![0; 8], vec![1; 8], vec![2; 8]],
            names: vec![],
        };
        contents.write(path).unwrap();
        BlockDatabase::open(path).unwrap()
    }

    #[test]
    fn a_latent_becomes_codes_of_its_blocks_and_of_its_thumbnail() {
        let path = std::env::temp_dir().join(format!("rissole-collection-{}.rsdb", std::process::id()));
        let mut collection = Collection::new(&model(&path));
        std::fs::remove_file(path).unwrap();
        collection.add("a".into(), &[0.1, 0.9, 2.2, 9.0, -5.0, 1.4, 1.6, 3.1]).unwrap();
        collection.add("b".into(), &[4.0; 8]).unwrap();
        assert!(collection.add("c".into(), &[0.0; 7]).is_err());
        assert_eq!(collection.len(), 2);
        let contents = collection.into_contents();
        assert_eq!(contents.names, ["a", "b"]);
        // Cells 0 1 2 4 / 0 1 2 4; the thumbnail averages pairs of a row: 0.5 and 3.
        assert_eq!(contents.codes[1], [0, 1, 0, 1, 3, 3, 3, 3]);
        assert_eq!(contents.codes[2], [2, 3, 2, 3, 3, 3, 3, 3]);
        assert_eq!(contents.codes[0], [0, 1, 0, 1, 1, 1, 1, 1]);
    }

    #[test]
    fn without_a_codebook_a_latent_is_rounded() {
        let path = std::env::temp_dir().join(format!("rissole-collection-values-{}.rsdb", std::process::id()));
        let coded = model(&path);
        let values = |codes: usize| vec![vec![0u16; codes]; 3];
        let grid = coded.grid();
        let contents =
            DatabaseContents { grid, codebook: vec![], thumbnail_codebook: None, codes: values(4), names: vec![] };
        contents.write(&path).unwrap();
        let mut collection = Collection::new(&BlockDatabase::open(&path).unwrap());
        collection.add("a".into(), &[0.1, 0.9, 2.2, 9.0, -5.0, 1.4, 1.6, 1e9]).unwrap();
        let contents = collection.into_contents();
        let bits = |values: [f32; 4]| values.map(|value| f16::from_f32(value).to_bits());
        assert_eq!(contents.codes[1], bits([0.1, 0.9, -5.0, 1.4]));
        assert_eq!(contents.codes[2], bits([2.2, 9.0, 1.6, 65504.0]));
        assert_eq!(contents.codes[0][..3], bits([0.5, 5.6, -1.8, 0.0])[..3]);
        contents.write(&path).unwrap();
        BlockDatabase::open(&path).unwrap().verify().unwrap();
        std::fs::remove_file(path).unwrap();
    }
}
