//! How much memory work would take, whether or not there is so much.

use std::collections::HashMap;

/// Arrays of one length.
#[derive(Debug, Clone, Copy, Default)]
struct Arrays {
    lent: usize,
    most: usize,
}

/// What has been asked for, by length: an array that is given back serves others of its length alone.
#[derive(Debug, Default)]
pub(super) struct Demand(HashMap<usize, Arrays>);

impl Demand {
    /// Another array of `len` floats is in use.
    pub fn lend(&mut self, len: usize) {
        let arrays = self.0.entry(len).or_default();
        arrays.lent += 1;
        arrays.most = arrays.most.max(arrays.lent);
    }

    /// One of them is not any more.
    pub fn take_back(&mut self, len: usize) {
        if let Some(arrays) = self.0.get_mut(&len) {
            arrays.lent -= 1;
        }
    }

    /// Bytes of all arrays that were in use at once.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|(len, arrays)| len * arrays.most).sum::<usize>() * size_of::<f32>()
    }

    /// Most samples that work would take no more than `available` bytes with, after work on `samples` of them that has
    /// ended: what is still in use stays, and what was in use for a while grows with the samples, if its length is a
    /// multiple of them. A thirty-second is left to the driver and its libraries.
    pub fn samples_within(&self, available: usize, samples: usize) -> usize {
        let grows = |len: usize, arrays: &Arrays| match len.is_multiple_of(samples) {
            true => len * (arrays.most - arrays.lent),
            false => 0,
        };
        let growing = self.0.iter().map(|(len, arrays)| grows(*len, arrays)).sum::<usize>() * size_of::<f32>();
        let left = (available - available / 32).saturating_sub(self.bytes() - growing);
        let fits = (left as u128 * samples as u128).checked_div(growing as u128).unwrap_or(0);
        // Fewer than did not fit.
        usize::try_from(fits).unwrap_or(usize::MAX).min(samples.saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_is_not_what_grows() {
        let mut demand = Demand::default();
        let float = size_of::<f32>();
        // A weight and its gradient stay; another gradient is of no multiple of the samples.
        [100, 100, 33].into_iter().for_each(|len| demand.lend(len));
        demand.take_back(33);
        // Three activations of 10 values a sample at once, then one more.
        [80; 3].into_iter().for_each(|len| demand.lend(len));
        [80; 3].into_iter().for_each(|len| demand.take_back(len));
        demand.lend(80);
        demand.take_back(80);
        assert_eq!(demand.bytes(), (233 + 240) * float);
        let for_samples = |samples: usize| ((233 + 30 * samples) * float * 32).div_ceil(31);
        for samples in 0..8 {
            assert_eq!(demand.samples_within(for_samples(samples), 8), samples);
            assert_eq!(demand.samples_within(for_samples(samples) - float, 8), samples.saturating_sub(1));
        }
        assert_eq!(demand.samples_within(usize::MAX / 64, 8), 7);
        assert_eq!(Demand::default().samples_within(1000, 8), 0);
    }
}
