//! Consistency tuning: a trained denoiser learns to see, at every timestep, the data that it sees at an earlier
//! timestep of the same path; in the end one look from pure noise reaches the data (Song et al. 2023, arXiv
//! 2303.01469). It starts from a diffusion model, with two timesteps far apart that draw together (Geng et al. 2024,
//! arXiv 2406.14548).

use serde::{Deserialize, Serialize};

use super::latents::{Batch, Sampler};
use super::optimizer::OptimizerConfig;
use crate::random::Random;

/// Settings of a recipe's `[consistency]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsistencyTraining {
    /// The optimizer.
    pub optimizer: OptimizerConfig,
    /// Pairs of windows a step.
    pub batch: usize,
    /// Steps.
    pub steps: u64,
    /// How often the gap between the two timesteps is halved, at equal intervals.
    pub halvings: u32,
}

impl ConsistencyTraining {
    /// Share of the later timestep by which the earlier one is before it, in the 1-based `step`: ½, ¼, …
    pub fn gap(&self, step: u64) -> f64 {
        let stages = u64::from(self.halvings) + 1;
        let stage = (step.saturating_sub(1) * stages / self.steps.max(1)).min(stages - 1);
        0.5f64.powi(stage as i32 + 1)
    }
}

/// Windows at two timesteps each, with the same data, noise and conditions.
#[derive(Debug, PartialEq)]
pub struct Pair {
    /// At the later, noisier timestep.
    pub later: Batch,
    /// At the earlier one.
    pub earlier: Batch,
}

impl Sampler<'_> {
    /// `count` pairs with the gap `gap`, and at least one timestep, between their two timesteps. Each pair has a
    /// generator of its own, as in [`Self::draw`].
    pub fn draw_pair(&self, count: usize, gap: f64, random: &mut Random) -> Pair {
        let (mut later, mut earlier) = (Batch::default(), Batch::default());
        for (a, b) in self.each(count, random, |random| self.sample_pair(gap, random)) {
            later.append(a);
            earlier.append(b);
        }
        Pair { later, earlier }
    }

    fn sample_pair(&self, gap: f64, random: &mut Random) -> (Batch, Batch) {
        let mut subject = self.subject(random);
        // Nothing is before timestep 0.
        let t = subject.timestep.max(1);
        let r = t - ((t as f64 * gap).round() as usize).max(1);
        subject.timestep = t;
        let later = self.batch_of(&subject, random);
        subject.timestep = r;
        let (noisy, target) = self.noised(&subject);
        let earlier = Batch { noisy, target, timesteps: vec![r as f32], ..later.clone() };
        (later, earlier)
    }

    /// The v that `pair.later` should predict so that its data, x₀ = α·x − σ·v, is that of `pair.earlier`, whose
    /// predicted v are `earlier`: `[N, block h, block w, C]` both.
    pub fn consistent_target(&self, pair: &Pair, earlier: &[f32]) -> Vec<f32> {
        let later = self.block_values(&pair.later).zip(self.block_values(&pair.earlier));
        later
            .zip(earlier)
            .map(|(((x, t), (x_earlier, r)), v_earlier)| {
                let ((alpha, sigma), (alpha_earlier, sigma_earlier)) = (self.level(t), self.level(r));
                let data = alpha_earlier * x_earlier - sigma_earlier * v_earlier;
                (alpha * x - data) / sigma
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::latents::{BatchSettings, LatentSet};
    use rissole::bundle::manifest::{NeighbourSource, Prediction};
    use rissole::{BlockGrid, LatentShape};

    #[test]
    fn the_gap_is_halved_at_equal_intervals() {
        let optimizer = OptimizerConfig { rate: 0.0, warmup: 0, weight_decay: 0.0, max_norm: 1.0, average_decay: 0.0 };
        let config = ConsistencyTraining { optimizer, batch: 1, steps: 40, halvings: 3 };
        for (step, gap) in [(1, 0.5), (10, 0.5), (11, 0.25), (20, 0.25), (21, 0.125), (31, 0.0625), (40, 0.0625)] {
            assert_eq!(config.gap(step), gap, "{step}");
        }
    }

    /// Where the earlier prediction is the truth, so is the later target: one path, one end.
    #[test]
    fn from_a_true_prediction_comes_a_true_target() {
        for margin in [0, 1] {
            let latent = LatentShape { channels: 2, height: 4, width: 4 };
            let grid = BlockGrid::new(latent, 2, 2, false, margin).unwrap();
            let set = LatentSet::random(grid, 5, 3, 1, &mut Random::new(1));
            let alphas: Vec<f64> = (1..=20).map(|t| 1.0 - f64::from(t) / 21.0).collect();
            let sampler = Sampler::new(
                &set,
                BatchSettings {
                    alphas: &alphas,
                    prediction: Prediction::V,
                    min_snr: None,
                    thumbnail_share: 0.0,
                    thumbnail_noise: 0.0,
                    source: NeighbourSource::Noise,
                    neighbour_dropout: 0.0,
                    previous_block: false,
                },
            );
            for gap in [0.5, 0.01] {
                let pair = sampler.draw_pair(6, gap, &mut Random::new(2));
                assert!(pair.earlier.timesteps.iter().zip(&pair.later.timesteps).all(|(r, t)| r < t));
                assert!(pair.earlier.noisy != pair.later.noisy && pair.earlier.neighbours == pair.later.neighbours);
                let target = sampler.consistent_target(&pair, &pair.earlier.target);
                assert_eq!(target.len(), pair.later.target.len());
                for (found, expected) in target.iter().zip(&pair.later.target) {
                    assert!((found - expected).abs() < 1e-4, "{found} {expected}");
                }
                let wrong = sampler.consistent_target(&pair, &vec![0.0; target.len()]);
                assert!(wrong.iter().zip(&target).any(|(a, b)| (a - b).abs() > 0.1));
            }
        }
    }
}
