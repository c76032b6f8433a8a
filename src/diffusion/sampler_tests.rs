//! Samplers against a slow f64 reference written from the papers, and against what is known exactly of a
//! Gaussian.

use super::*;
use crate::bundle::manifest::ScheduleKind;
use crate::diffusion::{Noise, Stream};

const SAMPLERS: [SamplerKind; 4] =
    [SamplerKind::Ddpm, SamplerKind::Ddim, SamplerKind::DpmSolverPp2m, SamplerKind::Consistency];
const PREDICTIONS: [Prediction; 2] = [Prediction::Epsilon, Prediction::V];
const SCHEDULES: [ScheduleKind; 2] = [ScheduleKind::Linear, ScheduleKind::Cosine];

/// One value through the published formulas, as they are printed.
struct Reference {
    kind: SamplerKind,
    prediction: Prediction,
    /// ᾱ at each visited timestep, then 1.
    alphas_cumprod: Vec<f64>,
    past: Vec<f64>,
}

impl Reference {
    fn new(schedule: &Schedule, kind: SamplerKind, prediction: Prediction, steps: usize) -> Self {
        let mut alphas_cumprod: Vec<f64> =
            schedule.subset(steps).unwrap().iter().map(|&t| schedule.alphas_cumprod()[t]).collect();
        alphas_cumprod.push(1.0);
        Self { kind, prediction, alphas_cumprod, past: vec![] }
    }

    fn advance(&mut self, i: usize, x: f64, prediction: f64, z: f64) -> f64 {
        let (now, next) = (self.alphas_cumprod[i], self.alphas_cumprod[i + 1]);
        let (x0, epsilon) = match self.prediction {
            Prediction::Epsilon => ((x - (1.0 - now).sqrt() * prediction) / now.sqrt(), prediction),
            Prediction::V => {
                (now.sqrt() * x - (1.0 - now).sqrt() * prediction, (1.0 - now).sqrt() * x + now.sqrt() * prediction)
            }
        };
        self.past.push(x0);
        match self.kind {
            SamplerKind::Ddpm => {
                let alpha = now / next;
                let beta = 1.0 - alpha;
                let mean = next.sqrt() * beta / (1.0 - now) * x0 + alpha.sqrt() * (1.0 - next) / (1.0 - now) * x;
                mean + ((1.0 - next) / (1.0 - now) * beta).sqrt() * z
            }
            SamplerKind::Ddim => next.sqrt() * x0 + (1.0 - next).sqrt() * epsilon,
            SamplerKind::DpmSolverPp2m if next == 1.0 => x0,
            SamplerKind::DpmSolverPp2m => {
                let lambda = |i: usize| {
                    let a: f64 = self.alphas_cumprod[i];
                    (a.sqrt() / (1.0 - a).sqrt()).ln()
                };
                let h = lambda(i + 1) - lambda(i);
                let d = if i == 0 {
                    x0
                } else {
                    let r = (lambda(i) - lambda(i - 1)) / h;
                    (1.0 + 1.0 / (2.0 * r)) * x0 - 1.0 / (2.0 * r) * self.past[i - 1]
                };
                ((1.0 - next) / (1.0 - now)).sqrt() * x - next.sqrt() * ((-h).exp() - 1.0) * d
            }
            SamplerKind::Consistency => next.sqrt() * x0 + (1.0 - next).sqrt() * z,
        }
    }
}

fn each_combination(mut check: impl FnMut(&Schedule, ScheduleKind, SamplerKind, Prediction)) {
    for schedule_kind in SCHEDULES {
        let schedule = Schedule::new(schedule_kind, 1000).unwrap();
        for kind in SAMPLERS {
            for prediction in PREDICTIONS {
                check(&schedule, schedule_kind, kind, prediction);
            }
        }
    }
}

#[test]
fn every_sampler_follows_its_reference() {
    each_combination(|schedule, schedule_kind, kind, prediction| {
        for steps in [1, 2, 3, 20, 1000] {
            let sampler = Sampler::new(schedule, kind, prediction, steps).unwrap();
            let mut reference = Reference::new(schedule, kind, prediction, steps);
            let mut state = SamplerState::default();
            for step in 0..steps {
                // A sampler is a formula of whatever it is given: every step gets values of its own.
                let mut given = [0.0; 3];
                Noise::new(5).fill(0, step as u32, Stream::Initial, &mut given);
                let [x, predicted, z] = given;
                let mut next = [x];
                sampler.advance(step, &mut state, &mut next, &[predicted], &[z]);
                let expected = reference.advance(step, x.into(), predicted.into(), z.into());
                // x₀ from ε divides by α: rounding is relative to the largest term.
                let estimates = &reference.past[step.saturating_sub(1)..];
                let largest = estimates.iter().fold(expected.abs().max(1.0), |m, x0| m.max(x0.abs()));
                let error = (f64::from(next[0]) - expected).abs();
                assert!(error < 1e-6 * largest, "{schedule_kind:?} {kind:?} {prediction:?} {steps}:{step}: {error}");
            }
        }
    });
}

