//! Every single-bit flip and every truncation of a small database, index and manifest: found by verification, and
//! harmless without it.
//!
//! The files lie in `golden/`, written once: that they still open shows that the formats have not changed unseen.

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use common::counting::{Counting, growth};
use common::{Random, TempDir};
use rissole::bundle::manifest::{Coherence, FileEntry, Grid, ImageSize, NeighbourSource};
use rissole::index::{FrozenIndex, IndexSettings, SearchScratch, build_index};
use rissole::store::{BlockDatabase, DatabaseContents};
use rissole::{BlockGrid, Bundle, Error, LatentShape, Result};

#[global_allocator]
static COUNTING: Counting = Counting;

/// What opening, searching and verifying one of these files may take of the heap at most, whatever its bytes.
const BOUND: usize = 32 << 10;

/// A graph, however few the pictures.
const GRAPH: IndexSettings = IndexSettings {
    connections: 8,
    ef_construction: 200,
    ef_search: 512,
    recall: 0.995,
    most_visited: 1.0,
    exact_up_to: 0,
    recall_k: 20,
};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// A copy of the golden bundle, to be damaged.
fn copy() -> TempDir {
    let dir = TempDir::new();
    for entry in fs::read_dir(golden()).unwrap() {
        let from = entry.unwrap().path();
        fs::copy(&from, dir.path().join(from.file_name().unwrap())).unwrap();
    }
    dir
}

/// Flips every bit of the file at `path` and cuts it off at every length, in place. `check` must find each with
/// [`Error::File`] and stay within [`BOUND`].
fn damage(path: &Path, mut check: impl FnMut() -> Result<()>) {
    let whole = fs::read(path).unwrap();
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    let mut bounded = |what: &str| {
        let (checked, grown) = growth(&mut check);
        assert!(grown <= BOUND, "{what}: {grown} bytes");
        checked
    };
    bounded("whole").unwrap();
    for (at, &byte) in whole.iter().enumerate() {
        for bit in 0..8 {
            put(&mut file, at, byte ^ 1 << bit);
            let what = format!("bit {bit} of byte {at}");
            let checked = bounded(&what);
            assert!(matches!(checked, Err(Error::File { .. })), "{what}: {checked:?}");
        }
        put(&mut file, at, byte);
    }
    bounded("mended").unwrap();
    for length in (0..whole.len()).rev() {
        file.set_len(length as u64).unwrap();
        let what = format!("{length} bytes of {}", whole.len());
        let checked = bounded(&what);
        assert!(matches!(checked, Err(Error::File { .. })), "{what}: {checked:?}");
    }
}

fn put(file: &mut File, at: usize, byte: u8) {
    file.seek(SeekFrom::Start(at as u64)).unwrap();
    file.write_all(&[byte]).unwrap();
}

/// Uses what opens, then verifies it: an answer is an error or in bounds.
fn search(db: &BlockDatabase, index: &FrozenIndex) {
    let (mut scratch, mut block) = (SearchScratch::default(), [0.25; 8]);
    if let Ok(found) = index.search(db, &block, 5, Some(3), &mut scratch) {
        assert!(found.len() == 5 && found.iter().all(|n| n.image < 12 && n.image != 3));
    }
    for image in 0..db.images() {
        let _ = (db.read_block(image, 0, &mut block), db.name(image));
    }
}

#[test]
fn damage_to_a_database_is_found_and_harmless() {
    let dir = copy();
    let (path, index) = (dir.path().join("blocks.rsdb"), dir.path().join("blocks.rshn"));
    damage(&path, || {
        let db = BlockDatabase::open(&path)?;
        if let Ok(index) = FrozenIndex::open(&index, &db) {
            search(&db, &index);
        }
        db.verify()
    });
}

/// Without a codebook.
#[test]
fn damage_to_a_database_of_values_is_found_and_harmless() {
    let dir = TempDir::new();
    let (path, index) = (dir.path().join("blocks.rsdb"), dir.path().join("blocks.rshn"));
    values().write(&path).unwrap();
    build_index(&BlockDatabase::open(&path).unwrap(), 0, GRAPH, &index).unwrap();
    damage(&path, || {
        let db = BlockDatabase::open(&path)?;
        if let Ok(index) = FrozenIndex::open(&index, &db) {
            search(&db, &index);
        }
        db.verify()
    });
}

