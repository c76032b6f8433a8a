//! Pictures that a bundle makes: samples, and reconstructions of real pictures. They come from the runtime, so
//! what is measured is what a device draws.
//!
//! Samples are kept as PNGs in a folder named by the hash of the manifest (which holds those of all files of the
//! bundle; its measured quality left out) and the settings, so an interrupted evaluation goes on where it was.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Cursor, Write};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use image::{ImageFormat, RgbImage};
use rissole::atomic_file::write_atomically;
use rissole::bundle::Bundle;
use rissole::bundle::manifest::SamplerKind;
use rissole::generator::{Generator, Options, Picture, Query};
use rissole::{Error, Manifest, Result};
use serde::{Deserialize, Serialize};

/// A sampler, with its number of steps and its guidance unless the bundle's defaults are meant: `dpm++2m:20@1.5`, `ddim`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Setting {
    /// The sampler.
    pub sampler: SamplerKind,
    /// Sampling steps.
    pub steps: Option<usize>,
    /// Guidance over retrieval.
    pub guidance: Option<f32>,
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (text, guidance) = match text.split_once('@') {
            Some((text, guidance)) => (text, Some(guidance.parse().map_err(|_| format!("{guidance:?} is no number"))?)),
            None => (text, None),
        };
        let (name, steps) = match text.split_once(':') {
            Some((name, steps)) => (name, Some(steps.parse().map_err(|_| format!("{steps:?} is no number of steps"))?)),
            None => (text, None),
        };
        let sampler = serde_json::from_value(name.into())
            .map_err(|_| "samplers are ddpm, ddim, dpm++2m, consistency".to_owned())?;
        Ok(Self { sampler, steps, guidance })
    }
}

impl TryFrom<String> for Setting {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

impl From<Setting> for String {
    fn from(setting: Setting) -> Self {
        let name = match setting.sampler {
            SamplerKind::Ddpm => "ddpm",
            SamplerKind::Ddim => "ddim",
            SamplerKind::DpmSolverPp2m => "dpm++2m",
            SamplerKind::Consistency => "consistency",
        };
        let steps = setting.steps.map_or_else(String::new, |steps| format!(":{steps}"));
        let guidance = setting.guidance.map_or_else(String::new, |guidance| format!("@{guidance}"));
        format!("{name}{steps}{guidance}")
    }
}

impl Setting {
    /// The default of a bundle.
    pub fn default_of(manifest: &Manifest) -> Self {
        Self { sampler: manifest.diffusion.sampler, steps: None, guidance: None }
    }

    /// The setting with the bundle's number of steps and guidance where it leaves them open.
    pub fn resolved(self, manifest: &Manifest) -> Self {
        Self {
            steps: Some(self.steps.unwrap_or(manifest.diffusion.steps)),
            guidance: Some(self.guidance.unwrap_or(manifest.default_guidance(self.sampler))),
            ..self
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.sampler {
            SamplerKind::Ddpm => "DDPM",
            SamplerKind::Ddim => "DDIM",
            SamplerKind::DpmSolverPp2m => "DPM-Solver++ 2M",
            SamplerKind::Consistency => "Consistency",
        };
        f.write_str(name)?;
        self.steps.map_or(Ok(()), |steps| write!(f, ", {steps} steps"))?;
        self.guidance.filter(|&g| g != 1.0).map_or(Ok(()), |guidance| write!(f, ", guidance {guidance}"))
    }
}

/// Draws and reconstructs pictures with one bundle, several at a time.
pub struct Studio<'a> {
    /// The bundle.
    pub bundle: &'a Bundle,
    /// Pictures made at once, each with networks of its own.
    pub workers: usize,
    /// Stops the work when it becomes true.
    pub interrupted: &'a AtomicBool,
    /// Told of every picture done.
    pub done: &'a (dyn Fn() + Sync),
}

impl Studio<'_> {
    /// Draws `count` pictures from the seeds that follow `seed`, those apart that `folder` holds already; without
    /// one, none are kept.
    ///
    /// # Errors
    /// As [`Generator::open`] and [`Generator::generate`]; [`Error::Io`]; [`Error::Interrupted`].
    pub fn draw(
        &self,
        setting: Setting,
        exclude_self: bool,
        seed: u64,
        count: usize,
        folder: Option<&Path>,
    ) -> Result<Vec<RgbImage>> {
        let setting = setting.resolved(&self.bundle.manifest);
        let options = Options {
            sampler: Some(setting.sampler),
            steps: setting.steps,
            guidance: setting.guidance,
            exclude_self: Some(exclude_self),
            ..Options::default()
        };
        let Some(folder) = folder else {
            return Ok(self.pictures(&options, seed, count)?.into_iter().map(|picture| picture.image).collect());
        };
        let folder = folder.join(self.identify(setting, exclude_self)?);
        std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
        self.each(count, |generator, i| {
            let seed = seed.wrapping_add(i as u64);
            let path = folder.join(format!("{seed}.png"));
            if let Some(picture) = self.drawn_before(&path) {
                return Ok(picture);
            }
            let generator = opened(generator, self.bundle, &options)?;
            let picture = generator.generate(seed, &Query::Random, &mut |_| self.check_interrupted())?.image;
            let mut png = Cursor::new(Vec::new());
            picture.write_to(&mut png, ImageFormat::Png).map_err(|e| Error::Internal(e.to_string()))?;
            write_atomically(&path, |out: &mut dyn Write| out.write_all(png.get_ref()))?;
            Ok(picture)
        })
    }

