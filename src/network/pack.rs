//! The networks of a bundle packed.

use std::path::Path;

use super::Network;
use crate::atomic_file::remove;
use crate::bundle::manifest::FileEntry;
use crate::bundle::{Bundle, Lock, Manifest, packed_name, remove_leftovers};
use crate::error::{Error, Result};

/// Packs the networks of `manifest` whose operators are our own, in the folder `dir`, beside their ONNX files, and says which
/// files that makes. Where one is not packed, an older packed file of it goes.
///
/// # Errors
/// As [`Network::pack`].
pub fn pack_networks(dir: &Path, manifest: &Manifest) -> Result<Vec<FileEntry>> {
    let bundle = Bundle::of(dir, manifest.clone());
    let mut files = vec![];
    for entry in manifest.networks.all() {
        let name = packed_name(&entry.file);
        let path = bundle.path_of(&name);
        match Network::pack(bundle.path_of(&entry.file), entry, &path)? {
            true => files.push(bundle.measure(&name)?),
            false => remove(&path).map_err(|e| Error::io(&path, e))?,
        }
    }
    Ok(files)
}

/// Packs all networks of the bundle in `dir` anew: of use where packed files are missing, damaged, or of a version of this
/// library that read them otherwise. Says which files that makes.
///
/// At any moment the bundle can be opened: a packed file that is not yet, or no longer, the one of the manifest is done
/// without. Where the files become other ones, the manifest keeps what it was hashed to before: see
/// [`Manifest::packed_from`].
///
/// # Errors
/// As [`Bundle::open`] and [`Network::pack`]; [`Error::File`] where an ONNX file is not what the manifest says;
/// [`Error::Usage`] while another program changes the bundle.
pub fn pack_bundle(dir: &Path) -> Result<Vec<FileEntry>> {
    let _lock = Lock::on(dir)?;
    let bundle = Bundle::open(dir)?;
    remove_leftovers(dir)?;
    let mut manifest = bundle.manifest.clone();
    let is_network = |file: &&FileEntry| manifest.networks.all().any(|network| network.file == file.name);
    manifest.files.iter().filter(is_network).try_for_each(|file| bundle.verify_file(file))?;

    let files = pack_networks(dir, &manifest)?;
    manifest.files = manifest.needed_files().chain(&files).cloned().collect();
    if manifest.files != bundle.manifest.files {
        manifest.was_packed_from(bundle.measure(Bundle::MANIFEST)?.blake3);
        bundle.replace_manifest(&manifest)?;
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atomic_file::faults::refusing;
    use crate::network::Engine;
    use std::fs;

    /// The system refuses the n-th file operation, once or from there on, for every n.
    #[test]
    fn whatever_is_refused_the_bundle_can_be_opened() {
        let dir = std::env::temp_dir().join(format!("rissole-pack-{}", std::process::id()));
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/avatars64");
        let restore = || {
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir_all(&dir).unwrap();
            let bundle = Bundle::open(&shipped).unwrap();
            let listed = bundle.manifest.files.iter().map(|file| file.name.clone()).chain(["manifest.json".into()]);
            for name in listed {
                fs::copy(bundle.path_of(&name), dir.join(&name)).unwrap();
            }
            // As from another version: other bytes, and listed so.
            fs::write(dir.join("decoder.packed"), "older").unwrap();
            let mut bundle = Bundle::open(&dir).unwrap();
            let older = bundle.measure("decoder.packed").unwrap();
            let listed = bundle.manifest.files.iter_mut().find(|file| file.name == older.name).unwrap();
            *listed = older;
            bundle.replace_manifest(&bundle.manifest).unwrap();
        };
        restore();
        let before = Bundle::open(&dir).unwrap().measure(Bundle::MANIFEST).unwrap().blake3;
        let (done, operations) = refusing(usize::MAX, false, || pack_bundle(&dir));
        assert_eq!(done.unwrap().len(), 4);
        assert!(operations > 20, "{operations}: five files are begun, written, synced, renamed");
        for (at, for_good) in (0..operations).flat_map(|at| [(at, false), (at, true)]) {
            restore();
            let (done, _) = refusing(at, for_good, || pack_bundle(&dir));
            assert!(done.is_err(), "operation {at} went unheeded");
            let bundle = Bundle::open(&dir).unwrap();
            for network in bundle.manifest.networks.all() {
                Network::open(&bundle, network).unwrap();
            }
            // And the next finds its way, and tidies up.
            pack_bundle(&dir).unwrap();
            let bundle = Bundle::open(&dir).unwrap();
            bundle.verify().unwrap();
            let decoder = Network::open(&bundle, &bundle.manifest.networks.decoder).unwrap();
            assert_eq!(decoder.engine(), Engine::Packed);
            assert_eq!(bundle.manifest.packed_from().collect::<Vec<_>>(), [&before]);
            assert_eq!(fs::read_dir(&dir).unwrap().count(), bundle.manifest.files.len() + 1, "operation {at}");
        }
        fs::remove_dir_all(dir).unwrap();
    }
}
