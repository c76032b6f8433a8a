//! Pictures on a disk, and their way into codes.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use rissole::bundle::manifest::NeighbourSource;
use rissole::picture::{PICTURE_EXTENSIONS, read_fitted};
use rissole::store::Collection;
use rissole::{Bundle, Error, Generator, Manifest, Options, Result};
use serde::Serialize;

use crate::interrupt;
use crate::terminal::Console;

/// Deepest nesting of folders that is searched for pictures.
const MAX_DEPTH: usize = 32;

/// A file that was left out.
#[derive(Debug, Serialize)]
pub struct Skipped {
    file: PathBuf,
    fault: String,
}

/// Encodes every picture in `folder` with `model`, in order of path. What cannot be decoded is left out and, where
/// `unless_known`, also what the database knows by name.
pub fn encode(
    model: &Bundle,
    folder: &Path,
    unless_known: bool,
    options: &Options,
    console: &Console,
) -> Result<(Collection, Vec<Skipped>)> {
    let files: Vec<(PathBuf, String)> =
        pictures_in(folder)?.into_iter().map(|file| (file.clone(), name_in(folder, &file))).collect();
    let mut generator = Generator::open(model, options)?;
    let mut collection = Collection::new(generator.database());
    let known: HashSet<String> = match unless_known {
        true => {
            let database = generator.database();
            let names: HashSet<&str> = files.iter().map(|(_, name)| name.as_str()).collect();
            let held = (0..database.images()).filter_map(|image| database.name(image).transpose());
            held.filter(|name| name.as_ref().map_or(true, |name| names.contains(name.as_str())))
                .collect::<Result<_>>()?
        }
        false => HashSet::new(),
    };
    let mut skipped = Vec::new();
    let bar = console.progress(files.len() as u64);
    bar.set_message("encode");
    for (file, name) in files {
        interrupt::check()?;
        let picture = match known.contains(&name) {
            true => Err(Error::file(&file, "the database has a picture of this name")),
            false => read_fitted(&file, model.manifest.image),
        };
        match picture {
            Ok(picture) => collection.add(name, &generator.encode(&picture)?)?,
            Err(error) => {
                bar.suspend(|| log::warn!("left out: {error}"));
                skipped.push(Skipped { file, fault: error.to_string() });
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok((collection, skipped))
}

/// Where in `folder` the file `file` lies, with `/` on every system.
fn name_in(folder: &Path, file: &Path) -> String {
    let inside = file.strip_prefix(folder).unwrap_or(file);
    let parts: Vec<_> = inside.components().map(|part| part.as_os_str().to_string_lossy()).collect();
    parts.join("/")
}

/// Pictures that a database must hold for the model of `manifest`: k neighbours, and the picture itself where it
/// may not be one of them.
pub fn needed(manifest: &Manifest) -> usize {
    let retrieval = manifest.retrieval;
    match retrieval.source {
        NeighbourSource::Database => retrieval.neighbours + usize::from(retrieval.exclude_self),
        NeighbourSource::Noise => 1,
    }
}

/// The picture files in `folder` and the folders in it, by name, in order of path. Links to folders are not
/// followed, so the search ends.
fn pictures_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    collect(folder, 0, &mut found)?;
    found.sort();
    Ok(found)
}

fn collect(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::file(folder, format!("lies more than {MAX_DEPTH} folders deep")));
    }
    for entry in std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let entry = entry.map_err(|e| Error::io(folder, e))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(|e| Error::io(&path, e))?;
        if kind.is_dir() {
            collect(&path, depth + 1, found)?;
        } else if is_picture(&path) && path.is_file() {
            found.push(path);
        } else {
            log::debug!("passed over: {}", path.display());
        }
    }
    Ok(())
}

fn is_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
    extension.is_some_and(|e| PICTURE_EXTENSIONS.contains(&e.as_str()))
}
