//! What the work of a device costs, kernel by kernel: time by the driver's events, bytes and operations as counted when
//! it is submitted. `unsafe` is allowed here for the driver's events.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::{CudaStream, sys};

use super::libraries;

/// What something costs by its sizes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes of the arrays that it reads and writes, each once.
    pub bytes: u64,
    /// Additions and multiplications of matrix products.
    pub operations: u64,
}

/// What one kernel, or the products of cublasLt, took together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Share {
    /// How often it was submitted.
    pub calls: u64,
    /// Seconds on the device.
    pub seconds: f64,
    /// Bytes and operations.
    pub cost: Cost,
}

/// What work took, by the name of what was submitted.
pub type Profile = BTreeMap<String, Share>;

/// Notes what is submitted to a stream.
#[derive(Debug)]
pub(super) struct Profiler {
    stream: Arc<CudaStream>,
    noted: Vec<(String, Cost, [sys::CUevent; 2])>,
}

impl Profiler {
    pub fn new(stream: &Arc<CudaStream>) -> Self {
        Self { stream: stream.clone(), noted: Vec::new() }
    }

    /// An event between what was submitted and what will be.
    pub fn event(&self) -> Result<sys::CUevent, DriverError> {
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT)?;
        // SAFETY: the event was just made; the stream lives.
        unsafe { result::event::record(event, self.stream.cu_stream()) }?;
        Ok(event)
    }

    /// Notes work between two events.
    pub fn note(&mut self, what: &str, cost: Cost, events: [sys::CUevent; 2]) {
        self.noted.push((what.to_owned(), cost, events));
    }

    /// What all of it took. Waits for it.
    pub fn finish(mut self) -> Result<Profile, DriverError> {
        self.stream.synchronize()?;
        let mut profile = Profile::new();
        for (what, cost, [start, end]) in std::mem::take(&mut self.noted) {
            // SAFETY: both events were recorded and have happened; each is destroyed once.
            let milliseconds = unsafe {
                let taken = elapsed(start, end);
                let _ = result::event::destroy(start);
                let _ = result::event::destroy(end);
                taken?
            };
            let share = profile.entry(what).or_default();
            share.calls += 1;
            share.seconds += f64::from(milliseconds) * 1e-3;
            share.cost.bytes += cost.bytes;
            share.cost.operations += cost.operations;
        }
        Ok(profile)
    }
}

/// Milliseconds between two events. (cudarc looks for the function under the name of CUDA 12.8 and later alone.)
unsafe fn elapsed(start: sys::CUevent, end: sys::CUevent) -> Result<f32, DriverError> {
    type Elapsed = unsafe extern "C" fn(*mut f32, sys::CUevent, sys::CUevent) -> sys::CUresult;
    let missing = DriverError(sys::CUresult::CUDA_ERROR_NOT_FOUND);
    let driver = libraries::load(libraries::DRIVER).map_err(|_| missing)?;
    let mut milliseconds = 0.0;
    // SAFETY: both have had this type since CUDA 2; the caller's events were recorded and have happened.
    unsafe {
        let function = driver.get::<Elapsed>(b"cuEventElapsedTime_v2\0");
        let function = function.or_else(|_| driver.get::<Elapsed>(b"cuEventElapsedTime\0")).map_err(|_| missing)?;
        function(&mut milliseconds, start, end).result()?;
    }
    Ok(milliseconds)
}
