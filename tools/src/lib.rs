//! The offline trainer of rissole bundles.

pub mod backend;
pub mod random;
pub mod tape;
