//! `rissole index`: the same model over other pictures.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};
use rissole::bundle::manifest::{FileEntry, NeighbourSource};
use rissole::index::{IndexSettings, IndexSummary, build_index_while};
use rissole::picture::{PICTURE_EXTENSIONS, read_fitted};
use rissole::store::{BlockDatabase, Collection};
use rissole::{Bundle, Error, Generator, Manifest, Result};
use serde::Serialize;
use serde_json::{Value, json};

use crate::args::{Machine, Model};
use crate::generation::hash_file;
use crate::interrupt;
use crate::output::{Scaffold, save};
use crate::terminal::Console;

/// Deepest nesting of folders that is searched for pictures.
const MAX_DEPTH: usize = 32;

/// Build a new database and index from pictures of your own
///
/// Encodes every PNG and JPEG in a folder (the middle cut out and resized to the model's size) and writes a new
/// bundle: the networks of the model with the new database and index. The model itself is not touched. Files
/// that cannot be decoded are named and left out.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rissole index holiday/ --out models/holiday
  rissole sample --model models/holiday
  rissole index faces/ --model models/mine --out models/other --licence CC0-1.0")]
pub struct Index {
    /// Folder of pictures; folders in it are searched too
    #[arg(value_name = "DIR_OF_PICTURES", value_hint = ValueHint::DirPath)]
    pictures: PathBuf,
    #[command(flatten)]
    model: Model,
    /// Folder of the new bundle; must not exist yet, or be empty
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    out: PathBuf,
    /// Name of the new bundle [default: the name of its folder]
    #[arg(long)]
    name: Option<String>,
    /// Terms of the new database [default: said to be unknown]
    #[arg(long, value_name = "TEXT")]
    licence: Option<String>,
    #[command(flatten)]
    machine: Machine,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Output {
    bundle: PathBuf,
    pictures: usize,
    skipped: Vec<Skipped>,
    recall: f32,
    recall_k: usize,
}

/// A file that is no picture.
#[derive(Debug, Serialize)]
struct Skipped {
    file: PathBuf,
    fault: String,
}

impl Index {
    /// Runs the subcommand.
    pub fn run(self, console: &Console) -> Result<()> {
        let model = self.model.open()?;
        model.verify()?;
        let scaffold = Scaffold::new(&self.out)?;
        let files = pictures_in(&self.pictures)?;
        let (collection, skipped) = self.encode(&model, &files, console)?;
        let pictures = collection.len();
        check_enough(&model.manifest, pictures, &self.pictures)?;

        console.say(format_args!("{pictures} pictures are encoded; building the index"));
        let summary = self.build(&model, collection, scaffold.path())?;
        self.finish(&model, scaffold.path(), pictures, skipped.len(), summary)?;
        interrupt::check()?;
        scaffold.move_into_place()?;

        console.say(format_args!("{pictures} pictures, {} files left out", skipped.len()));
        let IndexSummary { recall, recall_k, .. } = summary;
        console.say(format_args!("recall@{recall_k} of the index: {recall:.4}"));
        match console.json {
            true => console.print_json(&Output { bundle: self.out, pictures, skipped, recall, recall_k }),
            false => console.print(self.out.display()),
        }
    }

