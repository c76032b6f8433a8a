//! Training latents as codes, and the batches of windows that the denoiser trains on.

use std::ops::Range;

use rayon::prelude::*;
use rissole::BlockGrid;
use rissole::bundle::manifest::{NeighbourSource, Prediction};

use crate::random::Random;

/// Everything about the training pictures that a batch is made of. Codebooks hold scaled values.
#[derive(Debug)]
pub struct LatentSet {
    /// Blocks, margin and thumbnail.
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
    /// `images` pictures of random codes from a random codebook of `entries`, without thumbnails and without
    /// neighbours: for training that is timed or compared, where the neighbour input is noise.
    pub fn random(grid: BlockGrid, entries: usize, images: usize, neighbours: usize, random: &mut Random) -> Self {
        let latent = grid.latent();
        let mut codebook = vec![0.0; entries * latent.channels];
        random.fill_normal(&mut codebook);
        Self {
            grid,
            codebook,
            codes: (0..images * latent.cells()).map(|_| random.below(entries) as u16).collect(),
            thumbnail_codebook: Vec::new(),
            thumbnail_codes: Vec::new(),
            neighbours: Vec::new(),
            neighbours_per_image: neighbours,
        }
    }

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

    /// Scaled values of one cell of a picture's latent.
    fn cell(&self, image: usize, cell: usize) -> &[f32] {
        entry(&self.codebook, self.codes[image * self.grid.latent().cells() + cell], self.grid.latent().channels)
    }

    /// The true thumbnail of a picture, `h·w × C`, scaled: the average of its cells.
    pub fn thumbnail(&self, image: usize) -> Vec<f32> {
        let (block, c) = (self.grid.block(), self.grid.latent().channels);
        let mut out = vec![0.0; block.len()];
        let share = 1.0 / self.grid.blocks() as f32;
        for cell in 0..self.grid.latent().cells() {
            let to = &mut out[self.grid.thumbnail_cell_over(cell) * c..][..c];
            to.iter_mut().zip(self.cell(image, cell)).for_each(|(to, v)| *to += share * v);
        }
        out
    }
}

fn entry(codebook: &[f32], code: u16, channels: usize) -> &[f32] {
    &codebook[usize::from(code) * channels..][..channels]
}

/// How batches are drawn.
#[derive(Debug, Clone, Copy)]
pub struct BatchSettings<'a> {
    /// ᾱ for each timestep.
    pub alphas: &'a [f64],
    /// What the network predicts.
    pub prediction: Prediction,
    /// Cap γ of the min-SNR weight (Hang et al. 2023); none: every timestep counts the same in the loss on the
    /// predicted quantity.
    pub min_snr: Option<f64>,
    /// Share of samples that are thumbnails, where there are thumbnails.
    pub thumbnail_share: f32,
    /// Largest standard deviation of the noise on the thumbnail that conditions a block.
    pub thumbnail_noise: f32,
    /// What fills the neighbour input.
    pub source: NeighbourSource,
    /// Share of samples without neighbours, zeros in their place: what guidance at sampling leads away from (Ho & Salimans
    /// 2022, algorithm 1).
    pub neighbour_dropout: f32,
    /// Whether the block drawn before is a condition.
    pub previous_block: bool,
}

/// One batch, NHWC. Fields that the variant lacks are empty.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Batch {
    /// `[N, h, w, C (+1)]`: noisy values, zero outside the picture; then 1 inside and 0 outside.
    pub noisy: Vec<f32>,
    /// `[N]` timesteps.
    pub timesteps: Vec<f32>,
    /// `[N, positions]` one-hot.
    pub positions: Vec<f32>,
    /// `[N, h, w, k·C]`.
    pub neighbours: Vec<f32>,
    /// `[N, h, w, C]`.
    pub thumbnail: Vec<f32>,
    /// `[N, h, w, C]`.
    pub previous: Vec<f32>,
    /// `[N, block h, block w, C]`: what the network should predict.
    pub target: Vec<f32>,
    /// `[N]` weights of the squared error.
    pub weights: Vec<f32>,
}

impl Batch {
    /// Adds the samples of `other` after these.
    pub(super) fn append(&mut self, other: Self) {
        self.noisy.extend(other.noisy);
        self.timesteps.extend(other.timesteps);
        self.positions.extend(other.positions);
        self.neighbours.extend(other.neighbours);
        self.thumbnail.extend(other.thumbnail);
        self.previous.extend(other.previous);
        self.target.extend(other.target);
        self.weights.extend(other.weights);
    }
}

