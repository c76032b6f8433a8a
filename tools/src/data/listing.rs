//! What a source holds, before anything is decoded.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use image::RgbImage;

use super::picture::Checked;

/// Reads one picture, or says what is wrong with it.
type Reader = Box<dyn Fn(usize) -> Checked<RgbImage> + Sync>;

/// Extensions of files that claim to be pictures. Those that the decoder does not know are listed too, so that
/// they are reported and do not just vanish.
const EXTENSIONS: [&str; 10] = ["png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic"];

/// One picture of a source; `T` is what its reader needs.
pub(super) struct Item<T> {
    pub name: String,
    pub class: String,
    pub handle: T,
}

/// All pictures of a source in their order.
pub(super) struct Listing {
    pub names: Vec<String>,
    pub classes: Vec<u32>,
    pub class_names: Vec<String>,
    reader: Reader,
}

impl Listing {
    /// Sorts `items` by name, and their classes too.
    pub fn sorted<T: Sync + Send + 'static>(
        mut items: Vec<Item<T>>,
        read: impl Fn(&T) -> Checked<RgbImage> + Sync + 'static,
    ) -> Self {
        items.sort_by(|a, b| a.name.cmp(&b.name));
        let class_names = items.iter().map(|item| item.class.clone()).collect::<BTreeSet<_>>();
        Self::ordered(items, class_names.into_iter().collect(), read)
    }

    /// Keeps the order of `items`, whose classes are all among `class_names`.
    pub fn ordered<T: Sync + Send + 'static>(
        items: Vec<Item<T>>,
        class_names: Vec<String>,
        read: impl Fn(&T) -> Checked<RgbImage> + Sync + 'static,
    ) -> Self {
        let index: HashMap<&str, u32> = class_names.iter().map(String::as_str).zip(0..).collect();
        let classes = items.iter().map(|item| index[item.class.as_str()]).collect();
        let (names, handles): (Vec<_>, Vec<_>) = items.into_iter().map(|item| (item.name, item.handle)).unzip();
        Self { names, classes, class_names, reader: Box::new(move |i| read(&handles[i])) }
    }

    pub fn len(&self) -> usize {
        self.names.len()
    }

    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub fn truncate(&mut self, limit: usize) {
        self.names.truncate(limit);
        self.classes.truncate(limit);
    }

    /// Reads picture `index`; several threads may do so at once.
    pub fn read(&self, index: usize) -> Checked<RgbImage> {
        (self.reader)(index)
    }
}

/// Whether a file of this name is to be read: it claims to be a picture, and is not hidden.
pub(super) fn is_picture(name: &str) -> bool {
    let hidden = |part: &str| part.starts_with('.') || part == "__MACOSX";
    let extension = Path::new(name).extension().and_then(|e| e.to_str()).unwrap_or_default();
    EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known)) && !name.split('/').any(hidden)
}

/// The class of each of `names`: the first folder below the one that all have in common, or `.`.
pub(super) fn classes_of(names: &[String]) -> Vec<String> {
    let folders: Vec<Vec<&str>> = names.iter().map(|name| name.rsplit('/').skip(1).collect()).collect();
    let at = |folder: &Vec<&str>, depth: usize| folder.len().checked_sub(depth + 1).map(|i| folder[i].to_owned());
    let shared = |depth: usize| {
        let first = folders.first().and_then(|folder| at(folder, depth));
        first.is_some() && folders.iter().all(|folder| at(folder, depth) == first)
    };
    let common = (0..).take_while(|&depth| shared(depth)).count();
    folders.iter().map(|folder| at(folder, common).unwrap_or_else(|| ".".into())).collect()
}
