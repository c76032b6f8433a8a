//! The generator against a slow walk written from the description of the method, cell by cell.

mod common;

use common::{TempDir, bundle, manifest, pyramid, pyramid_of, unquantized};
use rissole::bundle::manifest::{Coherence, NeighbourSource, Prediction, SamplerKind};
use rissole::diffusion::{Noise, Sampler, SamplerState, Schedule, Stream};
use rissole::generator::{Generator, Options, Query};
use rissole::network::Network;
use rissole::store::BlockDatabase;
use rissole::{Bundle, LatentShape, Manifest};

const SEED: u64 = 21;

/// A C×H×W array read by coordinates; zero outside.
#[derive(Clone)]
struct Planes {
    shape: LatentShape,
    values: Vec<f32>,
}

impl Planes {
    fn new(shape: LatentShape) -> Self {
        Self { shape, values: vec![0.0; shape.len()] }
    }

    fn get(&self, c: usize, y: i64, x: i64) -> f32 {
        if self.inside(y, x) { self.values[self.index(c, y as usize, x as usize)] } else { 0.0 }
    }

    fn inside(&self, y: i64, x: i64) -> bool {
        (0..self.shape.height as i64).contains(&y) && (0..self.shape.width as i64).contains(&x)
    }

    fn index(&self, c: usize, y: usize, x: usize) -> usize {
        (c * self.shape.height + y) * self.shape.width + x
    }
}

struct Walk<'a> {
    bundle: &'a Bundle,
    coherence: Coherence,
    block: LatentShape,
    database: BlockDatabase,
    neighbours: Vec<u32>,
    conditioner: Network,
    denoiser: Network,
    sampler: Sampler,
    guidance: f32,
    /// Coarse to fine, scaled: the thumbnail where there is one, what is between, the latent.
    levels: Vec<Planes>,
}

