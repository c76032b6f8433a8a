//! The block database: the quantized blocks of every picture, as codebook codes, mapped from a file.
//!
//! A [container](crate::container) of kind `rsdb` with the sections
//!
//! | section | values |
//! |---|---|
//! | `head` | shapes, counts, content hash (96 bytes) |
//! | `book 0` | codebook, f32, K×C |
//! | `book 1` | codebook of the thumbnails, where there are thumbnails |
//! | `code i` | codes of position i, one row of h·w codes for each picture: u8 where K ≤ 256, else u16 |
//! | `nofs 0`, `name 0` | optional names: u32 offsets (pictures + 1) into UTF-8 text |
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

use crate::container::{Container, Section};
use crate::error::{Error, Result};
use crate::latent::{BlockGrid, LatentShape};

pub use collection::Collection;
use head::Head;
pub(crate) use head::MAX_VALUE;
pub use rows::{CodeRow, CodeRows};
pub use writer::{DatabaseContents, write_revision};

/// An open block database.
#[derive(Debug)]
pub struct BlockDatabase {
    container: Container,
    head: Head,
    grid: BlockGrid,
    codebook: Section<f32>,
    thumbnail_codebook: Option<Section<f32>>,
    codes: Vec<Codes>,
    names: Option<Names>,
}

/// The codes of one position.
#[derive(Debug)]
enum Codes {
    U8(Section<u8>),
    U16(Section<u16>),
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
        container.advise_random();
        let section = container.section_of::<Head>(head::HEAD, 1)?;
        let head = container.view(&section)[0];
        let grid = head.check().map_err(|fault| container.fault(fault))?;
        let channels = grid.latent().channels as u64;

        let codebook = container.section_of(head::codebook(0), u64::from(head.codebook) * channels)?;
        let mut sections = 2;
        let thumbnail_codebook = match head.thumbnail_codebook {
            0 => None,
            entries => Some(container.section_of(head::codebook(1), u64::from(entries) * channels)?),
        };
        sections += usize::from(thumbnail_codebook.is_some());
        for book in [Some(&codebook), thumbnail_codebook.as_ref()].into_iter().flatten() {
            head::check_codebook(container.view(book)).map_err(|fault| container.fault(fault))?;
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
            let rows = self.rows(position);
            if !rows.all_below(self.codebook_size_at(position)) {
                return Err(self.fault(format!("position {position} holds a code that its codebook does not have")));
            }
            if !rows.padding_is_zero() {
                return Err(self.fault(format!("the padding of position {position} is not zero")));
            }
        }
        self.verify_names()?;
        if self.compute_hash() != self.content_hash() {
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

    /// The codebook, K×C, unscaled.
    pub fn codebook(&self) -> &[f32] {
        self.container.view(&self.codebook)
    }

    /// The codebook of the thumbnails, K×C, unscaled.
    pub fn thumbnail_codebook(&self) -> Option<&[f32]> {
        self.thumbnail_codebook.as_ref().map(|section| self.container.view(section))
    }

    /// The codebook that `position` uses.
    pub fn codebook_at(&self, position: usize) -> &[f32] {
        match self.grid.block_at(position) {
            Some(_) => self.codebook(),
            None => self.thumbnail_codebook().unwrap_or(&[]),
        }
    }

    /// Entries K of the codebook.
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
    pub fn rows(&self, position: usize) -> CodeRows<'_> {
        let cells = self.grid.block().cells();
        match &self.codes[position] {
            Codes::U8(section) => CodeRows::u8(self.container.view(section), cells),
            Codes::U16(section) => CodeRows::u16(self.container.view(section), cells),
        }
    }

    /// The h·w codes of `image` at `position`, row-major.
    ///
    /// # Errors
    /// [`Error::Usage`] where there is no such picture or position.
    pub fn code_row(&self, image: u32, position: usize) -> Result<CodeRow<'_>> {
        if image >= self.images() || position >= self.positions() {
            return Err(Error::Usage(format!(
                "no picture {image} at position {position}: the database holds {} pictures, {} positions",
                self.images(),
                self.positions()
            )));
        }
        Ok(self.rows(position).row(image))
    }

    /// Writes the quantized block of `image` at `position` to `out` (C×h×w, unscaled).
    ///
    /// # Errors
    /// [`Error::Usage`] where there is no such picture or position, or `out` is not a block long;
    /// [`Error::File`] for a code that the codebook does not have.
    pub fn read_block(&self, image: u32, position: usize, out: &mut [f32]) -> Result<()> {
        let row = self.code_row(image, position)?;
        let LatentShape { channels, .. } = self.block();
        if out.len() != self.block().len() {
            return Err(Error::Usage(format!("a block has {} values, not {}", self.block().len(), out.len())));
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

    /// The name of `image`, where the database has names.
    pub fn name(&self, image: u32) -> Option<&str> {
        let names = self.names.as_ref()?;
        let offsets = self.container.view(&names.offsets);
        let (from, to) = (*offsets.get(image as usize)?, *offsets.get(image as usize + 1)?);
        let text = self.container.view(&names.text).get(from as usize..to as usize)?;
        std::str::from_utf8(text).ok()
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

    /// The error for a code beyond the codebook.
    pub(crate) fn unknown_code(&self, image: u32, position: usize) -> Error {
        self.fault(format!("picture {image} has a code at position {position} that the codebook does not have"))
    }

    fn compute_hash(&self) -> [u8; 32] {
        let mut hasher = self.head.hasher();
        for book in [Some(self.codebook()), self.thumbnail_codebook()].into_iter().flatten() {
            hasher.update(bytemuck::cast_slice(book));
        }
        for position in 0..self.positions() {
            hasher.update(self.rows(position).bytes(0..self.images()));
        }
        *hasher.finalize().as_bytes()
    }

    fn verify_names(&self) -> Result<()> {
        let Some(names) = &self.names else { return Ok(()) };
        let offsets = self.container.view(&names.offsets);
        let length = self.container.view(&names.text).len();
        let complete = offsets[0] == 0 && offsets[offsets.len() - 1] as usize == length;
        match (0..self.images()).find(|&image| self.name(image).is_none()) {
            Some(image) => Err(self.fault(format!("the name of picture {image} is damaged"))),
            None if !complete => Err(self.fault("there is text that is no picture's name")),
            None => Ok(()),
        }
    }
}

fn open_codes(container: &Container, head: &Head, grid: &BlockGrid, position: usize) -> Result<Codes> {
    let (id, cells) = (head::codes(position), grid.block().cells());
    let images = u64::from(head.images);
    Ok(match head.codebook_size_at(grid, position) {
        ..=256 => Codes::U8(container.section_of(id, images * rows::stride::<u8>(cells) as u64)?),
        _ => Codes::U16(container.section_of(id, images * rows::stride::<u16>(cells) as u64)?),
    })
}

#[cfg(test)]
mod tests;
