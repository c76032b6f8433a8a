//! Pictures for training: five layouts of folders and archives, all read into one [`Dataset`].
//!
//! Order is reproducible: pictures are sorted by name, byte by byte, whatever the file system or the thread
//! count. A picture that cannot be decoded is named in [`Dataset::skipped`] and is not fatal; a set without any
//! picture is.

mod archive;
mod cifar10;
mod folder;
mod listing;
mod picture;
mod prepared;
mod split;

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use rissole::{Error, Result};
use serde::{Deserialize, Serialize};

use listing::Listing;
pub use split::{Split, split};

/// Longest side of a training picture.
const MAX_SIZE: usize = 4096;
/// Pictures decoded between two reports of progress.
const CHUNK: usize = 256;

/// Square RGB pictures in memory, with their names and classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// Width of every picture, in pixels.
    pub width: usize,
    /// Height of every picture, in pixels.
    pub height: usize,
    /// Pixels, N×H×W×3, sRGB.
    pub pixels: Vec<u8>,
    /// Name of each picture: its path below the source, with `/` between parts.
    pub names: Vec<String>,
    /// Class of each picture, an index into `class_names`.
    pub classes: Vec<u32>,
    /// Names of the classes; `.` is the class of pictures in no sub-folder.
    pub class_names: Vec<String>,
    /// Files left out, and the fault of each.
    pub skipped: Vec<(String, String)>,
}

/// How the pictures of a source are arranged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// A folder of pictures. The first folder below it is a picture's class.
    Folder,
    /// A zip of pictures, stored or deflated, with classes as in [`Self::Folder`].
    Zip,
    /// CelebA: `img_align_celeba/`, and maybe `list_eval_partition.txt`. Pictures are ordered by partition,
    /// then by name; the classes are the partitions `train`, `validation`, `test`.
    #[serde(rename = "celeba")]
    CelebA,
    /// ImageNet: `train/nXXXXXXXX/*.JPEG`; the classes are the synsets.
    #[serde(rename = "imagenet")]
    ImageNet,
    /// CIFAR-10 binary: `*_batch*.bin`, and maybe `batches.meta.txt` with the names of the classes.
    Cifar10,
}

/// Where pictures come from, and how they are brought to one size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// A folder, or a zip.
    pub path: PathBuf,
    /// How it is arranged; found out where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<Layout>,
    /// Side of the square that pictures are scaled to, in pixels.
    pub size: usize,
    /// Reads only so many pictures, the first in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Side of the centred square that is cut out before scaling, in source pixels; the largest that fits, where
    /// it is not given. A picture that is smaller is skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop: Option<usize>,
}

/// Reads all pictures of `source` on rayon's threads; `progress` hears of pictures read and of their total.
///
/// # Errors
/// [`Error::Usage`] for a size, crop or limit that cannot be, or pictures that memory cannot hold;
/// [`Error::File`] where the source does not have its layout or has no readable picture; [`Error::Io`].
pub fn load(source: &Source, progress: &mut dyn FnMut(usize, usize)) -> Result<Dataset> {
    if !(1..=MAX_SIZE).contains(&source.size) {
        return Err(Error::Usage(format!("size of pictures must be within 1…{MAX_SIZE}")));
    }
    if source.crop == Some(0) || source.limit == Some(0) {
        return Err(Error::Usage("crop and limit of pictures must not be 0".into()));
    }
    let listing = list(source)?;
    if listing.is_empty() {
        return Err(Error::file(&source.path, "no pictures found"));
    }
    let dataset = read(source, &listing, progress)?;
    match (dataset.names.is_empty(), dataset.skipped.first()) {
        (true, Some((name, fault))) => {
            Err(Error::file(&source.path, format!("not one picture can be read; {name}: {fault}")))
        }
        _ => Ok(dataset),
    }
}

fn list(source: &Source) -> Result<Listing> {
    let path = &source.path;
    let mut listing = match source.layout.map_or_else(|| detect(path), Ok)? {
        Layout::Folder => folder::list(path),
        Layout::Zip => archive::list(path),
        Layout::CelebA => folder::list_celeba(path),
        Layout::ImageNet => folder::list_imagenet(path),
        Layout::Cifar10 => cifar10::list(path),
    }?;
    listing.truncate(source.limit.unwrap_or(usize::MAX));
    Ok(listing)
}

fn detect(path: &Path) -> Result<Layout> {
    let metadata = path.metadata().map_err(|e| Error::io(path, e))?;
    Ok(if metadata.is_file() {
        Layout::Zip
    } else if path.join(folder::CELEBA_PICTURES).is_dir() {
        Layout::CelebA
    } else if !cifar10::batches(path)?.is_empty() {
        Layout::Cifar10
    } else if !folder::synsets(&path.join(folder::IMAGENET_TRAIN))?.is_empty() {
        Layout::ImageNet
    } else {
        Layout::Folder
    })
}

fn read(source: &Source, listing: &Listing, progress: &mut dyn FnMut(usize, usize)) -> Result<Dataset> {
    let total = listing.len();
    let mut dataset = Dataset {
        width: source.size,
        height: source.size,
        pixels: Vec::new(),
        names: Vec::with_capacity(total),
        classes: Vec::with_capacity(total),
        class_names: listing.class_names.clone(),
        skipped: Vec::new(),
    };
    let bytes = total.checked_mul(source.size * source.size * 3);
    bytes.and_then(|bytes| dataset.pixels.try_reserve_exact(bytes).ok()).ok_or_else(|| {
        Error::Usage(format!("{total} pictures of {0}×{0} do not fit in memory; set a limit", source.size))
    })?;
    progress(0, total);
    for start in (0..total).step_by(CHUNK) {
        let end = total.min(start + CHUNK);
        let pictures: Vec<_> =
            (start..end).into_par_iter().map(|i| picture::fit(&listing.read(i)?, source.size, source.crop)).collect();
        for (i, picture) in (start..).zip(pictures) {
            match picture {
                Ok(picture) => {
                    dataset.pixels.extend_from_slice(&picture);
                    dataset.names.push(listing.names[i].clone());
                    dataset.classes.push(listing.classes[i]);
                }
                Err(fault) => dataset.skipped.push((listing.names[i].clone(), fault)),
            }
        }
        progress(end, total);
    }
    Ok(dataset)
}

#[cfg(test)]
mod tests;
