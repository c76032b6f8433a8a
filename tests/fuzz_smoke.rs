//! The fuzz targets on their corpus, and on a few thousand changes of it: shows that they work, and finds the shallow.

mod common;
#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::fs;
use std::path::Path;

use common::Random;

/// Runs `target` on the corpus `name` and on `rounds` changed copies of it.
fn smoke(name: &str, rounds: usize, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let corpus: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    assert!(!corpus.is_empty(), "{name}");
    corpus.iter().for_each(|data| target(data));
    let mut random = Random(name.len() as u64);
    for round in 0..rounds {
        let mut data = corpus[round % corpus.len()].clone();
        for _ in 0..=random.below(4) {
            change(&mut data, &mut random);
        }
        target(&data);
    }
}

/// One change as a fuzzer makes them; half of them where bytes are dense: at the start or in a page that is not empty.
fn change(data: &mut Vec<u8>, random: &mut Random) {
    if data.is_empty() {
        return;
    }
    let mut at = random.below(data.len());
    for _ in 0..8 {
        if data[at] != 0 {
            break;
        }
        let end = if random.below(2) == 0 { data.len() } else { data.len().min(512) };
        at = random.below(end);
    }
    match random.below(6) {
        0 => data[at] ^= 1 << random.below(8),
        1 => data[at] = random.next() as u8,
        2 | 3 => {
            let values = [0, 1, 11, 12, 255, u32::MAX / 2, u32::MAX];
            let (word, value) = (at / 4 * 4, values[random.below(values.len())]);
            data.iter_mut().skip(word).zip(value.to_le_bytes()).for_each(|(byte, new)| *byte = new);
        }
        4 => data.truncate(at),
        _ => {
            let (from, length) = (random.below(data.len()), random.below(64));
            let piece: Vec<u8> = data[from..].iter().take(length).copied().collect();
            data.iter_mut().skip(at).zip(piece).for_each(|(byte, new)| *byte = new);
        }
    }
}

#[test]
fn containers() {
    smoke("container", 2000, targets::container);
}

#[test]
fn databases() {
    smoke("database", 2000, targets::database);
}

#[test]
fn indexes() {
    smoke("index", 2000, targets::index);
}

#[test]
fn manifests() {
    smoke("manifest", 2000, targets::manifest);
}

#[test]
fn packed_networks() {
    smoke("packed", 2000, targets::packed);
}

#[test]
fn pictures() {
    smoke("picture", 1000, targets::picture);
}
