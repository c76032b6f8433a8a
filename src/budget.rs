//! RAM accounting: a counting allocator, and what the operating system says of the whole process.
//!
//! The budget covers every byte the runtime allocates. A program that wants it kept installs the allocator:
//!
//! ```
//! #[global_allocator]
//! static ALLOCATOR: rissole::budget::CountingAllocator = rissole::budget::CountingAllocator;
//! ```
//!
//! Without it [`is_counting`] is false, heap figures are absent from reports and no budget can be enforced.
//! Mapped files (the block database and the frozen index) are evictable page cache and are not counted.
#![allow(unsafe_code)]

mod hooks;
mod overdraft;

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

pub(crate) use hooks::Hooks;
#[cfg(feature = "c-library")]
pub(crate) use hooks::set as set_hooks;

use crate::error::{Error, Result};

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// What this thread has allocated since [`cost_of`] began, less what it has freed, and the most that came to.
    static OWN: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

/// The system's allocator, or the program's own in C (`rissole_set_memory`), counting live bytes and their peak.
#[derive(Debug, Clone, Copy, Default)]
pub struct CountingAllocator;

fn grown(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(live, Relaxed);
    let (live, peak) = OWN.get();
    let live = live.wrapping_add_unsigned(bytes);
    OWN.set((live, peak.max(live)));
}

fn shrunk(bytes: usize) {
    LIVE.fetch_sub(bytes, Relaxed);
    let (live, peak) = OWN.get();
    OWN.set((live.wrapping_sub_unsigned(bytes), peak));
}

// SAFETY:
// - every call is passed on unchanged, to `System` or to the hooks, which uphold the contract of `GlobalAlloc`;
// - the counters are plain atomics, and cells of the thread that need no destructor: they neither allocate nor unwind.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout is passed on.
        let p = unsafe { hooks::alloc(layout) };
        if !p.is_null() {
            grown(layout.size());
        }
        p
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout is passed on.
        let p = unsafe { hooks::alloc_zeroed(layout) };
        if !p.is_null() {
            grown(layout.size());
        }
        p
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: `p` came through this allocator, with this layout.
        unsafe { hooks::dealloc(p, layout) };
        shrunk(layout.size());
    }

    unsafe fn realloc(&self, p: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: `p` came through this allocator, with this layout.
        let moved = unsafe { hooks::realloc(p, layout, size) };
        if !moved.is_null() {
            // Old and new may exist side by side while the system moves them: count the worst.
            grown(size);
            shrunk(layout.size());
        }
        moved
    }
}

/// Whether [`CountingAllocator`] is the global allocator of this program.
pub fn is_counting() -> bool {
    // A running Rust program has always allocated something.
    LIVE.load(Relaxed) > 0
}

/// Bytes allocated now; 0 when not counting.
pub fn live_bytes() -> u64 {
    LIVE.load(Relaxed) as u64
}

/// Most bytes allocated at once since the start or the last [`reset_peak`]; 0 when not counting.
pub fn peak_bytes() -> u64 {
    PEAK.load(Relaxed) as u64
}

/// Lets [`peak_bytes`] start again from what is allocated now.
pub fn reset_peak() {
    PEAK.store(LIVE.load(Relaxed), Relaxed);
}

/// Bytes that some work takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// What it has not freed when it ends.
    pub kept: u64,
    /// The most that it held at once.
    pub peak: u64,
}

/// Does `work` and tells what it allocates on this thread, whatever others do meanwhile; nothing when not counting.
pub fn cost_of<T>(work: impl FnOnce() -> T) -> (T, Cost) {
    let (live, peak) = OWN.replace((0, 0));
    let done = work();
    let (kept, most) = OWN.get();
    OWN.set((live + kept, peak.max(live + most)));
    (done, Cost { kept: kept.max(0) as u64, peak: most as u64 })
}

/// How often the program's own memory (`rissole_set_memory`) was refused; always 0 where it is the system's.
pub(crate) fn refusals() -> usize {
    overdraft::refusals()
}

/// Peak resident set of the process in bytes, mapped files included (`VmHWM` of `/proc/self/status`), or
/// `None` where the system does not tell.
pub fn peak_rss() -> Option<u64> {
    parse_peak_rss(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn parse_peak_rss(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()?.checked_mul(1024)
}

/// Refuses work that does not fit.
///
/// # Errors
/// [`Error::Budget`] when `needs` is above `budget`.
pub fn check(needs: u64, budget: Option<u64>) -> Result<()> {
    match budget {
        Some(budget) if needs > budget => Err(Error::Budget { needs, budget }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_told_what_it_kept_and_held_at_most_itself() {
        let ((), outer) = cost_of(|| {
            grown(100);
            let ((), inner) = cost_of(|| {
                grown(50);
                std::thread::scope(|scope| scope.spawn(|| grown(1000)).join().unwrap());
                shrunk(20);
            });
            assert_eq!(inner.kept, 30);
            shrunk(70);
            assert_eq!(cost_of(|| shrunk(5)).1, Cost { kept: 0, peak: 0 });
        });
        assert_eq!(outer.kept, 55);
    }

    #[test]
    fn peak_rss_is_read_from_the_status_file() {
        assert_eq!(parse_peak_rss("Name:\tx\nVmHWM:\t    5120 kB\nVmRSS:\t 1 kB\n"), Some(5_242_880));
        assert_eq!(parse_peak_rss("VmHWM:\t lots kB\n"), None);
        assert_eq!(parse_peak_rss(""), None);
    }

    #[test]
    fn only_what_is_over_the_budget_is_refused() {
        assert!(check(100, None).is_ok());
        assert!(check(100, Some(100)).is_ok());
        assert!(matches!(check(101, Some(100)), Err(Error::Budget { needs: 101, budget: 100 })));
    }
}
