//! Random numbers that any thread can compute for itself, by the runtime's Philox. The kernels have the same
//! (`cuda/kernels/random.cu`).

use rissole::diffusion::philox4x32_10;

/// What the numbers follow from. Parts are below 2²⁴, so that a float holds them.
pub type Key = [u32; 2];

/// Fills `out` with the first standard normal values (Box & Muller 1958) of the stream `stream` of `key`.
pub fn fill_normal(key: Key, stream: u32, out: &mut [f32]) {
    const UNIT: f32 = 1.0 / (1 << 24) as f32;
    for (i, four) in (0..).zip(out.chunks_mut(4)) {
        let bits = philox4x32_10([i, stream, 0, 0], key);
        for (pair, bits) in four.chunks_mut(2).zip(bits.chunks_exact(2)) {
            let radius = (-2.0 * (((bits[0] >> 8) + 1) as f32 * UNIT).ln()).sqrt();
            let (sin, cos) = (std::f32::consts::TAU * ((bits[1] >> 8) as f32 * UNIT)).sin_cos();
            pair[0] = radius * cos;
            if let Some(second) = pair.get_mut(1) {
                *second = radius * sin;
            }
        }
    }
}

/// Number `i` of those in 0…n−1 that follow from `key`.
pub fn below(n: u32, key: Key, i: u32) -> u32 {
    ((u64::from(philox4x32_10([i, 0, 0, 0], key)[0]) * u64::from(n)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::fill_normal;

    #[test]
    fn streams_are_normal_and_independent_and_a_part_is_the_beginning_of_the_whole() {
        let draw = |key, stream| {
            let mut values = vec![0.0; 40_001];
            fill_normal(key, stream, &mut values);
            values
        };
        let first = draw([1, 2], 0);
        let n = first.len() as f64;
        let mean_of = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / n;
        for other in [draw([1, 2], 1), draw([2, 2], 0), draw([1, 3], 0)] {
            let mean = mean_of(&mut other.iter().map(|&v| f64::from(v)));
            let variance = mean_of(&mut other.iter().map(|&v| f64::from(v).powi(2)));
            let together = mean_of(&mut other.iter().zip(&first).map(|(&a, &b)| f64::from(a) * f64::from(b)));
            assert!(mean.abs() < 0.025 && (variance - 1.0).abs() < 0.035 && together.abs() < 0.025);
        }
        let mut few = [0.0; 7];
        fill_normal([1, 2], 0, &mut few);
        assert_eq!(few, first[..7]);
    }
}
