//! What goes into a [`Generator`](super::Generator) and what comes out.

use image::RgbImage;
use serde::Serialize;

use super::codec::Decoder;
use crate::bundle::manifest::{SamplerKind, is_unguided};
use crate::error::Result;
use crate::threads::Threads;

/// How to sample; `None` means what the bundle's manifest says.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Neighbours used, at most the bundle's k. With fewer, the nearest repeat to fill the network's input.
    pub neighbours: Option<usize>,
    /// Sampling steps, within 1…T.
    pub steps: Option<usize>,
    /// Sampler.
    pub sampler: Option<SamplerKind>,
    /// Guidance g over retrieval, within 0…100: the denoiser is asked with the neighbours and without them, and
    /// without + g·(with − without) is what it is taken to predict (classifier-free guidance: Ho & Salimans 2022, arXiv
    /// 2207.12598, there w = g − 1). 1 is off, and asks once; all else takes twice as long, and a bundle that was trained
    /// for it.
    pub guidance: Option<f32>,
    /// Threads that draw, at least 1: each a block of its own, and one block together where it is alone, as the thumbnail is;
    /// they decode together. The pixels do not depend on it. What tract runs is not shared.
    pub threads: usize,
    /// Bytes the program may allocate, heap and worker stacks: what it holds when the generator is opened, and what the
    /// generator takes. Another that draws meanwhile is not foreseen. Kept only where
    /// [`CountingAllocator`](crate::budget::CountingAllocator) is the global allocator; else it is ignored
    /// and a warning logged.
    pub ram_budget: Option<u64>,
    /// Whether the queried picture may not be its own neighbour.
    pub exclude_self: Option<bool>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            neighbours: None,
            steps: None,
            sampler: None,
            guidance: None,
            threads: 1,
            ram_budget: None,
            exclude_self: None,
        }
    }
}

/// Which picture's neighbours guide the drawing.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Query {
    /// A picture of the database, chosen by the seed.
    #[default]
    Random,
    /// This picture of the database.
    Id(u32),
    /// A picture from outside, of the bundle's size; needs the encoder.
    Image(RgbImage),
}

/// Progress of [`Generator::generate`](super::Generator::generate).
#[derive(Debug)]
pub enum Event<'a> {
    /// The picture is begun.
    Started {
        /// Steps to come: positions times sampling steps. A step evaluates the denoiser once, with guidance twice.
        steps_total: usize,
    },
    /// The neighbours are known (not sent where the bundle does not use the database).
    Retrieved {
        /// The database picture that was the query, if it was one.
        query: Option<u32>,
        /// The neighbours' image ids, nearest first.
        neighbours: &'a [u32],
    },
    /// Some blocks went one step further.
    Step {
        /// Steps done, of all positions together.
        done: usize,
        /// Steps in all.
        total: usize,
        /// The picture as it stands.
        preview: &'a Preview<'a>,
    },
    /// The position is fully denoised.
    Block {
        /// The position; see [`BlockGrid`](crate::BlockGrid).
        position: usize,
        /// The picture as it stands.
        preview: &'a Preview<'a>,
    },
    /// All blocks are drawn; the decoder begins.
    Decoding,
}

/// The picture as it stands, decoded only when asked for.
#[derive(Debug)]
pub struct Preview<'a> {
    pub(super) latent: &'a [f32],
    pub(super) decoder: Option<Decoder<'a>>,
}

impl Preview<'_> {
    /// The whole latent as it stands, CHW, unscaled: finished blocks, what is now expected of those at work,
    /// the next coarser level (where there is one) in place of those not begun.
    pub fn latent(&self) -> &[f32] {
        self.latent
    }

    /// [`Self::latent`] decoded, or `None` where the budget keeps the decoder out of RAM while blocks are
    /// drawn.
    ///
    /// # Errors
    /// As [`Generator::decode`](super::Generator::decode).
    pub fn picture(&self) -> Result<Option<RgbImage>> {
        self.decoder.as_ref().map(|decoder| decoder.decode(self.latent, &Threads::alone())).transpose()
    }
}

/// A generated picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// The pixels.
    pub image: RgbImage,
    /// The latent they were decoded from, CHW, unscaled, before snapping to the codebook.
    pub latent: Vec<f32>,
    /// How it came about.
    pub report: Report,
}

/// How a picture came about.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Name of the bundle.
    pub model: String,
    /// The seed.
    pub seed: u64,
    /// The database picture that was the query; `None` for a picture from outside, or without retrieval.
    pub query: Option<u32>,
    /// The neighbours' image ids, nearest first; empty without retrieval.
    pub neighbours: Vec<u32>,
    /// Whether the queried picture was kept from being its own neighbour.
    pub exclude_self: bool,
    /// The sampler.
    pub sampler: SamplerKind,
    /// Sampling steps per position.
    pub steps: usize,
    /// Guidance over retrieval; 1: none.
    #[serde(skip_serializing_if = "is_unguided")]
    pub guidance: f32,
    /// Threads that drew.
    pub threads: usize,
    /// Time of each stage.
    pub times: StageTimes,
    /// Most bytes allocated at once since the program began or [`reset_peak`](crate::budget::reset_peak);
    /// `None` without the counting allocator.
    pub peak_heap: Option<u64>,
    /// Peak resident set of the process in bytes, mapped files included, where the system tells.
    pub peak_rss: Option<u64>,
}

/// Wall time of each stage in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct StageTimes {
    /// Opening files and loading networks, since the picture before.
    pub load: f64,
    /// Finding the neighbours, the encoding of a queried picture included.
    pub retrieve: f64,
    /// Conditioner and denoiser, and what the observer did meanwhile.
    pub denoise: f64,
    /// Decoder.
    pub decode: f64,
}
