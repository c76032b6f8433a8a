//! Post-training quantization: a bundle whose networks multiply integers in most of their convolutions, from one in which
//! weights alone are integers.
//!
//! In standard ONNX (`QuantizeLinear`, `DequantizeLinear`), which other engines run too: one that computes with integers
//! faster, one that does not as before. The ranges are calibrated on what the network is given when pictures are
//! drawn. What it costs is measured, with both bundles, and too much refused.

pub mod calibrate;
pub mod describe;
pub mod gate;
pub mod inputs;
pub mod insert;
pub mod ranges;
pub mod trial;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use prost::Message;
use rissole::bundle::manifest::NetworkEntry;
use rissole::network::Network;
use rissole::{Bundle, Error, Manifest, Result};
use tract_onnx::pb::ModelProto;

use crate::evaluate::features::FeatureArgs;
use crate::evaluate::measure::Progress;
use crate::evaluate::samples::Studio;
use crate::evaluate::{Bar, SplitArgs};
use crate::export::bundle::{BundleParts, write_bundle};
use calibrate::{Calibration, Choice, spare};
use gate::{Cost, Gate, NetworkCost};
use inputs::{Inputs, Source};

/// Most runs of a network in which its signal-to-noise ratio is measured.
const CHECKED: usize = 64;

/// What to quantize, and what it may cost.
#[derive(Debug, Clone, clap::Args)]
pub struct QuantizeArgs {
    /// The bundle
    #[arg(value_name = "BUNDLE")]
    pub model: PathBuf,
    /// Folder of the new bundle
    #[arg(long, value_name = "NEW_BUNDLE")]
    pub out: PathBuf,
    /// Networks to quantize
    #[arg(long, value_enum, value_delimiter = ',', default_value = "decoder")]
    pub networks: Vec<Role>,
    /// Runs of a network by which ranges are chosen
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub calibration: usize,
    /// Leave convolutions in float, those that cost most first, until the signal-to-noise ratio of the output should be
    /// so many decibels
    #[arg(long, value_name = "DB")]
    pub least_snr: Option<f64>,
    /// Pictures drawn with either bundle to be compared
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub samples: usize,
    /// Seed of the first; the others follow
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// With --features: the pictures that the bundle was trained on, a prepared set, a folder or a zip
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// Which of them were held out
    #[command(flatten)]
    pub split: SplitArgs,
    /// How features are made
    #[command(flatten)]
    pub features: FeatureArgs,
    /// Folder in which samples and features are kept, so that a run goes on where one before it was interrupted
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// Bits of what convolutions take; more than 8 cost rissole's runtime nothing but on ARM cores with dot products. Where a
    /// convolution is so large that its sums might overflow, it takes fewer
    #[arg(long, value_name = "N", default_value_t = *insert::BITS.end(), value_parser = bits())]
    pub bits: u32,
    /// Write the bundle whatever it costs in quality
    #[arg(long)]
    pub force: bool,
}

fn bits() -> clap::builder::RangedI64ValueParser<u32> {
    let [least, most] = [insert::BITS.start(), insert::BITS.end()].map(|bits| i64::from(*bits));
    clap::value_parser!(u32).range(least..=most)
}

/// A network that can be quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Role {
    /// Latent to picture.
    Decoder,
    /// Noisy block to prediction.
    Denoiser,
}

impl Role {
    /// What the manifest says of it.
    pub fn entry(self, manifest: &Manifest) -> &NetworkEntry {
        match self {
            Self::Decoder => &manifest.networks.decoder,
            Self::Denoiser => &manifest.networks.denoiser,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Decoder => "decoder",
            Self::Denoiser => "denoiser",
        })
    }
}

/// Quantizes networks of a bundle, measures what that costs, and writes the new bundle, all of it or nothing. Gives
/// what it costs.
///
/// # Errors
/// [`Error::Usage`] where it costs more than [`gate::LIMIT`] of the seam ratio or of the Fréchet distance and is not
/// forced, where a network has nothing to quantize, and for arguments that do not fit together; those of the bundle,
/// of the pictures, of the feature network, and of the files written; [`Error::Interrupted`].
pub fn run(args: &QuantizeArgs, interrupted: &AtomicBool) -> Result<Cost> {
    let bundle = Bundle::open(&args.model)?;
    check(args)?;
    let bar = Bar::new();
    let gate = Gate::open(args, &bundle, interrupted, &bar)?;
    let done = || bar.show(Progress::Pictures(1));
    let studio = Studio { bundle: &bundle, workers: rayon::current_num_threads(), interrupted, done: &done };
    let source = Source::new(&studio, args.seed)?;

    let is_interrupted = || interrupted.load(Ordering::Relaxed);
    let quantized = args.networks.iter().collect::<BTreeSet<_>>().into_iter();
    let quantized = quantized.map(|&role| Quantized::new(role, &source, args, &bar, &is_interrupted));
    let quantized = quantized.collect::<Result<Vec<_>>>()?;
    let file = |network: &Quantized| (network.role.entry(&bundle.manifest).file.clone(), network.onnx.clone());
    let networks: BTreeMap<_, _> = quantized.iter().map(file).collect();
    let trial = trial::bundle(&bundle, networks.clone())?;
    let costs = quantized.iter().map(|network| network.cost(&bundle, &trial)).collect::<Result<Vec<_>>>()?;
    let cost = gate.measure(&trial, costs)?;
    bar.finish();
    cost.log();
    if let Some(excess) = cost.excess() {
        if !args.force {
            let refused = format!("{excess}; {} is not written (--force writes it)", args.out.display());
            return Err(Error::Usage(refused));
        }
        log::warn!("{excess}; written all the same");
    }
    write(&bundle, trial.manifest, &networks, &cost, &args.out)?;
    log::info!("wrote and verified {}", args.out.display());
    Ok(cost)
}

