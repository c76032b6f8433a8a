//! One NVIDIA GPU through the driver: memory, copies, kernel launches, on one stream.
//!
//! `unsafe` is allowed here for the driver's C interface. What makes the calls sound:
//! - addresses come from [`Device::allocate`] and are freed once, by the pool that owns them;
//! - everything runs in the order of one stream, so memory may be reused as soon as its last use was submitted;
//! - a launch's arguments are checked against the kernel's own declaration; that they hold as many elements as the
//!   kernel touches is what the operations' shapes say, and what the parity checks show.
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::CString;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::{CudaContext, CudaStream, sys};
use rissole::{Error, Result};

use super::cudnn::Cudnn;
use super::nccl::Nccl;
use super::profile::{Cost, Profile, Profiler};
use super::program::{self, Parameter};
use super::staging::Staging;
use super::{blas::Blas, libraries};
use crate::group::Group;

/// Oldest driver that is asked for anything, as `cuDriverGetVersion` numbers them: CUDA 12.0.
const OLDEST_DRIVER: i32 = 12_000;

/// Least compute capability whose tensor cores take bf16.
const OLDEST_BF16: (u32, u32) = (8, 0);

/// An argument of a kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Argument {
    /// A count or an index.
    Size(u32),
    /// A number.
    Float(f32),
    /// An array.
    Array {
        /// Its address.
        address: u64,
        /// Whether its elements are bf16.
        narrow: bool,
        /// Its bytes.
        bytes: usize,
    },
}

impl Argument {
    /// Whether it can stand for a parameter, where activations are bf16 or else floats.
    fn fits(self, parameter: Parameter, bf16: bool) -> bool {
        match (self, parameter) {
            (Self::Size(_), Parameter::Size)
            | (Self::Float(_), Parameter::Float)
            | (Self::Array { .. }, Parameter::Pointer) => true,
            (Self::Array { narrow, .. }, Parameter::Floats) => !narrow,
            (Self::Array { narrow, .. }, Parameter::Activations) => narrow == bf16,
            _ => false,
        }
    }
}

/// Bytes of the arrays of numbers among the arguments of a kernel; tables that it looks things up in do not count.
fn bytes_of(arguments: &[Argument], parameters: &[Parameter]) -> u64 {
    let bytes = |(argument, parameter): (&Argument, &Parameter)| match (argument, parameter) {
        (Argument::Array { bytes, .. }, Parameter::Activations | Parameter::Floats) => *bytes as u64,
        _ => 0,
    };
    arguments.iter().zip(parameters).map(bytes).sum()
}

/// An open GPU with the kernels loaded.
#[derive(Debug)]
pub struct Device {
    /// What it is called, with its number, for messages.
    pub name: String,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    kernels: HashMap<String, Kernel>,
    /// Whether activations are bf16 to the kernels.
    bf16: bool,
    blas: Option<Blas>,
    staging: RefCell<Staging>,
    /// Whether work is being recorded.
    records: Cell<bool>,
    profiler: RefCell<Option<Profiler>>,
}

#[derive(Debug)]
struct Kernel {
    function: sys::CUfunction,
    parameters: Vec<Parameter>,
}

