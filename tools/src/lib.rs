//! The offline trainer of rissole bundles.

pub mod backend;
pub mod model;
pub mod random;
pub mod tape;
pub mod train;
