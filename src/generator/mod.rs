//! From a seed to a picture: retrieve → per position denoise → stitch → decode.
//!
//! The pseudo-query's neighbours are looked up once. Then the positions are drawn in groups, level by level: the thumbnail
//! first, where there is one; of each level the blocks, all together where they see each other (a margin), else on
//! their own, as many at once as there are threads. All blocks of a group advance step by step. A group of one is drawn by
//! all threads together.

mod api;
mod canvas;
mod codec;
mod condition;
mod drawing;
mod networks;
mod plan;
mod settings;
mod snap;

use std::borrow::Borrow;
use std::ops::Range;
use std::time::Instant;

use image::RgbImage;

pub use api::{Event, Options, Picture, Preview, Query, Report, StageTimes};
pub use plan::{Plan, PlannedStage, Residency};

use crate::budget;
use crate::bundle::Bundle;
use crate::bundle::manifest::{Manifest, NeighbourSource};
use crate::diffusion::{Noise, Sampler, Schedule};
use crate::error::{Error, Result};
use crate::index::{FrozenIndex, SearchScratch};
use crate::latent::BlockGrid;
use crate::store::BlockDatabase;
use crate::threads::Threads;
use canvas::Canvas;
use codec::Decoder;
use condition::{Guide, Neighbours};
use drawing::{Drawing, each};
use networks::{Load, Networks, Stage};
use settings::{Settings, check_database, check_index};

/// Heap that the program may come to while database and index are opened, though the budget be less: what would be
/// enough cannot be told otherwise. Less than any picture takes.
const OPENING: u64 = 1 << 20;

/// The same while the networks are tried out.
const TRYING: u64 = 16 << 20;

/// Draws pictures from one bundle.
#[derive(Debug)]
pub struct Generator {
    opened: Opened,
    networks: Networks,
    /// Seconds spent opening, until a report has told them.
    opening: f64,
}

/// All of a generator but its networks.
#[derive(Debug)]
struct Opened {
    manifest: Manifest,
    grid: BlockGrid,
    settings: Settings,
    sampler: Sampler,
    database: BlockDatabase,
    index: FrozenIndex,
    scratch: SearchScratch,
}

impl Opened {
    fn open(bundle: &Bundle, options: &Options) -> Result<Self> {
        let manifest = bundle.manifest.clone();
        let grid = manifest.block_grid()?;
        let settings = Settings::new(options, &manifest, &grid)?;
        let diffusion = manifest.diffusion;
        let schedule = Schedule::new(diffusion.schedule, diffusion.timesteps)?;
        let sampler = Sampler::new(&schedule, settings.sampler, diffusion.prediction, settings.steps)?;

        let database = bundle.database()?;
        check_database(&database, &manifest, settings)?;
        let index = bundle.index(&database)?;
        bundle.check_room(index.scratch_bytes(settings.neighbours))?;
        let mut scratch = SearchScratch::default();
        check_index(&index, &database, &manifest, settings, &mut scratch)?;
        Ok(Self { manifest, grid, settings, sampler, database, index, scratch })
    }

    /// What `threads` have at work at once.
    fn load(&self, threads: usize) -> Load {
        Settings { threads, ..self.settings }.load(&self.manifest, &self.grid)
    }

    fn plans(&self, bundle: &Bundle) -> Result<Vec<Plan>> {
        Ok(networks::try_out(bundle)?.plans(self.settings.threads, |threads| self.load(threads)))
    }
}

