//! Fréchet distance between Gaussians fitted to features (Heusel et al. 2017, eq. 6):
//! `|m₁ − m₂|² + tr S₁ + tr S₂ − 2·tr (S₁S₂)^½`.
//!
//! `S₁S₂` is not symmetric, so its root is badly behaved where a covariance is singular. It has the same
//! eigenvalues as the symmetric `S₁^½·S₂·S₁^½`, whose root exists for any pair of covariances; that one is
//! taken here, in `f64`.

use nalgebra::{DMatrix, DVector};
use rissole::{Error, Result};

use super::vectors::Vectors;

/// Mean and (unbiased) covariance of a set of vectors.
#[derive(Debug, Clone)]
pub struct Gaussian {
    mean: DVector<f64>,
    covariance: DMatrix<f64>,
}

impl Gaussian {
    /// Fits a Gaussian to `vectors`.
    ///
    /// # Errors
    /// [`Error::Usage`] for fewer than two vectors, which have no covariance.
    pub fn fit(vectors: &Vectors) -> Result<Self> {
        let n = vectors.len();
        if n < 2 {
            return Err(Error::Usage(format!("a Gaussian needs at least 2 vectors, got {n}")));
        }
        let values = vectors.rows().flatten().map(|&v| f64::from(v));
        let mut columns = DMatrix::from_iterator(vectors.dim(), n, values);
        let mean = columns.column_mean();
        columns.column_iter_mut().for_each(|mut column| column -= &mean);
        let covariance = &columns * columns.transpose() / (n - 1) as f64;
        Ok(Self { mean, covariance })
    }
}

/// The Gaussian that others are measured against, with the root of its covariance taken once.
#[derive(Debug, Clone)]
pub struct Reference {
    gaussian: Gaussian,
    root: DMatrix<f64>,
}

impl Reference {
    /// Prepares `gaussian` as a reference.
    pub fn new(gaussian: Gaussian) -> Self {
        let eigen = gaussian.covariance.clone().symmetric_eigen();
        let mut scaled = eigen.eigenvectors.clone();
        for (mut column, &value) in scaled.column_iter_mut().zip(&eigen.eigenvalues) {
            // Rounding leaves eigenvalues of a singular covariance a little below zero.
            column *= value.max(0.0).sqrt();
        }
        let root = scaled * eigen.eigenvectors.transpose();
        Self { gaussian, root }
    }