impl Device {
    /// Opens GPU `ordinal` and loads the kernels, with activations in bf16 or else as floats, from `cache` where they were
    /// compiled before.
    ///
    /// # Errors
    /// [`Error::Usage`] naming what is missing and where it was looked for: no driver, one that is too old, no such
    /// GPU, one without bf16 where that is wanted, no compiler.
    pub fn open(ordinal: usize, bf16: bool, cache: Option<&Path>) -> Result<Self> {
        let version = driver_version()?;
        let fault = |what: &str, e: DriverError| Error::Usage(format!("CUDA device {ordinal}: {what}: {e}"));
        let count = count()?;
        if ordinal >= count {
            return Err(Error::Usage(format!("there is no CUDA device {ordinal}: the driver sees {count}")));
        }
        let context = CudaContext::new(ordinal).map_err(|e| fault("cannot be opened", e))?;
        // SAFETY: all work goes to one stream, in order; nothing needs events to wait for another.
        unsafe { context.disable_event_tracking() };
        let attributes = || -> std::result::Result<_, DriverError> {
            use sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
            let multiprocessors = context.attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
            Ok((context.new_stream()?, context.name()?, context.compute_capability()?, multiprocessors))
        };
        let (stream, name, (major, minor), multiprocessors) = attributes().map_err(|e| fault("cannot be used", e))?;
        let arch = (major.unsigned_abs(), minor.unsigned_abs());
        if bf16 && arch < OLDEST_BF16 {
            return Err(Error::Usage(format!(
                "CUDA device {ordinal} ({name}) has compute capability {major}.{minor}; bf16 needs 8.0 (--precision f32)"
            )));
        }
        let source = program::source(bf16);
        let image = program::machine_code(&source, arch, version, cache)?;
        let kernels = load(&image, &source).map_err(|e| {
            let driver = format!("{}.{}", version / 1000, version % 1000 / 10);
            Error::Usage(format!(
                "CUDA device {ordinal}: the driver (CUDA {driver}) cannot load the kernels: {e}; \
                 an NVRTC newer than the driver makes code that it does not know"
            ))
        })?;
        let blas = Blas::open(&stream);
        let staging = Staging::new(&stream).map_err(|e| fault("memory for copies", e))?.into();
        let multiprocessors = multiprocessors.unsigned_abs().max(1);
        let name = format!("{name} (CUDA device {ordinal})");
        Ok(Self {
            name,
            multiprocessors,
            context,
            stream,
            kernels,
            bf16,
            blas,
            staging,
            records: Cell::new(false),
            profiler: RefCell::default(),
        })
    }

    /// Matrix products by cublasLt, where it was found.
    pub fn blas(&self) -> Option<&Blas> {
        self.blas.as_ref()
    }

    /// Convolutions by cuDNN.
    ///
    /// # Errors
    /// As [`Cudnn::open`].
    pub fn open_cudnn(&self) -> Result<Cudnn> {
        self.bind()?;
        Cudnn::open(&self.stream)
    }

    /// Joins the GPUs of the processes of `group`.
    ///
    /// # Errors
    /// As [`Nccl::join`].
    pub fn join(&self, group: &Group) -> Result<Nccl> {
        self.bind()?;
        Nccl::join(&self.stream, group)
    }

