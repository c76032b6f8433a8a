//! A bundle: the folder that passes from the trainer to the runtime.

mod edition;
mod lock;
pub mod manifest;
mod seal;
mod storage;

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use edition::Edition;
pub(crate) use edition::remove_leftovers;
pub(crate) use lock::Lock;
pub use manifest::Manifest;
use manifest::{FileEntry, NetworkEntry};
use storage::GivenFile;
pub use storage::{Files, Storage};

use crate::atomic_file::write_atomically;
use crate::budget;
use crate::container::Container;
use crate::error::{Error, Result};
use crate::file_bytes::FileBytes;
use crate::index::FrozenIndex;
use crate::paged_file::PagedFile;
use crate::store::BlockDatabase;

/// A bundle whose manifest is consistent and whose files, but for [packed](Bundle::packed) networks, are present in the right
/// size.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The folder; where the program gives the files, what they are spoken of as in errors.
    pub dir: PathBuf,
    /// The manifest, checked.
    pub manifest: Manifest,
    /// How the files are read.
    pub storage: Storage,
    /// Bytes that all heap of the program stays within while files are opened, as far as that can be told beforehand; `None`:
    /// whatever it takes.
    pub budget: Option<u64>,
}

impl Bundle {
    /// File name of the manifest.
    pub const MANIFEST: &'static str = "manifest.json";

    /// The bundle that `manifest` describes in the folder `dir`, neither of them looked at.
    pub fn of(dir: &Path, manifest: Manifest) -> Self {
        Self { dir: dir.to_owned(), manifest, storage: Storage::default(), budget: None }
    }