/// What one sample is about.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    image: usize,
    position: usize,
    pub(super) timestep: usize,
    /// The picture's thumbnail; empty where the grid has none.
    thumbnail: Vec<f32>,
    /// Clean values of the window.
    clean: Vec<f32>,
    /// Noise of the window.
    noise: Vec<f32>,
}

/// Draws batches of windows from a set.
#[derive(Debug)]
pub struct Sampler<'a> {
    set: &'a LatentSet,
    settings: BatchSettings<'a>,
    /// The part of each batch that is drawn; none: all of it.
    share: Option<Range<usize>>,
    /// Cells of the window at each position.
    cells: Vec<Vec<Option<usize>>>,
    /// Indices within a window of the block's own cells.
    own: Vec<usize>,
}

impl<'a> Sampler<'a> {
    /// Over `set`.
    pub fn new(set: &'a LatentSet, settings: BatchSettings<'a>) -> Self {
        let grid = &set.grid;
        let (window, block, margin) = (grid.window(), grid.block(), grid.margin());
        let own =
            (0..block.cells()).map(|i| (i / block.width + margin) * window.width + i % block.width + margin).collect();
        let cells = (0..grid.positions()).map(|p| grid.position_cells(p)).collect();
        Self { set, settings, share: None, cells, own }
    }

    /// The same, drawing only the samples `share` of each batch. The random state goes on as if all were drawn.
    pub fn drawing(self, share: Range<usize>) -> Self {
        Self { share: Some(share), ..self }
    }

    /// `count` samples. Each has a generator of its own, so the batch does not depend on threads.
    pub fn draw(&self, count: usize, random: &mut Random) -> Batch {
        let mut batch = Batch::default();
        self.each(count, random, |random| self.sample(random)).into_iter().for_each(|sample| batch.append(sample));
        batch
    }

    /// `count` samples, in parallel, each with a generator of its own.
    pub(super) fn each<T: Send>(
        &self,
        count: usize,
        random: &mut Random,
        sample: impl Fn(&mut Random) -> T + Sync,
    ) -> Vec<T> {
        let seeds: Vec<u64> = (0..count).map(|_| random.next_u64()).collect();
        let seeds = self.share.as_ref().map_or(seeds.as_slice(), |share| &seeds[share.clone()]);
        seeds.par_iter().map(|&seed| sample(&mut Random::new(seed))).collect()
    }

    /// Timesteps T.
    pub(super) fn timesteps(&self) -> usize {
        self.settings.alphas.len()
    }

    /// α and σ of a timestep.
    pub(super) fn level(&self, timestep: usize) -> (f32, f32) {
        let alpha_cumprod = self.settings.alphas[timestep];
        (alpha_cumprod.sqrt() as f32, (1.0 - alpha_cumprod).sqrt() as f32)
    }

    /// The noisy values of the blocks' own cells, without their surroundings, each with its timestep.
    pub(super) fn block_values<'b>(&'b self, batch: &'b Batch) -> impl Iterator<Item = (f32, usize)> + 'b {
        let (c, cells) = (self.set.grid.latent().channels, self.set.grid.window().cells());
        let channels = batch.noisy.len() / (batch.timesteps.len() * cells);
        batch.noisy.chunks_exact(cells * channels).zip(&batch.timesteps).flat_map(move |(window, &t)| {
            let own = self.own.iter().flat_map(move |&i| &window[i * channels..][..c]);
            own.map(move |&x| (x, t as usize))
        })
    }

    fn draw_position(&self, random: &mut Random) -> usize {
        let grid = &self.set.grid;
        if grid.has_thumbnail() && random.uniform() < self.settings.thumbnail_share {
            return 0;
        }
        grid.position_of(random.below(grid.blocks()))
    }

    fn sample(&self, random: &mut Random) -> Batch {
        let subject = self.subject(random);
        self.batch_of(&subject, random)
    }

    pub(super) fn subject(&self, random: &mut Random) -> Subject {
        let grid = &self.set.grid;
        let image = random.below(self.set.images());
        let position = self.draw_position(random);
        let timestep = random.below(self.timesteps());
        let thumbnail = if grid.has_thumbnail() { self.set.thumbnail(image) } else { Vec::new() };
        let clean = self.clean_window(image, position, &thumbnail);
        let mut noise = vec![0.0; clean.len()];
        random.fill_normal(&mut noise);
        Subject { image, position, timestep, thumbnail, clean, noise }
    }

