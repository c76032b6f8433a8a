//! Many vectors of one length: features of pictures, or pictures themselves.

use std::ops::Range;

use nalgebra::{DMatrix, DMatrixView};
use rissole::{Error, Result};

/// `len` vectors of `dim` values each, one after another.
#[derive(Debug, Clone, PartialEq)]
pub struct Vectors {
    dim: usize,
    values: Vec<f32>,
}

impl Vectors {
    /// Vectors of `dim` values from their values one after another.
    ///
    /// # Errors
    /// [`Error::Usage`] when `dim` is zero, does not divide the number of values, or a value is not finite.
    pub fn new(dim: usize, values: Vec<f32>) -> Result<Self> {
        if dim == 0 || !values.len().is_multiple_of(dim) {
            return Err(Error::Usage(format!("{} values are no whole number of vectors of {dim}", values.len())));
        }
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            return Err(Error::Usage(format!("value {} of vector {} is not finite", at % dim, at / dim)));
        }
        Ok(Self { dim, values })
    }

    /// Values in one vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Number of vectors.
    pub fn len(&self) -> usize {
        self.values.len() / self.dim
    }

    /// True when there are no vectors.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Vector `i`.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.dim..][..self.dim]
    }

    /// All vectors in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.dim)
    }

    /// The vectors numbered by `chosen`, in that order.
    pub fn select(&self, chosen: &[usize]) -> Self {
        let values = chosen.iter().flat_map(|&i| self.row(i)).copied().collect();
        Self { dim: self.dim, values }
    }

    /// Inner products of vectors `range` of `self` (rows) with all of `other` (columns).
    pub fn products(&self, range: Range<usize>, other: &Self) -> DMatrix<f32> {
        assert_eq!(self.dim, other.dim, "vectors of one length");
        let rows = &self.values[range.start * self.dim..range.end * self.dim];
        // nalgebra is column-major: rows one after another are the transpose.
        let left = DMatrixView::from_slice(rows, self.dim, range.len()).transpose();
        left * DMatrixView::from_slice(&other.values, other.dim, other.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_inner_products() {
        let a = Vectors::new(3, (0..12).map(|v| v as f32).collect()).unwrap();
        let b = Vectors::new(3, (0..6).map(|v| (v * v) as f32).collect()).unwrap();
        let products = a.products(1..4, &b);
        for i in 0..3 {
            for j in 0..2 {
                let naive: f32 = a.row(i + 1).iter().zip(b.row(j)).map(|(x, y)| x * y).sum();
                assert_eq!(products[(i, j)], naive);
            }
        }
        assert_eq!(a.select(&[2, 0]).row(1), a.row(0));
    }

    #[test]
    fn ragged_and_non_finite_values_are_refused() {
        assert!(Vectors::new(0, vec![]).is_err());
        assert!(Vectors::new(3, vec![0.0; 4]).is_err());
        assert!(Vectors::new(2, vec![0.0, f32::NAN]).is_err());
    }
}
