//! What range of a value its bits are spent on.

/// A scale and a zero point: `x` becomes the level `round(x / scale) + zero`, halves to even, ends clipped.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// Difference between two levels.
    pub scale: f32,
    /// The level that 0 becomes, exactly.
    pub zero: u16,
    /// The largest level; the least is 0.
    pub most: u16,
}

impl Range {
    /// The range from `low` to `high` in so many `bits`, 15 at most, widened to 0 where it does not hold it, and shifted by
    /// up to half a step so that 0 is a level. A range of nothing but 0 has the scale 1.
    pub fn new(low: f32, high: f32, bits: u32) -> Self {
        let most = (1 << bits) - 1;
        let (low, high, steps) = (low.min(0.0), high.max(0.0), f32::from(most));
        let scale = high / steps - low / steps;
        if !scale.is_normal() {
            return Self { scale: 1.0, zero: 0, most };
        }
        Self { scale, zero: (-low / scale).round_ties_even().clamp(0.0, steps) as u16, most }
    }

    /// The value of a level.
    pub fn dequantize(self, level: u16) -> f32 {
        self.scale * (f32::from(level) - f32::from(self.zero))
    }

    /// The values of the least and of the largest level.
    pub fn ends(self) -> [f32; 2] {
        [0, self.most].map(|level| self.dequantize(level))
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

    /// Ranges of so many `bits` to choose from: that of all values first, then ever narrower ones, of larger magnitudes clipped. Few
    /// values are large, and clipping them leaves finer steps to the many.
    pub fn ranges(self, bits: u32) -> impl Iterator<Item = Range> {
        let largest = self.high.max(-self.low);
        (0..=Self::CLIPPINGS).map(move |i| {
            let bound = largest * Self::LEFT.powi(i);
            Range::new(self.low.max(-bound), self.high.min(bound), bits)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Range {
        /// The level of `x`, as ONNX says.
        fn quantize(self, x: f32) -> u16 {
            // Whole numbers so small are exact in f32, and a cast clips.
            (((x / self.scale).round_ties_even() + f32::from(self.zero)) as u16).min(self.most)
        }
    }

    #[test]
    fn halves_go_to_even_zero_is_exact_and_ends_are_clipped() {
        let range = Range { scale: 0.5, zero: 10, most: 255 };
        let levels = [0.25, 0.75, -0.25, -0.75, 0.0, 1000.0, -1000.0].map(|x| range.quantize(x));
        assert_eq!(levels, [10, 12, 10, 8, 10, 255, 0]);
        assert_eq!((range.dequantize(10), range.ends()), (0.0, [-5.0, 122.5]));
    }

    #[test]
    fn a_range_holds_zero() {
        for (low, high) in [(-0.278, 9.0), (1.0, 3.0), (-3.0, -1.0), (-1e-3, 1e3), (-1.0, 1.0)] {
            for bits in [8, 12] {
                let range = Range::new(low, high, bits);
                assert_eq!(range.dequantize(range.quantize(0.0)), 0.0);
                for x in [low, high] {
                    let error = (range.dequantize(range.quantize(x)) - x).abs();
                    assert!(error <= 0.501 * range.scale, "{low}…{high}: {x} errs by {error} in {bits} bits");
                }
            }
        }
        assert_eq!(Range::new(0.0, 0.0, 8), Range { scale: 1.0, zero: 0, most: 255 });
        assert_eq!(Range::new(0.0, 1e-45, 12).scale, 1.0);
    }

    #[test]
    fn magnitudes_are_clipped_more_and_more_from_the_extremes_on() {
        let mut extremes = Extremes::default();
        assert!(extremes.add(&[-0.2, 3.0]) && extremes.add(&[4.0]) && extremes.add(&[]));
        let ranges: Vec<Range> = extremes.ranges(8).collect();
        assert_eq!(ranges[0], Range::new(-0.2, 4.0, 8));
        assert!(ranges.windows(2).all(|pair| pair[1].scale < pair[0].scale));
        // Small magnitudes are kept on either side.
        let [low, high] = ranges[10].ends();
        assert!((low + 0.2).abs() < 0.01 && (0.8..1.0).contains(&high), "{low} {high}");
        assert_eq!(Extremes::default().ranges(8).next(), Some(Range { scale: 1.0, zero: 0, most: 255 }));
    }

    #[test]
    fn what_is_not_finite_is_refused() {
        let mut extremes = Extremes::default();
        assert!(!extremes.add(&[1.0, f32::NAN]) && !extremes.add(&[f32::INFINITY]));
        assert_eq!(extremes, Extremes::default());
    }
}