    /// The batch of one sample; `random` draws its conditions.
    pub(super) fn batch_of(&self, subject: &Subject, random: &mut Random) -> Batch {
        let &Subject { image, position, timestep, ref thumbnail, .. } = subject;
        let (noisy, target) = self.noised(subject);
        let mut positions = vec![0.0; self.set.grid.positions()];
        positions[position] = 1.0;
        Batch {
            noisy,
            timesteps: vec![timestep as f32],
            positions,
            neighbours: self.neighbour_window(image, position, random),
            thumbnail: self.thumbnail_window(position, thumbnail, random),
            previous: self.previous_window(image, position),
            target,
            weights: vec![self.weight(self.settings.alphas[timestep]) as f32],
        }
    }

    /// The noisy window and what the network should predict of it.
    pub(super) fn noised(&self, subject: &Subject) -> (Vec<f32>, Vec<f32>) {
        let Subject { position, timestep, clean, noise, .. } = subject;
        let (alpha, sigma) = self.level(*timestep);
        (self.noisy_window(*position, clean, noise, alpha, sigma), self.target(clean, noise, alpha, sigma))
    }

    /// The clean values of a window, zero outside the picture.
    fn clean_window(&self, image: usize, position: usize, thumbnail: &[f32]) -> Vec<f32> {
        let c = self.set.grid.latent().channels;
        let is_thumbnail = self.set.grid.block_at(position).is_none();
        self.window(position, c, |cell, out| {
            out.copy_from_slice(if is_thumbnail { &thumbnail[cell * c..][..c] } else { self.set.cell(image, cell) });
        })
    }

    /// Fills a window of `channels` cell by cell; cells outside the picture stay zero.
    fn window(&self, position: usize, channels: usize, mut fill: impl FnMut(usize, &mut [f32])) -> Vec<f32> {
        let cells = &self.cells[position];
        let mut out = vec![0.0; cells.len() * channels];
        for (cell, out) in cells.iter().zip(out.chunks_exact_mut(channels)) {
            if let Some(cell) = *cell {
                fill(cell, out);
            }
        }
        out
    }

    fn noisy_window(&self, position: usize, clean: &[f32], noise: &[f32], alpha: f32, sigma: f32) -> Vec<f32> {
        let c = self.set.grid.latent().channels;
        let channels = c + usize::from(self.set.grid.margin() > 0);
        let mut out = vec![0.0; self.cells[position].len() * channels];
        let values = clean.chunks_exact(c).zip(noise.chunks_exact(c));
        for ((cell, out), (clean, noise)) in self.cells[position].iter().zip(out.chunks_exact_mut(channels)).zip(values)
        {
            if cell.is_some() {
                out.fill(1.0);
                out.iter_mut().zip(clean.iter().zip(noise)).for_each(|(o, (x, e))| *o = alpha * x + sigma * e);
            }
        }
        out
    }

    fn neighbour_window(&self, image: usize, position: usize, random: &mut Random) -> Vec<f32> {
        let set = self.set;
        let (c, k) = (set.grid.latent().channels, set.neighbours_per_image);
        if self.settings.source == NeighbourSource::Noise {
            return self.window(position, k * c, |_, out| random.fill_normal(out));
        }
        // Nothing is drawn where nothing is dropped: such training goes as it went before there was dropout.
        if self.settings.neighbour_dropout > 0.0 && random.uniform() < self.settings.neighbour_dropout {
            return vec![0.0; self.cells[position].len() * k * c];
        }
        let neighbours = &set.neighbours[image * k..][..k];
        let block_cells = set.grid.block().cells();
        let is_thumbnail = set.grid.block_at(position).is_none();
        self.window(position, k * c, |cell, out| {
            for (&neighbour, out) in neighbours.iter().zip(out.chunks_exact_mut(c)) {
                let neighbour = neighbour as usize;
                out.copy_from_slice(if is_thumbnail {
                    entry(&set.thumbnail_codebook, set.thumbnail_codes[neighbour * block_cells + cell], c)
                } else {
                    set.cell(neighbour, cell)
                });
            }
        })
    }

