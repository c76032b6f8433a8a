//! `rissole-train bench-step`: CPU time of a training step of the block U-Net, for `benches/compare/`.

use rissole::bundle::manifest::{NeighbourSource, Prediction, ScheduleKind};
use rissole::{LatentShape, Result};

use crate::backend::Backend;
use crate::backend::choice::{Opened, Wanted, on_device};
use crate::backend::windows::LatentSet;
use crate::model::unet::UnetConfig;
use crate::random::Random;
use crate::train::Trainer;
use crate::train::denoiser::{DenoiserTrainer, DenoiserTraining};
use crate::train::latents::Sampler;
use crate::train::optimizer::OptimizerConfig;

/// What is timed.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// Blocks a step.
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// Channels of a latent cell.
    #[arg(long, default_value_t = 10)]
    channels: usize,
    /// Cells of surroundings a block sees.
    #[arg(long, default_value_t = 0)]
    margin: usize,
    /// Channels of each level.
    #[arg(long, value_delimiter = ',', default_value = "64,128")]
    widths: Vec<usize>,
    /// Residual blocks a level.
    #[arg(long, default_value_t = 2)]
    residuals: usize,
    /// Steps timed, after two that are not.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
}

/// Times the steps on `device` and prints one JSON object.
///
/// # Errors
/// As [`Wanted::open`]; [`rissole::Error::Usage`] when the sizes do not go together.
pub fn run(args: &BenchArgs, device: &Wanted) -> Result<()> {
    let opened = device.open()?;
    let name = match &opened {
        Opened::Cpu(_) => "cpu",
        Opened::Cuda(cuda) => cuda.name(),
    };
    on_device!(&opened, |backend| time(args, backend, name))
}

fn time<B: Backend>(args: &BenchArgs, backend: &B, device: &str) -> Result<()> {
    let config = DenoiserTraining {
        rows: 2,
        cols: 2,
        thumbnail: false,
        margin: args.margin,
        position_embedding: true,
        previous_block: false,
        neighbours: 8,
        exclude_self: true,
        source: NeighbourSource::Noise,
        neighbour_dropout: 0.0,
        thumbnail_codebook_size: 0,
        unet: UnetConfig { widths: args.widths.clone(), residuals: args.residuals, embedding: 128, dropout: 0.0 },
        timesteps: 1000,
        schedule: ScheduleKind::Linear,
        prediction: Prediction::Epsilon,
        min_snr: None,
        thumbnail_share: 0.0,
        thumbnail_noise: 0.0,
        optimizer: OptimizerConfig { rate: 2e-4, warmup: 1, weight_decay: 0.0, max_norm: 1.0, average_decay: 0.999 },
        batch: args.batch,
        steps: 1_000,
    };
    let latent = LatentShape { channels: args.channels, height: 16, width: 16 };
    let mut random = Random::new(1);
    let grid = config.shape(latent)?.grid;
    let set = LatentSet::random(grid, 256, 64, config.neighbours, &mut random);
    let alphas: Vec<f64> = (1..=1000).map(|t| 1.0 - f64::from(t) / 1001.0).collect();
    let sampler = Sampler::new(&set, config.batch_settings(&alphas));
    let mut trainer = DenoiserTrainer::new(backend, &config, latent, 1)?.on(&set, config.windows());
    let (mut seconds, mut cpu_seconds) = (Vec::new(), Vec::new());
    for step in 0..args.steps + 2 {
        let batch = sampler.draw(args.batch, &mut random);
        let (start, cpu_start) = (std::time::Instant::now(), cpu_time::ProcessTime::now());
        trainer.train(&batch)?;
        if step >= 2 {
            seconds.push(start.elapsed().as_secs_f64());
            cpu_seconds.push(cpu_start.elapsed().as_secs_f64());
        }
    }
    seconds.sort_by(f64::total_cmp);
    cpu_seconds.sort_by(f64::total_cmp);
    let report = serde_json::json!({
        "seconds_per_step": seconds[seconds.len() / 2],
        "cpu_seconds_per_step": cpu_seconds[cpu_seconds.len() / 2],
        "fastest": seconds[0],
        "parameters": trainer.parameters(),
        "batch": args.batch,
        "device": device,
        "threads": rayon::current_num_threads(),
    });
    println!("{report}");
    Ok(())
}
