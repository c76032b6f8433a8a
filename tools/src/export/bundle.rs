//! Writes a bundle: all of it or nothing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use prost::Message;
use rissole::atomic_file::write_atomically;
use rissole::bundle::manifest::FileEntry;
use rissole::network::pack_networks;
use rissole::{Bundle, Error, Manifest, Result};
use serde_json::Value;
use tract_onnx::pb::ModelProto;

use super::network_entry;

/// File name of the manifest.
const MANIFEST: &str = "manifest.json";
/// File name of the model card.
const CARD: &str = "README.md";

/// What a bundle is made of.
#[derive(Debug, Clone)]
pub struct BundleParts<'a> {
    /// The manifest; its `files` are filled in.
    pub manifest: Manifest,
    /// The networks, by the file names that the manifest gives them.
    pub networks: Vec<(String, Vec<u8>)>,
    /// The block database, copied under the name that the manifest gives it.
    pub database: &'a Path,
    /// The frozen index, copied likewise.
    pub index: &'a Path,
    /// The model card, in Markdown.
    pub card: String,
    /// The pictures that the card shows: file names and contents. The manifest does not list them.
    pub pictures: Vec<(String, Vec<u8>)>,
}

/// Writes the bundle into the folder `dir` and returns its manifest.
///
/// Everything is written beside `dir`, flushed to disk and read back; only then does it take the place of `dir`,
/// which goes away whole. Where the machine stops between the two renames of that exchange, the bundle that was
/// there before is found beside `dir` as `.NAME.old`.
///
/// # Errors
/// [`Error::Usage`] where the manifest, the networks and the names do not fit together, or `dir` exists and is no
/// bundle; [`Error::Io`] where the disk refuses; [`Error::File`] where it does not give back what was written. In
/// every case `dir` is as before.
pub fn write_bundle(dir: &Path, parts: BundleParts) -> Result<Manifest> {
    let mut manifest = parts.manifest.clone();
    let contents = contents(&parts);
    let unknown = |name: &str| FileEntry { name: name.to_owned(), bytes: 0, blake3: String::new() };
    manifest.files = contents.iter().map(|(name, _)| unknown(name)).collect();
    check_parts(&manifest, &parts)?;
    let place = Place::new(dir)?;

    let scratch = Scratch::new(place.beside("tmp"))?;
    for ((name, source), entry) in contents.iter().zip(&mut manifest.files) {
        *entry = write_file(&scratch.0, name, *source)?;
    }
    let packed = pack_networks(&scratch.0, &manifest)?;
    manifest.files.extend(packed);
    let json = manifest.to_sealed_json()?;
    write_file(&scratch.0, MANIFEST, Source::Bytes(&json))?;
    write_file(&scratch.0, CARD, Source::Bytes(parts.card.as_bytes()))?;
    for (name, bytes) in &parts.pictures {
        write_file(&scratch.0, name, Source::Bytes(bytes))?;
    }
    sync_folder(&scratch.0)?;
    verify(&scratch.0, &json)?;
    place.replace_by(&scratch.0)?;
    Ok(manifest)
}

/// Gives the bundle in `dir` its measured `quality`, its `card`, and the `pictures` that the card shows (file names
/// and contents). The networks, the database and the index stay as they are. Each file is written in one piece,
/// the manifest last, so the bundle can be opened at any moment.
///
/// # Errors
/// As [`Bundle::open`]; [`Error::Usage`] where a picture has the name of a file that the manifest lists;
/// [`Error::Io`].
pub fn describe_bundle(
    dir: &Path,
    quality: BTreeMap<String, Value>,
    card: &str,
    pictures: &[(String, Vec<u8>)],
) -> Result<()> {
    let mut manifest = Bundle::open(dir)?.manifest;
    manifest.quality = quality;
    let taken = |name: &str| [MANIFEST, CARD].contains(&name) || manifest.files.iter().any(|f| f.name == name);
    if let Some((name, _)) = pictures.iter().find(|(name, _)| taken(name)) {
        return Err(Error::Usage(format!("{name} is a file of the bundle {} already", dir.display())));
    }
    let json = manifest.to_sealed_json()?;
    let pictures = pictures.iter().map(|(name, bytes)| (name.as_str(), &bytes[..]));
    pictures
        .chain([(CARD, card.as_bytes()), (MANIFEST, &json)])
        .try_for_each(|(name, bytes)| write_atomically(dir.join(name), |out| out.write_all(bytes)))
}

/// What goes into a file.
#[derive(Debug, Clone, Copy)]
enum Source<'a> {
    Bytes(&'a [u8]),
    Copy(&'a Path),
}

/// The files that the manifest lists, by name.
fn contents<'a>(parts: &'a BundleParts) -> Vec<(&'a str, Source<'a>)> {
    let copied = [(&parts.manifest.database, parts.database), (&parts.manifest.index, parts.index)];
    let networks = parts.networks.iter();
    networks
        .map(|(name, bytes)| (name.as_str(), Source::Bytes(bytes)))
        .chain(copied.map(|(name, path)| (name.as_str(), Source::Copy(path))))
        .collect()
}

