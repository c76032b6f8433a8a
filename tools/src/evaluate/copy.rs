//! Copy distance: are samples new, or pictures of the database again?
//!
//! The distance of two pictures is the root of the mean squared difference of their 8-bit values (RMS over
//! pixels and channels, 0…255). A sample's distance to its nearest database picture means little alone; the
//! same for held-out real pictures, which are surely no copies, is the yardstick.

use image::RgbImage;
use rayon::prelude::*;
use rissole::{Error, Result};

use super::vectors::Vectors;

/// The database picture that is nearest to a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Nearest {
    /// Its number in the database.
    pub image: usize,
    /// RMS distance to it, in 8-bit levels.
    pub distance: f64,
}

/// How near samples lie to the database, and how near held-out real pictures do.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct CopyDistance {
    /// `samples` over `held_out`: well under 1 means copying.
    pub ratio: f64,
    /// Mean RMS distance of a sample to its nearest database picture.
    pub samples: f64,
    /// Mean RMS distance of a held-out real picture to its nearest database picture.
    pub held_out: f64,
    /// Smallest distance of a sample.
    pub closest_sample: f64,
    /// Share of samples that lie nearer to the database than 99 % of the held-out pictures do.
    pub suspect: f64,
}

impl CopyDistance {
    /// Compares the nearest neighbours of samples with those of held-out pictures; `None` when either is empty
    /// or every held-out picture is in the database itself.
    pub fn new(samples: &[Nearest], held_out: &[Nearest]) -> Option<Self> {
        let (mean_samples, mean_held_out) = (mean(samples)?, mean(held_out)?);
        let mut yardstick: Vec<f64> = held_out.iter().map(|n| n.distance).collect();
        yardstick.sort_by(f64::total_cmp);
        let first_percentile = yardstick[yardstick.len() / 100];
        let suspects = samples.iter().filter(|n| n.distance < first_percentile).count();
        (mean_held_out > 0.0).then(|| Self {
            ratio: mean_samples / mean_held_out,
            samples: mean_samples,
            held_out: mean_held_out,
            closest_sample: samples.iter().map(|n| n.distance).fold(f64::INFINITY, f64::min),
            suspect: suspects as f64 / samples.len() as f64,
        })
    }
}

fn mean(nearest: &[Nearest]) -> Option<f64> {
    (!nearest.is_empty()).then(|| nearest.iter().map(|n| n.distance).sum::<f64>() / nearest.len() as f64)
}

/// A set of pictures that can be searched for the exactly nearest one.
///
/// Averages over p×p pixels, times p, are coordinates in an orthonormal basis of a subspace, so the distance
/// of two averaged pictures never exceeds that of the pictures. All averaged distances come from one matrix
/// product; only pictures whose averaged distance is below the best found are then compared in full.
pub struct Pictures<'a> {
    images: &'a [RgbImage],
    pool: usize,
    averaged: Vectors,
    norms: Vec<f64>,
}

impl<'a> Pictures<'a> {
    /// Queries searched together: bounds the table of products.
    const CHUNK: usize = 64;
    /// Averaged pictures are at least this wide and high, where the size divides.
    const AVERAGED_SIDE: u32 = 16;

    /// Prepares `images` for searching.
    ///
    /// # Errors
    /// [`Error::Usage`] when there are none or their sizes differ.
    pub fn new(images: &'a [RgbImage]) -> Result<Self> {
        let first = images.first().ok_or_else(|| Error::Usage("there are no pictures to search".into()))?;
        let (width, height) = first.dimensions();
        let fits = |p: &u32| width.is_multiple_of(*p) && height.is_multiple_of(*p);
        let largest = (width.min(height) / Self::AVERAGED_SIDE).max(1);
        let pool = (1..=largest).rev().find(fits).unwrap_or(1) as usize;
        let averaged = averaged(images, first.dimensions(), pool)?;
        let norms = squared_norms(&averaged);
        Ok(Self { images, pool, averaged, norms })
    }

