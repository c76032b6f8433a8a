//! Files that appear whole or not at all.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::error::{Error, Result};

/// Where tests make the system refuse.
#[cfg(test)]
pub(crate) mod faults;

#[cfg(not(test))]
mod faults {
    pub fn pass() -> std::io::Result<()> {
        Ok(())
    }
}

/// Writes what `write` writes to the file at `path`, replacing what was there.
///
/// The bytes go to a temporary name in the same folder, are synced to the device, and are then renamed: a
/// reader sees the old file or the new one, never half of one, and a map of the old one stays valid. On any
/// error (or panic of `write`) the temporary file is removed and `path` is left as it was.
///
/// # Errors
/// [`Error::Io`] with what `write` or the system said; [`Error::Usage`] where `path` names no file.
pub fn write_atomically(path: impl AsRef<Path>, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let path = path.as_ref();
    let (Some(name), Some(folder)) = (path.file_name(), path.parent()) else {
        return Err(Error::Usage(format!("{} is not the name of a file", path.display())));
    };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let attempt = || {
        let (temporary, file) = Temporary::create(folder, name)?;
        let mut buffered = BufWriter::new(Output(&file));
        // What is left in the buffer when `write` fails is not worth writing.
        let written = write(&mut buffered).and_then(|()| buffered.flush());
        drop(buffered.into_parts());
        written?;
        faults::pass()?;
        file.sync_all()?;
        temporary.rename(path)?;
        sync_folder(folder);
        Ok(())
    };
    attempt().map_err(|e| Error::io(path, e))
}

/// Removes the file at `path`, which may be gone already.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match faults::pass().and_then(|()| std::fs::remove_file(path)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Whether `temporary` is a name under which [`write_atomically`] begins a file called `name`: what a killed
/// program leaves behind.
pub(crate) fn is_temporary_of(temporary: &str, name: &str) -> bool {
    let middle = temporary.strip_prefix('.').and_then(|rest| rest.strip_prefix(name));
    let middle = middle.and_then(|rest| rest.strip_prefix('.')).and_then(|rest| rest.strip_suffix(".tmp"));
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    middle.and_then(|ids| ids.split_once('-')).is_some_and(|(process, count)| number(process) && number(count))
}

/// The file, as it is written.
struct Output<'a>(&'a File);

impl Write for Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Err(refusal) = faults::pass() {
            // A full disk takes a part.
            let _ = self.0.write(&bytes[..bytes.len() / 2]);
            return Err(refusal);
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A file under a name of its own, removed when dropped before its rename.
struct Temporary(PathBuf);

impl Temporary {
    fn create(folder: &Path, name: &std::ffi::OsStr) -> io::Result<(Self, File)> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        loop {
            let mut temporary = OsString::from(".");
            temporary.push(name);
            temporary.push(format!(".{}-{}.tmp", std::process::id(), COUNTER.fetch_add(1, Relaxed)));
            let temporary = folder.join(temporary);
            faults::pass()?;
            match OpenOptions::new().write(true).create_new(true).open(&temporary) {
                // Left by a dead process of the same id.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                opened => return Ok((Self(temporary), opened?)),
            }
        }
    }

    fn rename(self, to: &Path) -> io::Result<()> {
        faults::pass()?;
        std::fs::rename(&self.0, to)?;
        std::mem::forget(self);
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = remove(&self.0);
    }
}

/// Makes the rename itself durable. Some file systems refuse to sync a folder; the file is in place all the
/// same, so a refusal is no error.
fn sync_folder(folder: &Path) {
    #[cfg(unix)]
    if let Err(e) = File::open(folder).and_then(|folder| folder.sync_all()) {
        log::debug!("{}: {e}", folder.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("rissole-atomic-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let folder = folder("replaced");
        let path = folder.join("a.bin");
        write_atomically(&path, |w| w.write_all(b"first, and longer")).unwrap();
        write_atomically(&path, |w| w.write_all(b"second")).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn temporaries_are_known_by_their_names() {
        for name in [".a.bin.12-0.tmp", ".a.bin.1-22.tmp"] {
            assert!(is_temporary_of(name, "a.bin"), "{name}");
        }
        for name in ["a.bin", ".a.bin.tmp", ".a.bin.-0.tmp", ".a.bin.1-.tmp", ".a.bin.1-x.tmp", ".b.bin.1-0.tmp"] {
            assert!(!is_temporary_of(name, "a.bin"), "{name}");
        }
    }

    #[test]
    fn a_failed_write_leaves_no_trace() {
        let folder = folder("failed");
        let path = folder.join("a.bin");
        write_atomically(&path, |w| w.write_all(b"old")).unwrap();
        let full = write_atomically(&path, |w| {
            w.write_all(&[0; 100_000])?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        });
        assert!(matches!(full, Err(Error::Io { path: at, .. }) if at == path));
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
        assert!(write_atomically(folder.join("none/a.bin"), |_| Ok(())).is_err());
        assert!(write_atomically("/", |_| Ok(())).is_err());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
