//! Measures of quality: how close samples are to real pictures, how well blocks fit together, and whether
//! the database is merely copied. No single number is enough; the report shows them side by side.

pub mod cache;
pub mod copy;
pub mod features;
pub mod frechet;
pub mod html;
pub mod kid;
pub mod measure;
pub mod report;
pub mod samples;
pub mod seam;
pub mod sheet;
pub mod vectors;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use image::RgbImage;
use indicatif::{ProgressBar, ProgressStyle};
use rissole::bundle::Bundle;
use rissole::{Error, Manifest, Result};

use crate::data::{self, Dataset, Source};
use crate::random::Random;
use cache::Cache;
use features::{FeatureArgs, FeatureNetwork};
use kid::Subsets;
use measure::{Kind, Progress, Row, Set, Yardstick};
use report::{FeatureSummary, Gallery, Report};
use samples::{Setting, Studio};
use seam::Boundaries;

/// What to measure, against what, and where to put the report.
#[derive(Debug, Clone, clap::Args)]
pub struct EvaluateArgs {
    /// The bundle
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// The pictures that the bundle was trained on: a prepared set, a folder or a zip
    #[arg(long, value_name = "PATH")]
    pub data: PathBuf,
    /// Which of them were held out
    #[command(flatten)]
    pub split: SplitArgs,
    /// Samples of each setting, and training pictures to compare with
    #[arg(long, value_name = "N", default_value_t = 2000)]
    pub samples: usize,
    /// Sampler, steps and guidance, like ddim:100 or dpm++2m:20@1.5; may be repeated [default: the bundle's]
    #[arg(long = "sampler", value_name = "NAME[:STEPS][@GUIDANCE]")]
    pub settings: Vec<Setting>,
    /// Whether a picture may not be its own neighbour [default: the bundle's]
    #[arg(long, value_name = "BOOL")]
    pub exclude_self: Option<bool>,
    /// Seed of the first sample; the others follow
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// How features are made
    #[command(flatten)]
    pub features: FeatureArgs,
    /// Subsets that KID is averaged over
    #[arg(long, value_name = "N", default_value_t = Subsets::default().count)]
    pub kid_subsets: usize,
    /// Pictures in each subset, at most
    #[arg(long, value_name = "N", default_value_t = Subsets::default().size)]
    pub kid_subset_size: usize,
    /// Training curve to plot: CSV with a header, the step first; may be repeated
    #[arg(long = "curve", value_name = "FILE")]
    pub curves: Vec<PathBuf>,
    /// Folder for report.html, report.json, samples and features
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// Which pictures were held out from training.
#[derive(Debug, Clone, clap::Args)]
pub struct SplitArgs {
    /// How many of the pictures were held out from training: the reference set
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub validation: usize,
    /// Seed by which they were chosen
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub split_seed: u64,
    /// The last pictures were held out, not a random choice
    #[arg(long)]
    pub hold_out_last: bool,
}

/// Measures a bundle, writes the report and returns it. Samples and features are kept in the report's folder, so what was
/// interrupted goes on when started again. Stops when `interrupted` becomes true.
///
/// # Errors
/// Those of the bundle, of the pictures, of the feature network, and of the files written;
/// [`Error::Interrupted`].
pub fn run(args: &EvaluateArgs, interrupted: &AtomicBool) -> Result<Report> {
    let bundle = Bundle::open(&args.model)?;
    let network = args.features.network.as_ref().map(|path| FeatureNetwork::open(path, &args.features)).transpose()?;
    let curves = args.curves.iter().map(|path| read_curve(path)).collect::<Result<Vec<_>>>()?;
    std::fs::create_dir_all(&args.out).map_err(|e| Error::io(&args.out, e))?;
    let bar = Bar::new();
    let (training, held_out) = pictures(&args.data, &args.split, &bundle, &bar)?;
    let sets = make_sets(args, &bundle, &training, &held_out, interrupted, &bar)?;

    let folder = args.features.cache.as_ref().unwrap_or(&args.out);
    let mut cache = network.as_ref().map(|n| Cache::open(folder, n.id(), n.dim())).transpose()?;
    let rows = Yardstick {
        held_out: &held_out,
        database: &training,
        boundaries: Boundaries::of(&bundle.manifest),
        features: network.as_ref().zip(cache.as_mut()),
        subsets: Subsets { count: args.kid_subsets, size: args.kid_subset_size, seed: args.seed },
        progress: &|progress| {
            bar.show(progress);
            !interrupted.load(Ordering::Relaxed)
        },
    }
    .measure(&sets)?;
    bar.finish();

    let gallery = gallery(sets, &rows, &training, &held_out);
    let report = Report {
        bundle: bundle.manifest.name.clone(),
        files_blake3: files_hash(&bundle.manifest)?,
        data: args.data.file_name().unwrap_or(args.data.as_os_str()).to_string_lossy().into_owned(),
        training_pictures: training.len(),
        database_pictures: bundle.database()?.images() as usize,
        held_out_pictures: held_out.len(),
        split_seed: (!args.split.hold_out_last).then_some(args.split.split_seed),
        seed: args.seed,
        exclude_self: args.exclude_self.unwrap_or(bundle.manifest.retrieval.exclude_self),
        features: network.as_ref().map(|n| FeatureSummary {
            network: n.name(),
            dim: n.dim(),
            id: n.id().to_hex().to_string(),
        }),
        rows,
    };
    report.write(&args.out, &gallery, &curves)?;
    log::info!("wrote {}", args.out.join("report.html").display());
    Ok(report)
}

/// The training and the held-out pictures of those at `path`.
pub(crate) fn pictures(
    path: &Path,
    split: &SplitArgs,
    bundle: &Bundle,
    bar: &Bar,
) -> Result<(Vec<RgbImage>, Vec<RgbImage>)> {
    let size = bundle.manifest.image;
    let dataset = if is_prepared(path)? {
        Dataset::load_prepared(path)?
    } else if size.width == size.height {
        let source = Source { path: path.to_owned(), layout: None, size: size.width, limit: None, crop: None };
        bar.show(Progress::Stage("pictures", 0));
        data::load(&source, &mut |done, total| bar.set(done, total))?
    } else {
        return Err(Error::Usage("pictures that are not square must be prepared first".into()));
    };
    if (dataset.width, dataset.height) != (size.width, size.height) {
        let (w, h) = (dataset.width, dataset.height);
        let fault = format!("pictures of {w}×{h}, but the bundle draws {}×{}", size.width, size.height);
        return Err(Error::file(path, fault));
    }
    dataset.skipped.iter().for_each(|(file, fault)| log::warn!("skipped {file}: {fault}"));
    let split = data::split(dataset.names.len(), split.validation, split.split_seed, split.hold_out_last)?;
    if split.validation.len() < 2 || split.train.is_empty() {
        return Err(Error::Usage("at least 2 pictures must be held out and one not".into()));
    }
    let len = 3 * size.width * size.height;
    let picture = |&i: &u32| {
        let pixels = dataset.pixels.get(i as usize * len..).and_then(|rest| rest.get(..len));
        let picture = pixels.and_then(|p| RgbImage::from_raw(size.width as u32, size.height as u32, p.to_vec()));
        picture.ok_or_else(|| Error::file(path, format!("picture {i} is not there")))
    };
    let take = |chosen: &[u32]| chosen.iter().map(picture).collect::<Result<Vec<_>>>();
    Ok((take(&split.train)?, take(&split.validation)?))
}

/// Whether `path` is a prepared set: a file that is not a zip.
fn is_prepared(path: &Path) -> Result<bool> {
    let io = |e| Error::io(path, e);
    if std::fs::metadata(path).map_err(io)?.is_dir() {
        return Ok(false);
    }
    let mut start = [0; 2];
    match std::io::Read::read_exact(&mut std::fs::File::open(path).map_err(io)?, &mut start) {
        Ok(()) => Ok(&start != b"PK"),
        Err(_) => Err(Error::file(path, "neither a prepared set of pictures nor a zip")),
    }
}

/// Samples of every setting, reconstructions, training pictures.
fn make_sets(
    args: &EvaluateArgs,
    bundle: &Bundle,
    training: &[RgbImage],
    held_out: &[RgbImage],
    interrupted: &AtomicBool,
    bar: &Bar,
) -> Result<Vec<Set>> {
    if args.samples < 2 {
        return Err(Error::Usage("at least 2 samples are needed".into()));
    }
    let default = [Setting::default_of(&bundle.manifest)];
    let settings = if args.settings.is_empty() { &default[..] } else { &args.settings };
    let exclude_self = args.exclude_self.unwrap_or(bundle.manifest.retrieval.exclude_self);
    let done = || bar.show(Progress::Pictures(1));
    let studio = Studio { bundle, workers: rayon::current_num_threads(), interrupted, done: &done };
    let mut sets = Vec::new();
    for setting in settings {
        let name = format!("Samples: {}", setting.resolved(&bundle.manifest));
        bar.show(Progress::Stage(&name, args.samples));
        let images = studio.draw(*setting, exclude_self, args.seed, args.samples, Some(&args.out))?;
        sets.push(Set { kind: Kind::Samples, name, images });
    }
    let name = "Reconstructions of held-out pictures".to_owned();
    bar.show(Progress::Stage(&name, held_out.len()));
    if let Some(images) = studio.reconstruct(held_out)? {
        sets.push(Set { kind: Kind::Reconstructions, name, images });
    }
    let mut order: Vec<usize> = (0..training.len()).collect();
    Random::new(args.seed).shuffle(&mut order);
    let images = order.iter().take(args.samples).map(|&i| training[i].clone()).collect();
    sets.push(Set { kind: Kind::Training, name: "Training pictures".into(), images });
    Ok(sets)
}

/// The pictures to show: `rows` are those of `sets` in order.
fn gallery(sets: Vec<Set>, rows: &[Row], training: &[RgbImage], held_out: &[RgbImage]) -> Gallery {
    let columns = sheet::columns(held_out.first().map_or(1, RgbImage::width));
    let mut gallery = Gallery { real: held_out.to_vec(), ..Gallery::default() };
    for (set, row) in sets.into_iter().zip(rows) {
        match set.kind {
            Kind::Samples => {
                if gallery.suspects.is_empty() {
                    let mut nearest: Vec<_> = set.images.iter().zip(&row.nearest).collect();
                    nearest.sort_by(|a, b| a.1.distance.total_cmp(&b.1.distance));
                    let suspect = |(sample, n): &(&RgbImage, &copy::Nearest)| {
                        ((*sample).clone(), training[n.image].clone(), n.distance)
                    };
                    gallery.suspects = nearest.iter().take(columns).map(suspect).collect();
                }
                gallery.samples.push((set.name, set.images));
            }
            Kind::Reconstructions => gallery.reconstructions = held_out.iter().cloned().zip(set.images).collect(),
            Kind::Training | Kind::HeldOut => {}
        }
    }
    gallery
}

fn read_curve(path: &Path) -> Result<(String, report::Curve)> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok((name, report::parse_curve(path, &text)?))
}

fn files_hash(manifest: &Manifest) -> Result<String> {
    let files = serde_json::to_vec(&manifest.files).map_err(|e| Error::Internal(e.to_string()))?;
    Ok(blake3::hash(&files).to_hex().to_string())
}

/// A progress bar on stderr that begins anew with every stage; where stderr is no terminal, a line of log.
pub(crate) struct Bar(ProgressBar);

impl Bar {
    pub(crate) fn new() -> Self {
        let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}");
        Self(ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())))
    }

    pub(crate) fn show(&self, progress: Progress<'_>) {
        match progress {
            Progress::Stage(name, pictures) => {
                self.0.reset();
                self.0.set_message(name.to_owned());
                self.0.set_length(pictures as u64);
                if self.0.is_hidden() {
                    log::info!("{name}: {pictures} pictures");
                }
            }
            Progress::Pictures(more) => self.0.inc(more as u64),
        }
    }

    pub(crate) fn set(&self, done: usize, total: usize) {
        self.0.set_length(total as u64);
        self.0.set_position(done as u64);
    }

    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}
