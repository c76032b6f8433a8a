//! Pictures that lie on the device, and the codes of their latents.

use super::super::codes::CodeSet;
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

/// Latents of one size, as codes.
#[derive(Debug)]
pub struct Codes {
    height: usize,
    width: usize,
    channels: usize,
    codebook: Buffer,
    codes: Buffer,
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

    /// See [`Backend::codes`](super::super::Backend::codes).
    pub(super) fn upload_codes(&self, set: &CodeSet) -> Codes {
        let &CodeSet { height, width, channels, ref codebook, ref codes } = set;
        Codes { height, width, channels, codebook: self.upload_words(codebook), codes: self.upload_words(codes) }
    }

    /// See [`Backend::cut_latents`](super::super::Backend::cut_latents).
    pub(super) fn cut_codes(&self, codes: &Codes, [rows, columns]: [usize; 2], cuts: &Buffer, out: &Buffer) {
        let Codes { height, width, channels, codebook, codes } = codes;
        assert_eq!(out.len(), cuts.len() / Cut::WORDS * rows * columns * channels, "values of all cuts");
        let arguments = arguments![height, width, channels, rows, columns, cuts, codes, codebook, out];
        self.each("cut_latents", out.len(), &arguments);
    }
}