    /// `count` latents (CHW, unscaled, not snapped) as the bundle draws them by default, from the seeds that follow
    /// `seed`.
    ///
    /// # Errors
    /// As [`Generator::open`] and [`Generator::generate`]; [`Error::Interrupted`].
    pub fn latents(&self, seed: u64, count: usize) -> Result<Vec<Vec<f32>>> {
        let drawn = self.pictures(&Options::default(), seed, count)?;
        Ok(drawn.into_iter().map(|picture| picture.latent).collect())
    }

    fn pictures(&self, options: &Options, seed: u64, count: usize) -> Result<Vec<Picture>> {
        self.each(count, |generator, i| {
            let generator = opened(generator, self.bundle, options)?;
            generator.generate(seed.wrapping_add(i as u64), &Query::Random, &mut |_| self.check_interrupted())
        })
    }

    /// `images` through encoder, codebook and decoder, or `None` where the bundle has no encoder.
    ///
    /// # Errors
    /// As [`Generator::open`], [`Generator::encode`] and [`Generator::decode`]; [`Error::Interrupted`].
    pub fn reconstruct(&self, images: &[RgbImage]) -> Result<Option<Vec<RgbImage>>> {
        if self.bundle.manifest.networks.encoder.is_none() {
            return Ok(None);
        }
        let options = Options::default();
        let reconstruct = |generator: &mut Option<Generator>, i: usize| {
            let generator = opened(generator, self.bundle, &options)?;
            let latent = generator.encode(&images[i])?;
            generator.decode(&latent)
        };
        self.each(images.len(), reconstruct).map(Some)
    }

    fn drawn_before(&self, path: &Path) -> Option<RgbImage> {
        let size = self.bundle.manifest.image;
        let picture = image::open(path).ok()?.into_rgb8();
        (picture.dimensions() == (size.width as u32, size.height as u32)).then_some(picture)
    }

    /// Name of the folder of samples drawn with `setting`.
    fn identify(&self, setting: Setting, exclude_self: bool) -> Result<PathBuf> {
        let Setting { sampler, steps, guidance } = setting;
        // Nothing where there is none: samples that were drawn before there was guidance are found.
        let guidance = guidance.filter(|&guidance| guidance != 1.0);
        let manifest = Manifest { quality: BTreeMap::new(), ..self.bundle.manifest.clone() };
        let key = (&manifest, sampler, steps, exclude_self, env!("CARGO_PKG_VERSION"));
        let key = match guidance {
            Some(guidance) => serde_json::to_vec(&(key, guidance)),
            None => serde_json::to_vec(&key),
        };
        let key = key.map_err(|e| Error::Internal(e.to_string()))?;
        Ok(format!("samples-{}", &blake3::hash(&key).to_hex()[..16]).into())
    }

    fn check_interrupted(&self) -> Result<()> {
        if self.interrupted.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// Results of `work` for 0…count−1 in order, from as many threads as there are workers, each with a place
    /// for a generator that it opens when it first needs one.
    fn each<T: Send>(
        &self,
        count: usize,
        work: impl Fn(&mut Option<Generator>, usize) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let worker = || {
            let (mut generator, mut results) = (None, Vec::new());
            while !failed.load(Ordering::Relaxed) {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= count {
                    break;
                }
                self.check_interrupted()?;
                results.push((i, work(&mut generator, i)?));
                (self.done)();
            }
            Ok(results)
        };
        let watched = || worker().inspect_err(|_: &Error| failed.store(true, Ordering::Relaxed));
        let parts: Vec<Result<Vec<(usize, T)>>> = std::thread::scope(|scope| {
            let handles: Vec<_> = (0..self.workers.clamp(1, count.max(1))).map(|_| scope.spawn(watched)).collect();
            handles.into_iter().map(|handle| handle.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
        });
        let mut results = parts.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect::<Vec<_>>();
        results.sort_by_key(|&(i, _)| i);
        Ok(results.into_iter().map(|(_, result)| result).collect())
    }
}

fn opened<'g>(place: &'g mut Option<Generator>, bundle: &Bundle, options: &Options) -> Result<&'g mut Generator> {
    if place.is_none() {
        *place = Some(Generator::open(bundle, options)?);
    }
    place.as_mut().ok_or_else(|| Error::Internal("the generator was just opened".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_parsed_with_and_without_steps_and_guidance() {
        let plain: Setting = "dpm++2m:20".parse().unwrap();
        assert_eq!(plain, Setting { sampler: SamplerKind::DpmSolverPp2m, steps: Some(20), guidance: None });
        assert_eq!(plain.to_string(), "DPM-Solver++ 2M, 20 steps");
        assert_eq!(
            (String::from(plain), serde_json::to_value(plain).unwrap()),
            ("dpm++2m:20".into(), "dpm++2m:20".into())
        );
        assert_eq!("ddim".parse(), Ok(Setting { sampler: SamplerKind::Ddim, steps: None, guidance: None }));
        let guided: Setting = "ddim:5@1.5".parse().unwrap();
        assert_eq!((guided.steps, guided.guidance), (Some(5), Some(1.5)));
        assert_eq!(
            (guided.to_string(), String::from(guided)),
            ("DDIM, 5 steps, guidance 1.5".into(), "ddim:5@1.5".into())
        );
        assert!("ddim@much".parse::<Setting>().is_err());
        assert!("ddim:many".parse::<Setting>().is_err());
        assert!("euler:20".parse::<Setting>().unwrap_err().contains("dpm++2m"));
    }
}
