//! The latents while they are drawn.

use crate::latent::{BlockGrid, gather_cells};

/// All levels, noisy where they are being drawn, and what to show of them.
#[derive(Debug)]
pub(super) struct Canvas {
    grid: BlockGrid,
    scale: f32,
    /// The levels in order, each CHW, scaled.
    levels: Vec<Vec<f32>>,
    /// C×H×W, unscaled: the data as estimated now.
    shown: Vec<f32>,
}

impl Canvas {
    /// An empty canvas; `scale` is the manifest's latent scale.
    pub fn new(grid: BlockGrid, scale: f32) -> Self {
        let levels = (0..grid.levels()).map(|level| vec![0.0; grid.level(level).latent().len()]).collect();
        Self { grid, scale, levels, shown: vec![0.0; grid.latent().len()] }
    }

    /// What to show: see [`Preview::latent`](super::Preview::latent).
    pub fn shown(&self) -> &[f32] {
        &self.shown
    }

    /// Level `level`, CHW, scaled.
    pub fn level(&self, level: usize) -> &[f32] {
        &self.levels[level]
    }

    /// Reads what stands at `position` into `out` (C×h×w, scaled).
    pub fn read(&self, position: usize, out: &mut [f32]) {
        let (level, block) = self.grid.locate(position);
        self.grid.level(level).read_block(&self.levels[level], block, out);
    }

    /// Puts `values` (C×h×w, scaled) at `position`.
    pub fn write(&mut self, position: usize, values: &[f32]) {
        let (level, block) = self.grid.locate(position);
        self.grid.level(level).write_block(values, block, &mut self.levels[level]);
    }

    /// Shows `data` (C×h×w, scaled) at `position`, upsampled to the latent: a thumbnail everywhere.
    pub fn show(&mut self, position: usize, data: &[f32]) {
        let unscaled: Vec<f32> = data.iter().map(|v| v / self.scale).collect();
        let (level, block) = self.grid.locate(position);
        if level == self.grid.finest() {
            return self.grid.write_block(&unscaled, block, &mut self.shown);
        }
        let (part, whole) = (self.grid.level(level), self.grid.latent());
        let (origin, shape) = (part.origin(block), part.block());
        let (down, across) = (whole.height / part.latent().height, whole.width / part.latent().width);
        for (plane, block) in self.shown.chunks_exact_mut(whole.cells()).zip(unscaled.chunks_exact(shape.cells())) {
            // Each of its cells lies over so many rows of so many cells of the latent.
            for (i, &value) in block.iter().enumerate() {
                let (row, col) = (origin.0 + i / shape.width, origin.1 + i % shape.width);
                for row in row * down..(row + 1) * down {
                    plane[row * whole.width + col * across..][..across].fill(value);
                }
            }
        }
    }

    /// Reads the cells `cells` (of the plane that `position` lies in) of every channel into `out`.
    pub fn gather(&self, position: usize, cells: &[Option<usize>], out: &mut [f32]) {
        let (level, _) = self.grid.locate(position);
        gather_cells(&self.levels[level], self.grid.level(level).latent().cells(), cells, out);
    }

    /// The whole latent, CHW, unscaled: what is left when all is drawn.
    pub fn into_latent(mut self) -> Vec<f32> {
        let mut latent = self.levels.pop().unwrap_or_default();
        latent.iter_mut().for_each(|value| *value /= self.scale);
        latent
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

    #[test]
    fn a_level_between_shows_its_blocks_where_they_lie() {
        let latent = LatentShape { channels: 1, height: 4, width: 8 };
        let grid = BlockGrid::new(latent, 4, 8, true, 0).unwrap().with_levels_between(1).unwrap();
        let mut canvas = Canvas::new(grid, 2.0);
        canvas.show(0, &[2.0]);
        // The last of 2×4 blocks of one cell.
        canvas.write(8, &[6.0]);
        canvas.show(8, &[6.0]);
        assert_eq!(canvas.level(1)[7], 6.0);
        assert_eq!(canvas.shown()[16..], [[1.0; 6], [1.0; 6]].map(|row| [&row[..], &[3.0; 2]].concat()).concat());
        canvas.write(40, &[8.0]);
        canvas.show(40, &[8.0]);
        assert_eq!(canvas.shown()[30..], [3.0, 4.0]);
        assert_eq!(canvas.into_latent()[30..], [0.0, 4.0]);
    }
}
