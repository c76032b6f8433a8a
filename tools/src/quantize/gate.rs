//! What quantization costs, and how much it may.

use std::sync::atomic::{AtomicBool, Ordering};

use image::RgbImage;
use rissole::network::Network;
use rissole::{Bundle, Error, Result};

use super::inputs::Inputs;
use super::{QuantizeArgs, Role};
use crate::evaluate::cache::Cache;
use crate::evaluate::features::FeatureNetwork;
use crate::evaluate::frechet::{Gaussian, Reference};
use crate::evaluate::measure::Progress;
use crate::evaluate::samples::{Setting, Studio};
use crate::evaluate::seam::Boundaries;
use crate::evaluate::{self, Bar};

/// How much larger, relatively, seam ratio and Fréchet distance may become.
pub const LIMIT: f64 = 0.03;

/// What it costs a network.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkCost {
    /// Which network.
    pub role: Role,
    /// Bits of the rounded values, from the fewest to the most.
    pub bits: [u32; 2],
    /// Convolutions that take such values.
    pub quantized: usize,
    /// All its convolutions.
    pub convolutions: usize,
    /// Runs that it was calibrated on.
    pub calibration: usize,
    /// Runs on other inputs that its error was measured on.
    pub checked: usize,
    /// Mean square of the output before over that of the error, in decibels.
    pub decibels: f64,
}

impl NetworkCost {
    /// The bits in words.
    pub fn shown_bits(&self) -> String {
        match self.bits {
            [least, most] if least == most => format!("{most} bits"),
            [least, most] => format!("{least} to {most} bits"),
        }
    }
}

/// Mean square of the output of `before` over that of the difference of `after`, in decibels, over the runs on
/// `inputs`.
///
/// # Errors
/// As [`Network::run`].
pub fn decibels(before: &Network, after: &Network, inputs: &[Inputs]) -> Result<f64> {
    let (mut expected, mut found) = (vec![0.0; before.output_len()], vec![0.0; before.output_len()]);
    let (mut signal, mut noise) = (0.0, 0.0);
    for run in inputs {
        let run: Vec<&[f32]> = run.iter().map(Vec::as_slice).collect();
        before.run(&run, &mut expected)?;
        after.run(&run, &mut found)?;
        signal += expected.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>();
        noise += expected.iter().zip(&found).map(|(&a, &b)| f64::from(a - b).powi(2)).sum::<f64>();
    }
    Ok(10.0 * (signal / noise).log10())
}

/// A measure before and after; less is better.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    /// Of the bundle as it was.
    pub before: f64,
    /// Of the quantized one.
    pub after: f64,
}

impl Change {
    /// How much larger it became, relatively.
    pub fn loss(self) -> f64 {
        match self {
            Self { before, after } if before > 0.0 => after / before - 1.0,
            Self { after, .. } if after > 0.0 => f64::INFINITY,
            _ => 0.0,
        }
    }
}

/// What it costs a bundle.
#[derive(Debug, Clone, PartialEq)]
pub struct Cost {
    /// Each network that was quantized.
    pub networks: Vec<NetworkCost>,
    /// Pictures drawn with either bundle, from the same seeds.
    pub pictures: usize,
    /// How they were drawn.
    pub setting: String,
    /// Seam ratio; `None` where the grid has none.
    pub seam_ratio: Option<Change>,
    /// Squared Fréchet distance to the held-out pictures; `None` without a feature network.
    pub frechet: Option<Change>,
    /// The feature network.
    pub features: Option<String>,
}

impl Cost {
    /// The measures by name.
    pub fn measures(&self) -> impl Iterator<Item = (&'static str, Option<Change>)> {
        [("seam ratio", self.seam_ratio), ("Fréchet distance", self.frechet)].into_iter()
    }

    /// What became worse by more than [`LIMIT`], in words.
    pub fn excess(&self) -> Option<String> {
        let worse = self.measures().filter_map(|(name, change)| {
            let change = change.filter(|change| change.loss() > LIMIT)?;
            let (Change { before, after }, loss) = (change, 100.0 * change.loss());
            Some(format!("the {name} of {} samples goes from {before:.4} to {after:.4} (+{loss:.1} %)", self.pictures))
        });
        let worse: Vec<String> = worse.collect();
        (!worse.is_empty())
            .then(|| format!("quantization costs more than {:.0} %: {}", 100.0 * LIMIT, worse.join(", ")))
    }

    /// Tells it all.
    pub(super) fn log(&self) {
        for network in &self.networks {
            let (NetworkCost { role, quantized, convolutions, checked, decibels, .. }, bits) =
                (network, network.shown_bits());
            log::info!(
                "{role}: {quantized} of {convolutions} convolutions take values of {bits}; signal-to-noise ratio {decibels:.1} dB \
                 in {checked} runs"
            );
        }
        for (name, change) in self.measures() {
            match change {
                Some(change) => log::info!(
                    "{name} of {} samples: {:.4} before, {:.4} after ({:+.2} %)",
                    self.pictures,
                    change.before,
                    change.after,
                    100.0 * change.loss()
                ),
                None => log::warn!("{name}: not measured"),
            }
        }
    }
}

