//! Features kept between evaluations, keyed by the content of the picture.
//!
//! One file holds the features of one network: a header (magic, values in a row as `u32`, hash of network and
//! preprocessing), then records of the picture's hash, its `f32` values and the first eight bytes of the BLAKE3
//! of both; little-endian. Records are only ever appended, so an interrupted evaluation loses one chunk at most:
//! reading stops at the first record that is short or damaged, and the file is cut there.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use blake3::Hash;
use rissole::{Error, Result};

const MAGIC: &[u8; 8] = b"RSFEAT1\n";
const HEADER: usize = 8 + 4 + 32;
const KEY: usize = 32;
const CHECK: usize = 8;

/// The features of one network known so far.
pub struct Cache {
    dim: usize,
    rows: HashMap<Hash, Vec<f32>>,
    file: Option<(File, PathBuf)>,
}

impl Cache {
    /// A cache that lives in memory alone, for features of `dim` values.
    pub fn in_memory(dim: usize) -> Self {
        Self { dim, rows: HashMap::new(), file: None }
    }

    /// Opens or creates the cache of the network `id`, with features of `dim` values, in `folder`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`] when the file of that name is no cache of this network.
    pub fn open(folder: &Path, id: Hash, dim: usize) -> Result<Self> {
        let path = folder.join(format!("features-{}.cache", &id.to_hex()[..16]));
        let io = |e| Error::io(&path, e);
        let mut header = MAGIC.to_vec();
        header.extend((dim as u32).to_le_bytes());
        header.extend(id.as_bytes());
        let mut file = File::options().read(true).append(true).create(true).open(&path).map_err(io)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io)?;
        if bytes.len() < HEADER && header.starts_with(&bytes) {
            file.set_len(0).and_then(|()| file.write_all(&header)).map_err(io)?;
            bytes = header;
        } else if !bytes.starts_with(&header) {
            return Err(Error::file(&path, "not the feature cache of this network"));
        }
        let mut rows = HashMap::new();
        let mut good = HEADER;
        for record in bytes[HEADER..].chunks(record_bytes(dim)) {
            let Some((key, values)) = parse(record, dim) else { break };
            rows.insert(key, values);
            good += record.len();
        }
        if good < bytes.len() {
            log::warn!("{}: damaged after {} features, cut there", path.display(), rows.len());
            file.set_len(good as u64).map_err(io)?;
        }
        Ok(Self { dim, rows, file: Some((file, path)) })
    }

    /// The features of the picture with hash `key`.
    pub fn get(&self, key: &Hash) -> Option<&[f32]> {
        self.rows.get(key).map(Vec::as_slice)
    }

    /// Adds features of pictures and writes them to the file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn append<'a>(&mut self, rows: impl Iterator<Item = (Hash, &'a [f32])>) -> Result<()> {
        let mut bytes = Vec::new();
        for (key, values) in rows {
            assert_eq!(values.len(), self.dim, "features of this network");
            let start = bytes.len();
            bytes.extend(key.as_bytes());
            bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
            let check = blake3::hash(&bytes[start..]);
            bytes.extend(&check.as_bytes()[..CHECK]);
            self.rows.insert(key, values.to_vec());
        }
        match &mut self.file {
            Some((file, path)) => file.write_all(&bytes).map_err(|e| Error::io(path, e)),
            None => Ok(()),
        }
    }
}

fn record_bytes(dim: usize) -> usize {
    KEY + 4 * dim + CHECK
}

fn parse(record: &[u8], dim: usize) -> Option<(Hash, Vec<f32>)> {
    let (content, check) = record.split_at_checked(record_bytes(dim) - CHECK)?;
    if check != &blake3::hash(content).as_bytes()[..CHECK] {
        return None;
    }
    let (key, values) = content.split_first_chunk::<KEY>()?;
    let values = values.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    Some((Hash::from_bytes(*key), values))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("rissole-cache-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn features_survive_and_a_torn_or_damaged_tail_is_cut() {
        let (folder, id) = (folder("torn"), blake3::hash(b"network"));
        let keys: Vec<Hash> = (0..4u8).map(|i| blake3::hash(&[i])).collect();
        let values: Vec<[f32; 3]> = (0..4).map(|i| [i as f32, 0.5, -1.0]).collect();
        let fill = || {
            let mut cache = Cache::open(&folder, id, 3).unwrap();
            cache.append(keys.iter().copied().zip(values.iter().map(|v| v.as_slice()))).unwrap();
        };
        fill();
        let path = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(Cache::open(&folder, id, 3).unwrap().get(&keys[2]), Some(&values[2][..]));

        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let cache = Cache::open(&folder, id, 3).unwrap();
            assert_eq!(cache.rows.len(), length.saturating_sub(HEADER) / record_bytes(3));
        }
        for at in HEADER..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 4;
            std::fs::write(&path, &bad).unwrap();
            let cache = Cache::open(&folder, id, 3).unwrap();
            assert_eq!(cache.rows.len(), (at - HEADER) / record_bytes(3));
        }
        // After a cut, what is appended can be read again.
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        fill();
        assert_eq!(Cache::open(&folder, id, 3).unwrap().rows.len(), 4);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_foreign_file_is_refused_not_overwritten() {
        let (folder, id) = (folder("foreign"), blake3::hash(b"network"));
        Cache::open(&folder, id, 3).unwrap();
        assert!(matches!(Cache::open(&folder, id, 4), Err(Error::File { .. })));
        let path = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
        std::fs::write(&path, b"a letter to a friend").unwrap();
        assert!(matches!(Cache::open(&folder, id, 3), Err(Error::File { .. })));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
