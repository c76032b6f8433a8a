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

use std::io::{self, Write};
use std::marker::PhantomData;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytemuck::{Pod, Zeroable};

use crate::atomic_file::write_atomically;
use crate::error::{Error, Result};
use crate::file_bytes::FileBytes;

#[cfg(target_endian = "big")]
compile_error!("sections are viewed in place, which needs a little-endian host");

const MAGIC: [u8; 8] = *b"\x89RSL\r\n\x1a\n";
const MAJOR: u16 = 1;
const MINOR: u16 = 0;
const PAGE: u64 = 4096;
const MAX_SECTIONS: u32 = 1 << 16;
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
const _: () = assert!(HEADER == 64 && ENTRY == 32);

/// Name of a section: what it holds (four ASCII letters), and which one of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SectionId(pub [u8; 4], pub u32);

/// A section of `T` whose bounds, alignment and length were checked when the file was opened.
#[derive(Debug)]
pub(crate) struct Section<T> {
    bytes: Range<usize>,
    values: PhantomData<T>,
}

/// An open container: structure checked, content not yet.
#[derive(Debug)]
pub struct Container {
    path: PathBuf,
    file: FileBytes,
    entries: Vec<Entry>,
}

impl Container {
    /// Maps the file at `path`, which must be of `kind`, and checks its header and section table.
    ///
    /// # Errors
    /// [`Error::File`] where the file is missing, foreign, of another kind or version, truncated, or its header
    /// is damaged; [`Error::Io`] where the system refuses.
    pub fn open(path: impl AsRef<Path>, kind: [u8; 4]) -> Result<Self> {
        let path = path.as_ref();
        Self::of(FileBytes::map(path)?, path.to_owned(), kind)
    }

    /// The container in `file`, which is spoken of as `path`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn of(file: FileBytes, path: PathBuf, kind: [u8; 4]) -> Result<Self> {
        let entries = check_structure(file.bytes(), kind).map_err(|fault| Error::file(&path, fault))?;
        Ok(Self { path, file, entries })
    }

    /// Checks every checksum, and that all padding is zero: reads the whole file.
    ///
    /// # Errors
    /// [`Error::File`] naming the damaged section.
    pub fn verify(&self) -> Result<()> {
        let bytes = self.file.bytes();
        for (i, entry) in self.entries.iter().enumerate() {
            let section = section_range(entry);
            let next = self.entries.get(i + 1).map_or(bytes.len(), |next| next.offset as usize);
            if crc32fast::hash(&bytes[section.clone()]) != entry.crc {
                return Err(self.fault(format!("section {} is damaged: wrong checksum", name(entry))));
            }
            if bytes[section.end..next] != ZEROS[..next - section.end] {
                return Err(self.fault(format!("bytes after section {} are not zero", name(entry))));
            }
        }
        Ok(())
    }

    /// Tells the system that reads jump about.
    pub(crate) fn advise_random(&self) {
        self.file.advise_random();
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length of the file in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.file.bytes().len() as u64
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
        let at = self.entries.binary_search_by_key(&id, |e| SectionId(e.kind, e.index));
        let Ok(at) = at else {
            return Err(self.fault(format!("section {:?} {} is missing", id.0.escape_ascii().to_string(), id.1)));
        };
        let bytes = section_range(&self.entries[at]);
        match bytemuck::try_cast_slice::<u8, T>(&self.file.bytes()[bytes.clone()]) {
            Ok(_) => Ok(Section { bytes, values: PhantomData }),
            Err(_) => Err(self.fault(format!("section {} has a wrong length", name(&self.entries[at])))),
        }
    }

    /// The section `id` as `count` `T`s.
    pub(crate) fn section_of<T: Pod>(&self, id: SectionId, count: u64) -> Result<Section<T>> {
        let section = self.section(id)?;
        if self.view(&section).len() as u64 != count {
            return Err(self.fault(format!("section {} {} has a wrong length", id.0.escape_ascii(), id.1)));
        }
        Ok(section)
    }

    /// The values of a section of this container. Cannot fail: [`Self::section`] did the same cast.
    pub(crate) fn view<T: Pod>(&self, section: &Section<T>) -> &[T] {
        bytemuck::cast_slice(&self.file.bytes()[section.bytes.clone()])
    }
}

/// Writes the bytes of one section. It is asked twice, for the checksum and for the file, and must write the same:
/// so a file of any size is written in little RAM.
pub type Source<'a> = Box<dyn Fn(&mut dyn Write) -> io::Result<()> + 'a>;