    /// Bytes free, and in all.
    ///
    /// # Errors
    /// What the driver says.
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.context.mem_get_info().map_err(|e| self.fault("memory", e))
    }

    /// New memory of `bytes`; `None` where there is not so much.
    ///
    /// # Errors
    /// Any other fault of the driver.
    pub fn allocate(&self, bytes: usize) -> Result<Option<u64>> {
        self.bind()?;
        // SAFETY: the address is used as this type's documentation says.
        match unsafe { result::malloc_sync(bytes) } {
            Ok(address) => Ok(Some(address)),
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => Ok(None),
            Err(e) => Err(self.fault("allocation", e)),
        }
    }

    /// Gives memory back. A fault is left for a later call to meet.
    pub fn free(&self, address: u64) {
        if self.bind().is_ok() {
            // SAFETY: the address came from `allocate` and is freed once; the driver waits for work that uses it.
            let _ = unsafe { result::free_sync(address) };
        }
    }

    /// Copies host values to `address`. They may change as soon as this returns.
    ///
    /// # Errors
    /// What the driver says.
    pub fn upload<T: bytemuck::Pod>(&self, values: &[T], address: u64) -> Result<()> {
        if self.records.get() {
            // The driver would record where the values lie on the host, and find others there later.
            return Err(Error::Internal(format!("{}: an upload cannot be recorded", self.name)));
        }
        self.bind()?;
        // SAFETY: the caller's array is that long.
        let staged = unsafe { self.staging.borrow_mut().copy(bytemuck::cast_slice(values), address) };
        if staged.map_err(|e| self.fault("upload", e))? {
            return Ok(());
        }
        // SAFETY: the driver stages what is not page-locked before the call returns; the caller's array is that long.
        unsafe { result::memcpy_htod_async(address, values, self.stream.cu_stream()) }
            .map_err(|e| self.fault("upload", e))
    }

    /// Copies from `address`, after all work before it.
    ///
    /// # Errors
    /// What the driver says, of this copy or of work before it.
    pub fn download<T: bytemuck::Pod>(&self, address: u64, to: &mut [T]) -> Result<()> {
        self.bind()?;
        // SAFETY: any bits are a value of T; the caller's array is that long; the copy is waited for.
        unsafe { result::memcpy_dtoh_async(to, address, self.stream.cu_stream()) }
            .map_err(|e| self.fault("download", e))?;
        self.synchronize()
    }

    /// Copies `bytes` on the device.
    ///
    /// # Errors
    /// What the driver says.
    pub fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        self.bind()?;
        self.timed("copy", Cost { bytes: 2 * bytes as u64, operations: 0 }, || {
            // SAFETY: both arrays are that long and distinct.
            unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) }
                .map_err(|e| self.fault("copy", e))
        })
    }

    /// Sets `bytes` to zero.
    ///
    /// # Errors
    /// What the driver says.
    pub fn clear(&self, address: u64, bytes: usize) -> Result<()> {
        self.bind()?;
        self.timed("clear", Cost { bytes: bytes as u64, operations: 0 }, || {
            // SAFETY: the array is that long.
            unsafe { result::memset_d8_async(address, 0, bytes, self.stream.cu_stream()) }
                .map_err(|e| self.fault("clear", e))
        })
    }

    /// Waits for all work.
    ///
    /// # Errors
    /// What the driver says, of any work before.
    pub fn synchronize(&self) -> Result<()> {
        self.stream.synchronize().map_err(|e| self.fault("work", e))
    }

    /// Submits a kernel with `block` threads in each block of `grid`; `more` is what it costs beside reading and writing its
    /// arrays.
    ///
    /// # Errors
    /// [`Error::Internal`] when there is no such kernel or the arguments are not of its declared types; what the
    /// driver says.
    pub fn launch(&self, kernel: &str, grid: [u32; 3], block: u32, arguments: &[Argument], more: Cost) -> Result<()> {
        let Kernel { function, parameters } =
            self.kernels.get(kernel).ok_or_else(|| Error::Internal(format!("no CUDA kernel {kernel}")))?;
        let fit = arguments.iter().zip(parameters).all(|(argument, &parameter)| argument.fits(parameter, self.bf16));
        if !fit || arguments.len() != parameters.len() {
            return Err(Error::Internal(format!("CUDA kernel {kernel}: arguments {arguments:?} for {parameters:?}")));
        }
        self.bind()?;
        let mut addresses: Vec<_> = arguments
            .iter()
            .map(|argument| match argument {
                Argument::Size(value) => std::ptr::from_ref(value).cast_mut().cast(),
                Argument::Float(value) => std::ptr::from_ref(value).cast_mut().cast(),
                Argument::Array { address, .. } => std::ptr::from_ref(address).cast_mut().cast(),
            })
            .collect();
        let (grid, block) = ((grid[0], grid[1], grid[2]), (block, 1, 1));
        let cost = Cost { bytes: bytes_of(arguments, parameters) + more.bytes, ..more };
        self.timed(kernel, cost, || {
            // SAFETY: the arguments have the declared types and outlive the call, which copies them.
            unsafe { result::launch_kernel(*function, grid, block, 0, self.stream.cu_stream(), &mut addresses) }
                .map_err(|e| self.fault(kernel, e))
        })
    }

    /// Submits what `submit` does, and notes it where work is profiled.
    ///
    /// # Errors
    /// As `submit`.
    pub fn timed(&self, what: &str, cost: Cost, submit: impl FnOnce() -> Result<()>) -> Result<()> {
        let fault = |e| self.fault("profile", e);
        let start = self.profiler.borrow().as_ref().map(Profiler::event).transpose().map_err(fault)?;
        submit()?;
        if let (Some(start), Some(profiler)) = (start, self.profiler.borrow_mut().as_mut()) {
            let end = profiler.event().map_err(fault)?;
            profiler.note(what, cost, [start, end]);
        }
        Ok(())
    }

    /// What `work` takes.
    ///
    /// # Errors
    /// What the driver says.
    pub fn profile(&self, work: impl FnOnce()) -> Result<Profile> {
        self.bind()?;
        *self.profiler.borrow_mut() = Some(Profiler::new(&self.stream));
        work();
        let profiler = self.profiler.take().expect("nothing else takes it");
        profiler.finish().map_err(|e| self.fault("profile", e))
    }

    /// Whether work is profiled.
    pub fn is_profiled(&self) -> bool {
        self.profiler.borrow().is_some()
    }

    /// Records what `work` submits, without doing it.
    ///
    /// # Errors
    /// What the driver says, of the recording or of something in it that cannot be recorded.
    pub fn record(self: &Rc<Self>, work: impl FnOnce()) -> Result<Graph> {
        self.bind()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives; the recording is ended below, whatever the work does.
        unsafe { result::stream::begin_capture(self.stream.cu_stream(), mode) }
            .map_err(|e| self.fault("recording", e))?;
        self.records.set(true);
        work();
        self.records.set(false);
        // SAFETY: the stream lives and a recording of it was begun.
        let graph =
            unsafe { result::stream::end_capture(self.stream.cu_stream()) }.map_err(|e| self.fault("recording", e))?;
        if graph.is_null() {
            return Err(Error::Internal(format!("{}: nothing was recorded", self.name)));
        }
        // SAFETY: the graph was just made; it is not needed any more once it is made executable, and is destroyed once.
        let made = unsafe {
            let made = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            let _ = result::graph::destroy(graph);
            made
        };
        Ok(Graph { work: made.map_err(|e| self.fault("recording", e))?, device: self.clone() })
    }

    /// Makes this GPU's context the thread's: a thread may use several.
    ///
    /// # Errors
    /// What the driver says.
    pub fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(|e| self.fault("context", e))
    }

    fn fault(&self, what: &str, error: DriverError) -> Error {
        Error::Internal(format!("{}: {what}: {error}", self.name))
    }
}

