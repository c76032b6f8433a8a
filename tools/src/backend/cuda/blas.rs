//! cuBLAS, where it is found: row-major products by its column-major ones. `unsafe` is allowed here for its C
//! interface.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::sync::Arc;

use cudarc::cublas::{result, sys};
use cudarc::driver::{CudaStream, result as driver};
use rissole::{Error, Result};

use super::gemm::{Form, Product};
use super::libraries;
use super::memory::Place;

/// Bytes that cuBLAS may work in: what its documentation advises for the largest GPUs. Without memory of its own it would
/// ask for some in the midst of a recording.
const WORKSPACE: usize = 32 << 20;

const FLOAT_SUMS: sys::cublasMath_t = sys::cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;

/// A handle on one stream.
#[derive(Debug)]
pub struct Blas {
    handle: sys::cublasHandle_t,
    workspace: u64,
    /// The handle's work goes there, so it must live as long.
    _stream: Arc<CudaStream>,
}

impl Blas {
    /// cuBLAS on `stream`; `None`, with a word in the log, where it cannot be had: the own kernels are slower.
    pub fn open(stream: &Arc<CudaStream>) -> Option<Self> {
        if let Err(searched) = libraries::load(libraries::CUBLAS) {
            log::warn!("no cuBLAS: products take the slower kernels of this program; {searched}");
            return None;
        }
        let create = || {
            let mut blas = Self { handle: result::create_handle()?, workspace: 0, _stream: stream.clone() };
            // SAFETY: the handle was just created; the stream lives as long. The memory is freed after the handle is
            // destroyed, and used by nothing else; without it cuBLAS takes its own.
            unsafe {
                result::set_stream(blas.handle, stream.cu_stream().cast())?;
                // Sums of bf16 stay float, also where a product is done in parts.
                sys::cublasSetMathMode(blas.handle, FLOAT_SUMS).result()?;
                if let Ok(workspace) = driver::malloc_sync(WORKSPACE) {
                    blas.workspace = workspace;
                    sys::cublasSetWorkspace_v2(blas.handle, workspace as *mut _, WORKSPACE).result()?;
                }
            }
            Ok(blas)
        };
        match create() {
            Ok(blas) => Some(blas),
            Err::<_, result::CublasError>(e) => {
                log::warn!("cuBLAS does not start ({e}): products take the slower kernels of this program");
                None
            }
        }
    }

    /// The product of the arrays at `a` and `b` into the one at `out`; sums are float.
    /// [`Form::TransposedLeft`] adds to what is there.
    ///
    /// A row-major matrix is its transpose in column-major order, so out = a·b is outᵀ = bᵀ·aᵀ with the operands
    /// as they lie.
    ///
    /// # Errors
    /// What cuBLAS says; [`Error::Usage`] for sizes past 31 bits.
    pub fn multiply(&self, p: &Product, a: Place, b: Place, out: Place) -> Result<()> {
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
        let kind =
            |place: Place| if place.narrow { sys::cudaDataType::CUDA_R_16BF } else { sys::cudaDataType::CUDA_R_32F };
        // SAFETY: the arrays hold rows × depth, depth × columns and rows × columns elements of their types; alpha and
        // beta are floats on the host, as a new handle and float sums expect.
        unsafe {
            result::gemm_ex(
                self.handle,
                op_b,
                op_a,
                columns,
                rows,
                depth,
                std::ptr::from_ref(&1.0f32).cast(),
                b.address as *const _,
                kind(b),
                ldb,
                a.address as *const _,
                kind(a),
                lda,
                std::ptr::from_ref(&beta).cast(),
                out.address as *mut _,
                kind(out),
                columns,
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .map_err(|e| Error::Internal(format!("cuBLAS: {e:?}")))
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        // SAFETY: the handle was created here and is destroyed once. On a lost device that fails, and so be it.
        unsafe {
            let _ = result::destroy_handle(self.handle);
            if self.workspace != 0 {
                let _ = driver::free_sync(self.workspace);
            }
        }
    }
}
