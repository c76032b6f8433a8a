//! The next edition of a bundle: another database and index under the same networks, taken up in one moment.
//!
//! The new pair is written under new names beside the old one (`blocks.rsdb` is followed by `blocks.2.rsdb`). The
//! manifest that names it and its hashes then replaces the old manifest by one rename: before, the bundle is the
//! old one, after it the new one, whenever the program is killed or the power fails. Only then the old pair goes.
//! Who has it mapped keeps it; who opens the bundle in that very moment may be told that a file is missing, and
//! opens it again. What a killed program left behind is removed by the next edition.

use std::path::{Path, PathBuf};

use super::{Bundle, Lock, Manifest};
use crate::atomic_file::{is_temporary_of, remove};
use crate::error::{Error, Result};

/// A database and an index on their way into a bundle. Dropped before [`Self::commit`], it leaves no trace.
#[derive(Debug)]
pub struct Edition {
    bundle: Bundle,
    database: String,
    index: String,
    /// Held against another change at the same time; given back last.
    _lock: Lock,
}

impl Edition {
    /// Begins an edition of the bundle in `dir`, and removes what an earlier one left behind.
    ///
    /// # Errors
    /// As [`Bundle::open`]; [`Error::Usage`] while another program changes the bundle; [`Error::File`] where
    /// database and index share a name but for their number, or no number is left.
    pub fn begin(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let lock = Lock::on(dir)?;
        let bundle = Bundle::open(dir)?;
        remove_leftovers(dir)?;
        let [database, index] = series(&bundle.manifest);
        let next = database.number(&bundle.manifest.database).max(index.number(&bundle.manifest.index));
        let next = next.and_then(|number| number.checked_add(1)).filter(|_| database != index).ok_or_else(|| {
            Error::file(dir.join(Bundle::MANIFEST), "database and index have names that cannot be followed")
        })?;
        Ok(Self { bundle, database: database.name(next), index: index.name(next), _lock: lock })
    }

    /// The bundle as it is.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// Where the new database is to be written.
    pub fn database_path(&self) -> PathBuf {
        self.bundle.path_of(&self.database)
    }

    /// Where the new index is to be written.
    pub fn index_path(&self) -> PathBuf {
        self.bundle.path_of(&self.index)
    }

    /// Takes up the new pair, with what `edit` changes in the manifest, and gives the bundle as it is now. The new
    /// files are believed to be sound and to fit each other and the networks.
    ///
    /// # Errors
    /// [`Error::Usage`] for a manifest that contradicts itself; [`Error::Io`]. The bundle is then the old one.
    pub fn commit(self, edit: impl FnOnce(&mut Manifest)) -> Result<Bundle> {
        let mut manifest = self.bundle.manifest.clone();
        edit(&mut manifest);
        for (name, next) in [(&mut manifest.database, &self.database), (&mut manifest.index, &self.index)] {
            let listed = manifest.files.iter_mut().find(|entry| entry.name == *name);
            let listed = listed.ok_or_else(|| Error::Usage(format!("{name:?} is used but not listed in files")))?;
            *listed = self.bundle.measure(next)?;
            name.clone_from(next);
        }
        manifest.forget_packed_from();
        self.bundle.replace_manifest(&manifest)?;
        Bundle::open(&self.bundle.dir)
    }
}

impl Drop for Edition {
    fn drop(&mut self) {
        // Whichever pair the manifest now names stays; what cannot be removed is left to the next edition.
        if let Err(e) = remove_leftovers(&self.bundle.dir) {
            log::debug!("{e}");
        }
    }
}

/// Removes the files of other editions than that of the manifest in `dir`, and temporary files of those that are written
/// into a bundle.
pub(crate) fn remove_leftovers(dir: &Path) -> Result<()> {
    let manifest = Bundle::open_manifest(dir)?.manifest;
    let series = series(&manifest);
    let listed = |name: &str| manifest.files.iter().any(|entry| entry.name == name);
    let written: Vec<String> = manifest.packed_names().chain([Bundle::MANIFEST.into()]).collect();
    for entry in std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))? {
        let path = entry.map_err(|e| Error::io(dir, e))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let left = series.iter().any(|series| series.number(name).is_some() || series.is_temporary(name));
        if (left && !listed(name)) || written.iter().any(|written| is_temporary_of(name, written)) {
            log::debug!("left behind, removed: {}", path.display());
            remove(&path).map_err(|e| Error::io(&path, e))?;
        }
    }
    Ok(())
}

fn series(manifest: &Manifest) -> [Series; 2] {
    [&manifest.database, &manifest.index].map(|name| Series::of(name))
}

/// The names of a file through the editions: `stem.extension`, `stem.2.extension`, `stem.3.extension`, …
#[derive(Debug, PartialEq, Eq)]
struct Series {
    stem: String,
    /// With its dot, or empty.
    extension: String,
}

impl Series {
    fn of(name: &str) -> Self {
        let (stem, extension) = name.split_at(name.rfind('.').unwrap_or(name.len()));
        let stem = match stem.rsplit_once('.') {
            Some((stem, number)) if later(number).is_some() => stem,
            _ => stem,
        };
        Self { stem: stem.into(), extension: extension.into() }
    }

