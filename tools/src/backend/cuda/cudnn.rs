//! cuDNN, where it is asked for: convolutions of NHWC maps. `unsafe` is allowed here for its C interface.
//!
//! Its convolutions of before its graphs, which cuDNN 9 still has: an algorithm of theirs says whether its results repeat bit
//! for bit, and only such are taken.
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::c_int;
use std::rc::Rc;
use std::sync::Arc;

use cudarc::cudnn::result::{self, CudnnError};
use cudarc::cudnn::sys::{self, cudnnDataType_t, cudnnMathType_t};
use cudarc::driver::CudaStream;
use rissole::{Error, Result};

use super::super::Conv;
use super::libraries;
use super::memory::Place;
use super::owned::Owned;

/// Oldest version whose errors are known here, as cuDNN numbers them.
const OLDEST: usize = 90_000;
/// Most bytes that a convolution may work in.
const WORKSPACE: usize = 256 << 20;
/// Algorithms that are looked at; there are fewer.
const ALGORITHMS: usize = 32;
/// Statuses that say, in more or less detail, that something cannot be done.
const NOT_SUPPORTED: std::ops::Range<u32> = 3000..4000;
const NHWC: sys::cudnnTensorFormat_t = sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;

/// What is computed of a convolution, from two arrays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Task {
    /// The output, from input and filters.
    Output,
    /// The gradient of the input, from filters and that of the output.
    InputGradient,
    /// The gradient of the filters, from input and that of the output.
    FilterGradient,
}

#[derive(Debug, Clone, Copy)]
enum Algorithm {
    Output(sys::cudnnConvolutionFwdAlgo_t),
    InputGradient(sys::cudnnConvolutionBwdDataAlgo_t),
    FilterGradient(sys::cudnnConvolutionBwdFilterAlgo_t),
}

/// A convolution as cuDNN is told of it.
#[derive(Debug)]
struct Descriptors {
    input: Owned<sys::cudnnTensorDescriptor_t, CudnnError>,
    filters: Owned<sys::cudnnFilterDescriptor_t, CudnnError>,
    convolution: Owned<sys::cudnnConvolutionDescriptor_t, CudnnError>,
    output: Owned<sys::cudnnTensorDescriptor_t, CudnnError>,
}

impl Descriptors {
    fn new(g: &Conv, bf16: bool) -> std::result::Result<Self, CudnnError> {
        let kind = if bf16 { cudnnDataType_t::CUDNN_DATA_BFLOAT16 } else { cudnnDataType_t::CUDNN_DATA_FLOAT };
        // What is default permits TF32, whose products of floats are not of floats.
        let math = if bf16 { cudnnMathType_t::CUDNN_TENSOR_OP_MATH } else { cudnnMathType_t::CUDNN_FMA_MATH };
        let int = |n: usize| c_int::try_from(n).expect("arrays have fewer than 2³¹ elements");
        let tensor = |[channels, height, width]: [usize; 3]| {
            let made = Owned { it: result::create_tensor_descriptor()?, destroy: result::destroy_tensor_descriptor };
            let sizes = [g.batch, channels, height, width].map(int);
            // SAFETY: it was just created.
            unsafe { result::set_tensor4d_descriptor(made.it, NHWC, kind, sizes) }?;
            Ok(made)
        };
        let (height, width) = g.out_size();
        let input = tensor([g.inputs, g.height, g.width])?;
        let output = tensor([g.outputs, height, width])?;
        let filters = Owned { it: result::create_filter_descriptor()?, destroy: result::destroy_filter_descriptor };
        let [rows, columns] = g.window.sides;
        let sizes = [g.outputs, g.inputs, rows, columns].map(int);
        let convolution =
            Owned { it: result::create_convolution_descriptor()?, destroy: result::destroy_convolution_descriptor };
        let [above, left] = g.window.before.map(int);
        let (stride, mode) = (int(g.window.stride), sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION);
        let sums = cudnnDataType_t::CUDNN_DATA_FLOAT;
        // SAFETY: both were just created.
        unsafe {
            result::set_filter4d_descriptor(filters.it, kind, NHWC, sizes)?;
            result::set_convolution2d_descriptor(convolution.it, above, left, stride, stride, 1, 1, mode, sums)?;
            result::set_convolution_math_type(convolution.it, math)?;
        }
        Ok(Self { input, filters, convolution, output })
    }
}

/// How a task is done.
#[derive(Debug)]
pub struct Plan {
    descriptors: Descriptors,
    algorithm: Algorithm,
    /// Bytes that it works in.
    pub workspace: usize,
}

/// What was asked for; nothing where there is no algorithm.
type Plans = HashMap<(Conv, Task), Option<Rc<Plan>>>;

/// A handle with the plans of one stream.
#[derive(Debug)]
pub struct Cudnn {
    handle: sys::cudnnHandle_t,
    plans: RefCell<Plans>,
    /// Whether it was said that there is no plan for something.
    said: Cell<bool>,
    /// The work goes there.
    _stream: Arc<CudaStream>,
}

impl Cudnn {
    /// cuDNN for `stream`, whose context is the thread's.
    ///
    /// # Errors
    /// [`Error::Usage`]: no library, with where it was looked for, one that is too old, or one that does not start.
    pub fn open(stream: &Arc<CudaStream>) -> Result<Self> {
        libraries::load(libraries::CUDNN).map_err(|searched| Error::Usage(format!("no cuDNN: {searched}")))?;
        let version = result::get_version();
        if version < OLDEST {
            return Err(Error::Usage(format!("cuDNN is version {version}; at least 9.0 is needed")));
        }
        let fault = |e| Error::Usage(format!("cuDNN does not start: {e}"));
        let handle = result::create_handle().map_err(fault)?;
        let cudnn = Self { handle, plans: RefCell::default(), said: Cell::new(false), _stream: stream.clone() };
        // SAFETY: the handle was just created; the stream lives as long.
        unsafe { result::set_stream(handle, stream.cu_stream().cast()) }.map_err(fault)?;
        Ok(cudnn)
    }

