//! Writing a block database.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

use super::head::{self, Head};
use super::{BlockDatabase, rows};
use crate::container::{self, SectionId, Source, source};
use crate::error::{Error, Result};
use crate::latent::BlockGrid;

/// All that a block database holds.
#[derive(Debug, Clone)]
pub struct DatabaseContents {
    /// How latents are cut; says whether there are thumbnails. The margin is not stored; levels between there must not be
    /// ([`BlockGrid::stored`]).
    pub grid: BlockGrid,
    /// The codebook, K×C, unscaled; empty where blocks are stored as values.
    pub codebook: Vec<f32>,
    /// The codebook of the thumbnails, K×C, unscaled: there exactly where the grid has a thumbnail and there is a
    /// codebook.
    pub thumbnail_codebook: Option<Vec<f32>>,
    /// For each position the codes of all pictures: images × h·w, or, without a codebook, the values of all pictures,
    /// images × C·h·w, unscaled, as the bits of f16.
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
        Draft { kept: None, added: self }.write(path.as_ref())
    }

    fn images(&self) -> usize {
        self.codes.first().map_or(0, |codes| codes.len() / self.row_len())
    }

    /// Writes the values that the row `codes` of `position` stands for to `out`, as long as a block, cell by cell; `None`
    /// for a code that stands for none.
    pub(crate) fn values(&self, position: usize, codes: &[u16], out: &mut [f32]) -> Option<()> {
        if self.codebook.is_empty() {
            codes.reinterpret_cast::<f16>().convert_to_f32_slice(out);
            return Some(());
        }
        let channels = self.grid.block().channels;
        let codebook = match self.grid.block_at(position) {
            Some(_) => &self.codebook,
            None => self.thumbnail_codebook.as_ref()?,
        };
        for (&code, out) in codes.iter().zip(out.chunks_exact_mut(channels)) {
            out.copy_from_slice(codebook.get(usize::from(code) * channels..)?.get(..channels)?);
        }
        Some(())
    }

    /// Codes of a picture at one position.
    pub(crate) fn row_len(&self) -> usize {
        if self.codebook.is_empty() { self.grid.block().len() } else { self.grid.block().cells() }
    }
}

/// Writes to `path`, atomically, the database that follows `old`: its pictures without those in `removed`, in
/// order, then those of `added` (which may be none). The kept rows go from map to file, so RAM is taken by what is
/// added alone. Where one of the two has names and the other has not, the others' names are empty.
///
/// # Errors
/// [`Error::File`] where `old` is damaged: all of it is read first. [`Error::Usage`] where a picture to remove is
/// not there, `added` has another grid or other codebooks, or as [`DatabaseContents::write`]; [`Error::Io`].
pub fn write_revision(
    old: &BlockDatabase,
    removed: &BTreeSet<u32>,
    added: &DatabaseContents,
    path: impl AsRef<Path>,
) -> Result<()> {
    // New checksums must not vouch for old damage.
    old.verify()?;
    if let Some(image) = removed.last().filter(|&&image| image >= old.images()) {
        return Err(Error::Usage(format!("no picture {image}: the database holds {}", old.images())));
    }
    // The margin is not stored.
    let cut = |grid: BlockGrid| (grid.latent(), grid.rows_cols(), grid.has_thumbnail());
    let books = (added.codebook.as_slice(), added.thumbnail_codebook.as_deref());
    if cut(added.grid) != cut(old.grid()) || books != (old.codebook(), old.thumbnail_codebook()) {
        return Err(Error::Usage("pictures are added in another grid or other codebooks than the database's".into()));
    }
    Draft { kept: Some(Kept::new(old, removed)), added }.write(path.as_ref())
}

/// Pictures of a database.
struct Kept<'a> {
    db: &'a BlockDatabase,
    images: Vec<Range<u32>>,
}

impl<'a> Kept<'a> {
    fn new(db: &'a BlockDatabase, removed: &BTreeSet<u32>) -> Self {
        let starts = std::iter::once(0).chain(removed.iter().map(|image| image + 1));
        let ends = removed.iter().copied().chain([db.images()]);
        Self { db, images: starts.zip(ends).map(|(start, end)| start..end).collect() }
    }

    fn images(&self) -> usize {
        self.images.iter().map(|range| range.len()).sum()
    }

    fn names(&self) -> impl Iterator<Item = Result<String>> {
        self.images.iter().cloned().flatten().map(|image| Ok(self.db.name(image)?.unwrap_or_default()))
    }
}

/// A database that is to be written: what is kept of an old one, then what is added.
struct Draft<'a> {
    kept: Option<Kept<'a>>,
    added: &'a DatabaseContents,
}

