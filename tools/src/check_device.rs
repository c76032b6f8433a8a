//! `rissole-train check-device`: whether this machine's GPU computes what the CPU computes. One command, one verdict.

use rissole::bundle::manifest::{NeighbourSource, Prediction, ScheduleKind};
use rissole::{Error, LatentShape, Result};

use crate::backend::choice::{Choice, Wanted};
use crate::backend::cpu::Cpu;
use crate::backend::cuda::{Convolutions, Cuda};
use crate::backend::windows::LatentSet;
use crate::backend::{Backend, parity};
use crate::model::unet::UnetConfig;
use crate::random::Random;
use crate::train::Trainer;
use crate::train::denoiser::{DenoiserTrainer, DenoiserTraining};
use crate::train::latents::Sampler;
use crate::train::measures::KEPT;
use crate::train::optimizer::OptimizerConfig;

/// How far a device may be from the CPU.
struct Tolerance {
    /// Any operation, as [`parity::error`] measures it.
    operation: f64,
    /// The loss of any step, relatively.
    loss: f64,
    /// The weights after all steps: the norm of the difference over the norm.
    weights: f64,
}

/// How far weights may be, on one GPU, from those of a training that was not interrupted: kernels repeat bit for bit.
const RESUMED: f64 = 0.0;

const F32: Tolerance = Tolerance { operation: parity::TOLERANCE, loss: 1e-3, weights: 1e-2 };
const BF16: Tolerance = Tolerance { operation: parity::BF16_TOLERANCE, loss: 2e-2, weights: 5e-2 };

/// Steps after which a step must not ask for memory.
const WARM_UP: usize = 2;

/// What is compared.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct CheckArgs {
    /// Steps that a small network trains on both; 0: only the operations.
    #[arg(long, default_value_t = 50)]
    steps: usize,
}

/// Compares `device` with the CPU, operation by operation and over some steps of training, and prints a line for
/// each: by the program's own plainest kernels, then as it would train.
///
/// # Errors
/// As [`Cuda::open`] and [`Cuda::with_convolutions`]; [`Error::Internal`] when anything differs.
pub fn run(args: CheckArgs, device: &Wanted) -> Result<()> {
    let ordinal = match device.choice {
        Choice::Auto => 0,
        Choice::Cuda(ordinal) => ordinal,
        Choice::AllCuda => return Err(Error::Usage("one GPU at a time is compared; give --device cuda:N".into())),
        Choice::Cpu => return Err(Error::Usage("the CPU is what a GPU is compared with; give --device cuda:N".into())),
    };
    let open = |bf16| Cuda::open(ordinal, bf16, device.kernel_cache.as_deref());
    let mut good = true;
    for (activations, bf16, tolerance) in [("floats", false, &F32), ("bf16", true, &BF16)] {
        let cuda = match open(bf16) {
            Err(Error::Usage(why)) if bf16 => {
                println!("skipped: {why}");
                continue;
            }
            opened => opened?.with_convolutions(device.convolutions)?,
        };
        if !bf16 {
            println!("{}", cuda.name());
        }
        println!("{activations}, own products over patches of one sample at a time, nothing recorded");
        let own = open(bf16)?.without_blas().with_convolutions(Convolutions::Patches)?;
        let own = own.with_patch_bytes(1).without_recording();
        good &= compare(&own, tolerance, args.steps)?;
        let convolutions = match device.convolutions {
            Convolutions::Direct if bf16 => "on tensor cores without patches",
            Convolutions::Direct | Convolutions::Patches => "over patches",
            Convolutions::Cudnn => "by cuDNN",
        };
        let products = if cuda.has_blas() { "cublasLt" } else { "no cublasLt" };
        println!("{activations}, {products}, convolutions {convolutions}, steps recorded");
        good &= compare(&cuda, tolerance, args.steps)?;
    }
    if good { Ok(()) } else { Err(Error::Internal("the GPU differs from the CPU".into())) }
}

