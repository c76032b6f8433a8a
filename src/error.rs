//! The one error type of the runtime. Each variant says whose fault it is, which decides the exit
//! code of the command line.

use std::path::{Path, PathBuf};

/// Result with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, grouped by who can mend it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller asked for something that cannot be: a bad argument or combination.
    #[error("{0}")]
    Usage(String),
    /// A file of a bundle (or a picture) is missing, damaged, foreign or inconsistent.
    #[error("{}: {fault}", path.display())]
    File {
        /// The file at fault.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
    /// The work does not fit in the RAM budget.
    #[error("needs {needs} bytes, budget is {budget} bytes")]
    Budget {
        /// Bytes the work needs at its peak; where the files alone are too much, at least.
        needs: u64,
        /// Bytes the caller allowed.
        budget: u64,
    },
    /// The operating system refused a read or a write.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file being read or written.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The caller asked to stop (Ctrl-C).
    #[error("interrupted")]
    Interrupted,
    /// A defect of this library.
    #[error("internal error: {0}")]
    Internal(String),
}

impl Error {
    /// A fault of the file at `path`.
    pub fn file(path: impl AsRef<Path>, fault: impl Into<String>) -> Self {
        Self::File { path: path.as_ref().to_owned(), fault: fault.into() }
    }

    /// A refusal of the operating system while working on `path`.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io { path: path.as_ref().to_owned(), source }
    }

    /// A defect that showed itself by a panic, whose payload was caught.
    pub(crate) fn panic(payload: &(dyn std::any::Any + Send)) -> Self {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("without words");
        Self::Internal(format!("a panic: {text}"))
    }

    /// Exit code of the command line for this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Internal(_) => 1,
            Self::Usage(_) => 2,
            Self::File { .. } => 3,
            Self::Budget { .. } => 4,
            Self::Io { .. } => 5,
            Self::Interrupted => 130,
        }
    }
}
