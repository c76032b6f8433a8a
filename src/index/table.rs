//! Distances from one query to quantized blocks.

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use hnsw_rs::prelude::Distance;

use crate::error::{Error, Result};
use crate::isa::{Isa, Task};
use crate::store::{BlockDatabase, MAX_VALUE, Row, RowBuffer, Rows};

/// Most entries of a table: 128 MiB, beside a copy of the codebook. Bounds what a hostile head can make a search allocate.
const MAX_TABLE: usize = 1 << 25;

/// The distance from one query to every picture's block at one position.
#[derive(Debug)]
pub(super) struct Distances<'a> {
    rows: Rows<'a>,
    row: &'a mut RowBuffer,
    /// Squared distance of the query's cell to the codebook's entry, cells × K; the query itself where blocks are stored
    /// as values.
    table: &'a [f32],
    /// 0 where blocks are stored as values.
    entries: usize,
}

impl<'a> Distances<'a> {
    /// Fills `table` for `query` (C×h×w, unscaled); `row` is working memory.
    ///
    /// # Errors
    /// [`Error::Usage`] where the query is not a block, is not made of numbers within ±1e9, or its table would
    /// be too large.
    pub fn new(
        db: &'a BlockDatabase,
        position: usize,
        query: &[f32],
        table: &'a mut Vec<f32>,
        row: &'a mut RowBuffer,
    ) -> Result<Self> {
        let (cells, channels, entries) = (db.block().cells(), db.block().channels, db.codebook_size_at(position));
        if query.len() != db.block().len() {
            return Err(Error::Usage(format!("a query has {} values, not {}", db.block().len(), query.len())));
        }
        if !query.iter().all(|v| v.abs() <= MAX_VALUE) {
            return Err(Error::Usage("a query must be made of numbers within ±1e9".into()));
        }
        if cells.checked_mul(entries).is_none_or(|size| size > MAX_TABLE) || query.len() > MAX_TABLE {
            return Err(Error::Usage(format!("blocks of {cells} cells with {entries} codes are too large to search")));
        }
        table.clear();
        if db.codebook_size() == 0 {
            table.extend_from_slice(query);
            return Ok(Self { rows: db.rows(position), row, table, entries: 0 });
        }
        table.resize((channels + cells) * entries, 0.0);
        // The codebook by channel: the sums of all entries then go side by side, and the compiler vectorizes them.
        let (planes, sums) = table.split_at_mut(channels * entries);
        for (e, entry) in db.codebook_at(position).chunks_exact(channels).enumerate() {
            entry.iter().enumerate().for_each(|(c, value)| planes[c * entries + e] = *value);
        }
        Isa::best().run(Fill { query, planes, entries, sums });
        let table = &table[channels * entries..];
        Ok(Self { rows: db.rows(position), row, table, entries })
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
        Ok(match self.rows.row(image, self.row)? {
            Row::U8(codes) => sum(codes, self.table, self.entries),
            Row::U16(values) if self.entries == 0 => {
                let distance = squared_halves(values.reinterpret_cast(), self.table);
                if distance.is_finite() { distance } else { f32::INFINITY }
            }
            Row::U16(codes) => sum(codes, self.table, self.entries),
        })
    }
}

/// Squared distance of the f16 `values` to `query`, summed up in an order of its own that every machine keeps.
fn squared_halves(values: &[f16], query: &[f32]) -> f32 {
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

/// Entries whose sums stay in registers.
const TOGETHER: usize = 32;

/// Squared distances of each cell of `query` (C×h×w) to the entries of a codebook given as `planes` (C×K), into `sums`
/// (h·w×K).
struct Fill<'a> {
    query: &'a [f32],
    planes: &'a [f32],
    entries: usize,
    sums: &'a mut [f32],
}

impl Task for Fill<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { query, planes, entries, sums } = self;
        let cells = sums.len() / entries;
        for (cell, sums) in sums.chunks_exact_mut(entries).enumerate() {
            let values = || query.iter().skip(cell).step_by(cells);
            let whole = entries - entries % TOGETHER;
            for (start, out) in (0..).step_by(TOGETHER).zip(sums[..whole].chunks_exact_mut(TOGETHER)) {
                let mut together = [0.0; TOGETHER];
                for (value, plane) in values().zip(planes.chunks_exact(entries)) {
                    add_squares(&mut together, &plane[start..start + TOGETHER], *value);
                }
                out.copy_from_slice(&together);
            }
            for (value, plane) in values().zip(planes.chunks_exact(entries)) {
                add_squares(&mut sums[whole..], &plane[whole..], *value);
            }
        }
    }
}

