//! What range of a value eight bits are spent on.

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

/// The least and the largest of the values seen so far, and 0.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Extremes {
    low: f32,
    high: f32,
}

impl Extremes {
    /// Each clipping leaves so much of the one before.
    const LEFT: f32 = 0.86;
    /// The last leaves a tenth.
    const CLIPPINGS: i32 = 15;

    /// Takes note of `values`. False, and nothing noted, where one is not finite.
    pub fn add(&mut self, values: &[f32]) -> bool {
        let is_finite = values.iter().all(|value| value.is_finite());
        if is_finite {
            self.low = values.iter().copied().fold(self.low, f32::min);
            self.high = values.iter().copied().fold(self.high, f32::max);
        }
        is_finite
    }

    /// Ranges to choose from: that of all values first, then ever narrower ones, of larger magnitudes clipped. Few
    /// values are large, and clipping them leaves finer steps to the many.
    pub fn ranges(self) -> impl Iterator<Item = Range> {
        let largest = self.high.max(-self.low);
        (0..=Self::CLIPPINGS).map(move |i| {
            let bound = largest * Self::LEFT.powi(i);
            Range::new(self.low.max(-bound), self.high.min(bound))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn magnitudes_are_clipped_more_and_more_from_the_extremes_on() {
        let mut extremes = Extremes::default();
        assert!(extremes.add(&[-0.2, 3.0]) && extremes.add(&[4.0]) && extremes.add(&[]));
        let ranges: Vec<Range> = extremes.ranges().collect();
        assert_eq!(ranges[0], Range::new(-0.2, 4.0));
        assert!(ranges.windows(2).all(|pair| pair[1].scale < pair[0].scale));
        // Small magnitudes are kept on either side.
        let ends = |range: Range| [range.dequantize(0), range.dequantize(255)];
        let [low, high] = ends(ranges[10]);
        assert!((low + 0.2).abs() < 0.01 && (0.8..1.0).contains(&high), "{low} {high}");
        assert_eq!(Extremes::default().ranges().next(), Some(Range { scale: 1.0, zero: 0 }));
    }

    #[test]
    fn what_is_not_finite_is_refused() {
        let mut extremes = Extremes::default();
        assert!(!extremes.add(&[1.0, f32::NAN]) && !extremes.add(&[f32::INFINITY]));
        assert_eq!(extremes, Extremes::default());
    }
}
