//! Block database and frozen index together: recall, reach, self-exclusion, damage, allocation.

mod common;
#[path = "common/container.rs"]
mod container;

use std::path::{Path, PathBuf};

use common::Random;
use common::counting::{Counting, allocations, growth};
use container::mend_checksums;
use half::f16;
use rissole::index::{
    FrozenIndex, IndexSettings, Neighbour, SearchScratch, build_index, exact_scan, follow_index_while,
};
use rissole::store::{BlockDatabase, DatabaseContents, write_revision};
use rissole::{BlockGrid, Error, LatentShape};

#[global_allocator]
static COUNTING: Counting = Counting;

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("rissole-retrieval-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Uniform in 0…1.
fn unit(random: &mut Random) -> f32 {
    (random.next() >> 40) as f32 / (1 << 24) as f32
}

/// `images` pictures in `clusters`: a picture shares most codes with its cluster's prototype, one in ten all of
/// them. Latents are 4×8×8 in 2×2 blocks.
fn clustered(images: usize, clusters: usize, entries: usize, seed: u64) -> DatabaseContents {
    let random = &mut Random(seed);
    let latent = LatentShape { channels: 4, height: 8, width: 8 };
    let grid = BlockGrid::new(latent, 2, 2, false, 0).unwrap();
    let codebook = (0..entries * 4).map(|_| unit(random) + unit(random) + unit(random) - 1.5).collect();
    let cells = grid.block().cells();
    let prototypes: Vec<Vec<u16>> =
        (0..clusters).map(|_| (0..cells).map(|_| random.below(entries) as u16).collect()).collect();
    let mut row = |image: usize| {
        let change = if image.is_multiple_of(10) { 0.0 } else { 0.1 + 0.5 * unit(random) };
        let prototype = prototypes[random.below(clusters)].iter();
        prototype.map(|&code| if unit(random) < change { random.below(entries) as u16 } else { code }).collect()
    };
    let codes = (0..grid.positions()).map(|_| (0..images).flat_map(|image| -> Vec<u16> { row(image) }).collect());
    DatabaseContents { codes: codes.collect(), grid, codebook, thumbnail_codebook: None, names: vec![] }
}

const GRAPH: IndexSettings = IndexSettings {
    connections: 16,
    ef_construction: 200,
    ef_search: 512,
    recall: 0.995,
    most_visited: 1.0,
    exact_up_to: 0,
    recall_k: 20,
};

fn database(folder: &Folder, contents: &DatabaseContents) -> BlockDatabase {
    let path = folder.path("blocks.rsdb");
    contents.write(&path).unwrap();
    BlockDatabase::open(path).unwrap()
}

/// The blocks of `contents` as values, each changed a little at random.
fn as_values(contents: &DatabaseContents, seed: u64) -> DatabaseContents {
    let (channels, cells, mut random) = (4, contents.grid.block().cells(), Random(seed));
    let mut block = |codes: &[u16]| -> Vec<u16> {
        let value = |i: usize| contents.codebook[usize::from(codes[i % cells]) * channels + i / cells];
        (0..channels * cells).map(|i| f16::from_f32(value(i) + 0.05 * unit(&mut random)).to_bits()).collect()
    };
    let codes = contents.codes.iter().map(|codes| codes.chunks_exact(cells).flat_map(&mut block).collect()).collect();
    DatabaseContents { codebook: vec![], codes, ..contents.clone() }
}

/// The oracle of oracles: dequantize, subtract, sort.
fn naive(db: &BlockDatabase, position: usize, query: &[f32], k: usize, exclude: Option<u32>) -> Vec<Neighbour> {
    let mut block = vec![0.0; query.len()];
    let mut all: Vec<Neighbour> = (0..db.images())
        .filter(|&image| Some(image) != exclude)
        .map(|image| {
            db.read_block(image, position, &mut block).unwrap();
            let distance = block.iter().zip(query).map(|(a, b)| (a - b) * (a - b)).sum();
            Neighbour { image, distance }
        })
        .collect();
    all.sort_by(|a, b| a.distance.total_cmp(&b.distance).then(a.image.cmp(&b.image)));
    all.truncate(k);
    all
}

#[test]
fn the_exact_scan_is_exact() {
    for (entries, values) in [(60, false), (900, false), (60, true)] {
        let folder = Folder::new(&format!("exact{entries}{values}"));
        let contents = clustered(500, 12, entries, 1);
        let db = database(&folder, &if values { as_values(&contents, 2) } else { contents });
        let (mut scratch, mut random) = (SearchScratch::default(), Random(2));
        for round in 0..20u32 {
            let query: Vec<f32> = (0..db.block().len()).map(|_| unit(&mut random) * 2.0 - 1.0).collect();
            let (k, exclude) = (1 + round as usize * 5, (round % 2 == 0).then_some(round * 7));
            let expected = naive(&db, 2, &query, k, exclude);
            let found = exact_scan(&db, 2, &query, k, exclude, &mut scratch).unwrap();
            assert_eq!(found.len(), k);
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found.distance - expected.distance).abs() <= 1e-4 * expected.distance);
            }
        }
    }
}