#[inline(always)]
fn add_squares(sums: &mut [f32], entries: &[f32], value: f32) {
    sums.iter_mut().zip(entries).for_each(|(sum, entry)| *sum += (entry - value) * (entry - value));
}

/// Sum of the table at `codes`. Four partial sums, so that additions need not wait for each other.
fn sum<T: Copy + Into<usize>>(codes: &[T], table: &[f32], entries: usize) -> f32 {
    let mut sums = [0.0; 4];
    for (codes, tables) in codes.chunks(4).zip(table.chunks(4 * entries)) {
        for ((sum, &code), table) in sums.iter_mut().zip(codes).zip(tables.chunks_exact(entries)) {
            *sum += table.get(code.into()).copied().unwrap_or(f32::INFINITY);
        }
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3])
}

/// Largest codebook whose entries' mutual distances are tabled: 16 MiB.
const MAX_TABLED: usize = 2048;

/// Squared distances between all entries of `codebook` (K×C), K×K; empty for a large codebook.
pub(super) fn between_entries(codebook: &[f32], channels: usize) -> Vec<f32> {
    if codebook.len() / channels > MAX_TABLED {
        return vec![];
    }
    let entries = || codebook.chunks_exact(channels);
    entries().flat_map(|a| entries().map(move |b| squared(a, b))).collect()
}

/// The distance between two blocks by their codes, for the builder: it keeps codes (2 bytes a cell) instead of
/// vectors (4·C), and adds up h·w table entries instead of C·h·w squares.
#[derive(Debug, Clone, Copy)]
pub(super) struct CodeDistance<'a> {
    codebook: &'a [f32],
    channels: usize,
    /// Of [`between_entries`].
    table: &'a [f32],
    /// 0 where codes are values: the bits of f16.
    entries: usize,
}

impl<'a> CodeDistance<'a> {
    pub fn new(codebook: &'a [f32], channels: usize, table: &'a [f32]) -> Self {
        Self { codebook, channels, table, entries: codebook.len() / channels }
    }

    /// Whether the codebook has all `codes`; [`Distance::eval`] panics where it does not.
    pub fn knows(&self, codes: &[u16]) -> bool {
        match self.entries {
            0 => codes.iter().all(|&code| f16::from_bits(code).is_finite()),
            entries => codes.iter().all(|&code| usize::from(code) < entries),
        }
    }

    /// The distance between two blocks of the database.
    pub fn rows(&self, a: Row<'_>, b: Row<'_>) -> f32 {
        a.iter().zip(b.iter()).map(|(a, b)| self.between(a as u16, b as u16)).sum()
    }

    fn entry(&self, code: u16) -> &[f32] {
        &self.codebook[usize::from(code) * self.channels..][..self.channels]
    }

    fn between(&self, a: u16, b: u16) -> f32 {
        match self.table {
            [] if self.entries == 0 => (f16::from_bits(a).to_f32() - f16::from_bits(b).to_f32()).powi(2),
            [] => squared(self.entry(a), self.entry(b)),
            table => table[usize::from(a) * self.entries + usize::from(b)],
        }
    }
}

impl Distance<u16> for CodeDistance<'_> {
    fn eval(&self, a: &[u16], b: &[u16]) -> f32 {
        let mut sums = [0.0; 4];
        for (a, b) in a.chunks(4).zip(b.chunks(4)) {
            for ((sum, &a), &b) in sums.iter_mut().zip(a).zip(b) {
                *sum += self.between(a, b);
            }
        }
        (sums[0] + sums[1]) + (sums[2] + sums[3])
    }
}

/// Squared L2 distance.
fn squared<'a>(a: impl IntoIterator<Item = &'a f32>, b: impl IntoIterator<Item = &'a f32>) -> f32 {
    a.into_iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}