    /// The nearest picture to each of `queries`.
    ///
    /// # Errors
    /// [`Error::Usage`] when a query has another size than the pictures.
    pub fn nearest(&self, queries: &[RgbImage]) -> Result<Vec<Nearest>> {
        if queries.is_empty() {
            return Ok(Vec::new());
        }
        let averaged = averaged(queries, self.images[0].dimensions(), self.pool)?;
        let norms = squared_norms(&averaged);
        // Rounding of an inner product of n values in f32 is below n·2⁻²⁴·|a||b|; the bound must stay one.
        let slack = 1.01 * (averaged.dim() + self.pool.pow(2)) as f64 * 2f64.powi(-24);
        let chunks: Vec<_> = (0..queries.len()).step_by(Self::CHUNK).collect();
        let found = chunks.into_par_iter().flat_map_iter(|start| {
            let end = (start + Self::CHUNK).min(queries.len());
            let products = averaged.products(start..end, &self.averaged);
            let search = |query: usize| {
                let bound = |(i, &norm): (usize, &f64)| {
                    let norms = norm + norms[query];
                    norms - 2.0 * f64::from(products[(query - start, i)]) - slack * norms
                };
                let bounds: Vec<f64> = self.norms.iter().enumerate().map(bound).collect();
                self.search(&queries[query], &bounds)
            };
            (start..end).map(search).collect::<Vec<_>>()
        });
        Ok(found.collect())
    }

    /// The nearest picture to `query`, given a lower bound on the squared distance of each.
    fn search(&self, query: &RgbImage, bounds: &[f64]) -> Nearest {
        let distance = |i: usize| squared_distance(query.as_raw(), self.images[i].as_raw());
        let start = (0..bounds.len()).min_by(|&a, &b| bounds[a].total_cmp(&bounds[b])).unwrap_or(0);
        let mut best = (distance(start), start);
        let mut rest: Vec<usize> = (0..bounds.len()).filter(|&i| bounds[i] <= best.0 as f64).collect();
        rest.sort_by(|&a, &b| bounds[a].total_cmp(&bounds[b]));
        for i in rest {
            if bounds[i] > best.0 as f64 {
                break;
            }
            best = best.min((distance(i), i));
        }
        Nearest { image: best.1, distance: (best.0 as f64 / query.as_raw().len() as f64).sqrt() }
    }
}

fn squared_norms(vectors: &Vectors) -> Vec<f64> {
    vectors.rows().map(|row| row.iter().map(|&v| f64::from(v).powi(2)).sum()).collect()
}

/// Sum of squared differences of two pictures of one size.
fn squared_distance(a: &[u8], b: &[u8]) -> u64 {
    // A square is below 2¹⁶, so a row of 2¹⁵ fits in 32 bits, where the sum vectorises.
    let part = |(a, b): (&[u8], &[u8])| {
        let sum: u32 = a.iter().zip(b).map(|(&a, &b)| u32::from(a.abs_diff(b)).pow(2)).sum();
        u64::from(sum)
    };
    a.chunks(1 << 15).zip(b.chunks(1 << 15)).map(part).sum()
}

