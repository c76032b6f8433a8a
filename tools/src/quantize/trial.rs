//! A bundle with other networks, before it is written: what the gate draws from.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rissole::bundle::manifest::FileEntry;
use rissole::bundle::packed_name;
use rissole::bundle::{Files, Storage};
use rissole::file_bytes::FileBytes;
use rissole::{Bundle, Result};

/// The files of a bundle's folder, but for some of the networks.
#[derive(Debug)]
struct Trial {
    dir: PathBuf,
    networks: BTreeMap<String, Vec<u8>>,
}

impl Trial {
    fn bytes(&self, name: &str) -> io::Result<FileBytes> {
        match self.networks.get(name) {
            Some(bytes) => FileBytes::filled(bytes.len() as u64, |out| {
                out.copy_from_slice(bytes);
                Ok(())
            }),
            None => FileBytes::map(&self.dir.join(name)).map_err(io::Error::other),
        }
    }
}

impl Files for Trial {
    fn size(&self, name: &str) -> io::Result<u64> {
        Ok(self.bytes(name)?.bytes().len() as u64)
    }

    fn read_at(&self, name: &str, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let file = self.bytes(name)?;
        let part = usize::try_from(offset).ok().and_then(|from| file.bytes().get(from..)?.get(..out.len()));
        part.map(|part| out.copy_from_slice(part)).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn in_memory(&self, name: &str) -> Option<FileBytes> {
        self.bytes(name).ok()
    }
}

/// `bundle` with `networks` (contents by file name) in place of its own; their packed forms are gone.
///
/// # Errors
/// As [`Bundle::measure`].
pub fn bundle(bundle: &Bundle, networks: BTreeMap<String, Vec<u8>>) -> Result<Bundle> {
    let mut manifest = bundle.manifest.clone();
    let packed: Vec<String> = networks.keys().map(|name| packed_name(name)).collect();
    manifest.files.retain(|entry| !packed.contains(&entry.name));
    for entry in manifest.files.iter_mut() {
        if let Some(bytes) = networks.get(&entry.name) {
            let blake3 = blake3::hash(bytes).to_hex().to_string();
            *entry = FileEntry { bytes: bytes.len() as u64, blake3, ..entry.clone() };
        }
    }
    let files = Arc::new(Trial { dir: bundle.dir.clone(), networks });
    Ok(Bundle { manifest, storage: Storage::Given(files), ..bundle.clone() })
}
