//! `rissole-train`: from a folder of pictures to a bundle.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use clap::{Args, Parser, Subcommand};
use rissole::{Error, Result};
use rissole_train::backend::choice::{Choice, Precision, Wanted};
use rissole_train::backend::cuda::{Convolutions, default_cache};
use rissole_train::bench_step::{self, BenchArgs};
use rissole_train::check_device::{self, CheckArgs};
use rissole_train::evaluate::features::FeatureArgs;
use rissole_train::evaluate::{self, EvaluateArgs};
use rissole_train::group::Group;
use rissole_train::launch::{self, Plan};
use rissole_train::quantize::{self, QuantizeArgs};
use rissole_train::recipe::Recipe;
use rissole_train::stages::{INTERRUPTED, MAX_SHARDS, Run, Shard, Stage};

/// Trains rissole bundles: prepares pictures, trains the VQ-GAN and the block denoiser, builds database and
/// index, quantizes, exports ONNX, writes and verifies the bundle, and measures it.
///
/// Interrupted at any moment and started again, a run goes on from its last checkpoint.
///
/// Started several times by a launcher that sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT (torchrun; SLURM with the
/// last two), on one machine or on several with a common file system, the processes train together. With
/// `--device cuda:all` each takes a GPU of its own, and without a launcher they are started.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
#[command(after_help = "Examples:\n  rissole-train run tools/recipes/avatars64.toml --bundle models/avatars64\n  \
    rissole-train run tools/recipes/pictures64.toml --pictures my-pictures --name mine\n  \
    rissole-train stage denoiser tools/recipes/avatars64.toml\n  \
    rissole-train run my.toml --features inception.onnx --feature-output pool\n\n\
    Exit codes: 0 ok, 2 usage, 3 bad file, 5 I/O, 130 interrupted.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Threads; 0: all.
    #[arg(long, global = true, default_value_t = 0)]
    threads: usize,
    /// What trains: auto (the first GPU, or the CPU where there is none), cpu, cuda:N, or cuda:all for every GPU of this
    /// machine.
    #[arg(long, global = true, default_value = "auto")]
    device: Choice,
    /// Activations on a GPU; weights, statistics and sums are f32 either way. bf16 needs compute capability 8.0.
    #[arg(long, global = true, value_enum, default_value = "f32")]
    precision: Precision,
    /// How convolutions are done on a GPU. cuDNN 9 is looked for only where it is asked for.
    #[arg(long, global = true, value_enum, default_value = "direct")]
    convolutions: Convolutions,
    /// Folder that compiled CUDA kernels are kept in; default $XDG_CACHE_HOME/rissole/kernels.
    #[arg(long, global = true)]
    kernel_cache: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Do all stages of a recipe that are not done yet.
    Run(RunArgs),
    /// Do one stage of a recipe; those before it must be done.
    Stage {
        /// The stage.
        stage: Stage,
        /// Stage encode: encode only the I-th of N parts of the pictures, into RUNS/NAME/blocks.I-of-N.rsdb
        #[arg(long, value_name = "I/N", conflicts_with = "merge")]
        shard: Option<Shard>,
        /// Stage encode: make the database of N parts that were encoded by --shard
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MAX_SHARDS as i64))]
        merge: Option<u32>,
        #[command(flatten)]
        run: RunArgs,
    },
    /// Measure a bundle: Fréchet distance, KID, seam ratio, copy distance, sample grid, report.
    Evaluate(Box<EvaluateArgs>),
    /// Make a bundle whose networks multiply integers from one of int8 weights: calibrate, measure what it costs, write.
    Quantize(Box<QuantizeArgs>),
    /// Time a training step of the block U-Net or of the VQ-GAN; prints JSON.
    BenchStep(BenchArgs),
    /// Compare the GPU with the CPU: every operation, and the training of a small network.
    CheckDevice(CheckArgs),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The recipe.
    recipe: PathBuf,
    /// A folder or zip of pictures in place of the recipe's own
    #[arg(long, value_name = "PATH")]
    pictures: Option<PathBuf>,
    /// Name of the bundle and of the run in place of the recipe's
    #[arg(long)]
    name: Option<String>,
    /// Folder of runs; this one's checkpoints go to RUNS/NAME.
    #[arg(long, default_value = "runs")]
    runs: PathBuf,
    /// Folder of the bundle; default RUNS/NAME/bundle.
    #[arg(long)]
    bundle: Option<PathBuf>,
    /// How the features of the evaluation are made.
    #[command(flatten)]
    features: FeatureArgs,
}

impl RunArgs {
    fn open(self) -> Result<Run> {
        let mut recipe = Recipe::load(&self.recipe)?;
        recipe.take(self.pictures, self.name)?;
        Run::new(recipe, &self.runs, self.bundle, self.features)
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn,rissole_train=info"))
        .format_timestamp(None)
        .init();
    match work(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("rissole-train: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// Does what the command line says; returns the exit code.
fn work(cli: Cli) -> Result<u8> {
    let mut cli = cli;
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed)).map_err(|e| Error::Internal(e.to_string()))?;
    launch::follow(&INTERRUPTED);
    if cli.device == Choice::AllCuda {
        let shared = match cli.command {
            Command::Run(_) => Some(true),
            Command::Stage { stage, .. } => Some(stage.is_shared()),
            _ => None,
        };
        match shared.map(launch::plan).transpose()? {
            Some(Plan::Here(choice)) => cli.device = choice,
            Some(Plan::Start(count)) => return launch::start(count, &INTERRUPTED),
            None => {}
        }
    }
    work_here(cli).map(|()| 0)
}

fn work_here(cli: Cli) -> Result<()> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(cli.threads)
        .build_global()
        .map_err(|e| Error::Internal(e.to_string()))?;
    let device = Wanted {
        choice: cli.device,
        precision: cli.precision,
        convolutions: cli.convolutions,
        kernel_cache: cli.kernel_cache.or_else(default_cache),
    };
    match cli.command {
        Command::Run(args) => {
            let run = args.open()?.on(device).within(Group::from_env()?);
            run.all()?;
            log::info!("done: {}", run.bundle_dir().display());
            Ok(())
        }
        Command::Stage { stage, shard, merge, run } => {
            let run = run.open()?.on(device).within(Group::from_env()?);
            match (stage, shard, merge) {
                (stage, None, None) => run.stage(stage),
                (Stage::Encode, Some(shard), _) => run.encode_shard(shard),
                (Stage::Encode, _, Some(shards)) => run.merge_shards(shards as usize),
                _ => Err(Error::Usage("--shard and --merge are for the stage encode".into())),
            }
        }
        Command::Evaluate(args) => evaluate::run(&args, &INTERRUPTED).map(drop),
        Command::Quantize(args) => quantize::run(&args, &INTERRUPTED).map(drop),
        Command::BenchStep(args) => bench_step::run(&args, &device),
        Command::CheckDevice(args) => check_device::run(args, &device),
    }
}