/// Pictures averaged over `pool×pool` pixels, times `pool`, around mid-grey.
fn averaged(images: &[RgbImage], size: (u32, u32), pool: usize) -> Result<Vectors> {
    if let Some(other) = images.iter().find(|image| image.dimensions() != size) {
        let ((w, h), (ow, oh)) = (size, other.dimensions());
        return Err(Error::Usage(format!("pictures of {w}×{h} and {ow}×{oh} cannot be compared")));
    }
    let (width, height) = (size.0 as usize, size.1 as usize);
    let row = 3 * width / pool;
    let dim = row * (height / pool);
    let mut values = vec![0.0; images.len() * dim];
    values.par_chunks_exact_mut(dim).zip(images).for_each(|(out, image)| {
        for (y, line) in image.as_raw().chunks_exact(3 * width).enumerate() {
            let out = &mut out[y / pool * row..][..row];
            for (x, pixel) in line.chunks_exact(3).enumerate() {
                for (out, &value) in out[x / pool * 3..].iter_mut().zip(pixel) {
                    *out += (f32::from(value) - 128.0) / pool as f32;
                }
            }
        }
    });
    Vectors::new(dim, values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// Smooth random pictures with some noise, so that averaged distances are close to but below the full ones.
    fn pictures(n: usize, width: u32, height: u32, seed: u64) -> Vec<RgbImage> {
        let mut random = Random::new(seed);
        let picture = |_| {
            let slopes: [f32; 9] = std::array::from_fn(|_| random.uniform() * 4.0 - 2.0);
            let mut picture = RgbImage::new(width, height);
            for (x, y, pixel) in picture.enumerate_pixels_mut() {
                for c in 0..3 {
                    let value = slopes[c] * x as f32 + slopes[c + 3] * y as f32 + slopes[c + 6] * 40.0;
                    pixel.0[c] = (128.0 + value + 30.0 * random.uniform()) as u8;
                }
            }
            picture
        };
        (0..n).map(picture).collect()
    }

    fn naive(query: &RgbImage, images: &[RgbImage]) -> Nearest {
        let rms = |image: &RgbImage| {
            let squares =
                query.as_raw().iter().zip(image.as_raw()).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2));
            (squares.sum::<f64>() / query.as_raw().len() as f64).sqrt()
        };
        let (image, distance) = images.iter().map(rms).enumerate().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
        Nearest { image, distance }
    }

    #[test]
    fn the_nearest_picture_is_that_of_an_exhaustive_search() {
        for (width, height) in [(64, 64), (48, 32), (17, 34)] {
            let database = pictures(150, width, height, 1);
            let mut queries = pictures(70, width, height, 2);
            queries.push(database[33].clone());
            let mut almost = database[77].clone();
            almost.get_pixel_mut(5, 5).0[1] ^= 1;
            queries.push(almost);
            let found = Pictures::new(&database).unwrap().nearest(&queries).unwrap();
            for (query, found) in queries.iter().zip(&found) {
                let expected = naive(query, &database);
                assert_eq!(found.image, expected.image);
                assert!((found.distance - expected.distance).abs() < 1e-9);
            }
            assert_eq!(found[70].distance, 0.0);
        }
    }

    #[test]
    fn distances_are_in_levels_and_large_pictures_do_not_overflow() {
        let (black, white) = (vec![0; 200_000], vec![255; 200_000]);
        assert_eq!(squared_distance(&black, &white), 200_000 * 255 * 255);
        let (black, grey) = (RgbImage::new(4, 4), RgbImage::from_pixel(4, 4, image::Rgb([10; 3])));
        assert_eq!(Pictures::new(&[black]).unwrap().nearest(&[grey]).unwrap()[0].distance, 10.0);
    }

    #[test]
    fn the_ratio_compares_means_and_counts_suspects() {
        let at =
            |distances: &[f64]| distances.iter().map(|&distance| Nearest { image: 0, distance }).collect::<Vec<_>>();
        let copy = CopyDistance::new(&at(&[10.0, 20.0, 30.0, 40.0]), &at(&[25.0, 55.0, 45.0, 75.0])).unwrap();
        assert_eq!((copy.samples, copy.held_out, copy.ratio), (25.0, 50.0, 0.5));
        assert_eq!((copy.closest_sample, copy.suspect), (10.0, 0.5));
        assert!(CopyDistance::new(&[], &at(&[1.0])).is_none());
    }

    #[test]
    fn pictures_of_different_sizes_are_refused() {
        let database = pictures(2, 8, 8, 1);
        assert!(Pictures::new(&[]).is_err());
        assert!(Pictures::new(&database).unwrap().nearest(&pictures(1, 8, 4, 1)).is_err());
    }
}
