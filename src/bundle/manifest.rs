//! `manifest.json`: everything the runtime must know about a bundle before it opens a network.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::packed_name;
use crate::error::{Error, Result};
use crate::latent::{BlockGrid, LatentShape};

/// Version of the manifest this build reads and writes.
pub const FORMAT: u32 = 1;

/// Largest guidance that is taken.
pub const MAX_GUIDANCE: f32 = 100.0;

/// The manifest. Unknown fields are refused: a bundle from a newer trainer must not be half understood.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Always [`FORMAT`].
    pub format: u32,
    /// Short name, as in `models/<name>`.
    pub name: String,
    /// SPDX expression or a sentence on the terms of weights and database.
    pub licence: String,
    /// Size of the pictures in pixels.
    pub image: ImageSize,
    /// The latent space.
    pub latent: LatentSpace,
    /// How a latent is cut into blocks.
    pub grid: Grid,
    /// Which neighbours condition a block.
    pub retrieval: Retrieval,
    /// How blocks are kept coherent.
    pub coherence: Coherence,
    /// The diffusion process and how it is sampled by default.
    pub diffusion: Diffusion,
    /// The networks by role.
    pub networks: Networks,
    /// File name of the block database.
    pub database: String,
    /// File name of the frozen index.
    pub index: String,
    /// Every file of the bundle but this manifest and the model card.
    pub files: Vec<FileEntry>,
    /// Where the bundle comes from: recipe, dataset, seed, steps, and whatever else the trainer records.
    pub provenance: BTreeMap<String, serde_json::Value>,
    /// Measured quality by name of measure.
    pub quality: BTreeMap<String, serde_json::Value>,
}

/// Size of a picture in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSize {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
}

/// The latent space of the VQ-GAN.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatentSpace {
    /// Shape `C×H×W` of a whole latent.
    pub shape: LatentShape,
    /// Pixels along one side of a latent cell.
    pub downsampling: usize,
    /// What codebook values are multiplied by to reach unit standard deviation, in which the denoiser works.
    pub scale: f32,
    /// Entries of the codebook; 0 where latents are not quantized.
    pub codebook_size: usize,
    /// Entries of the thumbnails' own codebook; 0 without thumbnails or codebook.
    pub thumbnail_codebook_size: usize,
    /// Whether a sampled latent is snapped to the nearest codebook entries before it is decoded.
    pub snap_to_codebook: bool,
}

/// Rows and columns of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grid {
    /// Rows of blocks.
    pub rows: usize,
    /// Columns of blocks.
    pub cols: usize,
    /// Levels between the thumbnail and the blocks, each the latent averaged down; see
    /// [`BlockGrid::with_levels_between`]. Absent: none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub levels_between: usize,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// How neighbours are found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retrieval {
    /// Neighbours k stacked in the condition.
    pub neighbours: usize,
    /// Position in the database that queries look at: the thumbnail or the first block, 0 either way today.
    pub query_position: usize,
    /// Whether a picture may not be its own neighbour.
    pub exclude_self: bool,
    /// What fills the neighbour input.
    pub source: NeighbourSource,
    /// Default guidance of a bundle that was trained without neighbours too, zeros in their place; absent: it was not, and
    /// takes no guidance but 1. See [`Options::guidance`](crate::Options::guidance).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guidance: Option<f32>,
}

/// Whether guidance is off, and changes nothing.
pub(crate) fn is_unguided(guidance: &f32) -> bool {
    *guidance == 1.0
}

/// What fills the neighbour input of the conditioner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NeighbourSource {
    /// Retrieved neighbours (RISSOLE).
    Database,
    /// Gaussian noise with the same shape: the paper's −RAG ablation.
    Noise,
}

/// How blocks are kept coherent (all off: the paper's independent blocks).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Coherence {
    /// The averaged latent is drawn first and conditions every block, or the next level ([`Grid::levels_between`]).
    pub thumbnail: bool,
    /// Cells of the neighbouring blocks' noisy values that a block sees; 0: blocks do not see each other.
    pub margin: usize,
    /// The network is told the position it draws (+Pos; always on with a thumbnail).
    pub position_embedding: bool,
    /// The block drawn before (row-major) is a further condition (+P). Needs `margin` 0.
    pub previous_block: bool,
}

