//! Windows of latents, cut out where the latents lie: what a batch of the denoiser is made of.
//!
//! The host says what each sample is about ([`Subject`], a few numbers); codes, neighbours and codebooks stay on the
//! device, and so does all that is made of them, noise included.

use rissole::BlockGrid;
use rissole::bundle::manifest::{NeighbourSource, Prediction};

use super::Backend;
use super::philox::Key;

/// Everything about the training pictures that a batch is made of. Codebooks hold scaled values.
#[derive(Debug, Clone)]
pub struct LatentSet {
    /// Blocks, margin and coarser levels.
    pub grid: BlockGrid,
    /// Scaled codebook, `K × C`.
    pub codebook: Vec<f32>,
    /// Codes of the latents, `N × H·W`.
    pub codes: Vec<u16>,
    /// Scaled codebook of the thumbnails, `K × C`; empty without thumbnails.
    pub thumbnail_codebook: Vec<f32>,
    /// Codes of the thumbnails, `N × h·w`.
    pub thumbnail_codes: Vec<u16>,
    /// Neighbours of each picture in rank order, `N × neighbours_per_image`.
    pub neighbours: Vec<u32>,
    /// Neighbours stacked in a condition.
    pub neighbours_per_image: usize,
}

impl LatentSet {
    /// The same pictures, then all of them mirrored, whose `codes` and `thumbnail_codes` these are. Neighbours of a mirrored
    /// picture are those of the picture, mirrored.
    pub fn with_mirrored(mut self, codes: Vec<u16>, thumbnail_codes: Vec<u16>) -> Self {
        let images = self.images() as u32;
        let mirrored: Vec<u32> = self.neighbours.iter().map(|neighbour| images + neighbour).collect();
        self.neighbours.extend(mirrored);
        self.codes.extend(codes);
        self.thumbnail_codes.extend(thumbnail_codes);
        self
    }

    /// Number of pictures.
    pub fn images(&self) -> usize {
        self.codes.len() / self.grid.latent().cells()
    }
}

/// What is made of a window.
#[derive(Debug, Clone, Copy)]
pub struct WindowSettings {
    /// What the network predicts.
    pub prediction: Prediction,
    /// What fills the neighbour input.
    pub source: NeighbourSource,
    /// Whether the block drawn before is a condition.
    pub previous_block: bool,
}

/// What one sample is about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Subject {
    /// Number of the picture; below [`Self::MAX_IMAGES`].
    pub image: usize,
    /// Position of the window.
    pub position: usize,
    /// Timestep.
    pub timestep: usize,
    /// √ᾱ of the timestep.
    pub alpha: f32,
    /// √(1 − ᾱ).
    pub sigma: f32,
    /// Weight of its error.
    pub weight: f32,
    /// Zeros in place of neighbours.
    pub without_neighbours: bool,
    /// Standard deviation of the noise on the coarser level that conditions a block.
    pub thumbnail_deviation: f32,
    /// What all its noise follows from.
    pub key: Key,
}

impl Subject {
    /// Floats that a device is told of a subject.
    pub const WORDS: usize = 10;
    /// Most pictures: a float holds every number below.
    pub const MAX_IMAGES: usize = 1 << 24;

    /// What a device is told of `subjects`, in the order of the kernels' `struct Subject`.
    ///
    /// # Panics
    /// When a number does not fit a float.
    pub fn words(subjects: &[Self]) -> Vec<f32> {
        let words = |s: &Self| -> [f32; Self::WORDS] {
            [
                exact(s.image),
                exact(s.position),
                exact(s.timestep),
                s.alpha,
                s.sigma,
                s.weight,
                f32::from(u8::from(s.without_neighbours)),
                s.thumbnail_deviation,
                exact(s.key[0] as usize),
                exact(s.key[1] as usize),
            ]
        };
        subjects.iter().flat_map(words).collect()
    }

    /// The subject that [`Self::WORDS`] of these `words` tell of.
    pub(super) fn read(words: &[f32]) -> Self {
        Self {
            image: words[0] as usize,
            position: words[1] as usize,
            timestep: words[2] as usize,
            alpha: words[3],
            sigma: words[4],
            weight: words[5],
            without_neighbours: words[6] != 0.0,
            thumbnail_deviation: words[7],
            key: [words[8] as u32, words[9] as u32],
        }
    }
}

/// A number as the float that is it.
pub(super) fn exact(n: usize) -> f32 {
    assert!(n < Subject::MAX_IMAGES, "{n} fits no float");
    n as f32
}

/// Streams of a subject's noise.
pub(super) mod stream {
    /// On the window.
    pub const WINDOW: u32 = 0;
    /// On the coarser level.
    pub const THUMBNAIL: u32 = 1;
    /// In place of neighbours.
    pub const NEIGHBOURS: u32 = 2;
}

/// One batch, NHWC: arrays, or their lengths. Activations but for timesteps, target and weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch<T> {
    /// `[N, h, w, C (+1)]`: noisy values, zero outside the picture; then 1 inside and 0 outside.
    pub noisy: T,
    /// `[N]` timesteps.
    pub timesteps: T,
    /// `[N, positions]` one-hot.
    pub positions: T,
    /// `[N, h, w, k·C]`.
    pub neighbours: T,
    /// `[N, h, w, C]`, the next coarser level, where there are thumbnails; zeros for those.
    pub thumbnail: Option<T>,
    /// `[N, h, w, C]`, where the block drawn before is a condition.
    pub previous: Option<T>,
    /// `[N, block h, block w, C]`: what the network should predict.
    pub target: T,
    /// `[N]` weights of the squared error.
    pub weights: T,
}

