//! The block database: the blocks of every picture, as codebook codes, in a file that is mapped or read by the page.
//!
//! A [container](crate::container) of kind `rsdb` with the sections
//!
//! | section | values |
//! |---|---|
//! | `head` | shapes, counts, content hash (96 bytes) |
//! | `book 0` | codebook, f32, K×C; not where blocks are stored as values |
//! | `book 1` | codebook of the thumbnails, where there are thumbnails |
//! | `code i` | codes of position i, one row of h·w codes for each picture: u8 where K ≤ 256, else u16 |
//! | `half i` | in place of `code i` without a codebook: one row of C·h·w values (CHW) for each picture, f16 |
//! | `nofs 0`, `name 0` | optional names: u32 offsets (pictures + 1) into UTF-8 text |
//!
//! Latents that are not quantized (pixels, say) have no codebook: a code is then a value itself, as the bits of an f16,
//! and must be finite.
//!
//! A row never lies across more cache lines than it must: shorter than 64 bytes it is padded with zeros to a
//! power of two, longer to a multiple of 64.
//!
//! [`BlockDatabase::open`] checks all lengths and the codebooks, and reads no codes. A code that the codebook
//! does not have is found where it is read (a scan at open would read the whole file from an SD card):
//! [`BlockDatabase::read_block`] and every search return an error, and [`BlockDatabase::verify`] finds them all.

mod collection;
mod head;
mod rows;
mod writer;

use std::path::Path;

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

use crate::container::{Container, Resident, Section};
use crate::error::{Error, Result};
use crate::latent::{BlockGrid, LatentShape};

pub use collection::Collection;
use head::Head;
pub(crate) use head::MAX_VALUE;
use rows::Codes;
pub use rows::{Row, RowBuffer, Rows};
pub use writer::{DatabaseContents, write_revision};

/// An open block database.
#[derive(Debug)]
pub struct BlockDatabase {
    container: Container,
    head: Head,
    grid: BlockGrid,
    codebook: Option<Resident<f32>>,
    thumbnail_codebook: Option<Resident<f32>>,
    codes: Vec<Codes>,
    names: Option<Names>,
}

#[derive(Debug)]
struct Names {
    offsets: Section<u32>,
    text: Section<u8>,
}

impl BlockDatabase {
    /// Kind of the container.
    pub const KIND: [u8; 4] = *b"rsdb";

