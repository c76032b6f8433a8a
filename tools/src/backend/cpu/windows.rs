//! Windows of latents.

use rayon::prelude::*;
use rissole::bundle::manifest::{NeighbourSource, Prediction};

use super::super::philox::fill_normal;
use super::super::windows::{Batch, LatentSet, Layout, Level, OUTSIDE, Subject, WindowSettings, stream};

/// A set with its layout.
#[derive(Debug)]
pub struct Latents {
    set: LatentSet,
    layout: Layout,
}

impl Latents {
    /// Of `set`.
    pub fn new(set: LatentSet, settings: WindowSettings) -> Self {
        Self { layout: Layout::new(&set, settings), set }
    }

    /// The layout.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// See [`Backend::draw`](super::super::Backend::draw).
    pub fn draw(&self, words: &[f32], batch: &mut Batch<Vec<f32>>) {
        let subjects: Vec<Subject> = words.chunks_exact(Subject::WORDS).map(Subject::read).collect();
        let each = |out: &mut Vec<f32>, fill: &(dyn Fn(&Subject, &mut [f32]) + Sync)| {
            let of_a_sample = out.len() / subjects.len().max(1);
            if of_a_sample > 0 {
                out.par_chunks_exact_mut(of_a_sample).zip(&subjects).for_each(|(out, subject)| fill(subject, out));
            }
        };
        each(&mut batch.noisy, &|s, out| self.noisy(s, out));
        each(&mut batch.timesteps, &|s, out| out[0] = s.timestep as f32);
        each(&mut batch.positions, &|s, out| {
            out.fill(0.0);
            out[s.position] = 1.0;
        });
        each(&mut batch.neighbours, &|s, out| self.neighbours(s, out));
        if let Some(thumbnail) = &mut batch.thumbnail {
            each(thumbnail, &|s, out| self.thumbnail(s, out));
        }
        if let Some(previous) = &mut batch.previous {
            each(previous, &|s, out| self.previous(s, out));
        }
        each(&mut batch.target, &|s, out| self.target(s, out));
        each(&mut batch.weights, &|s, out| out[0] = s.weight);
    }

    fn channels(&self) -> usize {
        self.set.grid.latent().channels
    }

    /// Cells of the window at a position.
    fn window(&self, position: usize) -> &[u32] {
        let cells = self.set.grid.window().cells();
        &self.layout.window[position * cells..][..cells]
    }

    /// Values of one cell of a picture's latent.
    fn cell(&self, image: usize, cell: usize) -> &[f32] {
        let code = self.set.codes[image * self.set.grid.latent().cells() + cell];
        entry(&self.set.codebook, code, self.channels())
    }

    /// The level of a position.
    fn level(&self, position: usize) -> usize {
        self.layout.level_of[position] as usize
    }

    /// Value of one cell of a level: the average of the picture's cells under it.
    fn value(&self, level: usize, image: usize, cell: usize, channel: usize) -> f32 {
        let Level { share, under, .. } = self.layout.levels[level];
        if share == 1 {
            return self.cell(image, cell)[channel];
        }
        let (count, under) = (share as usize, under as usize);
        let under = &self.layout.under[under + cell * count..][..count];
        under.iter().map(|&cell| 1.0 / share as f32 * self.cell(image, cell as usize)[channel]).sum()
    }

    /// Clean value of a cell of the window that is within the picture.
    fn clean(&self, s: &Subject, cell: u32, channel: usize) -> f32 {
        self.value(self.level(s.position), s.image, cell as usize, channel)
    }

    fn window_noise(&self, s: &Subject) -> Vec<f32> {
        let mut noise = vec![0.0; self.set.grid.window().cells() * self.channels()];
        fill_normal(s.key, stream::WINDOW, &mut noise);
        noise
    }

