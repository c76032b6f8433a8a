//! The way of small arrays from the host to the device: through memory that the driver need not stage, so that the host
//! goes on while the device still works. `unsafe` is allowed here for that memory and the driver's events.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::{CudaStream, sys};

/// Bytes of a half: some steps' worth of what they are told.
const HALF: usize = 1 << 20;
/// What addresses are multiples of.
const ALIGNMENT: usize = 16;

/// Page-locked memory in two halves. One is filled while the device may still read the other.
#[derive(Debug)]
pub(super) struct Staging {
    memory: *mut u8,
    stream: Arc<CudaStream>,
    /// Reached when what was copied from a half before it was left has been read.
    left: [sys::CUevent; 2],
    /// The half that is being filled.
    half: usize,
    /// Where in it the next array goes.
    at: usize,
}

impl Staging {
    /// Memory for copies on `stream`, whose context is the thread's.
    pub fn new(stream: &Arc<CudaStream>) -> Result<Self, DriverError> {
        let event = || result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING);
        // SAFETY: the memory is freed once, when this is dropped.
        let memory = unsafe { result::malloc_host(2 * HALF, 0) }?.cast();
        let mut staging = Self { memory, stream: stream.clone(), left: [std::ptr::null_mut(); 2], half: 0, at: 0 };
        staging.left = [event()?, event()?];
        Ok(staging)
    }

    /// Copies `bytes` to `address`; they may change as soon as this returns. Waits only when the device is a whole half
    /// behind. False, and nothing done, for more than a half.
    ///
    /// # Safety
    /// There are as many bytes at `address`.
    pub unsafe fn copy(&mut self, bytes: &[u8], address: u64) -> Result<bool, DriverError> {
        if bytes.len() > HALF {
            return Ok(false);
        }
        if self.at + bytes.len() > HALF {
            let next = 1 - self.half;
            // SAFETY: the events and the stream live; an event that was never recorded is not waited for.
            unsafe {
                result::event::record(self.left[self.half], self.stream.cu_stream())?;
                result::event::synchronize(self.left[next])?;
            }
            (self.half, self.at) = (next, 0);
        }
        // SAFETY: there is room to the half's end, and the device has read what was there before. It will have read the
        // bytes before this half is filled again.
        unsafe {
            let to = std::slice::from_raw_parts_mut(self.memory.add(self.half * HALF + self.at), bytes.len());
            to.copy_from_slice(bytes);
            result::memcpy_htod_async(address, to, self.stream.cu_stream())?;
        }
        self.at = (self.at + bytes.len()).next_multiple_of(ALIGNMENT);
        Ok(true)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // SAFETY: made in `new` and destroyed once, when the device has read everything. On a lost device that fails, and
        // so be it.
        unsafe {
            let _ = self.stream.synchronize();
            let _ = result::free_host(self.memory.cast::<c_void>());
            for event in self.left.into_iter().filter(|event| !event.is_null()) {
                let _ = result::event::destroy(event);
            }
        }
    }
}