    fn thumbnail_window(&self, position: usize, thumbnail: &[f32], random: &mut Random) -> Vec<f32> {
        let grid = &self.set.grid;
        let c = grid.latent().channels;
        if thumbnail.is_empty() {
            return Vec::new();
        }
        if grid.block_at(position).is_none() {
            return vec![0.0; self.cells[position].len() * c];
        }
        // The sampled thumbnail will not be perfect: train with one that is not.
        let deviation = self.settings.thumbnail_noise * random.uniform();
        let mut noise = vec![0.0; thumbnail.len()];
        random.fill_normal(&mut noise);
        self.window(position, c, |cell, out| {
            let over = grid.thumbnail_cell_over(cell) * c;
            for (i, out) in out.iter_mut().enumerate() {
                *out = thumbnail[over + i] + deviation * noise[over + i];
            }
        })
    }

    fn previous_window(&self, image: usize, position: usize) -> Vec<f32> {
        if !self.settings.previous_block {
            return Vec::new();
        }
        let grid = &self.set.grid;
        let c = grid.latent().channels;
        match grid.block_at(position).and_then(|block| block.checked_sub(1)) {
            Some(before) => self.window(grid.position_of(before), c, |cell, out| {
                out.copy_from_slice(self.set.cell(image, cell));
            }),
            None => vec![0.0; self.cells[position].len() * c],
        }
    }

    fn target(&self, clean: &[f32], noise: &[f32], alpha: f32, sigma: f32) -> Vec<f32> {
        let c = self.set.grid.latent().channels;
        let values = self.own.iter().flat_map(|&i| i * c..(i + 1) * c);
        match self.settings.prediction {
            Prediction::Epsilon => values.map(|i| noise[i]).collect(),
            Prediction::V => values.map(|i| alpha * noise[i] - sigma * clean[i]).collect(),
        }
    }

