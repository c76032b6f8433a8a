//! Kernel inception distance (Bińkowski et al. 2018): the unbiased estimate of the squared maximum mean
//! discrepancy under the kernel `k(x,y) = (x·y/d + 1)³`, averaged over random subsets.
//!
//! Unlike the Fréchet distance its expectation does not depend on the number of pictures; it may come out
//! a little below zero where two sets are alike.

use rayon::prelude::*;
use rissole::{Error, Result};

use super::vectors::Vectors;
use crate::random::Random;

/// How the subsets are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subsets {
    /// How many subsets.
    pub count: usize,
    /// Vectors in each, drawn without replacement; fewer where a set is smaller.
    pub size: usize,
    /// Seed of the draw.
    pub seed: u64,
}

impl Default for Subsets {
    /// 100 subsets of 1,000, as is customary.
    fn default() -> Self {
        Self { count: 100, size: 1000, seed: 0 }
    }
}

/// Mean and spread of the estimate over subsets.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Kid {
    /// Mean over subsets.
    pub mean: f64,
    /// Standard deviation over subsets.
    pub std: f64,
    /// Vectors in each subset.
    pub subset_size: usize,
    /// Number of subsets.
    pub subsets: usize,
}

/// Kernel inception distance between two sets of features.
///
/// # Errors
/// [`Error::Usage`] when the dimensions differ, a set has fewer than two vectors, or no subset is asked for.
pub fn kernel_distance(a: &Vectors, b: &Vectors, subsets: &Subsets) -> Result<Kid> {
    if a.dim() != b.dim() {
        return Err(Error::Usage(format!("features of {} and {} values cannot be compared", a.dim(), b.dim())));
    }
    let size = subsets.size.min(a.len()).min(b.len());
    if size < 2 || subsets.count == 0 {
        return Err(Error::Usage("KID needs at least one subset of at least 2 vectors".into()));
    }
    let mut random = Random::new(subsets.seed);
    let draws: Vec<_> =
        (0..subsets.count).map(|_| (draw(a.len(), size, &mut random), draw(b.len(), size, &mut random))).collect();
    let estimates: Vec<f64> = draws.par_iter().map(|(ia, ib)| squared_mmd(&a.select(ia), &b.select(ib))).collect();
    let count = estimates.len() as f64;
    let mean = estimates.iter().sum::<f64>() / count;
    let variance = estimates.iter().map(|e| (e - mean).powi(2)).sum::<f64>() / count;
    Ok(Kid { mean, std: variance.sqrt(), subset_size: size, subsets: subsets.count })
}

/// `size` different numbers below `n` (the start of a Fisher–Yates shuffle).
fn draw(n: usize, size: usize, random: &mut Random) -> Vec<usize> {
    let mut all: Vec<usize> = (0..n).collect();
    for i in 0..size {
        all.swap(i, i + random.below(n - i));
    }
    all.truncate(size);
    all
}

/// Unbiased squared MMD of two sets of one size m: pairs of a vector with itself are left out within a set.
fn squared_mmd(a: &Vectors, b: &Vectors) -> f64 {
    let m = a.len() as f64;
    let within = |v: &Vectors| (kernel_sum(v, v) - self_sum(v)) / (m * (m - 1.0));
    within(a) + within(b) - 2.0 * kernel_sum(a, b) / (m * m)
}

fn kernel_sum(a: &Vectors, b: &Vectors) -> f64 {
    a.products(0..a.len(), b).iter().map(|&product| kernel(f64::from(product), a.dim())).sum()
}

fn self_sum(v: &Vectors) -> f64 {
    let square = |row: &[f32]| row.iter().map(|&x| f64::from(x).powi(2)).sum();
    v.rows().map(|row| kernel(square(row), v.dim())).sum()
}

fn kernel(product: f64, dim: usize) -> f64 {
    (product / dim as f64 + 1.0).powi(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vectors(n: usize, dim: usize, shift: f32, seed: u64) -> Vectors {
        let mut values = vec![0.0; n * dim];
        Random::new(seed).fill_normal(&mut values);
        values.iter_mut().for_each(|v| *v += shift);
        Vectors::new(dim, values).unwrap()
    }

    /// The estimator of Gretton et al. (2012), eq. 3, as it is written.
    fn naive(a: &Vectors, b: &Vectors) -> f64 {
        let k = |x: &[f32], y: &[f32]| {
            let product: f64 = x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
            (product / x.len() as f64 + 1.0).powi(3)
        };
        let (m, n) = (a.len(), b.len());
        let mut sum = 0.0;
        for (set, size) in [(a, m), (b, n)] {
            for i in 0..size {
                for j in (0..size).filter(|&j| j != i) {
                    sum += k(set.row(i), set.row(j)) / (size * (size - 1)) as f64;
                }
            }
        }
        for i in 0..m {
            for j in 0..n {
                sum -= 2.0 * k(a.row(i), b.row(j)) / (m * n) as f64;
            }
        }
        sum
    }

    #[test]
    fn one_subset_of_everything_is_the_naive_estimate() {
        let (a, b) = (vectors(40, 7, 0.0, 1), vectors(40, 7, 0.4, 2));
        let kid = kernel_distance(&a, &b, &Subsets { count: 1, size: 1000, seed: 9 }).unwrap();
        let expected = naive(&a, &b);
        assert!((kid.mean - expected).abs() < 1e-6 * expected.abs(), "{} {expected}", kid.mean);
        assert_eq!((kid.std, kid.subset_size), (0.0, 40));
    }

    #[test]
    fn subsets_average_to_the_whole_estimate() {
        // Each subset is unbiased for the whole estimate, so their mean lies within a few standard errors.
        let (a, b) = (vectors(120, 5, 0.0, 3), vectors(120, 5, 0.5, 4));
        let kid = kernel_distance(&a, &b, &Subsets { count: 400, size: 60, seed: 5 }).unwrap();
        let expected = naive(&a, &b);
        assert!(kid.std > 0.0);
        assert!((kid.mean - expected).abs() < 4.0 * kid.std / 20.0, "{kid:?} {expected}");
    }

    #[test]
    fn the_estimate_is_unbiased() {
        // Two sets from one distribution: the mean over independent draws is zero within its standard error.
        let estimates: Vec<f64> =
            (0..300).map(|i| squared_mmd(&vectors(10, 4, 0.0, 2 * i), &vectors(10, 4, 0.0, 2 * i + 1))).collect();
        let mean = estimates.iter().sum::<f64>() / 300.0;
        let std = (estimates.iter().map(|e| (e - mean).powi(2)).sum::<f64>() / 300.0).sqrt();
        assert!(mean.abs() < 4.0 * std / 300f64.sqrt(), "{mean} ± {std}");
        assert!(estimates.iter().any(|&e| e < 0.0));
    }

    #[test]
    fn a_draw_has_no_repeats() {
        let mut drawn = draw(50, 50, &mut Random::new(1));
        drawn.sort_unstable();
        assert_eq!(drawn, (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn sets_that_cannot_be_compared_are_refused() {
        let a = vectors(9, 3, 0.0, 1);
        assert!(kernel_distance(&a, &vectors(9, 4, 0.0, 1), &Subsets::default()).is_err());
        assert!(kernel_distance(&a, &vectors(1, 3, 0.0, 1), &Subsets::default()).is_err());
    }
}
