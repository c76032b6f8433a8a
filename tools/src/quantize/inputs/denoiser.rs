//! What the denoiser is given: noised latents of the database at all positions, with timesteps spread evenly over the
//! whole reverse process, and the conditions that their neighbours make.

use rissole::bundle::manifest::{Coherence, NeighbourSource};
use rissole::diffusion::Schedule;
use rissole::index::{FrozenIndex, SearchScratch};
use rissole::latent::gather_cells;
use rissole::network::Network;
use rissole::{Error, Result};

use super::{Inputs, Source};
use crate::random::Random;

/// Where a bundle takes guidance, one in so many runs is without neighbours.
const UNGUIDED: usize = 4;

/// What conditions are made of.
pub(super) struct Conditions<'a> {
    source: &'a Source<'a>,
    index: FrozenIndex,
    scratch: SearchScratch,
    conditioner: Network,
    schedule: Schedule,
}

impl<'a> Conditions<'a> {
    pub fn new(source: &'a Source<'a>) -> Result<Self> {
        let (bundle, manifest) = (source.bundle(), source.manifest());
        Ok(Self {
            source,
            index: bundle.index(&source.database)?,
            scratch: SearchScratch::default(),
            conditioner: Network::open(bundle, &manifest.networks.conditioner)?,
            schedule: Schedule::new(manifest.diffusion.schedule, manifest.diffusion.timesteps)?,
        })
    }

    /// The inputs of `runs` runs, from `pictures` in turn. Every position meets every part of the process.
    pub fn inputs(&mut self, pictures: &[u32], seed: u64, runs: usize) -> Result<Vec<Inputs>> {
        let mut random = Random::new(seed);
        let positions = self.source.grid.positions();
        let run = |run: usize| {
            let timestep = (2 * run + 1) * self.schedule.timesteps() / (2 * runs);
            let is_guided =
                self.source.manifest().retrieval.guidance.is_none() || !(run / positions).is_multiple_of(UNGUIDED);
            self.run(pictures[run % pictures.len()], run % positions, timestep, is_guided, &mut random)
        };
        (0..runs).map(run).collect()
    }

    fn run(
        &mut self,
        picture: u32,
        position: usize,
        timestep: usize,
        is_guided: bool,
        random: &mut Random,
    ) -> Result<Inputs> {
        let grid = self.source.grid;
        let cells = grid.position_cells(position);
        let scale = self.source.manifest().latent.scale;
        let latent: Vec<f32> = self.source.latent(picture)?.into_iter().map(|value| value * scale).collect();
        let condition = self.condition(picture, position, &latent, is_guided, random)?;

        let mut values = grid.average_down(&latent, grid.locate(position).0);
        let mut noise = vec![0.0; values.len()];
        random.fill_normal(&mut noise);
        let alpha = self.schedule.alphas_cumprod()[timestep];
        let (alpha, sigma) = (alpha.sqrt() as f32, (1.0 - alpha).sqrt() as f32);
        values.iter_mut().zip(&noise).for_each(|(value, noise)| *value = alpha * *value + sigma * noise);
        let mut latent = self.window(&values, &cells);
        if grid.margin() > 0 {
            latent.extend(cells.iter().map(|cell| f32::from(u8::from(cell.is_some()))));
        }
        let mut inputs = vec![latent, vec![timestep as f32]];
        if self.source.manifest().coherence.position_embedding {
            inputs.push((0..grid.positions()).map(|i| f32::from(u8::from(i == position))).collect());
        }
        inputs.push(condition);
        Ok(inputs)
    }

    /// The window of planes C×H×W that `cells` are of, C×wh×ww; zero where there is none.
    fn window(&self, planes: &[f32], cells: &[Option<usize>]) -> Vec<f32> {
        let channels = self.source.grid.latent().channels;
        let mut out = vec![0.0; channels * cells.len()];
        gather_cells(planes, planes.len() / channels, cells, &mut out);
        out
    }

    /// What the conditioner makes of the picture's neighbours, of the level above and of the block before, where `latent` is
    /// the picture's, C×H×W, scaled.
    fn condition(
        &mut self,
        picture: u32,
        position: usize,
        latent: &[f32],
        is_guided: bool,
        random: &mut Random,
    ) -> Result<Vec<f32>> {
        let grid = self.source.grid;
        let (cells, block) = (grid.position_cells(position), grid.block_at(position));
        let Coherence { thumbnail, previous_block, .. } = self.source.manifest().coherence;
        let mut inputs = vec![self.neighbours(picture, position, random)?];
        if !is_guided {
            inputs[0].fill(0.0);
        }
        let nothing = || vec![0.0; grid.window().len()];
        if thumbnail {
            let (level, _) = grid.locate(position);
            let above = |above: usize| {
                let over = grid.over(level, above);
                let over: Vec<_> = cells.iter().map(|cell| cell.map(&over)).collect();
                self.window(&grid.average_down(latent, above), &over)
            };
            inputs.push(level.checked_sub(1).map_or_else(nothing, above));
        }
        if previous_block {
            let mut values = nothing();
            if let Some(before) = block.and_then(|block| block.checked_sub(1)) {
                grid.read_block(latent, before, &mut values);
            }
            inputs.push(values);
        }
        let mut condition = vec![0.0; self.conditioner.output_len()];
        self.conditioner.run(&inputs.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut condition)?;
        Ok(condition)
    }

    /// The windows of the picture's neighbours in the order of their rank, scaled; noise where the bundle looks for
    /// none.
    fn neighbours(&mut self, picture: u32, position: usize, random: &mut Random) -> Result<Vec<f32>> {
        let Source { database, grid, .. } = self.source;
        let retrieval = self.source.manifest().retrieval;
        let mut values = vec![0.0; grid.block().len()];
        if retrieval.source == NeighbourSource::Noise {
            let mut noise = vec![0.0; retrieval.neighbours * grid.window().len()];
            random.fill_normal(&mut noise);
            return Ok(noise);
        }
        database.read_block(picture, retrieval.query_position, &mut values)?;
        let exclude = retrieval.exclude_self.then_some(picture);
        let found = self.index.search(database, &values, retrieval.neighbours, exclude, &mut self.scratch)?;
        let found: Vec<u32> = found.iter().map(|neighbour| neighbour.image).collect();
        if found.is_empty() {
            return Err(Error::file(database.path(), "holds too few pictures"));
        }
        let (cells, (level, _)) = (grid.position_cells(position), grid.locate(position));
        let window = |&neighbour: &u32| {
            let planes = match grid.is_thumbnail(level) {
                false => grid.average_down(&self.source.latent(neighbour)?, level),
                true => {
                    database.read_block(neighbour, position, &mut values)?;
                    values.clone()
                }
            };
            let window = self.window(&planes, &cells).into_iter();
            Ok(window.map(|value| value * self.source.manifest().latent.scale).collect::<Vec<_>>())
        };
        Ok(found.iter().cycle().take(retrieval.neighbours).map(window).collect::<Result<Vec<_>>>()?.concat())
    }
}
