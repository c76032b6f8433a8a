//! Training loops: each owns its networks, optimizer state and random state, advances by one step, and saves
//! itself whole, so that an interrupted run goes on as if nothing had happened.

use std::path::Path;

use rissole::Result;

pub mod checkpoint;
pub mod codebook;
pub mod decoder;
pub mod denoiser;
pub mod latents;
pub mod optimizer;
pub mod picture_loss;
pub mod vqgan;

/// A network in training.
pub trait Trainer {
    /// Number of trained values.
    fn parameters(&self) -> usize;

    /// Steps done.
    fn step(&self) -> u64;

    /// Saves the run, replacing an older checkpoint at `path` only when the new one is whole.
    ///
    /// # Errors
    /// Where the device failed, which must not overwrite what was saved before; [`rissole::Error::Io`].
    fn save(&self, path: &Path) -> Result<()>;
}
