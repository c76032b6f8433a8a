//! A bundle: the folder that passes from the trainer to the runtime.

pub mod manifest;

pub use manifest::Manifest;
