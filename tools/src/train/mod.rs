//! Training loops: each owns its networks, optimizer state and random state, advances by one step, and saves
//! itself whole, so that an interrupted run goes on as if nothing had happened.

pub mod checkpoint;
pub mod codebook;
pub mod consistency;
pub mod decoder;
pub mod denoiser;
pub mod latents;
pub mod measures;
pub mod optimizer;
pub mod perceptual;
pub mod picture_loss;
pub mod together;
pub mod vqgan;

use checkpoint::Checkpoint;
use rissole::Result;

/// A network in training.
pub trait Trainer {
    /// Number of trained values.
    fn parameters(&self) -> usize;

    /// Steps done.
    fn step(&self) -> u64;

    /// What a step measures.
    fn measures(&self) -> &'static [&'static str];

    /// The measures of the steps since the last call, but at most [`measures::KEPT`], in order. Waits for the device.
    ///
    /// # Errors
    /// As [`measures::Measures::take`].
    fn measured(&mut self) -> Result<Vec<Vec<f64>>>;

    /// The run as it stands.
    ///
    /// # Errors
    /// As [`crate::backend::Backend::check`]: a device that failed must not overwrite what was saved before.
    fn checkpoint(&self) -> Result<Checkpoint>;
}
