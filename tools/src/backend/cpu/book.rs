//! The codebook.

use super::super::philox::{self, Key};
use super::super::{Book, BookStep, DEAD};

/// See [`Backend::sum_book`](super::super::Backend::sum_book).
pub fn sum([part, of]: [usize; 2], rows: &[f32], codes: &[u32], key: Key, step: &mut BookStep<Vec<f32>>) {
    let channels = rows.len() / codes.len();
    step.counts.fill(0.0);
    step.sums.fill(0.0);
    for (row, &code) in rows.chunks_exact(channels).zip(codes) {
        step.counts[code as usize] += 1.0;
        step.sums[code as usize * channels..][..channels].iter_mut().zip(row).for_each(|(sum, v)| *sum += v);
    }
    for (entry, to) in step.rows.chunks_exact_mut(channels).enumerate() {
        let row = philox::below((of * codes.len()) as u32, key, entry as u32) as usize;
        let here = row.checked_sub(part * codes.len()).filter(|&row| row < codes.len());
        match here {
            Some(row) => to.copy_from_slice(&rows[row * channels..][..channels]),
            None => to.fill(0.0),
        }
    }
}

/// See [`Backend::move_book`](super::super::Backend::move_book).
pub fn advance(decay: f32, times: usize, step: &BookStep<Vec<f32>>, book: &mut Book<Vec<f32>>) {
    let (c, times) = (book.channels, times as f32);
    let blend = |old: &mut [f32], new: &[f32]| {
        old.iter_mut().zip(new).for_each(|(old, new)| *old = decay * *old + (1.0 - decay) * (times * new));
    };
    blend(&mut book.uses, &step.counts);
    blend(&mut book.sums, &step.sums);
    for i in 0..book.size {
        if book.uses[i] < DEAD {
            book.uses[i] = 1.0;
            let row = step.rows[i * c..][..c].iter();
            book.sums[i * c..][..c].iter_mut().zip(row).for_each(|(sum, v)| *sum = times * v);
        }
        for j in i * c..(i + 1) * c {
            book.entries[j] = book.sums[j] / book.uses[i];
        }
    }
}