/// 12 pictures of 2×2×2 values, f16 of magnitude 0.5 to 1.
fn values() -> DatabaseContents {
    let mut random = Random(2);
    DatabaseContents {
        grid: BlockGrid::new(LatentShape { channels: 2, height: 2, width: 2 }, 1, 1, false, 0).unwrap(),
        codebook: vec![],
        thumbnail_codebook: None,
        codes: vec![(0..96).map(|_| random.next() as u16 & 0x83ff | 0x3800).collect()],
        names: vec![],
    }
}

#[test]
fn damage_to_an_index_is_found_and_harmless() {
    let dir = copy();
    let (path, db) = (dir.path().join("blocks.rshn"), BlockDatabase::open(dir.path().join("blocks.rsdb")).unwrap());
    damage(&path, || {
        let index = FrozenIndex::open(&path, &db)?;
        search(&db, &index);
        index.verify()
    });
}

#[test]
fn damage_to_a_manifest_is_found() {
    let dir = copy();
    damage(&dir.path().join(Bundle::MANIFEST), || Bundle::open(dir.path())?.verify());
}

/// Without its seal the manifest is one that a person wrote, and may be changed.
#[test]
fn an_edited_manifest_opens_without_its_seal_only() {
    let dir = copy();
    let path = dir.path().join(Bundle::MANIFEST);
    let text = fs::read_to_string(&path).unwrap().replace("\"tiny\"", "\"edited\"");
    fs::write(&path, &text).unwrap();
    assert!(Bundle::open(dir.path()).unwrap_err().to_string().contains("seal"));
    let (unsealed, _) = text.split_once(",\n  \"seal\"").unwrap();
    fs::write(&path, format!("{unsealed}\n}}")).unwrap();
    assert_eq!(Bundle::open(dir.path()).unwrap().manifest.name, "edited");
}

#[test]
#[ignore = "writes tests/golden anew: after a change of format"]
fn make_the_golden_files() {
    let dir = golden();
    let coherence = Coherence { thumbnail: false, margin: 0, position_embedding: false, previous_block: false };
    let mut manifest = common::manifest(coherence, NeighbourSource::Database);
    manifest.image = ImageSize { width: 4, height: 4 };
    manifest.latent.shape = LatentShape { channels: 2, height: 2, width: 2 };
    manifest.latent.codebook_size = 8;
    manifest.grid = Grid { rows: 1, cols: 1, levels_between: 0 };
    let signatures = manifest.signatures(8).unwrap();
    let n = &mut manifest.networks;
    (n.conditioner.inputs, n.conditioner.outputs) = signatures.conditioner;
    (n.denoiser.inputs, n.denoiser.outputs) = signatures.denoiser;
    (n.decoder.inputs, n.decoder.outputs) = signatures.decoder;
    n.encoder = None;
    // No network is ever loaded here.
    let networks = ["conditioner.onnx", "denoiser.onnx", "decoder.onnx"];
    networks.iter().for_each(|name| fs::write(dir.join(name), format!("{name}\n")).unwrap());

    let mut random = Random(1);
    let contents = DatabaseContents {
        grid: manifest.block_grid().unwrap(),
        codebook: (0..16).map(|_| random.symmetric()).collect(),
        thumbnail_codebook: None,
        codes: vec![(0..48).map(|_| random.below(8) as u16).collect()],
        names: (0..12).map(|i| format!("{i}.png")).collect(),
    };
    contents.write(dir.join("blocks.rsdb")).unwrap();
    let db = BlockDatabase::open(dir.join("blocks.rsdb")).unwrap();
    build_index(&db, 0, GRAPH, dir.join("blocks.rshn")).unwrap();
    let names = networks.into_iter().chain(["blocks.rsdb", "blocks.rshn"]);
    let entry = |name: &str| {
        let content = fs::read(dir.join(name)).unwrap();
        FileEntry { name: name.into(), bytes: content.len() as u64, blake3: blake3::hash(&content).to_string() }
    };
    manifest.files = names.map(entry).collect();
    fs::write(dir.join(Bundle::MANIFEST), manifest.to_sealed_json().unwrap()).unwrap();
    Bundle::open(dir).unwrap().verify().unwrap();
}
