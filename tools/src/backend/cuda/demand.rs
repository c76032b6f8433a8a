//! How much memory work would take, whether or not there is so much.

use std::collections::HashMap;

use super::memory::Extent;

/// Arrays of one size.
#[derive(Debug, Clone, Copy, Default)]
struct Arrays {
    lent: usize,
    most: usize,
}

/// What has been asked for, by size: an array that is given back serves others of its size alone.
#[derive(Debug, Default)]
pub(super) struct Demand(HashMap<Extent, Arrays>);

impl Demand {
    /// Another array of that size is in use.
    pub fn lend(&mut self, extent: Extent) {
        let arrays = self.0.entry(extent).or_default();
        arrays.lent += 1;
        arrays.most = arrays.most.max(arrays.lent);
    }

    /// One of them is not any more.
    pub fn take_back(&mut self, extent: Extent) {
        if let Some(arrays) = self.0.get_mut(&extent) {
            arrays.lent -= 1;
        }
    }

    /// Bytes of all arrays that were in use at once.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|(extent, arrays)| extent.bytes() * arrays.most).sum()
    }

    /// Most samples that work would take no more than `available` bytes with, after work on `samples` of them that has
    /// ended: what is still in use stays, and what was in use for a while grows with the samples, if its length is a
    /// multiple of them. A thirty-second is left to the driver and its libraries.
    pub fn samples_within(&self, available: usize, samples: usize) -> usize {
        let grows = |extent: &Extent, arrays: &Arrays| match extent.len.is_multiple_of(samples) {
            true => extent.bytes() * (arrays.most - arrays.lent),
            false => 0,
        };
        let growing = self.0.iter().map(|(extent, arrays)| grows(extent, arrays)).sum::<usize>();
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
        [100, 100, 33].map(Extent::floats).into_iter().for_each(|extent| demand.lend(extent));
        demand.take_back(Extent::floats(33));
        // Three activations of 10 values a sample at once, then one more.
        let activation = Extent::floats(80);
        [activation; 3].into_iter().for_each(|extent| demand.lend(extent));
        [activation; 3].into_iter().for_each(|extent| demand.take_back(extent));
        demand.lend(activation);
        demand.take_back(activation);
        // And one of 20 values in half the space.
        let narrow = Extent { len: 160, narrow: true };
        demand.lend(narrow);
        demand.take_back(narrow);
        assert_eq!(demand.bytes(), (233 + 240 + 80) * float);
        let for_samples = |samples: usize| ((233 + 40 * samples) * float * 32).div_ceil(31);
        for samples in 0..8 {
            assert_eq!(demand.samples_within(for_samples(samples), 8), samples);
            assert_eq!(demand.samples_within(for_samples(samples) - float, 8), samples.saturating_sub(1));
        }
        assert_eq!(demand.samples_within(usize::MAX / 64, 8), 7);
        assert_eq!(Demand::default().samples_within(1000, 8), 0);
    }
}
