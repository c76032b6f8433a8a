//! Rows of codes as they lie in the file.

use std::ops::Range;

/// Codes from one row to the next for rows of `cells` codes: see the module documentation of the store.
pub(super) fn stride<T>(cells: usize) -> usize {
    let bytes = cells * size_of::<T>();
    let padded = if bytes < 64 { bytes.next_power_of_two() } else { bytes.next_multiple_of(64) };
    padded / size_of::<T>()
}

/// The codes of all pictures at one position. A view, cheap to copy.
#[derive(Debug, Clone, Copy)]
pub struct CodeRows<'a> {
    codes: CodeRow<'a>,
    cells: usize,
    stride: usize,
}

/// The h·w codes of one block, row-major.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CodeRow<'a> {
    /// Of a codebook with at most 256 entries.
    U8(&'a [u8]),
    /// Of a larger one.
    U16(&'a [u16]),
}

impl<'a> CodeRows<'a> {
    pub(super) fn u8(codes: &'a [u8], cells: usize) -> Self {
        Self { codes: CodeRow::U8(codes), cells, stride: stride::<u8>(cells) }
    }

    pub(super) fn u16(codes: &'a [u16], cells: usize) -> Self {
        Self { codes: CodeRow::U16(codes), cells, stride: stride::<u16>(cells) }
    }

    /// The codes of `image`.
    ///
    /// # Panics
    /// Where there is no such picture.
    pub fn row(&self, image: u32) -> CodeRow<'a> {
        let start = image as usize * self.stride;
        match self.codes {
            CodeRow::U8(codes) => CodeRow::U8(&codes[start..start + self.cells]),
            CodeRow::U16(codes) => CodeRow::U16(&codes[start..start + self.cells]),
        }
    }

    /// The rows of `images` as they lie in the file, padding included.
    pub(super) fn bytes(&self, images: Range<u32>) -> &'a [u8] {
        let range = images.start as usize * self.stride..images.end as usize * self.stride;
        match self.codes {
            CodeRow::U8(codes) => &codes[range],
            CodeRow::U16(codes) => bytemuck::cast_slice(&codes[range]),
        }
    }

    /// Whether every code (padding included) is below `entries`.
    pub(crate) fn all_below(&self, entries: usize) -> bool {
        self.codes.iter().all(|code| code < entries)
    }

    pub(super) fn padding_is_zero(&self) -> bool {
        fn check<T: Copy + Into<usize>>(codes: &[T], stride: usize, cells: usize) -> bool {
            codes.chunks_exact(stride).all(|row| row[cells..].iter().all(|&code| code.into() == 0))
        }
        match self.codes {
            CodeRow::U8(codes) => check(codes, self.stride, self.cells),
            CodeRow::U16(codes) => check(codes, self.stride, self.cells),
        }
    }
}

impl<'a> CodeRow<'a> {
    /// Number of codes, h·w.
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

    /// The codes in order. They may lie beyond the codebook: look up with `get`.
    pub fn iter(self) -> impl Iterator<Item = usize> + use<'a> {
        (0..self.len()).map(move |i| match self {
            Self::U8(codes) => usize::from(codes[i]),
            Self::U16(codes) => usize::from(codes[i]),
        })
    }
}
