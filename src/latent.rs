//! Latents and their blocks: shapes, splitting, windows, stitching, thumbnails.
//!
//! A latent is a `C×H×W` array of `f32` in channel-major order (CHW). A [`BlockGrid`] cuts it into
//! `rows×cols` equal blocks, row-major. Its *levels*, coarse to fine, are the thumbnail, which is one block large, where there
//! is one; levels between, the latent averaged 2×2, 4×4, … down and cut into blocks of the same shape; and the latent. Each
//! is a grid of its own. *Positions* number what the denoiser draws: the blocks of every level, level by level. With a
//! thumbnail and no level between, position 0 is the thumbnail and position `1 + i` is block `i`; without a thumbnail,
//! position `i` is block `i`. A *window* is a block with `margin` cells of its surroundings on each side.

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
    levels_between: usize,
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
        Ok(Self { latent, rows, cols, thumbnail, levels_between: 0, margin })
    }

    /// The same grid with so many levels between thumbnail and blocks; none is what [`Self::new`] makes.
    ///
    /// # Errors
    /// [`Error::Usage`] without a thumbnail, or where a level's blocks cannot be halved in number along both sides, or would
    /// be the thumbnail itself.
    pub fn with_levels_between(self, levels_between: usize) -> Result<Self> {
        let fault = |text: &str| Err(Error::Usage(format!("{levels_between} levels between: {text}")));
        if levels_between > 0 {
            if !self.thumbnail {
                return fault("there is no thumbnail");
            }
            let halves = |blocks: usize| blocks.trailing_zeros() as usize >= levels_between;
            if !halves(self.rows) || !halves(self.cols) {
                return fault(&format!("{}×{} blocks do not halve as often", self.rows, self.cols));
            }
            if (self.rows.max(self.cols)) >> levels_between == 1 {
                return fault("the coarsest would be the thumbnail itself");
            }
        }
        Ok(Self { levels_between, ..self })
    }

    /// The grid that a block database has: without levels between, which are averages of its blocks, and without a margin.
    pub fn stored(&self) -> Self {
        Self { levels_between: 0, margin: 0, ..*self }
    }

    /// Shape of the whole latent.
    pub fn latent(&self) -> LatentShape {
        self.latent
    }

    /// Rows and columns of blocks.
    pub fn rows_cols(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// Levels that are drawn: the thumbnail, those between, the latent.
    pub fn levels(&self) -> usize {
        usize::from(self.thumbnail) + self.levels_between + 1
    }

    /// Level `level`, 0 the coarsest, as a grid of its own with the same margin.
    pub fn level(&self, level: usize) -> Self {
        let halvings = (self.levels() - 1).saturating_sub(level);
        let (rows, cols) = match self.is_thumbnail(level) {
            true => (1, 1),
            false => (self.rows >> halvings, self.cols >> halvings),
        };
        let block = self.block();
        let latent = LatentShape { height: block.height * rows, width: block.width * cols, ..block };
        Self { latent, rows, cols, thumbnail: false, levels_between: 0, margin: self.margin }
    }

    /// Whether level `level` is the thumbnail.
    pub fn is_thumbnail(&self, level: usize) -> bool {
        self.thumbnail && level == 0
    }

    /// The number of the finest level, the latent.
    pub fn finest(&self) -> usize {
        self.levels() - 1
    }

    /// The positions of level `level`.
    pub fn positions_of(&self, level: usize) -> std::ops::Range<usize> {
        let first = (0..level).map(|coarser| self.level(coarser).blocks()).sum();
        first..first + self.level(level).blocks()
    }

    /// The level at `position`, and the block of it.
    ///
    /// # Panics
    /// For a position that there is not.
    pub fn locate(&self, position: usize) -> (usize, usize) {
        let here = |level: &usize| self.positions_of(*level).contains(&position);
        let level = (0..self.levels()).find(here).expect("a position of the grid");
        (level, position - self.positions_of(level).start)
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

    /// Number of positions the denoiser draws: the blocks of all levels.
    pub fn positions(&self) -> usize {
        self.positions_of(self.finest()).end
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.rows * self.cols
    }

    /// The block drawn at `position`, or `None` where that is the thumbnail or of a level between.
    pub fn block_at(&self, position: usize) -> Option<usize> {
        position.checked_sub(self.position_of(0))
    }

    /// The position of block `block`.
    pub fn position_of(&self, block: usize) -> usize {
        self.positions_of(self.finest()).start + block
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

    /// The cells of the window at `position`, in the plane of its level: [`Self::window_cells`] of that.
    ///
    /// # Panics
    /// As [`Self::locate`].
    pub fn position_cells(&self, position: usize) -> Vec<Option<usize>> {
        let (level, block) = self.locate(position);
        self.level(level).window_cells(block).collect()
    }

    /// Says for a cell of level `fine` which cell of level `coarse` lies over it (nearest upsampling).
    pub fn over(&self, fine: usize, coarse: usize) -> impl Fn(usize) -> usize + use<> {
        let [fine, coarse] = [fine, coarse].map(|level| self.level(level).latent);
        let (down, across) = (fine.height / coarse.height, fine.width / coarse.width);
        move |cell| cell / fine.width / down * coarse.width + cell % fine.width / across
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

    /// The latent averaged down to level `level`. `latent` is CHW.
    pub fn average_down(&self, latent: &[f32], level: usize) -> Vec<f32> {
        let (coarse, cells) = (self.level(level).latent, self.latent.cells());
        let mut out = vec![0.0; coarse.len()];
        let over = self.over(self.finest(), level);
        for (plane, out) in latent.chunks_exact(cells).zip(out.chunks_exact_mut(coarse.cells())) {
            plane.iter().enumerate().for_each(|(cell, value)| out[over(cell)] += value);
        }
        let share = 1.0 / (cells / coarse.cells()) as f32;
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
        let thumbnail = grid.average_down(&latent, 0);
        assert_eq!(thumbnail.len(), 8);
        assert_eq!(thumbnail[0], (1 + 2 + 6 + 7 + 8) as f32 / 6.0);
        assert_eq!(grid.over(1, 0)(23), 3);
        assert_eq!(grid.positions(), 7);
        assert_eq!(grid.block_at(0), None);
        assert_eq!(grid.position_cells(0).into_iter().flatten().collect::<Vec<_>>(), [0, 1, 2, 3]);
    }

    #[test]
    fn levels_between_are_grids_of_their_own_and_average_what_is_under_them() {
        let latent = LatentShape { channels: 1, height: 8, width: 16 };
        let grid = BlockGrid::new(latent, 4, 8, true, 1).unwrap().with_levels_between(2).unwrap();
        let sizes: Vec<_> = (0..grid.levels()).map(|level| grid.level(level).rows_cols()).collect();
        assert_eq!(sizes, [(1, 1), (1, 2), (2, 4), (4, 8)]);
        assert!((0..4).all(|level| grid.level(level).block() == grid.block()));
        assert_eq!(grid.positions(), 1 + 2 + 8 + 32);
        let places = [0, 1, 2, 3, 10, 11, 42].map(|position| grid.locate(position));
        assert_eq!(places, [(0, 0), (1, 0), (1, 1), (2, 0), (2, 7), (3, 0), (3, 31)]);
        assert_eq!((grid.block_at(10), grid.block_at(11), grid.position_of(31)), (None, Some(0), 42));
        assert_eq!(grid.stored().positions(), 33);
        let values: Vec<f32> = (0..128).map(|v| v as f32).collect();
        assert_eq!(grid.average_down(&values, 3), values);
        assert_eq!(grid.average_down(&values, 2)[9], (34 + 35 + 50 + 51) as f32 / 4.0);
        let of_row = |row: usize| (0..4).map(move |col| row * 16 + 4 + col);
        assert_eq!(grid.average_down(&values, 1)[1], (0..4).flat_map(of_row).sum::<usize>() as f32 / 16.0);
        // A window of a level between sees the other blocks of that level, and nothing outside.
        let cells = grid.position_cells(2);
        assert_eq!(cells[..4], [None; 4]);
        assert_eq!(cells[4..8], [Some(1), Some(2), Some(3), None]);
        assert_eq!([9, 31].map(grid.over(2, 1)), [0, 7]);
    }

    #[test]
    fn levels_between_that_cannot_be_are_refused() {
        let latent = LatentShape { channels: 1, height: 8, width: 16 };
        let with = |rows, cols, thumbnail, levels| {
            BlockGrid::new(latent, rows, cols, thumbnail, 0).unwrap().with_levels_between(levels)
        };
        assert!(with(4, 4, false, 0).is_ok() && with(4, 4, false, 1).is_err());
        assert!(with(4, 4, true, 1).is_ok() && with(4, 4, true, 2).is_err() && with(2, 4, true, 2).is_err());
        assert!(with(1, 4, true, 1).is_err() && with(2, 4, true, usize::MAX).is_err());
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
