//! The stages of a run, from pictures to a bundle. Each leaves a file in the run's folder and is skipped when
//! that file is there and made with the same settings; an interrupted stage goes on from its checkpoint.

mod bundle;
mod card;
mod consistency;
mod curve;
mod database;
mod decoder;
mod denoiser;
mod evaluate;
mod training;
mod vqgan;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

pub use database::{MAX_SHARDS, Shard};
use rissole::network::Window;
use rissole::{Error, Result};

use crate::backend::choice::{Opened, Wanted};
use crate::backend::pictures::PictureSet;
use crate::data::{self, Dataset, Split};
use crate::evaluate::features::FeatureArgs;
use crate::group::Group;
use crate::random::Random;
use crate::recipe::Recipe;
use crate::train::checkpoint::settings_hash;
use crate::train::denoiser::NETWORK;

/// Set by Ctrl-C; training loops save and stop.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// The stages in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Stage {
    /// Decode the pictures and split them.
    Prepare,
    /// Train the VQ-GAN.
    Vqgan,
    /// Encode the database.
    Encode,
    /// Build the index.
    Index,
    /// Train the denoiser.
    Denoiser,
    /// Tune the denoiser to few sampling steps; nothing to do where the recipe has no `[consistency]`.
    Consistency,
    /// Train the decoder on, encoder and codebook fixed; nothing to do where the recipe has no `[decoder]`.
    Decoder,
    /// Quantize, export, write and verify the bundle.
    Export,
    /// Measure the bundle, and write its card.
    Evaluate,
}

impl Stage {
    /// All stages in order.
    pub const ALL: [Self; 9] = [
        Self::Prepare,
        Self::Vqgan,
        Self::Encode,
        Self::Index,
        Self::Denoiser,
        Self::Consistency,
        Self::Decoder,
        Self::Export,
        Self::Evaluate,
    ];

    /// Whether several processes do it together.
    pub fn is_shared(self) -> bool {
        matches!(self, Self::Vqgan | Self::Denoiser | Self::Consistency | Self::Decoder)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Vqgan => "vqgan",
            Self::Encode => "encode",
            Self::Index => "index",
            Self::Denoiser => "denoiser",
            Self::Consistency => "consistency",
            Self::Decoder => "decoder",
            Self::Export => "export",
            Self::Evaluate => "evaluate",
        }
    }
}

/// A recipe and the folder its files are in.
#[derive(Debug)]
pub struct Run {
    recipe: Recipe,
    dir: PathBuf,
    bundle_dir: PathBuf,
    features: FeatureArgs,
    device: Wanted,
    group: Group,
}

impl Run {
    /// A run in `runs/NAME`, whose bundle goes to `bundle_dir` and is measured with `features`.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be made.
    pub fn new(recipe: Recipe, runs: &Path, bundle_dir: Option<PathBuf>, features: FeatureArgs) -> Result<Self> {
        let dir = recipe.run_dir(runs);
        std::fs::create_dir_all(&dir).map_err(|e| Error::io(&dir, e))?;
        let bundle_dir = bundle_dir.unwrap_or_else(|| dir.join("bundle"));
        Ok(Self { recipe, dir, bundle_dir, features, device: Wanted::cpu(), group: Group::alone() })
    }

    /// The same run, training and encoding on `device` instead of the CPU.
    pub fn on(self, device: Wanted) -> Self {
        Self { device, ..self }
    }

    /// The same run by the processes of `group`, which share a file system: they train together, all else is done
    /// by the one that leads while the others wait.
    pub fn within(self, group: Group) -> Self {
        Self { group, ..self }
    }

    /// Where the bundle goes.
    pub fn bundle_dir(&self) -> &Path {
        &self.bundle_dir
    }

    /// Does all stages that are not done.
    ///
    /// # Errors
    /// As [`Self::stage`]; [`Error::Usage`] before anything is done when a batch cannot be shared equally by the processes.
    pub fn all(&self) -> Result<()> {
        for stage in self.training_stages() {
            if !self.is_done(stage)? {
                self.share(stage)?;
            }
        }
        Stage::ALL.into_iter().try_for_each(|stage| self.stage(stage))
    }

