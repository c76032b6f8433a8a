//! The measures of several sets of pictures, side by side.

use image::RgbImage;
use rissole::Result;
use serde::Serialize;

use super::cache::Cache;
use super::copy::{CopyDistance, Nearest, Pictures};
use super::features::FeatureNetwork;
use super::frechet::{Gaussian, Reference};
use super::kid::{Kid, Subsets, kernel_distance};
use super::seam::Boundaries;
use super::vectors::Vectors;

/// Where pictures that are measured come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Drawn by the bundle.
    Samples,
    /// Held-out pictures through encoder, codebook and decoder.
    Reconstructions,
    /// Real pictures that the bundle was trained on: what perfect samples would measure.
    Training,
    /// Real pictures that it was not trained on: the reference.
    HeldOut,
}

/// A set of pictures with a name.
#[derive(Debug, Clone)]
pub struct Set {
    /// Where they come from.
    pub kind: Kind,
    /// What to call them.
    pub name: String,
    /// The pictures, of one size.
    pub images: Vec<RgbImage>,
}

/// What was measured of one set, each against the held-out pictures. `None`: not defined or not possible.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Where the pictures come from.
    pub kind: Kind,
    /// What they are called.
    pub name: String,
    /// How many there are.
    pub pictures: usize,
    /// Squared Fréchet distance of features.
    pub frechet: Option<f64>,
    /// Kernel distance of features (not times 1000).
    pub kid: Option<Kid>,
    /// Seam ratio.
    pub seam_ratio: Option<f64>,
    /// Seam ratio over that of the held-out pictures.
    pub seam_ratio_to_real: Option<f64>,
    /// Copy distance; of samples only.
    pub copy: Option<CopyDistance>,
    /// The nearest database picture to each picture; of samples and held-out pictures.
    #[serde(skip)]
    pub nearest: Vec<Nearest>,
}

/// What everything is measured against.
pub struct Yardstick<'a> {
    /// Real pictures that the bundle was not trained on.
    pub held_out: &'a [RgbImage],
    /// The pictures of the database.
    pub database: &'a [RgbImage],
    /// Where blocks meet.
    pub boundaries: Boundaries,
    /// The feature network and what is known of its features.
    pub features: Option<(&'a FeatureNetwork, &'a mut Cache)>,
    /// How KID draws its subsets.
    pub subsets: Subsets,
    /// Told of stages and pictures done; answers false to stop.
    pub progress: &'a (dyn Fn(Progress<'_>) -> bool + Sync),
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'a> {
    /// A stage begins, with so many pictures.
    Stage(&'a str, usize),
    /// So many more pictures are done.
    Pictures(usize),
}

impl Yardstick<'_> {
    /// Measures `sets`; the held-out pictures themselves come last.
    ///
    /// # Errors
    /// As the measures; [`rissole::Error::Interrupted`] when `progress` answers false.
    pub fn measure(&mut self, sets: &[Set]) -> Result<Vec<Row>> {
        let held_out = Set { kind: Kind::HeldOut, name: "Held-out pictures".into(), images: self.held_out.to_vec() };
        let reference = self.features_of(&held_out)?;
        let gaussian = reference.as_ref().map(Gaussian::fit).transpose()?.map(Reference::new);
        let real_seam = self.boundaries.seam_ratio(self.held_out)?;
        let database = Pictures::new(self.database)?;
        let yardstick = self.nearest(&database, &held_out)?;
        let mut rows = Vec::new();
        for set in sets {
            let features = self.features_of(set)?;
            let mut row = Row::of(set, self.boundaries.seam_ratio(&set.images)?, real_seam);
            if let (Some(features), Some(reference), Some(gaussian)) = (&features, &reference, &gaussian) {
                row.frechet = Some(gaussian.distance(&Gaussian::fit(features)?)?);
                row.kid = Some(kernel_distance(features, reference, &self.subsets)?);
            }
            if set.kind == Kind::Samples {
                row.nearest = self.nearest(&database, set)?;
                row.copy = CopyDistance::new(&row.nearest, &yardstick);
            }
            rows.push(row);
        }
        rows.push(Row { nearest: yardstick, ..Row::of(&held_out, real_seam, real_seam) });
        Ok(rows)
    }

    fn features_of(&mut self, set: &Set) -> Result<Option<Vectors>> {
        let progress = self.progress;
        let Some((network, cache)) = &mut self.features else { return Ok(None) };
        begin(progress, &format!("features: {}", set.name), set.images.len())?;
        network.features(&set.images, cache, &|done| progress(Progress::Pictures(done))).map(Some)
    }

    fn nearest(&self, database: &Pictures<'_>, set: &Set) -> Result<Vec<Nearest>> {
        begin(self.progress, &format!("nearest database pictures: {}", set.name), set.images.len())?;
        database.nearest(&set.images)
    }
}

fn begin(progress: &dyn Fn(Progress<'_>) -> bool, stage: &str, pictures: usize) -> Result<()> {
    match progress(Progress::Stage(stage, pictures)) {
        true => Ok(()),
        false => Err(rissole::Error::Interrupted),
    }
}

impl Row {
    fn of(set: &Set, seam_ratio: Option<f64>, real: Option<f64>) -> Self {
        Self {
            kind: set.kind,
            name: set.name.clone(),
            pictures: set.images.len(),
            frechet: None,
            kid: None,
            seam_ratio,
            seam_ratio_to_real: seam_ratio.zip(real).filter(|&(_, real)| real > 0.0).map(|(own, real)| own / real),
            copy: None,
            nearest: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use std::sync::Mutex;

    fn noise(n: usize, seed: u64) -> Vec<RgbImage> {
        let mut random = Random::new(seed);
        let mut picture =
            || RgbImage::from_fn(8, 8, |_, _| image::Rgb(std::array::from_fn(|_| random.below(256) as u8)));
        (0..n).map(|_| picture()).collect()
    }

    #[test]
    fn copies_are_told_from_new_pictures_and_the_reference_comes_last() {
        let (database, held_out) = (noise(40, 1), noise(30, 2));
        let copies = Set { kind: Kind::Samples, name: "copies".into(), images: database[..20].to_vec() };
        let new = Set { kind: Kind::Samples, name: "new".into(), images: noise(20, 3) };
        let training = Set { kind: Kind::Training, name: "training".into(), images: database[20..].to_vec() };
        let stages = Mutex::new(Vec::new());
        let progress = |p: Progress<'_>| {
            if let Progress::Stage(name, n) = p {
                stages.lock().unwrap().push((name.to_owned(), n));
            }
            true
        };
        let mut yardstick = Yardstick {
            held_out: &held_out,
            database: &database,
            boundaries: Boundaries { rows: 2, cols: 2, downsampling: 2 },
            features: None,
            subsets: Subsets::default(),
            progress: &progress,
        };
        let rows = yardstick.measure(&[copies, new, training]).unwrap();
        assert_eq!(rows[0].copy.unwrap().ratio, 0.0);
        assert!((0.9..1.1).contains(&rows[1].copy.unwrap().ratio));
        assert!(rows[2].copy.is_none() && rows[2].nearest.is_empty());
        assert_eq!((rows[3].kind, rows[3].pictures, rows[3].nearest.len()), (Kind::HeldOut, 30, 30));
        assert_eq!(rows[3].seam_ratio_to_real, Some(1.0));
        assert!(rows.iter().all(|row| row.frechet.is_none() && row.kid.is_none()));
        assert_eq!(stages.lock().unwrap().len(), 3);
        yardstick.progress = &|_| false;
        assert!(matches!(yardstick.measure(&[]), Err(rissole::Error::Interrupted)));
    }
}
