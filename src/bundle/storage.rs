//! Where the files of a bundle come from.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use crate::file_bytes::FileBytes;
use crate::paged_file::ReadAt;

/// How the files of a bundle are read.
#[derive(Debug, Clone, Default)]
pub enum Storage {
    /// From the bundle's folder, mapped: they take no heap, and must not be cut short meanwhile.
    #[default]
    Mapped,
    /// From the bundle's folder, by reading: networks as a whole, while they are needed; database and index where a
    /// search looks, through a cache of 256 KiB each. For storage that may change or go away.
    Read,
    /// From the program.
    Given(Arc<dyn Files>),
}

/// The files of a bundle, by name, where they are no folder.
pub trait Files: Debug + Send + Sync {
    /// Size of the file `name` in bytes.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] where there is none; whatever else hinders.
    fn size(&self, name: &str) -> io::Result<u64>;

    /// Fills `out` with the bytes of the file `name` from `offset` on. Networks are read as a whole, again whenever they
    /// are needed again; of database and index what a search looks at, through a cache of 256 KiB each.
    ///
    /// # Errors
    /// As [`Self::size`]; [`io::ErrorKind::UnexpectedEof`] where the file ends before.
    fn read_at(&self, name: &str, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// The whole file `name` where it lies in memory: it is then not read.
    fn in_memory(&self, name: &str) -> Option<FileBytes> {
        let _ = name;
        None
    }
}

/// One of the files that a program gives.
#[derive(Debug)]
pub(super) struct GivenFile {
    pub files: Arc<dyn Files>,
    pub name: String,
}

impl GivenFile {
    /// All of it.
    pub fn whole(&self) -> io::Result<FileBytes> {
        match self.files.in_memory(&self.name) {
            Some(bytes) => Ok(bytes),
            None => FileBytes::filled(self.size()?, |bytes| self.read_at(0, bytes)),
        }
    }

    pub fn size(&self) -> io::Result<u64> {
        self.files.size(&self.name)
    }

    /// Its size and BLAKE3 hash, read in pieces.
    pub fn measure(&self) -> io::Result<(u64, String)> {
        let (size, mut hasher, mut piece) = (self.size()?, blake3::Hasher::new(), vec![0; 1 << 16]);
        let mut offset = 0;
        while offset < size {
            let piece = &mut piece[..(size - offset).min(1 << 16) as usize];
            self.read_at(offset, piece)?;
            hasher.update(piece);
            offset += piece.len() as u64;
        }
        Ok((size, hasher.finalize().to_hex().to_string()))
    }
}

impl ReadAt for GivenFile {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.files.read_at(&self.name, offset, out)
    }
}
