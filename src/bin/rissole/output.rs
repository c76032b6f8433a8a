//! Where pictures go.

use std::path::{Path, PathBuf};

use rissole::atomic_file::write_atomically;
use rissole::{Error, Result};

/// Where the pictures of one run go, settled before the work begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// One picture, this file.
    File(PathBuf),
    /// Any number, in this folder, named by their seeds.
    Folder(PathBuf),
}

impl Destination {
    /// What `--out` means for `count` pictures: an existing folder is a folder, a name in `.png` is a file, any
    /// other name is a folder to be made. Without `--out`: the current folder.
    ///
    /// # Errors
    /// [`Error::Usage`] for several pictures in one file or a file of another format; [`Error::Io`] where the
    /// folder cannot be made or is missing.
    pub fn new(out: Option<&Path>, count: u32) -> Result<Self> {
        let Some(out) = out else { return Ok(Self::Folder(".".into())) };
        if out.is_dir() {
            return Ok(Self::Folder(out.to_owned()));
        }
        match out.extension().map(|e| e.to_ascii_lowercase()) {
            Some(png) if png == "png" && count > 1 => {
                Err(Error::Usage(format!("{count} pictures do not fit in one file; let --out name a folder")))
            }
            Some(png) if png == "png" => {
                let folder = folder_of(out);
                std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))?;
                Ok(Self::File(out.to_owned()))
            }
            Some(other) if ["jpg", "jpeg", "gif", "webp", "bmp", "tif", "tiff"].iter().any(|e| other == *e) => {
                Err(Error::Usage(format!("{}: only PNG is written", out.display())))
            }
            _ => {
                std::fs::create_dir_all(out).map_err(|e| Error::io(out, e))?;
                Ok(Self::Folder(out.to_owned()))
            }
        }
    }

    /// The file of the picture with `seed`.
    pub fn picture(&self, seed: u64) -> PathBuf {
        match self {
            Self::File(path) => path.clone(),
            Self::Folder(folder) => in_folder(folder, &format!("rissole-{seed}.png")),
        }
    }

    /// The file of the contact sheet of the pictures with seeds `first` to `last`.
    pub fn sheet(&self, first: u64, last: u64) -> PathBuf {
        match self {
            Self::File(path) => {
                let stem = path.file_stem().unwrap_or_default().to_string_lossy();
                path.with_file_name(format!("{stem}-grid.png"))
            }
            Self::Folder(folder) => in_folder(folder, &format!("rissole-{first}-{last}-grid.png")),
        }
    }
}

fn in_folder(folder: &Path, name: &str) -> PathBuf {
    if folder == Path::new(".") { name.into() } else { folder.join(name) }
}

/// The folder that `path` lies in.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A folder that is built under another name beside its place, and goes when it is not moved there.
#[derive(Debug)]
pub struct Scaffold {
    building: PathBuf,
    place: PathBuf,
}

impl Scaffold {
    /// Begins to build what will be the folder `place`.
    ///
    /// # Errors
    /// [`Error::Usage`] where `place` is there and not an empty folder; [`Error::Io`] where nothing can be built
    /// beside it.
    pub fn new(place: &Path) -> Result<Self> {
        let is_empty = |path: &Path| path.read_dir().is_ok_and(|mut entries| entries.next().is_none());
        if place.symlink_metadata().is_ok() && !is_empty(place) {
            return Err(Error::Usage(format!("{} exists already; let --out name a new folder", place.display())));
        }
        let Some(name) = place.file_name() else {
            return Err(Error::Usage(format!("{} is not the name of a new folder", place.display())));
        };
        let name = format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id());
        let building = folder_of(place).join(name);
        std::fs::create_dir(&building).map_err(|e| Error::io(&building, e))?;
        Ok(Self { building, place: place.to_owned() })
    }

    /// Where to build.
    pub fn path(&self) -> &Path {
        &self.building
    }

    /// Gives the finished folder its name.
    pub fn move_into_place(self) -> Result<()> {
        std::fs::rename(&self.building, &self.place).map_err(|e| Error::io(&self.place, e))
    }
}

impl Drop for Scaffold {
    fn drop(&mut self) {
        // Nothing is there any more once it was moved.
        let _ = std::fs::remove_dir_all(&self.building);
    }
}

/// Writes `bytes` to the file at `path`, whole or not at all.
pub fn save(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomically(path, |file| file.write_all(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_folders_are_told_apart() {
        let home = std::env::temp_dir().join(format!("rissole-output-{}", std::process::id()));
        std::fs::create_dir_all(home.join("v1.5.png")).unwrap();
        let new = |name: &str, count| Destination::new(Some(&home.join(name)), count);
        assert_eq!(new("a.PNG", 1).unwrap(), Destination::File(home.join("a.PNG")));
        assert_eq!(new("v1.5.png", 3).unwrap(), Destination::Folder(home.join("v1.5.png")));
        assert_eq!(new("faces/many", 1).unwrap(), Destination::Folder(home.join("faces/many")));
        assert!(home.join("faces/many").is_dir());
        assert_eq!(new("a.png", 2).unwrap_err().exit_code(), 2);
        assert_eq!(new("a.jpg", 1).unwrap_err().exit_code(), 2);
        assert_eq!(new("missing/a.png", 1).unwrap_err().exit_code(), 5);
        assert_eq!(Destination::new(None, 9).unwrap().picture(7), Path::new("rissole-7.png"));
        assert_eq!(Destination::File("a/b.png".into()).sheet(1, 1), Path::new("a/b-grid.png"));
    }
}
