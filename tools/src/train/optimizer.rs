//! AdamW settings over a run: warm-up, then a cosine down to a tenth.

use serde::{Deserialize, Serialize};

use crate::backend::{AdamW, Pace};

/// Optimizer settings of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Peak learning rate.
    pub rate: f32,
    /// Steps of linear warm-up.
    pub warmup: u64,
    /// Decoupled weight decay, on matrices only.
    pub weight_decay: f32,
    /// Largest norm of all gradients together.
    pub max_norm: f32,
    /// Decay of the moving average of the weights.
    pub average_decay: f32,
}

impl OptimizerConfig {
    /// What is the same at every step.
    pub fn adamw(&self) -> AdamW {
        AdamW { beta1: 0.9, beta2: 0.99, weight_decay: self.weight_decay, max_norm: self.max_norm }
    }

    /// The pace of 1-based `step` out of `steps`.
    pub fn at(&self, step: u64, steps: u64) -> Pace {
        let warm = (step as f32 / self.warmup.max(1) as f32).min(1.0);
        let progress = (step as f32 / steps.max(1) as f32).min(1.0);
        let cosine = 0.1 + 0.9 * 0.5 * (1.0 + (std::f32::consts::PI * progress).cos());
        // Early on the average follows closely, or it would remember the initial weights for too long.
        let average_decay = self.average_decay.min((1.0 + step as f32) / (10.0 + step as f32));
        Pace { rate: self.rate * warm * cosine, step, average_decay }
    }
}

#[cfg(test)]
mod tests {
    use super::OptimizerConfig;

    #[test]
    fn the_rate_warms_up_and_then_falls_to_a_tenth() {
        let config = OptimizerConfig { rate: 1.0, warmup: 10, weight_decay: 0.0, max_norm: 1.0, average_decay: 0.999 };
        assert!(config.at(1, 1000).rate < 0.11);
        assert!((config.at(10, 1000).rate - 1.0).abs() < 1e-3);
        assert!((config.at(1000, 1000).rate - 0.1).abs() < 1e-6);
        assert!(config.at(1, 1000).average_decay < 0.2 && config.at(1_000_000, 1000).average_decay == 0.999);
    }
}