    /// Encodes `files`; what cannot be decoded is left out.
    fn encode(&self, model: &Bundle, files: &[PathBuf], console: &Console) -> Result<(Collection, Vec<Skipped>)> {
        let mut generator = Generator::open(model, &self.machine.options())?;
        let mut collection = Collection::new(generator.database());
        let mut skipped = Vec::new();
        let bar = console.progress(files.len() as u64);
        bar.set_message("encode");
        for file in files {
            interrupt::check()?;
            match read_fitted(file, model.manifest.image) {
                Ok(picture) => collection.add(self.name_of(file), &generator.encode(&picture)?)?,
                Err(error) => {
                    bar.suspend(|| log::warn!("left out: {error}"));
                    skipped.push(Skipped { file: file.clone(), fault: error.to_string() });
                }
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok((collection, skipped))
    }

    /// Where in the folder `file` lies, with `/` on every system.
    fn name_of(&self, file: &Path) -> String {
        let inside = file.strip_prefix(&self.pictures).unwrap_or(file);
        let parts: Vec<_> = inside.components().map(|part| part.as_os_str().to_string_lossy()).collect();
        parts.join("/")
    }

    /// Writes database and index into `dir`, and copies all other files of `model`.
    fn build(&self, model: &Bundle, collection: Collection, dir: &Path) -> Result<IndexSummary> {
        let manifest = &model.manifest;
        for entry in &manifest.files {
            if entry.name != manifest.database && entry.name != manifest.index {
                let to = dir.join(&entry.name);
                std::fs::copy(model.path_of(&entry.name), &to).map_err(|e| Error::io(&to, e))?;
            }
        }
        let path = dir.join(&manifest.database);
        collection.into_contents().write(&path)?;
        let database = BlockDatabase::open(&path)?;
        let settings = IndexSettings { recall_k: manifest.retrieval.neighbours, ..IndexSettings::default() };
        let (position, path) = (manifest.retrieval.query_position, dir.join(&manifest.index));
        build_index_while(&database, position, settings, path, &interrupt::check)
    }

    /// Writes the manifest and the model card of the new bundle in `dir`, and checks the whole.
    fn finish(&self, model: &Bundle, dir: &Path, pictures: usize, skipped: usize, summary: IndexSummary) -> Result<()> {
        let mut manifest = model.manifest.clone();
        manifest.name = self.name.clone().or_else(|| file_name(&self.out)).unwrap_or_else(|| manifest.name.clone());
        let terms = self.licence.as_deref().unwrap_or("unknown, those of the pictures it was made from");
        manifest.licence = format!("networks: {}; database: {terms}", model.manifest.licence);
        manifest.provenance = BTreeMap::from([
            ("database".to_owned(), self.provenance(pictures, skipped)),
            ("networks".to_owned(), origin(model)?),
        ]);
        // What was measured with the old database says nothing of the new one.
        manifest.quality = BTreeMap::from([
            (format!("recall@{}", summary.recall_k), json!(summary.recall)),
            (format!("recall@{}_excluding_self", summary.recall_k), json!(summary.recall_excluding_self)),
        ]);
        for entry in &mut manifest.files {
            *entry = list(dir, &entry.name)?;
        }
        let json = serde_json::to_vec_pretty(&manifest).map_err(|e| Error::Internal(e.to_string()))?;
        save(&dir.join(Bundle::MANIFEST), &json)?;
        save(&dir.join("README.md"), card(&manifest, &model.manifest, pictures).as_bytes())?;
        let bundle = Bundle::open(dir)?;
        bundle.verify()?;
        Generator::open(&bundle, &self.machine.options()).map(drop)
    }

    fn provenance(&self, pictures: usize, skipped: usize) -> Value {
        json!({
            "made_by": concat!("rissole index ", env!("CARGO_PKG_VERSION")),
            // The name alone: a path says more about the machine than about the pictures.
            "folder": file_name(&self.pictures),
            "pictures": pictures,
            "files_left_out": skipped,
        })
    }
}

/// Where the networks come from.
fn origin(model: &Bundle) -> Result<Value> {
    let manifest = &model.manifest;
    Ok(json!({
        "model": manifest.name,
        "manifest_blake3": hash_file(&model.path_of(Bundle::MANIFEST))?,
        "licence": manifest.licence,
        "provenance": manifest.provenance,
    }))
}

fn card(manifest: &Manifest, model: &Manifest, pictures: usize) -> String {
    format!(
        "# {}\n\nThe networks of `{}` with a database of {pictures} other pictures, made by `rissole index`.\n\n\
         Licence: {}.\n\nThe quality of what is drawn from this database has not been measured. Where the networks \
         come from, and under which terms, is in the model card of `{}` and under `provenance` in `manifest.json`.\n",
        manifest.name, model.name, manifest.licence, model.name
    )
}

/// A picture needs k neighbours, itself not among them.
fn check_enough(manifest: &Manifest, pictures: usize, folder: &Path) -> Result<()> {
    let retrieval = manifest.retrieval;
    let needed = match retrieval.source {
        NeighbourSource::Database => retrieval.neighbours + usize::from(retrieval.exclude_self),
        NeighbourSource::Noise => 1,
    };
    match pictures {
        n if n < needed => {
            Err(Error::file(folder, format!("holds {n} pictures that can be decoded, the model needs {needed}")))
        }
        _ => Ok(()),
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

fn list(dir: &Path, name: &str) -> Result<FileEntry> {
    let path = dir.join(name);
    let bytes = std::fs::metadata(&path).map_err(|e| Error::io(&path, e))?.len();
    Ok(FileEntry { name: name.to_owned(), bytes, blake3: hash_file(&path)? })
}

/// The last part of `path`, also of `a/b/` and `.`.
fn file_name(path: &Path) -> Option<String> {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    name(path).or_else(|| name(&path.canonicalize().ok()?))
}
