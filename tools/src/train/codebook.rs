//! The codebook: nearest entries, k-means by moving averages (van den Oord et al. 2017, appendix A.1), and
//! revival of entries that nothing uses.

use crate::backend::cpu::{advance_book, nearest, sum_book};
use crate::backend::philox::Key;
use crate::backend::{Book, BookStep};
use crate::random::Random;

/// Decay of the moving averages in training.
pub const DECAY: f32 = 0.99;

/// A codebook on the host.
pub type Codebook = Book<Vec<f32>>;

impl Codebook {
    /// Entries drawn from `rows` (each `channels` values) with a little noise, so that no two are equal.
    pub fn from_rows(size: usize, channels: usize, rows: &[f32], random: &mut Random) -> Self {
        let count = rows.len() / channels;
        let mut entries = Vec::with_capacity(size * channels);
        let mut noise = vec![0.0; channels];
        for _ in 0..size {
            let row = random.below(count);
            random.fill_normal(&mut noise);
            entries.extend(rows[row * channels..][..channels].iter().zip(&noise).map(|(v, n)| v + 1e-3 * n));
        }
        Self { size, channels, uses: vec![1.0; size], sums: entries.clone(), entries }
    }

    /// For each row, the nearest entry (the first of equals).
    pub fn assign(&self, rows: &[f32]) -> Vec<u32> {
        nearest(self.channels, rows, &self.entries)
    }

    /// The entries that `codes` name, one after the other.
    pub fn look_up(&self, codes: &[u32]) -> Vec<f32> {
        codes
            .iter()
            .flat_map(|&code| &self.entries[code as usize * self.channels..][..self.channels])
            .copied()
            .collect()
    }

    /// Moves the entries toward the vectors that use them, and dead entries onto rows that follow from `key`. `decay` is
    /// that of the moving averages; 0 gives a round of k-means.
    pub fn update(&mut self, rows: &[f32], codes: &[u32], decay: f32, key: Key) {
        let zeros = |n: usize| vec![0.0; n];
        let (k, n) = (self.size, self.entries.len());
        let mut step = BookStep { counts: zeros(k), sums: zeros(n), rows: zeros(n) };
        sum_book([0, 1], rows, codes, key, &mut step);
        advance_book(decay, 1, &step, self);
    }

    /// A codebook of `size` for `rows` by `rounds` of k-means (Lloyd), dead entries revived.
    pub fn k_means(size: usize, channels: usize, rows: &[f32], rounds: usize, random: &mut Random) -> Self {
        let mut book = Self::from_rows(size, channels, rows, random);
        for _ in 0..rounds {
            let codes = book.assign(rows);
            book.update(rows, &codes, 0.0, random.key());
        }
        book
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clusters() -> Vec<f32> {
        let mut random = Random::new(1);
        let mut noise = [0.0; 2];
        (0..600)
            .flat_map(|i| {
                random.fill_normal(&mut noise);
                let centre = [[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]][i % 3];
                [centre[0] + 0.1 * noise[0], centre[1] + 0.1 * noise[1]]
            })
            .collect()
    }

    #[test]
    fn the_nearest_entry_is_found() {
        let rows = clusters();
        let book = Codebook::from_rows(17, 2, &rows, &mut Random::new(2));
        for (row, &code) in rows.chunks_exact(2).zip(&book.assign(&rows)) {
            let distance = |e: &[f32]| e.iter().zip(row).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
            let least = book.entries.chunks_exact(2).map(distance).fold(f32::INFINITY, f32::min);
            assert!(distance(&book.look_up(&[code])) <= least + 1e-4);
        }
    }

    #[test]
    fn moving_averages_find_the_clusters_and_revive_dead_entries() {
        let rows = clusters();
        let mut book = Codebook::from_rows(3, 2, &[500.0, 500.0], &mut Random::new(2));
        let mut random = Random::new(3);
        for _ in 0..2_000 {
            let codes = book.assign(&rows);
            book.update(&rows, &codes, DECAY, random.key());
        }
        let mut centres: Vec<_> = book.entries.chunks_exact(2).map(|e| (e[0].round(), e[1].round())).collect();
        centres.sort_by(|a, b| a.partial_cmp(b).unwrap());
        assert_eq!(centres, [(0.0, 0.0), (0.0, 10.0), (10.0, 0.0)]);
    }

    #[test]
    fn k_means_lowers_the_error() {
        let rows = clusters();
        let error = |book: &Codebook| -> f32 {
            book.look_up(&book.assign(&rows)).iter().zip(&rows).map(|(a, b)| (a - b).powi(2)).sum()
        };
        let start = Codebook::k_means(8, 2, &rows, 0, &mut Random::new(4));
        let end = Codebook::k_means(8, 2, &rows, 20, &mut Random::new(4));
        assert!(error(&end) < 0.9 * error(&start), "{} {}", error(&end), error(&start));
    }
}
