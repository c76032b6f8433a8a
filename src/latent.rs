//! Latents and their blocks: shapes, splitting, windows, stitching, thumbnails.
//!
//! A latent is a `C×H×W` array of `f32` in channel-major order (CHW). A [`BlockGrid`] cuts it into
//! `rows×cols` equal blocks, row-major. *Positions* number what the denoiser draws: with a thumbnail,
//! position 0 is the thumbnail and position `1 + i` is block `i`; without one, position `i` is block `i`.
//! A *window* is a block with `margin` cells of its surroundings on each side.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Shape of a whole latent, in cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatentShape {
    /// Channels C.
    pub channels: usize,
    /// Height H in cells.
    pub height: usize,
    /// Width W in cells.
    pub width: usize,
}

impl LatentShape {
    /// Cells `H·W`.
    pub fn cells(&self) -> usize {
        self.height * self.width
    }

    /// Values `C·H·W`.
    pub fn len(&self) -> usize {
        self.channels * self.cells()
    }

    /// True for a shape without values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How a latent is cut into blocks and what surrounds a block when it is denoised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockGrid {
    latent: LatentShape,
    rows: usize,
    cols: usize,
    thumbnail: bool,
    margin: usize,
}

impl BlockGrid {
    /// Largest number of cells along one side of a latent; bounds every later product.
    pub const MAX_SIDE: usize = 4096;
    /// Largest number of channels.
    pub const MAX_CHANNELS: usize = 1024;

    /// A grid of `rows×cols` blocks over `latent`.
    ///
    /// # Errors
    /// [`Error::Usage`] when a size is zero or out of bounds, the grid does not divide the latent, or the
    /// margin is wider than a block.
    pub fn new(latent: LatentShape, rows: usize, cols: usize, thumbnail: bool, margin: usize) -> Result<Self> {
        let LatentShape { channels, height, width } = latent;
        let sides_ok = (1..=Self::MAX_SIDE).contains(&height) && (1..=Self::MAX_SIDE).contains(&width);
        if !sides_ok || !(1..=Self::MAX_CHANNELS).contains(&channels) {
            return Err(Error::Usage(format!("latent shape {channels}×{height}×{width} is out of bounds")));
        }
        if rows == 0 || cols == 0 || !height.is_multiple_of(rows) || !width.is_multiple_of(cols) {
            return Err(Error::Usage(format!("a {rows}×{cols} grid does not divide a {height}×{width} latent")));
        }
        if margin > (height / rows).min(width / cols) {
            return Err(Error::Usage(format!("margin {margin} is wider than a block")));
        }
        Ok(Self { latent, rows, cols, thumbnail, margin })
    }

    /// Shape of the whole latent.
    pub fn latent(&self) -> LatentShape {
        self.latent
    }

