//! Ctrl-C (and SIGTERM, SIGHUP): the first asks the work to stop at its next step, the second ends the program at once.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rissole::{Error, Result};

static ASKED: AtomicBool = AtomicBool::new(false);

/// Begins to listen.
pub fn listen() -> Result<()> {
    let second = || std::process::exit(i32::from(Error::Interrupted.exit_code()));
    ctrlc::set_handler(move || {
        if ASKED.swap(true, Relaxed) {
            second()
        }
    })
    .map_err(|e| Error::Internal(format!("cannot listen for Ctrl-C: {e}")))
}

/// [`Error::Interrupted`] once Ctrl-C was pressed.
pub fn check() -> Result<()> {
    if ASKED.load(Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
}