    fn noisy(&self, s: &Subject, out: &mut [f32]) {
        let noise = self.window_noise(s);
        let cells = self.window(s.position).iter().zip(noise.chunks_exact(self.channels()));
        for ((&cell, noise), out) in cells.zip(out.chunks_exact_mut(self.layout.noisy_channels())) {
            out.fill(if cell == OUTSIDE { 0.0 } else { 1.0 });
            if cell != OUTSIDE {
                for (channel, (out, noise)) in out.iter_mut().zip(noise).enumerate() {
                    *out = s.alpha * self.clean(s, cell, channel) + s.sigma * noise;
                }
            }
        }
    }

    fn target(&self, s: &Subject, out: &mut [f32]) {
        let (noise, window, c) = (self.window_noise(s), self.window(s.position), self.channels());
        for (&place, out) in self.layout.own.iter().zip(out.chunks_exact_mut(c)) {
            let place = place as usize;
            for (channel, out) in out.iter_mut().enumerate() {
                let noise = noise[place * c + channel];
                *out = match self.layout.settings.prediction {
                    Prediction::Epsilon => noise,
                    Prediction::V => s.alpha * noise - s.sigma * self.clean(s, window[place], channel),
                };
            }
        }
    }

    /// Fills a window of `channels` cell by cell; cells outside the picture are zero.
    fn fill(&self, position: usize, channels: usize, out: &mut [f32], mut cell: impl FnMut(usize, &mut [f32])) {
        for (&at, out) in self.window(position).iter().zip(out.chunks_exact_mut(channels)) {
            match at {
                OUTSIDE => out.fill(0.0),
                at => cell(at as usize, out),
            }
        }
    }

    fn neighbours(&self, s: &Subject, out: &mut [f32]) {
        let (c, k, set) = (self.channels(), self.layout.neighbours, &self.set);
        if self.layout.settings.source == NeighbourSource::Noise {
            fill_normal(s.key, stream::NEIGHBOURS, out);
            let outside = self.window(s.position).iter().zip(out.chunks_exact_mut(k * c));
            return outside.filter(|(cell, _)| **cell == OUTSIDE).for_each(|(_, out)| out.fill(0.0));
        }
        if s.without_neighbours {
            return out.fill(0.0);
        }
        let neighbours = &set.neighbours[s.image * k..][..k];
        let (block_cells, level) = (set.grid.block().cells(), self.level(s.position));
        let is_thumbnail = set.grid.is_thumbnail(level);
        self.fill(s.position, k * c, out, |cell, out| {
            for (&neighbour, out) in neighbours.iter().zip(out.chunks_exact_mut(c)) {
                let neighbour = neighbour as usize;
                if is_thumbnail {
                    let code = set.thumbnail_codes[neighbour * block_cells + cell];
                    out.copy_from_slice(entry(&set.thumbnail_codebook, code, c));
                } else {
                    let value = |channel| self.value(level, neighbour, cell, channel);
                    out.iter_mut().enumerate().for_each(|(channel, out)| *out = value(channel));
                }
            }
        });
    }

    fn thumbnail(&self, s: &Subject, out: &mut [f32]) {
        let level = self.level(s.position);
        let Some(coarser) = level.checked_sub(1) else { return out.fill(0.0) };
        let c = self.channels();
        // The sampled level will not be perfect: train with one that is not.
        let mut noise = vec![0.0; self.set.grid.level(coarser).latent().len()];
        fill_normal(s.key, stream::THUMBNAIL, &mut noise);
        let over = &self.layout.over[self.layout.levels[level].over as usize..];
        self.fill(s.position, c, out, |cell, out| {
            let over = over[cell] as usize;
            for (channel, out) in out.iter_mut().enumerate() {
                let noise = noise[over * c + channel];
                *out = self.value(coarser, s.image, over, channel) + s.thumbnail_deviation * noise;
            }
        });
    }

    fn previous(&self, s: &Subject, out: &mut [f32]) {
        match self.layout.position_before(s.position) {
            Some(before) => self.fill(before, self.channels(), out, |cell, out| {
                out.copy_from_slice(self.cell(s.image, cell));
            }),
            None => out.fill(0.0),
        }
    }
}

fn entry(codebook: &[f32], code: u16, channels: usize) -> &[f32] {
    &codebook[usize::from(code) * channels..][..channels]
}
