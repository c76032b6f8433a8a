//! A database and an index that are read a page at a time answer as those that are mapped do, in bounded memory, and
//! survive what happens to their files.

mod common;

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::counting::{Counting, growth};
use common::{Random, TempDir};
use rissole::bundle::manifest::{Coherence, NeighbourSource};
use rissole::bundle::{Files, Storage};
use rissole::container::Container;
use rissole::index::{
    FrozenIndex, IndexSettings, Neighbour, SearchScratch, build_index, exact_scan, follow_index_while,
};
use rissole::store::{BlockDatabase, DatabaseContents, write_revision};
use rissole::{BlockGrid, Bundle, Error, Generator, LatentShape, Options, Query, Result};

#[global_allocator]
static COUNTING: Counting = Counting;

/// Pages kept of one file.
const CACHE: usize = 256 << 10;

/// `images` pictures of 4×8×8 in 2×2 blocks, in codes of `entries`, a fifth of the first blocks alike.
fn contents(images: usize, entries: usize, seed: u64) -> DatabaseContents {
    let mut random = Random(seed);
    let grid = BlockGrid::new(LatentShape { channels: 4, height: 8, width: 8 }, 2, 2, false, 0).unwrap();
    let codebook = (0..entries * 4).map(|_| random.below(1000) as f32 / 500.0 - 1.0).collect();
    let mut row = |image: usize, position: usize| -> Vec<u16> {
        match image % 5 + position {
            0 => vec![(image % 3) as u16; 16],
            _ => (0..16).map(|_| random.below(entries) as u16).collect(),
        }
    };
    let codes = (0..4).map(|position| (0..images).flat_map(|image| row(image, position)).collect()).collect();
    let names = (0..images).map(|image| format!("{seed}/{image}.png")).collect();
    DatabaseContents { grid, codebook, thumbnail_codebook: None, codes, names }
}

/// A graph, whatever it is worth.
const GRAPH: IndexSettings = IndexSettings {
    connections: 8,
    ef_construction: 60,
    ef_search: 512,
    recall: 0.9,
    most_visited: 1.0,
    exact_up_to: 0,
    recall_k: 20,
};

fn paged(database: &Path) -> Result<BlockDatabase> {
    BlockDatabase::of(Container::open_paged(database, BlockDatabase::KIND)?)
}

fn paged_index(index: &Path, db: &BlockDatabase) -> Result<FrozenIndex> {
    FrozenIndex::of(Container::open_paged(index, FrozenIndex::KIND)?, db)
}

struct Pair {
    _folder: TempDir,
    database: PathBuf,
    index: PathBuf,
}

impl Pair {
    fn new(images: usize, entries: usize, settings: IndexSettings) -> Self {
        let folder = TempDir::new();
        let (database, index) = (folder.path().join("blocks.rsdb"), folder.path().join("blocks.rshn"));
        contents(images, entries, 1).write(&database).unwrap();
        build_index(&BlockDatabase::open(&database).unwrap(), 0, settings, &index).unwrap();
        Self { _folder: folder, database, index }
    }
}

fn searched(
    db: &BlockDatabase,
    index: &FrozenIndex,
    image: u32,
    scratch: &mut SearchScratch,
) -> Result<Vec<Neighbour>> {
    let mut query = vec![0.0; db.block().len()];
    db.read_block(image, 0, &mut query)?;
    query[3] += 0.1;
    Ok(index.search(db, &query, 20, Some(image), scratch)?.to_vec())
}

