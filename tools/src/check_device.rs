//! `rissole-train check-device`: whether this machine's GPU computes what the CPU computes. One command, one verdict.

use rissole::bundle::manifest::{NeighbourSource, Prediction, ScheduleKind};
use rissole::{Error, LatentShape, Result};

use crate::backend::choice::{Opened, Wanted};
use crate::backend::cpu::Cpu;
use crate::backend::cuda::Cuda;
use crate::backend::{Backend, parity};
use crate::model::unet::UnetConfig;
use crate::random::Random;
use crate::train::denoiser::{DenoiserTrainer, DenoiserTraining};
use crate::train::latents::{LatentSet, Sampler};
use crate::train::optimizer::OptimizerConfig;

/// How far the loss of any step may drift from the CPU's, relatively.
const LOSS_DRIFT: f64 = 1e-3;
/// How far the weights may drift in all: the norm of the difference over the norm.
const WEIGHT_DRIFT: f64 = 1e-2;

/// What is compared.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct CheckArgs {
    /// Steps that a small network trains on both; 0: only the operations.
    #[arg(long, default_value_t = 50)]
    steps: usize,
}

/// Compares `device` with the CPU, operation by operation and over some steps of training, and prints a line for
/// each.
///
/// # Errors
/// As [`Wanted::open`]; [`Error::Internal`] when anything differs.
pub fn run(args: CheckArgs, device: &Wanted) -> Result<()> {
    let cuda = match device.open()? {
        Opened::Cuda(cuda) => cuda,
        Opened::Cpu(_) => return Err(Error::Usage("no CUDA device to check; --device cuda:0 says why".into())),
    };
    println!("{}", cuda.name());
    let mut good = true;
    if cuda.has_blas() {
        println!("with cuBLAS");
        good &= compare(&cuda, args.steps)?;
    }
    println!("with the program's own products, and patches of one sample at a time");
    let cuda = cuda.without_blas().with_patch_bytes(1);
    good &= compare(&cuda, args.steps)?;
    if good { Ok(()) } else { Err(Error::Internal(format!("{} differs from the CPU", cuda.name()))) }
}

/// Whether all comparisons hold.
fn compare(cuda: &Cuda, steps: usize) -> Result<bool> {
    let cpu = Cpu::default();
    let mut good = true;
    for check in parity::checks() {
        let error = parity::error(&cpu, cuda, check);
        cuda.check()?;
        good &= verdict(check.0, error, parity::TOLERANCE);
    }
    if steps > 0 {
        let (expected, got) = (train(&cpu, steps)?, train(cuda, steps)?);
        let drift = |(e, g): (&f64, &f64)| if g.is_finite() { (e - g).abs() / e } else { f64::INFINITY };
        let drift = expected.losses.iter().zip(&got.losses).map(drift).fold(0.0, f64::max);
        good &= verdict(&format!("loss over {steps} training steps"), drift, LOSS_DRIFT);
        good &= verdict("weights after them", distance(&expected.weights, &got.weights), WEIGHT_DRIFT);
    }
    Ok(good)
}

/// ‖a − b‖ / ‖a‖.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let (mut apart, mut size) = (0.0, 0.0);
    for (&a, &b) in a.iter().zip(b) {
        apart += (f64::from(a) - f64::from(b)).powi(2);
        size += f64::from(a).powi(2);
    }
    if apart.is_finite() { (apart / size).sqrt() } else { f64::INFINITY }
}

fn verdict(what: &str, error: f64, tolerance: f64) -> bool {
    let good = error <= tolerance;
    println!("{} {what}: {error:.1e} of {tolerance:.0e}", if good { "ok  " } else { "FAIL" });
    good
}

/// What a small network became.
struct Trained {
    losses: Vec<f64>,
    weights: Vec<f32>,
}

/// Trains a small denoiser with every kind of layer, from one seed.
fn train<B: Backend>(backend: &B, steps: usize) -> Result<Trained> {
    let config = DenoiserTraining {
        rows: 2,
        cols: 2,
        thumbnail: false,
        margin: 2,
        position_embedding: true,
        previous_block: false,
        neighbours: 2,
        exclude_self: true,
        source: NeighbourSource::Noise,
        thumbnail_codebook_size: 0,
        unet: UnetConfig { widths: vec![16, 32], residuals: 1, embedding: 32 },
        timesteps: 1000,
        schedule: ScheduleKind::Linear,
        prediction: Prediction::V,
        min_snr: None,
        thumbnail_share: 0.0,
        thumbnail_noise: 0.0,
        optimizer: OptimizerConfig { rate: 2e-3, warmup: 5, weight_decay: 0.01, max_norm: 1.0, average_decay: 0.99 },
        batch: 2,
        steps: steps as u64,
    };
    let latent = LatentShape { channels: 3, height: 8, width: 8 };
    let mut random = Random::new(3);
    let mut codebook = vec![0.0; 32 * latent.channels];
    random.fill_normal(&mut codebook);
    let set = LatentSet {
        grid: config.shape(latent)?.grid,
        codebook,
        codes: (0..16 * latent.cells()).map(|_| random.below(32) as u16).collect(),
        thumbnail_codebook: Vec::new(),
        thumbnail_codes: Vec::new(),
        neighbours: Vec::new(),
        neighbours_per_image: config.neighbours,
    };
    let alphas: Vec<f64> = (1..=1000).map(|t| 1.0 - f64::from(t) / 1001.0).collect();
    let sampler = Sampler::new(&set, config.batch_settings(&alphas));
    let mut trainer = DenoiserTrainer::new(backend, &config, latent, 1)?;
    let losses = (0..steps).map(|_| trainer.train(&sampler.draw(config.batch, &mut random))).collect::<Result<_>>()?;
    let tensors = trainer.checkpoint()?.tensors;
    let weights = tensors.into_iter().filter(|(name, _)| name.ends_with("/value")).flat_map(|(_, v)| v).collect();
    Ok(Trained { losses, weights })
}