    /// Opens the bundle in `dir`: reads and checks the manifest, and the presence and size of every file it
    /// lists but [packed](Self::packed) networks, which it can do without. Hashes are checked by [`Self::verify`] alone.
    ///
    /// # Errors
    /// [`Error::File`] naming the manifest or the listed file at fault; [`Error::Io`] where reading fails.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Self::open_from(dir, Storage::default())
    }

    /// As [`Self::open`], with the files read from `storage`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_from(dir: impl AsRef<Path>, storage: Storage) -> Result<Self> {
        let mut bundle = Self::open_manifest_from(dir.as_ref(), storage)?;
        while let Err(error) = bundle.check_needed() {
            // A file may be gone because a new edition took its place meanwhile.
            let now = Self::open_manifest_from(&bundle.dir, bundle.storage.clone())?;
            if now.manifest == bundle.manifest {
                return Err(error);
            }
            bundle = now;
        }
        Ok(bundle)
    }

    /// Opens the bundle in `dir` by its manifest alone: to look at one whose files are missing or damaged.
    ///
    /// # Errors
    /// As [`Self::open`], for the manifest.
    pub fn open_manifest(dir: impl AsRef<Path>) -> Result<Self> {
        Self::open_manifest_from(dir.as_ref(), Storage::default())
    }

    fn open_manifest_from(dir: &Path, storage: Storage) -> Result<Self> {
        let path = dir.join(Self::MANIFEST);
        let text = match &storage {
            Storage::Given(files) => given_manifest(&path, files)?,
            Storage::Mapped | Storage::Read => read_manifest(&path)?,
        };
        let manifest = Manifest::from_json(&text).map_err(|fault| Error::file(&path, fault))?;
        manifest.check().map_err(|e| Error::file(&path, e.to_string()))?;
        Ok(Self { dir: dir.to_owned(), manifest, storage, budget: None })
    }

    /// The file `name` of this bundle.
    ///
    /// # Errors
    /// [`Error::File`] where it is missing; [`Error::Io`]; [`Error::Budget`] where it is held in the heap and too large.
    pub fn bytes(&self, name: &str) -> Result<FileBytes> {
        let path = self.path_of(name);
        match &self.storage {
            Storage::Mapped => FileBytes::map(&path),
            Storage::Read => {
                self.check_room(fs::metadata(&path).map_err(|e| absent(&path, e))?.len())?;
                FileBytes::hold(&path)
            }
            Storage::Given(files) => {
                let file = given(files, name);
                if files.in_memory(name).is_none() {
                    self.check_room(file.size().map_err(|e| absent(&path, e))?)?;
                }
                file.whole().map_err(|e| absent(&path, e))
            }
        }
    }

    /// Whether so many bytes more fit the budget.
    ///
    /// # Errors
    /// [`Error::Budget`] where they do not.
    pub(crate) fn check_room(&self, bytes: u64) -> Result<()> {
        budget::check(budget::live_bytes().saturating_add(bytes), self.budget)
    }

    /// The container in the file `name`, all of it in memory.
    pub(crate) fn container(&self, name: &str, kind: [u8; 4]) -> Result<Container> {
        Container::of(self.bytes(name)?, self.path_of(name), kind)
    }

    /// The container in the file `name`, which may be larger than the memory.
    fn large_container(&self, name: &str, kind: [u8; 4]) -> Result<Container> {
        let path = self.path_of(name);
        match &self.storage {
            Storage::Mapped => Container::open(path, kind),
            Storage::Read => Container::open_paged(path, kind),
            Storage::Given(files) => match files.in_memory(name) {
                Some(bytes) => Container::of(bytes, path, kind),
                None => {
                    let file = given(files, name);
                    let paged = file.size().and_then(|size| PagedFile::of(Box::new(file), size));
                    Container::of_paged(paged.map_err(|e| absent(&path, e))?, path, kind)
                }
            },
        }
    }

    /// Opens the block database.
    ///
    /// # Errors
    /// As [`BlockDatabase::open`]; [`Error::Budget`].
    pub fn database(&self) -> Result<BlockDatabase> {
        BlockDatabase::of(self.large_container(&self.manifest.database, BlockDatabase::KIND)?.within(self.budget))
    }

    /// Opens the index of `database`, which is [`Self::database`].
    ///
    /// # Errors
    /// As [`FrozenIndex::open`]; [`Error::Budget`].
    pub fn index(&self, database: &BlockDatabase) -> Result<FrozenIndex> {
        FrozenIndex::of(self.large_container(&self.manifest.index, FrozenIndex::KIND)?.within(self.budget), database)
    }

    /// The packed form of `network`, and the BLAKE3 of the ONNX file that it must be made from; `None` where the bundle
    /// lists none. It is named as the ONNX file is, but for the ending.
    pub fn packed(&self, network: &NetworkEntry) -> Option<(&FileEntry, &str)> {
        let listed = |name: &str| self.manifest.files.iter().find(|entry| entry.name == name);
        let packed = listed(&packed_name(&network.file))?;
        Some((packed, &listed(&network.file)?.blake3))
    }

    /// Path of the file `name` of this bundle.
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Checks the BLAKE3 hash of every listed file.
    ///
    /// # Errors
    /// As [`Self::verify_file`], for the first file at fault.
    pub fn verify(&self) -> Result<()> {
        self.manifest.files.iter().try_for_each(|entry| self.verify_file(entry))
    }

    /// As [`Self::verify`], for the files without which nothing can be drawn.
    ///
    /// # Errors
    /// As [`Self::verify`].
    pub fn verify_needed(&self) -> Result<()> {
        self.manifest.needed_files().try_for_each(|entry| self.verify_file(entry))
    }

    /// Checks size and BLAKE3 hash of one listed file.
    ///
    /// # Errors
    /// [`Error::File`] where the file is not what the manifest says; [`Error::Io`] where reading fails.
    pub fn verify_file(&self, entry: &FileEntry) -> Result<()> {
        self.check_presence(entry)?;
        let path = self.path_of(&entry.name);
        let found = self.measure(&entry.name)?.blake3;
        if !found.eq_ignore_ascii_case(&entry.blake3) {
            return Err(Error::file(&path, format!("BLAKE3 is {found}, the manifest says {}", entry.blake3)));
        }
        Ok(())
    }

    /// Size and BLAKE3 hash of the file `name`, as they are.
    ///
    /// # Errors
    /// [`Error::Io`] where reading fails.
    pub fn measure(&self, name: &str) -> Result<FileEntry> {
        let path = self.path_of(name);
        if let Storage::Given(files) = &self.storage {
            let measured = given(files, name).measure().map_err(|e| absent(&path, e));
            return measured.map(|(bytes, blake3)| FileEntry { name: name.to_owned(), bytes, blake3 });
        }
        let measured = || {
            let file = File::open(&path)?;
            let bytes = file.metadata()?.len();
            let blake3 = blake3::Hasher::new().update_reader(file)?.finalize().to_hex().to_string();
            Ok(FileEntry { name: name.to_owned(), bytes, blake3 })
        };
        measured().map_err(|e| Error::io(&path, e))
    }

    /// Whether the files are there without which nothing can be drawn.
    fn check_needed(&self) -> Result<()> {
        self.manifest.needed_files().try_for_each(|entry| self.check_presence(entry))
    }

    /// Puts `manifest` in place of this bundle's own, in one moment.
    ///
    /// # Errors
    /// [`Error::Usage`] where it contradicts itself; [`Error::Io`].
    pub(crate) fn replace_manifest(&self, manifest: &Manifest) -> Result<()> {
        manifest.check()?;
        let json = manifest.to_sealed_json()?;
        write_atomically(self.path_of(Self::MANIFEST), |out| out.write_all(&json))
    }

    /// Whether a listed file is there, within the bundle, in the right size.
    ///
    /// # Errors
    /// [`Error::File`] where it is not; [`Error::Io`].
    pub(crate) fn check_presence(&self, entry: &FileEntry) -> Result<()> {
        let path = self.path_of(&entry.name);
        if let Storage::Given(files) = &self.storage {
            return check_size(&path, files.size(&entry.name).map_err(|e| absent(&path, e))?, entry);
        }
        let home = fs::canonicalize(&self.dir).map_err(|e| absent(&self.dir, e))?;
        let real = fs::canonicalize(&path).map_err(|e| absent(&path, e))?;
        if !real.starts_with(home) {
            return Err(Error::file(&path, "is a link that leaves the bundle"));
        }
        let meta = fs::metadata(&path).map_err(|e| absent(&path, e))?;
        if !meta.is_file() {
            return Err(Error::file(&path, "is not a regular file"));
        }
        check_size(&path, meta.len(), entry)
    }
}