/// Whether all comparisons hold.
fn compare(cuda: &Cuda, tolerance: &Tolerance, steps: usize) -> Result<bool> {
    let replays = cuda.replays();
    let cpu = Cpu::default();
    let mut good = true;
    for check in parity::checks() {
        let error = parity::error(&cpu, cuda, check, cuda.is_bf16());
        cuda.check()?;
        good &= verdict(check.0, error, tolerance.operation);
    }
    if steps > 0 {
        let expected = train(&cpu, steps, None, || 0)?;
        let got = train(cuda, steps, None, || cuda.memory_requests().0)?;
        let drift = |(e, g): (&f64, &f64)| if g.is_finite() { (e - g).abs() / e } else { f64::INFINITY };
        let drift = expected.losses.iter().zip(&got.losses).map(drift).fold(0.0, f64::max);
        good &= verdict(&format!("loss over {steps} training steps"), drift, tolerance.loss);
        good &= verdict("weights after them", distance(&expected.weights, &got.weights), tolerance.weights);
        let late = got.requests.last().zip(got.requests.get(WARM_UP)).map_or(0, |(last, warm)| last - warm);
        good &= verdict("allocations after the first steps", late as f64, 0.0);
        let expected = if cuda.records() { steps as u64 - 1 } else { 0 };
        let alone = expected.abs_diff(cuda.replays() - replays);
        good &= verdict("steps after the first that were not one recording", alone as f64, 0.0);
        let resumed = train(cuda, steps, Some(steps / 2), || 0)?;
        good &= verdict("weights when interrupted half-way", distance(&got.weights, &resumed.weights), RESUMED);
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
    /// How often memory had been asked for after each step.
    requests: Vec<u64>,
}

/// Trains a small denoiser with every kind of layer, from one seed; after `interrupted` steps another trainer goes on from a
/// checkpoint.
fn train<B: Backend>(
    backend: &B,
    steps: usize,
    interrupted: Option<usize>,
    requests: impl Fn() -> u64,
) -> Result<Trained> {
    let config = DenoiserTraining {
        rows: 2,
        cols: 2,
        thumbnail: false,
        levels_between: 0,
        margin: 2,
        margin_through_unet: false,
        position_embedding: true,
        previous_block: false,
        neighbours: 2,
        exclude_self: true,
        source: NeighbourSource::Noise,
        neighbour_dropout: 0.0,
        thumbnail_codebook_size: 0,
        unet: UnetConfig { widths: vec![16, 32], residuals: 1, embedding: 32, dropout: 0.1 },
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
    let grid = config.shape(latent)?.grid;
    let set = LatentSet::random(grid, 32, 16, config.neighbours, &mut random);
    let alphas: Vec<f64> = (1..=1000).map(|t| 1.0 - f64::from(t) / 1001.0).collect();
    let sampler = Sampler::new(&set, config.batch_settings(&alphas));
    let begin =
        || -> Result<_> { Ok(DenoiserTrainer::new(backend, &config, latent, 1)?.on(set.clone(), config.windows())) };
    let mut trainer = begin()?;
    let (mut losses, mut asked) = (Vec::new(), Vec::new());
    for step in 1..=steps {
        if interrupted.is_some_and(|done| step == done + 1) {
            let checkpoint = trainer.checkpoint()?;
            trainer = begin()?;
            trainer.restore(checkpoint)?;
        }
        trainer.train(&sampler.draw(config.batch, &mut random))?;
        asked.push(requests());
        if step.is_multiple_of(KEPT) || step == steps {
            losses.extend(trainer.measured()?.concat());
        }
    }
    let tensors = trainer.checkpoint()?.tensors;
    let weights = tensors.into_iter().filter(|(name, _)| name.ends_with("/value")).flat_map(|(_, v)| v).collect();
    Ok(Trained { losses, weights, requests: asked })
}
