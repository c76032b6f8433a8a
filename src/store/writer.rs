//! Writing a block database.

use std::path::Path;

use super::head::{self, Head};
use super::{BlockDatabase, rows};
use crate::container::{self, SectionId};
use crate::error::{Error, Result};
use crate::latent::BlockGrid;

/// All that a block database holds.
#[derive(Debug, Clone)]
pub struct DatabaseContents {
    /// How latents are cut; says whether there are thumbnails. The margin is not stored.
    pub grid: BlockGrid,
    /// The codebook, K×C, unscaled.
    pub codebook: Vec<f32>,
    /// The codebook of the thumbnails, K×C, unscaled: there exactly where the grid has a thumbnail.
    pub thumbnail_codebook: Option<Vec<f32>>,
    /// For each position the codes of all pictures: images × h·w.
    pub codes: Vec<Vec<u16>>,
    /// A name for each picture, or empty.
    pub names: Vec<String>,
}

impl DatabaseContents {
    /// Writes the database to `path`, atomically.
    ///
    /// # Errors
    /// [`Error::Usage`] for contents that contradict themselves (lengths, codes beyond the codebook, values that
    /// are no numbers, no pictures); [`Error::Io`] where the system refuses.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let mut head = self.check().map_err(|fault| Error::Usage(format!("block database: {fault}")))?;
        let books = [Some(&self.codebook), self.thumbnail_codebook.as_ref()];
        let mut sections: Vec<(SectionId, Vec<u8>)> = (0..)
            .zip(books.into_iter().flatten())
            .map(|(which, book)| (head::codebook(which), bytemuck::cast_slice(book).to_vec()))
            .collect();
        for (position, codes) in self.codes.iter().enumerate() {
            let rows = self.rows(codes, head.codebook_size_at(&self.grid, position));
            sections.push((head::codes(position), rows));
        }
        head.hash = head.content_hash(sections.iter().map(|(_, bytes)| bytes.as_slice()));
        if head.named == 1 {
            sections.push((head::NAME_OFFSETS, bytemuck::cast_slice(&self.name_offsets()).to_vec()));
            sections.push((head::NAME_TEXT, self.names.concat().into_bytes()));
        }
        sections.push((head::HEAD, bytemuck::bytes_of(&head).to_vec()));
        container::write(path, BlockDatabase::KIND, sections)
    }

    /// The head without its hash, or the fault of the contents.
    fn check(&self) -> std::result::Result<Head, String> {
        let (latent, cells) = (self.grid.latent(), self.grid.block().cells());
        let entries = |book: &[f32]| match book.len().is_multiple_of(latent.channels) {
            true => u32::try_from(book.len() / latent.channels).map_err(|e| e.to_string()),
            false => Err(format!("a codebook must have {} values an entry", latent.channels)),
        };
        if self.grid.has_thumbnail() != self.thumbnail_codebook.is_some() {
            return Err("a thumbnail and its codebook come together".into());
        }
        if self.codes.len() != self.grid.positions() {
            return Err(format!("{} positions are given, the grid has {}", self.codes.len(), self.grid.positions()));
        }
        let (rows, cols) = self.grid.rows_cols();
        let head = Head {
            images: u32::try_from(self.codes[0].len() / cells).map_err(|_| "too many pictures")?,
            channels: latent.channels as u32,
            height: latent.height as u32,
            width: latent.width as u32,
            rows: rows as u32,
            cols: cols as u32,
            codebook: entries(&self.codebook)?,
            thumbnail_codebook: self.thumbnail_codebook.as_deref().map_or(Ok(0), entries)?,
            named: u32::from(!self.names.is_empty()),
            reserved: [0; 7],
            hash: [0; 32],
        };
        let grid = head.check()?;
        if grid.has_thumbnail() != self.grid.has_thumbnail() {
            return Err("the thumbnails' codebook is empty".into());
        }
        head::check_codebook(&self.codebook)?;
        head::check_codebook(self.thumbnail_codebook.as_deref().unwrap_or(&[]))?;
        for (position, codes) in self.codes.iter().enumerate() {
            if codes.len() != head.images as usize * cells {
                return Err(format!("position {position} has {} codes, not {} × {cells}", codes.len(), head.images));
            }
            let entries = head.codebook_size_at(&grid, position);
            if let Some(code) = codes.iter().find(|&&code| usize::from(code) >= entries) {
                return Err(format!("position {position} has code {code}, its codebook {entries} entries"));
            }
        }
        if head.named == 1 && self.names.len() != head.images as usize {
            return Err(format!("{} names are given for {} pictures", self.names.len(), head.images));
        }
        if u32::try_from(self.names.iter().map(String::len).sum::<usize>()).is_err() {
            return Err("the names are longer than 4 GiB".into());
        }
        Ok(head)
    }

    /// Rows of one position as they lie in the file, for a codebook of `entries`.
    fn rows(&self, codes: &[u16], entries: usize) -> Vec<u8> {
        let cells = self.grid.block().cells();
        let images = codes.len() / cells;
        if entries <= 256 {
            let stride = rows::stride::<u8>(cells);
            let mut bytes = vec![0; images * stride];
            for (row, codes) in bytes.chunks_exact_mut(stride).zip(codes.chunks_exact(cells)) {
                row.iter_mut().zip(codes).for_each(|(byte, &code)| *byte = code as u8);
            }
            bytes
        } else {
            let stride = rows::stride::<u16>(cells);
            let mut words = vec![0u16; images * stride];
            for (row, codes) in words.chunks_exact_mut(stride).zip(codes.chunks_exact(cells)) {
                row[..cells].copy_from_slice(codes);
            }
            bytemuck::cast_slice(&words).to_vec()
        }
    }

    /// Where each name starts in the text, and where the last ends.
    fn name_offsets(&self) -> Vec<u32> {
        let ends = self.names.iter().scan(0, |end, name| {
            *end += name.len() as u32;
            Some(*end)
        });
        std::iter::once(0).chain(ends).collect()
    }
}