impl<T> Batch<T> {
    /// The same of each array.
    pub fn map<U>(&self, mut f: impl FnMut(&T) -> U) -> Batch<U> {
        Batch {
            noisy: f(&self.noisy),
            timesteps: f(&self.timesteps),
            positions: f(&self.positions),
            neighbours: f(&self.neighbours),
            thumbnail: self.thumbnail.as_ref().map(&mut f),
            previous: self.previous.as_ref().map(&mut f),
            target: f(&self.target),
            weights: f(&self.weights),
        }
    }
}

/// Arrays for a batch of `samples`, with unspecified contents.
pub fn alloc<B: Backend>(backend: &B, layout: &Layout, samples: usize) -> Batch<B::Buffer> {
    let lengths = layout.lengths(samples);
    Batch {
        timesteps: backend.alloc_floats(lengths.timesteps),
        target: backend.alloc_floats(lengths.target),
        weights: backend.alloc_floats(lengths.weights),
        noisy: backend.alloc(lengths.noisy),
        positions: backend.alloc(lengths.positions),
        neighbours: backend.alloc(lengths.neighbours),
        thumbnail: lengths.thumbnail.map(|n| backend.alloc(n)),
        previous: lengths.previous.map(|n| backend.alloc(n)),
    }
}

/// Channels of a noisy cell: with a margin, one more says which cells lie inside the picture.
pub fn noisy_channels(grid: &BlockGrid) -> usize {
    grid.latent().channels + usize::from(grid.margin() > 0)
}

/// No cell of the picture.
pub(super) const OUTSIDE: u32 = u32::MAX;

/// Where the cells of windows lie.
#[derive(Debug)]
pub struct Layout {
    /// The grid.
    pub grid: BlockGrid,
    /// What is made of a window.
    pub settings: WindowSettings,
    /// Neighbours stacked in a condition.
    pub neighbours: usize,
    /// For every position and cell of its window the cell of its level, or `u32::MAX` outside the picture.
    pub window: Vec<u32>,
    /// For every position its level.
    pub level_of: Vec<u32>,
    /// The levels.
    pub levels: Vec<Level>,
    /// For every cell of a block its place in the window.
    pub own: Vec<u32>,
    /// Level by level, for every cell the latent's cells under it, in order; see [`Level::under`].
    pub under: Vec<u32>,
    /// Level by level, for every cell the next coarser level's cell over it; see [`Level::over`].
    pub over: Vec<u32>,
}

/// A level of a grid, as a device is told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Level {
    /// Cells of the latent under one of its own.
    pub share: u32,
    /// Where those of its first cell begin in [`Layout::under`].
    pub under: u32,
    /// Where that of its first cell lies in [`Layout::over`]; the coarsest has none.
    pub over: u32,
    /// 1 for the thumbnail, else 0.
    pub is_thumbnail: u32,
}

impl Layout {
    /// That of `set`.
    pub fn new(set: &LatentSet, settings: WindowSettings) -> Self {
        let grid = set.grid;
        let (window, block, margin) = (grid.window(), grid.block(), grid.margin());
        let number = |cell: Option<usize>| cell.map_or(OUTSIDE, |cell| cell as u32);
        let own = |i: usize| (i / block.width + margin) * window.width + i % block.width + margin;
        let (mut levels, mut under, mut over) = (Vec::new(), Vec::new(), Vec::new());
        for level in 0..grid.levels() {
            let cells = grid.level(level).latent().cells();
            levels.push(Level {
                share: (grid.latent().cells() / cells) as u32,
                under: under.len() as u32,
                over: over.len() as u32,
                is_thumbnail: u32::from(grid.is_thumbnail(level)),
            });
            let of_latent = grid.over(grid.finest(), level);
            let mut below = vec![Vec::new(); cells];
            (0..grid.latent().cells()).for_each(|cell| below[of_latent(cell)].push(cell as u32));
            under.extend(below.concat());
            if let Some(coarser) = level.checked_sub(1) {
                over.extend((0..cells).map(grid.over(level, coarser)).map(|cell| cell as u32));
            }
        }
        Self {
            settings,
            neighbours: set.neighbours_per_image,
            window: (0..grid.positions()).flat_map(|p| grid.position_cells(p)).map(number).collect(),
            own: (0..block.cells()).map(|i| own(i) as u32).collect(),
            level_of: (0..grid.positions()).map(|p| grid.locate(p).0 as u32).collect(),
            levels,
            under,
            over,
            grid,
        }
    }

    /// Channels of a noisy cell.
    pub fn noisy_channels(&self) -> usize {
        noisy_channels(&self.grid)
    }

    /// The position of the block drawn before that at `position`; none for the first and above the latent.
    pub fn position_before(&self, position: usize) -> Option<usize> {
        let before = self.grid.block_at(position)?.checked_sub(1)?;
        Some(self.grid.position_of(before))
    }

    /// Lengths of the arrays of a batch.
    pub fn lengths(&self, samples: usize) -> Batch<usize> {
        let (cells, c) = (samples * self.grid.window().cells(), self.grid.latent().channels);
        Batch {
            noisy: cells * self.noisy_channels(),
            timesteps: samples,
            positions: samples * self.grid.positions(),
            neighbours: cells * self.neighbours * c,
            thumbnail: self.grid.has_thumbnail().then_some(cells * c),
            previous: self.settings.previous_block.then_some(cells * c),
            target: samples * self.grid.block().len(),
            weights: samples,
        }
    }
}
