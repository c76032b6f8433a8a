//! cublasLt, where it is found: row-major products by its column-major ones, with a bias where there is one. `unsafe` is
//! allowed here for its C interface.
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::rc::Rc;
use std::sync::Arc;

use cudarc::cublaslt::result::CublasError;
use cudarc::cublaslt::{result, sys};
use cudarc::driver::{CudaStream, result as driver};
use rissole::{Error, Result};

use super::gemm::{Form, Product};
use super::libraries;
use super::memory::Place;
use super::owned::Owned;
use sys::cublasLtMatmulDescAttributes_t::{
    CUBLASLT_MATMUL_DESC_BIAS_POINTER, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_MATMUL_DESC_TRANSA,
    CUBLASLT_MATMUL_DESC_TRANSB,
};
use sys::cublasLtMatmulPreferenceAttributes_t::{
    CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
    CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
    CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
};

/// Bytes that cublasLt may work in: what its documentation advises for the largest GPUs.
const WORKSPACE: usize = 32 << 20;
/// Most of an address's alignment that algorithms ask for.
const MOST_ALIGNED: u64 = 256;
/// How sums that are done in parts may be put together: as floats, in an order of their own.
const FLOAT_SUMS: u32 = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;

/// `CUBLAS_OP_N`, which `cudarc` has with cuBLAS alone.
const AS_IT_LIES: i32 = 0;
/// `CUBLAS_OP_T`.
const TRANSPOSED: i32 = 1;

/// Everything that the choice of an algorithm hangs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    product: Product,
    left: Operand,
    right: Operand,
    out: Operand,
    /// What a bias's address is a multiple of.
    bias: Option<u32>,
}

/// What matters of an array beside its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Operand {
    narrow: bool,
    /// What the address is a multiple of.
    alignment: u32,
}

impl From<Place> for Operand {
    fn from(place: Place) -> Self {
        Self { narrow: place.narrow, alignment: alignment(place.address) }
    }
}

fn alignment(address: u64) -> u32 {
    1 << (address | MOST_ALIGNED).trailing_zeros()
}

type Description = Owned<sys::cublasLtMatmulDesc_t, CublasError>;
type Layout = Owned<sys::cublasLtMatrixLayout_t, CublasError>;

/// How a product is done.
#[derive(Debug)]
pub struct Plan {
    description: Description,
    /// Of cublasLt's first operand, which is ours on the right, of its second and of the result.
    layouts: [Layout; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
    /// What the result is multiplied by before the product is added.
    keep: f32,
}

/// A handle with the plans of one stream.
#[derive(Debug)]
pub struct Blas {
    handle: sys::cublasLtHandle_t,
    workspace: u64,
    plans: RefCell<HashMap<Key, Option<Rc<Plan>>>>,
    /// Whether it was said that there is no plan for something.
    said: Cell<bool>,
    /// The work goes there.
    stream: Arc<CudaStream>,
}

impl Blas {
    /// cublasLt for `stream`; `None`, with a word in the log, where it cannot be had: the own kernels are slower.
    pub fn open(stream: &Arc<CudaStream>) -> Option<Self> {
        if let Err(searched) = libraries::load(libraries::CUBLAS_LT) {
            log::warn!("no cublasLt: products take the slower kernels of this program; {searched}");
            return None;
        }
        match result::create_handle() {
            Ok(handle) => Some(Self {
                handle,
                // SAFETY: it is freed once, when no work is left, and used by nothing else. Without it there are fewer
                // algorithms.
                workspace: unsafe { driver::malloc_sync(WORKSPACE) }.unwrap_or(0),
                plans: RefCell::default(),
                said: Cell::new(false),
                stream: stream.clone(),
            }),
            Err(e) => {
                log::warn!("cublasLt does not start ({e}): products take the slower kernels of this program");
                None
            }
        }
    }

    /// How the product of the arrays at `a` and `b` into the one at `out` is done, the first time as cublasLt advises:
    /// later, and in recordings, it is not asked. A `bias` is of the result's type. `None` where it has no algorithm.
    ///
    /// # Errors
    /// What cublasLt says.
    pub fn plan(&self, p: &Product, a: Place, b: Place, bias: Option<Place>, out: Place) -> Result<Option<Rc<Plan>>> {
        let bias_alignment = bias.map(|bias| alignment(bias.address));
        let key = Key { product: *p, left: a.into(), right: b.into(), out: out.into(), bias: bias_alignment };
        match self.plans.borrow_mut().entry(key) {
            Entry::Occupied(plan) => Ok(plan.get().clone()),
            Entry::Vacant(place) => {
                let plan = match self.make(&key, bias) {
                    Ok(plan) => Some(Rc::new(plan)),
                    Err(CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED)) => {
                        if bias.is_none() && !self.said.replace(true) {
                            log::warn!("cublasLt has no {p:?}: a slower kernel of this program does it");
                        }
                        None
                    }
                    Err(e) => return Err(fault(e)),
                };
                Ok(place.insert(plan).clone())
            }
        }
    }

