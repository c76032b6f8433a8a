//! Memory from the program instead of from the system.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::c_void;
use std::sync::OnceLock;

use super::overdraft;

/// Functions of the program that give memory, and what they are given. They may be called from any thread, must not
/// unwind, and must not allocate through this allocator. What they refuse comes from the [`overdraft`].
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
// `System`. What one gave goes back to the same: no block is alive when they change, and the overdraft knows its own.

pub(super) unsafe fn alloc(layout: Layout) -> *mut u8 {
    // SAFETY: above.
    unsafe {
        match HOOKS.get() {
            None => System.alloc(layout),
            Some(hooks) => hooks.take(layout),
        }
    }
}

pub(super) unsafe fn alloc_zeroed(layout: Layout) -> *mut u8 {
    // SAFETY: above; a block that is not NULL has as many bytes.
    unsafe {
        let Some(hooks) = HOOKS.get() else { return System.alloc_zeroed(layout) };
        let block = hooks.take(layout);
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
            Some(hooks) => hooks.resize(block, layout, size),
        }
    }
}

pub(super) unsafe fn dealloc(block: *mut u8, layout: Layout) {
    // SAFETY: above.
    unsafe {
        match HOOKS.get() {
            None => System.dealloc(block, layout),
            Some(hooks) => hooks.give_back(block, layout),
        }
    }
}

// SAFETY of the three: as of the four, for these hooks.
impl Hooks {
    unsafe fn take(&self, layout: Layout) -> *mut u8 {
        // SAFETY: above.
        let block = unsafe { (self.alloc)(layout.size(), layout.align(), self.user) };
        if block.is_null() { overdraft::alloc(layout) } else { block.cast() }
    }

    unsafe fn resize(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: above; of both blocks, `kept` bytes exist; the caller's `size` is one that a layout can have.
        unsafe {
            let to = Layout::from_size_align_unchecked(size, layout.align());
            let moved = match overdraft::has(block) {
                true => self.take(to),
                false => {
                    let moved = (self.realloc)(block.cast(), layout.size(), size, layout.align(), self.user);
                    if !moved.is_null() {
                        return moved.cast();
                    }
                    overdraft::alloc(to)
                }
            };
            if !moved.is_null() {
                let kept = layout.size().min(size);
                moved.copy_from_nonoverlapping(block, kept);
                self.give_back(block, layout);
            }
            moved
        }
    }

    unsafe fn give_back(&self, block: *mut u8, layout: Layout) {
        if !overdraft::dealloc(block, layout) {
            // SAFETY: above; it is none of the overdraft's, so it came from the hooks.
            unsafe { (self.free)(block.cast(), layout.size(), layout.align(), self.user) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Refuses while `*user` is true; else passes on to the system.
    unsafe extern "C" fn take(size: usize, alignment: usize, user: *mut c_void) -> *mut c_void {
        unsafe {
            if *user.cast::<bool>() {
                return std::ptr::null_mut();
            }
            System.alloc(Layout::from_size_align(size, alignment).unwrap()).cast()
        }
    }

    unsafe extern "C" fn resize(
        block: *mut c_void,
        old_size: usize,
        new_size: usize,
        alignment: usize,
        user: *mut c_void,
    ) -> *mut c_void {
        unsafe {
            if *user.cast::<bool>() {
                return std::ptr::null_mut();
            }
            System.realloc(block.cast(), Layout::from_size_align(old_size, alignment).unwrap(), new_size).cast()
        }
    }

    unsafe extern "C" fn give(block: *mut c_void, size: usize, alignment: usize, _: *mut c_void) {
        unsafe { System.dealloc(block.cast(), Layout::from_size_align(size, alignment).unwrap()) }
    }

    /// Blocks move between hooks and system as the hooks refuse and give again, and keep their bytes.
    #[test]
    fn what_is_refused_comes_from_the_system_and_goes_back_there() {
        let mut refusing = false;
        let user = (&raw mut refusing).cast::<c_void>();
        let hooks = Hooks { alloc: take, realloc: resize, free: give, user };
        let refuse = |refuses: bool| unsafe { *user.cast::<bool>() = refuses };
        for alignment in [1, 8, 64, 4096] {
            let layout = |size| Layout::from_size_align(size, alignment).unwrap();
            unsafe {
                refuse(true);
                let before = overdraft::refusals();
                let (a, b) = (hooks.take(layout(100)), hooks.take(layout(7)));
                assert_eq!(overdraft::refusals(), before + 2);
                assert!((a as usize).is_multiple_of(alignment) && overdraft::has(a) && overdraft::has(b));
                a.write_bytes(3, 100);

                refuse(false);
                let a = hooks.resize(a, layout(100), 200);
                assert!(!overdraft::has(a) && overdraft::has(b));
                refuse(true);
                let a = hooks.resize(a, layout(200), 50);
                assert!(overdraft::has(a));
                let a = hooks.resize(a, layout(50), 60);
                assert!(std::slice::from_raw_parts(a, 50).iter().all(|&byte| byte == 3));
                hooks.give_back(b, layout(7));
                hooks.give_back(a, layout(60));
                assert!(!overdraft::has(a) && !overdraft::has(b));
                assert!(hooks.take(layout(isize::MAX as usize - 4096)).is_null(), "more than any system has");
            }
        }
    }
}
