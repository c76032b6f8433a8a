//! Recipes: one TOML file says everything about a bundle, from the pictures to the card.

use std::path::{Path, PathBuf};

use rissole::bundle::manifest::{NeighbourSource, Prediction, SamplerKind};
use rissole::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::data::Source;
use crate::evaluate::samples::Setting;
use crate::export::Weights;
use crate::train::consistency::ConsistencyTraining;
use crate::train::decoder::DecoderTraining;
use crate::train::denoiser::DenoiserTraining;
use crate::train::perceptual::PerceptualTraining;
use crate::train::vqgan::VqganTraining;

/// A recipe. Unknown keys are refused, so that a typo is not a silent default.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the bundle, and of the run's folder.
    pub name: String,
    /// Terms of weights and database.
    pub licence: String,
    /// Seed of everything random in training.
    pub seed: u64,
    /// The pictures.
    pub data: Data,
    /// The autoencoder.
    pub vqgan: VqganTraining,
    /// The denoiser, its blocks and its neighbours.
    pub denoiser: DenoiserTraining,
    /// Tuning of the denoiser to few sampling steps; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<ConsistencyTraining>,
    /// Training of the decoder on, encoder and codebook fixed; absent: it stays the VQ-GAN's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoder: Option<DecoderTraining>,
    /// How the bundle is sampled by default.
    pub sampling: Sampling,
    /// How the networks are written.
    pub export: Export,
    /// What is measured of the bundle.
    pub evaluation: Evaluation,
    /// Markdown with which the model card begins: what the pictures are, whose, what the bundle is poor at; a
    /// relative path starts at the recipe's folder.
    #[serde(default)]
    pub about: Option<PathBuf>,
}

/// The pictures and their split.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Where they are; a relative path starts at the recipe's folder.
    pub source: Source,
    /// Pictures held out for validation.
    pub validation: usize,
    /// Hold out the last pictures instead of random ones.
    #[serde(default)]
    pub hold_out_last: bool,
    /// Seed of the split.
    pub split_seed: u64,
    /// Train with every picture mirrored too, left to right, its blocks, thumbnail and neighbours all from the same
    /// side. The database holds the pictures as they are.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub flip: bool,
    /// What the pictures are and whose, for the manifest.
    pub description: String,
}

/// Defaults of sampling.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// Sampler.
    pub sampler: SamplerKind,
    /// Steps.
    pub steps: usize,
    /// Guidance over retrieval, 1 off; needs `denoiser.neighbour_dropout`. Absent: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guidance: Option<f32>,
    /// Whether a sampled latent is snapped to the codebook before it is decoded.
    pub snap_to_codebook: bool,
}

/// How the networks are written.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// Precision of the weights.
    pub weights: Weights,
}

/// What is measured of the bundle, against the pictures held out for validation.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Samples of each setting.
    pub samples: usize,
    /// Samplers, their steps and their guidance, like `dpm++2m:20` or `dpm++2m:20@1.5`; none: the bundle's default.
    #[serde(default)]
    pub samplers: Vec<Setting>,
}