#[test]
fn answers_are_those_of_a_map() {
    for (entries, exact_up_to) in [(200, 0), (400, 0), (400, 9000)] {
        let pair = Pair::new(3000, entries, IndexSettings { exact_up_to, ..GRAPH });
        let db = BlockDatabase::open(&pair.database).unwrap();
        let index = FrozenIndex::open(&pair.index, &db).unwrap();
        let paged_db = paged(&pair.database).unwrap();
        let paged_index = paged_index(&pair.index, &paged_db).unwrap();
        assert_eq!(paged_index.summary(), index.summary());
        assert_eq!(index.summary().nodes.is_some(), exact_up_to == 0);
        paged_db.verify().unwrap();
        paged_index.verify().unwrap();
        // Threads share the cache.
        std::thread::scope(|scope| {
            for first in [0, 1] {
                let (db, index, paged_db, paged_index) = (&db, &index, &paged_db, &paged_index);
                scope.spawn(move || {
                    let (mut one, mut other) = (SearchScratch::default(), SearchScratch::default());
                    let [mut a, mut b] = [[0.0; 64]; 2];
                    for image in (first..3000).step_by(22) {
                        let expected = searched(db, index, image, &mut one).unwrap();
                        assert_eq!(searched(paged_db, paged_index, image, &mut other).unwrap(), expected);
                        let query = [0.01; 64];
                        let expected = exact_scan(db, 3, &query, 7, Some(image), &mut one).unwrap();
                        assert_eq!(exact_scan(paged_db, 3, &query, 7, Some(image), &mut other).unwrap(), expected);
                        for position in 0..4 {
                            db.read_block(image, position, &mut a).unwrap();
                            paged_db.read_block(image, position, &mut b).unwrap();
                            assert_eq!(a, b);
                        }
                        assert_eq!(paged_db.name(image).unwrap(), db.name(image).unwrap());
                    }
                });
            }
        });
    }
}

/// However large the files: here four times as large as what is kept of them.
#[test]
fn what_is_kept_of_a_file_is_bounded() {
    let pair = Pair::new(9000, 300, GRAPH);
    let size = fs::metadata(&pair.database).unwrap().len() + fs::metadata(&pair.index).unwrap().len();
    assert!(size as usize > 3 * CACHE, "{size}");
    let ((), grown) = growth(|| {
        let db = paged(&pair.database).unwrap();
        let index = paged_index(&pair.index, &db).unwrap();
        let mut scratch = SearchScratch::default();
        (0..9000).step_by(500).for_each(|image| drop(searched(&db, &index, image, &mut scratch).unwrap()));
    });
    // The codebook, also padded, a bit a node, the nodes of upper levels, the beam.
    let working = (4 + 8) * 300 * 4 + 9000 / 8 + 9000 / 6 * 4 + 512 * 16 + (16 << 10);
    assert!(grown <= 2 * CACHE + working, "{grown} of {}", 2 * CACHE + working);
}

/// What is written from a paged database is what is written from a mapped one.
#[test]
fn revisions_and_indices_are_those_of_a_map() {
    let pair = Pair::new(1200, 300, GRAPH);
    let folder = TempDir::new();
    let path = |name: &str| folder.path().join(name);
    let (mapped, read) = (BlockDatabase::open(&pair.database).unwrap(), paged(&pair.database).unwrap());
    let added = DatabaseContents { codebook: mapped.codebook().to_vec(), ..contents(40, 300, 2) };
    let removed = [0, 5, 6, 1199].into();
    for (db, name) in [(&mapped, "a"), (&read, "b")] {
        write_revision(db, &removed, &added, path(&format!("{name}.rsdb"))).unwrap();
        build_index(db, 1, GRAPH, path(&format!("{name}1.rshn"))).unwrap();
    }
    let index = FrozenIndex::open(&pair.index, &mapped).unwrap();
    let read_index = paged_index(&pair.index, &read).unwrap();
    let (new, new_read) = (BlockDatabase::open(path("a.rsdb")).unwrap(), paged(&path("b.rsdb")).unwrap());
    follow_index_while(&index, &removed, &new, GRAPH, path("a.rshn"), &|| Ok(())).unwrap();
    follow_index_while(&read_index, &removed, &new_read, GRAPH, path("b.rshn"), &|| Ok(())).unwrap();
    for name in [".rsdb", "1.rshn", ".rshn"] {
        let bytes = |which: &str| fs::read(path(&format!("{which}{name}"))).unwrap();
        assert!(bytes("a") == bytes("b"), "{name}");
    }
}