#[test]
fn the_last_step_gives_the_data_and_adds_no_noise() {
    each_combination(|schedule, _, kind, prediction| {
        let sampler = Sampler::new(schedule, kind, prediction, 10).unwrap();
        let random = matches!(kind, SamplerKind::Ddpm | SamplerKind::Consistency);
        assert_eq!((0..10).filter(|&s| sampler.adds_noise(s)).count(), if random { 9 } else { 0 });
        let mut state = SamplerState::default();
        let mut x = [0.3, -0.7];
        sampler.advance(9, &mut state, &mut x, &[0.2, 0.1], &[]);
        for (x, data) in x.iter().zip(state.data()) {
            assert!((x - data).abs() < 1e-5, "{kind:?} {prediction:?}");
        }
    });
}

/// Data distributed as N(μ, s²): the best prediction is known exactly, and so is where a point flows.
struct Gaussian {
    mean: f64,
    deviation: f64,
}

impl Gaussian {
    fn spread(&self, alpha_cumprod: f64) -> f64 {
        (alpha_cumprod * self.deviation.powi(2) + 1.0 - alpha_cumprod).sqrt()
    }

    fn predict(&self, prediction: Prediction, alpha_cumprod: f64, x: f64) -> f64 {
        let (alpha, sigma) = (alpha_cumprod.sqrt(), (1.0 - alpha_cumprod).sqrt());
        let epsilon = sigma * (x - alpha * self.mean) / self.spread(alpha_cumprod).powi(2);
        match prediction {
            Prediction::Epsilon => epsilon,
            Prediction::V => alpha * epsilon - sigma * (x - sigma * epsilon) / alpha,
        }
    }

    /// The probability-flow map keeps (x − αμ)/spread (Song et al. 2021, "score-based", eq. 13).
    fn flow(&self, alpha_cumprod: f64, x: f64) -> f64 {
        self.mean + self.deviation * (x - alpha_cumprod.sqrt() * self.mean) / self.spread(alpha_cumprod)
    }

    /// Asserts that mean and deviation of `x` are those of the data.
    fn check(&self, x: &[f32], what: &str) {
        let n = x.len() as f64;
        let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let deviation = (x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n).sqrt();
        assert!((mean - self.mean).abs() < 0.06, "{what}: mean {mean}");
        assert!((deviation - self.deviation).abs() < 0.06, "{what}: deviation {deviation}");
    }

    fn sample(&self, schedule: &Schedule, sampler: &Sampler, prediction: Prediction, noise: Noise, x: &mut [f32]) {
        let mut state = SamplerState::default();
        let mut z = vec![0.0; x.len()];
        for step in 0..sampler.steps() {
            let alpha_cumprod = schedule.alphas_cumprod()[sampler.timestep(step)];
            let predicted: Vec<f32> =
                x.iter().map(|&x| self.predict(prediction, alpha_cumprod, x.into()) as f32).collect();
            noise.fill(0, step as u32, Stream::Step, &mut z);
            sampler.advance(step, &mut state, x, &predicted, &z);
        }
    }
}

#[test]
fn deterministic_samplers_converge_to_the_probability_flow() {
    let data = Gaussian { mean: 0.7, deviation: 0.4 };
    let starts = [-2.5f32, -1.0, 0.0, 0.3, 1.9];
    each_combination(|schedule, schedule_kind, kind, prediction| {
        let largest_error = |steps: usize| {
            let sampler = Sampler::new(schedule, kind, prediction, steps).unwrap();
            let mut x = starts;
            data.sample(schedule, &sampler, prediction, Noise::new(0), &mut x);
            let noisiest = schedule.alphas_cumprod()[999];
            let error = |(&x, &start): (&f32, &f32)| (f64::from(x) - data.flow(noisiest, start.into())).abs();
            x.iter().zip(&starts).map(error).fold(0.0, f64::max)
        };
        let (few, many) = (largest_error(50), largest_error(1000));
        println!("{schedule_kind:?} {kind:?} {prediction:?}: {few:.5} {many:.5}");
        match kind {
            SamplerKind::Ddpm | SamplerKind::Consistency => {}
            SamplerKind::Ddim => assert!(few < 0.1 && many < 0.01 && many < few),
            SamplerKind::DpmSolverPp2m => assert!(few < 0.01 && many < 0.001),
        }
    });
}