/// The source of bytes that are in RAM.
pub fn source<'a>(bytes: impl AsRef<[u8]> + 'a) -> Source<'a> {
    Box::new(move |out| out.write_all(bytes.as_ref()))
}

/// Writes a container of `kind` with `sections` to `path`, atomically (see [`write_atomically`]).
///
/// # Errors
/// [`Error::Io`] where a source or the system refuses; [`Error::Internal`] for two sections of one name, too many,
/// or a source that does not write the same twice.
pub fn write(path: impl AsRef<Path>, kind: [u8; 4], mut sections: Vec<(SectionId, Source<'_>)>) -> Result<()> {
    let path = path.as_ref();
    sections.sort_by_key(|(id, _)| *id);
    if sections.windows(2).any(|pair| pair[0].0 == pair[1].0) || sections.len() > MAX_SECTIONS as usize {
        return Err(Error::Internal("a container's sections must be distinct and not too many".into()));
    }
    let mut end = header_length(sections.len() as u32);
    let mut entries = Vec::with_capacity(sections.len());
    for (id, source) in &sections {
        let mut tally = Tally::new(io::sink());
        source(&mut tally).map_err(|e| Error::io(path, e))?;
        let (length, crc) = tally.finish();
        let offset = end.next_multiple_of(PAGE);
        entries.push(Entry { kind: id.0, index: id.1, offset, length, crc, reserved: 0 });
        end = offset + length;
    }
    let head = head(kind, &entries, end);
    let mut changed = false;
    write_atomically(path, |out| {
        out.write_all(&head)?;
        let mut written = head.len() as u64;
        for (entry, (_, source)) in entries.iter().zip(&sections) {
            out.write_all(&ZEROS[..(entry.offset - written) as usize])?;
            let mut tally = Tally::new(&mut *out);
            source(&mut tally)?;
            if tally.finish() != (entry.length, entry.crc) {
                changed = true;
                return Err(io::Error::other("a section changed while it was written"));
            }
            written = entry.offset + entry.length;
        }
        Ok(())
    })
    .map_err(|e| if changed { Error::Internal(e.to_string()) } else { e })
}

/// Passes on what is written, and knows its length and checksum.
struct Tally<W> {
    out: W,
    length: u64,
    crc: crc32fast::Hasher,
}

impl<W> Tally<W> {
    fn new(out: W) -> Self {
        Self { out, length: 0, crc: crc32fast::Hasher::new() }
    }

    fn finish(self) -> (u64, u32) {
        (self.length, self.crc.finalize())
    }
}

impl<W: Write> Write for Tally<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.length += written as u64;
        self.crc.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Header and section table of a file that is `total_length` bytes long.
fn head(kind: [u8; 4], entries: &[Entry], total_length: u64) -> Vec<u8> {
    let (major, minor, sections) = (MAJOR, MINOR, entries.len() as u32);
    let header = Header { magic: MAGIC, major, minor, kind, total_length, sections, crc: 0, reserved: [0; 32] };
    let mut head = bytemuck::bytes_of(&header).to_vec();
    head.extend_from_slice(bytemuck::cast_slice(entries));
    head.resize(header_length(sections) as usize, 0);
    let crc = crc32fast::hash(&head);
    head[CRC].copy_from_slice(&crc.to_le_bytes());
    head
}

/// All that can be said of a container from its header pages. The entries' ranges lie within `bytes`.
fn check_structure(bytes: &[u8], kind: [u8; 4]) -> std::result::Result<Vec<Entry>, String> {
    let total = bytes.len() as u64;
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
    if header.sections > MAX_SECTIONS || header_length(header.sections) > total {
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

/// Where a checked entry lies; fits `usize` because the whole file is mapped.
fn section_range(entry: &Entry) -> Range<usize> {
    entry.offset as usize..(entry.offset + entry.length) as usize
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
mod tests {
    use super::*;

    const KIND: [u8; 4] = *b"test";

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("rissole-container-{name}-{}", std::process::id()))
    }

    fn written(name: &str, sections: &[(SectionId, Vec<u8>)]) -> (PathBuf, Vec<u8>) {
        let path = path(name);
        let sources = sections.iter().map(|(id, bytes)| (*id, source(bytes))).collect();
        write(&path, KIND, sources).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        (path, bytes)
    }

    #[test]
    fn sections_come_back_in_place() {
        let sections = [
            (SectionId(*b"bbbb", 1), vec![7; 5000]),
            (SectionId(*b"aaaa", 0), 1.5f32.to_le_bytes().to_vec()),
            (SectionId(*b"bbbb", 0), vec![]),
        ];
        let (path, bytes) = written("back", &sections);
        assert_eq!(bytes.len(), 8192 + 5000, "header, a page with `a` (and the empty section's offset), `b`");
        let container = Container::open(&path, KIND).unwrap();
        container.verify().unwrap();
        let a = container.section_of::<f32>(sections[1].0, 1).unwrap();
        assert_eq!(container.view(&a), [1.5]);
        let b = container.section::<u8>(sections[0].0).unwrap();
        assert_eq!(container.view(&b), sections[0].1);
        assert_eq!(container.section_of::<u8>(sections[2].0, 0).map(|s| container.view(&s).len()).unwrap(), 0);
        assert!(container.section_of::<f32>(sections[1].0, 2).is_err());
        assert!(container.section::<u64>(sections[1].0).is_err());
        assert!(container.section::<u8>(SectionId(*b"cccc", 0)).is_err());
        assert!(matches!(Container::open(&path, *b"else"), Err(Error::File { .. })));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_source_that_changes_its_mind_writes_nothing() {
        let path = path("mind");
        let asked = std::cell::Cell::new(0);
        let source: Source<'_> = Box::new(|out| {
            asked.set(asked.get() + 1);
            out.write_all(&[asked.get()])
        });
        assert!(matches!(write(&path, KIND, vec![(SectionId(*b"aaaa", 0), source)]), Err(Error::Internal(_))));
        assert!(!path.exists());
    }

    /// Every bit and length of header and table, of the rest a sample.
    #[test]
    fn no_bit_can_flip_and_no_byte_be_lost_unseen() {
        let sections = [(SectionId(*b"aaaa", 0), vec![1, 2, 3]), (SectionId(*b"bbbb", 0), vec![4; 9])];
        let (path, bytes) = written("bits", &sections);
        let rejected = |bytes: &[u8]| match check_structure(bytes, KIND) {
            Err(_) => true,
            Ok(_) => {
                std::fs::write(&path, bytes).unwrap();
                Container::open(&path, KIND).unwrap().verify().is_err()
            }
        };
        assert!(!rejected(&bytes));
        for at in (0..160).chain((160..bytes.len()).step_by(61)).chain(bytes.len() - 9..bytes.len()) {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert!(rejected(&damaged), "byte {at} bit {bit}");
            }
        }
        for length in (0..160).chain((160..bytes.len()).step_by(173)).chain(bytes.len() - 9..bytes.len()) {
            assert!(rejected(&bytes[..length]), "{length} bytes");
        }
        let longer: Vec<u8> = bytes.iter().copied().chain([0]).collect();
        assert!(rejected(&longer));
        std::fs::remove_file(path).unwrap();
    }

    /// Hostile tables with a right checksum.
    #[test]
    fn a_table_that_lies_is_refused() {
        let sections = [(SectionId(*b"aaaa", 0), vec![1, 2, 3]), (SectionId(*b"bbbb", 0), vec![4; 9])];
        let (path, bytes) = written("lies", &sections);
        let second = HEADER + ENTRY;
        let lie = |at: usize, value: u64| {
            let mut lying = bytes.clone();
            lying[at..at + 8].copy_from_slice(&value.to_le_bytes());
            lying[CRC].fill(0);
            let crc = crc32fast::hash(&lying[..4096]);
            lying[CRC].copy_from_slice(&crc.to_le_bytes());
            check_structure(&lying, KIND)
        };
        assert!(lie(second + 8, 8192).is_ok(), "the truth");
        for offset in [0, 4096, 8191, 12288, u64::MAX, u64::MAX - 4095] {
            assert!(lie(second + 8, offset).is_err(), "offset {offset}");
        }
        for length in [0, 8, 10, u64::MAX, u64::MAX - 8191] {
            assert!(lie(second + 16, length).is_err(), "length {length}");
        }
        assert!(lie(second, u64::from_le_bytes(*b"aaaa\0\0\0\0")).is_err(), "a name twice");
        assert!(lie(24, 1 << 31).is_err(), "two thousand million sections");
        assert!(lie(24, 1).is_err(), "a hidden section");
        std::fs::remove_file(path).unwrap();
    }
}