impl Draft<'_> {
    fn write(&self, path: &Path) -> Result<()> {
        let mut head = self.check().map_err(|fault| Error::Usage(format!("block database: {fault}")))?;
        let grid = &self.added.grid;
        let books = [Some(&self.added.codebook), self.added.thumbnail_codebook.as_ref()];
        let mut sections: Vec<(SectionId, Source<'_>)> = (0..)
            .zip(books.into_iter().flatten())
            .map(|(which, book)| (head::codebook(which), source(bytemuck::cast_slice::<f32, u8>(book))))
            .collect();
        let coded = head.codebook > 0;
        if !coded {
            sections.clear();
        }
        for position in 0..grid.positions() {
            let wide = !coded || head.codebook_size_at(grid, position) > 256;
            sections.push((
                if coded { head::codes(position) } else { head::values(position) },
                Box::new(move |out: &mut dyn Write| self.write_rows(position, wide, out)),
            ));
        }
        let mut hasher = head.hasher();
        sections.iter().try_for_each(|(_, source)| source(&mut hasher)).map_err(|e| Error::io(path, e))?;
        head.hash = *hasher.finalize().as_bytes();
        if head.named == 1 {
            sections.push((head::NAME_OFFSETS, Box::new(|out: &mut dyn Write| self.write_name_offsets(out))));
            sections.push((head::NAME_TEXT, Box::new(|out: &mut dyn Write| self.write_name_text(out))));
        }
        sections.push((head::HEAD, source(bytemuck::bytes_of(&head))));
        container::write(path, BlockDatabase::KIND, sections)
    }

    /// The head without its hash, or the fault of the contents.
    fn check(&self) -> std::result::Result<Head, String> {
        let DatabaseContents { grid, codebook, thumbnail_codebook, codes, names } = self.added;
        let (latent, row, added) = (grid.latent(), self.added.row_len(), self.added.images());
        let entries = |book: &[f32]| match book.len().is_multiple_of(latent.channels) {
            true => u32::try_from(book.len() / latent.channels).map_err(|e| e.to_string()),
            false => Err(format!("a codebook must have {} values an entry", latent.channels)),
        };
        let coded = !codebook.is_empty();
        if (coded && grid.has_thumbnail()) != thumbnail_codebook.is_some() {
            return Err("a thumbnail and its codebook come together".into());
        }
        if grid.positions() != grid.stored().positions() {
            return Err("levels between thumbnail and blocks are not stored".into());
        }
        if codes.len() != grid.positions() {
            return Err(format!("{} positions are given, the grid has {}", codes.len(), grid.positions()));
        }
        let (rows, cols) = grid.rows_cols();
        let kept = self.kept.as_ref().map_or(0, Kept::images);
        let named = !names.is_empty() || self.kept.as_ref().is_some_and(|kept| kept.db.has_names());
        let head = Head {
            images: u32::try_from(kept + added).map_err(|_| "too many pictures")?,
            channels: latent.channels as u32,
            height: latent.height as u32,
            width: latent.width as u32,
            rows: rows as u32,
            cols: cols as u32,
            codebook: entries(codebook)?,
            thumbnail_codebook: thumbnail_codebook.as_deref().map_or(Ok(0), entries)?,
            named: u32::from(named),
            thumbnail_values: u32::from(!coded && grid.has_thumbnail()),
            reserved: [0; 6],
            hash: [0; 32],
        };
        if head.check()?.has_thumbnail() != grid.has_thumbnail() {
            return Err("the thumbnails' codebook is empty".into());
        }
        head::check_codebook(codebook)?;
        head::check_codebook(thumbnail_codebook.as_deref().unwrap_or(&[]))?;
        for (position, codes) in codes.iter().enumerate() {
            if codes.len() != added * row {
                return Err(format!("position {position} has {} codes, not {added} × {row}", codes.len()));
            }
            if !coded {
                match codes.iter().all(|&code| f16::from_bits(code).is_finite()) {
                    true => continue,
                    false => return Err(format!("position {position} has a value that is no finite number")),
                }
            }
            let entries = head.codebook_size_at(grid, position);
            if let Some(code) = codes.iter().find(|&&code| usize::from(code) >= entries) {
                return Err(format!("position {position} has code {code}, its codebook {entries} entries"));
            }
        }
        if !names.is_empty() && names.len() != added {
            return Err(format!("{} names are given for {added} pictures", names.len()));
        }
        Ok(head)
    }

    /// Writes the rows of one position, of u16 where the codes are `wide`. Those that are kept have the width
    /// already: it follows from the codebook, which stays.
    fn write_rows(&self, position: usize, wide: bool, out: &mut dyn Write) -> io::Result<()> {
        if let Some(kept) = &self.kept {
            let rows = kept.db.rows(position);
            for images in &kept.images {
                let mut written = Ok(());
                let read = rows.each_piece(images.clone(), |bytes| {
                    if written.is_ok() {
                        written = out.write_all(bytes);
                    }
                });
                read.map_err(io::Error::other)?;
                written?;
            }
        }
        let row = self.added.row_len();
        let (stride8, stride16) = (rows::stride::<u8>(row), rows::stride::<u16>(row));
        let (mut narrow, mut words) = (vec![0u8; stride8], vec![0u16; stride16]);
        self.added.codes[position].chunks_exact(row).try_for_each(|codes| {
            if wide {
                words[..row].copy_from_slice(codes);
                out.write_all(bytemuck::cast_slice(&words))
            } else {
                narrow.iter_mut().zip(codes).for_each(|(byte, &code)| *byte = code as u8);
                out.write_all(&narrow)
            }
        })
    }

    /// The name of each picture, empty where it has none.
    fn names(&self) -> impl Iterator<Item = io::Result<Cow<'_, str>>> {
        let kept = self.kept.iter().flat_map(Kept::names);
        let added = (0..self.added.images()).map(|i| self.added.names.get(i).map_or("", String::as_str));
        kept.map(|name| name.map(Cow::Owned).map_err(io::Error::other)).chain(added.map(|name| Ok(name.into())))
    }

    /// Where each name starts in the text, and where the last ends.
    fn write_name_offsets(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut end = 0u32;
        out.write_all(&end.to_le_bytes())?;
        self.names().try_for_each(|name| {
            end = u32::try_from(name?.len())
                .ok()
                .and_then(|length| end.checked_add(length))
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the names are longer than 4 GiB"))?;
            out.write_all(&end.to_le_bytes())
        })
    }

    fn write_name_text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.names().try_for_each(|name| out.write_all(name?.as_bytes()))
    }
}
