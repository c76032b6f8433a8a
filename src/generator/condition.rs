//! The conditioner's inputs at one position.

use super::canvas::Canvas;
use crate::bundle::manifest::Coherence;
use crate::diffusion::{Noise, Stream};
use crate::error::Result;
use crate::latent::{BlockGrid, gather_cells};
use crate::store::BlockDatabase;

/// Where the neighbours come from.
#[derive(Debug, Clone)]
pub(super) enum Neighbours {
    /// These images of the database, nearest first, one for each of the network's k ranks.
    Images(Vec<u32>),
    /// Noise of the same shape.
    Noise(Noise),
}

/// What guides a picture.
#[derive(Debug)]
pub(super) struct Guide<'a> {
    pub database: &'a BlockDatabase,
    pub grid: BlockGrid,
    pub coherence: Coherence,
    /// The manifest's latent scale.
    pub scale: f32,
    /// Ranks k of the network.
    pub ranks: usize,
    pub neighbours: Neighbours,
}

impl Guide<'_> {
    /// The conditioner's inputs at `position` in the manifest's order, given what is drawn already. `cells`
    /// are those of the window ([`BlockGrid::position_cells`]).
    pub fn inputs(&self, position: usize, cells: &[Option<usize>], canvas: &Canvas) -> Result<Vec<Vec<f32>>> {
        let mut inputs = vec![self.neighbours(position, cells)?];
        if self.coherence.thumbnail {
            inputs.push(self.thumbnail(position, cells, canvas));
        }
        if self.coherence.previous_block {
            inputs.push(self.previous(position, canvas));
        }
        Ok(inputs)
    }

    /// Turns [`Self::inputs`] into those of a block without neighbours, as it was trained: zeros in their place.
    pub fn forget_neighbours(inputs: &mut [Vec<f32>]) {
        inputs[0].fill(0.0);
    }

    /// `neighbours` [1, k·C, wh, ww]: in rank order, each neighbour's own window, scaled.
    fn neighbours(&self, position: usize, cells: &[Option<usize>]) -> Result<Vec<f32>> {
        let window = self.grid.window().len();
        let mut out = vec![0.0; self.ranks * window];
        match &self.neighbours {
            Neighbours::Noise(noise) => noise.fill(position as u32, 0, Stream::Neighbours, &mut out),
            Neighbours::Images(images) => {
                for (&image, out) in images.iter().zip(out.chunks_exact_mut(window)) {
                    self.window_of(image, position, cells, out)?;
                    out.iter_mut().for_each(|value| *value *= self.scale);
                }
            }
        }
        Ok(out)
    }

    /// The window of database image `image` at `position`, unscaled.
    fn window_of(&self, image: u32, position: usize, cells: &[Option<usize>], out: &mut [f32]) -> Result<()> {
        let mut block = vec![0.0; self.grid.block().len()];
        let (level, here) = self.grid.locate(position);
        if self.grid.is_thumbnail(level) {
            self.database.read_block(image, position, &mut block)?;
            gather_cells(&block, self.grid.block().cells(), cells, out);
            return Ok(());
        }
        let is_latent = level == self.grid.finest();
        // Without a margin a window is its block, and the other blocks need not be read.
        let seen = if is_latent && self.grid.margin() == 0 { here..here + 1 } else { 0..self.grid.blocks() };
        let (mut latent, stored) = (vec![0.0; self.grid.latent().len()], self.database.grid());
        for other in seen {
            self.database.read_block(image, stored.position_of(other), &mut block)?;
            self.grid.write_block(&block, other, &mut latent);
        }
        if !is_latent {
            latent = self.grid.average_down(&latent, level);
        }
        gather_cells(&latent, self.grid.level(level).latent().cells(), cells, out);
        Ok(())
    }

    /// `thumbnail` [1, C, wh, ww]: the next coarser level's cell over each cell of the window, scaled; zeros for the
    /// thumbnail itself.
    fn thumbnail(&self, position: usize, cells: &[Option<usize>], canvas: &Canvas) -> Vec<f32> {
        let mut out = vec![0.0; self.grid.window().len()];
        let (level, _) = self.grid.locate(position);
        if let Some(coarser) = level.checked_sub(1) {
            let over = self.grid.over(level, coarser);
            let over: Vec<_> = cells.iter().map(|cell| cell.map(&over)).collect();
            gather_cells(canvas.level(coarser), self.grid.level(coarser).latent().cells(), &over, &mut out);
        }
        out
    }

    /// `previous` [1, C, h, w]: the block drawn before, scaled; zeros for the first and for coarser levels.
    fn previous(&self, position: usize, canvas: &Canvas) -> Vec<f32> {
        let mut out = vec![0.0; self.grid.block().len()];
        if self.grid.block_at(position).is_some_and(|block| block > 0) {
            canvas.read(position - 1, &mut out);
        }
        out
    }
}
