//! Distances from a query to blocks, and between blocks.
//!
//! A cell's distance is that of its codebook entry, added up over the cells: the entries of all but huge codebooks stay in
//! the processor's cache, and a row of codes is all that is read from the file. (A table of the query's distances to all
//! entries, one look-up a cell, must be filled for every query and does not fit the cache: with 2,048 entries a search
//! among hundreds of blocks took 2.9 times as long, with 1,024 one among thousands about as long.) Every machine adds in
//! the same order, without fused multiplication.

use std::borrow::Cow;

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use hnsw_rs::prelude::Distance;

use crate::error::{Error, Result};
use crate::isa::{Isa, Simd, Task};
use crate::store::{BlockDatabase, MAX_VALUE, Row, RowBuffer, Rows};

/// Values that are added side by side. Entries are padded with zeros to a multiple.
const LANES: usize = 8;
/// Cells that are added side by side.
const CELLS: usize = 4;

/// The distance from one query to every picture's block at one position.
#[derive(Debug)]
pub(super) struct Distances<'a> {
    rows: Rows<'a>,
    row: &'a mut RowBuffer,
    isa: Isa,
    /// Cell by cell, each padded; as it is (CHW) where blocks are stored as values.
    query: &'a [f32],
    book: Book<'a>,
}

/// A codebook, each entry padded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Book<'a> {
    entries: &'a [f32],
    /// Values of an entry, a multiple of [`LANES`]; 0 where blocks are stored as values.
    width: usize,
}

/// Working memory of [`Distances`].
#[derive(Debug, Default)]
pub(super) struct DistanceScratch {
    query: Vec<f32>,
    book: Vec<f32>,
    row: RowBuffer,
}

impl<'a> Distances<'a> {
    /// For `query` (C×h×w, unscaled).
    ///
    /// # Errors
    /// [`Error::Usage`] where the query is not a block or is not made of numbers within ±1e9.
    pub fn new(
        db: &'a BlockDatabase,
        position: usize,
        query: &[f32],
        scratch: &'a mut DistanceScratch,
    ) -> Result<Self> {
        let (cells, channels) = (db.block().cells(), db.block().channels);
        if query.len() != db.block().len() {
            return Err(Error::Usage(format!("a query has {} values, not {}", db.block().len(), query.len())));
        }
        if !query.iter().all(|v| v.abs() <= MAX_VALUE) {
            return Err(Error::Usage("a query must be made of numbers within ±1e9".into()));
        }
        let (rows, isa) = (db.rows(position), Isa::best());
        let DistanceScratch { query: own, book, row } = scratch;
        let book = Book::padded(db.codebook_at(position), channels, book);
        own.clear();
        match book.width {
            0 => own.extend_from_slice(query),
            width => {
                own.resize(cells * width, 0.0);
                for (channel, values) in query.chunks_exact(cells).enumerate() {
                    own[channel..].iter_mut().step_by(width).zip(values).for_each(|(to, value)| *to = *value);
                }
            }
        }
        Ok(Self { rows, row, isa, query: own, book })
    }

    /// Whether rows lie in memory, so that touching them does anything.
    pub fn in_memory(&self) -> bool {
        self.rows.in_place(0).is_some()
    }

    /// Reads both ends of the row of `image` where it lies in memory: of many rows that are touched in a row, memory
    /// gives several at once, where those that are summed up one after the other would each be waited for.
    pub fn touch(&self, image: u32) -> usize {
        match self.rows.in_place(image) {
            Some(Row::U8(codes)) => usize::from(codes[0] ^ codes[codes.len() - 1]),
            Some(Row::U16(codes)) => usize::from(codes[0] ^ codes[codes.len() - 1]),
            None => 0,
        }
    }

    /// Squared distance to the block of `image`, which must be in the database; infinite where the block has a
    /// code that the codebook does not have, or a value that is no finite number.
    ///
    /// # Errors
    /// [`Error::Io`] where the block cannot be read.
    pub fn to(&mut self, image: u32) -> Result<f32> {
        let mut sum = 0.0;
        let (query, book, sum_mut) = (self.query, self.book, &mut sum);
        match self.rows.row(image, self.row)? {
            Row::U8(codes) => self.isa.run(ToQuery { codes, query, book, sum: sum_mut }),
            Row::U16(values) if book.width == 0 => sum = squared_halves(values.reinterpret_cast(), query),
            Row::U16(codes) => self.isa.run(ToQuery { codes, query, book, sum: sum_mut }),
        }
        Ok(if sum.is_finite() { sum } else { f32::INFINITY })
    }
}

impl<'a> Book<'a> {
    /// Of `codebook` (K×C), in place or in `buffer`. An empty one stands for blocks that are stored as values.
    fn padded(codebook: &'a [f32], channels: usize, buffer: &'a mut Vec<f32>) -> Self {
        let width = if codebook.is_empty() { 0 } else { channels.next_multiple_of(LANES) };
        if width == channels || width == 0 {
            return Self { entries: codebook, width };
        }
        buffer.clear();
        buffer.resize(codebook.len() / channels * width, 0.0);
        for (to, entry) in buffer.chunks_exact_mut(width).zip(codebook.chunks_exact(channels)) {
            to[..channels].copy_from_slice(entry);
        }
        Self { entries: buffer, width }
    }

    #[inline(always)]
    fn entry(self, code: usize, width: usize) -> Option<&'a [f32]> {
        self.entries.get(code * width..(code + 1) * width)
    }
}

/// Adds up the squared distance of a row of `codes` to `query`; infinite for a code that the book does not have.
struct ToQuery<'a, T> {
    codes: &'a [T],
    query: &'a [f32],
    book: Book<'a>,
    sum: &'a mut f32,
}

