//! Windows of latents that lie on the device.

use rissole::bundle::manifest::{NeighbourSource, Prediction};

use super::super::windows::{Batch, LatentSet, Layout, OUTSIDE, WindowSettings};
use super::memory::Buffer;
use super::{Cuda, arguments};

/// A set's arrays and its layout, on the device.
#[derive(Debug)]
pub struct Latents {
    /// The layout.
    pub layout: Layout,
    codebook: Buffer,
    codes: Buffer,
    thumbnail_codebook: Buffer,
    thumbnail_codes: Buffer,
    neighbours: Buffer,
    window: Buffer,
    level_of: Buffer,
    levels: Buffer,
    own: Buffer,
    under: Buffer,
    over: Buffer,
    /// Position of the block drawn before, for each position.
    before: Buffer,
}

impl Cuda {
    /// See [`Backend::latents`](super::super::Backend::latents).
    pub(super) fn upload_latents(&self, set: &LatentSet, settings: WindowSettings) -> Latents {
        let layout = Layout::new(set, settings);
        let number = |position: Option<usize>| position.map_or(OUTSIDE, |p| p as u32);
        let before: Vec<u32> = (0..layout.grid.positions()).map(|p| number(layout.position_before(p))).collect();
        Latents {
            codebook: self.upload_words(&set.codebook),
            codes: self.upload_words(&set.codes),
            thumbnail_codebook: self.upload_words(&set.thumbnail_codebook),
            thumbnail_codes: self.upload_words(&set.thumbnail_codes),
            neighbours: self.upload_words(&set.neighbours),
            window: self.upload_words(&layout.window),
            level_of: self.upload_words(&layout.level_of),
            levels: self.upload_words(&layout.levels),
            own: self.upload_words(&layout.own),
            under: self.upload_words(&layout.under),
            over: self.upload_words(&layout.over),
            before: self.upload_words(&before),
            layout,
        }
    }

    /// See [`Backend::draw`](super::super::Backend::draw).
    pub(super) fn draw_windows(&self, latents: &Latents, subjects: &Buffer, batch: &mut Batch<Buffer>) {
        let Latents { layout, codebook, codes, window, level_of, levels, under, over, .. } = latents;
        let grid = &layout.grid;
        let (cells, channels) = (grid.window().cells(), grid.latent().channels);
        let (latent_cells, block_cells) = (grid.latent().cells(), grid.block().cells());
        let k = layout.neighbours;

        let flag = layout.noisy_channels() - channels;
        let sizes = arguments![cells, channels, flag, latent_cells];
        let arrays = arguments![subjects, window, level_of, levels, under, codes, codebook, batch.noisy];
        self.each("draw_noisy", batch.noisy.len(), &[&sizes[..], &arrays].concat());

        let v = layout.settings.prediction == Prediction::V;
        let sizes = arguments![block_cells, cells, channels, v, latent_cells];
        let arrays = arguments![subjects, window, latents.own, level_of, levels, under, codes, codebook, batch.target];
        self.each("draw_target", batch.target.len(), &[&sizes[..], &arrays].concat());

        let n = batch.neighbours.len();
        match layout.settings.source {
            NeighbourSource::Noise => {
                let arguments = arguments![cells, k * channels, subjects, window, batch.neighbours];
                self.each("draw_neighbour_noise", n, &arguments);
            }
            NeighbourSource::Database => {
                let sizes = arguments![cells, channels, k, latent_cells, block_cells];
                let own = arguments![subjects, window, level_of, levels, under, latents.neighbours, codes, codebook];
                let others = arguments![latents.thumbnail_codes, latents.thumbnail_codebook, batch.neighbours];
                self.each("draw_neighbours", n, &[&sizes[..], &own, &others].concat());
            }
        }
        if let Some(thumbnail) = &batch.thumbnail {
            let sizes = arguments![cells, channels, latent_cells];
            let arrays = arguments![subjects, window, level_of, levels, under, over, codes, codebook, thumbnail];
            self.each("draw_thumbnail", thumbnail.len(), &[&sizes[..], &arrays].concat());
        }
        if let Some(previous) = &batch.previous {
            let sizes = arguments![cells, channels, latent_cells];
            let arrays = arguments![subjects, window, latents.before, codes, codebook, previous];
            self.each("draw_previous", previous.len(), &[&sizes[..], &arrays].concat());
        }
        let arguments = arguments![grid.positions(), subjects, batch.timesteps, batch.weights, batch.positions];
        self.each("draw_scalars", batch.positions.len(), &arguments);
    }

    /// Values of another type than float, as they are.
    pub(super) fn upload_words<T: bytemuck::Pod>(&self, values: &[T]) -> Buffer {
        let buffer = self.scratch(std::mem::size_of_val(values).div_ceil(size_of::<f32>()));
        if !values.is_empty() {
            self.run(|device| device.upload(values, buffer.address()));
        }
        buffer
    }
}