    /// Squared Fréchet distance to `other`, the number that goes by the name of FID.
    ///
    /// # Errors
    /// [`Error::Usage`] when the dimensions differ.
    pub fn distance(&self, other: &Gaussian) -> Result<f64> {
        let (own, dim) = (&self.gaussian, self.gaussian.mean.len());
        if other.mean.len() != dim {
            return Err(Error::Usage(format!("features of {} and {dim} values cannot be compared", other.mean.len())));
        }
        let product = &self.root * &other.covariance * &self.root;
        let symmetric = (&product + product.transpose()) * 0.5;
        let root_trace: f64 = symmetric.symmetric_eigenvalues().iter().map(|v| v.max(0.0).sqrt()).sum();
        let means = (&own.mean - &other.mean).norm_squared();
        Ok((means + own.covariance.trace() + other.covariance.trace() - 2.0 * root_trace).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn normal(n: usize, dim: usize, seed: u64) -> Vec<f32> {
        let mut values = vec![0.0; n * dim];
        Random::new(seed).fill_normal(&mut values);
        values
    }

    fn gaussian(mean: &[f64], covariance: DMatrix<f64>) -> Gaussian {
        Gaussian { mean: DVector::from_row_slice(mean), covariance }
    }

    /// Mixes the columns of white noise, so that the covariance is full.
    fn mixed(n: usize, dim: usize, seed: u64) -> Vectors {
        let white = DMatrix::from_vec(dim, n, normal(n, dim, seed));
        let mix = DMatrix::from_vec(dim, dim, normal(dim, dim, seed + 1));
        Vectors::new(dim, (mix * white).as_slice().to_vec()).unwrap()
    }

    /// Root of a matrix by the iteration of Denman & Beavers (1976): slow, no eigenvalues.
    fn naive_root(a: &DMatrix<f64>) -> DMatrix<f64> {
        let (mut y, mut z) = (a.clone(), DMatrix::identity(a.nrows(), a.nrows()));
        for _ in 0..60 {
            let (yi, zi) = (y.clone().try_inverse().unwrap(), z.clone().try_inverse().unwrap());
            (y, z) = ((y + zi) * 0.5, (z + yi) * 0.5);
        }
        y
    }

    #[test]
    fn the_fit_is_the_textbook_mean_and_covariance() {
        let g = Gaussian::fit(&Vectors::new(2, vec![1., 2., 3., 6., 5., 4.]).unwrap()).unwrap();
        assert_eq!(g.mean.as_slice(), [3., 4.]);
        assert_eq!(g.covariance.as_slice(), [4., 2., 2., 4.]);
        assert!(Gaussian::fit(&Vectors::new(2, vec![1., 2.]).unwrap()).is_err());
    }

    #[test]
    fn identical_sets_are_at_distance_zero_even_when_singular() {
        for n in [400, 12] {
            let g = Gaussian::fit(&mixed(n, 24, 3)).unwrap();
            let scale = g.covariance.trace();
            let distance = Reference::new(g.clone()).distance(&g).unwrap();
            assert!(distance < 1e-7 * scale, "{n}: {distance} of {scale}");
        }
    }

    #[test]
    fn shifted_and_scaled_gaussians_have_their_closed_form() {
        let s = Gaussian::fit(&mixed(200, 6, 5)).unwrap().covariance;
        let reference = Reference::new(gaussian(&[0.0; 6], s.clone()));
        let shift = [1.0, -2.0, 0.5, 0.0, 3.0, 0.25];
        let shifted = reference.distance(&gaussian(&shift, s.clone())).unwrap();
        let expected: f64 = shift.iter().map(|v| v * v).sum();
        assert!((shifted - expected).abs() < 1e-9 * (expected + s.trace()), "{shifted} {expected}");
        // N(0,S) against N(0,c²S): (1 − c)²·tr S.
        let scaled = reference.distance(&gaussian(&[0.0; 6], &s * 2.25)).unwrap();
        assert!((scaled - 0.25 * s.trace()).abs() < 1e-9 * s.trace());
        // Diagonal covariances: Σ (√a − √b)².
        let diagonal = |d: &[f64]| gaussian(&[0.0; 3], DMatrix::from_diagonal(&DVector::from_row_slice(d)));
        let d = Reference::new(diagonal(&[4.0, 1.0, 0.0])).distance(&diagonal(&[9.0, 0.0, 1.0])).unwrap();
        assert!((d - 3.0).abs() < 1e-9, "{d}");
    }

    #[test]
    fn full_covariances_agree_with_the_naive_root_in_both_directions() {
        let (a, b) = (Gaussian::fit(&mixed(300, 8, 11)).unwrap(), Gaussian::fit(&mixed(300, 8, 21)).unwrap());
        let cross = naive_root(&(&a.covariance * &b.covariance)).trace();
        let naive = (&a.mean - &b.mean).norm_squared() + a.covariance.trace() + b.covariance.trace() - 2.0 * cross;
        let there = Reference::new(a.clone()).distance(&b).unwrap();
        let back = Reference::new(b).distance(&a).unwrap();
        assert!((there - naive).abs() < 1e-7 * naive && (back - naive).abs() < 1e-7 * naive, "{there} {back} {naive}");
    }

    #[test]
    fn features_of_different_length_are_refused() {
        let (a, b) = (Gaussian::fit(&mixed(9, 3, 1)).unwrap(), Gaussian::fit(&mixed(9, 4, 1)).unwrap());
        assert!(Reference::new(a).distance(&b).is_err());
    }
}
