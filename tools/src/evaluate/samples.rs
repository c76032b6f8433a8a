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
use rissole::generator::{Generator, Options, Query};
use rissole::{Error, Manifest, Result};
use serde::{Deserialize, Serialize};

/// A sampler, with its number of steps unless the bundle's default is meant: `dpm++2m:20`, `ddim`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Setting {
    /// The sampler.
    pub sampler: SamplerKind,
    /// Sampling steps.
    pub steps: Option<usize>,
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (name, steps) = match text.split_once(':') {
            Some((name, steps)) => (name, Some(steps.parse().map_err(|_| format!("{steps:?} is no number of steps"))?)),
            None => (text, None),
        };
        let sampler = serde_json::from_value(name.into())
            .map_err(|_| "samplers are ddpm, ddim, dpm++2m, consistency".to_owned())?;
        Ok(Self { sampler, steps })
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
        setting.steps.map_or_else(|| name.to_owned(), |steps| format!("{name}:{steps}"))
    }
}

impl Setting {
    /// The default of a bundle.
    pub fn default_of(manifest: &Manifest) -> Self {
        Self { sampler: manifest.diffusion.sampler, steps: None }
    }

    /// The setting with the bundle's number of steps where it leaves that open.
    pub fn resolved(self, manifest: &Manifest) -> Self {
        Self { steps: Some(self.steps.unwrap_or(manifest.diffusion.steps)), ..self }
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
        match self.steps {
            Some(steps) => write!(f, "{name}, {steps} steps"),
            None => f.write_str(name),
        }
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
    /// Draws `count` pictures from the seeds that follow `seed`, those apart that `folder` holds already.
    ///
    /// # Errors
    /// As [`Generator::open`] and [`Generator::generate`]; [`Error::Io`]; [`Error::Interrupted`].
    pub fn draw(
        &self,
        setting: Setting,
        exclude_self: bool,
        seed: u64,
        count: usize,
        folder: &Path,
    ) -> Result<Vec<RgbImage>> {
        let setting = setting.resolved(&self.bundle.manifest);
        let folder = folder.join(self.identify(setting, exclude_self)?);
        std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
        let options = Options {
            sampler: Some(setting.sampler),
            steps: setting.steps,
            exclude_self: Some(exclude_self),
            ..Options::default()
        };
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
        let Setting { sampler, steps } = setting;
        let manifest = Manifest { quality: BTreeMap::new(), ..self.bundle.manifest.clone() };
        let key = (&manifest, sampler, steps, exclude_self, env!("CARGO_PKG_VERSION"));
        let key = serde_json::to_vec(&key).map_err(|e| Error::Internal(e.to_string()))?;
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
    fn settings_are_parsed_with_and_without_steps() {
        let plain: Setting = "dpm++2m:20".parse().unwrap();
        assert_eq!(plain, Setting { sampler: SamplerKind::DpmSolverPp2m, steps: Some(20) });
        assert_eq!(plain.to_string(), "DPM-Solver++ 2M, 20 steps");
        assert_eq!(
            (String::from(plain), serde_json::to_value(plain).unwrap()),
            ("dpm++2m:20".into(), "dpm++2m:20".into())
        );
        assert_eq!("ddim".parse(), Ok(Setting { sampler: SamplerKind::Ddim, steps: None }));
        assert!("ddim:many".parse::<Setting>().is_err());
        assert!("euler:20".parse::<Setting>().unwrap_err().contains("dpm++2m"));
    }
}