impl Generator {
    /// Opens database, index and networks of `bundle`, under a budget in the fastest way of drawing that fits it: what
    /// comes back can draw.
    ///
    /// # Errors
    /// [`Error::Usage`] for options out of bounds (neighbours beyond the bundle's k, steps not within 1…T, guidance that
    /// the bundle was not trained for, no thread); [`Error::File`] for a damaged or foreign file, or a database of too
    /// few pictures; [`Error::Budget`] where not even one thread, one stage at a time and the smallest tiles fit the
    /// budget.
    pub fn open(bundle: &Bundle, options: &Options) -> Result<Self> {
        let started = Instant::now();
        if options.ram_budget.is_some() && !budget::is_counting() {
            log::warn!("the RAM budget is not kept: this program does not count what it allocates");
        }
        let budget = options.ram_budget.filter(|_| budget::is_counting());
        // Held as long as the generator, and so there before it is asked what there is.
        let mut bundle = Bundle { budget: budget.map(|budget| budget.max(OPENING)), ..bundle.clone() };
        // Refused is what exceeds the budget that was given.
        let given = |error| match (error, budget) {
            (Error::Budget { needs, .. }, Some(budget)) => Error::Budget { needs, budget },
            (error, _) => error,
        };
        let mut opened = Opened::open(&bundle, options).map_err(given)?;
        let mut networks = match budget {
            Some(budget) => {
                bundle.budget = Some(budget.max(TRYING));
                let plan = fitting(&opened.plans(&bundle).map_err(given)?, budget)?;
                bundle.budget = Some(budget);
                log::info!("drawn {plan}: {} bytes of {budget} at most", plan.needs());
                opened.settings.threads = plan.threads;
                Networks::planned(bundle, opened.load(plan.threads), &plan)
            }
            None => Networks::open(bundle, opened.load(opened.settings.threads))?,
        };
        networks.take_seconds();
        Ok(Self { opened, networks, opening: started.elapsed().as_secs_f64() })
    }

    /// The ways in which `bundle` can be drawn from with `options`, best first; the first that fits a budget is the
    /// one that [`Self::open`] takes. Loads the networks one by one to find out; takes the memory for a run of those
    /// alone that tract runs.
    ///
    /// # Errors
    /// As [`Self::open`] without a budget; [`Error::Usage`] where this program does not count what it allocates.
    pub fn plans(bundle: &Bundle, options: &Options) -> Result<Vec<Plan>> {
        if !budget::is_counting() {
            return Err(Error::Usage("this program does not count what it allocates".into()));
        }
        let bundle = bundle.clone();
        Opened::open(&bundle, options)?.plans(&bundle)
    }

    /// Draws the picture that belongs to `seed` and `query`, and tells `observe` of the progress. The same
    /// seed, query, options and build give the same pixels, whatever the number of threads. A `query` that is given away,
    /// and its picture, is let go before the drawing begins.
    ///
    /// # Errors
    /// What `observe` returns, at once; [`Error::Usage`] for a query that this bundle cannot take;
    /// [`Error::File`] where a file of the bundle turns out to be damaged.
    pub fn generate(
        &mut self,
        seed: u64,
        query: impl Borrow<Query>,
        observe: &mut dyn FnMut(Event<'_>) -> Result<()>,
    ) -> Result<Picture> {
        let noise = Noise::new(seed);
        let mut times = StageTimes::default();
        observe(Event::Started { steps_total: self.steps_total() })?;

        if matches!(query.borrow(), Query::Image(_)) && self.uses_database() {
            self.networks.hold(Stage::Encode)?;
        }
        let found = timed(&mut times.retrieve, || self.retrieve(noise, query.borrow()));
        drop(query);
        let (query, neighbours) = found?;
        if self.uses_database() {
            observe(Event::Retrieved { query, neighbours: &neighbours })?;
        }

        self.networks.hold(Stage::Sample)?;
        let latent = timed(&mut times.denoise, || self.denoise(noise, &neighbours, observe))?;

        observe(Event::Decoding)?;
        self.networks.hold(Stage::Decode)?;
        let image = timed(&mut times.decode, || self.decode(&latent))?;

        times.load = std::mem::take(&mut self.opening) + self.networks.take_seconds();
        Ok(Picture { image, latent, report: self.report(seed, query, neighbours, times) })
    }

    /// The picture of `latent` (CHW, unscaled), snapped to the codebook where the bundle says so.
    ///
    /// # Errors
    /// [`Error::Usage`] for a latent of the wrong length; [`Error::File`] where the decoder fails.
    pub fn decode(&mut self, latent: &[f32]) -> Result<RgbImage> {
        self.networks.hold(Stage::Decode)?;
        let decoder = self.decoder().ok_or_else(|| Error::Internal("the decoder is not held".into()))?;
        decoder.decode(latent, &self.threads()?)
    }

    /// The latent of `image`, CHW, unscaled; where the bundle has a codebook, every cell an entry of it.
    ///
    /// # Errors
    /// [`Error::Usage`] for a picture of another size than the bundle's, or a bundle without an encoder;
    /// [`Error::File`] where the encoder fails; [`Error::Budget`] where it does not fit.
    pub fn encode(&mut self, image: &RgbImage) -> Result<Vec<f32>> {
        self.networks.hold(Stage::Encode)?;
        let (encoder, codebook) = (self.networks.encoder()?, self.opened.database.codebook());
        codec::encode(encoder, codebook, self.opened.grid.latent(), self.opened.manifest.image, image)
    }

    /// The block database.
    pub fn database(&self) -> &BlockDatabase {
        &self.opened.database
    }

    /// The frozen index.
    pub fn index(&self) -> &FrozenIndex {
        &self.opened.index
    }

    /// The block grid.
    pub fn grid(&self) -> &BlockGrid {
        &self.opened.grid
    }

    /// The bundle's manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.opened.manifest
    }

