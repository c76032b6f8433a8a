//! The codebook.

use super::super::philox::{self, Key};
use super::super::{Book, DEAD};

/// See [`Backend::update_book`](super::super::Backend::update_book); returns the number of entries revived.
pub fn update(decay: f32, rows: &[f32], codes: &[u32], key: Key, book: &mut Book<Vec<f32>>) -> usize {
    let c = book.channels;
    let mut uses = vec![0.0f32; book.uses.len()];
    let mut sums = vec![0.0f32; book.entries.len()];
    for (row, &code) in rows.chunks_exact(c).zip(codes) {
        uses[code as usize] += 1.0;
        sums[code as usize * c..][..c].iter_mut().zip(row).for_each(|(sum, v)| *sum += v);
    }
    let blend = |old: &mut [f32], new: &[f32]| {
        old.iter_mut().zip(new).for_each(|(old, new)| *old = decay * *old + (1.0 - decay) * new);
    };
    blend(&mut book.uses, &uses);
    blend(&mut book.sums, &sums);
    let mut revived = 0;
    for i in 0..book.uses.len() {
        if book.uses[i] < DEAD {
            let row = philox::below(codes.len() as u32, key, i as u32) as usize;
            book.uses[i] = 1.0;
            book.sums[i * c..][..c].copy_from_slice(&rows[row * c..][..c]);
            revived += 1;
        }
        for j in i * c..(i + 1) * c {
            book.entries[j] = book.sums[j] / book.uses[i];
        }
    }
    revived
}
