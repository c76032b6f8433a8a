//! CIFAR-10, binary version (Krizhevsky 2009): records of a label and 32×32 pixels, plane by plane.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::{Rgb, RgbImage};
use rissole::{Error, Result};

use super::folder::entries;
use super::listing::{Item, Listing};
use super::picture::{MAX_FILE_BYTES, read_bounded};

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;
const RECORD: usize = 1 + 3 * PLANE;
const CLASSES: usize = 10;
const CLASS_NAMES_FILE: &str = "batches.meta.txt";

/// All records of all batches; the test batch comes last.
pub(super) fn list(root: &Path) -> Result<Listing> {
    let class_names = class_names(root)?;
    let mut items = Vec::new();
    for (file, path) in batches(root)? {
        let bytes: Arc<[u8]> = read_bounded(&path, MAX_FILE_BYTES).map_err(|e| Error::io(&path, e))?.into();
        if !bytes.len().is_multiple_of(RECORD) {
            return Err(Error::file(&path, format!("{} bytes are no whole number of records", bytes.len())));
        }
        for record in 0..bytes.len() / RECORD {
            let label = usize::from(bytes[record * RECORD]);
            let class = class_names.get(label);
            let class = class.ok_or_else(|| Error::file(&path, format!("record {record} has the label {label}")))?;
            let (name, handle) = (format!("{file}/{record:05}"), (bytes.clone(), record));
            items.push(Item { name, class: class.clone(), handle });
        }
    }
    Ok(Listing::ordered(items, class_names, |(bytes, record)| Ok(unpack(&bytes[record * RECORD + 1..][..3 * PLANE]))))
}

/// Names (with their paths) of the files `*_batch*.bin` in `root`, sorted.
pub(super) fn batches(root: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut batches = entries(root)?;
    batches.retain(|(name, path)| name.contains("_batch") && name.ends_with(".bin") && path.is_file());
    batches.sort();
    Ok(batches)
}

/// The names in the set's own list, or the labels as they are.
fn class_names(root: &Path) -> Result<Vec<String>> {
    let path = root.join(CLASS_NAMES_FILE);
    if !path.exists() {
        return Ok((0..CLASSES).map(|label| label.to_string()).collect());
    }
    let bytes = read_bounded(&path, MAX_FILE_BYTES).map_err(|e| Error::io(&path, e))?;
    let text = String::from_utf8_lossy(&bytes);
    let names: Vec<String> = text.lines().map(|line| line.trim().to_owned()).filter(|name| !name.is_empty()).collect();
    let distinct = names.iter().collect::<std::collections::BTreeSet<_>>().len();
    if (names.len(), distinct) != (CLASSES, CLASSES) {
        return Err(Error::file(&path, format!("must name {CLASSES} different classes")));
    }
    Ok(names)
}

fn unpack(planes: &[u8]) -> RgbImage {
    RgbImage::from_fn(SIDE as u32, SIDE as u32, |x, y| {
        let pixel = y as usize * SIDE + x as usize;
        Rgb([planes[pixel], planes[PLANE + pixel], planes[2 * PLANE + pixel]])
    })
}