impl Walk<'_> {
    fn scale(&self) -> f32 {
        self.bundle.manifest.latent.scale
    }

    fn latent(&self) -> &Planes {
        self.levels.last().unwrap()
    }

    fn blocks(&self, level: usize) -> usize {
        self.levels[level].shape.cells() / self.block.cells()
    }

    /// The level at `position`, and the row and column in it where the block begins.
    fn place(&self, mut position: usize) -> (usize, (i64, i64)) {
        let mut level = 0;
        while position >= self.blocks(level) {
            position -= self.blocks(level);
            level += 1;
        }
        let cols = self.levels[level].shape.width / self.block.width;
        (level, ((position / cols * self.block.height) as i64, (position % cols * self.block.width) as i64))
    }

    /// `read(c, y, x)` over the window at `position`, y and x in cells of its level.
    fn window(&self, position: usize, channels: usize, read: impl Fn(usize, i64, i64) -> f32) -> Vec<f32> {
        let margin = self.coherence.margin as i64;
        let (_, (row, col)) = self.place(position);
        let mut out = vec![];
        for c in 0..channels {
            for y in -margin..self.block.height as i64 + margin {
                for x in -margin..self.block.width as i64 + margin {
                    out.push(read(c, row + y, col + x));
                }
            }
        }
        out
    }

    /// What `image` has at `level`: its thumbnail, or its whole latent averaged down to that. Unscaled.
    fn of_database(&self, image: u32, level: usize) -> Planes {
        let mut values = vec![0.0; self.block.len()];
        if self.coherence.thumbnail && level == 0 {
            self.database.read_block(image, 0, &mut values).unwrap();
            return Planes { shape: self.block, values };
        }
        let mut whole = Planes::new(self.latent().shape);
        let grid = self.bundle.manifest.grid;
        for block in 0..grid.rows * grid.cols {
            let at = block + usize::from(self.coherence.thumbnail);
            self.database.read_block(image, at, &mut values).unwrap();
            let (row, col) = (block / grid.cols * self.block.height, block % grid.cols * self.block.width);
            put(&mut whole, &values, self.block, (row as i64, col as i64));
        }
        let mut averaged = Planes::new(self.levels[level].shape);
        let factor = whole.shape.height / averaged.shape.height;
        for c in 0..whole.shape.channels {
            for y in 0..averaged.shape.height {
                for x in 0..averaged.shape.width {
                    let mut sum = 0.0;
                    for cell in 0..factor * factor {
                        let (down, across) = (factor * y + cell / factor, factor * x + cell % factor);
                        sum += whole.get(c, down as i64, across as i64);
                    }
                    let at = averaged.index(c, y, x);
                    averaged.values[at] = sum * (1.0 / (factor * factor) as f32);
                }
            }
        }
        averaged
    }

    fn condition(&self, position: usize, with_neighbours: bool) -> Vec<f32> {
        let channels = self.block.channels;
        let k = self.bundle.manifest.retrieval.neighbours;
        let mut neighbours = vec![];
        let (level, (row, col)) = self.place(position);
        for rank in 0..k {
            let image = self.neighbours[rank % self.neighbours.len()];
            let planes = self.of_database(image, level);
            neighbours.extend(self.window(position, channels, |c, y, x| planes.get(c, y, x) * self.scale()));
        }
        if !with_neighbours {
            neighbours = vec![0.0; neighbours.len()];
        }
        let mut inputs = vec![neighbours];
        if self.coherence.thumbnail {
            let over = |c, y: i64, x: i64| {
                if level == 0 || !self.levels[level].inside(y, x) {
                    return 0.0;
                }
                let (here, above) = (self.levels[level].shape, &self.levels[level - 1]);
                let (down, across) = (here.height / above.shape.height, here.width / above.shape.width);
                above.get(c, y / down as i64, x / across as i64)
            };
            inputs.push(self.window(position, channels, over));
        }
        if self.coherence.previous_block {
            let is_latent = level + 1 == self.levels.len();
            let before = (is_latent && (row, col) != (0, 0)).then(|| self.place(position - 1).1);
            let read = |c, y: i64, x: i64| before.map_or(0.0, |(r, q)| self.latent().get(c, y - row + r, x - col + q));
            inputs.push(self.window(position, channels, read));
        }
        let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
        let mut out = vec![0.0; self.conditioner.output_len()];
        self.conditioner.run(&inputs, &mut out).unwrap();
        out
    }

    fn predict(&self, position: usize, positions: usize, timestep: usize, condition: &[f32]) -> Vec<f32> {
        let planes = &self.levels[self.place(position).0];
        let mut latent = self.window(position, self.block.channels, |c, y, x| planes.get(c, y, x));
        if self.coherence.margin > 0 {
            latent.extend(self.window(position, 1, |_, y, x| if planes.inside(y, x) { 1.0 } else { 0.0 }));
        }
        let mut inputs = vec![latent, vec![timestep as f32]];
        if self.coherence.position_embedding {
            let mut one_hot = vec![0.0; positions];
            one_hot[position] = 1.0;
            inputs.push(one_hot);
        }
        inputs.push(condition.to_vec());
        let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
        let mut out = vec![0.0; self.block.len()];
        self.denoiser.run(&inputs, &mut out).unwrap();
        out
    }

    fn store(&mut self, position: usize, values: &[f32]) {
        let (level, place) = self.place(position);
        put(&mut self.levels[level], values, self.block, place);
    }

    /// Denoises `positions` side by side.
    fn draw(&mut self, positions: &[usize], all: usize) {
        let noise = Noise::new(SEED);
        let conditions: Vec<_> = positions.iter().map(|&p| [true, false].map(|with| self.condition(p, with))).collect();
        let mut values = vec![vec![0.0; self.block.len()]; positions.len()];
        let mut states = vec![SamplerState::default(); positions.len()];
        for (&position, values) in positions.iter().zip(&mut values) {
            noise.fill(position as u32, 0, Stream::Initial, values);
            self.store(position, values);
        }
        for step in 0..self.sampler.steps() {
            let timestep = self.sampler.timestep(step);
            let predict = |(&p, conditions): (&usize, &[Vec<f32>; 2])| {
                let [with, without] = conditions.each_ref().map(|c| self.predict(p, all, timestep, c));
                if self.guidance == 1.0 {
                    return with;
                }
                without.iter().zip(&with).map(|(u, c)| u + self.guidance * (c - u)).collect()
            };
            let predictions: Vec<_> = positions.iter().zip(&conditions).map(predict).collect();
            for (i, &position) in positions.iter().enumerate() {
                let mut fresh = vec![0.0; self.block.len()];
                noise.fill(position as u32, step as u32, Stream::Step, &mut fresh);
                self.sampler.advance(step, &mut states[i], &mut values[i], &predictions[i], &fresh);
                self.store(position, &values[i]);
            }
        }
    }
}

fn put(planes: &mut Planes, values: &[f32], block: LatentShape, (row, col): (i64, i64)) {
    for (i, &value) in values.iter().enumerate() {
        let (c, y, x) = (i / block.cells(), i / block.width % block.height, i % block.width);
        let at = planes.index(c, row as usize + y, col as usize + x);
        planes.values[at] = value;
    }
}

fn check(coherence: Coherence, sampler: SamplerKind, neighbours: Option<usize>) {
    check_manifest(manifest(coherence, NeighbourSource::Database), sampler, neighbours);
}

