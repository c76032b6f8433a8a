//! The `head` section of a block database, and the names of the others.

use bytemuck::{Pod, Zeroable};

use crate::container::SectionId;
use crate::latent::{BlockGrid, LatentShape};

pub(super) const HEAD: SectionId = SectionId(*b"head", 0);
pub(super) const NAME_OFFSETS: SectionId = SectionId(*b"nofs", 0);
pub(super) const NAME_TEXT: SectionId = SectionId(*b"name", 0);

/// Section of the codebook (0) or the thumbnails' codebook (1).
pub(super) fn codebook(which: u32) -> SectionId {
    SectionId(*b"book", which)
}

/// Section of the codes of `position`.
pub(super) fn codes(position: usize) -> SectionId {
    SectionId(*b"code", position as u32)
}

/// Section of the values of `position`, where there is no codebook.
pub(super) fn values(position: usize) -> SectionId {
    SectionId(*b"half", position as u32)
}

/// Most values of a whole latent, as of a network's tensor.
const MAX_LATENT: u64 = 1 << 28;
/// Most positions of a database.
const MAX_POSITIONS: usize = 1 << 12;
/// Most entries of a codebook: a code is a u16.
const MAX_CODEBOOK: u32 = 1 << 16;
/// Largest magnitude of a codebook value, and of a query's. Squared distances of the largest block stay finite.
pub(crate) const MAX_VALUE: f32 = 1e9;

/// Shapes and counts. 96 bytes.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Head {
    pub images: u32,
    pub channels: u32,
    pub height: u32,
    pub width: u32,
    pub rows: u32,
    pub cols: u32,
    /// Entries of the codebook; 0: blocks are stored as values.
    pub codebook: u32,
    /// Entries of the thumbnails' codebook; 0: no thumbnails, or no codebooks.
    pub thumbnail_codebook: u32,
    /// 1 where there are names.
    pub named: u32,
    /// 1 where there are thumbnails without codebooks.
    pub thumbnail_values: u32,
    pub reserved: [u32; 6],
    pub hash: [u8; 32],
}

const _: () = assert!(size_of::<Head>() == 96);

impl Head {
    /// The block grid (margin 0), or the fault.
    pub fn check(&self) -> Result<BlockGrid, String> {
        let latent =
            LatentShape { channels: self.channels as usize, height: self.height as usize, width: self.width as usize };
        let thumbnail = self.thumbnail_codebook > 0 || self.thumbnail_values > 0;
        let grid = BlockGrid::new(latent, self.rows as usize, self.cols as usize, thumbnail, 0);
        let grid = grid.map_err(|e| e.to_string())?;
        // Keeps every product with a row's length within 64 bits, and the length within 32.
        let values = [self.channels, self.height, self.width].map(u64::from).into_iter().product::<u64>();
        if values > MAX_LATENT {
            return Err(format!("a latent of {values} values is larger than {MAX_LATENT}"));
        }
        if grid.positions() > MAX_POSITIONS {
            return Err(format!("{} positions are more than {MAX_POSITIONS}", grid.positions()));
        }
        if self.codebook.max(self.thumbnail_codebook) > MAX_CODEBOOK {
            return Err(format!("a codebook must have 1…{MAX_CODEBOOK} entries"));
        }
        let amiss = if self.codebook == 0 { self.thumbnail_codebook } else { self.thumbnail_values };
        if amiss > 0 || self.thumbnail_values > 1 {
            return Err("blocks and thumbnails are stored alike: both as codes, or both as values".into());
        }
        if self.images == 0 {
            return Err("there are no pictures".into());
        }
        if self.named > 1 || self.reserved != [0; 6] {
            return Err("reserved bytes of the head are not zero".into());
        }
        Ok(grid)
    }

    /// Codes in a row.
    pub fn row_len(&self, grid: &BlockGrid) -> usize {
        if self.codebook == 0 { grid.block().len() } else { grid.block().cells() }
    }

    /// Entries of the codebook that `position` uses.
    pub fn codebook_size_at(&self, grid: &BlockGrid, position: usize) -> usize {
        match grid.block_at(position) {
            Some(_) => self.codebook as usize,
            None => self.thumbnail_codebook as usize,
        }
    }

    /// What makes the content hash: BLAKE3 of this head without names and hash, then, to be fed by the caller, of
    /// the codebooks and the codes by position.
    pub fn hasher(&self) -> blake3::Hasher {
        let mut hasher = blake3::Hasher::new();
        hasher.update(bytemuck::bytes_of(&Self { named: 0, hash: [0; 32], ..*self }));
        hasher
    }
}

/// The fault of a codebook whose distances would not be numbers.
pub(super) fn check_codebook(values: &[f32]) -> Result<(), String> {
    match values.iter().all(|v| v.abs() <= MAX_VALUE) {
        true => Ok(()),
        false => Err(format!("a codebook value is not a number within ±{MAX_VALUE:e}")),
    }
}
