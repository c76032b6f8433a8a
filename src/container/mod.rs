//! The on-disk container that the block database and the frozen index share: a header, a section table,
//! checksums.
//!
//! ```text
//! byte 0        header, 64 bytes
//!          0  8  magic 89 'R' 'S' 'L' 0D 0A 1A 0A: shows what mail gateways and text editors have done to it
//!          8  2  major version: readers refuse another
//!         10  2  minor version
//!         12  4  kind of file, ASCII
//!         16  8  total length of the file
//!         24  4  number of sections n
//!         28  4  CRC-32 of all bytes before the first section, this field as zero
//!         32 32  zero
//! byte 64       section table, n × 32 bytes, strictly ascending by kind and index
//!          0  4  kind of section, ASCII
//!          4  4  index among the sections of that kind
//!          8  8  offset in the file, a multiple of 4096
//!         16  8  length in bytes
//!         24  4  CRC-32 of the section
//!         28  4  zero
//! zeros up to a multiple of 4096
//! sections in table order, each at the first multiple of 4096 after the one before; zeros between
//! ```
//! All numbers are little-endian. The file ends with its last section. There are no holes and no overlaps, and
//! every byte is accounted for: flipping any bit breaks a checksum or a rule.
//!
//! [`Container::open`] checks all structure and reads the header pages only; [`Container::verify`] reads
//! everything.

mod write;

use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytemuck::{Pod, Zeroable};

use crate::budget;
use crate::error::{Error, Result};
use crate::file_bytes::FileBytes;
use crate::paged_file::PagedFile;

pub use write::{Source, source, write};

#[cfg(target_endian = "big")]
compile_error!("sections are viewed in place, which needs a little-endian host");

const MAGIC: [u8; 8] = *b"\x89RSL\r\n\x1a\n";
const MAJOR: u16 = 1;
const MINOR: u16 = 0;
const PAGE: u64 = 4096;
/// More than the positions of any block database and the levels of any index: a table takes 130 KiB at most.
const MAX_SECTIONS: u32 = 4096 + 64;
/// Padding is shorter than a page.
const ZEROS: [u8; PAGE as usize] = [0; PAGE as usize];

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    major: u16,
    minor: u16,
    kind: [u8; 4],
    total_length: u64,
    sections: u32,
    crc: u32,
    reserved: [u8; 32],
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Entry {
    kind: [u8; 4],
    index: u32,
    offset: u64,
    length: u64,
    crc: u32,
    reserved: u32,
}

const HEADER: usize = size_of::<Header>();
const ENTRY: usize = size_of::<Entry>();
/// Where the CRC lies in the header.
const CRC: Range<usize> = 28..32;
/// Where the number of sections lies in the header.
const SECTIONS: Range<usize> = 24..28;
/// Most bytes of a piece of a file that is read from end to end: a multiple of any value's size.
const PIECE: u64 = 1 << 16;
const _: () = assert!(HEADER == 64 && ENTRY == 32);

/// Name of a section: what it holds (four ASCII letters), and which one of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SectionId(pub [u8; 4], pub u32);

/// A section of `T` whose bounds, alignment and length were checked when the file was opened.
#[derive(Debug)]
pub(crate) struct Section<T> {
    bytes: Range<u64>,
    values: PhantomData<T>,
}

impl<T> Section<T> {
    /// Number of values.
    pub fn len(&self) -> u64 {
        (self.bytes.end - self.bytes.start) / size_of::<T>() as u64
    }

    /// Where in the file `count` values from value `start` on lie; `None` where the section does not have them all.
    #[inline]
    fn range(&self, start: u64, count: usize) -> Option<Range<u64>> {
        let end = start.checked_add(count as u64).filter(|&end| end <= self.len())?;
        let at = |value: u64| self.bytes.start + value * size_of::<T>() as u64;
        Some(at(start)..at(end))
    }
}

/// The values of a section, all at hand: in the file where that is in memory, else in the heap.
#[derive(Debug)]
pub(crate) struct Resident<T> {
    section: Section<T>,
    /// Where the file is paged.
    values: Vec<T>,
}

/// An open container: structure checked, content not yet.
#[derive(Debug)]
pub struct Container {
    path: PathBuf,
    file: Content,
    entries: Vec<Entry>,
    /// See [`Self::within`].
    budget: Option<u64>,
}

#[derive(Debug)]
enum Content {
    /// All of it in memory.
    Whole(FileBytes),
    /// Read where it is needed.
    Paged(PagedFile),
}

