//! The library's log, handed to the caller. Silent until a callback is set.

use std::ffi::{CString, c_char, c_void};
use std::sync::{PoisonError, RwLock};

/// Told of one line of log, on the thread that logs; `level` is 1 error, 2 warning, 3 info, 4 debug, 5 trace.
/// `message` is UTF-8, ends with NUL and is valid until the callback returns. It must not call the library, throw or
/// longjmp.
pub type LogFn = Option<unsafe extern "C" fn(level: u32, message: *const c_char, user: *mut c_void)>;

struct Sink {
    callback: LogFn,
    user: *mut c_void,
}

// SAFETY: the caller of `rissole_set_log` vouches that callback and user data may be used from any thread.
unsafe impl Send for Sink {}
// SAFETY: as above.
unsafe impl Sync for Sink {}

static SINK: RwLock<Sink> = RwLock::new(Sink { callback: None, user: std::ptr::null_mut() });

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata) -> bool {
        true
    }

    fn log(&self, record: &log::Record) {
        let sink = SINK.read().unwrap_or_else(PoisonError::into_inner);
        let Some(callback) = sink.callback else { return };
        let text = record.args().to_string().replace('\0', " ");
        let Ok(message) = CString::new(text) else { return };
        // SAFETY: as the caller of `rissole_set_log` vouches; the message lives until the callback returns.
        unsafe { callback(record.level() as u32, message.as_ptr(), sink.user) }
    }

    fn flush(&self) {}
}

/// Has every line of log up to `level` (0 none, 1 error … 5 trace) told to `callback`, from any thread; NULL or 0
/// silences. Waits for a callback that runs, so after it returned the former `user` is not used any more. Any thread.
///
/// # Safety
/// `callback` may be called from any thread, with `user`, until it is replaced.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rissole_set_log(level: u32, callback: LogFn, user: *mut c_void) {
    let work = |_| {
        *SINK.write().unwrap_or_else(PoisonError::into_inner) = Sink { callback, user };
        // A Rust program may have a logger of its own; then that one goes on.
        if log::set_logger(&Logger).is_ok() || LOGGER_IS_OURS.load(std::sync::atomic::Ordering::Relaxed) {
            LOGGER_IS_OURS.store(true, std::sync::atomic::Ordering::Relaxed);
            let filter = match level {
                0 => log::LevelFilter::Off,
                1 => log::LevelFilter::Error,
                2 => log::LevelFilter::Warn,
                3 => log::LevelFilter::Info,
                4 => log::LevelFilter::Debug,
                _ => log::LevelFilter::Trace,
            };
            log::set_max_level(if callback.is_some() { filter } else { log::LevelFilter::Off });
        }
        Ok(())
    };
    // SAFETY: NULL is allowed.
    unsafe { super::fault::guard(std::ptr::null_mut(), work) };
}

static LOGGER_IS_OURS: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capi::fault::{Status, guard, log_panic};
    use std::ffi::CStr;
    use std::sync::Mutex;

    unsafe extern "C" fn note(level: u32, message: *const c_char, user: *mut c_void) {
        // SAFETY: the test's list, which lives until the log is silenced; the message ends with NUL.
        let (told, message) = unsafe { (&*user.cast::<Mutex<Vec<(u32, String)>>>(), CStr::from_ptr(message)) };
        told.lock().unwrap().push((level, message.to_string_lossy().into_owned()));
    }

    #[test]
    fn a_panic_is_told_to_the_log_with_its_place() {
        let told = Mutex::new(Vec::<(u32, String)>::new());
        // SAFETY: the list lives until the log is silenced below; NULL is allowed.
        unsafe {
            rissole_set_log(1, Some(note), (&raw const told).cast_mut().cast());
            let former = std::panic::take_hook();
            std::panic::set_hook(Box::new(log_panic));
            let status = guard(std::ptr::null_mut(), |_| panic!("odd"));
            std::panic::set_hook(former);
            rissole_set_log(0, None, std::ptr::null_mut());
            assert_eq!(status, Status::Internal);
        }
        let told = told.into_inner().unwrap();
        assert!(told.iter().any(|(level, text)| *level == 1 && text.contains("odd") && text.contains("logging.rs")));
    }
}
