//! Seam ratio: do blocks fit together as well as the cells within a block do?

use image::RgbImage;
use rissole::{Error, Manifest, Result};

/// Where the boundaries of blocks and of latent cells lie in a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boundaries {
    /// Rows of blocks.
    pub rows: usize,
    /// Columns of blocks.
    pub cols: usize,
    /// Pixels along one side of a latent cell.
    pub downsampling: usize,
}

impl Boundaries {
    /// The boundaries of the pictures of a bundle.
    pub fn of(manifest: &Manifest) -> Self {
        Self { rows: manifest.grid.rows, cols: manifest.grid.cols, downsampling: manifest.latent.downsampling }
    }

    /// Seam ratio of `images`: the mean absolute difference of the two pixels on either side of a block
    /// boundary over the same at all other boundaries of latent cells, both averaged over all boundaries,
    /// pixels, channels and pictures. 1.0 is seamless.
    ///
    /// `None` where it is not defined: one block only, blocks of one cell, or flat pictures.
    ///
    /// # Errors
    /// [`Error::Usage`] when the boundaries do not divide a picture.
    pub fn seam_ratio<'a>(&self, images: impl IntoIterator<Item = &'a RgbImage>) -> Result<Option<f64>> {
        let (mut seams, mut others) = (Mean::default(), Mean::default());
        for image in images {
            self.add(image, &mut seams, &mut others)?;
        }
        Ok(seams.value().zip(others.value()).filter(|&(_, other)| other > 0.0).map(|(seam, other)| seam / other))
    }

    fn add(&self, image: &RgbImage, seams: &mut Mean, others: &mut Mean) -> Result<()> {
        let (width, height) = (image.width() as usize, image.height() as usize);
        let cell = self.downsampling;
        let divides = |side: usize, blocks: usize| blocks > 0 && side.is_multiple_of(blocks * cell);
        if cell == 0 || !divides(width, self.cols) || !divides(height, self.rows) {
            let Self { rows, cols, downsampling } = self;
            return Err(Error::Usage(format!(
                "a {rows}×{cols} grid of blocks of {downsampling}-pixel cells does not divide a picture of {width}×{height}"
            )));
        }
        let row = 3 * width;
        let pixels = image.as_raw();
        for x in (cell..width).step_by(cell) {
            let mean = if x.is_multiple_of(width / self.cols) { &mut *seams } else { &mut *others };
            for y in 0..height {
                let at = y * row + 3 * x;
                mean.add_differences(&pixels[at - 3..at], &pixels[at..at + 3]);
            }
        }
        for y in (cell..height).step_by(cell) {
            let mean = if y.is_multiple_of(height / self.rows) { &mut *seams } else { &mut *others };
            let at = y * row;
            mean.add_differences(&pixels[at - row..at], &pixels[at..at + row]);
        }
        Ok(())
    }
}

#[derive(Default)]
struct Mean {
    sum: u64,
    count: u64,
}

impl Mean {
    fn add_differences(&mut self, a: &[u8], b: &[u8]) {
        self.sum += a.iter().zip(b).map(|(a, b)| u64::from(a.abs_diff(*b))).sum::<u64>();
        self.count += a.len() as u64;
    }

    fn value(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum as f64 / self.count as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    const GRID: Boundaries = Boundaries { rows: 2, cols: 2, downsampling: 2 };

    #[test]
    fn a_steady_slope_has_no_seam_and_a_step_between_blocks_has_one() {
        let slope = RgbImage::from_fn(8, 8, |x, y| Rgb([(3 * x + 3 * y) as u8; 3]));
        assert_eq!(GRID.seam_ratio([&slope]).unwrap(), Some(1.0));
        // On both block boundaries the difference is 3 + 6 instead of 3.
        let step = RgbImage::from_fn(8, 8, |x, y| Rgb([(3 * x + 3 * y + x / 4 * 6 + y / 4 * 6) as u8; 3]));
        assert_eq!(GRID.seam_ratio([&step]).unwrap(), Some(3.0));
    }

    #[test]
    fn pictures_are_pooled_before_the_ratio_is_taken() {
        let slope = |s: u32| RgbImage::from_fn(8, 8, |x, y| Rgb([(s * (x + y)) as u8; 3]));
        let step = RgbImage::from_fn(8, 8, |x, y| Rgb([(x / 4 * 10 + y / 4 * 10) as u8; 3]));
        assert_eq!(GRID.seam_ratio([&step]).unwrap(), None);
        assert_eq!(GRID.seam_ratio([&slope(2), &step]).unwrap(), Some(6.0));
    }

    #[test]
    fn differences_inside_a_cell_do_not_count() {
        let within = RgbImage::from_fn(8, 8, |x, y| Rgb([(x.div_ceil(2) + y.div_ceil(2)) as u8 * 9; 3]));
        assert_eq!(GRID.seam_ratio([&within]).unwrap(), None);
    }

    #[test]
    fn boundaries_that_do_not_fit_are_refused() {
        let image = RgbImage::new(8, 6);
        assert!(GRID.seam_ratio([&image]).is_err());
        assert!(Boundaries { downsampling: 0, ..GRID }.seam_ratio([&image]).is_err());
        let whole = Boundaries { rows: 1, cols: 1, downsampling: 2 };
        assert_eq!(whole.seam_ratio([&image]).unwrap(), None);
    }
}