/// Recall, reach, order, self-exclusion, for codes of both widths, and for values.
#[test]
fn a_graph_finds_the_true_neighbours() {
    for (entries, images, values) in [(200, 3000, false), (700, 4000, false), (200, 3000, true)] {
        let folder = Folder::new(&format!("graph{entries}{values}"));
        let mut contents = clustered(images, 40, entries, 3);
        if values {
            contents = as_values(&contents, 4);
            // Equal blocks share a node.
            contents.codes[1].copy_within(..64, 640);
        }
        let db = database(&folder, &contents);
        let path = folder.path("blocks.rshn");
        let summary = build_index(&db, 1, GRAPH, &path).unwrap();
        let index = FrozenIndex::open(&path, &db).unwrap();
        index.verify().unwrap(); // every picture in one node, every node reachable
        assert_eq!(index.summary(), summary);
        assert!(summary.nodes.unwrap() < images as u32, "equal blocks share a node");
        assert!(summary.recall >= 0.99 && summary.recall_excluding_self >= 0.99, "{summary:?}");

        let (mut scratch, mut exact, mut query) = <(SearchScratch, SearchScratch, Vec<f32>)>::default();
        query.resize(db.block().len(), 0.0);
        let (mut right, mut asked, mut random) = (0, 0, Random(4));
        for image in (0..images as u32).step_by(7) {
            db.read_block(image, 1, &mut query).unwrap();
            if image % 2 == 0 {
                query.iter_mut().for_each(|v| *v += 0.3 * (unit(&mut random) - 0.5)); // a picture from outside
            }
            let truth = exact_scan(&db, 1, &query, 20, Some(image), &mut exact).unwrap();
            let found = index.search(&db, &query, 20, Some(image), &mut scratch).unwrap();
            assert_eq!(found.len(), 20);
            assert!(found.iter().all(|n| n.image != image), "never itself");
            assert!(found.windows(2).all(|p| (p[0].distance, p[0].image) < (p[1].distance, p[1].image)));
            right += found.iter().filter(|n| truth.contains(n)).count();
            asked += 20;
        }
        let recall = right as f64 / asked as f64;
        println!("{entries} entries: {summary:?}, on other queries {recall:.4}");
        assert!(recall >= 0.99, "{recall}");
    }
}

/// Recall@20 on pictures of `db`, none its own neighbour.
fn recall(db: &BlockDatabase, index: &FrozenIndex, position: usize) -> f64 {
    let (mut scratch, mut exact, mut query) = <(SearchScratch, SearchScratch, Vec<f32>)>::default();
    query.resize(db.block().len(), 0.0);
    let (mut right, mut asked) = (0, 0);
    for image in (0..db.images()).step_by(7) {
        db.read_block(image, position, &mut query).unwrap();
        let truth = exact_scan(db, position, &query, 20, Some(image), &mut exact).unwrap();
        let bound = truth.last().unwrap().distance;
        let found = index.search(db, &query, 20, Some(image), &mut scratch).unwrap();
        right += found.iter().filter(|n| n.distance <= bound).count();
        asked += 20;
    }
    right as f64 / asked as f64
}

