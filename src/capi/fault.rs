//! Status codes, the text that goes with them, and the guard that every function works in.

use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::budget;
use crate::error::Error;

/// What a function answers. The values never change.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// All is well.
    Ok = 0,
    /// A defect of the library.
    Internal = 1,
    /// An argument cannot be: NULL, misaligned, out of bounds, or not what this bundle takes.
    Argument = 2,
    /// A file of the bundle is missing, damaged, foreign or inconsistent.
    Bundle = 3,
    /// The work does not fit in the RAM budget; `needs` says what would do, where that is known.
    Budget = 4,
    /// The operating system, or the program's read callback, refused a read.
    Io = 5,
    /// The caller's buffer is too small; `needs` says how many bytes it must have.
    Buffer = 6,
    /// The caller asked to stop.
    Cancelled = 7,
    /// The generator is at work on another thread, or in the callback that called.
    Busy = 8,
    /// The program's own memory (rissole_set_memory) refused what the library asked for.
    Memory = 9,
}

/// Bytes of a message, its NUL included; [`ErrorInfo::message`] has the number itself, for the header.
pub const MESSAGE_BYTES: usize = 504;

/// What went wrong, in memory of the caller. Functions that can fail take a pointer to one, or NULL; it is written
/// at every call, also when all is well (then the message is empty). Its layout never changes.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ErrorInfo {
    /// What the function answered.
    pub status: Status,
    /// Always 0.
    pub reserved: u32,
    /// Bytes that would do, for RISSOLE_STATUS_BUFFER and RISSOLE_STATUS_BUDGET; 0 where that is not known (of
    /// rissole_preview_get_image), and for any other status.
    pub needs: u64,
    /// What went wrong and with which file, in English, UTF-8, cut to fit, always ended by NUL.
    pub message: [c_char; 504],
}

/// The name of a status, like "over budget". Never NULL, valid for ever; any number may be asked for. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn rissole_status_string(status: i32) -> *const c_char {
    let name: &CStr = match status {
        0 => c"ok",
        1 => c"internal error",
        2 => c"bad argument",
        3 => c"bad bundle",
        4 => c"over budget",
        5 => c"input/output error",
        6 => c"buffer too small",
        7 => c"cancelled",
        8 => c"busy",
        9 => c"out of memory",
        _ => c"unknown status",
    };
    name.as_ptr()
}

/// Why a function fails.
#[derive(Debug)]
pub(super) struct Fault {
    status: Status,
    needs: u64,
    message: String,
}

pub(super) type Outcome<T> = Result<T, Fault>;

impl Fault {
    pub fn argument(message: impl Into<String>) -> Self {
        Self { status: Status::Argument, needs: 0, message: message.into() }
    }

    pub fn buffer(needs: usize) -> Self {
        let message = format!("the buffer must have {needs} bytes");
        Self { status: Status::Buffer, needs: needs as u64, message }
    }

    pub fn budget(message: impl Into<String>) -> Self {
        Self { status: Status::Budget, needs: 0, message: message.into() }
    }

    pub fn busy() -> Self {
        Self { status: Status::Busy, needs: 0, message: "the generator is at work".into() }
    }

    fn memory() -> Self {
        Self { status: Status::Memory, needs: 0, message: "the program's memory was refused".into() }
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self { status: Status::Internal, needs: 0, message: message.into() }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let (status, needs) = match &error {
            Error::Usage(_) => (Status::Argument, 0),
            Error::File { .. } => (Status::Bundle, 0),
            Error::Budget { needs, .. } => (Status::Budget, *needs),
            Error::Io { .. } => (Status::Io, 0),
            Error::Interrupted => (Status::Cancelled, 0),
            Error::Internal(_) => (Status::Internal, 0),
        };
        Self { status, needs, message: error.to_string() }
    }
}

/// One call of a function.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    /// Refusals of memory before it.
    refusals: usize,
}

