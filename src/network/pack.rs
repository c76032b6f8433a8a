//! The networks of a bundle packed.

use std::path::Path;

use super::Network;
use crate::atomic_file::write_atomically;
use crate::bundle::manifest::FileEntry;
use crate::bundle::{Bundle, Lock, packed_name};
use crate::error::Result;

/// Packs the networks of `bundle` whose operators are our own, beside their ONNX files, and says which files that makes.
/// The manifest stays as it is.
///
/// # Errors
/// As [`Network::pack`].
pub fn pack_networks(bundle: &Bundle) -> Result<Vec<FileEntry>> {
    let mut files = vec![];
    for entry in bundle.manifest.networks.all() {
        let name = packed_name(&entry.file);
        if Network::pack(bundle.path_of(&entry.file), entry, bundle.path_of(&name))? {
            files.push(bundle.measure(&name)?);
        }
    }
    Ok(files)
}

/// Packs the networks of the bundle in `dir` anew, where the packed files are missing, damaged, or of a version of this
/// library that read them otherwise. Says which files that makes.
///
/// Each file is written in one piece, and the manifest lists none of them meanwhile: at any moment the bundle can be opened.
///
/// # Errors
/// As [`Bundle::open`] and [`Network::pack`]; [`Error::File`](crate::Error::File) where an ONNX file is not what the manifest
/// says; [`Error::Usage`](crate::Error::Usage) while another program changes the bundle.
pub fn pack_bundle(dir: &Path) -> Result<Vec<FileEntry>> {
    let _lock = Lock::on(dir)?;
    let mut bundle = Bundle::open(dir)?;
    let networks: Vec<String> = bundle.manifest.networks.all().map(|network| network.file.clone()).collect();
    bundle.manifest.files.retain(|file| !networks.iter().any(|network| packed_name(network) == file.name));
    let mut onnx = bundle.manifest.files.iter().filter(|file| networks.contains(&file.name));
    onnx.try_for_each(|file| bundle.verify_file(file))?;
    write_manifest(&bundle)?;
    let files = pack_networks(&bundle)?;
    bundle.manifest.files.extend(files.iter().cloned());
    write_manifest(&bundle)?;
    Ok(files)
}

fn write_manifest(bundle: &Bundle) -> Result<()> {
    let json = bundle.manifest.to_sealed_json()?;
    write_atomically(bundle.path_of(Bundle::MANIFEST), |out| out.write_all(&json))
}
