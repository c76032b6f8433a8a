//! Pictures for the tiny bundle.

use std::path::Path;

use rissole_train::data::Dataset;

use crate::common::{IMAGES, Random};

/// Pictures of them that are held out.
pub const HELD_OUT: usize = 5;

/// Writes random pictures: as many to train on as the tiny bundle's database holds, and some held out.
pub fn write(path: &Path) {
    let mut random = Random(3);
    let (width, height, count) = (30, 16, IMAGES + HELD_OUT);
    let dataset = Dataset {
        width,
        height,
        pixels: (0..width * height * 3 * count).map(|_| random.below(256) as u8).collect(),
        names: (0..count).map(|i| format!("{i}.png")).collect(),
        classes: vec![0; count],
        class_names: vec![".".into()],
        skipped: vec![],
    };
    dataset.save(path).unwrap();
}
