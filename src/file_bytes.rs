//! A file mapped into memory, read-only.
//!
//! A map shows its file as it is: where the device fails, or someone else cuts the file short, a read beyond what is
//! left has no value to give, and the system ends the program with SIGBUS. No library can turn that into an error
//! without catching signals for the whole program, so this one keeps it from happening: files are replaced by rename
//! ([`write_atomically`](crate::atomic_file::write_atomically)), never written in place, and a mapped file whose name
//! is gone stays whole until it is unmapped.

#![allow(unsafe_code)]

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

use memmap2::{Advice, Mmap};

use crate::error::{Error, Result};

/// The bytes of a file, mapped read-only: clean page cache that the system may drop at any time.
#[derive(Debug)]
pub(crate) struct Mapping(Mmap);

impl Mapping {
    /// Maps the regular file at `path`.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| match e.kind() {
            ErrorKind::NotFound => Error::file(path, "no such file"),
            _ => Error::io(path, e),
        })?;
        let metadata = file.metadata().map_err(|e| Error::io(path, e))?;
        if !metadata.is_file() {
            return Err(Error::file(path, "not a regular file"));
        }
        // SAFETY:
        // - the map is private to this struct and only ever read;
        // - every writer of these files replaces them by rename (`atomic_file`), so the mapped inode does not
        //   change or shrink; whoever truncates it in place all the same gets SIGBUS, as with any mapped file;
        // - no reader relies on the bytes for memory safety: all are plain old data, checked before use.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
        Ok(Self(map))
    }

    /// Tells the system that reads jump about, so that it does not read ahead. Advice only: a refusal changes
    /// nothing but speed.
    pub fn advise_random(&self) {
        #[cfg(unix)]
        if let Err(e) = self.0.advise(Advice::Random) {
            log::debug!("madvise: {e}");
        }
    }

    /// The whole file. Starts on a page boundary.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}
