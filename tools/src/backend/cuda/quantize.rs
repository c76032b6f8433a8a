//! Vector quantization: distances by one product, then the least of each row.

use super::super::{Book, BookStep, DEAD};
use super::gemm::{Array, Form, Product};
use super::memory::Buffer;
use super::{BLOCK, Cuda, arguments};
use crate::backend::Backend;

/// Rows, or entries, of a block: one a warp.
const ROWS: usize = BLOCK as usize / 32;

impl Cuda {
    /// See [`Backend::nearest`]. Waits for the device.
    pub(super) fn nearest_entries(&self, channels: usize, rows: &Buffer, entries: &[f32]) -> Vec<u32> {
        let mut codes = vec![0; rows.len() / channels];
        if codes.is_empty() || entries.is_empty() {
            return codes;
        }
        let on_device = self.nearest_codes(channels, rows, &self.upload(entries));
        self.run(|device| device.download(on_device.address(), &mut codes));
        codes
    }

    /// The nearest entry of each row, in whole numbers.
    fn nearest_codes(&self, channels: usize, rows: &Buffer, entries: &Buffer) -> Buffer {
        let (count, size) = (rows.len() / channels, entries.len() / channels);
        assert_eq!([rows.len(), entries.len()], [count * channels, size * channels], "rows of {channels} channels");
        let (norms, codes) = (self.scratch(size), self.scratch(count));
        self.each("half_norms", size, &arguments![channels, entries, norms]);
        let wide = self.widened(rows);
        let rows = wide.as_ref().unwrap_or(rows);
        let most = (self.patch_elements / size).clamp(1, count);
        for first in (0..count).step_by(most) {
            let n = most.min(count - first);
            let products = self.scratch(n * size);
            let float = |buffer, start| Array { buffer, start };
            let product = Product { form: Form::TransposedRight, rows: n, columns: size, depth: channels };
            self.multiply(&product, float(rows, first * channels), float(entries, 0), float(&products, 0));
            let arguments = arguments![n, size, products, norms, codes.at(first)];
            self.launch("nearest", [n.div_ceil(ROWS), 1, 1], &arguments);
        }
        codes
    }

    /// See [`Backend::assign`].
    pub(super) fn assign_entries(
        &self,
        channels: usize,
        rows: &Buffer,
        entries: &Buffer,
        numbers: &mut Buffer,
        chosen: &mut Buffer,
    ) {
        assert_eq!([chosen.len(), numbers.len() * channels], [rows.len(); 2], "rows of {channels} channels");
        let codes = self.nearest_codes(channels, rows, entries);
        self.each("look_up", rows.len(), &arguments![channels, codes, entries, numbers, chosen]);
    }

    /// See [`Backend::sum_book`].
    pub(super) fn sum_rows(
        &self,
        [part, of]: [usize; 2],
        rows: &Buffer,
        codes: &Buffer,
        key: &Buffer,
        step: &mut BookStep<Buffer>,
    ) {
        let (size, channels) = (step.counts.len(), rows.len() / codes.len());
        let expected = [codes.len() * channels, size * channels, size * channels, 2];
        assert_eq!([rows.len(), step.sums.len(), step.rows.len(), key.len()], expected);
        let arguments = arguments![size, channels, codes.len(), rows, codes, step.sums, step.counts];
        self.launch("book_sums", [size.div_ceil(ROWS), 1, 1], &arguments);
        let arguments = arguments![channels, codes.len(), part, of, key, rows, step.rows];
        self.each("book_rows", step.rows.len(), &arguments);
    }

    /// See [`Backend::move_book`].
    pub(super) fn move_entries(&self, decay: f32, times: usize, step: &BookStep<Buffer>, book: &mut Book<Buffer>) {
        let (c, size) = (book.channels, book.size);
        assert_eq!([step.counts.len(), book.uses.len()], [size; 2]);
        assert_eq!([&step.sums, &step.rows, &book.entries, &book.sums].map(Buffer::len), [size * c; 4]);
        let given = arguments![c, decay, DEAD, times as f32, step.counts, step.sums, step.rows];
        self.each("move_book", size, &[&given[..], &arguments![book.entries, book.uses, book.sums]].concat());
    }
}
