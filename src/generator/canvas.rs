//! The latents while they are drawn.

use crate::latent::{BlockGrid, gather_cells};

/// The whole latent and its thumbnail, both noisy where they are being drawn, and what to show of them.
#[derive(Debug)]
pub(super) struct Canvas {
    grid: BlockGrid,
    scale: f32,
    /// C×H×W, scaled.
    latent: Vec<f32>,
    /// C×h×w, scaled.
    thumbnail: Vec<f32>,
    /// C×H×W, unscaled: the data as estimated now.
    shown: Vec<f32>,
}

impl Canvas {
    /// An empty canvas; `scale` is the manifest's latent scale.
    pub fn new(grid: BlockGrid, scale: f32) -> Self {
        let whole = vec![0.0; grid.latent().len()];
        Self { grid, scale, latent: whole.clone(), thumbnail: vec![0.0; grid.block().len()], shown: whole }
    }

    /// What to show: see [`Preview::latent`](super::Preview::latent).
    pub fn shown(&self) -> &[f32] {
        &self.shown
    }

    /// The thumbnail, C×h×w, scaled.
    pub fn thumbnail(&self) -> &[f32] {
        &self.thumbnail
    }

    /// Reads what stands at `position` into `out` (C×h×w, scaled).
    pub fn read(&self, position: usize, out: &mut [f32]) {
        match self.grid.block_at(position) {
            Some(block) => self.grid.read_block(&self.latent, block, out),
            None => out.copy_from_slice(&self.thumbnail),
        }
    }

    /// Puts `values` (C×h×w, scaled) at `position`.
    pub fn write(&mut self, position: usize, values: &[f32]) {
        match self.grid.block_at(position) {
            Some(block) => self.grid.write_block(values, block, &mut self.latent),
            None => self.thumbnail.copy_from_slice(values),
        }
    }

    /// Shows `data` (C×h×w, scaled) at `position`; a thumbnail, upsampled, everywhere.
    pub fn show(&mut self, position: usize, data: &[f32]) {
        let unscaled: Vec<f32> = data.iter().map(|v| v / self.scale).collect();
        if let Some(block) = self.grid.block_at(position) {
            return self.grid.write_block(&unscaled, block, &mut self.shown);
        }
        let (cells, block_cells) = (self.grid.latent().cells(), self.grid.block().cells());
        for (plane, thumbnail) in self.shown.chunks_exact_mut(cells).zip(unscaled.chunks_exact(block_cells)) {
            let over = |cell| thumbnail[self.grid.thumbnail_cell_over(cell)];
            plane.iter_mut().enumerate().for_each(|(cell, value)| *value = over(cell));
        }
    }

    /// Reads the cells `cells` (of the plane that `position` lies in) of every channel into `out`.
    pub fn gather(&self, position: usize, cells: &[Option<usize>], out: &mut [f32]) {
        match self.grid.block_at(position) {
            Some(_) => gather_cells(&self.latent, self.grid.latent().cells(), cells, out),
            None => gather_cells(&self.thumbnail, self.grid.block().cells(), cells, out),
        }
    }

    /// The whole latent, CHW, unscaled: what is left when all is drawn.
    pub fn into_latent(mut self) -> Vec<f32> {
        self.latent.iter_mut().for_each(|value| *value /= self.scale);
        self.latent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latent::LatentShape;

    #[test]
    fn blocks_and_thumbnail_are_kept_apart_and_shown_together() {
        let grid = BlockGrid::new(LatentShape { channels: 1, height: 4, width: 4 }, 2, 2, true, 1).unwrap();
        let mut canvas = Canvas::new(grid, 2.0);
        canvas.write(0, &[2.0, 4.0, 6.0, 8.0]);
        canvas.show(0, &[2.0, 4.0, 6.0, 8.0]);
        assert_eq!(canvas.shown()[..8], [1., 1., 2., 2., 1., 1., 2., 2.]);
        canvas.write(4, &[10.0; 4]);
        canvas.show(4, &[10.0; 4]);
        assert_eq!(canvas.shown()[12..], [3., 3., 5., 5.]);
        let mut block = [0.0; 4];
        canvas.read(4, &mut block);
        assert_eq!(block, [10.0; 4]);
        // The window of block 0 reaches one cell of block 3; the thumbnail has no surroundings.
        let mut window = [0.0; 16];
        canvas.gather(1, &grid.position_cells(1), &mut window);
        assert_eq!(window[15], 10.0);
        canvas.gather(0, &grid.position_cells(0), &mut window);
        assert_eq!(window[5..7], [2.0, 4.0]);
        assert_eq!(window[15], 0.0);
        assert_eq!(canvas.into_latent()[10..12], [5.0, 5.0]);
    }
}
