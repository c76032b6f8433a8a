//! Checkpoints: everything a run needs to go on: step, random state, tensors by name.
//!
//! File: `RSLCKPT1`, header length (u64 LE), header (JSON), tensors (`f32` LE, in the header's order), BLAKE3
//! of all before it. Written to a temporary name and renamed.

use std::collections::BTreeMap;
use std::path::Path;

use rissole::atomic_file::write_atomically;
use rissole::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::backend::Backend;
use crate::random::Random;
use crate::tape::ParamSet;

const MAGIC: &[u8; 8] = b"RSLCKPT1";
const HASH_BYTES: usize = 32;
/// Largest header that is read.
const MAX_HEADER: usize = 16 << 20;

/// A saved run.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// Steps done.
    pub step: u64,
    /// Hash of the settings the run was started with; a checkpoint of other settings is refused.
    pub settings: String,
    /// State of the random numbers.
    pub random: [u64; 4],
    /// Tensors by name.
    pub tensors: BTreeMap<String, Vec<f32>>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    step: u64,
    settings: String,
    random: [u64; 4],
    tensors: Vec<(String, usize)>,
}

/// The hash that [`Checkpoint::settings`] holds of any serializable settings.
pub fn settings_hash(settings: &impl Serialize) -> String {
    let text = serde_json::to_string(settings).expect("settings are plain data");
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

impl Checkpoint {
    /// An empty checkpoint.
    pub fn new(step: u64, settings: String, random: &Random) -> Self {
        Self { step, settings, random: random.state(), tensors: BTreeMap::new() }
    }

    /// Whether every value of every tensor is a finite number.
    pub fn is_finite(&self) -> bool {
        self.tensors.values().flatten().all(|v| v.is_finite())
    }

    /// Adds values, moments and averages of all parameters, named after `prefix`.
    pub fn put_params<B: Backend>(&mut self, prefix: &str, backend: &B, set: &ParamSet<B>) {
        for p in &set.params {
            let parts = [
                ("value", &p.value),
                ("first", &p.first_moment),
                ("second", &p.second_moment),
                ("average", &p.average),
            ];
            for (part, buffer) in parts {
                self.tensors.insert(format!("{prefix}/{}/{part}", p.name), backend.download(buffer));
            }
        }
    }

    /// Restores what [`Self::put_params`] saved.
    ///
    /// # Errors
    /// [`Error::Usage`] naming a tensor that is missing or has another size; the caller adds the file.
    pub fn take_params<B: Backend>(&mut self, prefix: &str, backend: &B, set: &mut ParamSet<B>) -> Result<()> {
        for p in &mut set.params {
            let name = p.name.clone();
            let expected = p.shape.iter().product();
            let parts = [
                ("value", &mut p.value),
                ("first", &mut p.first_moment),
                ("second", &mut p.second_moment),
                ("average", &mut p.average),
            ];
            for (part, buffer) in parts {
                let values = self.take(&format!("{prefix}/{name}/{part}"), expected)?;
                *buffer = backend.upload(&values);
            }
        }
        Ok(())
    }

    /// Takes one tensor out, checking its size.
    ///
    /// # Errors
    /// [`Error::Usage`] when it is missing or has another size.
    pub fn take(&mut self, name: &str, expected: usize) -> Result<Vec<f32>> {
        let values =
            self.tensors.remove(name).ok_or_else(|| Error::Usage(format!("the checkpoint has no tensor {name}")))?;
        if values.len() != expected {
            return Err(Error::Usage(format!("tensor {name} has {} values, not {expected}", values.len())));
        }
        Ok(values)
    }

    /// Writes the checkpoint, replacing an older one only when the new one is whole.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, path: &Path) -> Result<()> {
        let header = Header {
            step: self.step,
            settings: self.settings.clone(),
            random: self.random,
            tensors: self.tensors.iter().map(|(name, values)| (name.clone(), values.len())).collect(),
        };
        let header = serde_json::to_vec(&header).map_err(|e| Error::Internal(e.to_string()))?;
        let mut bytes = Vec::new();
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&(header.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&header);
        for values in self.tensors.values() {
            bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        }
        let hash = blake3::hash(&bytes);
        bytes.extend_from_slice(hash.as_bytes());
        write_atomically(path, |out| out.write_all(&bytes))
    }

    /// Reads a checkpoint, or gives `None` where there is none.
    ///
    /// # Errors
    /// [`Error::File`] when it is damaged; [`Error::Io`].
    pub fn load(path: &Path) -> Result<Option<Self>> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(path, e)),
        };
        Self::parse(&bytes).map(Some).map_err(|fault| Error::file(path, fault))
    }

    fn parse(bytes: &[u8]) -> std::result::Result<Self, String> {
        let damaged = || "damaged or truncated checkpoint".to_owned();
        let body_len = bytes.len().checked_sub(HASH_BYTES).ok_or_else(damaged)?;
        let (body, hash) = bytes.split_at(body_len);
        let rest = body.strip_prefix(MAGIC.as_slice()).ok_or("not a checkpoint of this trainer")?;
        if blake3::hash(body).as_bytes() != hash {
            return Err(damaged());
        }
        let (length, rest) = rest.split_at_checked(8).ok_or_else(damaged)?;
        let length = u64::from_le_bytes(length.try_into().map_err(|_| damaged())?);
        let length = usize::try_from(length).ok().filter(|&l| l <= MAX_HEADER).ok_or_else(damaged)?;
        let (header, mut data) = rest.split_at_checked(length).ok_or_else(damaged)?;
        let header: Header = serde_json::from_slice(header).map_err(|e| e.to_string())?;
        let mut tensors = BTreeMap::new();
        for (name, count) in header.tensors {
            let size = count.checked_mul(4).ok_or_else(damaged)?;
            let (values, rest) = data.split_at_checked(size).ok_or_else(damaged)?;
            data = rest;
            let values = values.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            tensors.insert(name, values);
        }
        Ok(Self { step: header.step, settings: header.settings, random: header.random, tensors })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Checkpoint {
        let mut checkpoint = Checkpoint::new(7, "abc".into(), &Random::new(3));
        checkpoint.tensors.insert("a".into(), vec![1.0, -2.5]);
        checkpoint.tensors.insert("b".into(), vec![]);
        checkpoint
    }

    #[test]
    fn a_checkpoint_comes_back_as_it_was_saved() {
        let dir = std::env::temp_dir().join(format!("rissole-checkpoint-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("run.ckpt");
        assert_eq!(Checkpoint::load(&path).unwrap(), None);
        sample().save(&path).unwrap();
        assert_eq!(Checkpoint::load(&path).unwrap(), Some(sample()));
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);

        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(Checkpoint::parse(&bad).is_err(), "flipped byte {at}");
            assert!(Checkpoint::parse(&good[..at]).is_err(), "truncated at {at}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_tensor_of_another_size_is_refused() {
        assert!(sample().take("a", 3).is_err());
        assert!(sample().take("c", 3).is_err());
        assert_eq!(sample().take("a", 2).unwrap(), [1.0, -2.5]);
    }
}
