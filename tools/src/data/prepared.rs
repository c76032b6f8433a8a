//! A prepared set: one file, so that a run that goes on does not decode its pictures again.
//!
//! File: `RSLDATA1`, header length (u64 LE), header (JSON), pixels N×H×W×3, BLAKE3 of all before it. Written to a
//! temporary name and renamed.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rissole::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{Dataset, MAX_SIZE};

const MAGIC: &[u8; 8] = b"RSLDATA1";
const HASH_BYTES: u64 = 32;
/// Magic and header length.
const PREFIX_BYTES: u64 = 16;
/// Largest header that is read: ten million pictures with long names.
const MAX_HEADER_BYTES: u64 = 1 << 30;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    width: usize,
    height: usize,
    names: Vec<String>,
    classes: Vec<u32>,
    class_names: Vec<String>,
    skipped: Vec<(String, String)>,
}

impl Dataset {
    /// Writes the set to `path` in one piece: a reader sees the old file or the whole new one.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, path: &Path) -> Result<()> {
        let header = Header {
            width: self.width,
            height: self.height,
            names: self.names.clone(),
            classes: self.classes.clone(),
            class_names: self.class_names.clone(),
            skipped: self.skipped.clone(),
        };
        let header = serde_json::to_vec(&header).map_err(|e| Error::Internal(e.to_string()))?;
        let length = (header.len() as u64).to_le_bytes();
        rissole::atomic_file::write_atomically(path, |out| {
            let mut hash = blake3::Hasher::new();
            for part in [MAGIC.as_slice(), &length, &header, &self.pixels] {
                out.write_all(part)?;
                hash.update(part);
            }
            out.write_all(hash.finalize().as_bytes())
        })
    }

    /// Reads what [`Self::save`] wrote.
    ///
    /// # Errors
    /// [`Error::File`] when it is foreign, damaged or truncated; [`Error::Io`].
    pub fn load_prepared(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(|e| Error::io(path, e))?;
        let length = file.metadata().map_err(|e| Error::io(path, e))?.len();
        let mut reader = Reader { file: &mut file, path, hash: blake3::Hasher::new() };
        let damaged = || Error::file(path, "damaged or truncated set of pictures");
        if length < PREFIX_BYTES + HASH_BYTES {
            return Err(damaged());
        }
        let prefix = reader.take(PREFIX_BYTES)?;
        let header_length = prefix.strip_prefix(MAGIC).and_then(|rest| rest.try_into().ok()).map(u64::from_le_bytes);
        let header_length = header_length.ok_or_else(|| Error::file(path, "not a set of pictures of this trainer"))?;
        let body = length - PREFIX_BYTES - HASH_BYTES;
        if header_length > body.min(MAX_HEADER_BYTES) {
            return Err(damaged());
        }
        let header = reader.take(header_length)?;
        let pixels = reader.take(body - header_length)?;
        let hash = reader.hash.finalize();
        if reader.take(HASH_BYTES)? != hash.as_bytes() {
            return Err(damaged());
        }
        let header: Header = serde_json::from_slice(&header).map_err(|e| Error::file(path, e.to_string()))?;
        header.check(pixels.len()).map_err(|fault| Error::file(path, fault))?;
        let Header { width, height, names, classes, class_names, skipped } = header;
        Ok(Self { width, height, pixels, names, classes, class_names, skipped })
    }
}

impl Header {
    fn check(&self, pixels: usize) -> std::result::Result<(), &'static str> {
        let sides = 1..=MAX_SIZE;
        if !sides.contains(&self.width) || !sides.contains(&self.height) {
            return Err("impossible size of pictures");
        }
        if self.names.is_empty() || self.names.len() != self.classes.len() {
            return Err("names and classes do not go together");
        }
        if self.classes.iter().any(|&class| class as usize >= self.class_names.len()) {
            return Err("a picture is of an unknown class");
        }
        if self.names.len().checked_mul(self.width * self.height * 3) != Some(pixels) {
            return Err("pixels do not match the number and size of the pictures");
        }
        Ok(())
    }
}

/// Hashes what it reads.
struct Reader<'a> {
    file: &'a mut File,
    path: &'a Path,
    hash: blake3::Hasher,
}

impl Reader<'_> {
    /// Exactly `count` bytes, which the caller has checked against the file's length.
    fn take(&mut self, count: u64) -> Result<Vec<u8>> {
        let fail = |e| Error::io(self.path, e);
        let mut bytes = Vec::new();
        let size = usize::try_from(count).map_err(|_| fail(std::io::ErrorKind::OutOfMemory.into()))?;
        bytes.try_reserve_exact(size).map_err(|_| fail(std::io::ErrorKind::OutOfMemory.into()))?;
        self.file.take(count).read_to_end(&mut bytes).map_err(fail)?;
        if bytes.len() != size {
            return Err(fail(std::io::ErrorKind::UnexpectedEof.into()));
        }
        self.hash.update(&bytes);
        Ok(bytes)
    }
}
