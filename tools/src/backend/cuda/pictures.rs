//! Pictures that lie on the device.

use super::super::pictures::{Cut, PictureSet};
use super::memory::Buffer;
use super::{Cuda, arguments};

/// Pictures of one size.
#[derive(Debug)]
pub struct Pictures {
    height: usize,
    width: usize,
    pixels: Buffer,
}

impl Cuda {
    /// See [`Backend::pictures`](super::super::Backend::pictures).
    pub(super) fn upload_pictures(&self, set: &PictureSet) -> Pictures {
        Pictures { height: set.height, width: set.width, pixels: self.upload_words(&set.pixels) }
    }

    /// See [`Backend::cut_out`](super::super::Backend::cut_out).
    pub(super) fn cut_pictures(&self, pictures: &Pictures, [rows, columns]: [usize; 2], cuts: &Buffer, out: &Buffer) {
        assert_eq!(out.len(), cuts.len() / Cut::WORDS * rows * columns * 3, "values of all cuts");
        let Pictures { height, width, pixels } = pictures;
        self.each("cut_out", out.len(), &arguments![height, width, rows, columns, cuts, pixels, out]);
    }
}
