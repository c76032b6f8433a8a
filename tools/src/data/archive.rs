//! Zips of pictures, read in place.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rissole::{Error, Result};
use zip::ZipArchive;

use super::listing::{Item, Listing, classes_of, is_picture};
use super::picture::{self, Checked, MAX_FILE_BYTES};

type Archive = ZipArchive<BufReader<File>>;

/// All pictures of the zip at `path`.
pub(super) fn list(path: &Path) -> Result<Listing> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|e| Error::file(path, e.to_string()))?;
    let mut indices = Vec::new();
    let mut names = Vec::new();
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(|e| Error::file(path, e.to_string()))?;
        let name = String::from_utf8_lossy(entry.name_raw()).replace('\\', "/");
        if entry.is_file() && is_picture(&name) {
            indices.push(index);
            names.push(name);
        }
    }
    let classes = classes_of(&names);
    let items = names.into_iter().zip(classes).zip(indices);
    let items = items.map(|((name, class), handle)| Item { name, class, handle }).collect();
    // Threads take turns to read: pictures are compressed already, so what costs time is to decode them.
    let archive = Mutex::new(archive);
    Ok(Listing::sorted(items, move |&index| {
        let bytes = read(&mut archive.lock().unwrap_or_else(PoisonError::into_inner), index)?;
        picture::decode(&bytes)
    }))
}

/// The bytes of an entry. Its declared size is not believed: what is read is bounded all the same.
fn read(archive: &mut Archive, index: usize) -> Checked<Vec<u8>> {
    let entry = archive.by_index(index).map_err(|e| e.to_string())?;
    let mut bytes = Vec::with_capacity(entry.size().min(MAX_FILE_BYTES) as usize);
    entry.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(picture::too_large());
    }
    Ok(bytes)
}