    /// The part of a batch of `stage` that is this process's.
    fn share(&self, stage: Stage) -> Result<Range<usize>> {
        let recipe = &self.recipe;
        let batch = match stage {
            Stage::Denoiser => recipe.denoiser.batch,
            Stage::Consistency => recipe.consistency.as_ref().map_or(0, |config| config.batch),
            Stage::Decoder => recipe.decoder.as_ref().map_or(0, |config| config.batch),
            _ => recipe.vqgan.batch,
        };
        let name = stage.name();
        self.group.share(batch).map_err(|e| {
            Error::Usage(format!("[{name}]: {e}; one can do the stage before the others: rissole-train stage {name}"))
        })
    }

    /// Does `work` with the device.
    fn with_device<T>(&self, work: impl FnOnce(&Opened) -> Result<T>) -> Result<T> {
        let opened = self.device.open()?;
        let outcome = work(&opened);
        if outcome.is_err() && !self.group.is_alone() {
            // To give it back waits for its work, and that maybe for a process which is gone.
            std::mem::forget(opened);
        }
        outcome
    }

    /// Whether `stage` was done with these settings, as this process sees it.
    fn is_done(&self, stage: Stage) -> Result<bool> {
        let settings = self.settings(stage)?;
        let before = self.done()?.get(stage.name()).is_some_and(|before| before.starts_with(&settings));
        Ok(before && self.product(stage).exists())
    }

    /// Does `stage` unless it is done.
    ///
    /// # Errors
    /// Whatever the stage meets; [`Error::Interrupted`] after Ctrl-C, with everything saved.
    pub fn stage(&self, stage: Stage) -> Result<()> {
        if !self.has(stage) {
            return Ok(());
        }
        let name = stage.name();
        let settings = self.settings(stage)?;
        // As the leader sees it, who may be done before another looks.
        if self.group.any(self.group.leads() && self.is_done(stage)?)? {
            log::info!("{name}: done before");
            return Ok(());
        }
        log::info!("{name}: {}", self.product(stage).display());
        if stage.is_shared() {
            self.share(stage)?;
        }
        if self.group.leads() || stage.is_shared() {
            self.work(stage)?;
        }
        if self.group.leads() {
            self.mark_done(stage, settings)?;
        }
        // What the leader wrote is read by the others.
        self.group.average(&mut [0.0])
    }

    fn work(&self, stage: Stage) -> Result<()> {
        match stage {
            Stage::Prepare => self.prepare(),
            Stage::Vqgan => self.train_vqgan(),
            Stage::Encode => self.encode(),
            Stage::Index => self.build_index(),
            Stage::Denoiser => self.train_denoiser(),
            Stage::Consistency => self.train_consistency(),
            Stage::Decoder => self.train_decoder(),
            Stage::Export => self.export(),
            Stage::Evaluate => self.evaluate(),
        }
    }

    fn mark_done(&self, stage: Stage, settings: String) -> Result<()> {
        let mut done = self.done()?;
        done.insert(stage.name().to_owned(), settings);
        let text = serde_json::to_vec_pretty(&done).map_err(|e| Error::Internal(e.to_string()))?;
        write_file(&self.dir.join("done.json"), &text)
    }

    /// Whether the recipe has this stage.
    fn has(&self, stage: Stage) -> bool {
        match stage {
            Stage::Consistency => self.recipe.consistency.is_some(),
            Stage::Decoder => self.recipe.decoder.is_some(),
            _ => true,
        }
    }

    /// The file or folder that a stage leaves.
    fn product(&self, stage: Stage) -> PathBuf {
        match stage {
            Stage::Prepare => self.dir.join("dataset.bin"),
            Stage::Vqgan => self.dir.join("vqgan.ckpt"),
            Stage::Encode => self.dir.join("blocks.rsdb"),
            Stage::Index => self.dir.join("blocks.rshn"),
            Stage::Denoiser => self.dir.join("denoiser.ckpt"),
            Stage::Consistency => self.dir.join("consistency.ckpt"),
            Stage::Decoder => self.dir.join("decoder.ckpt"),
            Stage::Export => self.bundle_dir.clone(),
            Stage::Evaluate => self.bundle_dir.join(evaluate::SAMPLES),
        }
    }

