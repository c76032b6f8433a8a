//! `rissole-train bench-step`: what a training step takes, for `benches/compare/` and for finding where it goes.

use rissole::bundle::manifest::{NeighbourSource, Prediction, ScheduleKind};
use rissole::{LatentShape, Result};

use crate::backend::Backend;
use crate::backend::choice::{Opened, Wanted, on_device};
use crate::backend::cuda::{Cuda, Profile, Share};
use crate::backend::pictures::{Cut, PictureSet};
use crate::backend::windows::LatentSet;
use crate::model::unet::UnetConfig;
use crate::model::vqgan::VqganConfig;
use crate::random::Random;
use crate::train::Trainer;
use crate::train::denoiser::{DenoiserTrainer, DenoiserTraining};
use crate::train::latents::Sampler;
use crate::train::optimizer::OptimizerConfig;
use crate::train::picture_loss::DiscriminatorTraining;
use crate::train::vqgan::{VqganTrainer, VqganTraining};

/// Steps that are not timed: the first finds memory, the second is recorded.
const WARM_UP: u32 = 2;
/// Steps that a GPU is given together, and then waited for.
const STEPS_TOGETHER: u32 = 10;

/// What is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Network {
    /// The block U-Net with its conditioner.
    Unet,
    /// The VQ-GAN of avatars64.toml.
    Vqgan,
}

/// What is timed.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// What is trained.
    #[arg(long, value_enum, default_value = "unet")]
    network: Network,
    /// Blocks, or pictures, a step.
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// U-Net: channels of a latent cell.
    #[arg(long, default_value_t = 10)]
    channels: usize,
    /// U-Net: cells of surroundings a block sees, at most 2.
    #[arg(long, default_value_t = 0)]
    margin: usize,
    /// U-Net: channels of each level.
    #[arg(long, value_delimiter = ',', default_value = "64,128")]
    widths: Vec<usize>,
    /// U-Net: residual blocks a level.
    #[arg(long, default_value_t = 2)]
    residuals: usize,
    /// VQ-GAN: pixels along the side of a picture.
    #[arg(long, default_value_t = 64)]
    pixels: usize,
    /// VQ-GAN: channels of the discriminator's first layer; 0: none.
    #[arg(long, default_value_t = 0)]
    discriminator: usize,
    /// Steps timed, after two that are not; on a GPU ten are timed together, and more are rounded up to tens.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// On a GPU: then one step kernel by kernel, with what it reads, writes and computes, beside what the GPU can do.
    #[arg(long)]
    profile: bool,
}

/// Times the steps on `device` and prints one JSON object; a profile goes to stderr too, as a table.
///
/// # Errors
/// As [`Wanted::open`]; [`rissole::Error::Usage`] when the sizes do not go together.
pub fn run(args: &BenchArgs, device: &Wanted) -> Result<()> {
    let opened = device.open()?;
    let cuda = match &opened {
        Opened::Cpu(_) => None,
        Opened::Cuda(cuda) => Some(cuda),
    };
    on_device!(&opened, |backend| time(args, backend, cuda))
}

/// A network in training, with what it is given at each step.
trait Bench {
    /// One step.
    fn step(&mut self) -> Result<()>;
    fn trainer(&mut self) -> &mut dyn Trainer;

    /// So many steps, and the wait for them.
    fn steps(&mut self, count: u32) -> Result<()> {
        (0..count).try_for_each(|_| self.step())?;
        self.trainer().measured().map(drop)
    }
}

struct OnBlocks<'a, B: Backend> {
    trainer: DenoiserTrainer<'a, B>,
    sampler: Sampler<'a>,
    batch: usize,
    random: Random,
}

impl<B: Backend> Bench for OnBlocks<'_, B> {
    fn step(&mut self) -> Result<()> {
        let subjects = self.sampler.draw(self.batch, &mut self.random);
        self.trainer.train(&subjects)
    }

    fn trainer(&mut self) -> &mut dyn Trainer {
        &mut self.trainer
    }
}

struct OnPictures<'a, B: Backend> {
    trainer: VqganTrainer<'a, B>,
    cuts: Vec<Cut>,
    side: usize,
}

impl<B: Backend> Bench for OnPictures<'_, B> {
    fn step(&mut self) -> Result<()> {
        self.trainer.train(&self.cuts, self.side, self.side)
    }

    fn trainer(&mut self) -> &mut dyn Trainer {
        &mut self.trainer
    }
}

