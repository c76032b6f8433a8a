//! What range of a value eight bits are spent on: of many, the one that leaves the least mean squared error.

/// Levels of an unsigned byte, less one.
const STEPS: f32 = 255.0;

/// A scale and a zero point: `x` becomes the byte `round(x / scale) + zero`, halves to even, ends clipped.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// Difference between two bytes.
    pub scale: f32,
    /// The byte that 0 becomes, exactly.
    pub zero: u8,
}

impl Range {
    /// The range from `low` to `high`, widened to 0 where it does not hold it, and shifted by up to half a step so
    /// that 0 is a byte. A range of nothing but 0 has the scale 1.
    pub fn new(low: f32, high: f32) -> Self {
        let (low, high) = (low.min(0.0), high.max(0.0));
        let scale = high / STEPS - low / STEPS;
        if !scale.is_normal() {
            return Self { scale: 1.0, zero: 0 };
        }
        Self { scale, zero: (-low / scale).round_ties_even().clamp(0.0, STEPS) as u8 }
    }

    /// The byte of `x`.
    pub fn quantize(self, x: f32) -> u8 {
        // Whole numbers so small are exact in f32, and a cast clips.
        ((x / self.scale).round_ties_even() + f32::from(self.zero)) as u8
    }

    /// The value of a byte.
    pub fn dequantize(self, byte: u8) -> f32 {
        self.scale * (f32::from(byte) - f32::from(self.zero))
    }
}

/// How often values occur, in bins of equal width. However large the values are that come later, the bins stay as many:
/// their width is a power of two, and doubles. So the counts do not depend on the order of the values.
#[derive(Debug, Clone)]
pub struct Histogram {
    /// Bins are 2^`exponent` wide, the first of the upper half begins at 0.
    exponent: i32,
    counts: Vec<u64>,
    low: f32,
    high: f32,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { exponent: Self::FINEST, counts: vec![0; 2 * Self::HALF as usize], low: 0.0, high: 0.0 }
    }
}

impl Histogram {
    /// Bins on either side of 0: several to a byte, however much is clipped.
    const HALF: i64 = 1 << 13;
    /// Bins this wide hold nothing that matters.
    const FINEST: i32 = -100;
    /// Steps in which either end is drawn in.
    const CLIPPINGS: usize = 64;

    /// Counts `values`. False, and nothing counted, where one is not finite.
    pub fn add(&mut self, values: &[f32]) -> bool {
        let ends = |(low, high): (f32, f32), &v: &f32| (low.min(v), high.max(v));
        let (low, high) = values.iter().fold((self.low, self.high), ends);
        if !values.iter().all(|v| v.is_finite()) {
            return false;
        }
        (self.low, self.high) = (low, high);
        while !self.holds(low) || !self.holds(high) {
            self.widen();
        }
        let width = self.width();
        for &v in values {
            self.counts[Self::bin(v, width)] += 1;
        }
        true
    }

    fn width(&self) -> f64 {
        2f64.powi(self.exponent)
    }

    fn holds(&self, v: f32) -> bool {
        f64::from(v).abs() < Self::HALF as f64 * self.width()
    }

    fn bin(v: f32, width: f64) -> usize {
        ((f64::from(v) / width).floor() as i64 + Self::HALF) as usize
    }

    fn widen(&mut self) {
        let (half, old) = (Self::HALF as usize, &self.counts);
        let mut new = vec![0; old.len()];
        for (i, pair) in old.chunks_exact(2).enumerate() {
            new[half / 2 + i] = pair[0] + pair[1];
        }
        self.counts = new;
        self.exponent += 1;
    }

    /// The range of least mean squared error: what is rounded errs by a twelfth of the step's square, what is clipped
    /// by the square of what is cut off. Tried are the extremes, each drawn in towards 0 in equal steps, in all
    /// pairs.
    pub fn best_range(&self) -> Range {
        let ends = |extreme: f32| (1..=Self::CLIPPINGS).rev().map(move |i| extreme * i as f32 / Self::CLIPPINGS as f32);
        let clipped = |extreme: f32, end: f32| (end, self.clipped(extreme, end));
        let lows: Vec<_> = ends(self.low).map(|end| clipped(self.low, end)).collect();
        let highs: Vec<_> = ends(self.high).map(|end| clipped(self.high, end)).collect();
        let all: u64 = self.counts.iter().sum();
        let error = |&((low, below), (high, above)): &((f32, Clipped), (f32, Clipped))| {
            let step = f64::from((high - low) / STEPS);
            let rounded = (all - below.count - above.count) as f64;
            below.error + above.error + rounded * step * step / 12.0
        };
        let pairs = lows.iter().flat_map(|&low| highs.iter().map(move |&high| (low, high)));
        let best = pairs.min_by(|a, b| error(a).total_cmp(&error(b)));
        best.map_or(Range::new(self.low, self.high), |((low, _), (high, _))| Range::new(low, high))
    }

