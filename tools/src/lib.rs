//! The offline trainer of rissole bundles.

pub mod backend;
pub mod bench_step;
pub mod check_device;
pub mod data;
pub mod evaluate;
pub mod export;
pub mod group;
pub mod launch;
pub mod model;
pub mod plot;
pub mod quantize;
pub mod random;
pub mod recipe;
pub mod stages;
pub mod tape;
pub mod train;