fn check(args: &QuantizeArgs) -> Result<()> {
    let fault = |text: &str| Err(Error::Usage(text.to_owned()));
    if args.samples < 2 || args.calibration == 0 {
        return fault("at least 2 samples and 1 run for calibration are needed");
    }
    if args.features.network.is_some() != args.data.is_some() {
        return fault("--features and --data go together: the Fréchet distance is that to held-out pictures");
    }
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    if real(&args.out).is_some_and(|out| real(&args.model) == Some(out)) {
        return fault("the new bundle must not take the place of the one that it is made from");
    }
    Ok(())
}

/// A network, quantized.
struct Quantized {
    role: Role,
    onnx: Vec<u8>,
    /// Bits of the rounded values, from the fewest to the most.
    bits: [u32; 2],
    /// Its convolutions, and those of them that take rounded values.
    convolutions: [usize; 2],
    /// Runs that it was calibrated on.
    calibration: usize,
    /// Inputs that it was not calibrated on.
    checks: Vec<Inputs>,
}

impl Quantized {
    /// The network `role` of the bundle of `source`, calibrated as `args` say.
    fn new(
        role: Role,
        source: &Source,
        args: &QuantizeArgs,
        bar: &Bar,
        is_interrupted: &dyn Fn() -> bool,
    ) -> Result<Self> {
        let QuantizeArgs { calibration: runs, least_snr, bits, .. } = *args;
        let bundle = source.bundle();
        let entry = role.entry(&bundle.manifest);
        let path = bundle.path_of(&entry.file);
        let file = bundle.bytes(&entry.file)?;
        let model = ModelProto::decode(file.bytes());
        let mut model = model.map_err(|e| Error::file(&path, format!("not an ONNX file: {e}")))?;
        let cannot = |why: String| Error::Usage(format!("{}: cannot be quantized: {why}", path.display()));
        let places = insert::places(&model, bits).map_err(cannot)?;
        bar.show(Progress::Stage(&format!("inputs of the {role}"), runs));
        let [calibration, checks] = source.of(role, [runs, CHECKED.min(runs)])?;
        bar.show(Progress::Stage(&format!("calibration of the {role}"), calibration.len()));
        let step = |runs| {
            bar.show(Progress::Pictures(runs));
            !is_interrupted()
        };
        let mut choices = Calibration::new(&path, entry, &model, &calibration, &step).choose(places)?;
        for Choice { place, noise, .. } in least_snr.map_or_else(Vec::new, |least| spare(&mut choices, least)) {
            log::info!("{role}: {} stays in float, {:.1} dB alone", place.value, -10.0 * noise.log10());
        }
        if choices.is_empty() {
            return Err(cannot("not one convolution can be quantized at that signal-to-noise ratio".into()));
        }
        let quantized = choices.iter().map(|choice| choice.place.convolutions.len()).sum();
        let convolutions = [insert::convolutions(&model), quantized];
        let all_bits = || choices.iter().map(|choice| choice.place.bits);
        let bits = [all_bits().min().unwrap_or(bits), all_bits().max().unwrap_or(bits)];
        let ranges: Vec<_> = choices.iter().map(|choice| (&choice.place, choice.range)).collect();
        insert::insert(&mut model, &ranges, insert::Nodes::Standard);
        Ok(Self { role, onnx: model.encode_to_vec(), bits, convolutions, calibration: calibration.len(), checks })
    }

    /// What it costs the network, from that of `old` to that of `new`.
    fn cost(&self, old: &Bundle, new: &Bundle) -> Result<NetworkCost> {
        let open = |bundle: &Bundle| Network::open(bundle, self.role.entry(&bundle.manifest));
        Ok(NetworkCost {
            role: self.role,
            bits: self.bits,
            convolutions: self.convolutions[0],
            quantized: self.convolutions[1],
            calibration: self.calibration,
            checked: self.checks.len(),
            decibels: gate::decibels(&open(old)?, &open(new)?, &self.checks)?,
        })
    }
}

/// Writes the bundle of `manifest` into `dir`: the files of `old`, but for `networks`.
fn write(
    old: &Bundle,
    manifest: Manifest,
    networks: &BTreeMap<String, Vec<u8>>,
    cost: &Cost,
    dir: &Path,
) -> Result<Manifest> {
    let bytes = |entry: &NetworkEntry| match networks.get(&entry.file) {
        Some(bytes) => Ok((entry.file.clone(), bytes.clone())),
        None => Ok((entry.file.clone(), old.bytes(&entry.file)?.bytes().to_vec())),
    };
    let networks = manifest.networks.all().map(bytes).collect::<Result<Vec<_>>>()?;
    let (database, index) = (old.path_of(&manifest.database), old.path_of(&manifest.index));
    let (card, pictures) = (describe::card(old, cost)?, describe::pictures(old)?);
    let manifest = describe::manifest(manifest, cost);
    write_bundle(dir, BundleParts { manifest, networks, database: &database, index: &index, card, pictures })
}
