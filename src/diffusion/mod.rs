//! Diffusion: the noise schedule, counter-based noise, and the samplers that walk back.

mod noise;
mod sampler;
mod schedule;

pub use noise::{Noise, Stream};
pub use sampler::{Sampler, SamplerState};
pub use schedule::Schedule;
