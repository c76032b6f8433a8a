//! Diffusion: the noise schedule, counter-based noise, and the samplers that walk back.

mod noise;
mod sampler;
mod schedule;

pub use noise::{Noise, Stream, philox4x32_10};
pub use sampler::{Sampler, SamplerState};
pub use schedule::Schedule;
