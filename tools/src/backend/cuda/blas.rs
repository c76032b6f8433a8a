//! cuBLAS, where it is found: row-major products by its column-major ones. `unsafe` is allowed here for its C
//! interface.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::sync::Arc;

use cudarc::cublas::{CudaBlas, result, sys};
use cudarc::driver::CudaStream;
use rissole::{Error, Result};

use super::gemm::{Form, Product};
use super::libraries;

/// A handle on one stream.
#[derive(Debug)]
pub struct Blas {
    handle: CudaBlas,
}

impl Blas {
    /// cuBLAS on `stream`; `None`, with a word in the log, where it cannot be had: the own kernels are slower.
    pub fn open(stream: &Arc<CudaStream>) -> Option<Self> {
        if let Err(searched) = libraries::load(libraries::CUBLAS) {
            log::warn!("no cuBLAS: products take the slower kernels of this program; {searched}");
            return None;
        }
        match CudaBlas::new(stream.clone()) {
            Ok(handle) => Some(Self { handle }),
            Err(e) => {
                log::warn!("cuBLAS does not start ({e}): products take the slower kernels of this program");
                None
            }
        }
    }

    /// The product of the arrays at `a` and `b` into the one at `out`; [`Form::TransposedLeft`] adds to it.
    ///
    /// A row-major matrix is its transpose in column-major order, so out = a·b is outᵀ = bᵀ·aᵀ with the operands
    /// as they lie.
    ///
    /// # Errors
    /// What cuBLAS says; [`Error::Usage`] for sizes past 31 bits.
    pub fn multiply(&self, p: &Product, a: u64, b: u64, out: u64) -> Result<()> {
        use sys::cublasOperation_t::{CUBLAS_OP_N, CUBLAS_OP_T};
        let [rows, columns, depth] = [p.rows, p.columns, p.depth].map(c_int::try_from);
        let (Ok(rows), Ok(columns), Ok(depth)) = (rows, columns, depth) else {
            return Err(Error::Usage(format!("a product of {p:?} is too large for cuBLAS")));
        };
        let (op_b, ldb, op_a, lda, beta) = match p.form {
            Form::Plain => (CUBLAS_OP_N, columns, CUBLAS_OP_N, depth, 0.0f32),
            Form::TransposedRight => (CUBLAS_OP_T, depth, CUBLAS_OP_N, depth, 0.0),
            Form::TransposedLeft => (CUBLAS_OP_N, columns, CUBLAS_OP_T, rows, 1.0),
        };
        // SAFETY: the arrays hold rows × depth, depth × columns and rows × columns elements; alpha and beta are on
        // the host, as a new handle expects.
        unsafe {
            result::sgemm(
                *self.handle.handle(),
                op_b,
                op_a,
                columns,
                rows,
                depth,
                &1.0,
                b as *const f32,
                ldb,
                a as *const f32,
                lda,
                &beta,
                out as *mut f32,
                columns,
            )
        }
        .map_err(|e| Error::Internal(format!("cuBLAS: {e:?}")))
    }
}
