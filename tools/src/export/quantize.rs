//! Weight-only quantization: symmetric `i8` with one scale per output channel.

use crate::backend::Backend;
use crate::tape::op::len;
use crate::tape::{ParamSet, Shape};

/// Weights with fewer values stay `f32`: the first and last convolutions, which carry the signal unprotected by
/// any sum over many channels, are all but free.
const SMALLEST: usize = 8192;

/// A weight matrix `rows × outputs`, as `i8` times a scale per output.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantized {
    /// `rows × outputs` values in −127…127.
    pub values: Vec<i8>,
    /// One positive scale per output.
    pub scales: Vec<f32>,
}

impl Quantized {
    /// Rounds a row-major `rows × outputs` matrix; the largest magnitude of each output becomes ±127.
    pub fn new(weight: &[f32], outputs: usize) -> Self {
        let mut scales = vec![0.0f32; outputs];
        for row in weight.chunks_exact(outputs) {
            scales.iter_mut().zip(row).for_each(|(scale, w)| *scale = scale.max(w.abs() / 127.0));
        }
        // A silent channel, or one so faint that its scale is not a normal number, rounds to zero whatever the scale.
        scales.iter_mut().filter(|scale| !scale.is_normal()).for_each(|scale| *scale = 1.0);
        let round = |w: f32, scale: f32| (w / scale).round().clamp(-127.0, 127.0) as i8;
        let values = weight
            .chunks_exact(outputs)
            .flat_map(|row| row.iter().zip(&scales).map(|(&w, &scale)| round(w, scale)))
            .collect();
        Self { values, scales }
    }

    /// The matrix that the runtime computes with.
    pub fn dequantize(&self) -> Vec<f32> {
        let rows = self.values.chunks_exact(self.scales.len());
        rows.flat_map(|row| row.iter().zip(&self.scales).map(|(&q, scale)| f32::from(q) * scale)).collect()
    }
}

/// Whether the weight of a convolution is quantized in an int8 export.
pub fn is_quantized(shape: Shape) -> bool {
    let [a, b, rows, _] = shape;
    a == 1 && b == 1 && rows > 1 && len(shape) >= SMALLEST
}

/// Replaces every weight that an int8 export quantizes by what is left of it, so that the tape computes exactly
/// what the exported graph does.
pub fn quantize_dequantize<B: Backend>(backend: &B, params: &mut ParamSet<B>) {
    for p in params.params.iter_mut().filter(|p| is_quantized(p.shape)) {
        let rounded = Quantized::new(&backend.download(&p.value), p.shape[3]).dequantize();
        let old = std::mem::replace(&mut p.value, backend.upload(&rounded));
        backend.release(old);
    }
}

#[cfg(test)]
mod tests {
    use super::Quantized;

    #[test]
    fn every_weight_stays_within_half_a_step_of_its_own_channel() {
        let weight = [1.27, 0.003, -0.5, 0.002, 0.0, -0.001];
        let q = Quantized::new(&weight, 2);
        assert_eq!(q.values, [127, 127, -50, 85, 0, -42]);
        for (i, (after, before)) in q.dequantize().iter().zip(weight).enumerate() {
            assert!((after - before).abs() <= 0.5001 * q.scales[i % 2], "weight {i}: {before} became {after}");
        }
    }

    #[test]
    fn a_silent_channel_stays_silent() {
        let q = Quantized::new(&[0.0, 1.0, 0.0, 1e-42], 2);
        assert_eq!(q.dequantize(), [0.0, 1.0, 0.0, 0.0]);
        assert_eq!(Quantized::new(&[1e-42; 3], 1).dequantize(), [0.0; 3]);
    }

    #[test]
    fn rounding_twice_is_rounding_once() {
        let weight: Vec<f32> = (0..600).map(|i| (i as f32 * 0.7).sin() * (1 + i % 3) as f32).collect();
        let once = Quantized::new(&weight, 3);
        assert_eq!(Quantized::new(&once.dequantize(), 3).values, once.values);
    }
}
