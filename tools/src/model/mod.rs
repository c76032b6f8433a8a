//! The networks, written once as recordings on a tape: what trains is what is exported.

pub mod denoiser;
pub mod discriminator;
pub mod frozen;
pub mod layers;
pub mod unet;
pub mod vqgan;
