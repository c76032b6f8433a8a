//! The optimizer: all tensors in three launches, by a table of their chunks that stays on the device.

use std::rc::Rc;

use super::super::{AdamW, Pace, Trained};
use super::memory::{Buffer, Extent};
use super::profile::Cost;
use super::{Cuda, arguments};

/// Elements of a tensor that one block updates.
const CHUNK: usize = 1 << 14;
/// Words of a chunk in the table, as the kernels' `struct Chunk` has them.
const WORDS: usize = 8;
/// Tables kept: two networks in training, and a few that are going.
const TABLES: usize = 4;

/// The chunks of one set of tensors, on the host to be recognised by, and on the device.
#[derive(Debug)]
pub(super) struct Table {
    words: Vec<u64>,
    buffer: Buffer,
}

/// Addresses, length and decay of every chunk.
fn words(tensors: &[Trained<'_, Buffer>]) -> Vec<u64> {
    let mut words = Vec::new();
    for t in tensors {
        let arrays = [&*t.grad, &*t.value, &*t.first_moment, &*t.second_moment, &*t.average];
        assert!(arrays.iter().all(|array| array.len() == t.value.len()), "a tensor's arrays have one length");
        t.average.drop_narrow_copy();
        for start in (0..t.value.len()).step_by(CHUNK) {
            words.extend(arrays.map(|array| array.at(start).address));
            words.push(t.value.narrow_address(start));
            words.extend([CHUNK.min(t.value.len() - start) as u64, u64::from(t.decays)]);
        }
    }
    words
}

impl Cuda {
    /// See [`Backend::update`](super::super::Backend::update).
    pub(super) fn update_all(&self, s: &AdamW, pace: &Buffer, tensors: &[Trained<'_, Buffer>]) {
        assert_eq!(pace.len(), Pace::WORDS);
        let words = words(tensors);
        let chunks = words.len() / WORDS;
        if chunks == 0 {
            return;
        }
        let Some(table) = self.table(words) else { return };
        if let Some(recorded) = self.recorded_tables.borrow_mut().as_mut() {
            recorded.push(table.clone());
        }
        let table = &table.buffer;
        let (partial, scale) = (self.scratch(2 * chunks), self.scratch(1));
        // The arrays are named by the table: gradient; then value, moments and average too, there and back, and zeros.
        let values = tensors.iter().map(|t| t.value.len()).sum::<usize>();
        let cost = |arrays: usize| Cost { bytes: (arrays * values * size_of::<f32>()) as u64, operations: 0 };
        self.launch_counted("chunk_square_sums", [chunks, 1, 1], &arguments![table, partial], cost(1));
        self.launch("clip", [1, 1, 1], &arguments![chunks, s.max_norm, partial, scale]);
        let arguments = arguments![s.beta1, s.beta2, s.weight_decay, pace, scale, table];
        self.launch_counted("adamw", [chunks, 1, 1], &arguments, cost(10));
    }

    /// The table of these words on the device; none where it cannot be brought there.
    fn table(&self, words: Vec<u64>) -> Option<Rc<Table>> {
        let mut tables = self.tables.borrow_mut();
        if let Some(known) = tables.iter().find(|table| table.words == words) {
            return Some(known.clone());
        }
        let buffer = self.lasting(Extent::floats(2 * words.len()));
        self.run(|device| device.upload(&words, buffer.address()));
        if self.broken.get() {
            return None;
        }
        if tables.len() == TABLES {
            tables.remove(0);
        }
        tables.push(Rc::new(Table { words, buffer }));
        tables.last().cloned()
    }
}
