//! Consistency tuning: a trained denoiser learns to see, at every timestep, the data that it sees at an earlier
//! timestep of the same path; in the end one look from pure noise reaches the data (Song et al. 2023, arXiv
//! 2303.01469). It starts from a diffusion model, with two timesteps far apart that draw together (Geng et al. 2024,
//! arXiv 2406.14548).

use serde::{Deserialize, Serialize};

use super::latents::Sampler;
use super::optimizer::OptimizerConfig;
use crate::backend::windows::Subject;
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
pub struct Pairs {
    /// At the later, noisier timestep.
    pub later: Vec<Subject>,
    /// At the earlier one. Their weight is σ of this timestep over σ of the later.
    pub earlier: Vec<Subject>,
}

impl Sampler<'_> {
    /// `count` pairs with the gap `gap`, and at least one timestep, between their two timesteps.
    ///
    /// The later v should be such that its data, x₀ = α·x − σ·v, is that of the earlier prediction v′. With the true
    /// targets of both, that is target + σ′/σ · (v′ − target′).
    pub fn draw_pairs(&self, count: usize, gap: f64, random: &mut Random) -> Pairs {
        // Nothing is before timestep 0.
        let later: Vec<_> = self.draw(count, random).iter().map(|s| self.at(s, s.timestep.max(1))).collect();
        let earlier = later.iter().map(|later| {
            let before = ((later.timestep as f64 * gap).round() as usize).max(1);
            let earlier = self.at(later, later.timestep - before);
            Subject { weight: earlier.sigma / later.sigma, ..earlier }
        });
        Pairs { earlier: earlier.collect(), later }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend;
    use crate::backend::cpu::Cpu;
    use crate::backend::windows::{Batch, LatentSet, WindowSettings};
    use crate::train::latents::BatchSettings;
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

    /// Where the earlier prediction is the truth, so is the later target; where it is another, the data is that of it.
    #[test]
    fn the_later_target_leads_to_the_data_of_the_earlier_prediction() {
        let cpu = Cpu::default();
        for margin in [0, 1] {
            let latent = LatentShape { channels: 2, height: 4, width: 4 };
            let grid = BlockGrid::new(latent, 2, 2, false, margin).unwrap();
            let set = LatentSet::random(grid, 5, 3, 1, &mut Random::new(1));
            let alphas: Vec<f64> = (1..=20).map(|t| 1.0 - f64::from(t) / 21.0).collect();
            let windows =
                WindowSettings { prediction: Prediction::V, source: NeighbourSource::Noise, previous_block: false };
            let settings = BatchSettings {
                alphas: &alphas,
                windows,
                min_snr: None,
                thumbnail_share: 0.0,
                thumbnail_noise: 0.0,
                neighbour_dropout: 0.0,
            };
            let (sampler, latents) = (Sampler::new(&set, settings), cpu.latents(set.clone(), windows));
            let draw = |subjects: &[Subject]| {
                let mut batch = cpu.layout(&latents).lengths(subjects.len()).map(|&n| vec![f32::NAN; n]);
                cpu.draw(&latents, &Subject::words(subjects), &mut batch);
                batch
            };
            for gap in [0.5, 0.01] {
                let Pairs { later, earlier } = sampler.draw_pairs(6, gap, &mut Random::new(2));
                assert!(earlier.iter().zip(&later).all(|(r, t)| r.timestep < t.timestep && r.image == t.image));
                let (at_later, at_earlier) = (draw(&later), draw(&earlier));
                assert!(at_earlier.noisy != at_later.noisy && at_earlier.neighbours == at_later.neighbours);
                let target = |predicted: &Vec<f32>| {
                    let mut target = at_later.target.clone();
                    cpu.add_difference(&at_earlier.weights, predicted, &at_earlier.target, &mut target);
                    target
                };
                assert_eq!(target(&at_earlier.target), at_later.target);
                let wrong: Vec<f32> = at_earlier.target.iter().map(|v| 0.3 - v).collect();
                // The data of each, by the blocks' own noisy values.
                let own = |batch: &Batch<Vec<f32>>| -> Vec<f32> {
                    let (window, channels) = (grid.window(), cpu.layout(&latents).noisy_channels());
                    let samples = batch.noisy.chunks_exact(window.cells() * channels);
                    let layout = cpu.layout(&latents);
                    samples
                        .flat_map(|s| layout.own.iter().flat_map(move |&i| &s[i as usize * channels..][..2]))
                        .copied()
                        .collect()
                };
                let data = |subjects: &[Subject], noisy: Vec<f32>, v: &[f32]| -> Vec<f32> {
                    let of = |i: usize| &subjects[i / 8];
                    noisy.iter().zip(v).enumerate().map(|(i, (x, v))| of(i).alpha * x - of(i).sigma * v).collect()
                };
                let found = data(&later, own(&at_later), &target(&wrong));
                let expected = data(&earlier, own(&at_earlier), &wrong);
                for (found, expected) in found.iter().zip(&expected) {
                    assert!((found - expected).abs() < 1e-4, "{found} {expected}");
                }
            }
        }
    }
}