/// Grown by half and shrunk by a third, in steps, the graph is as good as one built anew.
#[test]
fn an_index_follows_its_database() {
    let coded = clustered(4500, 40, 300, 14);
    follow(&coded, coded.grid.block().cells());
}

#[test]
fn an_index_of_values_follows_its_database() {
    let coded = clustered(4500, 40, 300, 14);
    follow(&as_values(&coded, 5), coded.grid.block().len());
}

/// `cells` codes a row.
fn follow(all: &DatabaseContents, cells: usize) {
    let folder = Folder::new(&format!("follow{cells}"));
    let part = |range: std::ops::Range<usize>| DatabaseContents {
        codes: all.codes.iter().map(|codes| codes[range.start * cells..range.end * cells].to_vec()).collect(),
        ..all.clone()
    };
    let (path, next) = (folder.path("blocks.rshn"), folder.path("next.rshn"));
    let mut db = database(&folder, &part(0..3000));
    build_index(&db, 1, GRAPH, &path).unwrap();
    let mut index = FrozenIndex::open(&path, &db).unwrap();
    let entry_and_more: Vec<u32> = (0..3000).step_by(3).collect();
    let steps =
        [(vec![], 3000..3600), (entry_and_more, 0..0), (vec![0, 7, 2599], 3600..4500), ((0..600).collect(), 0..0)];
    for (step, (removed, added)) in steps.into_iter().enumerate() {
        let removed = removed.into_iter().collect();
        let database = folder.path(&format!("{step}.rsdb"));
        write_revision(&db, &removed, &part(added.clone()), &database).unwrap();
        let new = BlockDatabase::open(&database).unwrap();
        let inserted = std::cell::Cell::new(0);
        let count = || {
            inserted.set(inserted.get() + 1);
            Ok(())
        };
        let summary = follow_index_while(&index, &removed, &new, GRAPH, &next, &count).unwrap();
        assert_eq!(inserted.get(), added.len(), "step {step}: the graph is changed, not built anew");
        index = FrozenIndex::open(&next, &new).unwrap();
        db = new;
        index.verify().unwrap();
        assert_eq!(index.summary(), summary);
        let recall = recall(&db, &index, 1);
        println!("step {step}: {} pictures, {summary:?}, recall {recall:.4}", db.images());
        assert!(recall >= 0.99 && summary.recall >= 0.99, "step {step}: {recall}, {summary:?}");
    }
    // The same pictures are found as in a graph built anew.
    build_index(&db, 1, GRAPH, &path).unwrap();
    println!("anew: recall {:.4}", recall(&db, &FrozenIndex::open(&path, &db).unwrap(), 1));
    // Too little left, or too small: built anew.
    for (removed, exact_up_to) in [((0..1500).collect(), 0), ([5].into(), 9000)] {
        let database = folder.path("last.rsdb");
        write_revision(&db, &removed, &part(0..0), &database).unwrap();
        let new = BlockDatabase::open(&database).unwrap();
        let settings = IndexSettings { exact_up_to, ..GRAPH };
        let summary = follow_index_while(&index, &removed, &new, settings, &next, &|| Ok(())).unwrap();
        assert_eq!(summary.nodes.is_some(), exact_up_to == 0);
        assert!(build_index(&new, 1, settings, folder.path("anew")).unwrap() == summary);
        let done = follow_index_while(&index, &[9999].into(), &new, settings, &next, &|| Ok(()));
        assert!(matches!(done, Err(Error::Usage(_))), "{done:?}");
    }
}

fn db_of(path: &Path) -> BlockDatabase {
    BlockDatabase::open(path).unwrap()
}