    /// Steps of one picture: positions times sampling steps.
    pub fn steps_total(&self) -> usize {
        self.opened.grid.positions() * self.opened.sampler.steps()
    }

    /// The query's database id, if it is in the database, and its neighbours, nearest first.
    fn retrieve(&mut self, noise: Noise, query: &Query) -> Result<(Option<u32>, Vec<u32>)> {
        if !self.uses_database() {
            return match query {
                Query::Random => Ok((None, vec![])),
                _ => Err(Error::Usage("this bundle does not use its database, so it takes no query".into())),
            };
        }
        let mut block = vec![0.0; self.opened.grid.block().len()]; // C×h×w
        let id = match query {
            Query::Random => Some(noise.pick(self.opened.database.images())),
            Query::Id(id) => Some(*id),
            Query::Image(image) => {
                self.query_block(image, &mut block)?;
                None
            }
        };
        if let Some(id) = id {
            let images = self.opened.database.images();
            if id >= images {
                return Err(Error::Usage(format!("no picture {id}: the database holds {images}")));
            }
            self.opened.database.read_block(id, self.opened.manifest.retrieval.query_position, &mut block)?;
        }
        let exclude = id.filter(|_| self.opened.settings.exclude_self);
        let found = self.opened.index.search(
            &self.opened.database,
            &block,
            self.opened.settings.neighbours,
            exclude,
            &mut self.opened.scratch,
        )?;
        Ok((id, found.iter().map(|neighbour| neighbour.image).collect()))
    }

    /// What a picture from outside is looked up by: its thumbnail or its first block.
    fn query_block(&mut self, image: &RgbImage, out: &mut [f32]) -> Result<()> {
        let latent = self.encode(image)?; // C×H×W
        match self.opened.grid.block_at(self.opened.manifest.retrieval.query_position) {
            Some(block) => self.opened.grid.read_block(&latent, block, out),
            None => out.copy_from_slice(&self.opened.grid.average_down(&latent, 0)),
        }
        Ok(())
    }

    /// Draws every position; the stitched latent, CHW, unscaled.
    fn denoise(
        &self,
        noise: Noise,
        neighbours: &[u32],
        observe: &mut dyn FnMut(Event<'_>) -> Result<()>,
    ) -> Result<Vec<f32>> {
        let (conditioner, denoiser) = self.networks.sampling()?;
        let guide = self.guide(noise, neighbours)?;
        let (Settings { guidance, .. }, threads) = (self.opened.settings, self.threads()?);
        let total = self.steps_total();
        let told_position = self.opened.manifest.coherence.position_embedding;
        let mut canvas = Canvas::new(self.opened.grid, guide.scale);
        let mut done = 0;
        for group in groups(&self.opened.grid, self.blocks_at_once()) {
            let (grid, condition_len) = (&self.opened.grid, conditioner.output_len());
            let new = |position| Drawing::new(grid, position, told_position, condition_len, guidance);
            let mut drawings: Vec<Drawing> = group.clone().map(new).collect();
            each(&mut drawings, &threads, |drawing, by| drawing.condition(&guide, conditioner, by, &canvas))?;
            drawings.iter_mut().for_each(|drawing| drawing.begin(noise, &mut canvas));
            for step in 0..self.opened.sampler.steps() {
                let timestep = self.opened.sampler.timestep(step);
                each(&mut drawings, &threads, |drawing, by| drawing.predict(denoiser, by, timestep, &canvas))?;
                drawings.iter_mut().for_each(|drawing| drawing.advance(&self.opened.sampler, step, noise, &mut canvas));
                done += drawings.len();
                observe(Event::Step { done, total, preview: &self.preview(&canvas) })?;
            }
            for position in group {
                observe(Event::Block { position, preview: &self.preview(&canvas) })?;
            }
        }
        Ok(canvas.into_latent())
    }

    fn threads(&self) -> Result<Threads> {
        let count = self.opened.settings.threads;
        Threads::start(count).map_err(|e| Error::Usage(format!("cannot start {count} threads: {e}")))
    }

    fn guide(&self, noise: Noise, neighbours: &[u32]) -> Result<Guide<'_>> {
        let ranks = self.opened.manifest.retrieval.neighbours;
        let neighbours = match self.opened.manifest.retrieval.source {
            NeighbourSource::Noise => Neighbours::Noise(noise),
            NeighbourSource::Database if neighbours.is_empty() => {
                return Err(Error::Internal("the index found no neighbour".into()));
            }
            // The network's shape is static: with fewer neighbours the nearest come again.
            NeighbourSource::Database => Neighbours::Images(neighbours.iter().copied().cycle().take(ranks).collect()),
        };
        let (coherence, scale) = (self.opened.manifest.coherence, self.opened.manifest.latent.scale);
        Ok(Guide { database: &self.opened.database, grid: self.opened.grid, coherence, scale, ranks, neighbours })
    }