impl Call {
    fn begin() -> Self {
        Self { refusals: budget::refusals() }
    }

    /// Fails where the program's memory refused something since the call began, to any thread: what was refused came from
    /// the system meanwhile, and is to be given back. To be asked before anything is handed out, and now and then in long
    /// work.
    pub fn check_memory(self) -> Outcome<()> {
        if budget::refusals() == self.refusals { Ok(()) } else { Err(Fault::memory()) }
    }
}

/// Does `work`, catches what unwinds, and tells the caller how it went, by the status and in `info`.
///
/// # Safety
/// `info` is NULL or points to an [`ErrorInfo`], which need not be initialized.
pub(super) unsafe fn guard(info: *mut ErrorInfo, work: impl FnOnce(Call) -> Outcome<()>) -> Status {
    if !info.is_aligned() {
        return Status::Argument;
    }
    #[cfg(feature = "c-library")]
    log_panics();
    // What a panic may leave half done is never used again: locks are poisoned, outputs not written.
    let outcome = catch_unwind(AssertUnwindSafe(|| work(Call::begin())))
        .unwrap_or_else(|panic| Err(Error::panic(panic.as_ref()).into()));
    let fault = outcome.err().unwrap_or(Fault { status: Status::Ok, needs: 0, message: String::new() });
    if !info.is_null() {
        let mut written =
            ErrorInfo { status: fault.status, reserved: 0, needs: fault.needs, message: [0; MESSAGE_BYTES] };
        put_text(&fault.message, &mut written.message);
        // SAFETY: not NULL, aligned, and by contract an `ErrorInfo`.
        unsafe { info.write(written) };
    }
    fault.status
}

/// Has panics told to the log; std's own hook writes to stderr. The C library has a copy of std to itself, so every panic
/// that the hook sees is one of ours, those of worker threads among them. Allocates nothing: memory may yet be set.
#[cfg(feature = "c-library")]
fn log_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| std::panic::set_hook(Box::new(log_panic)));
}

#[cfg(any(test, feature = "c-library"))]
pub(super) fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    log::error!("{panic}");
}