fn time<B: Backend>(args: &BenchArgs, backend: &B, cuda: Option<&Cuda>) -> Result<()> {
    let config = denoiser(args);
    let latent = LatentShape { channels: args.channels, height: 16, width: 16 };
    let mut random = Random::new(1);
    let grid = config.shape(latent)?.grid;
    let set = LatentSet::random(grid, 256, 64, config.neighbours, &mut random);
    let alphas: Vec<f64> = (1..=1000).map(|t| 1.0 - f64::from(t) / 1001.0).collect();
    let mut bench: Box<dyn Bench> = match args.network {
        Network::Unet => Box::new(OnBlocks {
            sampler: Sampler::new(&set, config.batch_settings(&alphas)),
            trainer: DenoiserTrainer::new(backend, &config, latent, 1)?.on(set, config.windows()),
            batch: args.batch,
            random,
        }),
        Network::Vqgan => {
            let (n, side) = (args.batch, args.pixels);
            let pixels = (0..n * side * side * 3).map(|_| random.below(256) as u8).collect();
            let pictures = PictureSet { height: side, width: side, pixels };
            let trainer = VqganTrainer::new(backend, &vqgan(args), 1).on(pictures);
            let cuts = (0..n).map(|image| Cut { image, mirrored: false, top: 0, left: 0 }).collect();
            Box::new(OnPictures { trainer, cuts, side })
        }
    };
    let (mut seconds, mut cpu_seconds) = (Vec::new(), Vec::new());
    bench.steps(WARM_UP)?;
    // A GPU is waited for as seldom as in training.
    let together = if cuda.is_some() { STEPS_TOGETHER.min(args.steps) } else { 1 };
    for _ in 0..args.steps.div_ceil(together) {
        let (start, cpu_start) = (std::time::Instant::now(), cpu_time::ProcessTime::now());
        bench.steps(together)?;
        seconds.push(start.elapsed().as_secs_f64() / f64::from(together));
        cpu_seconds.push(cpu_start.elapsed().as_secs_f64() / f64::from(together));
    }
    seconds.sort_by(f64::total_cmp);
    cpu_seconds.sort_by(f64::total_cmp);
    let mut report = serde_json::json!({
        "seconds_per_step": seconds[seconds.len() / 2],
        "cpu_seconds_per_step": cpu_seconds[cpu_seconds.len() / 2],
        "fastest": seconds[0],
        "parameters": bench.trainer().parameters(),
        "batch": args.batch,
        "device": cuda.map_or("cpu", Cuda::name),
        "device_bytes": cuda.map(|cuda| cuda.memory_requests().1),
        "threads": rayon::current_num_threads(),
    });
    if let Some(cuda) = cuda.filter(|_| args.profile) {
        let mut done = Ok(());
        let profile = cuda.profile(|| done = bench.steps(1))?;
        done?;
        drop(bench);
        let ceilings = cuda.ceilings()?;
        print_profile(&profile, ceilings);
        report["ceilings"] =
            serde_json::json!({ "bytes_per_second": ceilings[0], "operations_per_second": ceilings[1] });
        report["profile"] = profile.iter().map(|(name, share)| (name.clone(), of_share(share))).collect();
    }
    println!("{report}");
    Ok(())
}

fn of_share(share: &Share) -> serde_json::Value {
    serde_json::json!({
        "calls": share.calls,
        "seconds": share.seconds,
        "bytes": share.cost.bytes,
        "operations": share.cost.operations,
    })
}

/// The kernels by the time they take, with the share of the ceilings that they reach.
fn print_profile(profile: &Profile, [bytes_per_second, operations_per_second]: [f64; 2]) {
    let mut shares: Vec<_> = profile.iter().collect();
    shares.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds));
    let mut whole = Share::default();
    for (_, share) in &shares {
        whole.calls += share.calls;
        whole.seconds += share.seconds;
        whole.cost.bytes += share.cost.bytes;
        whole.cost.operations += share.cost.operations;
    }
    eprintln!(
        "a copy reads and writes {:.0} GB/s, a product computes {:.1} TFLOP/s",
        bytes_per_second * 1e-9,
        operations_per_second * 1e-12
    );
    eprintln!("{:26} {:>6} {:>10} {:>6} {:>12} {:>12}", "", "calls", "µs", "share", "of the copy", "of a product");
    let all = "all".to_owned();
    for (name, share) in std::iter::once((&all, &whole)).chain(shares) {
        eprintln!(
            "{name:26} {:6} {:10.1} {:5.1}% {:11.1}% {:11.1}%",
            share.calls,
            share.seconds * 1e6,
            100.0 * share.seconds / whole.seconds,
            100.0 * share.cost.bytes as f64 / share.seconds / bytes_per_second,
            100.0 * share.cost.operations as f64 / share.seconds / operations_per_second,
        );
    }
}

fn denoiser(args: &BenchArgs) -> DenoiserTraining {
    DenoiserTraining {
        rows: 2,
        cols: 2,
        thumbnail: false,
        levels_between: 0,
        margin: args.margin,
        margin_through_unet: false,
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
    }
}

fn vqgan(args: &BenchArgs) -> VqganTraining {
    let model = VqganConfig { latent_channels: 8, widths: vec![48, 96], residuals: vec![1, 2], codebook_size: 2048 };
    let critic = DiscriminatorTraining { width: args.discriminator, from: 0, weight: 0.8, rate: None };
    VqganTraining {
        model,
        optimizer: OptimizerConfig { rate: 1e-3, warmup: 1, weight_decay: 0.0, max_norm: 1.0, average_decay: 0.998 },
        batch: args.batch,
        crop: None,
        steps: 1_000,
        quantize_from: 0,
        squared_weight: 1.0,
        commitment: 0.25,
        perceptual: None,
        discriminator: (args.discriminator > 0).then_some(critic),
    }
}
