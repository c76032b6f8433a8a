//! Where the files of a bundle come from.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use crate::file_bytes::FileBytes;

/// How the files of a bundle are read.
#[derive(Debug, Clone, Default)]
pub enum Storage {
    /// From the bundle's folder, mapped: they take no heap, and must not be cut short meanwhile.
    #[default]
    Mapped,
    /// From the bundle's folder, each into the heap while it is needed: for storage that may change or go away.
    Held,
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

    /// The whole file `name`; asked again whenever it is needed again.
    ///
    /// # Errors
    /// As [`Self::size`].
    fn bytes(&self, name: &str) -> io::Result<FileBytes>;

    /// Whether what [`Self::bytes`] gives lies in the heap.
    fn takes_heap(&self) -> bool {
        true
    }
}

impl Storage {
    /// Whether files take heap while they are in use.
    pub fn takes_heap(&self) -> bool {
        match self {
            Self::Mapped => false,
            Self::Held => true,
            Self::Given(files) => files.takes_heap(),
        }
    }
}
