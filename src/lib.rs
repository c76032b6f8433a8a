//! Image generation on edge devices: block-wise latent diffusion guided by a memory-mapped block
//! database (RISSOLE, arXiv 2408.17095).

pub mod bundle;
pub mod diffusion;
pub mod error;
pub mod index;
pub mod latent;
pub mod network;
pub mod store;

pub use bundle::Manifest;
pub use error::{Error, Result};
pub use latent::{BlockGrid, LatentShape};
