//! Memory of the program's own for everything that the library allocates.

use std::ffi::c_void;

use super::fault::{ErrorInfo, Fault, Status, check_reserved, guard};
use super::grown::{self, Grown};

/// Answers `size` bytes at a multiple of `alignment`, a power of two of at most 64, or NULL.
pub type AllocFn = Option<unsafe extern "C" fn(size: usize, alignment: usize, user: *mut c_void) -> *mut c_void>;

/// Answers a block of `new_size` bytes that begins with the bytes of `block`, which has `old_size` and is given back; or
/// NULL, with `block` as it was.
pub type ReallocFn = Option<
    unsafe extern "C" fn(
        block: *mut c_void,
        old_size: usize,
        new_size: usize,
        alignment: usize,
        user: *mut c_void,
    ) -> *mut c_void,
>;

/// Takes a block back.
pub type FreeFn = Option<unsafe extern "C" fn(block: *mut c_void, size: usize, alignment: usize, user: *mut c_void)>;

/// Where the library's memory comes from. None of the functions may throw or longjmp.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// sizeof(rissole_memory).
    pub struct_size: u32,
    /// Always 0.
    pub reserved: u32,
    /// Gives.
    pub alloc: AllocFn,
    /// Changes sizes.
    pub realloc: ReallocFn,
    /// Takes back.
    pub free: FreeFn,
    /// Given to all three.
    pub user: *mut c_void,
}

// SAFETY: `repr(C)`, the size first; raw pointers and optional functions, for which NULL stands, may have any bytes as
// far as the caller's contract goes: a function is one of this type.
unsafe impl Grown for Memory {
    const FIRST: usize = size_of::<Memory>();
    fn initial() -> Self {
        let (struct_size, user) = (size_of::<Self>() as u32, std::ptr::null_mut());
        Self { struct_size, reserved: 0, alloc: None, realloc: None, free: None, user }
    }
}

/// Empties `memory`, which has `size` = sizeof(rissole_memory) bytes. NULL is ignored. Any thread, also before
/// rissole_set_memory.
///
/// # Safety
/// `memory` is NULL or points to `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rissole_memory_init(memory: *mut Memory, size: usize) {
    // SAFETY: as the caller vouches.
    unsafe { grown::init(memory, size) };
}

/// Takes all memory from `memory` instead of from the system, until the program ends. Once, before any other function
/// of the library but rissole_memory_init; else RISSOLE_STATUS_BUSY. Mapped files are no memory in this sense, stacks of
/// threads neither.
///
/// The functions may be called from any thread that uses the library, and from its own where a generator has several;
/// they must not call the library. Have as much as rissole_plan says ready, and what your blocks lose to each other.
///
/// A NULL makes every function that is at work, on any thread, answer RISSOLE_STATUS_MEMORY, with nothing handed out (but
/// for those that ask for no memory: rissole_model_get_info, rissole_image_bytes, rissole_generator_set_progress); the next
/// call works again where there is memory. A program in Rust cannot do without memory that it asked for, so until the
/// function has ended, what was refused comes from the system: while a generator is opened as much as it needs, while a
/// picture is drawn what is missing up to the next step. What a generator that stays open has taken so, it keeps until
/// it is closed. Only where the system has nothing either does the program end, by abort().
///
/// # Safety
/// `memory` is NULL or has `struct_size` bytes, and its functions do what their types say; `error` is NULL or points to
/// a rissole_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rissole_set_memory(memory: *const Memory, error: *mut ErrorInfo) -> Status {
    // SAFETY: as the caller vouches, here and below.
    unsafe {
        guard(error, |_| {
            let Memory { struct_size: _, reserved, alloc, realloc, free, user } = grown::read(memory, "memory")?;
            check_reserved(reserved, "memory")?;
            let (Some(alloc), Some(realloc), Some(free)) = (alloc, realloc, free) else {
                return Err(Fault::argument("a function is NULL"));
            };
            set(crate::budget::Hooks { alloc, realloc, free, user })
        })
    }
}

/// # Safety
/// As for [`rissole_set_memory`].
#[cfg(feature = "c-library")]
unsafe fn set(hooks: crate::budget::Hooks) -> super::fault::Outcome<()> {
    // SAFETY: as the caller vouches; that nothing is alive is what is counted.
    if crate::budget::live_bytes() == 0 && unsafe { crate::budget::set_hooks(hooks) } {
        return Ok(());
    }
    Err(Fault::busy())
}

/// # Safety
/// None: it refuses.
#[cfg(not(feature = "c-library"))]
unsafe fn set(_: crate::budget::Hooks) -> super::fault::Outcome<()> {
    Err(Fault::argument("in a Rust program memory is that program's affair"))
}