/// Writes `text` and a NUL into `to`, cut at a character where it is too long, and at a NUL of its own.
pub(super) fn put_text(text: &str, to: &mut [c_char]) {
    let text = text.split('\0').next().unwrap_or_default();
    let mut end = text.len().min(to.len() - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    to.iter_mut().zip(text[..end].bytes()).for_each(|(to, byte)| *to = byte as c_char);
    to[end] = 0;
}

/// Refuses a pointer that cannot point to a `T`.
pub(super) fn check_pointer<T>(p: *const T, name: &str) -> Outcome<()> {
    if p.is_null() || !p.is_aligned() {
        return Err(Fault::argument(format!("{name} is {}", if p.is_null() { "NULL" } else { "misaligned" })));
    }
    Ok(())
}

/// Refuses what a later version may give a meaning to.
pub(super) fn check_reserved(reserved: u32, name: &str) -> Outcome<()> {
    if reserved == 0 { Ok(()) } else { Err(Fault::argument(format!("{name}.reserved must be 0"))) }
}

/// Drops what a handle holds; what is NULL or misaligned is none and is ignored.
///
/// # Safety
/// `handle` is NULL, misaligned, or came from [`Box::into_raw`] and was not closed.
pub(super) unsafe fn close<T>(handle: *mut T) {
    if !handle.is_null() && handle.is_aligned() {
        let drop_it = |_| {
            // SAFETY: it came from `Box::into_raw`, once, by contract.
            drop(unsafe { Box::from_raw(handle) });
            Ok(())
        };
        // SAFETY: NULL is allowed.
        unsafe { guard(std::ptr::null_mut(), drop_it) };
    }
}

/// What `p` points to.
///
/// # Safety
/// `p` is NULL, misaligned, or points to a `T` that lives for `'a` and is not written meanwhile.
pub(super) unsafe fn given<'a, T>(p: *const T, name: &str) -> Outcome<&'a T> {
    check_pointer(p, name)?;
    // SAFETY: not NULL, aligned; the rest is the caller's contract.
    Ok(unsafe { &*p })
}

/// A place to write a `T` to, set to `initial`.
///
/// # Safety
/// `p` is NULL, misaligned, or points to memory of a `T` that nobody else uses during `'a`.
pub(super) unsafe fn place<'a, T>(p: *mut T, initial: T, name: &str) -> Outcome<&'a mut T> {
    check_pointer(p, name)?;
    // SAFETY: not NULL, aligned; the memory is a `T`'s by contract, and is initialized before it is lent.
    unsafe {
        p.write(initial);
        Ok(&mut *p)
    }
}

/// The text that `p` points to.
///
/// # Safety
/// `p` is NULL or points to bytes that end with a NUL and live for `'a`.
pub(super) unsafe fn text<'a>(p: *const c_char, name: &str) -> Outcome<&'a str> {
    if p.is_null() {
        return Err(Fault::argument(format!("{name} is NULL")));
    }
    // SAFETY: not NULL; by contract it ends with a NUL.
    let bytes = unsafe { CStr::from_ptr(p) };
    bytes.to_str().map_err(|_| Fault::argument(format!("{name} is not UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(info: &ErrorInfo) -> &str {
        // SAFETY: `guard` ends every message with a NUL.
        unsafe { CStr::from_ptr(info.message.as_ptr()) }.to_str().unwrap()
    }

    fn guarded(work: impl FnOnce(Call) -> Outcome<()>) -> ErrorInfo {
        let mut info = std::mem::MaybeUninit::uninit();
        // SAFETY: the pointer is to memory of an `ErrorInfo`, which `guard` writes.
        let info = unsafe {
            guard(info.as_mut_ptr(), work);
            info.assume_init()
        };
        assert_eq!(info.reserved, 0);
        info
    }

    #[test]
    fn every_outcome_has_its_status_and_its_text() {
        let ok = guarded(|_| Ok(()));
        assert_eq!((ok.status, ok.needs, message(&ok)), (Status::Ok, 0, ""));
        let over = guarded(|_| Err(Error::Budget { needs: 10, budget: 9 }.into()));
        assert_eq!((over.status, over.needs), (Status::Budget, 10));
        assert!(message(&over).contains("needs 10 bytes"));
        let unknown = guarded(|_| Err(Fault::budget("no room")));
        assert_eq!((unknown.status, unknown.needs, message(&unknown)), (Status::Budget, 0, "no room"));
        for (panicked, words) in [
            (guarded(|_| panic!("odd")), "internal error: a panic: odd"),
            (guarded(|_| panic!("{}", 3)), "internal error: a panic: 3"),
            (guarded(|_| std::panic::panic_any(3)), "internal error: a panic: without words"),
        ] {
            assert_eq!((panicked.status, message(&panicked)), (Status::Internal, words));
        }
        // SAFETY: NULL is allowed.
        assert_eq!(unsafe { guard(std::ptr::null_mut(), |_| Err(Fault::busy())) }, Status::Busy);
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let mut to = [1 as c_char; 6];
        put_text("aä€x", &mut to);
        assert_eq!(to.map(|c| c as u8), [b'a', 0xc3, 0xa4, 0, 1, 1]);
        put_text("a\0b", &mut to);
        assert_eq!(to[1], 0);
    }

    #[test]
    fn every_status_has_a_name() {
        // SAFETY: the strings are static.
        let name = |status| unsafe { CStr::from_ptr(rissole_status_string(status)) }.to_str().unwrap();
        assert_eq!((name(Status::Ok as i32), name(Status::Busy as i32)), ("ok", "busy"));
        assert_eq!((name(10), name(-1)), ("unknown status", "unknown status"));
    }
}
