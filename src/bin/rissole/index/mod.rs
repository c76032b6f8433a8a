//! `rissole index`: the same model over other pictures, and bundles that grow and shrink.

mod change;
mod make;
mod pictures;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};
use rissole::index::{IndexSettings, IndexSummary};
use rissole::{Error, Manifest, Result};
use serde::Serialize;
use serde_json::{Value, json};

use crate::args::{Machine, Model};
use crate::terminal::Console;
use pictures::Skipped;

/// Build a new database and index from pictures of your own, or change those of a bundle
///
/// Encodes every PNG and JPEG in a folder (the middle cut out and resized to the model's size) and writes a new
/// bundle: the networks of the model with the new database and index. The model itself is not touched. Files
/// that cannot be decoded are named and left out.
///
/// With --append the pictures join those of a bundle instead (but those whose name it has already), with --remove
/// some leave it; ids after a removed picture move down. Killed at any moment, the bundle is the old one or the new
/// one. A program that has it open keeps the old one.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rissole index holiday/ --out models/holiday
  rissole sample --model models/holiday
  rissole index faces/ --model models/mine --out models/other --licence CC0-1.0
  rissole index --append models/holiday more/
  rissole index --remove models/holiday id:12 name:beach/p7.jpg")]
pub struct Index {
    /// Folder of pictures; folders in it are searched too. With --remove: pictures, as id:N or name:NAME
    #[arg(value_name = "PICTURES", required = true, value_hint = ValueHint::AnyPath)]
    pictures: Vec<OsString>,
    #[command(flatten)]
    model: Model,
    /// Folder of the new bundle; must not exist yet, or be empty
    #[arg(long, value_name = "DIR", required_unless_present_any = ["append", "remove"], value_hint = ValueHint::DirPath)]
    out: Option<PathBuf>,
    /// Bundle that the pictures are added to
    #[arg(long, value_name = "BUNDLE", conflicts_with_all = ["model", "out", "name", "remove"],
        value_hint = ValueHint::DirPath)]
    append: Option<PathBuf>,
    /// Bundle that the pictures are removed from
    #[arg(long, value_name = "BUNDLE", conflicts_with_all = ["model", "out", "name", "licence"],
        value_hint = ValueHint::DirPath)]
    remove: Option<PathBuf>,
    /// Name of the new bundle [default: the name of its folder]
    #[arg(long)]
    name: Option<String>,
    /// Terms of the pictures [default: said to be unknown]
    #[arg(long, value_name = "TEXT")]
    licence: Option<String>,
    #[command(flatten)]
    machine: Machine,
}

/// What was done.
struct Outcome {
    bundle: PathBuf,
    /// Pictures in the database now.
    pictures: usize,
    added: usize,
    removed: usize,
    skipped: Vec<Skipped>,
    summary: IndexSummary,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Output {
    bundle: PathBuf,
    pictures: usize,
    added: usize,
    removed: usize,
    skipped: Vec<Skipped>,
    recall: f32,
    recall_k: usize,
}

impl Index {
    /// Runs the subcommand.
    pub fn run(self, console: &Console) -> Result<()> {
        let folder = || match &self.pictures[..] {
            [folder] => Ok(Path::new(folder)),
            _ => Err(Error::Usage("one folder of pictures is taken at a time".into())),
        };
        let outcome = match (&self.out, &self.append, &self.remove) {
            (_, Some(bundle), _) => self.append(bundle, folder()?, console)?,
            (_, _, Some(bundle)) => self.remove(bundle, &self.pictures, console)?,
            (Some(out), ..) => self.make(folder()?, out, console)?,
            _ => return Err(Error::Usage("--out is missing".into())),
        };
        let Outcome { bundle, pictures, added, removed, skipped, summary } = outcome;
        let IndexSummary { recall, recall_k, .. } = summary;
        console.say(format_args!("{pictures} pictures: {added} added, {removed} removed"));
        console.say(format_args!("{} files left out", skipped.len()));
        console.say(format_args!("recall@{recall_k} of the index: {recall:.4}"));
        match console.json {
            true => console.print_json(&Output { bundle, pictures, added, removed, skipped, recall, recall_k }),
            false => console.print(bundle.display()),
        }
    }
}

fn settings(manifest: &Manifest) -> IndexSettings {
    IndexSettings { recall_k: manifest.retrieval.neighbours, ..IndexSettings::default() }
}

/// The quality of a bundle whose database is new: what was measured with another says nothing of it.
fn recalls(summary: IndexSummary) -> BTreeMap<String, Value> {
    BTreeMap::from([
        (format!("recall@{}", summary.recall_k), json!(summary.recall)),
        (format!("recall@{}_excluding_self", summary.recall_k), json!(summary.recall_excluding_self)),
    ])
}

fn terms(licence: &Option<String>) -> &str {
    licence.as_deref().unwrap_or("unknown, those of the pictures it was made from")
}

fn made_by() -> &'static str {
    concat!("rissole index ", env!("CARGO_PKG_VERSION"))
}

/// The last part of `path`, also of `a/b/` and `.`.
fn file_name(path: &Path) -> Option<String> {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    name(path).or_else(|| name(&path.canonicalize().ok()?))
}
