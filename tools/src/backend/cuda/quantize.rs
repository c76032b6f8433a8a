//! Vector quantization: distances by one product, then the least of each row.

use super::super::cpu::half_norms;
use super::gemm::{Array, Form, Product};
use super::memory::Buffer;
use super::{BLOCK, Cuda, arguments};
use crate::backend::Backend;

/// Rows of a block: one a warp.
const ROWS: usize = BLOCK as usize / 32;

impl Cuda {
    /// See [`Backend::nearest`]. Waits for the device.
    pub(super) fn nearest_entries(&self, channels: usize, rows: &Buffer, entries: &[f32]) -> Vec<u32> {
        let (count, size) = (rows.len() / channels, entries.len() / channels);
        assert_eq!([rows.len(), entries.len()], [count * channels, size * channels], "rows of {channels} channels");
        let mut codes = vec![0; count];
        if count == 0 || size == 0 {
            return codes;
        }
        let (norms, entries) = (self.upload(&half_norms(channels, entries)), self.upload(entries));
        let (wide, on_device) = (self.widened(rows), self.scratch(count));
        let rows = wide.as_ref().unwrap_or(rows);
        let most = (self.patch_elements / size).clamp(1, count);
        for first in (0..count).step_by(most) {
            let n = most.min(count - first);
            let products = self.scratch(n * size);
            let float = |buffer, start| Array { buffer, start };
            let product = Product { form: Form::TransposedRight, rows: n, columns: size, depth: channels };
            self.multiply(&product, float(rows, first * channels), float(&entries, 0), float(&products, 0));
            let arguments = arguments![n, size, products, norms, on_device.at(first)];
            self.launch("nearest", [n.div_ceil(ROWS), 1, 1], &arguments);
        }
        self.run(|device| device.download(on_device.address(), &mut codes));
        codes
    }
}