fn check_manifest(manifest: Manifest, sampler: SamplerKind, neighbours: Option<usize>) {
    let (dir, coherence) = (TempDir::new(), manifest.coherence);
    let bundle = bundle(dir.path(), manifest);
    let options = Options { threads: 2, sampler: Some(sampler), neighbours, ..Options::default() };
    let mut generator = Generator::open(&bundle, &options).unwrap();
    let picture = generator.generate(SEED, &Query::Random, &mut |_| Ok(())).unwrap();

    let m = &bundle.manifest;
    let schedule = Schedule::new(m.diffusion.schedule, m.diffusion.timesteps).unwrap();
    let block = LatentShape { height: 4, width: 5, ..m.latent.shape };
    let load = |entry: &rissole::bundle::manifest::NetworkEntry| Network::load(dir.path().join(&entry.file), entry);
    let between = (1..=m.grid.levels_between).rev().map(|halvings| {
        let LatentShape { height, width, .. } = m.latent.shape;
        LatentShape { height: height >> halvings, width: width >> halvings, ..m.latent.shape }
    });
    let thumbnail = coherence.thumbnail.then_some(block);
    let sizes = thumbnail.into_iter().chain(between).chain([m.latent.shape]);
    let mut walk = Walk {
        bundle: &bundle,
        coherence,
        block,
        database: BlockDatabase::open(bundle.path_of(&m.database)).unwrap(),
        neighbours: picture.report.neighbours.clone(),
        conditioner: load(&m.networks.conditioner).unwrap(),
        denoiser: load(&m.networks.denoiser).unwrap(),
        sampler: Sampler::new(&schedule, sampler, m.diffusion.prediction, m.diffusion.steps).unwrap(),
        levels: sizes.map(Planes::new).collect(),
        guidance: m.retrieval.guidance.unwrap_or(1.0),
    };
    let all = (0..walk.levels.len()).map(|level| walk.blocks(level)).sum();
    let mut first = 0;
    for level in 0..walk.levels.len() {
        let blocks: Vec<usize> = (first..first + walk.blocks(level)).collect();
        if coherence.margin > 0 {
            walk.draw(&blocks, all);
        } else {
            blocks.iter().for_each(|&block| walk.draw(&[block], all));
        }
        first += blocks.len();
    }
    let expected: Vec<f32> = walk.latent().values.iter().map(|v| v / walk.scale()).collect();
    assert_eq!(picture.latent, expected, "{coherence:?} {sampler:?}");
}

#[test]
fn every_mode_walks_as_described() {
    for thumbnail in [false, true] {
        for (margin, previous_block) in [(0, false), (0, true), (1, false), (3, false)] {
            for position_embedding in [thumbnail, true] {
                let coherence = Coherence { thumbnail, margin, position_embedding, previous_block };
                check(coherence, SamplerKind::Ddpm, None);
                check(coherence, SamplerKind::DpmSolverPp2m, Some(3));
            }
        }
    }
}

#[test]
fn guidance_leads_from_the_prediction_without_neighbours_past_the_one_with_them() {
    for (thumbnail, margin, previous_block) in [(false, 0, true), (true, 0, false), (true, 2, false)] {
        let coherence = Coherence { thumbnail, margin, position_embedding: thumbnail, previous_block };
        for guidance in [0.0, 0.5, 1.0, 2.5] {
            for prediction in [Prediction::V, Prediction::Epsilon] {
                let mut manifest = manifest(coherence, NeighbourSource::Database);
                (manifest.retrieval.guidance, manifest.diffusion.prediction) = (Some(guidance), prediction);
                check_manifest(manifest, SamplerKind::DpmSolverPp2m, None);
            }
        }
    }
}

#[test]
fn a_level_between_is_drawn_under_the_thumbnail_and_over_the_blocks() {
    for sampler in [SamplerKind::Ddpm, SamplerKind::DpmSolverPp2m] {
        check_manifest(pyramid(), sampler, Some(3));
        check_manifest(unquantized(pyramid()), sampler, None);
    }
    for previous_block in [false, true] {
        let coherence = Coherence { thumbnail: true, margin: 0, position_embedding: true, previous_block };
        check_manifest(pyramid_of(coherence), SamplerKind::Ddpm, None);
    }
}

/// Blocks are then stored as values.
#[test]
fn latents_need_no_codebook() {
    for (thumbnail, margin) in [(false, 0), (true, 1)] {
        let coherence = Coherence { thumbnail, margin, position_embedding: thumbnail, previous_block: false };
        let manifest = unquantized(manifest(coherence, NeighbourSource::Database));
        check_manifest(manifest, SamplerKind::DpmSolverPp2m, None);
    }
}