    /// Hash of all settings that the stage's product depends on. What begins with it was made with them and more.
    fn settings(&self, stage: Stage) -> Result<String> {
        let r = &self.recipe;
        let data = (&r.seed, &r.data);
        let blocks = (r.denoiser.rows, r.denoiser.cols, r.denoiser.thumbnail, r.denoiser.thumbnail_codebook_size);
        let d = (NETWORK, &r.denoiser);
        Ok(match stage {
            Stage::Prepare => settings_hash(&data),
            Stage::Vqgan => settings_hash(&(data, &r.vqgan)),
            Stage::Encode | Stage::Index => settings_hash(&(data, &r.vqgan, blocks)),
            Stage::Denoiser => settings_hash(&(data, &r.vqgan, d)),
            Stage::Consistency => settings_hash(&(data, &r.vqgan, d, &r.consistency)),
            Stage::Decoder => settings_hash(&(data, &r.vqgan, blocks, &r.decoder)),
            // What was exported half trained is exported again when it has trained on.
            Stage::Export => {
                let steps = self.training_stages().map(|s| self.steps_done(s)).collect::<Result<Vec<_>>>()?;
                let trained = (&r.vqgan, d, &r.consistency, &r.decoder, steps);
                settings_hash(&(&r.name, &r.licence, data, trained, &r.sampling, &r.export))
            }
            // A run without feature network leaves alone what was measured with one.
            Stage::Evaluate => {
                let settings = (self.settings(Stage::Export)?, &r.evaluation, self.about()?);
                let features = self.features.network.as_ref().map(|_| settings_hash(&self.features));
                settings_hash(&settings) + &features.unwrap_or_default()
            }
        })
    }

    fn done(&self) -> Result<BTreeMap<String, String>> {
        let path = self.dir.join("done.json");
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| Error::file(&path, e.to_string())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(e) => Err(Error::io(&path, e)),
        }
    }

    fn prepare(&self) -> Result<()> {
        let bar = progress("pictures", 0);
        let dataset = data::load(&self.recipe.data.source, &mut |done, total| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        })?;
        bar.finish_and_clear();
        for (file, fault) in &dataset.skipped {
            log::warn!("skipped {file}: {fault}");
        }
        log::info!("{} pictures, {} skipped", dataset.names.len(), dataset.skipped.len());
        dataset.save(&self.product(Stage::Prepare))
    }

    fn dataset(&self) -> Result<(Dataset, Split)> {
        let dataset = Dataset::load_prepared(&self.product(Stage::Prepare))?;
        let d = &self.recipe.data;
        let split = data::split(dataset.names.len(), d.validation, d.split_seed, d.hold_out_last)?;
        Ok((dataset, split))
    }
}

/// A progress bar on stderr for `total` steps; silent where stderr is no terminal.
fn progress(what: &'static str, total: u64) -> indicatif::ProgressBar {
    let style = indicatif::ProgressStyle::with_template("{prefix:>10} {wide_bar} {pos}/{len} {eta} {msg}")
        .unwrap_or_else(|_| indicatif::ProgressStyle::default_bar());
    indicatif::ProgressBar::new(total).with_style(style).with_prefix(what)
}

fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Writes a small file in one piece.
fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    rissole::atomic_file::write_atomically(path, |out| out.write_all(bytes))
}

/// The pictures of a dataset, taken from it.
fn take_pictures(dataset: &mut Dataset) -> PictureSet {
    let pixels = std::mem::take(&mut dataset.pixels);
    PictureSet { height: dataset.height, width: dataset.width, pixels }
}

/// All of a picture.
fn whole(dataset: &Dataset) -> Window {
    Window { top: 0, left: 0, height: dataset.height, width: dataset.width }
}

/// A square of `side` within `whole`, anywhere; all of it where there is no side.
fn cut_out(whole: Window, side: Option<usize>, random: &mut Random) -> Window {
    let Some(side) = side else { return whole };
    let [down, right] = [whole.height, whole.width].map(|whole| random.below(whole - side + 1));
    Window { top: whole.top + down, left: whole.left + right, height: side, width: side }
}
