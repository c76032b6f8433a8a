//! Options and files checked against the manifest before anything is drawn.

use super::api::Options;
use super::drawing::Drawing;
use super::networks::Load;
use crate::bundle::manifest::{Manifest, NeighbourSource, SamplerKind};
use crate::error::{Error, Result};
use crate::index::{FrozenIndex, SearchScratch};
use crate::latent::BlockGrid;
use crate::store::BlockDatabase;

/// [`Options`] with the manifest's defaults filled in, checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub neighbours: usize,
    pub steps: usize,
    pub sampler: SamplerKind,
    pub guidance: f32,
    pub threads: usize,
    pub exclude_self: bool,
}

impl Settings {
    pub fn new(options: &Options, manifest: &Manifest, grid: &BlockGrid) -> Result<Self> {
        let ranks = manifest.retrieval.neighbours;
        let neighbours = options.neighbours.unwrap_or(ranks);
        if !(1..=ranks).contains(&neighbours) {
            return Err(Error::Usage(format!("neighbours must be within 1…{ranks}, not {neighbours}")));
        }
        if options.threads == 0 {
            return Err(Error::Usage("at least one thread is needed".into()));
        }
        let sampler = options.sampler.unwrap_or(manifest.diffusion.sampler);
        let guidance = options.guidance.unwrap_or(manifest.default_guidance(sampler));
        manifest.check_guidance(guidance, sampler)?;
        Ok(Self {
            neighbours,
            steps: options.steps.unwrap_or(manifest.diffusion.steps),
            sampler,
            guidance,
            // Each has a row of a block at least.
            threads: options.threads.min(grid.blocks() * grid.window().height),
            exclude_self: options.exclude_self.unwrap_or(manifest.retrieval.exclude_self),
        })
    }

    /// Blocks that advance together: all where they see each other, one where each sees the one before.
    pub fn blocks_at_once(&self, manifest: &Manifest, grid: &BlockGrid) -> usize {
        match manifest.coherence {
            c if c.margin > 0 => grid.blocks(),
            c if c.previous_block => 1,
            _ => self.threads.min(grid.blocks()),
        }
    }

    /// What the walk takes of RAM beside the networks, in bytes, generously.
    pub fn load(&self, manifest: &Manifest, grid: &BlockGrid) -> Load {
        let condition = manifest.networks.conditioner.outputs.iter().flat_map(|t| t.shape.iter().skip(1)).product();
        let at_once = self.blocks_at_once(manifest, grid);
        let blocks = self.threads.min(at_once);
        let (latent, window) = (grid.latent().len() as u64, grid.window().len() as u64);
        // The conditioner's inputs are gathered for each block, from a latent and that averaged down; the canvas holds the
        // latent twice, and coarser levels, which come to one more at most.
        let inputs = (manifest.retrieval.neighbours as u64 + 2) * window + 2 * latent;
        let walk =
            at_once as u64 * Drawing::bytes(grid, condition, self.guidance) + 4 * (blocks as u64 * inputs + 3 * latent);
        let pixels = manifest.image.width as u64 * manifest.image.height as u64;
        // Bytes of a picture, its latent, and the latent snapped.
        let (picture, planes) = (3 * pixels + 12 * latent, 12 * pixels);
        Load { blocks, walk, latent: 4 * latent, picture, planes }
    }
}

/// The database must be cut like the bundle's latents, and hold enough pictures.
pub(super) fn check_database(database: &BlockDatabase, manifest: &Manifest, settings: Settings) -> Result<()> {
    let fault = |text: String| Err(Error::file(database.path(), text));
    let latent = manifest.latent;
    if database.grid() != manifest.block_grid()?.stored() {
        return fault("its latents or blocks are not those of the manifest".into());
    }
    let books = (database.codebook_size(), database.thumbnail_codebook_size());
    if books != (latent.codebook_size, latent.thumbnail_codebook_size) {
        return fault("its codebooks are not of the sizes that the manifest says".into());
    }
    let spare = database.images() as usize - usize::from(settings.exclude_self);
    if manifest.retrieval.source == NeighbourSource::Database && settings.neighbours > spare {
        let Settings { neighbours, .. } = settings;
        return fault(format!("holds only {spare} possible neighbours, {neighbours} are asked for"));
    }
    Ok(())
}

/// The index must be of the position that queries look at. One search shows that it works, and has the scratch
/// allocated before the budget is drawn up.
pub(super) fn check_index(
    index: &FrozenIndex,
    database: &BlockDatabase,
    manifest: &Manifest,
    settings: Settings,
    scratch: &mut SearchScratch,
) -> Result<()> {
    if manifest.retrieval.source == NeighbourSource::Noise {
        return Ok(());
    }
    let (found, wanted) = (index.summary().position, manifest.retrieval.query_position);
    if found != wanted {
        return Err(Error::file(index.path(), format!("is of position {found}, the manifest queries {wanted}")));
    }
    let mut query = vec![0.0; database.block().len()];
    database.read_block(0, wanted, &mut query)?;
    let exclude = settings.exclude_self.then_some(0);
    index.search(database, &query, settings.neighbours, exclude, scratch).map(|_| ())
}