/// A picture that is like one of the database joins its node.
#[test]
fn equal_pictures_join_their_node() {
    let folder = Folder::new("join");
    let contents = clustered(900, 10, 100, 15);
    let db = database(&folder, &contents);
    let path = folder.path("blocks.rshn");
    let before = build_index(&db, 0, GRAPH, &path).unwrap();
    let index = FrozenIndex::open(&path, &db).unwrap();
    let twice = folder.path("twice.rsdb");
    write_revision(&db, &[].into(), &contents, &twice).unwrap();
    let after = follow_index_while(&index, &[].into(), &db_of(&twice), GRAPH, &path, &|| Ok(())).unwrap();
    assert_eq!(after.nodes, before.nodes);
    FrozenIndex::open(&path, &db_of(&twice)).unwrap().verify().unwrap();
}

#[test]
fn every_picture_can_be_found_however_many_are_alike() {
    let folder = Folder::new("alike");
    let mut contents = clustered(600, 5, 30, 5);
    let cells = contents.grid.block().cells();
    let blank = contents.codes[0][..cells].to_vec();
    contents.codes[0].chunks_exact_mut(cells).take(400).for_each(|row| row.copy_from_slice(&blank));
    let db = database(&folder, &contents);
    let path = folder.path("blocks.rshn");
    build_index(&db, 0, IndexSettings { ef_search: 1, recall: 0.0, ..GRAPH }, &path).unwrap();
    let index = FrozenIndex::open(&path, &db).unwrap();
    index.verify().unwrap();
    let (mut scratch, mut query) = (SearchScratch::default(), vec![0.0; db.block().len()]);
    db.read_block(0, 0, &mut query).unwrap();
    let found = index.search(&db, &query, 30, Some(3), &mut scratch).unwrap();
    assert!(found.iter().map(|n| n.image).eq((0..31).filter(|&i| i != 3)), "equals come by ascending id");
    let all = index.search(&db, &query, 600, None, &mut scratch).unwrap().to_vec();
    assert_eq!(all, exact_scan(&db, 0, &query, 600, None, &mut scratch).unwrap());
}

#[test]
fn building_twice_gives_the_same_file() {
    let folder = Folder::new("twice");
    let db = database(&folder, &clustered(800, 10, 100, 6));
    let build = |name: &str| {
        build_index(&db, 0, GRAPH, folder.path(name)).unwrap();
        std::fs::read(folder.path(name)).unwrap()
    };
    assert!(build("a") == build("b"));
}

#[test]
fn a_small_database_is_scanned() {
    let folder = Folder::new("small");
    let db = database(&folder, &clustered(300, 10, 100, 7));
    let path = folder.path("blocks.rshn");
    let summary = build_index(&db, 3, IndexSettings::default(), &path).unwrap();
    assert_eq!((summary.nodes, summary.recall, summary.position), (None, 1.0, 3));
    let index = FrozenIndex::open(&path, &db).unwrap();
    index.verify().unwrap();
    let (mut a, mut b, query) = (SearchScratch::default(), SearchScratch::default(), vec![0.1; db.block().len()]);
    let found = index.search(&db, &query, 9, None, &mut a).unwrap();
    assert_eq!(found, exact_scan(&db, 3, &query, 9, None, &mut b).unwrap());
}

/// As few nodes are kept as reach the recall asked for; a graph that cannot reach it, or must be looked at too much for
/// it, is not used.
#[test]
fn searches_are_as_wide_as_the_recall_asks_for() {
    let folder = Folder::new("width");
    let db = database(&folder, &clustered(3000, 40, 300, 21));
    let path = folder.path("blocks.rshn");
    let built = |recall, ef_search| build_index(&db, 0, IndexSettings { recall, ef_search, ..GRAPH }, &path).unwrap();
    let (loose, strict) = (built(0.5, 512), built(0.999, 512));
    assert!(loose.ef_search < strict.ef_search, "{loose:?} {strict:?}");
    for (summary, wanted) in [(loose, 0.5), (strict, 0.999)] {
        assert!(summary.nodes.is_some() && summary.recall.min(summary.recall_excluding_self) >= wanted);
    }
    let narrower = built(0.999, strict.ef_search * 2 / 3);
    assert_eq!((narrower.nodes, narrower.recall), (None, 1.0));
    let seen =
        |most_visited| build_index(&db, 0, IndexSettings { recall: 0.999, most_visited, ..GRAPH }, &path).unwrap();
    assert_eq!((seen(0.9).nodes, seen(0.01).nodes), (strict.nodes, None));
    FrozenIndex::open(&path, &db).unwrap().verify().unwrap();
}

