//! What is done with bytes of unknown origin: opened, used, verified. Nothing may panic, hang or read out of bounds;
//! an answer, where there is one, is in bounds.
//!
//! Containers are tried twice: as they are, and with length and checksums put right, so that a change of one byte
//! gets past them.

use std::fs;
use std::path::{Path, PathBuf};

use rissole::bundle::manifest::NetworkEntry;
use rissole::container::Container;
use rissole::index::{FrozenIndex, SearchScratch, exact_scan};
use rissole::network::Network;
use rissole::picture::{Parameters, read_png, read_png_text};
use rissole::store::BlockDatabase;
use rissole::{Bundle, Result};

/// A container: any file.
pub fn container(data: &[u8]) {
    each_as_file("container", data, |path| {
        let found = |container: Result<Container>| {
            container.and_then(|container| container.verify()).map_err(|e| e.to_string())
        };
        let mapped = found(Container::open(path, BlockDatabase::KIND));
        assert_eq!(found(Container::open_paged(path, BlockDatabase::KIND)), mapped);
    });
}

/// A block database.
pub fn database(data: &[u8]) {
    each_as_file("database", data, |path| {
        use_database(BlockDatabase::open(path));
        use_database(Container::open_paged(path, BlockDatabase::KIND).and_then(BlockDatabase::of));
    });
}

fn use_database(database: Result<BlockDatabase>) {
    let Ok(database) = database else { return };
    let images = database.images().min(20);
    // What a hostile head asks for is bounded, but not small.
    if database.block().len() > 1 << 16 {
        return;
    }
    let mut block = vec![0.0; database.block().len()];
    for (image, position) in (0..images).flat_map(|image| (0..database.positions().min(9)).map(move |p| (image, p))) {
        let _ = database.read_block(image, position, &mut block);
    }
    let _ = (0..images).filter_map(|image| database.name(image).ok()?).map(|name| name.len()).sum::<usize>();
    block.fill(0.5);
    let mut scratch = SearchScratch::default();
    if let Ok(found) = exact_scan(&database, 0, &block, images as usize, None, &mut scratch) {
        assert!(found.iter().all(|neighbour| neighbour.image < database.images()));
    }
    let _ = database.verify();
}

/// The index of the database that the corpus holds.
pub fn index(data: &[u8]) {
    let database = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|dir| dir.join("tests/golden/blocks.rsdb"));
    let database = database.into_iter().find_map(|path| BlockDatabase::open(path).ok()).expect("the golden database");
    each_as_file("index", data, |path| {
        use_index(FrozenIndex::open(path, &database), &database);
        let paged = Container::open_paged(path, FrozenIndex::KIND);
        use_index(paged.and_then(|container| FrozenIndex::of(container, &database)), &database);
    });
}

fn use_index(index: Result<FrozenIndex>, database: &BlockDatabase) {
    let Ok(index) = index else { return };
    let (block, mut scratch) = (vec![0.5; database.block().len()], SearchScratch::default());
    for (k, exclude) in [(1, None), (5, Some(3)), (11, Some(0)), (12, None)] {
        if let Ok(found) = index.search(database, &block, k, exclude, &mut scratch) {
            assert_eq!(found.len(), k);
            assert!(found.iter().all(|n| n.image < database.images() && Some(n.image) != exclude));
        }
    }
    let _ = index.verify();
}

/// The packed form of the network that `packed.json` describes: its entry in a manifest and the BLAKE3 of its ONNX file.
pub fn packed(data: &[u8]) {
    let described = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|dir| dir.join("fuzz/packed.json"));
    let text = described.into_iter().find_map(|path| fs::read(path).ok()).expect("packed.json");
    let (entry, onnx): (NetworkEntry, String) = serde_json::from_slice(&text).expect("an entry and a hash");
    each_as_file("packed", data, |path| {
        if let Err(error) = Network::load_packed(path, &entry, &onnx).and_then(|network| network.warm_up()) {
            // What a panic within would become.
            assert!(!error.to_string().contains("malformed"), "{error}");
        }
    });
}

/// The manifest of a bundle.
pub fn manifest(data: &[u8]) {
    let folder = place("manifest");
    fs::create_dir_all(&folder).expect("a temporary folder");
    fs::write(folder.join(Bundle::MANIFEST), data).expect("a temporary file");
    if let Ok(bundle) = Bundle::open_manifest(&folder) {
        let sealed = bundle.manifest.to_sealed_json().expect("what was read can be written");
        fs::write(folder.join(Bundle::MANIFEST), sealed).expect("a temporary file");
        let again = Bundle::open_manifest(&folder).expect("what was written can be read");
        assert_eq!(again.manifest, bundle.manifest);
    }
    let _ = fs::remove_dir_all(folder);
}

/// A PNG with the parameters of a picture.
pub fn picture(data: &[u8]) {
    as_file("picture", data, |path| {
        if let Ok(text) = read_png_text(path) {
            let _ = Parameters::from_png(path, &text);
        }
        let _ = read_png(path);
    });
}

/// Lets `work` have `data` as a file, and then once more with the checksums of a container.
fn each_as_file(name: &str, data: &[u8], work: impl Fn(&Path)) {
    as_file(name, data, &work);
    if let Some(mended) = mended(data) {
        as_file(name, &mended, &work);
    }
}

fn as_file(name: &str, data: &[u8], work: impl Fn(&Path)) {
    let path = place(name);
    fs::write(&path, data).expect("a temporary file");
    work(&path);
    let _ = fs::remove_file(path);
}

fn place(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("rissole-fuzz-{name}-{}", std::process::id()))
}

/// `data` with the length and the checksums that a container of it has, where its table lies within it.
pub fn mended(data: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = data.to_vec();
    let total = (bytes.len() as u64).to_le_bytes();
    bytes.get_mut(16..24)?.copy_from_slice(&total);
    let sections = u32::from_le_bytes(bytes.get(24..28)?.try_into().ok()?) as usize;
    let pages = sections.checked_mul(32)?.checked_add(64)?.checked_next_multiple_of(4096)?;
    bytes.get(..pages)?;
    for entry in (0..sections).map(|i| 64 + 32 * i) {
        let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?) as usize);
        let (offset, length) = (number(entry + 8)?, number(entry + 16)?);
        if let Some(section) = offset.checked_add(length).and_then(|end| bytes.get(offset..end)) {
            let crc = crc32fast::hash(section).to_le_bytes();
            bytes[entry + 24..entry + 28].copy_from_slice(&crc);
        }
    }
    bytes[28..32].fill(0);
    let crc = crc32fast::hash(&bytes[..pages]).to_le_bytes();
    bytes[28..32].copy_from_slice(&crc);
    Some(bytes)
}