    /// How a task is done, in bf16 or else in floats: the first time as cuDNN advises, later, and in recordings, it is not
    /// asked. `None` where it has no algorithm whose results repeat, in the memory that there is for it.
    ///
    /// # Errors
    /// What cuDNN says.
    pub fn plan(&self, g: &Conv, task: Task, bf16: bool) -> Result<Option<Rc<Plan>>> {
        match self.plans.borrow_mut().entry((*g, task)) {
            Entry::Occupied(plan) => Ok(plan.get().clone()),
            Entry::Vacant(place) => {
                let plan = match self.make(g, task, bf16) {
                    Ok(plan) => plan.map(Rc::new),
                    Err(CudnnError(status)) if NOT_SUPPORTED.contains(&(status as u32)) => None,
                    Err(e) => return Err(fault(e)),
                };
                if plan.is_none() && !self.said.replace(true) {
                    log::warn!("cuDNN has no {task:?} of {g:?}: this program's own kernels do it");
                }
                Ok(place.insert(plan).clone())
            }
        }
    }

    fn make(&self, g: &Conv, task: Task, bf16: bool) -> std::result::Result<Option<Plan>, CudnnError> {
        let descriptors = Descriptors::new(g, bf16)?;
        let Descriptors { input, filters, convolution, output } = &descriptors;
        // The first of the algorithms that cuDNN thinks the fastest, and what it works in.
        macro_rules! choose {
            ($task:ident, $ask:ident, $size:ident, $($descriptor:expr),*) => {{
                let (mut found, mut count) = (Vec::with_capacity(ALGORITHMS), 0);
                // SAFETY: the descriptors live; there is room for as many as are asked for, of which `count` are written.
                unsafe {
                    result::$ask(self.handle, $($descriptor.it),*, ALGORITHMS as c_int, &mut count, found.as_mut_ptr())?;
                    found.set_len(usize::try_from(count).unwrap_or(0));
                }
                let repeats = sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC;
                // What is found for floats may be for TF32.
                let fits = |math| bf16 || math == cudnnMathType_t::CUDNN_FMA_MATH;
                let good = found.iter().filter(|f| f.determinism == repeats && f.status.result().is_ok());
                good.filter(|f| fits(f.mathType)).find_map(|f| {
                    // What is said of it holds for its own kind of math.
                    // SAFETY: the descriptors live.
                    let bytes = unsafe {
                        result::set_convolution_math_type(convolution.it, f.mathType).ok()?;
                        result::$size(self.handle, $($descriptor.it),*, f.algo).ok()?
                    };
                    (bytes <= WORKSPACE).then_some((Algorithm::$task(f.algo), bytes))
                })
            }};
        }
        let chosen = match task {
            Task::Output => choose!(
                Output,
                get_convolution_forward_algorithm,
                get_convolution_forward_workspace_size,
                input,
                filters,
                convolution,
                output
            ),
            Task::InputGradient => choose!(
                InputGradient,
                get_convolution_backward_data_algorithm,
                get_convolution_backward_data_workspace_size,
                filters,
                output,
                convolution,
                input
            ),
            Task::FilterGradient => choose!(
                FilterGradient,
                get_convolution_backward_filter_algorithm,
                get_convolution_backward_filter_workspace_size,
                input,
                output,
                convolution,
                filters
            ),
        };
        Ok(chosen.map(|(algorithm, workspace)| Plan { descriptors, algorithm, workspace }))
    }

    /// Submits what a plan was made for, from the arrays at `from` to the one at `to`, working in that at `workspace`. Sums
    /// are float.
    ///
    /// # Errors
    /// What cuDNN says.
    pub fn convolve(&self, plan: &Plan, from: [Place; 2], to: Place, workspace: Place) -> Result<()> {
        let Descriptors { input, filters, convolution, output } = &plan.descriptors;
        let [a, b] = from.map(|place| place.address as *const _);
        let (one, zero) = (std::ptr::from_ref(&1.0f32).cast(), std::ptr::from_ref(&0.0f32).cast());
        macro_rules! submit {
            ($submit:ident, $algorithm:expr, $a:expr, $b:expr, $to:expr) => {
                result::$submit(
                    self.handle,
                    one,
                    $a.it,
                    a,
                    $b.it,
                    b,
                    convolution.it,
                    $algorithm,
                    workspace.address as *mut _,
                    plan.workspace,
                    zero,
                    $to.it,
                    to.address as *mut _,
                )
            };
        }
        // SAFETY: the arrays hold what the descriptors say, and the workspace what the plan does; factors are floats on the
        // host.
        unsafe {
            match plan.algorithm {
                Algorithm::Output(algorithm) => submit!(convolution_forward, algorithm, input, filters, output),
                Algorithm::InputGradient(algorithm) => {
                    submit!(convolution_backward_data, algorithm, filters, output, input)
                }
                Algorithm::FilterGradient(algorithm) => {
                    submit!(convolution_backward_filter, algorithm, input, output, filters)
                }
            }
        }
        .map_err(fault)
    }
}

impl Drop for Cudnn {
    fn drop(&mut self) {
        // SAFETY: the handle was created here and is destroyed once. On a lost device that fails, and so be it.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

fn fault(e: CudnnError) -> Error {
    Error::Internal(format!("cuDNN: {e}"))
}
