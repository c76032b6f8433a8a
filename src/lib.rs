//! Image generation on edge devices: block-wise latent diffusion guided by a memory-mapped block
//! database (RISSOLE, arXiv 2408.17095).

pub mod atomic_file;
pub mod budget;
pub mod bundle;
pub mod capi;
pub mod container;
pub mod diffusion;
pub mod error;
pub mod file_bytes;
pub mod generator;
pub mod index;
mod isa;
pub mod latent;
pub mod network;
mod paged_file;
pub mod picture;
pub mod store;
pub mod threads;

pub use bundle::{Bundle, Manifest};
pub use error::{Error, Result};
pub use generator::{Event, Generator, Options, Picture, Preview, Query, Report, StageTimes};
pub use latent::{BlockGrid, LatentShape};
