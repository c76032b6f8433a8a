//! The C library. `include/rissole.h` is generated from this folder (`include/cbindgen.toml`); a test in `.ci/run`
//! keeps the two together.
//!
//! What holds at this boundary:
//! - nothing unwinds out of it: every function that can fail does its work inside `fault::guard`; the others only read
//!   or write a few numbers;
//! - a pointer is checked for NULL and alignment, a length against what it bounds, before anything is read;
//! - a struct that may grow begins with its size (see [`grown`]), a number that C calls an enum is checked;
//! - handles are opaque. A model may be used from several threads at once, a generator from one at a time, which
//!   a lock enforces; only [`generator::rissole_generator_cancel`] may come from elsewhere meanwhile.
#![allow(unsafe_code)]

pub mod fault;
pub mod files;
pub mod generator;
pub mod grown;
pub mod image;
pub mod logging;
pub mod memory;
pub mod model;
pub mod progress;

use std::ffi::c_char;

/// The library counts what it allocates, so that a RAM budget can be kept. Programs in Rust choose for themselves.
#[cfg(feature = "c-library")]
#[global_allocator]
static ALLOCATOR: crate::budget::CountingAllocator = crate::budget::CountingAllocator;

/// Version of the binary interface. It changes when a program must be compiled again. The shared library is named after it
/// (`cross/install.sh`).
pub const ABI_VERSION: u32 = 2;

/// The version of the binary interface of the library that runs; compare it with RISSOLE_ABI_VERSION. Any
/// thread.
#[unsafe(no_mangle)]
pub extern "C" fn rissole_abi_version() -> u32 {
    ABI_VERSION
}

/// The library's version, like "0.1.0". Never NULL, valid for ever. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn rissole_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// Bytes of heap that the library has allocated: now, and most at once since the program began. Either pointer may
/// be NULL. Zeros where the library does not count (a Rust program without the counting allocator). Any thread.
///
/// # Safety
/// Each pointer is NULL or points to a uint64_t.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rissole_heap(live: *mut u64, peak: *mut u64) {
    for (to, value) in [(live, crate::budget::live_bytes()), (peak, crate::budget::peak_bytes())] {
        if !to.is_null() && to.is_aligned() {
            // SAFETY: not NULL, aligned, and by contract a uint64_t.
            unsafe { to.write(value) };
        }
    }
}