/// The forward process and the default way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Diffusion {
    /// Timesteps T of the forward process.
    pub timesteps: usize,
    /// Noise schedule.
    pub schedule: ScheduleKind,
    /// What the denoiser predicts.
    pub prediction: Prediction,
    /// Default sampler.
    pub sampler: SamplerKind,
    /// Default number of sampling steps.
    pub steps: usize,
}

/// Noise schedules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// β from 1e-4 to 0.02 in equal steps (Ho et al. 2020), rescaled by 1000/T for other T.
    Linear,
    /// Squared-cosine ᾱ with s = 0.008 and β ≤ 0.999 (Nichol & Dhariwal 2021, eq. 17).
    Cosine,
}

/// What the denoiser predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Prediction {
    /// The noise ε.
    Epsilon,
    /// v = √ᾱ·ε − √(1−ᾱ)·x₀ (Salimans & Ho 2022).
    V,
}

/// Samplers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SamplerKind {
    /// Ancestral DDPM (Ho et al. 2020), strided where fewer than T steps are asked for.
    #[serde(rename = "ddpm")]
    Ddpm,
    /// DDIM with η = 0 (Song et al. 2021).
    #[serde(rename = "ddim")]
    Ddim,
    /// DPM-Solver++ 2M (Lu et al. 2022).
    #[serde(rename = "dpm++2m")]
    DpmSolverPp2m,
    /// Multistep consistency sampling (Song et al. 2023), for a denoiser that was tuned for it.
    #[serde(rename = "consistency")]
    Consistency,
}

/// The networks of a bundle by role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Networks {
    /// Inputs `neighbours`, then `thumbnail` and `previous` where the bundle has them → `condition`.
    pub conditioner: NetworkEntry,
    /// Inputs `latent`, `timestep`, `position` where the bundle has it, `condition` → `prediction`.
    pub denoiser: NetworkEntry,
    /// Input `latent` → `image` in −1…1.
    pub decoder: NetworkEntry,
    /// Input `image` in −1…1 → `latent`, before quantization. Without it no picture can be a query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder: Option<NetworkEntry>,
}

/// One ONNX file and the tensors it takes and gives, all `f32`, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkEntry {
    /// File name within the bundle.
    pub file: String,
    /// Inputs in order.
    pub inputs: Vec<TensorEntry>,
    /// Outputs in order.
    pub outputs: Vec<TensorEntry>,
}

/// Name and shape of a tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorEntry {
    /// Name in the ONNX graph.
    pub name: String,
    /// Static shape.
    pub shape: Vec<usize>,
}

/// Size and hash of a file of the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Plain file name, no directories.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// BLAKE3 of the content, 64 hexadecimal digits.
    pub blake3: String,
}

impl Networks {
    /// All there are: conditioner, denoiser, decoder, encoder.
    pub fn all(&self) -> impl Iterator<Item = &NetworkEntry> {
        [&self.conditioner, &self.denoiser, &self.decoder].into_iter().chain(&self.encoder)
    }
}

impl Manifest {
    /// Largest manifest that is read, in bytes.
    pub const MAX_BYTES: u64 = 1 << 20;

    /// The guidance with which `sampler` draws unless another is asked for.
    pub fn default_guidance(&self, sampler: SamplerKind) -> f32 {
        match sampler {
            // What it looks at once is no direction that could be followed further.
            SamplerKind::Consistency => 1.0,
            _ => self.retrieval.guidance.unwrap_or(1.0),
        }
    }

    /// Checks that `sampler` can draw with `guidance`.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the reason.
    pub fn check_guidance(&self, guidance: f32, sampler: SamplerKind) -> Result<()> {
        let fault = |text: &str| Err(Error::Usage(text.to_owned()));
        if !(0.0..=MAX_GUIDANCE).contains(&guidance) {
            return fault(&format!("guidance must be within 0…{MAX_GUIDANCE}, not {guidance}"));
        }
        if !is_unguided(&guidance) && self.retrieval.guidance.is_none() {
            return fault("this bundle was not trained without neighbours, so it takes no guidance but 1");
        }
        if !is_unguided(&guidance) && sampler == SamplerKind::Consistency {
            return fault("the consistency sampler takes no guidance but 1");
        }
        Ok(())
    }

