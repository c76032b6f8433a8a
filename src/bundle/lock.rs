//! One program at a time changes a bundle.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use super::absent;
use crate::error::{Error, Result};

/// A lock on a bundle's folder, until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    folder: File,
    dir: PathBuf,
}

impl Lock {
    /// Locks the folder `dir`.
    ///
    /// # Errors
    /// [`Error::Usage`] while another program changes the bundle; [`Error::File`] where there is no such folder;
    /// [`Error::Io`].
    pub fn on(dir: &Path) -> Result<Self> {
        let folder = File::open(dir).map_err(|e| absent(dir, e))?;
        match folder.try_lock() {
            Ok(()) => Ok(Self { folder, dir: dir.to_owned() }),
            Err(TryLockError::WouldBlock) => {
                Err(Error::Usage(format!("{}: another program is changing this bundle", dir.display())))
            }
            Err(TryLockError::Error(e)) => Err(Error::io(dir, e)),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing alone would leave the lock with a child that this program is starting just now.
        if let Err(e) = self.folder.unlock() {
            log::warn!("{}: cannot be unlocked: {e}", self.dir.display());
        }
    }
}