    /// What is clipped where the range ends at `end` instead of at `extreme`, both on the same side of 0.
    fn clipped(&self, extreme: f32, end: f32) -> Clipped {
        let width = self.width();
        let (extreme, from) = (Self::bin(extreme, width), Self::bin(end, width));
        let bins = if extreme < from { extreme..from } else { from + 1..extreme + 1 };
        let mut clipped = Clipped::default();
        for bin in bins {
            let value = (bin as i64 - Self::HALF) as f64 * width + 0.5 * width;
            clipped.count += self.counts[bin];
            clipped.error += self.counts[bin] as f64 * (value - f64::from(end)).powi(2);
        }
        clipped
    }
}

/// How many values lie beyond an end of the range, and their squared distances from it.
#[derive(Debug, Clone, Copy, Default)]
struct Clipped {
    count: u64,
    error: f64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn halves_go_to_even_zero_is_exact_and_ends_are_clipped() {
        let range = Range { scale: 0.5, zero: 10 };
        let bytes = [0.25, 0.75, -0.25, -0.75, 0.0, 1000.0, -1000.0].map(|x| range.quantize(x));
        assert_eq!(bytes, [10, 12, 10, 8, 10, 255, 0]);
        assert_eq!((range.dequantize(10), range.dequantize(0)), (0.0, -5.0));
    }

    #[test]
    fn a_range_holds_zero() {
        for (low, high) in [(-0.278, 9.0), (1.0, 3.0), (-3.0, -1.0), (-1e-3, 1e3), (-1.0, 1.0)] {
            let range = Range::new(low, high);
            assert_eq!(range.dequantize(range.quantize(0.0)), 0.0);
            for x in [low, high] {
                let error = (range.dequantize(range.quantize(x)) - x).abs();
                assert!(error <= 0.501 * range.scale, "{low}…{high}: {x} errs by {error}");
            }
        }
        assert_eq!(Range::new(0.0, 0.0), Range { scale: 1.0, zero: 0 });
        assert_eq!(Range::new(0.0, 1e-45).scale, 1.0);
    }

    #[test]
    fn values_without_outliers_keep_their_range_and_one_outlier_is_cut_off() {
        let mut random = Random::new(1);
        let values: Vec<f32> = (0..100_000).map(|_| 3.0 * random.uniform() - 1.0).collect();
        let mut histogram = Histogram::default();
        assert!(histogram.add(&values));
        let range = histogram.best_range();
        assert!((range.scale - 3.0 / 255.0).abs() < 1e-4 && range.zero == 85, "{range:?}");

        (1..20).for_each(|_| assert!(histogram.add(&values)));
        histogram.add(&[20.0]);
        let error = |range: Range| {
            let of = |x: f32| f64::from(range.dequantize(range.quantize(x)) - x).powi(2);
            20.0 * values.iter().map(|&x| of(x)).sum::<f64>() + of(20.0)
        };
        let (found, whole) = (error(histogram.best_range()), error(Range::new(-1.0, 20.0)));
        assert!(found < 0.5 * whole, "{found} against {whole}");
    }

    #[test]
    fn the_order_of_values_does_not_matter() {
        let mut random = Random::new(2);
        let mut values = vec![0.0; 4_000];
        random.fill_normal(&mut values);
        values.extend([1e-6, -1e-6, 0.0, 700.0]);
        let (mut one, mut other) = (Histogram::default(), Histogram::default());
        values.chunks(100).for_each(|part| assert!(one.add(part)));
        values.reverse();
        values.chunks(33).for_each(|part| assert!(other.add(part)));
        assert_eq!((one.exponent, &one.counts), (other.exponent, &other.counts));
        assert_eq!(one.counts.iter().sum::<u64>(), values.len() as u64);
    }

    #[test]
    fn what_is_not_finite_is_refused() {
        let mut histogram = Histogram::default();
        assert!(!histogram.add(&[1.0, f32::NAN]) && !histogram.add(&[f32::INFINITY]));
        assert_eq!(histogram.best_range(), Range { scale: 1.0, zero: 0 });
    }
}