/// Whatever is done to the files while they are open: an error or an answer in bounds, and no signal.
#[test]
fn files_may_change_while_they_are_open() {
    let pair = Pair::new(9000, 300, GRAPH);
    let db = paged(&pair.database).unwrap();
    let index = paged_index(&pair.index, &db).unwrap();
    let mut scratch = SearchScratch::default();
    let mut random = Random(5);
    for path in [&pair.index, &pair.database] {
        let whole = fs::read(path).unwrap();
        for _ in 0..20 {
            let mut bytes = whole.clone();
            bytes[4096..].iter_mut().for_each(|byte| *byte = random.next() as u8);
            fs::write(path, &bytes).unwrap();
            match searched(&db, &index, random.below(9000) as u32, &mut scratch) {
                Ok(found) => assert!(found.len() == 20 && found.iter().all(|n| n.image < 9000)),
                Err(error) => assert!(matches!(error, Error::File { .. }), "{error:?}"),
            }
        }
        fs::write(path, &whole).unwrap();
    }
    // Anew: pages that were kept are of other days.
    let db = paged(&pair.database).unwrap();
    let index = paged_index(&pair.index, &db).unwrap();
    for path in [&pair.index, &pair.database] {
        let whole = fs::read(path).unwrap();
        File::options().write(true).open(path).unwrap().set_len(4096).unwrap();
        let lost = (0..9000).step_by(700).filter_map(|image| searched(&db, &index, image, &mut scratch).err()).last();
        assert!(matches!(&lost, Some(Error::Io { path: named, .. }) if named == path), "{lost:?}");
        assert!(db.verify().and(index.verify()).is_err());
        fs::write(path, &whole).unwrap();
    }
    assert_eq!(searched(&db, &index, 17, &mut scratch).unwrap().len(), 20, "what could not be read is read again");
}

/// A folder whose n-th reading is refused, or all from there on.
#[derive(Debug)]
struct Failing {
    folder: PathBuf,
    asked: AtomicUsize,
    at: usize,
    for_good: bool,
}

impl Failing {
    fn pass(&self) -> io::Result<()> {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        let refused = asked == self.at || (self.for_good && asked > self.at);
        if refused { Err(io::Error::other("the storage fails")) } else { Ok(()) }
    }
}

impl Files for Failing {
    fn size(&self, name: &str) -> io::Result<u64> {
        self.pass().and_then(|()| Ok(fs::metadata(self.folder.join(name))?.len()))
    }

    fn read_at(&self, name: &str, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.pass()?;
        let mut file = File::open(self.folder.join(name))?;
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(out)
    }
}

/// Whichever reading fails: an error that says so, and where it failed once, the picture when asked again.
#[test]
fn storage_may_fail_at_any_reading() {
    let folder = TempDir::new();
    let coherence = Coherence { thumbnail: true, margin: 1, position_embedding: true, previous_block: false };
    common::bundle(folder.path(), common::manifest(coherence, NeighbourSource::Database));
    let options = Options { steps: Some(1), threads: 1, ..Options::default() };
    let draw = |generator: &mut Generator| Ok(generator.generate(7, &Query::Random, &mut |_| Ok(()))?.latent);
    // What is drawn, when asked once and once more.
    let drawn = |at: usize, for_good: bool| -> (usize, Result<Vec<f32>>, Result<Vec<f32>>) {
        let files = Arc::new(Failing { folder: folder.path().into(), asked: AtomicUsize::new(0), at, for_good });
        let open = || Bundle::open_from("given", Storage::Given(files.clone()));
        let open = || open().and_then(|bundle| Generator::open(&bundle, &options));
        let mut opened = open();
        let first = opened.as_mut().map_err(|e| e.to_string()).map(draw);
        let first = first.unwrap_or_else(|e| Err(Error::Internal(e)));
        let again = opened.or_else(|_| open()).and_then(|mut generator| draw(&mut generator));
        (files.asked.load(Ordering::Relaxed), first, again)
    };
    let (readings, picture, _) = drawn(usize::MAX, false);
    let picture = picture.unwrap();
    assert!(readings > 20, "{readings}");
    for at in 0..readings {
        let (_, first, again) = drawn(at, false);
        match first {
            Err(error) => assert!(error.to_string().contains("the storage fails"), "reading {at}: {error}"),
            // Read by the second asking alone.
            Ok(latent) => assert_eq!(latent, picture, "reading {at}"),
        }
        if let Ok(latent) = again {
            assert_eq!(latent, picture, "reading {at}");
        }
        let (_, first, again) = drawn(at, true);
        assert!(first.is_err() || first.is_ok_and(|latent| latent == picture), "reading {at}");
        assert!(again.is_err() || again.is_ok_and(|latent| latent == picture), "reading {at}");
    }
}
