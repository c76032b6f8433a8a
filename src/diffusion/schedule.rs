//! The forward process: how much of the picture is left at each timestep.

use crate::bundle::manifest::ScheduleKind;
use crate::error::{Error, Result};

/// Noise schedule over timesteps 0…T−1. At timestep t a latent is `x_t = √ᾱ_t·x₀ + √(1−ᾱ_t)·ε`
/// (Ho et al. 2020, eq. 4).
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    alphas_cumprod: Vec<f64>,
}

impl Schedule {
    /// Largest T, which bounds the table.
    pub const MAX_TIMESTEPS: usize = 100_000;
    /// Largest β: with more, ᾱ would reach zero and x₀ could not be told from a prediction of ε.
    const MAX_BETA: f64 = 0.999;
    /// Keeps β away from zero at the first timesteps of the cosine (Nichol & Dhariwal 2021, §3.2).
    const COSINE_OFFSET: f64 = 0.008;

    /// The schedule of `kind` over `timesteps` T.
    ///
    /// # Errors
    /// [`Error::Usage`] when T is not within 1…[`Self::MAX_TIMESTEPS`].
    pub fn new(kind: ScheduleKind, timesteps: usize) -> Result<Self> {
        if !(1..=Self::MAX_TIMESTEPS).contains(&timesteps) {
            return Err(Error::Usage(format!("timesteps must be within 1…{}", Self::MAX_TIMESTEPS)));
        }
        let mut left = 1.0;
        let alphas_cumprod = (0..timesteps)
            .map(|t| {
                let beta = match kind {
                    ScheduleKind::Linear => linear_beta(t, timesteps),
                    ScheduleKind::Cosine => cosine_beta(t, timesteps),
                };
                left *= 1.0 - beta.min(Self::MAX_BETA);
                left
            })
            .collect();
        Ok(Self { alphas_cumprod })
    }

    /// Timesteps T.
    pub fn timesteps(&self) -> usize {
        self.alphas_cumprod.len()
    }

    /// ᾱ of every timestep, falling, within (0, 1).
    pub fn alphas_cumprod(&self) -> &[f64] {
        &self.alphas_cumprod
    }

    /// The timesteps visited by `steps` sampling steps, falling, the first T−1: `round(T·(1 − i/N)) − 1`,
    /// the "trailing" spacing of Lin et al. 2023 (arXiv 2305.08891, table 2), which starts from pure noise
    /// however few the steps.
    ///
    /// # Errors
    /// [`Error::Usage`] when `steps` is not within 1…T.
    pub fn subset(&self, steps: usize) -> Result<Vec<usize>> {
        let t = self.timesteps();
        if !(1..=t).contains(&steps) {
            return Err(Error::Usage(format!("steps must be within 1…{t}, not {steps}")));
        }
        // Integer rounding to nearest: exact on every machine. Since N ≤ T, no timestep repeats.
        Ok((0..steps).map(|i| (2 * t * (steps - i) + steps) / (2 * steps) - 1).collect())
    }
}

fn linear_beta(t: usize, timesteps: usize) -> f64 {
    let (first, last) = (1e-4, 0.02);
    let way = if timesteps > 1 { t as f64 / (timesteps - 1) as f64 } else { 0.0 };
    (first + (last - first) * way) * 1000.0 / timesteps as f64
}

fn cosine_beta(t: usize, timesteps: usize) -> f64 {
    let left = |t: usize| {
        let way = (t as f64 / timesteps as f64 + Schedule::COSINE_OFFSET) / (1.0 + Schedule::COSINE_OFFSET);
        libm::cos(way * std::f64::consts::FRAC_PI_2).powi(2)
    };
    1.0 - left(t + 1) / left(t)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_linear_schedule_is_that_of_ddpm() {
        let schedule = Schedule::new(ScheduleKind::Linear, 1000).unwrap();
        let a = schedule.alphas_cumprod();
        // Known values of the 1e-4…0.02 schedule with T = 1000.
        assert!((a[0] - 0.9999).abs() < 1e-12);
        assert!((a[499] - 0.078_588_9).abs() < 1e-5, "{}", a[499]);
        assert!((a[999] - 4.035_83e-5).abs() < 1e-9, "{}", a[999]);
    }

    #[test]
    fn the_cosine_schedule_follows_its_formula_until_beta_is_clipped() {
        let schedule = Schedule::new(ScheduleKind::Cosine, 1000).unwrap();
        let f = |t: f64| ((t / 1000.0 + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
        for t in [0, 1, 250, 500, 900, 998] {
            let expected = f(t as f64 + 1.0) / f(0.0);
            assert!((schedule.alphas_cumprod()[t] - expected).abs() < 1e-12 + 1e-9 * expected);
        }
        assert!(schedule.alphas_cumprod()[999] > 0.0);
    }

    #[test]
    fn every_schedule_falls_and_stays_positive() {
        for kind in [ScheduleKind::Linear, ScheduleKind::Cosine] {
            for t in [1, 2, 10, 1000, 4000] {
                let schedule = Schedule::new(kind, t).unwrap();
                let a = schedule.alphas_cumprod();
                assert!(a[0] < 1.0 && a.windows(2).all(|w| w[1] < w[0]) && a[t - 1] > 0.0, "{kind:?} {t}");
            }
        }
        assert!(Schedule::new(ScheduleKind::Linear, 0).is_err());
        assert!(Schedule::new(ScheduleKind::Linear, Schedule::MAX_TIMESTEPS + 1).is_err());
    }

    #[test]
    fn subsets_start_at_the_noisiest_timestep_and_never_repeat() {
        let schedule = Schedule::new(ScheduleKind::Linear, 1000).unwrap();
        assert_eq!(schedule.subset(4).unwrap(), [999, 749, 499, 249]);
        assert_eq!(schedule.subset(1).unwrap(), [999]);
        assert_eq!(schedule.subset(1000).unwrap(), (0..1000).rev().collect::<Vec<_>>());
        for steps in 1..=1000 {
            let subset = schedule.subset(steps).unwrap();
            assert!(subset.len() == steps && subset[0] == 999 && subset.windows(2).all(|w| w[1] < w[0]));
        }
        assert!(schedule.subset(0).is_err() && schedule.subset(1001).is_err());
    }
}
