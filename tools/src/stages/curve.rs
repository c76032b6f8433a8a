//! Training curves: a CSV file beside the checkpoint, cut back on resume to what the checkpoint knows.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use rissole::{Error, Result};

/// An open curve.
#[derive(Debug)]
pub struct Curve {
    path: PathBuf,
    file: File,
}

impl Curve {
    /// Opens the curve at `path` with `header`, dropping rows after `step`. One of another header is put aside,
    /// as `NAME.csv.old`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(path: &Path, header: &str, step: u64) -> Result<Self> {
        let old = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(Error::io(path, e)),
        };
        let mut kept = format!("{header}\n");
        let mut lines = old.lines();
        if lines.next().is_some_and(|first| first != header) {
            let aside = path.with_extension("csv.old");
            log::warn!("{}: of other columns than this version's; now {}", path.display(), aside.display());
            std::fs::rename(path, &aside).map_err(|e| Error::io(path, e))?;
            lines = "".lines();
        }
        for line in lines {
            let known = line.split(',').next().and_then(|s| s.parse::<u64>().ok()).is_some_and(|s| s <= step);
            if known {
                kept.push_str(line);
                kept.push('\n');
            }
        }
        super::write_file(path, kept.as_bytes())?;
        let file = OpenOptions::new().append(true).open(path).map_err(|e| Error::io(path, e))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Adds a row.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn add(&mut self, step: u64, values: &[f64]) -> Result<()> {
        let mut line = step.to_string();
        for value in values {
            line.push_str(&format!(",{value:.6}"));
        }
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(|e| Error::io(&self.path, e))
    }
}
