//! A bundle that grows or shrinks where it lies.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;
use std::str::FromStr;

use rissole::bundle::Edition;
use rissole::index::{FrozenIndex, follow_index_while};
use rissole::store::{BlockDatabase, Collection, DatabaseContents, write_revision};
use rissole::{Error, Manifest, Result};
use serde_json::{Value, json};

use super::pictures::{encode, needed};
use super::{Index, Outcome, file_name, made_by, recalls, settings, terms};
use crate::interrupt;
use crate::terminal::Console;

impl Index {
    /// Adds the pictures in `folder` to the bundle in `dir`.
    pub(super) fn append(&self, dir: &Path, folder: &Path, console: &Console) -> Result<Outcome> {
        let edition = Edition::begin(dir)?;
        edition.bundle().verify_needed()?;
        let (collection, skipped) = encode(edition.bundle(), folder, true, &self.machine.options(), console)?;
        let terms = format!("; pictures added: {}", terms(&self.licence));
        let change = Change { removed: BTreeSet::new(), added: collection.into_contents(), terms: Some(terms) };
        Ok(Outcome { skipped, ..change.carry_out(edition, Some(folder), console)? })
    }

    /// Removes `pictures` from the bundle in `dir`.
    pub(super) fn remove(&self, dir: &Path, pictures: &[OsString], console: &Console) -> Result<Outcome> {
        let edition = Edition::begin(dir)?;
        let bundle = edition.bundle();
        bundle.verify_needed()?;
        let database = bundle.database()?;
        let added = Collection::new(&database).into_contents();
        let change = Change { removed: chosen(&database, pictures)?, added, terms: None };
        change.carry_out(edition, None, console)
    }
}

/// What becomes of a database.
struct Change {
    removed: BTreeSet<u32>,
    added: DatabaseContents,
    /// What is added to the licence.
    terms: Option<String>,
}

impl Change {
    /// Makes `edition` the bundle's database as it was, changed; a change of nothing leaves the bundle as it is.
    fn carry_out(&self, edition: Edition, folder: Option<&Path>, console: &Console) -> Result<Outcome> {
        let (bundle, removed, added) = (edition.bundle(), self.removed.len(), self.added.names.len());
        let (dir, manifest) = (bundle.dir.clone(), bundle.manifest.clone());
        let old = bundle.database()?;
        let outcome = |pictures, summary| Outcome { bundle: dir, pictures, added, removed, skipped: vec![], summary };
        let index = bundle.index(&old)?;
        if removed + added == 0 {
            return Ok(outcome(old.images() as usize, index.summary()));
        }
        let (pictures, needed) = (old.images() as usize + added - removed, needed(&manifest));
        if pictures < needed {
            return Err(Error::Usage(format!("{pictures} pictures would be left, the model needs {needed}")));
        }
        console.say(format_args!("{added} pictures to add, {removed} to remove; changing the index"));
        write_revision(&old, &self.removed, &self.added, edition.database_path())?;
        let database = BlockDatabase::open(edition.database_path())?;
        let (settings, path) = (settings(&manifest), edition.index_path());
        let summary = follow_index_while(&index, &self.removed, &database, settings, &path, &interrupt::check)?;
        database.verify()?;
        FrozenIndex::open(path, &database)?.verify()?;
        interrupt::check()?;
        edition.commit(|manifest| {
            self.note(manifest, folder);
            manifest.quality = recalls(summary);
        })?;
        Ok(outcome(pictures, summary))
    }

    /// Writes into the manifest how the database came to be what it is.
    fn note(&self, manifest: &mut Manifest, folder: Option<&Path>) {
        if let Some(terms) = self.terms.as_ref().filter(|terms| !manifest.licence.contains(terms.as_str())) {
            manifest.licence.push_str(terms);
        }
        // Sums, not a list: a bundle may change a thousand times, its manifest stays small.
        let before = manifest.provenance.get("changes");
        let sum = |key: &str, now: usize| before.and_then(|b| b.get(key)?.as_u64()).unwrap_or(0) + now as u64;
        let mut changes = BTreeMap::from([
            ("made_by", json!(made_by())),
            ("pictures_added", json!(sum("pictures_added", self.added.names.len()))),
            ("pictures_removed", json!(sum("pictures_removed", self.removed.len()))),
        ]);
        let last = folder.and_then(file_name).map(Value::from);
        if let Some(last) = last.or_else(|| before.and_then(|b| b.get("last_folder").cloned())) {
            changes.insert("last_folder", last);
        }
        manifest.provenance.insert("changes".to_owned(), json!(changes));
    }
}

/// A picture of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Choice {
    Id(u32),
    Name(String),
}

impl FromStr for Choice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':') {
            Some(("id", id)) => {
                id.parse().map(Self::Id).map_err(|_| Error::Usage(format!("{id:?} is not a picture's number")))
            }
            Some(("name", name)) if !name.is_empty() => Ok(Self::Name(name.into())),
            _ => Err(Error::Usage(format!("{text:?}: pictures to remove are given as id:N or name:NAME"))),
        }
    }
}

/// The ids of the pictures that `choices` mean; a name means all that have it.
fn chosen(database: &BlockDatabase, choices: &[OsString]) -> Result<BTreeSet<u32>> {
    let mut chosen = BTreeSet::new();
    for choice in choices {
        let before = chosen.len();
        match choice.to_string_lossy().parse()? {
            Choice::Id(id) if id < database.images() => drop(chosen.insert(id)),
            Choice::Id(id) => {
                return Err(Error::Usage(format!("no picture {id}: the database holds {}", database.images())));
            }
            Choice::Name(name) => {
                let mut named = false;
                for image in 0..database.images() {
                    if database.name(image)?.as_ref() == Some(&name) {
                        (named, _) = (true, chosen.insert(image));
                    }
                }
                if !named {
                    return Err(Error::Usage(format!("the database has no picture named {name:?}")));
                }
            }
        }
        log::debug!("{choice:?} means {} pictures more", chosen.len() - before);
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read() {
        assert_eq!("id:12".parse::<Choice>().unwrap(), Choice::Id(12));
        assert_eq!("name:a:b.png".parse::<Choice>().unwrap(), Choice::Name("a:b.png".into()));
        for bad in ["", "12", "id:", "id:-1", "id:4294967296", "name:", "a.png"] {
            assert_eq!(bad.parse::<Choice>().unwrap_err().exit_code(), 2, "{bad}");
        }
    }
}