#[test]
fn a_warm_search_allocates_nothing() {
    let folder = Folder::new("warm");
    let db = database(&folder, &clustered(1500, 20, 300, 8));
    let path = folder.path("blocks.rshn");
    for exact_up_to in [0, 2000] {
        build_index(&db, 0, IndexSettings { exact_up_to, ..GRAPH }, &path).unwrap();
        let index = FrozenIndex::open(&path, &db).unwrap();
        let (mut scratch, mut query) = (SearchScratch::default(), vec![0.0; db.block().len()]);
        let mut search = |image: u32| {
            db.read_block(image, 0, &mut query).unwrap();
            index.search(&db, &query, 20, Some(image), &mut scratch).unwrap();
        };
        search(0);
        assert_eq!(allocations(|| (1..50).for_each(search)), 0);
    }
}

/// What opening and searching take of the heap: the codebook padded, the query, a bit a node, the beam, and the lists of
/// sections. Nothing grows with the codes or the graph.
#[test]
fn opening_and_searching_take_little_of_the_heap() {
    let folder = Folder::new("heap");
    let (images, entries) = (4000, 300);
    drop(database(&folder, &clustered(images, 40, entries, 13)));
    let (database, path) = (folder.path("blocks.rsdb"), folder.path("blocks.rshn"));
    build_index(&BlockDatabase::open(&database).unwrap(), 0, GRAPH, &path).unwrap();
    let ((), grown) = growth(|| {
        let db = BlockDatabase::open(&database).unwrap();
        let index = FrozenIndex::open(&path, &db).unwrap();
        let (mut scratch, query) = (SearchScratch::default(), vec![0.1; db.block().len()]);
        index.search(&db, &query, 20, None, &mut scratch).unwrap();
    });
    let (codebook, query) = (8 * entries * size_of::<f32>(), 16 * 8 * size_of::<f32>());
    assert!(grown <= codebook + query + images / 8 + GRAPH.ef_search * 16 + 8192, "{grown} bytes");
}

#[test]
fn what_cannot_be_asked_is_refused() {
    let folder = Folder::new("refused");
    let db = database(&folder, &clustered(50, 5, 30, 9));
    let other_folder = Folder::new("refused-other");
    let other = database(&other_folder, &clustered(50, 5, 30, 10));
    let path = folder.path("blocks.rshn");
    for exact_up_to in [0, 2000] {
        build_index(&db, 0, IndexSettings { exact_up_to, ..GRAPH }, &path).unwrap();
        let index = FrozenIndex::open(&path, &db).unwrap();
        let (mut scratch, query) = (SearchScratch::default(), vec![0.0; db.block().len()]);
        let mut usage = |db: &BlockDatabase, query: &[f32], k, exclude| {
            let error = index.search(db, query, k, exclude, &mut scratch).unwrap_err();
            assert!(matches!(error, Error::Usage(_)), "{error}");
            error.to_string()
        };
        let text = usage(&db, &query, 50, Some(7));
        assert!(text.contains("50 neighbours") && text.contains("49 pictures"), "{text}");
        usage(&db, &query, 51, None);
        usage(&db, &query, 51, Some(50));
        usage(&db, &query[1..], 5, None);
        usage(&db, &vec![f32::NAN; query.len()], 5, None);
        usage(&db, &vec![f32::INFINITY; query.len()], 5, None);
        usage(&other, &query, 5, None);
        assert_eq!(index.search(&db, &query, 50, Some(50), &mut scratch).unwrap().len(), 50);
        assert_eq!(index.search(&db, &query, 49, Some(0), &mut scratch).unwrap().len(), 49);
        assert_eq!(index.search(&db, &query, 0, None, &mut scratch).unwrap(), []);
        assert!(matches!(FrozenIndex::open(&path, &other), Err(Error::File { .. })));
    }
    assert!(matches!(build_index(&db, 4, GRAPH, &path), Err(Error::Usage(_))));
    assert!(matches!(build_index(&db, 0, IndexSettings { connections: 1, ..GRAPH }, &path), Err(Error::Usage(_))));
    assert!(matches!(FrozenIndex::open(folder.path("none"), &db), Err(Error::File { .. })));
    assert!(matches!(BlockDatabase::open(&path), Err(Error::File { .. })), "an index is no database");
    assert!(FrozenIndex::open(db.path(), &db).is_err(), "a database is no index");
    assert!(BlockDatabase::open(&folder.0).is_err(), "nor is a folder");
}

