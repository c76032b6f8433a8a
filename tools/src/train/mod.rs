//! Training loops: each owns its networks, optimizer state and random state, advances by one step, and saves
//! itself whole, so that an interrupted run goes on as if nothing had happened.

pub mod checkpoint;
pub mod codebook;
pub mod decoder;
pub mod denoiser;
pub mod latents;
pub mod optimizer;
pub mod picture_loss;
pub mod vqgan;
