//! What a network is given when pictures are drawn: what its ranges are calibrated on, and its error is measured on.

mod denoiser;

use rissole::store::BlockDatabase;
use rissole::{BlockGrid, Bundle, Error, LatentShape, Manifest, Result};

use denoiser::Conditions;

use super::Role;
use crate::backend::Backend;
use crate::backend::cpu::Cpu;
use crate::evaluate::samples::Studio;
use crate::random::Random;

/// The inputs of one run, in the order and of the shapes of the manifest.
pub type Inputs = Vec<Vec<f32>>;

/// One in so many latents that the decoder is given is drawn, the others are of the database.
const DRAWN: usize = 4;

/// Between the seeds of samples, those of latents to calibrate on, and those of latents to measure on.
const SEEDS: u64 = 1 << 40;

/// Where inputs come from.
pub struct Source<'a> {
    studio: &'a Studio<'a>,
    database: BlockDatabase,
    grid: BlockGrid,
    /// Pictures of the database to calibrate on, and others to measure on, in an order of chance.
    pictures: [Vec<u32>; 2],
    /// First seeds of latents for either.
    seeds: [u64; 2],
}

impl<'a> Source<'a> {
    /// Inputs from the database and the sampler of the studio's bundle; `seed` chooses which.
    ///
    /// # Errors
    /// As [`Bundle::database`]; [`Error::Usage`] for a database of one picture.
    pub fn new(studio: &'a Studio<'a>, seed: u64) -> Result<Self> {
        let database = studio.bundle.database()?;
        let mut calibration: Vec<u32> = (0..database.images()).collect();
        Random::new(seed).shuffle(&mut calibration);
        let checks = calibration.split_off(calibration.len() - calibration.len() / 4);
        if checks.is_empty() {
            return Err(Error::Usage("a database of fewer than 4 pictures is too small to calibrate on".into()));
        }
        let grid = studio.bundle.manifest.block_grid()?;
        let seeds = [1, 2].map(|i| seed.wrapping_add(i * SEEDS));
        Ok(Self { studio, database, grid, pictures: [calibration, checks], seeds })
    }

    /// The bundle.
    pub fn bundle(&self) -> &'a Bundle {
        self.studio.bundle
    }

    /// Inputs of about `runs[0]` runs of a network, and of `runs[1]` on other pictures; fewer where the database has
    /// not as many.
    ///
    /// # Errors
    /// [`Error::File`] where a file of the bundle is damaged; [`Error::Interrupted`].
    pub fn of(&self, role: Role, runs: [usize; 2]) -> Result<[Vec<Inputs>; 2]> {
        let part = |i: usize| match role {
            Role::Decoder => self.decoder(&self.pictures[i], self.seeds[i], runs[i]),
            Role::Denoiser => Conditions::new(self)?.inputs(&self.pictures[i], self.seeds[i], runs[i]),
        };
        Ok([part(0)?, part(1)?])
    }

    /// Latents of the database and of the sampler, as the decoder is given them.
    fn decoder(&self, pictures: &[u32], seed: u64, runs: usize) -> Result<Vec<Inputs>> {
        let drawn = runs / DRAWN;
        let known =
            pictures.iter().take(runs - drawn).map(|&picture| self.latent(picture)).collect::<Result<Vec<_>>>()?;
        let drawn = self.studio.latents(seed, drawn)?.into_iter().map(|latent| self.snapped(latent));
        Ok(known.into_iter().chain(drawn).map(|latent| vec![latent]).collect())
    }

    /// The latent of a picture of the database, CHW, unscaled.
    fn latent(&self, picture: u32) -> Result<Vec<f32>> {
        let (mut latent, mut values) = (vec![0.0; self.grid.latent().len()], vec![0.0; self.grid.block().len()]);
        for block in 0..self.grid.blocks() {
            self.database.read_block(picture, self.database.grid().position_of(block), &mut values)?;
            self.grid.write_block(&values, block, &mut latent);
        }
        Ok(latent)
    }

    fn manifest(&self) -> &Manifest {
        &self.studio.bundle.manifest
    }

    /// `latent` with every cell the nearest entry of the codebook, where the bundle decodes it so.
    fn snapped(&self, latent: Vec<f32>) -> Vec<f32> {
        let LatentShape { channels, .. } = self.grid.latent();
        let (cells, codebook) = (self.grid.latent().cells(), self.database.codebook());
        if !self.manifest().latent.snap_to_codebook {
            return latent;
        }
        let rows: Vec<f32> = (0..latent.len()).map(|i| latent[i % channels * cells + i / channels]).collect();
        let codes = Cpu::default().nearest(channels, &rows, codebook);
        (0..latent.len()).map(|i| codebook[codes[i % cells] as usize * channels + i / cells]).collect()
    }
}
