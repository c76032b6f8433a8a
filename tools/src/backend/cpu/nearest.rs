//! Nearest entries of a codebook.

use rayon::prelude::*;

/// For each row of `channels` values the nearest of `entries`, the first of equals.
pub fn nearest(channels: usize, rows: &[f32], entries: &[f32]) -> Vec<u32> {
    // Channel-major, so that the loop over entries vectorises. Nearest: least ½‖e‖² − z·e.
    let k = entries.len() / channels;
    let mut columns = vec![0.0; entries.len()];
    for (i, entry) in entries.chunks_exact(channels).enumerate() {
        for (j, &v) in entry.iter().enumerate() {
            columns[j * k + i] = v;
        }
    }
    let half_norms = half_norms(channels, entries);
    rows.par_chunks(channels)
        .map_init(
            || vec![0.0; k],
            |scores, row| {
                scores.copy_from_slice(&half_norms);
                for (column, &z) in columns.chunks_exact(k).zip(row) {
                    scores.iter_mut().zip(column).for_each(|(score, e)| *score -= z * e);
                }
                let least = scores.iter().fold(f32::INFINITY, |a, &b| a.min(b));
                scores.iter().position(|&s| s == least).unwrap_or(0) as u32
            },
        )
        .collect()
}

/// ½‖e‖² of each entry.
pub fn half_norms(channels: usize, entries: &[f32]) -> Vec<f32> {
    entries.chunks_exact(channels).map(|entry| 0.5 * entry.iter().map(|v| v * v).sum::<f32>()).collect()
}