/// A file damaged at sampled places is never taken for whole, and never makes anything panic.
#[test]
fn damage_is_found() {
    for entries in [40, 300] {
        let folder = Folder::new(&format!("damage{entries}"));
        let db = database(&folder, &clustered(120, 5, entries, 11));
        let index = folder.path("blocks.rshn");
        build_index(&db, 0, GRAPH, &index).unwrap();
        let (mut scratch, query) = (SearchScratch::default(), vec![0.2; db.block().len()]);
        let damaged = folder.path("damaged");
        damage(db.path(), &damaged, |path| {
            let db = BlockDatabase::open(path)?;
            let searched = exact_scan(&db, 0, &query, 20, None, &mut scratch).map(|_| ());
            let read = db.read_block(0, 1, &mut vec![0.0; query.len()]);
            db.verify().and(searched).and(read)
        });
        damage(&index, &damaged, |path| {
            let index = FrozenIndex::open(path, &db)?;
            let searched = index.search(&db, &query, 20, None, &mut scratch).map(|_| ());
            index.verify().and(searched)
        });
    }
}

/// Flips bits of the file at `whole` and cuts it off, at sampled places; `check` must refuse each.
fn damage(whole: &Path, damaged: &Path, mut check: impl FnMut(&Path) -> rissole::Result<()>) {
    let bytes = std::fs::read(whole).unwrap();
    let mut refuse = |bytes: &[u8], what: &str| {
        std::fs::write(damaged, bytes).unwrap();
        match check(damaged) {
            Err(Error::File { .. }) => (),
            other => panic!("{what}: {other:?}"),
        }
    };
    for at in (0..400).step_by(3).chain((400..bytes.len()).step_by(197)) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        refuse(&flipped, &format!("bit {} of byte {at} of {}", at % 8, bytes.len()));
    }
    for length in [0, 1, 63, 64, 100, 4095, 4096].into_iter().chain((0..bytes.len()).step_by(2003)) {
        refuse(&bytes[..length], &format!("{length} bytes of {}", bytes.len()));
    }
    std::fs::write(damaged, &bytes).unwrap();
    check(damaged).unwrap();
}

/// Graphs with right checksums that lie: offsets and ids out of bounds in every word.
#[test]
fn a_hostile_graph_ends_in_an_error() {
    let folder = Folder::new("hostile");
    let db = database(&folder, &clustered(120, 5, 40, 12));
    let path = folder.path("blocks.rshn");
    build_index(&db, 0, GRAPH, &path).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let (mut scratch, query) = (SearchScratch::default(), vec![0.2; db.block().len()]);
    let (mut refused, mut tried) = (0, 0);
    for at in (4096..whole.len() - 4).step_by(84) {
        for value in [0, 77, 119, 120, u32::MAX] {
            let mut lying = whole.clone();
            lying[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
            if lying == whole {
                continue;
            }
            mend_checksums(&mut lying);
            std::fs::write(&path, &lying).unwrap();
            tried += 1;
            let result = FrozenIndex::open(&path, &db).and_then(|index| {
                let searched = index.search(&db, &query, 20, Some(1), &mut scratch);
                assert!(searched.is_err() || searched.is_ok_and(|found| found.iter().all(|n| n.image < 120)));
                index.verify()
            });
            refused += usize::from(result.is_err());
        }
    }
    // A changed link or recall may be a valid graph still.
    assert!(refused * 4 > tried, "{refused} of {tried}");
}
