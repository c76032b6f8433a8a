//! The way back: from noise to a latent in a few steps.
//!
//! Write α = √ᾱ_t and σ = √(1−ᾱ_t) at the timestep t of a step, α′ and σ′ at the next (1 and 0 after the last
//! step). Each sampler here is affine in what it is given,
//!
//! `x′ = a·x + b·x₀ + c·x₀⁻ + d·ε`,
//!
//! with x₀ = p·x + q·prediction the data as estimated now, x₀⁻ as estimated one step before, and ε fresh noise.
//! The coefficients depend on the step alone: they are worked out once in f64, where large terms cancel.

use crate::bundle::manifest::{Prediction, SamplerKind};
use crate::diffusion::Schedule;
use crate::error::Result;

/// A sampler made ready for one number of steps. It is shared by all blocks; what belongs to a single block
/// is its [`SamplerState`].
#[derive(Debug, Clone, PartialEq)]
pub struct Sampler {
    steps: Vec<Step>,
}

/// What a sampler remembers of one block.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SamplerState {
    data: Vec<f32>,
}

impl SamplerState {
    /// x₀ as estimated by the last step, scaled like the latent; empty before the first.
    pub fn data(&self) -> &[f32] {
        &self.data
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Step {
    timestep: usize,
    /// (p, q)
    data: (f32, f32),
    /// (a + b·p, b·q): x and the prediction in x′.
    next: (f32, f32),
    /// c
    previous: f32,
    /// d
    noise: f32,
}

/// a, b, c, d of a step.
struct Update {
    latent: f64,
    data: f64,
    previous: f64,
    noise: f64,
}

impl Sampler {
    /// The sampler `kind` for a denoiser that predicts `prediction`, over [`Schedule::subset`] of `steps`.
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) when `steps` is not within 1…T.
    pub fn new(schedule: &Schedule, kind: SamplerKind, prediction: Prediction, steps: usize) -> Result<Self> {
        let timesteps = schedule.subset(steps)?;
        let levels: Vec<Level> = timesteps.iter().map(|&t| Level::new(schedule.alphas_cumprod()[t])).collect();
        let steps = timesteps.iter().enumerate().map(|(i, &timestep)| {
            let (before, now) = (i.checked_sub(1).map(|i| levels[i]), levels[i]);
            let next = levels.get(i + 1).copied().unwrap_or(Level::new(1.0));
            let update = match kind {
                SamplerKind::Ddpm => ddpm(now, next),
                SamplerKind::Ddim => ddim(now, next),
                SamplerKind::DpmSolverPp2m => dpm_solver_pp_2m(before, now, next),
                SamplerKind::Consistency => consistency(next),
            };
            Step::new(timestep, data_from(prediction, now), &update)
        });
        Ok(Self { steps: steps.collect() })
    }

    /// Number of steps.
    pub fn steps(&self) -> usize {
        self.steps.len()
    }

    /// The timestep at which the denoiser is asked in step `step`.
    pub fn timestep(&self, step: usize) -> usize {
        self.steps[step].timestep
    }

    /// Whether step `step` adds noise.
    pub fn adds_noise(&self, step: usize) -> bool {
        self.steps[step].noise != 0.0
    }

    /// Takes `latent` (x, becoming x′) one step on, given the denoiser's `prediction` for it, and `noise` that
    /// is read only where [`Self::adds_noise`]. Steps are taken in order, each block with its own `state`.
    /// All slices are of one length (`noise` may be empty where it is not read).
    pub fn advance(
        &self,
        step: usize,
        state: &mut SamplerState,
        latent: &mut [f32],
        prediction: &[f32],
        noise: &[f32],
    ) {
        let Step { data: (p, q), next: (a, b), previous: c, noise: d, .. } = self.steps[step];
        state.data.resize(latent.len(), 0.0);
        for ((x, &prediction), data) in latent.iter_mut().zip(prediction).zip(&mut state.data) {
            let estimate = p * *x + q * prediction;
            *x = a * *x + b * prediction + c * *data;
            *data = estimate;
        }
        if self.adds_noise(step) {
            latent.iter_mut().zip(noise).for_each(|(x, &noise)| *x += d * noise);
        }
    }
}

impl Step {
    fn new(timestep: usize, (p, q): (f64, f64), update: &Update) -> Self {
        let &Update { latent, data, previous, noise } = update;
        Self {
            timestep,
            data: (p as f32, q as f32),
            next: ((latent + data * p) as f32, (data * q) as f32),
            previous: previous as f32,
            noise: noise as f32,
        }
    }
}

/// α and σ at one timestep.
#[derive(Debug, Clone, Copy)]
struct Level {
    alpha: f64,
    sigma: f64,
}

impl Level {
    fn new(alpha_cumprod: f64) -> Self {
        Self { alpha: alpha_cumprod.sqrt(), sigma: (1.0 - alpha_cumprod).sqrt() }
    }

    /// Half the logarithm of the signal-to-noise ratio, λ; infinite without noise.
    fn log_snr(self) -> f64 {
        libm::log(self.alpha / self.sigma)
    }
}

/// (p, q): x₀ from x and the prediction.
fn data_from(prediction: Prediction, Level { alpha, sigma }: Level) -> (f64, f64) {
    match prediction {
        Prediction::Epsilon => (1.0 / alpha, -sigma / alpha),
        Prediction::V => (alpha, -sigma),
    }
}

/// Ho et al. 2020, eq. 7, with β of the whole stride: the mean and deviation of q(x′ | x, x₀).
fn ddpm(now: Level, next: Level) -> Update {
    let kept = now.alpha / next.alpha;
    let (variance, next_variance) = (now.sigma.powi(2), next.sigma.powi(2));
    let beta = 1.0 - kept.powi(2);
    Update {
        latent: kept * next_variance / variance,
        data: next.alpha * beta / variance,
        previous: 0.0,
        noise: (beta * next_variance / variance).sqrt(),
    }
}

/// Song et al. 2021, eq. 12 with σ = 0, the noise estimate written as (x − α·x₀)/σ.
fn ddim(now: Level, next: Level) -> Update {
    let latent = next.sigma / now.sigma;
    Update { latent, data: next.alpha - latent * now.alpha, previous: 0.0, noise: 0.0 }
}

/// Lu et al. 2022, algorithm 2; the first and the last step are of first order (there is nothing before the
/// one, and λ is infinite after the other), which is DDIM.
fn dpm_solver_pp_2m(before: Option<Level>, now: Level, next: Level) -> Update {
    let first_order = ddim(now, next);
    let Some(before) = before.filter(|_| next.sigma > 0.0) else { return first_order };
    let r = (now.log_snr() - before.log_snr()) / (next.log_snr() - now.log_snr());
    let share = 0.5 / r;
    Update { data: first_order.data * (1.0 + share), previous: -first_order.data * share, ..first_order }
}

/// Song et al. 2023 (arXiv 2303.01469), algorithm 1: the data as estimated, noised anew.
fn consistency(next: Level) -> Update {
    Update { latent: 0.0, data: next.alpha, previous: 0.0, noise: next.sigma }
}

#[cfg(test)]
#[path = "sampler_tests.rs"]
mod tests;
