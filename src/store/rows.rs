//! Rows of codes, read where they lie in the file or by way of a buffer.

use std::ops::Range;

use bytemuck::Pod;
use half::f16;

use crate::container::{Container, Section};
use crate::error::Result;

/// Codes from one row to the next for rows of `length` codes: see the module documentation of the store.
pub(super) fn stride<T>(length: usize) -> usize {
    let bytes = length * size_of::<T>();
    let padded = if bytes < 64 { bytes.next_power_of_two() } else { bytes.next_multiple_of(64) };
    padded / size_of::<T>()
}

/// The sections of the codes of one position.
#[derive(Debug)]
pub(super) enum Codes {
    U8(Section<u8>),
    U16(Section<u16>),
}

/// The codes of all pictures at one position. A view, cheap to copy.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    container: &'a Container,
    codes: &'a Codes,
    images: u32,
    length: usize,
}

/// Where a row is read to that is not in memory; to be kept between reads.
#[derive(Debug, Default)]
pub struct RowBuffer {
    bytes: Vec<u8>,
    words: Vec<u16>,
}

/// The codes of one block: see [`BlockDatabase::row`](super::BlockDatabase::row).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Row<'a> {
    /// Of a codebook with at most 256 entries.
    U8(&'a [u8]),
    /// Of a larger one, or values: the bits of f16.
    U16(&'a [u16]),
}

impl<'a> Rows<'a> {
    /// Rows that are read ahead.
    pub(crate) const AHEAD: u32 = 512;

    pub(super) fn new(container: &'a Container, codes: &'a Codes, images: u32, length: usize) -> Self {
        Self { container, codes, images, length }
    }

    /// The codes of `image`, where they lie or in `buffer`.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) where they cannot be read.
    ///
    /// # Panics
    /// Where there is no such picture.
    #[inline]
    pub fn row<'b>(&self, image: u32, buffer: &'b mut RowBuffer) -> Result<Row<'b>>
    where
        'a: 'b,
    {
        let row = match self.codes {
            Codes::U8(codes) => self.row_of(codes, image, &mut buffer.bytes)?.map(Row::U8),
            Codes::U16(codes) => self.row_of(codes, image, &mut buffer.words)?.map(Row::U16),
        };
        Ok(row.unwrap_or_else(|| panic!("picture {image} of {}", self.images)))
    }

    #[inline]
    fn row_of<'b, T: Pod>(&self, codes: &'b Section<T>, image: u32, buffer: &'b mut Vec<T>) -> Result<Option<&'b [T]>>
    where
        'a: 'b,
    {
        self.container.read(codes, self.start::<T>(image), self.length, buffer)
    }

    /// Where the row of `image` starts in its section.
    #[inline]
    fn start<T>(&self, image: u32) -> u64 {
        u64::from(image) * stride::<T>(self.length) as u64
    }

    /// The codes of `image` where they lie in memory.
    #[inline]
    pub(crate) fn in_place(&self, image: u32) -> Option<Row<'a>> {
        match self.codes {
            Codes::U8(codes) => self.container.in_place(codes, self.start::<u8>(image), self.length).map(Row::U8),
            Codes::U16(codes) => self.container.in_place(codes, self.start::<u16>(image), self.length).map(Row::U16),
        }
    }

    /// Tells the system that the row of `image` and those of the next [`Self::AHEAD`] will be read.
    pub(crate) fn advise_needed(&self, image: u32) {
        let ahead = Self::AHEAD as usize;
        match self.codes {
            Codes::U8(codes) => {
                self.container.advise_needed(codes, self.start::<u8>(image), ahead * stride::<u8>(self.length));
            }
            Codes::U16(codes) => {
                self.container.advise_needed(codes, self.start::<u16>(image), ahead * stride::<u16>(self.length));
            }
        }
    }

    /// Gives `take` the rows of `images` as they lie in the file, padding included, in order and in pieces.
    pub(super) fn each_piece(&self, images: Range<u32>, mut take: impl FnMut(&[u8])) -> Result<()> {
        match self.codes {
            Codes::U8(codes) => self.each_piece_of(codes, images, take),
            Codes::U16(codes) => self.each_piece_of(codes, images, |codes| take(bytemuck::cast_slice(codes))),
        }
    }

    fn each_piece_of<T: Pod>(&self, codes: &Section<T>, images: Range<u32>, take: impl FnMut(&[T])) -> Result<()> {
        self.container.each_piece_of(codes, self.start::<T>(images.start)..self.start::<T>(images.end), take)
    }

    /// Whether every code (padding included) is below `entries`.
    pub(crate) fn all_below(&self, entries: usize) -> Result<bool> {
        let (mut below, all) = (true, 0..self.images);
        match self.codes {
            Codes::U8(codes) => {
                self.each_piece_of(codes, all, |codes| below &= codes.iter().all(|&code| usize::from(code) < entries))?;
            }
            Codes::U16(codes) => {
                self.each_piece_of(codes, all, |codes| below &= codes.iter().all(|&code| usize::from(code) < entries))?;
            }
        }
        Ok(below)
    }

    /// Whether every code is the bits of a finite f16.
    pub(crate) fn all_finite(&self) -> Result<bool> {
        let mut finite = true;
        if let Codes::U16(codes) = self.codes {
            self.each_piece_of(codes, 0..self.images, |codes| {
                finite &= codes.iter().all(|&code| f16::from_bits(code).is_finite());
            })?;
        }
        Ok(finite)
    }

    pub(super) fn padding_is_zero(&self) -> Result<bool> {
        let (stride, length) = match self.codes {
            Codes::U8(_) => (stride::<u8>(self.length), self.length),
            Codes::U16(_) => (2 * stride::<u16>(self.length), 2 * self.length),
        };
        let (mut zero, mut at) = (true, 0);
        self.each_piece(0..self.images, |bytes| {
            for &byte in bytes {
                zero &= at < length || byte == 0;
                at = if at + 1 == stride { 0 } else { at + 1 };
            }
        })?;
        Ok(zero)
    }
}

impl<'a> Row<'a> {
    /// Number of codes.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(codes) => codes.len(),
            Self::U16(codes) => codes.len(),
        }
    }

    /// True for a row without codes, which no database has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The codes as bytes, little-endian.
    pub(crate) fn bytes(self) -> &'a [u8] {
        match self {
            Self::U8(codes) => codes,
            Self::U16(codes) => bytemuck::cast_slice(codes),
        }
    }

    /// The codes in order. They may lie beyond the codebook: look up with `get`.
    pub fn iter(self) -> impl Iterator<Item = usize> + use<'a> {
        (0..self.len()).map(move |i| match self {
            Self::U8(codes) => usize::from(codes[i]),
            Self::U16(codes) => usize::from(codes[i]),
        })
    }
}