impl Container {
    /// Maps the file at `path`, which must be of `kind`, and checks its header and section table. The system is told that
    /// reads jump about.
    ///
    /// # Errors
    /// [`Error::File`] where the file is missing, foreign, of another kind or version, truncated, or its header
    /// is damaged; [`Error::Io`] where the system refuses.
    pub fn open(path: impl AsRef<Path>, kind: [u8; 4]) -> Result<Self> {
        let (path, file) = (path.as_ref(), FileBytes::map(path.as_ref())?);
        // Before the first byte is read, or the system reads megabytes with it.
        file.advise_random();
        Self::of(file, path.to_owned(), kind)
    }

    /// The container in `file`, which is spoken of as `path`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn of(file: FileBytes, path: PathBuf, kind: [u8; 4]) -> Result<Self> {
        let entries = check_structure(file.bytes(), file.bytes().len() as u64, kind);
        let entries = entries.map_err(|fault| Error::file(&path, fault))?;
        Ok(Self { path, file: Content::Whole(file), entries, budget: None })
    }

    /// As [`Self::open`], but the file is read where it is needed, through a cache of 256 KiB, instead of mapped.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_paged(path: impl AsRef<Path>, kind: [u8; 4]) -> Result<Self> {
        let path = path.as_ref();
        Self::of_paged(PagedFile::open(path)?, path.to_owned(), kind)
    }

    /// The container in `file`, which is spoken of as `path`.
    pub(crate) fn of_paged(file: PagedFile, path: PathBuf, kind: [u8; 4]) -> Result<Self> {
        let front = |length: u64| {
            let mut front = vec![0; length.min(file.len()) as usize];
            file.read_at(0, &mut front).map_err(|e| Error::io(&path, e)).map(|()| front)
        };
        let sections = front(HEADER as u64)?.get(SECTIONS).map_or(0, bytemuck::pod_read_unaligned);
        let front = front(header_length(sections.min(MAX_SECTIONS)))?;
        let entries = check_structure(&front, file.len(), kind).map_err(|fault| Error::file(&path, fault))?;
        Ok(Self { path, file: Content::Paged(file), entries, budget: None })
    }

    /// The same, with a bound on all heap of the program: sections that would go beyond it are not read into the heap.
    pub(crate) fn within(self, budget: Option<u64>) -> Self {
        Self { budget, ..self }
    }

    /// Checks every checksum, and that all padding is zero: reads the whole file.
    ///
    /// # Errors
    /// [`Error::File`] naming the damaged section; [`Error::Io`].
    pub fn verify(&self) -> Result<()> {
        for (i, entry) in self.entries.iter().enumerate() {
            let section = section_range(entry);
            let next = self.entries.get(i + 1).map_or(self.len_bytes(), |next| next.offset);
            let mut crc = crc32fast::Hasher::new();
            self.each_piece(section.clone(), |bytes: &[u8]| crc.update(bytes))?;
            if crc.finalize() != entry.crc {
                return Err(self.fault(format!("section {} is damaged: wrong checksum", name(entry))));
            }
            let mut zero = true;
            self.each_piece(section.end..next, |bytes: &[u8]| zero &= bytes.iter().all(|&byte| byte == 0))?;
            if !zero {
                return Err(self.fault(format!("bytes after section {} are not zero", name(entry))));
            }
        }
        Ok(())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length of the file in bytes.
    pub fn len_bytes(&self) -> u64 {
        match &self.file {
            Content::Whole(file) => file.bytes().len() as u64,
            Content::Paged(file) => file.len(),
        }
    }

    /// Number of sections.
    pub fn sections(&self) -> usize {
        self.entries.len()
    }

    /// An error that names this file.
    pub(crate) fn fault(&self, fault: impl Into<String>) -> Error {
        Error::file(&self.path, fault)
    }

    /// The section `id` as `T`s, whatever their number.
    pub(crate) fn section<T: Pod>(&self, id: SectionId) -> Result<Section<T>> {
        // Sections start on a page of a file that starts on a line, and a buffer of `T` is one of `T`.
        const { assert!(align_of::<T>() <= FileBytes::ALIGN && (PAGE as usize).is_multiple_of(FileBytes::ALIGN)) };
        let at = self.entries.binary_search_by_key(&id, |e| SectionId(e.kind, e.index));
        let Ok(at) = at else {
            return Err(self.fault(format!("section {:?} {} is missing", id.0.escape_ascii().to_string(), id.1)));
        };
        let entry = &self.entries[at];
        match entry.length.is_multiple_of(size_of::<T>() as u64) {
            true => Ok(Section { bytes: section_range(entry), values: PhantomData }),
            false => Err(self.fault(format!("section {} has a wrong length", name(entry)))),
        }
    }

    /// The section `id` as `count` `T`s.
    pub(crate) fn section_of<T: Pod>(&self, id: SectionId, count: u64) -> Result<Section<T>> {
        let section = self.section(id)?;
        if section.len() != count {
            return Err(self.fault(format!("section {} {} has a wrong length", id.0.escape_ascii(), id.1)));
        }
        Ok(section)
    }

    /// The section `id`, which must be one `T`.
    pub(crate) fn only<T: Pod>(&self, id: SectionId) -> Result<T> {
        let value = self.value(&self.section_of(id, 1)?, 0)?;
        value.ok_or_else(|| Error::Internal("a section of one value has none".into()))
    }

    /// All of a section of this container, at hand from now on.
    pub(crate) fn resident<T: Pod>(&self, section: Section<T>) -> Result<Resident<T>> {
        let mut values = Vec::new();
        if let Content::Paged(_) = &self.file {
            let bytes = section.bytes.end - section.bytes.start;
            budget::check(budget::live_bytes().saturating_add(bytes), self.budget)?;
            // The file has the bytes, so their number is no lie; there may be no memory for them all the same.
            let none = || Error::io(&self.path, io::ErrorKind::OutOfMemory.into());
            let count = usize::try_from(section.len()).map_err(|_| none())?;
            values.try_reserve_exact(count).map_err(|_| none())?;
            self.read(&section, 0, count, &mut values)?;
        }
        Ok(Resident { section, values })
    }

    /// The values of a section of this container.
    pub(crate) fn view<'a, T: Pod>(&'a self, resident: &'a Resident<T>) -> &'a [T] {
        match &self.file {
            Content::Whole(file) => {
                let Range { start, end } = resident.section.bytes;
                bytemuck::cast_slice(&file.bytes()[start as usize..end as usize])
            }
            Content::Paged(_) => &resident.values,
        }
    }

    /// `count` values of a section of this container from value `start` on, in place or by way of `buffer`; `None` where
    /// the section does not have them all.
    #[inline]
    pub(crate) fn read<'a, T: Pod>(
        &'a self,
        section: &Section<T>,
        start: u64,
        count: usize,
        buffer: &'a mut Vec<T>,
    ) -> Result<Option<&'a [T]>> {
        let Content::Paged(file) = &self.file else { return Ok(self.in_place(section, start, count)) };
        let Some(bytes) = section.range(start, count) else { return Ok(None) };
        buffer.resize(count, T::zeroed());
        let read = file.read_at(bytes.start, bytemuck::cast_slice_mut(buffer));
        read.map(|()| Some(&buffer[..])).map_err(|e| Error::io(&self.path, e))
    }

    /// The same where the file is in memory; `None` also where it is not.
    #[inline]
    pub(crate) fn in_place<T: Pod>(&self, section: &Section<T>, start: u64, count: usize) -> Option<&[T]> {
        let Content::Whole(file) = &self.file else { return None };
        let Range { start, end } = section.range(start, count)?;
        file.bytes().get(start as usize..end as usize).map(bytemuck::cast_slice)
    }

    /// Tells the system that the values of a section from value `start` on will be read, `count` of them or as many as
    /// there are. It reads only some ahead of a long range.
    pub(crate) fn advise_needed<T>(&self, section: &Section<T>, start: u64, count: usize) {
        let count = section.len().saturating_sub(start).min(count as u64) as usize;
        if let (Content::Whole(file), Some(bytes)) = (&self.file, section.range(start, count)) {
            file.advise_needed(bytes.start as usize..bytes.end as usize);
        }
    }

    /// The value `at` of a section of this container; `None` where there is no such value.
    #[inline]
    pub(crate) fn value<T: Pod>(&self, section: &Section<T>, at: u64) -> Result<Option<T>> {
        let Content::Paged(file) = &self.file else {
            return Ok(self.in_place(section, at, 1).and_then(|values| values.first().copied()));
        };
        let Some(bytes) = section.range(at, 1) else { return Ok(None) };
        let mut value = T::zeroed();
        let read = file.read_at(bytes.start, bytemuck::bytes_of_mut(&mut value));
        read.map(|()| Some(value)).map_err(|e| Error::io(&self.path, e))
    }

    /// Gives `take` the values `range` of a section, in order and in pieces as large as convenient.
    ///
    /// # Panics
    /// Where the section does not have them all.
    pub(crate) fn each_piece_of<T: Pod>(
        &self,
        section: &Section<T>,
        range: Range<u64>,
        take: impl FnMut(&[T]),
    ) -> Result<()> {
        assert!(range.start <= range.end && range.end <= section.len(), "a range beyond its section");
        let at = |value: u64| section.bytes.start + value * size_of::<T>() as u64;
        self.each_piece(at(range.start)..at(range.end), take)
    }

    /// The same by bytes of the file.
    fn each_piece<T: Pod>(&self, range: Range<u64>, mut take: impl FnMut(&[T])) -> Result<()> {
        match &self.file {
            Content::Whole(file) => {
                let (mut start, end) = (range.start as usize, range.end as usize);
                while start < end {
                    let piece = start..end.min(start + PIECE as usize);
                    // Piece by piece: the system reads only the start of a long range ahead.
                    file.advise_needed(piece.clone());
                    take(bytemuck::cast_slice(&file.bytes()[piece.clone()]));
                    start = piece.end;
                }
            }
            Content::Paged(file) => {
                let (mut piece, mut start) = (Vec::new(), range.start);
                while start < range.end {
                    let bytes = (range.end - start).min(PIECE);
                    piece.resize(bytes as usize / size_of::<T>(), T::zeroed());
                    let read = file.read_at(start, bytemuck::cast_slice_mut(&mut piece));
                    read.map_err(|e| Error::io(&self.path, e))?;
                    take(&piece);
                    start += bytes;
                }
            }
        }
        Ok(())
    }
}