impl Recipe {
    /// Reads and checks a recipe.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`] naming the line or the setting at fault.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        let mut recipe: Self = toml::from_str(&text).map_err(|e| Error::file(path, e.to_string()))?;
        recipe.check().map_err(|e| Error::file(path, e.to_string()))?;
        let home = path.parent().unwrap_or(Path::new("."));
        recipe.data.source.path = home.join(&recipe.data.source.path);
        recipe.about = recipe.about.map(|about| home.join(about));
        recipe.perceptual().for_each(|loss| loss.home = home.to_owned());
        Ok(recipe)
    }

    /// Takes the pictures at `path`, a folder or a zip, in place of the recipe's own, under the name `name` where there
    /// is one. What the recipe says of its own pictures goes.
    ///
    /// # Errors
    /// [`Error::Usage`] for a name that is none.
    pub fn take(&mut self, path: Option<PathBuf>, name: Option<String>) -> Result<()> {
        if let Some(path) = path {
            let folder = path.file_name().map_or_else(|| ".".into(), |name| name.to_string_lossy().into_owned());
            self.data.description = format!("the pictures in {folder}");
            self.licence = format!("not stated; weights and database are made from the pictures in {folder}");
            self.data.source = Source { path, layout: None, limit: None, ..self.data.source };
            (self.data.hold_out_last, self.about) = (false, None);
        }
        self.name = name.unwrap_or_else(|| std::mem::take(&mut self.name));
        self.check()
    }

    /// The perceptual losses.
    pub fn perceptual(&mut self) -> impl Iterator<Item = &mut PerceptualTraining> {
        let decoder = self.decoder.as_mut().and_then(|decoder| decoder.perceptual.as_mut());
        self.vqgan.perceptual.iter_mut().chain(decoder)
    }

    fn check(&self) -> Result<()> {
        let fault = |text: &str| Err(Error::Usage(text.to_owned()));
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.name.is_empty() || self.name.starts_with('.') || !self.name.chars().all(plain) {
            return fault("name must be letters, digits, - _ .");
        }
        let model = &self.vqgan.model;
        if model.widths.is_empty() || model.widths.len() > 5 || model.widths.len() != model.residuals.len() {
            return fault("vqgan.model.widths and residuals must be 1…5 numbers each, as many of one as of the other");
        }
        if !self.data.source.size.is_multiple_of(model.downsampling()) {
            return fault("data.source.size must divide by 2 for every level of the VQ-GAN");
        }
        let crops = [self.vqgan.crop, self.decoder.as_ref().and_then(|decoder| decoder.crop)];
        let fits =
            |crop: usize| (1..=self.data.source.size).contains(&crop) && crop.is_multiple_of(model.downsampling());
        if !crops.into_iter().flatten().all(fits) {
            return fault("a crop must be at most data.source.size, and divide by 2 for every level of the VQ-GAN");
        }
        if !(1..=65_536).contains(&model.codebook_size) || self.denoiser.thumbnail_codebook_size > 65_536 {
            return fault("a codebook must have 1…65536 entries");
        }
        let tuning = self.consistency.as_ref();
        let further = [tuning.map(|c| c.batch), self.decoder.as_ref().map(|d| d.batch)];
        if [self.vqgan.batch, self.denoiser.batch].into_iter().chain(further.into_iter().flatten()).any(|b| b == 0) {
            return fault("a batch must hold at least one sample");
        }
        if self.evaluation.samples < 2 {
            return fault("evaluation.samples must be at least 2");
        }
        if self.vqgan.quantize_from >= self.vqgan.steps {
            return fault("vqgan.quantize_from must be below vqgan.steps");
        }
        if self.denoiser.thumbnail != (self.denoiser.thumbnail_codebook_size > 0) {
            return fault("denoiser.thumbnail and thumbnail_codebook_size come together");
        }
        if self.denoiser.thumbnail && !self.denoiser.position_embedding {
            return fault("denoiser.thumbnail needs position_embedding");
        }
        if self.denoiser.previous_block && self.denoiser.margin > 0 {
            return fault("denoiser.previous_block needs margin 0");
        }
        if !(0.0..1.0).contains(&self.denoiser.neighbour_dropout) {
            return fault("denoiser.neighbour_dropout must be a share below 1");
        }
        if !(0.0..1.0).contains(&self.denoiser.unet.dropout) {
            return fault("denoiser.unet.dropout must be a share below 1");
        }
        let drops = self.denoiser.neighbour_dropout > 0.0;
        if drops && self.denoiser.source == NeighbourSource::Noise {
            return fault("denoiser.neighbour_dropout needs neighbours of the database");
        }
        if self.sampling.guidance.is_some_and(|guidance| guidance != 1.0) && !drops {
            return fault("sampling.guidance needs denoiser.neighbour_dropout");
        }
        let mut settings = self.evaluation.samplers.iter();
        if !drops && settings.any(|setting| setting.guidance.is_some_and(|guidance| guidance != 1.0)) {
            return fault("a guidance in evaluation.samplers needs denoiser.neighbour_dropout");
        }
        if tuning.is_some() && (self.denoiser.prediction != Prediction::V || self.denoiser.timesteps < 2) {
            return fault("consistency needs denoiser.prediction = \"v\" and at least 2 timesteps");
        }
        if tuning.is_some_and(|c| c.halvings > 30) {
            return fault("consistency.halvings must be at most 30");
        }
        self.denoiser.shape(self.latent_shape())?;
        Ok(())
    }

    /// Shape of a latent of this recipe.
    pub fn latent_shape(&self) -> rissole::LatentShape {
        let side = self.data.source.size / self.vqgan.model.downsampling();
        rissole::LatentShape { channels: self.vqgan.model.latent_channels, height: side, width: side }
    }

    /// The run's folder below `runs`.
    pub fn run_dir(&self, runs: &Path) -> PathBuf {
        runs.join(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipes() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes")
    }

    #[test]
    fn the_recipes_that_are_shipped_are_sound() {
        let files = std::fs::read_dir(recipes()).unwrap().map(|entry| entry.unwrap().path());
        let loaded = files.filter(|path| path.extension().is_some_and(|e| e == "toml")).map(|path| {
            let recipe = Recipe::load(&path).unwrap();
            assert_eq!(path.file_stem().unwrap().to_str().unwrap(), recipe.name);
            assert!(recipe.about.is_none_or(|about| about.is_file()));
        });
        assert!(loaded.count() >= 2);
    }

    /// A setting that is off leaves no trace, or what was made before it came would have to be made again.
    #[test]
    fn what_is_off_is_not_part_of_what_checkpoints_are_known_by() {
        let recipe = Recipe::load(&recipes().join("avatars64.toml")).unwrap();
        let text =
            serde_json::to_string(&(&recipe.data, &recipe.vqgan, &recipe.denoiser, &recipe.decoder, &recipe.sampling))
                .unwrap();
        assert!(!["flip", "dropout", "guidance", "crop"].iter().any(|key| text.contains(key)), "{text}");
    }

    #[test]
    fn pictures_of_one_s_own_leave_nothing_said_of_others() {
        let mut recipe = Recipe::load(&recipes().join("avatars64.toml")).unwrap();
        recipe.take(Some("/data/cats.zip".into()), Some("cats".into())).unwrap();
        assert_eq!((recipe.name.as_str(), recipe.data.source.path.to_str()), ("cats", Some("/data/cats.zip")));
        let text = toml::to_string(&recipe).unwrap();
        assert!(!["avatar", "DiceBear", "CC-BY", "Melin"].iter().any(|word| text.contains(word)), "{text}");
        assert!(recipe.take(None, Some("../cats".into())).is_err());
    }
}