#[test]
fn the_second_order_sampler_beats_the_first_order_one() {
    let data = Gaussian { mean: 0.7, deviation: 0.4 };
    let schedule = Schedule::new(ScheduleKind::Linear, 1000).unwrap();
    let error = |kind| {
        let sampler = Sampler::new(&schedule, kind, Prediction::V, 20).unwrap();
        let mut x = [1.5];
        data.sample(&schedule, &sampler, Prediction::V, Noise::new(0), &mut x);
        (f64::from(x[0]) - data.flow(schedule.alphas_cumprod()[999], 1.5)).abs()
    };
    assert!(error(SamplerKind::DpmSolverPp2m) < 0.5 * error(SamplerKind::Ddim));
}

#[test]
fn ddpm_gives_the_data_s_mean_and_variance() {
    let data = Gaussian { mean: -0.5, deviation: 1.3 };
    each_combination(|schedule, schedule_kind, kind, prediction| {
        if kind != SamplerKind::Ddpm {
            return;
        }
        let sampler = Sampler::new(schedule, kind, prediction, 250).unwrap();
        let mut x = vec![0.0; 4000];
        Noise::new(3).fill(0, 0, Stream::Initial, &mut x);
        data.sample(schedule, &sampler, prediction, Noise::new(3), &mut x);
        data.check(&x, &format!("{schedule_kind:?} {prediction:?}"));
    });
}

#[test]
fn consistency_sampling_gives_the_data_s_mean_and_variance_in_any_number_of_steps() {
    let data = Gaussian { mean: -0.5, deviation: 1.3 };
    for (schedule_kind, prediction, steps) in
        SCHEDULES.into_iter().flat_map(|s| PREDICTIONS.into_iter().flat_map(move |p| [1, 2, 4].map(|n| (s, p, n))))
    {
        let schedule = Schedule::new(schedule_kind, 1000).unwrap();
        let sampler = Sampler::new(&schedule, SamplerKind::Consistency, prediction, steps).unwrap();
        let (mut x, mut z) = (vec![0.0; 4000], vec![0.0; 4000]);
        Noise::new(3).fill(0, 0, Stream::Initial, &mut x);
        let mut state = SamplerState::default();
        for step in 0..steps {
            let alpha_cumprod = schedule.alphas_cumprod()[sampler.timestep(step)];
            let (alpha, sigma) = (alpha_cumprod.sqrt(), (1.0 - alpha_cumprod).sqrt());
            // A denoiser that is consistent: its data is where the probability flow ends.
            let predict = |&x: &f32| {
                let (x, end) = (f64::from(x), data.flow(alpha_cumprod, x.into()));
                match prediction {
                    Prediction::Epsilon => ((x - alpha * end) / sigma) as f32,
                    Prediction::V => ((alpha * x - end) / sigma) as f32,
                }
            };
            let predicted: Vec<f32> = x.iter().map(predict).collect();
            Noise::new(3).fill(0, step as u32, Stream::Step, &mut z);
            sampler.advance(step, &mut state, &mut x, &predicted, &z);
        }
        data.check(&x, &format!("{schedule_kind:?} {prediction:?} {steps}"));
    }
}

#[test]
fn pictures_to_be_are_the_same_on_every_machine() {
    let mut bits = crc32fast::Hasher::new();
    for (kind, prediction, schedule) in
        SAMPLERS.into_iter().flat_map(|k| PREDICTIONS.into_iter().flat_map(move |p| SCHEDULES.map(|s| (k, p, s))))
    {
        let sampler = Sampler::new(&Schedule::new(schedule, 1000).unwrap(), kind, prediction, 20).unwrap();
        let (mut latent, mut noise, mut state) = ([0.0; 16], [0.0; 16], SamplerState::default());
        Noise::new(3).fill(0, 0, Stream::Initial, &mut latent);
        for step in 0..sampler.steps() {
            Noise::new(3).fill(0, step as u32, Stream::Step, &mut noise);
            let prediction = latent.map(|x| 0.5 * x);
            sampler.advance(step, &mut state, &mut latent, &prediction, &noise);
        }
        assert!(latent.iter().all(|x| x.is_finite()));
        latent.iter().for_each(|x| bits.update(&x.to_bits().to_le_bytes()));
    }
    // As x86-64 gave it: schedules, coefficients, noise and steps, down to the last bit.
    let found = bits.finalize();
    assert_eq!(found, 0xe2dd_eec2, "{found:#x}");
}