    /// Rows and columns of blocks.
    pub fn rows_cols(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// Whether position 0 is the thumbnail.
    pub fn has_thumbnail(&self) -> bool {
        self.thumbnail
    }

    /// Cells of surroundings on each side of a block in its window.
    pub fn margin(&self) -> usize {
        self.margin
    }

    /// Shape of one block (and of the thumbnail).
    pub fn block(&self) -> LatentShape {
        let LatentShape { channels, height, width } = self.latent;
        LatentShape { channels, height: height / self.rows, width: width / self.cols }
    }

    /// Shape of one block with its margin.
    pub fn window(&self) -> LatentShape {
        let b = self.block();
        LatentShape { height: b.height + 2 * self.margin, width: b.width + 2 * self.margin, ..b }
    }

    /// Number of positions the denoiser draws: all blocks, and the thumbnail where there is one.
    pub fn positions(&self) -> usize {
        self.blocks() + usize::from(self.thumbnail)
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.rows * self.cols
    }

    /// The block drawn at `position`, or `None` where that is the thumbnail.
    pub fn block_at(&self, position: usize) -> Option<usize> {
        position.checked_sub(usize::from(self.thumbnail))
    }

    /// The position of block `block`.
    pub fn position_of(&self, block: usize) -> usize {
        block + usize::from(self.thumbnail)
    }

    /// Row and column of the top-left cell of block `block`.
    pub fn origin(&self, block: usize) -> (usize, usize) {
        let b = self.block();
        (block / self.cols * b.height, block % self.cols * b.width)
    }

    /// For each cell of block `block` in row-major order, its index in the latent's `H×W` plane.
    pub fn block_cells(&self, block: usize) -> impl Iterator<Item = usize> + use<> {
        let (row0, col0) = self.origin(block);
        let (b, width) = (self.block(), self.latent.width);
        (0..b.cells()).map(move |i| (row0 + i / b.width) * width + col0 + i % b.width)
    }

    /// For each cell of the window of block `block` in row-major order, the index of that cell in the
    /// latent's `H×W` plane, or `None` outside the picture.
    pub fn window_cells(&self, block: usize) -> impl Iterator<Item = Option<usize>> + use<> {
        let (row0, col0) = self.origin(block);
        let LatentShape { height, width, .. } = self.latent;
        let (window, margin) = (self.window(), self.margin);
        (0..window.cells()).map(move |i| {
            let row = (row0 + i / window.width).checked_sub(margin).filter(|&r| r < height)?;
            let col = (col0 + i % window.width).checked_sub(margin).filter(|&c| c < width)?;
            Some(row * width + col)
        })
    }

    /// For each cell of the window around the thumbnail in row-major order, the index of that cell in the
    /// thumbnail's plane, or `None` in the margin: a thumbnail has no surroundings.
    pub fn thumbnail_cells(&self) -> impl Iterator<Item = Option<usize>> + use<> {
        let (block, window, margin) = (self.block(), self.window(), self.margin);
        (0..window.cells()).map(move |i| {
            let row = (i / window.width).checked_sub(margin).filter(|&r| r < block.height)?;
            let col = (i % window.width).checked_sub(margin).filter(|&c| c < block.width)?;
            Some(row * block.width + col)
        })
    }

    /// The cells of the window at `position`: [`Self::window_cells`] or [`Self::thumbnail_cells`].
    pub fn position_cells(&self, position: usize) -> Vec<Option<usize>> {
        match self.block_at(position) {
            Some(block) => self.window_cells(block).collect(),
            None => self.thumbnail_cells().collect(),
        }
    }

    /// The thumbnail cell that lies over latent cell `cell` (nearest upsampling).
    pub fn thumbnail_cell_over(&self, cell: usize) -> usize {
        let (row, col) = (cell / self.latent.width, cell % self.latent.width);
        row / self.rows * self.block().width + col / self.cols
    }

    /// Reads block `block` of `latent` (CHW) into `out` (C×h×w).
    pub fn read_block(&self, latent: &[f32], block: usize, out: &mut [f32]) {
        let cells = self.latent.cells();
        let b = self.block();
        for (row, out) in out.chunks_exact_mut(b.width).enumerate() {
            let from = row / b.height * cells + self.row_start(block, row % b.height);
            out.copy_from_slice(&latent[from..from + b.width]);
        }
    }

    /// Writes `values` (C×h×w) as block `block` of `latent` (CHW): stitching.
    pub fn write_block(&self, values: &[f32], block: usize, latent: &mut [f32]) {
        let cells = self.latent.cells();
        let b = self.block();
        for (row, values) in values.chunks_exact(b.width).enumerate() {
            let to = row / b.height * cells + self.row_start(block, row % b.height);
            latent[to..to + b.width].copy_from_slice(values);
        }
    }

    /// The latent averaged `rows×cols` down, which has a block's shape. `latent` is CHW.
    pub fn average_down(&self, latent: &[f32]) -> Vec<f32> {
        let (b, cells) = (self.block(), self.latent.cells());
        let mut out = vec![0.0; b.len()];
        for (c, plane) in latent.chunks_exact(cells).enumerate() {
            for (cell, &value) in plane.iter().enumerate() {
                out[c * b.cells() + self.thumbnail_cell_over(cell)] += value;
            }
        }
        let share = 1.0 / (self.rows * self.cols) as f32;
        out.iter_mut().for_each(|v| *v *= share);
        out
    }

    fn row_start(&self, block: usize, row: usize) -> usize {
        let (row0, col0) = self.origin(block);
        (row0 + row) * self.latent.width + col0
    }
}

/// Reads the cells named by `cells` from every channel plane of `planes` (`plane_cells` values each) into
/// `out` (C × `cells.len()`); zero where a cell is `None`.
pub fn gather_cells(planes: &[f32], plane_cells: usize, cells: &[Option<usize>], out: &mut [f32]) {
    for (plane, out) in planes.chunks_exact(plane_cells).zip(out.chunks_exact_mut(cells.len())) {
        for (out, cell) in out.iter_mut().zip(cells) {
            *out = cell.map_or(0.0, |cell| plane[cell]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(thumbnail: bool, margin: usize) -> BlockGrid {
        BlockGrid::new(LatentShape { channels: 2, height: 4, width: 6 }, 2, 3, thumbnail, margin).unwrap()
    }

    #[test]
    fn splitting_and_stitching_give_the_latent_back() {
        let grid = grid(false, 0);
        let latent: Vec<f32> = (0..48).map(|v| v as f32).collect();
        let mut back = vec![-1.0; 48];
        for block in 0..grid.blocks() {
            let mut values = vec![0.0; grid.block().len()];
            grid.read_block(&latent, block, &mut values);
            grid.write_block(&values, block, &mut back);
        }
        assert_eq!(latent, back);
        let mut last = vec![0.0; 8];
        grid.read_block(&latent, 5, &mut last);
        assert_eq!(last, [16., 17., 22., 23., 40., 41., 46., 47.]);
    }

    #[test]
    fn a_window_sees_its_surroundings_and_nothing_outside_the_picture() {
        let grid = grid(false, 1);
        for block in 0..grid.blocks() {
            let bare = BlockGrid { margin: 0, ..grid };
            assert!(bare.window_cells(block).eq(bare.block_cells(block).map(Some)));
        }
        let cells: Vec<_> = grid.window_cells(0).collect();
        assert_eq!(cells[..5], [None, None, None, None, None]);
        assert_eq!(cells[5..8], [Some(0), Some(1), Some(2)]);
        assert_eq!(cells[12..16], [None, Some(12), Some(13), Some(14)]);
        let middle: Vec<_> = grid.window_cells(4).collect();
        assert_eq!(middle[0], Some(7));
        assert_eq!(middle[12], None);
    }

    #[test]
    fn the_thumbnail_is_the_average_and_lies_over_its_cells() {
        let grid = grid(true, 1);
        let latent: Vec<f32> = (0..48).map(|v| v as f32).collect();
        let thumbnail = grid.average_down(&latent);
        assert_eq!(thumbnail.len(), 8);
        assert_eq!(thumbnail[0], (1 + 2 + 6 + 7 + 8) as f32 / 6.0);
        assert_eq!(grid.thumbnail_cell_over(23), 3);
        assert_eq!(grid.positions(), 7);
        assert_eq!(grid.block_at(0), None);
        assert_eq!(grid.thumbnail_cells().flatten().collect::<Vec<_>>(), [0, 1, 2, 3]);
    }

    #[test]
    fn sizes_out_of_bounds_are_refused() {
        let latent = LatentShape { channels: 2, height: 4, width: 6 };
        assert!(BlockGrid::new(latent, 3, 3, false, 0).is_err());
        assert!(BlockGrid::new(latent, 0, 3, false, 0).is_err());
        assert!(BlockGrid::new(latent, 2, 3, false, 3).is_err());
        assert!(BlockGrid::new(LatentShape { channels: usize::MAX, ..latent }, 2, 3, false, 0).is_err());
    }
}
