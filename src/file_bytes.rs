//! The bytes of one file, read-only: mapped, held in the heap, or lent by the program.
//!
//! A map shows its file as it is: where the device fails, or someone else cuts the file short, a read beyond what is
//! left has no value to give, and the system ends the program with SIGBUS. No library can turn that into an error
//! without catching signals for the whole program, so this one keeps it from happening: files are replaced by rename
//! ([`write_atomically`](crate::atomic_file::write_atomically)), never written in place, and a mapped file whose name
//! is gone stays whole until it is unmapped. For storage that may change all the same, files can be read instead: as a
//! whole ([`FileBytes::hold`]), or a page at a time.

#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::ops::Range;
use std::path::Path;

use bytemuck::{Pod, Zeroable};
use memmap2::{Advice, Mmap};

use crate::error::{Error, Result};

/// The bytes of a file. They start on a multiple of [`Self::ALIGN`].
#[derive(Debug)]
pub struct FileBytes(Bytes);

#[derive(Debug)]
enum Bytes {
    /// Clean page cache that the system may drop at any time.
    Mapped(Mmap),
    /// Heap.
    Held { lines: Vec<Line>, len: usize },
    /// Neither: the program's own memory.
    Lent(&'static [u8]),
}

/// What the heap is asked for, so that it is aligned.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; FileBytes::ALIGN]);

impl FileBytes {
    /// Alignment of the first byte: what arrays are read in place from.
    pub const ALIGN: usize = 64;

    /// Maps the regular file at `path`.
    ///
    /// # Errors
    /// [`Error::File`] where there is no such regular file; [`Error::Io`].
    pub fn map(path: &Path) -> Result<Self> {
        let (file, _) = open(path)?;
        // SAFETY:
        // - the map is private to this struct and only ever read;
        // - every writer of these files replaces them by rename (`atomic_file`), so the mapped inode does not
        //   change or shrink; whoever truncates it in place all the same gets SIGBUS, as with any mapped file;
        // - no reader relies on the bytes for memory safety: all are plain old data, checked before use.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
        Ok(Self(Bytes::Mapped(map)))
    }

    /// Reads the regular file at `path` into the heap.
    ///
    /// # Errors
    /// As [`Self::map`]; [`Error::Io`] also where there is no memory for it.
    pub fn hold(path: &Path) -> Result<Self> {
        let (mut file, size) = open(path)?;
        Self::filled(size, |bytes| file.read_exact(bytes)).map_err(|e| Error::io(path, e))
    }

    /// `size` bytes of heap, which `fill` fills in.
    ///
    /// # Errors
    /// What `fill` gives; [`ErrorKind::OutOfMemory`].
    pub fn filled(size: u64, fill: impl FnOnce(&mut [u8]) -> io::Result<()>) -> io::Result<Self> {
        let none = || io::Error::from(ErrorKind::OutOfMemory);
        let len = usize::try_from(size).map_err(|_| none())?;
        let count = len.div_ceil(Self::ALIGN);
        let mut lines = Vec::new();
        lines.try_reserve_exact(count).map_err(|_| none())?;
        lines.resize(count, Line::zeroed());
        fill(&mut bytemuck::cast_slice_mut(&mut lines)[..len])?;
        Ok(Self(Bytes::Held { lines, len }))
    }

    /// The program's own memory, used in place; `None` where it does not start on a multiple of [`Self::ALIGN`].
    pub fn lend(bytes: &'static [u8]) -> Option<Self> {
        bytes.as_ptr().cast::<Line>().is_aligned().then_some(Self(Bytes::Lent(bytes)))
    }

    /// Tells the system that reads jump about, so that it does not read ahead. Advice only, as the other: a refusal
    /// changes nothing but speed.
    pub(crate) fn advise_random(&self) {
        #[cfg(unix)]
        if let Bytes::Mapped(map) = &self.0
            && let Err(e) = map.advise(Advice::Random)
        {
            log::debug!("madvise: {e}");
        }
    }

    /// Tells the system that all of `range`, which lies within the file, will be read.
    pub(crate) fn advise_needed(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Bytes::Mapped(map) = &self.0
            && let Err(e) = map.advise_range(Advice::WillNeed, range.start, range.len())
        {
            log::debug!("madvise: {e}");
        }
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Bytes::Mapped(map) => map,
            Bytes::Held { lines, len } => &bytemuck::cast_slice(lines)[..*len],
            Bytes::Lent(bytes) => bytes,
        }
    }
}

/// The regular file at `path` and its size.
pub(crate) fn open(path: &Path) -> Result<(File, u64)> {
    let file = File::open(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => Error::file(path, "no such file"),
        _ => Error::io(path, e),
    })?;
    let metadata = file.metadata().map_err(|e| Error::io(path, e))?;
    if !metadata.is_file() {
        return Err(Error::file(path, "not a regular file"));
    }
    Ok((file, metadata.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_bytes_are_those_of_the_file_and_aligned() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let (mapped, held) = (FileBytes::map(&path).unwrap(), FileBytes::hold(&path).unwrap());
        assert_eq!(mapped.bytes(), held.bytes());
        assert_eq!(held.bytes(), std::fs::read(&path).unwrap());
        assert!(held.bytes().as_ptr().cast::<Line>().is_aligned());
        assert!(matches!(FileBytes::hold(path.parent().unwrap()), Err(Error::File { .. })));
    }

    #[test]
    fn more_than_there_is_memory_for_is_refused() {
        for size in [1 << 62, u64::MAX] {
            let refused = FileBytes::filled(size, |_| Ok(())).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::OutOfMemory);
        }
        assert!(FileBytes::filled(3, |_| Err(io::Error::other("no"))).is_err());
        assert!(FileBytes::filled(0, |_| Ok(())).unwrap().bytes().is_empty());
    }

    #[test]
    fn lent_bytes_must_be_aligned() {
        static LINES: [Line; 2] = [Line([7; 64]); 2];
        let bytes: &'static [u8] = bytemuck::cast_slice(&LINES);
        assert_eq!(FileBytes::lend(bytes).unwrap().bytes(), bytes);
        assert!(FileBytes::lend(&bytes[1..]).is_none());
    }
}