    /// A row-major matrix is its transpose in column-major order, so out = a·b is outᵀ = bᵀ·aᵀ with the operands as they
    /// lie, and what is added to every row of `out` is added to every column, as cublasLt adds a bias.
    fn make(&self, key: &Key, bias: Option<Place>) -> std::result::Result<Plan, CublasError> {
        let [rows, columns, depth] = [key.product.rows, key.product.columns, key.product.depth];
        // Operation and shape as it lies, of each operand; then what is kept of the result.
        let (right, left, keep) = match key.product.form {
            Form::Plain => ((AS_IT_LIES, [columns, depth]), (AS_IT_LIES, [depth, rows]), 0.0),
            Form::TransposedRight => ((TRANSPOSED, [depth, columns]), (AS_IT_LIES, [depth, rows]), 0.0),
            Form::TransposedLeft => ((AS_IT_LIES, [columns, depth]), (TRANSPOSED, [rows, depth]), 1.0),
        };
        let layout = |operand: Operand, [height, width]: [usize; 2]| {
            let it = result::create_matrix_layout(kind(operand.narrow), height as u64, width as u64, height as i64)?;
            Ok(Layout { it, destroy: result::destroy_matrix_layout })
        };
        let layouts = [layout(key.right, right.1)?, layout(key.left, left.1)?, layout(key.out, [columns, rows])?];
        let description = Description {
            it: result::create_matmul_desc(
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                sys::cudaDataType::CUDA_R_32F,
            )?,
            destroy: result::destroy_matmul_desc,
        };
        set_description(&description, CUBLASLT_MATMUL_DESC_TRANSA, &right.0)?;
        set_description(&description, CUBLASLT_MATMUL_DESC_TRANSB, &left.0)?;
        if let Some(bias) = bias {
            let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS;
            set_description(&description, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
            // Its alignment counts.
            set_description(&description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias.address)?;
        }
        let algorithm = self.algorithm(key, &description, &layouts)?;
        Ok(Plan { description, layouts, algorithm, keep })
    }

    /// The algorithm that cublasLt thinks the fastest.
    fn algorithm(
        &self,
        key: &Key,
        description: &Description,
        [a, b, out]: &[Layout; 3],
    ) -> std::result::Result<sys::cublasLtMatmulAlgo_t, CublasError> {
        let preference = Owned { it: result::create_matmul_pref()?, destroy: result::destroy_matmul_pref };
        let set = |attribute, value: *const _, bytes| {
            // SAFETY: the preference lives; the callers' values are of the attribute's type.
            unsafe { result::set_matmul_pref_attribute(preference.it, attribute, value, bytes) }
        };
        let workspace = self.workspace_bytes() as u64;
        set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::ptr::from_ref(&workspace).cast(), size_of::<u64>())?;
        for (attribute, value) in [
            (CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, FLOAT_SUMS),
            (CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.right.alignment),
            (CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.left.alignment),
            (CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.out.alignment),
            (CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.out.alignment),
        ] {
            set(attribute, std::ptr::from_ref(&value).cast(), size_of::<u32>())?;
        }
        // SAFETY: all of these live.
        let found = unsafe {
            result::get_matmul_algo_heuristic(self.handle, description.it, a.it, b.it, out.it, out.it, preference.it)
        };
        Ok(found?.algo)
    }

    /// Submits the product of the arrays at `a` and `b` into the one at `out`, by the plan that was made for these. Sums are
    /// float; [`Form::TransposedLeft`] adds to what is there.
    ///
    /// # Errors
    /// What cublasLt says.
    pub fn multiply(&self, plan: &Plan, a: Place, b: Place, bias: Option<Place>, out: Place) -> Result<()> {
        let [layout_a, layout_b, layout_out] = &plan.layouts;
        if let Some(bias) = bias {
            set_description(&plan.description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias.address).map_err(fault)?;
        }
        // SAFETY: the arrays hold what the layouts say, of their types, and are as aligned as when the plan was made; alpha
        // and beta are floats on the host. All work that shares the workspace is of one stream.
        unsafe {
            result::matmul(
                self.handle,
                plan.description.it,
                std::ptr::from_ref(&1.0f32).cast(),
                std::ptr::from_ref(&plan.keep).cast(),
                b.address as *const _,
                layout_a.it,
                a.address as *const _,
                layout_b.it,
                out.address as *const _,
                layout_out.it,
                out.address as *mut _,
                layout_out.it,
                &plan.algorithm,
                self.workspace as *mut _,
                self.workspace_bytes(),
                self.stream.cu_stream().cast(),
            )
        }
        .map_err(fault)
    }

    /// Bytes that it holds to work in.
    pub fn workspace_bytes(&self) -> usize {
        if self.workspace == 0 { 0 } else { WORKSPACE }
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        // SAFETY: both were created here and go once. On a lost device that fails, and so be it.
        unsafe {
            let _ = result::destroy_handle(self.handle);
            if self.workspace != 0 {
                let _ = driver::free_sync(self.workspace);
            }
        }
    }
}

/// Sets an attribute, whose type must be `T`.
fn set_description<T>(
    description: &Description,
    attribute: sys::cublasLtMatmulDescAttributes_t,
    value: &T,
) -> std::result::Result<(), CublasError> {
    // SAFETY: the description lives; the value is as long as is said, and is copied.
    unsafe {
        result::set_matmul_desc_attribute(description.it, attribute, std::ptr::from_ref(value).cast(), size_of::<T>())
    }
}

fn kind(narrow: bool) -> sys::cudaDataType {
    if narrow { sys::cudaDataType::CUDA_R_16BF } else { sys::cudaDataType::CUDA_R_32F }
}

fn fault(e: CublasError) -> Error {
    Error::Internal(format!("cublasLt: {e}"))
}