fn check_size(path: &Path, found: u64, entry: &FileEntry) -> Result<()> {
    match entry.bytes {
        said if said == found => Ok(()),
        said => Err(Error::file(path, format!("is {found} bytes long, the manifest says {said}"))),
    }
}

/// File name of the packed form of the network in the file `onnx`.
pub fn packed_name(onnx: &str) -> String {
    format!("{}.packed", onnx.strip_suffix(".onnx").unwrap_or(onnx))
}

/// The manifest's text, which `files` has.
fn given_manifest(path: &Path, files: &Arc<dyn Files>) -> Result<Vec<u8>> {
    let (said, manifest) = (|e| absent(path, e), given(files, Bundle::MANIFEST));
    if manifest.size().map_err(said)? > Manifest::MAX_BYTES {
        return Err(too_long(path));
    }
    Ok(manifest.whole().map_err(said)?.bytes().to_vec())
}

fn given(files: &Arc<dyn Files>, name: &str) -> GivenFile {
    GivenFile { files: files.clone(), name: name.to_owned() }
}

/// The manifest's text, at `path`.
fn read_manifest(path: &Path) -> Result<Vec<u8>> {
    // A pipe or a device would be read without end, or block.
    if !fs::metadata(path).map_err(|e| absent(path, e))?.is_file() {
        return Err(Error::file(path, "is not a regular file"));
    }
    let file = File::open(path).map_err(|e| absent(path, e))?;
    let mut text = Vec::new();
    file.take(Manifest::MAX_BYTES + 1).read_to_end(&mut text).map_err(|e| Error::io(path, e))?;
    if text.len() as u64 > Manifest::MAX_BYTES {
        return Err(too_long(path));
    }
    Ok(text)
}

fn too_long(path: &Path) -> Error {
    Error::file(path, format!("is longer than {} bytes", Manifest::MAX_BYTES))
}

/// A missing file is a fault of the bundle; any other refusal is the system's.
fn absent(path: &Path, source: std::io::Error) -> Error {
    match source.kind() {
        std::io::ErrorKind::NotFound => Error::file(path, "is missing"),
        _ => Error::io(path, source),
    }
}