    fn preview<'a>(&'a self, canvas: &'a Canvas) -> Preview<'a> {
        Preview { latent: canvas.shown(), decoder: self.decoder() }
    }

    fn decoder(&self) -> Option<Decoder<'_>> {
        let codebook = self.opened.manifest.latent.snap_to_codebook.then(|| self.opened.database.codebook());
        let (shape, size) = (self.opened.grid.latent(), self.opened.manifest.image);
        self.networks.decoder().map(|network| Decoder { network, codebook, shape, size })
    }

    fn uses_database(&self) -> bool {
        self.opened.manifest.retrieval.source == NeighbourSource::Database
    }

    fn blocks_at_once(&self) -> usize {
        self.opened.settings.blocks_at_once(&self.opened.manifest, &self.opened.grid)
    }

    fn report(&self, seed: u64, query: Option<u32>, neighbours: Vec<u32>, times: StageTimes) -> Report {
        let Settings { steps, sampler, guidance, threads, exclude_self, .. } = self.opened.settings;
        Report {
            model: self.opened.manifest.name.clone(),
            seed,
            query,
            neighbours,
            exclude_self,
            sampler,
            steps,
            guidance,
            threads,
            times,
            peak_heap: budget::is_counting().then(budget::peak_bytes),
            peak_rss: budget::peak_rss(),
        }
    }
}

/// The first plan that fits `budget`.
fn fitting(plans: &[Plan], budget: u64) -> Result<Plan> {
    let least = plans.iter().map(Plan::needs).min().unwrap_or(0);
    let fits = plans.iter().find(|plan| plan.needs() <= budget);
    fits.cloned().ok_or(Error::Budget { needs: least, budget })
}

/// The positions in the order they are drawn, in groups that advance together.
fn groups(grid: &BlockGrid, blocks_at_once: usize) -> Vec<Range<usize>> {
    let of_level = |level| {
        let Range { start, end } = grid.positions_of(level);
        (start..end).step_by(blocks_at_once).map(move |start| start..(start + blocks_at_once).min(end))
    };
    (0..grid.levels()).flat_map(of_level).collect()
}

/// Adds the seconds that `work` takes to `seconds`.
fn timed<T>(seconds: &mut f64, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    let done = work();
    *seconds += started.elapsed().as_secs_f64();
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latent::LatentShape;

    #[test]
    fn the_thumbnail_comes_first_and_every_position_once() {
        let grid =
            |thumbnail| BlockGrid::new(LatentShape { channels: 1, height: 4, width: 4 }, 2, 2, thumbnail, 0).unwrap();
        assert_eq!(groups(&grid(true), 4), [0..1, 1..5]);
        assert_eq!(groups(&grid(true), 3), [0..1, 1..4, 4..5]);
        assert_eq!(groups(&grid(false), 1), [0..1, 1..2, 2..3, 3..4]);
    }
}