    /// The block grid that latent shape, grid and coherence describe.
    ///
    /// # Errors
    /// [`Error::Usage`] as [`BlockGrid::new`] and [`BlockGrid::with_levels_between`].
    pub fn block_grid(&self) -> Result<BlockGrid> {
        let Coherence { thumbnail, margin, .. } = self.coherence;
        BlockGrid::new(self.latent.shape, self.grid.rows, self.grid.cols, thumbnail, margin)?
            .with_levels_between(self.grid.levels_between)
    }

    /// The tensors that each network of this bundle must take and give.
    ///
    /// `condition_channels` is the width of the conditioner's output, the one free dimension.
    ///
    /// # Errors
    /// [`Error::Usage`] as [`Self::block_grid`].
    pub fn signatures(&self, condition_channels: usize) -> Result<Signatures> {
        let grid = self.block_grid()?;
        let (block, window, latent) = (grid.block(), grid.window(), grid.latent());
        let at_window = |name: &str, channels: usize| tensor(name, &[1, channels, window.height, window.width]);
        let image = tensor("image", &[1, 3, self.image.height, self.image.width]);
        let whole = tensor("latent", &[1, latent.channels, latent.height, latent.width]);
        let condition = at_window("condition", condition_channels);

        let mut conditioner = vec![at_window("neighbours", self.retrieval.neighbours * block.channels)];
        if self.coherence.thumbnail {
            conditioner.push(at_window("thumbnail", block.channels));
        }
        if self.coherence.previous_block {
            conditioner.push(at_window("previous", block.channels));
        }
        // With a margin, one more channel says which cells lie inside the picture.
        let noisy_channels = block.channels + usize::from(self.coherence.margin > 0);
        let mut denoiser = vec![at_window("latent", noisy_channels), tensor("timestep", &[1, 1])];
        if self.coherence.position_embedding {
            denoiser.push(tensor("position", &[1, grid.positions()]));
        }
        denoiser.push(condition.clone());
        let prediction = tensor("prediction", &[1, block.channels, block.height, block.width]);
        Ok(Signatures {
            conditioner: (conditioner, vec![condition]),
            denoiser: (denoiser, vec![prediction]),
            decoder: (vec![whole.clone()], vec![image.clone()]),
            encoder: (vec![image], vec![whole]),
        })
    }

    /// File names that the networks have packed, whether they are or not.
    pub fn packed_names(&self) -> impl Iterator<Item = String> {
        self.networks.all().map(|network| packed_name(&network.file))
    }

    /// The listed files without which nothing can be drawn: all but packed networks.
    pub fn needed_files(&self) -> impl Iterator<Item = &FileEntry> {
        self.files.iter().filter(|file| !self.packed_names().any(|packed| packed == file.name))
    }

    /// BLAKE3 of the manifests that this bundle had before its networks were packed anew, which changes no pixel.
    pub fn packed_from(&self) -> impl Iterator<Item = &str> {
        let hashes = self.provenance.get(PACKED_FROM).and_then(serde_json::Value::as_array);
        hashes.into_iter().flatten().filter_map(serde_json::Value::as_str)
    }

    /// Adds one to [`Self::packed_from`].
    pub(crate) fn was_packed_from(&mut self, blake3: String) {
        let hashes: Vec<String> = self.packed_from().map(String::from).chain([blake3]).collect();
        self.provenance.insert(PACKED_FROM.into(), hashes.into());
    }

    /// Of another bundle than those before, which draws other pictures.
    pub(crate) fn forget_packed_from(&mut self) {
        self.provenance.remove(PACKED_FROM);
    }

