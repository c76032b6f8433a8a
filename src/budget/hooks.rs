//! Memory from the program instead of from the system.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::c_void;
use std::sync::OnceLock;

/// Functions of the program that give memory, and what they are given. They may be called from any thread, must not
/// unwind, and must not allocate through this allocator.
#[derive(Debug, Clone, Copy)]
pub struct Hooks {
    /// So many bytes at a multiple of the alignment, or NULL.
    pub alloc: unsafe extern "C" fn(size: usize, alignment: usize, user: *mut c_void) -> *mut c_void,
    /// The same bytes in a block of the new size, the old one given back; or NULL, the old one as it was.
    pub realloc: unsafe extern "C" fn(
        block: *mut c_void,
        old_size: usize,
        new_size: usize,
        alignment: usize,
        user: *mut c_void,
    ) -> *mut c_void,
    /// Takes a block back.
    pub free: unsafe extern "C" fn(block: *mut c_void, size: usize, alignment: usize, user: *mut c_void),
    /// Given to all three.
    pub user: *mut c_void,
}

// SAFETY: by contract the functions and what they are given may be used from any thread.
unsafe impl Send for Hooks {}
// SAFETY: likewise.
unsafe impl Sync for Hooks {}

static HOOKS: OnceLock<Hooks> = OnceLock::new();

/// Takes all memory from `hooks` from now on; false where others are in place already.
///
/// # Safety
/// The hooks keep their contracts until the program ends, and nothing that was allocated before is alive.
#[cfg(feature = "c-library")]
pub(crate) unsafe fn set(hooks: Hooks) -> bool {
    HOOKS.set(hooks).is_ok()
}

// SAFETY of the four: the hooks keep the contract of `GlobalAlloc` as `set` demands; without hooks all is passed on to
// `System`. What one gave goes back to the same: no block is alive when they change.

pub(super) unsafe fn alloc(layout: Layout) -> *mut u8 {
    // SAFETY: above.
    unsafe {
        match HOOKS.get() {
            None => System.alloc(layout),
            Some(hooks) => (hooks.alloc)(layout.size(), layout.align(), hooks.user).cast(),
        }
    }
}

pub(super) unsafe fn alloc_zeroed(layout: Layout) -> *mut u8 {
    // SAFETY: above; a block that is not NULL has as many bytes.
    unsafe {
        if HOOKS.get().is_none() {
            return System.alloc_zeroed(layout);
        }
        let block = alloc(layout);
        if !block.is_null() {
            block.write_bytes(0, layout.size());
        }
        block
    }
}

pub(super) unsafe fn realloc(block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
    // SAFETY: above.
    unsafe {
        match HOOKS.get() {
            None => System.realloc(block, layout, size),
            Some(hooks) => (hooks.realloc)(block.cast(), layout.size(), size, layout.align(), hooks.user).cast(),
        }
    }
}

pub(super) unsafe fn dealloc(block: *mut u8, layout: Layout) {
    // SAFETY: above.
    unsafe {
        match HOOKS.get() {
            None => System.dealloc(block, layout),
            Some(hooks) => (hooks.free)(block.cast(), layout.size(), layout.align(), hooks.user),
        }
    }
}