/// Measures a quantized bundle against the one that it was made from.
pub(super) struct Gate<'a> {
    args: &'a QuantizeArgs,
    bundle: &'a Bundle,
    interrupted: &'a AtomicBool,
    bar: &'a Bar,
    /// The feature network and the pictures that were held out.
    features: Option<(FeatureNetwork, Vec<RgbImage>)>,
}

impl<'a> Gate<'a> {
    /// Readies what is needed, so that a fault shows at once.
    ///
    /// # Errors
    /// Those of the feature network and of the pictures.
    pub fn open(args: &'a QuantizeArgs, bundle: &'a Bundle, interrupted: &'a AtomicBool, bar: &'a Bar) -> Result<Self> {
        let features = match (&args.features.network, &args.data) {
            (Some(network), Some(data)) => {
                let network = FeatureNetwork::open(network, &args.features)?;
                let (_, held_out) = evaluate::pictures(data, &args.split, bundle, bar)?;
                Some((network, held_out))
            }
            _ => None,
        };
        if let Some(folder) = &args.keep {
            std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        }
        Ok(Self { args, bundle, interrupted, bar, features })
    }

    /// What it costs to draw from `trial`, of whose networks `networks` tells the cost.
    ///
    /// # Errors
    /// As [`Studio::draw`] and [`FeatureNetwork::features`].
    pub fn measure(&self, trial: &Bundle, networks: Vec<NetworkCost>) -> Result<Cost> {
        let (before, after) = (self.draw(self.bundle, "before")?, self.draw(trial, "after")?);
        let boundaries = Boundaries::of(&trial.manifest);
        let seams = (boundaries.seam_ratio(&before)?, boundaries.seam_ratio(&after)?);
        Ok(Cost {
            networks,
            pictures: before.len(),
            setting: self.setting().resolved(&trial.manifest).to_string(),
            seam_ratio: seams.0.zip(seams.1).map(|(before, after)| Change { before, after }),
            frechet: self.frechet(&before, &after)?,
            features: self.features.as_ref().map(|(network, _)| network.name()),
        })
    }

    fn setting(&self) -> Setting {
        Setting::default_of(&self.bundle.manifest)
    }

    fn draw(&self, bundle: &Bundle, when: &str) -> Result<Vec<RgbImage>> {
        let QuantizeArgs { samples, seed, keep, .. } = self.args;
        self.bar.show(Progress::Stage(&format!("samples {when}"), *samples));
        let done = || self.bar.show(Progress::Pictures(1));
        let workers = rayon::current_num_threads();
        let studio = Studio { bundle, workers, interrupted: self.interrupted, done: &done };
        let exclude_self = bundle.manifest.retrieval.exclude_self;
        studio.draw(self.setting(), exclude_self, *seed, *samples, keep.as_deref())
    }

    /// Fréchet distance of either set to the held-out pictures.
    fn frechet(&self, before: &[RgbImage], after: &[RgbImage]) -> Result<Option<Change>> {
        let Some((network, held_out)) = &self.features else { return Ok(None) };
        let mut cache = match self.args.features.cache.as_ref().or(self.args.keep.as_ref()) {
            Some(folder) => Cache::open(folder, network.id(), network.dim())?,
            None => Cache::in_memory(network.dim()),
        };
        let mut fit = |name: &str, images: &[RgbImage]| {
            self.bar.show(Progress::Stage(&format!("features: {name}"), images.len()));
            let done = |pictures| {
                self.bar.show(Progress::Pictures(pictures));
                !self.interrupted.load(Ordering::Relaxed)
            };
            Gaussian::fit(&network.features(images, &mut cache, &done)?)
        };
        let reference = Reference::new(fit("held-out pictures", held_out)?);
        let before = reference.distance(&fit("samples before", before)?)?;
        let after = reference.distance(&fit("samples after", after)?)?;
        Ok(Some(Change { before, after }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_worse_by_more_than_the_limit_is_named() {
        let change = |before, after| Some(Change { before, after });
        let cost = |seam_ratio, frechet| Cost {
            networks: vec![],
            pictures: 1000,
            setting: "DDIM, 20 steps".into(),
            seam_ratio,
            frechet,
            features: None,
        };
        assert_eq!(cost(change(1.0, 1.029), change(0.5, 0.1)).excess(), None);
        assert_eq!(cost(None, None).excess(), None);
        let seam = cost(change(1.0, 1.05), change(0.5, 0.51)).excess().unwrap();
        assert!(seam.contains("seam ratio of 1000 samples goes from 1.0000 to 1.0500 (+5.0 %)"), "{seam}");
        assert!(!seam.contains("Fréchet"));
        let both = cost(change(1.0, 2.0), change(0.5, 0.6)).excess().unwrap();
        assert!(both.contains("seam ratio") && both.contains("Fréchet distance"));
    }

    #[test]
    fn a_loss_from_nothing_is_without_bound() {
        assert_eq!(Change { before: 0.0, after: 0.0 }.loss(), 0.0);
        assert_eq!(Change { before: 0.0, after: 0.1 }.loss(), f64::INFINITY);
        assert_eq!(Change { before: 0.5, after: 0.25 }.loss(), -0.5);
    }
}