impl<T: Copy + Into<usize>> Task for ToQuery<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { codes, query, book, sum } = self;
        // A width that the compiler knows makes a shorter loop.
        *sum = match book.width {
            LANES => to_query(codes, query, book, LANES),
            width => to_query(codes, query, book, width),
        };
    }
}

#[inline(always)]
fn to_query<T: Copy + Into<usize>>(codes: &[T], query: &[f32], book: Book<'_>, width: usize) -> f32 {
    let mut sums = [[0.0; LANES]; CELLS];
    for (codes, query) in codes.chunks(CELLS).zip(query.chunks(CELLS * width)) {
        for ((sums, &code), cell) in sums.iter_mut().zip(codes).zip(query.chunks_exact(width)) {
            let Some(entry) = book.entry(code.into(), width) else { return f32::INFINITY };
            add_squares(sums, entry, cell);
        }
    }
    total(sums)
}

#[inline(always)]
fn add_squares(sums: &mut [f32; LANES], a: &[f32], b: &[f32]) {
    for (a, b) in a.as_chunks::<LANES>().0.iter().zip(b.as_chunks::<LANES>().0) {
        for lane in 0..LANES {
            let difference = a[lane] - b[lane];
            sums[lane] += difference * difference;
        }
    }
}

#[inline(always)]
fn total(sums: [[f32; LANES]; CELLS]) -> f32 {
    let [a, b, c, d] = sums;
    let mut all = [0.0; LANES];
    (0..LANES).for_each(|lane| all[lane] = (a[lane] + b[lane]) + (c[lane] + d[lane]));
    let [a, b, c, d, e, f, g, h] = all;
    ((a + b) + (c + d)) + ((e + f) + (g + h))
}

/// Squared distance of the f16 `values` to `query`.
fn squared_halves(values: &[f16], query: &[f32]) -> f32 {
    const TOGETHER: usize = 32;
    let (mut wide, mut sums) = ([0.0; 8 * TOGETHER], [0.0; TOGETHER]);
    for (values, query) in values.chunks(8 * TOGETHER).zip(query.chunks(8 * TOGETHER)) {
        let wide = &mut wide[..values.len()];
        values.convert_to_f32_slice(wide);
        for (values, query) in wide.chunks(TOGETHER).zip(query.chunks(TOGETHER)) {
            sums.iter_mut().zip(values).zip(query).for_each(|((sum, v), q)| *sum += (v - q) * (v - q));
        }
    }
    sums.iter().sum()
}

/// The distance between two blocks by their codes, for the builder: it keeps codes (2 bytes a cell) instead of vectors
/// (4·C).
#[derive(Debug, Clone)]
pub(super) struct CodeDistance<'a> {
    /// Padded.
    entries: Cow<'a, [f32]>,
    width: usize,
    isa: Isa,
}

impl<'a> CodeDistance<'a> {
    /// Of `codebook` (K×C); an empty one stands for codes that are values: the bits of f16.
    pub fn new(codebook: &'a [f32], channels: usize) -> Self {
        let mut buffer = Vec::new();
        let Book { entries, width } = Book::padded(codebook, channels, &mut buffer);
        let own = !std::ptr::eq(entries, codebook);
        Self { entries: if own { Cow::Owned(buffer) } else { Cow::Borrowed(codebook) }, width, isa: Isa::best() }
    }

    /// Whether the codebook has all `codes`; [`Distance::eval`] gives no number where it does not.
    pub fn knows(&self, codes: &[u16]) -> bool {
        match self.width {
            0 => codes.iter().all(|&code| f16::from_bits(code).is_finite()),
            width => codes.iter().all(|&code| usize::from(code) < self.entries.len() / width),
        }
    }

    /// The distance between two blocks of the database.
    pub fn rows(&self, a: Row<'_>, b: Row<'_>) -> f32 {
        match (a, b) {
            (Row::U8(a), Row::U8(b)) => self.between(a, b),
            (Row::U16(a), Row::U16(b)) => self.eval(a, b),
            // Rows of one position are of one kind.
            _ => f32::INFINITY,
        }
    }

    fn between<T: Copy + Into<usize>>(&self, a: &[T], b: &[T]) -> f32 {
        let mut sum = 0.0;
        let book = Book { entries: &self.entries, width: self.width };
        self.isa.run(Between { a, b, book, sum: &mut sum });
        sum
    }
}

impl Distance<u16> for CodeDistance<'_> {
    fn eval(&self, a: &[u16], b: &[u16]) -> f32 {
        match self.width {
            0 => {
                let value = |code: &u16| f16::from_bits(*code).to_f32();
                a.iter().zip(b).map(|(a, b)| (value(a) - value(b)) * (value(a) - value(b))).sum()
            }
            _ => self.between(a, b),
        }
    }
}

/// Adds up the squared distance between two rows of codes; infinite for a code that the book does not have.
struct Between<'a, T> {
    a: &'a [T],
    b: &'a [T],
    book: Book<'a>,
    sum: &'a mut f32,
}

impl<T: Copy + Into<usize>> Task for Between<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { a, b, book, sum } = self;
        *sum = match book.width {
            LANES => between(a, b, book, LANES),
            width => between(a, b, book, width),
        };
    }
}

#[inline(always)]
fn between<T: Copy + Into<usize>>(a: &[T], b: &[T], book: Book<'_>, width: usize) -> f32 {
    let mut sums = [[0.0; LANES]; CELLS];
    for (a, b) in a.chunks(CELLS).zip(b.chunks(CELLS)) {
        for ((sums, &a), &b) in sums.iter_mut().zip(a).zip(b) {
            let entries = book.entry(a.into(), width).zip(book.entry(b.into(), width));
            let Some((a, b)) = entries else { return f32::INFINITY };
            add_squares(sums, a, b);
        }
    }
    total(sums)
}
