//! Counter-based Gaussian noise: every value is a function of its key alone, so neither the order of blocks
//! nor the number of threads matters.

/// What a noise value is for; streams never share values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// The latent from which sampling starts.
    Initial = 0,
    /// The noise that DDPM adds at each step.
    Step = 1,
    /// What stands in for the neighbours where the bundle uses none.
    Neighbours = 2,
    /// The choice of the pseudo-query.
    Query = 3,
}

/// Noise of one picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noise {
    seed: u64,
}

impl Noise {
    /// The noise that belongs to `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Fills `out` with standard normal values (Box & Muller 1958), each a function of
    /// (seed, position, step, stream) and its index in `out`. The arithmetic is the same on every machine.
    pub fn fill(&self, position: u32, step: u32, stream: Stream, out: &mut [f32]) {
        for (i, four) in out.chunks_mut(4).enumerate() {
            let bits = self.bits(i as u32, position, step, stream);
            let (a, b) = (normal_pair(bits[0], bits[1]), normal_pair(bits[2], bits[3]));
            four.copy_from_slice(&[a.0, a.1, b.0, b.1][..four.len()]);
        }
    }

    /// A picture of `images`, all equally likely (to within images/2⁶⁴). 0 for `images` 0.
    pub fn pick(&self, images: u32) -> u32 {
        let bits = self.bits(0, 0, 0, Stream::Query);
        let wide = u64::from(bits[0]) << 32 | u64::from(bits[1]);
        ((u128::from(wide) * u128::from(images)) >> 64) as u32
    }

    fn bits(&self, i: u32, position: u32, step: u32, stream: Stream) -> [u32; 4] {
        philox4x32_10([i, position, step, stream as u32], [self.seed as u32, (self.seed >> 32) as u32])
    }
}

/// Philox4x32 with 10 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): the four numbers of a
/// counter.
pub fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    let multiply = |a: u32, b: u32| {
        let product = u64::from(a) * u64::from(b);
        ((product >> 32) as u32, product as u32)
    };
    for _ in 0..10 {
        let (high0, low0) = multiply(0xd251_1f53, counter[0]);
        let (high1, low1) = multiply(0xcd9e_8d57, counter[2]);
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    counter
}

/// Two independent standard normal values from 64 uniform bits. `libm` and not `std`: the latter's `ln`,
/// `sin` and `cos` differ in their last bit between systems.
fn normal_pair(a: u32, b: u32) -> (f32, f32) {
    const UNIT: f64 = 1.0 / (1u64 << 32) as f64;
    // In (0, 1]: the logarithm stays finite.
    let radius = libm::sqrt(-2.0 * libm::log((f64::from(a) + 1.0) * UNIT));
    let angle = std::f64::consts::TAU * (f64::from(b) * UNIT);
    ((radius * libm::cos(angle)) as f32, (radius * libm::sin(angle)) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_vectors() {
        // Known answers of philox4x32-10 in Random123's kat_vectors.
        assert_eq!(philox4x32_10([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32_10([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox4x32_10([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn values_are_standard_normal() {
        let mut values = vec![0.0; 200_000];
        Noise::new(11).fill(3, 7, Stream::Step, &mut values);
        let n = values.len() as f64;
        let moment = |p: i32| values.iter().map(|&v| f64::from(v).powi(p)).sum::<f64>() / n;
        assert!(moment(1).abs() < 0.01 && (moment(2) - 1.0).abs() < 0.015);
        assert!(moment(3).abs() < 0.04 && (moment(4) - 3.0).abs() < 0.1);
        let near = values.iter().filter(|v| v.abs() < 1.0).count() as f64 / n;
        assert!((near - 0.682_689).abs() < 0.005, "{near}");
    }

    #[test]
    fn every_part_of_the_key_matters_and_nothing_else() {
        let draw = |seed, position, step, stream| {
            let mut out = [0.0; 6];
            Noise::new(seed).fill(position, step, stream, &mut out);
            out
        };
        let base = draw(1, 2, 3, Stream::Initial);
        assert_eq!(base, draw(1, 2, 3, Stream::Initial));
        let others = [
            draw(1 << 40 | 1, 2, 3, Stream::Initial),
            draw(2, 2, 3, Stream::Initial),
            draw(1, 3, 2, Stream::Initial),
            draw(1, 2, 4, Stream::Initial),
            draw(1, 2, 3, Stream::Step),
        ];
        for (i, other) in others.iter().enumerate() {
            assert!(base.iter().zip(other).all(|(a, b)| a != b), "{i}");
        }
        let mut short = [0.0; 3];
        Noise::new(1).fill(2, 3, Stream::Initial, &mut short);
        assert_eq!(short, base[..3]);
    }

    #[test]
    fn values_are_the_same_on_every_machine() {
        let mut out = [0.0; 4];
        Noise::new(0).fill(0, 0, Stream::Initial, &mut out);
        // Box and Muller's formula on the first published Philox vector, computed elsewhere.
        assert_eq!(out.map(f32::to_bits), [0x3f7d_bb33, 0xbf6c_b6b0, 0xbf1e_1b9f, 0xbef6_d1b2]);
    }

    #[test]
    fn extreme_bits_stay_finite() {
        for (a, b) in [(0, 0), (u32::MAX, u32::MAX), (0, u32::MAX), (u32::MAX, 0)] {
            let (x, y) = normal_pair(a, b);
            assert!(x.is_finite() && y.is_finite() && x.abs() < 6.7 && y.abs() < 6.7);
        }
    }

    #[test]
    fn the_pseudo_query_is_any_picture() {
        let mut seen = [0; 5];
        (0..2000).for_each(|seed| seen[Noise::new(seed).pick(5) as usize] += 1);
        assert!(seen.iter().all(|&n| (330..470).contains(&n)), "{seen:?}");
        assert_eq!(Noise::new(9).pick(1), 0);
    }
}