/// Recorded work. The arrays it names must live as long as it is launched.
#[derive(Debug)]
pub struct Graph {
    work: sys::CUgraphExec,
    device: Rc<Device>,
}

impl Graph {
    /// Submits the work.
    ///
    /// # Errors
    /// What the driver says.
    pub fn launch(&self) -> Result<()> {
        self.device.bind()?;
        // SAFETY: the work is whole; who recorded it keeps its arrays.
        unsafe { result::graph::launch(self.work, self.device.stream.cu_stream()) }
            .map_err(|e| self.device.fault("recorded work", e))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: made by `record` and destroyed once; the driver frees it when work in flight has ended. A failure leaks it.
            let _ = unsafe { result::graph::exec_destroy(self.work) };
        }
    }
}

/// How many GPUs the driver sees.
///
/// # Errors
/// [`Error::Usage`] when there is no driver, or one that does not start.
pub fn count() -> Result<usize> {
    driver_version()?;
    let fault = |e| Error::Usage(format!("the NVIDIA driver does not start: {e}"));
    result::init().map_err(fault)?;
    Ok(usize::try_from(result::device::get_count().map_err(fault)?).unwrap_or(0))
}

/// The driver's version, once it is loaded.
fn driver_version() -> Result<i32> {
    libraries::load(libraries::DRIVER).map_err(|searched| Error::Usage(format!("no NVIDIA driver: {searched}")))?;
    let mut version = 0;
    // SAFETY: the driver is loaded; this call needs no initialisation.
    unsafe { sys::cuDriverGetVersion(&mut version).result() }
        .map_err(|e| Error::Usage(format!("the NVIDIA driver does not tell its version: {e}")))?;
    if version < OLDEST_DRIVER {
        let (major, minor) = (version / 1000, version % 1000 / 10);
        return Err(Error::Usage(format!(
            "the NVIDIA driver is for CUDA {major}.{minor}; at least 12.0 is needed (driver 525 or later)"
        )));
    }
    Ok(version)
}

/// Loads compiled kernels into the current context, where they stay until it goes.
fn load(image: &[u8], source: &str) -> std::result::Result<HashMap<String, Kernel>, DriverError> {
    // SAFETY: the image is what NVRTC made, whole.
    let module = unsafe { result::module::load_data(image.as_ptr().cast()) }?;
    program::signatures(source)
        .into_iter()
        .map(|(name, parameters)| {
            let symbol = CString::new(name).map_err(|_| DriverError(sys::CUresult::CUDA_ERROR_NOT_FOUND))?;
            // SAFETY: the module is loaded and is never unloaded.
            let function = unsafe { result::module::get_function(module, symbol) }?;
            Ok((name.to_owned(), Kernel { function, parameters }))
        })
        .collect()
}