fn check_parts(manifest: &Manifest, parts: &BundleParts) -> Result<()> {
    manifest.check()?;
    if let Some(file) = manifest.files.iter().find(|f| [MANIFEST, CARD].contains(&f.name.as_str())) {
        return Err(Error::Usage(format!("{} is a name of the bundle's own", file.name)));
    }
    for (name, bytes) in &parts.networks {
        let fault = |text: &str| Error::Usage(format!("{name}: {text}"));
        let entry =
            manifest.networks.all().find(|e| e.file == *name).ok_or_else(|| fault("a network without a role"))?;
        let model = ModelProto::decode(&bytes[..]).map_err(|e| fault(&format!("not an ONNX file: {e}")))?;
        if network_entry(name, &model) != *entry {
            return Err(fault("its inputs or outputs are not those of the manifest"));
        }
    }
    Ok(())
}

/// A folder and the folder it stands in.
struct Place<'a> {
    dir: &'a Path,
    parent: &'a Path,
    name: &'a str,
}

impl<'a> Place<'a> {
    fn new(dir: &'a Path) -> Result<Self> {
        let fault = |text: &str| Error::Usage(format!("{}: {text}", dir.display()));
        let name = dir.file_name().and_then(|n| n.to_str()).ok_or_else(|| fault("no name for a bundle"))?;
        let parent = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let empty = || fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
        if dir.exists() && !dir.join(MANIFEST).is_file() && !empty() {
            return Err(fault("exists and is not a bundle; it is left alone"));
        }
        fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
        Ok(Self { dir, parent, name })
    }

    /// A path beside the folder, hidden and with an ending of its own.
    fn beside(&self, ending: &str) -> PathBuf {
        self.parent.join(format!(".{}.{ending}", self.name))
    }

    /// Puts `new` in the folder's place.
    fn replace_by(&self, new: &Path) -> Result<()> {
        let old = self.beside("old");
        let replaced = self.dir.exists();
        if replaced {
            remove(&old)?;
            fs::rename(self.dir, &old).map_err(|e| Error::io(self.dir, e))?;
        }
        if let Err(e) = fs::rename(new, self.dir) {
            if replaced {
                fs::rename(&old, self.dir).map_err(|e| Error::io(&old, e))?;
            }
            return Err(Error::io(self.dir, e));
        }
        sync_folder(self.parent)?;
        remove(&old)
    }
}

/// A folder that goes away again, unless it was renamed meanwhile.
struct Scratch(PathBuf);

impl Scratch {
    /// An empty folder at `path`, in place of what a run that was cut off left there.
    fn new(path: PathBuf) -> Result<Self> {
        remove(&path)?;
        fs::create_dir(&path).map_err(|e| Error::io(&path, e))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = remove(&self.0) {
            log::warn!("left behind: {e}");
        }
    }
}

/// Removes a folder that may not be there.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, e)),
        _ => Ok(()),
    }
}

/// Writes a file, flushes it to disk and says what is in it.
fn write_file(folder: &Path, name: &str, source: Source) -> Result<FileEntry> {
    let path = folder.join(name);
    let fault = |e| Error::io(&path, e);
    let mut file = File::create_new(&path).map_err(fault)?;
    let mut hasher = blake3::Hasher::new();
    let mut bytes = 0;
    let mut put = |part: &[u8]| {
        hasher.update(part);
        bytes += part.len() as u64;
        file.write_all(part).map_err(fault)
    };
    match source {
        Source::Bytes(all) => put(all)?,
        Source::Copy(from) => for_parts(from, put)?,
    }
    file.sync_all().map_err(fault)?;
    Ok(FileEntry { name: name.to_owned(), bytes, blake3: hasher.finalize().to_hex().to_string() })
}

/// Hands the content of a file to `f` part by part.
fn for_parts(path: &Path, mut f: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut file = File::open(path).map_err(|e| Error::io(path, e))?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(|e| Error::io(path, e))? {
            0 => return Ok(()),
            n => f(&buffer[..n])?,
        }
    }
}

/// Reads everything back and compares it with what was meant to be written.
fn verify(folder: &Path, written: &[u8]) -> Result<()> {
    let path = folder.join(MANIFEST);
    // Compared as text: a parsed float may differ from the one written in its last bit.
    if fs::read(&path).map_err(|e| Error::io(&path, e))? != written {
        return Err(Error::file(&path, "does not read back as it was written"));
    }
    Bundle::open(folder)?.verify()
}

/// Flushes the names in a folder to disk, where the system can.
fn sync_folder(path: &Path) -> Result<()> {
    if cfg!(unix) { File::open(path).and_then(|f| f.sync_all()).map_err(|e| Error::io(path, e)) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