    /// Maps the database at `path` and checks its structure.
    ///
    /// # Errors
    /// [`Error::File`] for a missing, foreign, truncated or inconsistent file; [`Error::Io`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::of(Container::open(path, Self::KIND)?)
    }

    /// The database in `container`, of kind [`Self::KIND`].
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn of(container: Container) -> Result<Self> {
        let head = container.only::<Head>(head::HEAD)?;
        let grid = head.check().map_err(|fault| container.fault(fault))?;
        let channels = grid.latent().channels as u64;

        let book = |which: u32, entries: u32| match entries {
            0 => Ok(None),
            _ => container
                .resident(container.section_of(head::codebook(which), u64::from(entries) * channels)?)
                .map(Some),
        };
        let (codebook, thumbnail_codebook) = (book(0, head.codebook)?, book(1, head.thumbnail_codebook)?);
        let mut sections = 1;
        for book in [&codebook, &thumbnail_codebook].into_iter().flatten() {
            head::check_codebook(container.view(book)).map_err(|fault| container.fault(fault))?;
            sections += 1;
        }
        let codes: Vec<Codes> =
            (0..grid.positions()).map(|p| open_codes(&container, &head, &grid, p)).collect::<Result<_>>()?;
        sections += codes.len();
        let names = match head.named {
            0 => None,
            _ => Some(Names {
                offsets: container.section_of(head::NAME_OFFSETS, u64::from(head.images) + 1)?,
                text: container.section(head::NAME_TEXT)?,
            }),
        };
        sections += 2 * usize::from(names.is_some());
        if container.sections() != sections {
            return Err(container.fault("there are sections that do not belong to a block database"));
        }
        Ok(Self { container, head, grid, codebook, thumbnail_codebook, codes, names })
    }

    /// Reads everything: checksums, every code, padding, names, content hash.
    ///
    /// # Errors
    /// [`Error::File`] naming the first fault.
    pub fn verify(&self) -> Result<()> {
        self.container.verify()?;
        for position in 0..self.positions() {
            self.check_rows(position)?;
            if !self.rows(position).padding_is_zero()? {
                return Err(self.fault(format!("the padding of position {position} is not zero")));
            }
        }
        self.verify_names()?;
        if self.compute_hash()? != self.content_hash() {
            return Err(self.fault("the content hash does not match the content"));
        }
        Ok(())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.container.path()
    }

    /// Length of the file in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.container.len_bytes()
    }

    /// Number of pictures, at least 1. Image ids are `0..images()`.
    pub fn images(&self) -> u32 {
        self.head.images
    }

    /// Number of positions: blocks, and the thumbnail where there is one.
    pub fn positions(&self) -> usize {
        self.grid.positions()
    }

    /// Shape of a whole latent.
    pub fn latent(&self) -> LatentShape {
        self.grid.latent()
    }

    /// Shape of a block.
    pub fn block(&self) -> LatentShape {
        self.grid.block()
    }

    /// The block grid, with margin 0: margins are the network's affair and not stored here.
    pub fn grid(&self) -> BlockGrid {
        self.grid
    }

    /// The codebook, K×C, unscaled; empty where blocks are stored as values.
    pub fn codebook(&self) -> &[f32] {
        self.codebook.as_ref().map_or(&[], |section| self.container.view(section))
    }

    /// The codebook of the thumbnails, K×C, unscaled.
    pub fn thumbnail_codebook(&self) -> Option<&[f32]> {
        self.thumbnail_codebook.as_ref().map(|section| self.container.view(section))
    }

    /// The codebook that `position` uses; empty where blocks are stored as values.
    pub fn codebook_at(&self, position: usize) -> &[f32] {
        match self.grid.block_at(position) {
            Some(_) => self.codebook(),
            None => self.thumbnail_codebook().unwrap_or(&[]),
        }
    }

    /// Entries K of the codebook; 0 where blocks are stored as values.
    pub fn codebook_size(&self) -> usize {
        self.head.codebook as usize
    }

    /// Entries of the codebook of the thumbnails; 0 without thumbnails.
    pub fn thumbnail_codebook_size(&self) -> usize {
        self.head.thumbnail_codebook as usize
    }

    /// Entries of the codebook that `position` uses.
    pub fn codebook_size_at(&self, position: usize) -> usize {
        self.head.codebook_size_at(&self.grid, position)
    }

    /// The codes of every picture at `position`.
    ///
    /// # Panics
    /// Where `position` is not below [`Self::positions`].
    pub fn rows(&self, position: usize) -> Rows<'_> {
        Rows::new(&self.container, &self.codes[position], self.images(), self.head.row_len(&self.grid))
    }

    /// The codes of `image` at `position`, where they lie or in `buffer`: h·w of them, row-major, or, where blocks are
    /// stored as values, C·h·w (CHW).
    ///
    /// # Errors
    /// [`Error::Usage`] where there is no such picture or position; [`Error::Io`].
    pub fn row<'a>(&'a self, image: u32, position: usize, buffer: &'a mut RowBuffer) -> Result<Row<'a>> {
        if image >= self.images() || position >= self.positions() {
            return Err(Error::Usage(format!(
                "no picture {image} at position {position}: the database holds {} pictures, {} positions",
                self.images(),
                self.positions()
            )));
        }
        self.rows(position).row(image, buffer)
    }

    /// Writes the block of `image` at `position` to `out` (C×h×w, unscaled).
    ///
    /// # Errors
    /// [`Error::Usage`] where there is no such picture or position, or `out` is not a block long;
    /// [`Error::File`] for a code that the codebook does not have, or a value that is no number; [`Error::Io`].
    pub fn read_block(&self, image: u32, position: usize, out: &mut [f32]) -> Result<()> {
        let mut buffer = RowBuffer::default();
        let row = self.row(image, position, &mut buffer)?;
        let LatentShape { channels, .. } = self.block();
        if out.len() != self.block().len() {
            return Err(Error::Usage(format!("a block has {} values, not {}", self.block().len(), out.len())));
        }
        if let (0, Row::U16(values)) = (self.codebook_size(), row) {
            values.reinterpret_cast::<f16>().convert_to_f32_slice(out);
            return match out.iter().all(|value| value.is_finite()) {
                true => Ok(()),
                false => Err(self.unknown_code(image, position)),
            };
        }
        let (codebook, cells) = (self.codebook_at(position), row.len());
        for (cell, code) in row.iter().enumerate() {
            let Some(entry) = codebook.get(code * channels..(code + 1) * channels) else {
                return Err(self.unknown_code(image, position));
            };
            for (value, out) in entry.iter().zip(out[cell..].iter_mut().step_by(cells)) {
                *out = *value;
            }
        }
        Ok(())
    }

    /// Whether its pictures have names.
    pub fn has_names(&self) -> bool {
        self.names.is_some()
    }

    /// The name of `image`, where the database has names; `None` also for a name that is damaged.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn name(&self, image: u32) -> Result<Option<String>> {
        let Some(Names { offsets, text }) = &self.names else { return Ok(None) };
        let end = |at: u64| self.container.value(offsets, at);
        let Some((from, to)) = end(image.into())?.zip(end(u64::from(image) + 1)?) else { return Ok(None) };
        let mut buffer = Vec::new();
        let Some(length) = to.checked_sub(from) else { return Ok(None) };
        let name = self.container.read(text, from.into(), length as usize, &mut buffer)?;
        Ok(name.and_then(|name| std::str::from_utf8(name).ok()).map(str::to_owned))
    }

    /// BLAKE3 of what decides the content: shapes, codebooks and codes, not the names. Stored; [`Self::verify`]
    /// computes it again.
    pub fn content_hash(&self) -> [u8; 32] {
        self.head.hash
    }

    /// An error that names this file.
    pub(crate) fn fault(&self, fault: impl Into<String>) -> Error {
        self.container.fault(fault)
    }

    /// Looks at every code of `position`.
    pub(crate) fn check_rows(&self, position: usize) -> Result<()> {
        let sound = match self.codebook_size_at(position) {
            0 if self.codebook_size() == 0 => self.rows(position).all_finite()?,
            entries => self.rows(position).all_below(entries)?,
        };
        match sound {
            true => Ok(()),
            false => Err(self.fault(format!("position {position} holds {}", self.unknown()))),
        }
    }

    /// The error for a code beyond the codebook, or a value that is no number.
    pub(crate) fn unknown_code(&self, image: u32, position: usize) -> Error {
        self.fault(format!("picture {image} has at position {position} {}", self.unknown()))
    }

    fn unknown(&self) -> &'static str {
        match self.codebook_size() {
            0 => "a value that is no finite number",
            _ => "a code that its codebook does not have",
        }
    }

    fn compute_hash(&self) -> Result<[u8; 32]> {
        let mut hasher = self.head.hasher();
        for book in [Some(self.codebook()), self.thumbnail_codebook()].into_iter().flatten() {
            hasher.update(bytemuck::cast_slice(book)); // nothing where there is none
        }
        for position in 0..self.positions() {
            self.rows(position).each_piece(0..self.images(), |rows| {
                hasher.update(rows);
            })?;
        }
        Ok(*hasher.finalize().as_bytes())
    }

    fn verify_names(&self) -> Result<()> {
        let Some(Names { offsets, text }) = &self.names else { return Ok(()) };
        let end = |at: u64| self.container.value(offsets, at);
        for image in 0..self.images() {
            if self.name(image)?.is_none() {
                return Err(self.fault(format!("the name of picture {image} is damaged")));
            }
        }
        match (end(0)?, end(self.images().into())?) {
            (Some(0), Some(last)) if u64::from(last) == text.len() => Ok(()),
            _ => Err(self.fault("there is text that is no picture's name")),
        }
    }
}

fn open_codes(container: &Container, head: &Head, grid: &BlockGrid, position: usize) -> Result<Codes> {
    let (id, length, images) = (head::codes(position), head.row_len(grid), u64::from(head.images));
    Ok(match head.codebook_size_at(grid, position) {
        0 => Codes::U16(container.section_of(head::values(position), images * rows::stride::<u16>(length) as u64)?),
        1..=256 => Codes::U8(container.section_of(id, images * rows::stride::<u8>(length) as u64)?),
        _ => Codes::U16(container.section_of(id, images * rows::stride::<u16>(length) as u64)?),
    })
}

#[cfg(test)]
mod tests;
