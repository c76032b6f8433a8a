//! A new bundle: the networks of a model over other pictures.

use std::collections::BTreeMap;
use std::path::Path;

use rissole::index::{IndexSummary, build_index_while, order_by_likeness};
use rissole::network::pack_networks;
use rissole::store::{BlockDatabase, Collection};
use rissole::{Bundle, Error, Generator, Manifest, Result};
use serde_json::{Value, json};

use super::{Index, Outcome, file_name, made_by, recalls, settings, terms};
use crate::generation::hash_file;
use crate::index::pictures::{encode, needed};
use crate::interrupt;
use crate::output::{Scaffold, save};
use crate::terminal::Console;

impl Index {
    /// Makes the bundle `out` of the pictures in `folder`.
    pub(super) fn make(&self, folder: &Path, out: &Path, console: &Console) -> Result<Outcome> {
        let model = self.model.open()?;
        model.verify_needed()?;
        let scaffold = Scaffold::new(out)?;
        let (collection, skipped) = encode(&model, folder, false, &self.machine.options(), console)?;
        let pictures = collection.len();
        let needed = needed(&model.manifest);
        if pictures < needed {
            let fault = format!("holds {pictures} pictures that can be decoded, the model needs {needed}");
            return Err(Error::file(folder, fault));
        }
        console.say(format_args!("{pictures} pictures are encoded; building the index"));
        let summary = build(&model, collection, scaffold.path())?;
        let provenance = json!({
            "made_by": made_by(),
            // The name alone: a path says more about the machine than about the pictures.
            "folder": file_name(folder),
            "pictures": pictures,
            "files_left_out": skipped.len(),
        });
        self.finish(&model, scaffold.path(), out, provenance, summary)?;
        interrupt::check()?;
        scaffold.move_into_place()?;
        Ok(Outcome { bundle: out.to_owned(), pictures, added: pictures, removed: 0, skipped, summary })
    }

    /// Writes the manifest and the model card of the bundle in `dir` that is to be `out`, and checks the whole.
    fn finish(&self, model: &Bundle, dir: &Path, out: &Path, made: Value, summary: IndexSummary) -> Result<()> {
        let mut manifest = model.manifest.clone();
        manifest.name = self.name.clone().or_else(|| file_name(out)).unwrap_or_else(|| manifest.name.clone());
        manifest.licence = format!("networks: {}; database: {}", model.manifest.licence, terms(&self.licence));
        manifest.provenance = BTreeMap::from([("database".to_owned(), made), ("networks".to_owned(), origin(model)?)]);
        manifest.quality = recalls(summary);
        let built = Bundle::of(dir, manifest.clone());
        let files = manifest.needed_files().map(|entry| built.measure(&entry.name)).collect::<Result<_>>()?;
        manifest.files = files;
        manifest.files.extend(pack_networks(dir, &manifest)?);
        save(&dir.join(Bundle::MANIFEST), &manifest.to_sealed_json()?)?;
        save(&dir.join("README.md"), card(&manifest, &model.manifest).as_bytes())?;
        let bundle = Bundle::open(dir)?;
        bundle.verify()?;
        Generator::open(&bundle, &self.machine.options()).map(drop)
    }
}

/// Writes database and index into `dir`, and copies the networks of `model`.
fn build(model: &Bundle, collection: Collection, dir: &Path) -> Result<IndexSummary> {
    let manifest = &model.manifest;
    for entry in manifest.needed_files() {
        if entry.name != manifest.database && entry.name != manifest.index {
            let to = dir.join(&entry.name);
            std::fs::copy(model.path_of(&entry.name), &to).map_err(|e| Error::io(&to, e))?;
        }
    }
    let path = dir.join(&manifest.database);
    let mut contents = collection.into_contents();
    order_by_likeness(&mut contents, manifest.retrieval.query_position);
    contents.write(&path)?;
    let database = BlockDatabase::open(&path)?;
    let (position, path) = (manifest.retrieval.query_position, dir.join(&manifest.index));
    build_index_while(&database, position, settings(manifest), path, &interrupt::check)
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

fn card(manifest: &Manifest, model: &Manifest) -> String {
    format!(
        "# {}\n\nThe networks of `{}` with a database of other pictures, made by `rissole index`.\n\n\
         Licence: {}.\n\nThe quality of what is drawn from this database has not been measured. Where the networks \
         come from, and under which terms, is in the model card of `{}` and under `provenance` in `manifest.json`.\n",
        manifest.name, model.name, manifest.licence, model.name
    )
}
