//! Containers taken apart and put together again with right checksums, as an attacker would (layout: the
//! documentation of `container`).
#![allow(dead_code)]

use std::fs;
use std::path::Path;

use rissole::container::{SectionId, source, write};

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> usize {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize
}

/// Where the entries of the section table begin.
fn entries(bytes: &[u8]) -> impl Iterator<Item = usize> + use<> {
    (0..u32_at(bytes, 24) as usize).map(|i| 64 + 32 * i)
}

/// Changes the sections of the container at `path`.
pub fn edit(path: &Path, change: impl FnOnce(&mut Vec<(SectionId, Vec<u8>)>)) {
    let bytes = fs::read(path).unwrap();
    let section = |entry: usize| {
        let id = SectionId(bytes[entry..entry + 4].try_into().unwrap(), u32_at(&bytes, entry + 4));
        (id, bytes[u64_at(&bytes, entry + 8)..][..u64_at(&bytes, entry + 16)].to_vec())
    };
    let mut sections: Vec<_> = entries(&bytes).map(section).collect();
    change(&mut sections);
    let sections = sections.into_iter().map(|(id, bytes)| (id, source(bytes))).collect();
    write(path, bytes[12..16].try_into().unwrap(), sections).unwrap();
}

/// Changes one section of the container at `path`.
pub fn edit_section(path: &Path, kind: &[u8; 4], index: u32, change: impl FnOnce(&mut Vec<u8>)) {
    edit(path, |sections| {
        change(&mut sections.iter_mut().find(|(id, _)| *id == SectionId(*kind, index)).unwrap().1);
    });
}

/// Overwrites a section of u32s from value number `at` on.
pub fn put(path: &Path, kind: &[u8; 4], index: u32, at: usize, values: &[u32]) {
    edit_section(path, kind, index, |bytes| {
        for (i, value) in values.iter().enumerate() {
            bytes[4 * (at + i)..][..4].copy_from_slice(&value.to_le_bytes());
        }
    });
}

/// Changes the bytes of the container at `path`, and then puts the checksum of the header right.
pub fn edit_header(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    let pages = header_pages(&bytes);
    change(&mut bytes);
    mend_header(&mut bytes, pages);
    fs::write(path, bytes).unwrap();
}

/// Writes the right checksums into a container.
pub fn mend_checksums(bytes: &mut [u8]) {
    for entry in entries(bytes) {
        let (offset, length) = (u64_at(bytes, entry + 8), u64_at(bytes, entry + 16));
        let crc = crc32fast::hash(&bytes[offset..offset + length]);
        bytes[entry + 24..entry + 28].copy_from_slice(&crc.to_le_bytes());
    }
    mend_header(bytes, header_pages(bytes));
}

fn header_pages(bytes: &[u8]) -> usize {
    (64 + 32 * u32_at(bytes, 24) as usize).next_multiple_of(4096)
}

fn mend_header(bytes: &mut [u8], pages: usize) {
    bytes[28..32].fill(0);
    let crc = crc32fast::hash(&bytes[..pages]);
    bytes[28..32].copy_from_slice(&crc.to_le_bytes());
}