    /// Checks what the manifest says against itself: versions, bounds, shapes, file names.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the fault; the caller adds the file's path.
    pub fn check(&self) -> Result<()> {
        let fault = |text: String| Err(Error::Usage(text));
        if self.format != FORMAT {
            return fault(format!("format {} is not supported; this build reads format {FORMAT}", self.format));
        }
        let grid = self.block_grid()?;
        let d = self.latent.downsampling;
        if !(1..=256).contains(&d) {
            return fault("downsampling must be within 1…256".into());
        }
        let expect = |cells: usize| cells.checked_mul(d);
        if expect(grid.latent().height) != Some(self.image.height)
            || expect(grid.latent().width) != Some(self.image.width)
        {
            return fault("image size is not latent size times downsampling".into());
        }
        if !(self.latent.scale.is_finite() && self.latent.scale > 0.0) {
            return fault("latent scale must be a positive number".into());
        }
        if self.latent.codebook_size.max(self.latent.thumbnail_codebook_size) > 65_536 {
            return fault("codebook size must be at most 65536".into());
        }
        let quantized = self.latent.codebook_size > 0;
        if (quantized && self.coherence.thumbnail) != (self.latent.thumbnail_codebook_size > 0) {
            return fault("a thumbnail and its codebook come together".into());
        }
        if self.latent.snap_to_codebook && !quantized {
            return fault("snap_to_codebook needs a codebook".into());
        }
        if self.coherence.thumbnail && !self.coherence.position_embedding {
            return fault("a thumbnail needs the position embedding".into());
        }
        if self.coherence.previous_block && self.coherence.margin > 0 {
            return fault("previous_block needs margin 0".into());
        }
        if !(1..=1024).contains(&self.retrieval.neighbours) || self.retrieval.query_position != 0 {
            return fault("neighbours must be within 1…1024 and query_position 0".into());
        }
        if let Some(guidance) = self.retrieval.guidance {
            if self.retrieval.source == NeighbourSource::Noise {
                return fault("guidance needs neighbours of the database".into());
            }
            self.check_guidance(guidance, SamplerKind::Ddim)?;
        }
        if !(1..=100_000).contains(&self.diffusion.timesteps)
            || !(1..=self.diffusion.timesteps).contains(&self.diffusion.steps)
        {
            return fault("sampling steps must be within 1…timesteps, timesteps within 1…100000".into());
        }
        let channels = self.networks.conditioner.outputs.first().and_then(|t| t.shape.get(1)).copied().unwrap_or(0);
        if !(1..=4096).contains(&channels) {
            return fault("the conditioner's output must have 1…4096 channels".into());
        }
        let s = self.signatures(channels)?;
        let n = &self.networks;
        let roles = [
            ("conditioner", &n.conditioner, &s.conditioner),
            ("denoiser", &n.denoiser, &s.denoiser),
            ("decoder", &n.decoder, &s.decoder),
        ];
        for (role, entry, (inputs, outputs)) in
            roles.into_iter().chain(n.encoder.iter().map(|e| ("encoder", e, &s.encoder)))
        {
            if &entry.inputs != inputs || &entry.outputs != outputs {
                return fault(format!("the {role}'s inputs or outputs do not match the bundle's shapes"));
            }
        }
        let mut names: Vec<&str> = self.files.iter().map(|f| f.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        if names.len() != self.files.len() {
            return fault("a file is listed twice".into());
        }
        for name in &names {
            let plain = !name.is_empty() && *name != "." && *name != ".." && !name.contains(['/', '\\', '\0', ':']);
            if !plain {
                return fault(format!("{name:?} is not a plain file name"));
            }
        }
        let packed: BTreeSet<String> = self.packed_names().collect();
        if packed.len() < n.all().count() {
            return fault("two networks have one name when they are packed".into());
        }
        for name in n.all().map(|e| &e.file).chain([&self.database, &self.index]) {
            if packed.contains(name) {
                return fault(format!("{name:?} has the name of a packed network"));
            }
            if names.binary_search(&name.as_str()).is_err() {
                return fault(format!("{name:?} is used but not listed in files"));
            }
        }
        Ok(())
    }
}

/// Where in the provenance [`Manifest::packed_from`] lies.
const PACKED_FROM: &str = "packed_from";

/// Inputs and outputs of each network: see [`Manifest::signatures`].
#[derive(Debug, Clone)]
pub struct Signatures {
    /// Of the conditioner.
    pub conditioner: (Vec<TensorEntry>, Vec<TensorEntry>),
    /// Of the denoiser.
    pub denoiser: (Vec<TensorEntry>, Vec<TensorEntry>),
    /// Of the decoder.
    pub decoder: (Vec<TensorEntry>, Vec<TensorEntry>),
    /// Of the encoder.
    pub encoder: (Vec<TensorEntry>, Vec<TensorEntry>),
}

fn tensor(name: &str, shape: &[usize]) -> TensorEntry {
    TensorEntry { name: name.to_owned(), shape: shape.to_vec() }
}