    /// min-SNR: min(SNR, γ) on the error of x₀, expressed on the error of what is predicted.
    fn weight(&self, alpha: f64) -> f64 {
        let Some(cap) = self.settings.min_snr else { return 1.0 };
        let snr = alpha / (1.0 - alpha).max(1e-12);
        match self.settings.prediction {
            Prediction::Epsilon => snr.min(cap) / snr.max(1e-12),
            Prediction::V => snr.min(cap) / (snr + 1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rissole::LatentShape;

    const IMAGES: usize = 3;

    fn set(thumbnail: bool, margin: usize) -> LatentSet {
        let latent = LatentShape { channels: 2, height: 4, width: 4 };
        let grid = BlockGrid::new(latent, 2, 2, thumbnail, margin).unwrap();
        let mut random = Random::new(1);
        let mut codes = |n: usize| (0..n).map(|_| random.below(5) as u16).collect::<Vec<_>>();
        LatentSet {
            grid,
            codes: codes(IMAGES * 16),
            thumbnail_codes: codes(IMAGES * 4),
            codebook: (0..10).map(|v| v as f32).collect(),
            thumbnail_codebook: (0..10).map(|v| 100.0 + v as f32).collect(),
            neighbours: vec![1, 2, 0, 2, 1, 0],
            neighbours_per_image: 2,
        }
    }

    fn settings(alphas: &[f64]) -> BatchSettings<'_> {
        BatchSettings {
            alphas,
            prediction: Prediction::V,
            min_snr: Some(5.0),
            thumbnail_share: 0.3,
            thumbnail_noise: 0.0,
            source: NeighbourSource::Database,
            neighbour_dropout: 0.0,
            previous_block: false,
        }
    }

    #[test]
    fn without_noise_a_window_is_the_latent_and_its_neighbours() {
        let mut random = Random::new(2);
        let mut codes = |n: usize| (0..n).map(|_| random.below(5) as u16).collect::<Vec<_>>();
        let mirrored = set(true, 1).with_mirrored(codes(IMAGES * 16), codes(IMAGES * 4));
        windows_are_latents_and_neighbours(&set(true, 1));
        windows_are_latents_and_neighbours(&mirrored);
    }

    /// Those of a picture from the second half of a set with mirrored ones are of that half.
    fn windows_are_latents_and_neighbours(set: &LatentSet) {
        let sampler = Sampler::new(set, settings(&[1.0 - 1e-15]));
        for seed in 0..40 {
            let mut random = Random::new(seed);
            let image = random.clone().below(set.images());
            let sample = sampler.sample(&mut random);
            let position = sample.positions.iter().position(|&p| p == 1.0).unwrap();
            let thumbnail = set.thumbnail(image);
            for (i, cell) in set.grid.position_cells(position).into_iter().enumerate() {
                let noisy = &sample.noisy[i * 3..][..3];
                let near = &sample.neighbours[i * 4..][..4];
                let Some(cell) = cell else {
                    assert_eq!((noisy, near), ([0.0; 3].as_slice(), [0.0; 4].as_slice()));
                    continue;
                };
                assert_eq!(noisy[2], 1.0);
                let first = set.neighbours[image % IMAGES * 2] as usize + image / IMAGES * IMAGES;
                let (value, neighbour) = match position {
                    0 => (&thumbnail[cell * 2..][..2], 100.0 + 2.0 * f32::from(set.thumbnail_codes[first * 4 + cell])),
                    _ => (set.cell(image, cell), 2.0 * f32::from(set.codes[first * 16 + cell])),
                };
                assert!((noisy[0] - value[0]).abs() < 1e-3 && (noisy[1] - value[1]).abs() < 1e-3);
                assert_eq!(near[0], neighbour);
                let over = set.grid.thumbnail_cell_over(cell) * 2;
                let expected = if position == 0 { 0.0 } else { thumbnail[over] };
                assert_eq!(sample.thumbnail[i * 2], expected);
            }
        }
    }

    #[test]
    fn targets_and_noisy_values_give_the_clean_block_back() {
        let set = set(false, 0);
        let alphas = [0.3];
        for prediction in [Prediction::V, Prediction::Epsilon] {
            let sampler = Sampler::new(&set, BatchSettings { prediction, ..settings(&alphas) });
            let mut random = Random::new(4);
            let image = random.clone().below(3);
            let s = sampler.sample(&mut random);
            let block = s.positions.iter().position(|&p| p == 1.0).unwrap();
            let (signal, noise) = (0.3f32.sqrt(), 0.7f32.sqrt());
            for (i, cell) in set.grid.window_cells(block).flatten().enumerate() {
                let (x, target) = (s.noisy[i * 2], s.target[i * 2]);
                let clean = match prediction {
                    Prediction::V => signal * x - noise * target,
                    Prediction::Epsilon => (x - noise * target) / signal,
                };
                assert!((clean - set.cell(image, cell)[0]).abs() < 1e-3);
            }
        }
    }

    #[test]
    fn min_snr_weights_agree_between_predictions() {
        let (set, alphas) = (set(false, 0), [0.5]);
        let weight =
            |prediction, alpha| Sampler::new(&set, BatchSettings { prediction, ..settings(&alphas) }).weight(alpha);
        // At one error of x₀, the error of ε is √SNR times and that of v is 1/√(1−ᾱ) times as large.
        for alpha in [0.01, 0.5, 0.99] {
            let snr = alpha / (1.0 - alpha);
            let (e, v) = (weight(Prediction::Epsilon, alpha) * snr, weight(Prediction::V, alpha) / (1.0 - alpha));
            assert!((e - v).abs() < 1e-9, "{e} {v}");
        }
    }

    #[test]
    fn neighbours_are_dropped_whole_and_as_often_as_said() {
        let (set, alphas) = (set(true, 1), [0.9, 0.5, 0.1]);
        let draw = |neighbour_dropout| {
            let settings = BatchSettings { neighbour_dropout, ..settings(&alphas) };
            Sampler::new(&set, settings).draw(2_000, &mut Random::new(6))
        };
        let [never, sometimes, always] = [0.0, 0.2, 1.0].map(draw);
        let of_a_sample = never.neighbours.len() / 2_000;
        let is_dropped = |neighbours: &[f32]| neighbours.iter().all(|&v| v == 0.0);
        let dropped = sometimes.neighbours.chunks(of_a_sample).filter(|found| is_dropped(found)).count();
        assert!((340..460).contains(&dropped), "{dropped}");
        assert!(is_dropped(&always.neighbours) && always.neighbours.len() == never.neighbours.len());
        let mut samples = never.neighbours.chunks(of_a_sample).zip(sometimes.neighbours.chunks(of_a_sample));
        assert!(samples.all(|(whole, found)| found == whole || is_dropped(found)));
        // What the network predicts and from what else stays.
        assert_eq!((&never.noisy, &never.target), (&always.noisy, &always.target));
        assert!(always.thumbnail.iter().any(|&v| v != 0.0));
    }

    #[test]
    fn a_batch_is_the_same_for_any_number_of_threads() {
        let set = set(true, 1);
        let alphas = [0.9, 0.5, 0.1];
        let sampler = Sampler::new(&set, settings(&alphas));
        let draw = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| sampler.draw(9, &mut Random::new(5)))
        };
        assert_eq!(draw(1), draw(3));
    }
}