    fn name(&self, number: u64) -> String {
        format!("{}.{number}{}", self.stem, self.extension)
    }

    /// The number of the edition that has `name`: 1 without one.
    fn number(&self, name: &str) -> Option<u64> {
        let middle = name.strip_prefix(&self.stem)?.strip_suffix(&self.extension)?;
        if middle.is_empty() { Some(1) } else { later(middle.strip_prefix('.')?) }
    }

    /// Whether `name` is that of a file of the series which was begun and not finished.
    fn is_temporary(&self, name: &str) -> bool {
        let parts = name.strip_prefix('.').and_then(|rest| rest.strip_prefix(&self.stem)?.strip_prefix('.'));
        let number = parts.and_then(|rest| later(rest.split('.').next()?));
        number.is_some_and(|number| is_temporary_of(name, &self.name(number)))
    }
}

/// A number from 2 on, as [`Series::name`] writes it.
fn later(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number: &u64| *number >= 2 && text == number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atomic_file::faults::refusing;
    use crate::index::{IndexSettings, build_index};
    use crate::store::{BlockDatabase, Collection, write_revision};

    #[test]
    fn editions_are_told_by_their_names() {
        for name in ["blocks.rsdb", "blocks.2.rsdb", "blocks.18446744073709551615.rsdb"] {
            let series = Series::of(name);
            assert_eq!((series.stem.as_str(), series.extension.as_str()), ("blocks", ".rsdb"));
            assert!(series.number(name).is_some());
        }
        let series = Series::of("blocks.rsdb");
        assert_eq!(series.number("blocks.rsdb"), Some(1));
        assert_eq!(series.number(&series.name(17)), Some(17));
        for other in ["blocks.1.rsdb", "blocks.02.rsdb", "blocks.x.rsdb", "blocks2.rsdb", "blocks.2.rshn", "x.rsdb"] {
            assert_eq!(series.number(other), None, "{other}");
        }
        assert!(series.is_temporary(".blocks.2.rsdb.77-0.tmp"));
        assert!(!series.is_temporary(".blocks.2.rshn.77-0.tmp") && !series.is_temporary("blocks.2.rsdb"));
        assert_eq!(Series::of("a.b.c").name(2), "a.b.2.c");
        assert_eq!(Series::of("plain").name(2), "plain.2");
        assert_eq!(Series::of("plain").number("plain.2"), Some(2));
    }
    /// The golden bundle of the tests in a folder of its own.
    fn golden(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("rissole-edition-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")).unwrap() {
            let from = entry.unwrap().path();
            std::fs::copy(&from, dir.join(from.file_name().unwrap())).unwrap();
        }
        dir
    }

    /// Pictures in the bundle in `dir`, which must be sound.
    fn images(dir: &Path) -> u32 {
        let bundle = Bundle::open(dir).unwrap();
        bundle.verify().unwrap();
        let database = bundle.database().unwrap();
        database.verify().unwrap();
        bundle.index(&database).unwrap().verify().unwrap();
        database.images()
    }

    /// An edition with two pictures more and one less.
    fn change(dir: &Path) -> Result<()> {
        let edition = Edition::begin(dir)?;
        let old = BlockDatabase::open(dir.join(&edition.bundle().manifest.database))?;
        let mut added = Collection::new(&old);
        (0..2).try_for_each(|i| added.add(format!("new{i}"), &[i as f32 / 2.0; 8]))?;
        write_revision(&old, &[3].into(), &added.into_contents(), edition.database_path())?;
        let settings = IndexSettings { most_visited: 1.0, exact_up_to: 0, ..IndexSettings::default() };
        build_index(&BlockDatabase::open(edition.database_path())?, 0, settings, edition.index_path())?;
        edition.commit(|manifest| manifest.name = "changed".into()).map(drop)
    }

    /// The system refuses the n-th file operation, once or from there on, for every n.
    #[test]
    fn whatever_is_refused_the_bundle_is_old_or_new() {
        let dir = golden("refused");
        let (done, operations) = refusing(usize::MAX, false, || change(&dir));
        done.unwrap();
        assert_eq!(images(&dir), 13);
        assert!(operations > 14, "{operations}: three files are begun, written, synced, renamed, two removed");
        for (at, for_good) in (0..operations).flat_map(|at| [(at, false), (at, true)]) {
            std::fs::remove_dir_all(&dir).unwrap();
            golden("refused");
            let (done, _) = refusing(at, for_good, || change(&dir));
            // Once the manifest is renamed, a refusal to tidy up is no failure.
            let now = images(&dir);
            assert_eq!(now, if done.is_ok() { 13 } else { 12 }, "operation {at}, for good {for_good}: {done:?}");
            assert!(done.is_err() || at >= operations - 2, "operation {at} went unheeded");
            // And the next edition finds its way, and tidies up.
            change(&dir).unwrap();
            assert_eq!((images(&dir), std::fs::read_dir(&dir).unwrap().count()), (now + 1, 6));
        }
        std::fs::remove_dir_all(dir).unwrap();
    }
}