/// All that can be said of a container of `total` bytes from its header pages, which `bytes` starts with. The entries'
/// ranges lie within the file.
fn check_structure(bytes: &[u8], total: u64, kind: [u8; 4]) -> std::result::Result<Vec<Entry>, String> {
    let Some(header) = bytes.get(..HEADER) else {
        return Err("not a rissole file, or cut off within its header".into());
    };
    let header: Header = bytemuck::pod_read_unaligned(header);
    if header.magic != MAGIC {
        return Err("not a rissole file, or changed by a text transfer".into());
    }
    if header.major != MAJOR {
        return Err(format!("format version {} is not supported; this build reads {MAJOR}", header.major));
    }
    if header.kind != kind {
        return Err(format!("is of kind {:?}, not {:?}", ascii(&header.kind), ascii(&kind)));
    }
    if header.total_length != total {
        return Err(format!("is {total} bytes long, its header says {}: cut off or damaged", header.total_length));
    }
    // Of a file that someone changes meanwhile, `bytes` may be of another day than their number.
    if header.sections > MAX_SECTIONS || header_length(header.sections) > total.min(bytes.len() as u64) {
        return Err(format!("cannot hold {} sections", header.sections));
    }
    let (table_end, pages) = (HEADER + ENTRY * header.sections as usize, header_length(header.sections) as usize);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[..CRC.start]);
    crc.update(&[0; 4]);
    crc.update(&bytes[CRC.end..pages]);
    if crc.finalize() != header.crc {
        return Err("the header is damaged: wrong checksum".into());
    }
    if header.reserved != [0; 32] || bytes[table_end..pages].iter().any(|&b| b != 0) {
        return Err("reserved bytes of the header are not zero".into());
    }
    let entries: Vec<Entry> = bytes[HEADER..table_end].chunks_exact(ENTRY).map(bytemuck::pod_read_unaligned).collect();
    let mut end = pages as u64;
    for (i, entry) in entries.iter().enumerate() {
        let ascending = i == 0 || name_of(&entries[i - 1]) < name_of(entry);
        let next = entry.offset.checked_add(entry.length).filter(|&next| next <= total);
        let adjacent = end.checked_next_multiple_of(PAGE) == Some(entry.offset);
        match next {
            Some(next) if ascending && adjacent && entry.reserved == 0 => end = next,
            _ => return Err(format!("section {} is out of place", name(entry))),
        }
    }
    if end != total {
        return Err("there are bytes after the last section".into());
    }
    Ok(entries)
}

/// Bytes before the first section.
fn header_length(sections: u32) -> u64 {
    (HEADER as u64 + ENTRY as u64 * u64::from(sections)).next_multiple_of(PAGE)
}

/// Where a checked entry lies.
fn section_range(entry: &Entry) -> Range<u64> {
    entry.offset..entry.offset + entry.length
}

fn name_of(entry: &Entry) -> SectionId {
    SectionId(entry.kind, entry.index)
}

fn name(entry: &Entry) -> String {
    format!("{} {}", ascii(&entry.kind), entry.index)
}

fn ascii(kind: &[u8; 4]) -> String {
    kind.escape_ascii().to_string()
}

#[cfg(test)]
mod tests;
