//! Folders of pictures, and the two well-known sets that are folders: CelebA and ImageNet.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rissole::{Error, Result};

use super::listing::{Item, Listing, classes_of, is_picture};
use super::picture;

/// Folder of CelebA's aligned pictures.
pub(super) const CELEBA_PICTURES: &str = "img_align_celeba";
/// Folder of ImageNet's training pictures.
pub(super) const IMAGENET_TRAIN: &str = "train";

const CELEBA_PARTITION: &str = "list_eval_partition.txt";
const CELEBA_CLASSES: [&str; 3] = ["train", "validation", "test"];
/// Folders within folders that are followed.
const MAX_DEPTH: usize = 16;
/// Largest partition list that is read; CelebA's own has 2.8 MB.
const MAX_PARTITION_BYTES: u64 = 64 << 20;

/// All pictures below `root`.
pub(super) fn list(root: &Path) -> Result<Listing> {
    let (names, paths): (Vec<_>, Vec<_>) = pictures_below(root)?.into_iter().unzip();
    let classes = classes_of(&names);
    let items = names.into_iter().zip(classes).zip(paths);
    let items = items.map(|((name, class), handle)| Item { name, class, handle }).collect();
    Ok(Listing::sorted(items, |path: &PathBuf| picture::open(path)))
}

/// `root/img_align_celeba`, ordered by the partition where there is a list of it.
pub(super) fn list_celeba(root: &Path) -> Result<Listing> {
    let pictures = root.join(CELEBA_PICTURES);
    let partition_file = root.join(CELEBA_PARTITION);
    if !partition_file.exists() {
        return list(&pictures);
    }
    let partition = read_partition(&partition_file)?;
    let mut items = Vec::new();
    for (name, handle) in pictures_below(&pictures)? {
        let file = name.rsplit('/').next().unwrap_or_default();
        let part = partition.get(file);
        let part = *part.ok_or_else(|| Error::file(&partition_file, format!("does not list {name}")))?;
        items.push((part, Item { name, class: CELEBA_CLASSES[part].into(), handle }));
    }
    items.sort_by(|(p, a), (q, b)| (p, &a.name).cmp(&(q, &b.name)));
    let items = items.into_iter().map(|(_, item)| item).collect();
    let class_names = CELEBA_CLASSES.map(String::from).to_vec();
    Ok(Listing::ordered(items, class_names, |path: &PathBuf| picture::open(path)))
}

/// The synsets' folders below `root/train`.
pub(super) fn list_imagenet(root: &Path) -> Result<Listing> {
    let train = root.join(IMAGENET_TRAIN);
    let mut items = Vec::new();
    for synset in synsets(&train)? {
        for (name, handle) in pictures_below(&train.join(&synset))? {
            items.push(Item { name: format!("{synset}/{name}"), class: synset.clone(), handle });
        }
    }
    Ok(Listing::sorted(items, |path: &PathBuf| picture::open(path)))
}

/// Sub-folders of `train` that are called like a synset: `n` and eight digits. None where there is no `train`.
pub(super) fn synsets(train: &Path) -> Result<Vec<String>> {
    if !train.is_dir() {
        return Ok(Vec::new());
    }
    let is_synset =
        |name: &str| name.strip_prefix('n').is_some_and(|id| id.len() == 8 && id.bytes().all(|b| b.is_ascii_digit()));
    let entries = entries(train)?.into_iter();
    Ok(entries.filter(|(name, path)| is_synset(name) && path.is_dir()).map(|(name, _)| name).collect())
}

/// Names (with their paths) of the files and folders right below `folder`.
pub(super) fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let entries = std::fs::read_dir(folder).and_then(|dir| dir.collect::<std::io::Result<Vec<_>>>());
    let entries = entries.map_err(|e| Error::io(folder, e))?.into_iter();
    Ok(entries.map(|e| (e.file_name().to_string_lossy().into_owned(), e.path())).collect())
}

/// All picture files below `root` by their names relative to it. A folder that is a symbolic link is not followed:
/// it might lead back to where it is.
fn pictures_below(root: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut pictures = Vec::new();
    let mut folders = vec![(String::new(), root.to_owned(), 0)];
    while let Some((prefix, folder, depth)) = folders.pop() {
        if depth > MAX_DEPTH {
            return Err(Error::file(folder, "too many folders within folders"));
        }
        for (name, path) in entries(&folder)? {
            let name = format!("{prefix}{name}");
            if path.is_dir() && !path.is_symlink() {
                folders.push((format!("{name}/"), path, depth + 1));
            } else if is_picture(&name) && !path.is_dir() {
                pictures.push((name, path));
            }
        }
    }
    Ok(pictures)
}

/// Lines of `NAME PARTITION`, the partition an index into [`CELEBA_CLASSES`].
fn read_partition(path: &Path) -> Result<HashMap<String, usize>> {
    let bytes = picture::read_bounded(path, MAX_PARTITION_BYTES).map_err(|e| Error::io(path, e))?;
    let text = String::from_utf8(bytes).map_err(|_| Error::file(path, "not a text file"))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(i, line)| {
            let mut words = line.split_whitespace();
            let (name, part) = (words.next(), words.next().and_then(|p| p.parse().ok()));
            name.map(str::to_owned)
                .zip(part.filter(|&part| part < CELEBA_CLASSES.len()))
                .ok_or_else(|| Error::file(path, format!("line {} is not a file name and 0, 1 or 2", i + 1)))
        })
        .collect()
}
