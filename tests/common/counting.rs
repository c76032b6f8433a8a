//! An allocator that counts what each thread allocates.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// To be made the global allocator.
pub struct Counting;

/// What the thread did.
#[derive(Debug, Clone, Copy)]
struct Count {
    calls: usize,
    live: isize,
    peak: isize,
}

thread_local!(static COUNT: Cell<Count> = const { Cell::new(Count { calls: 0, live: 0, peak: 0 }) });

fn count(calls: usize, bytes: isize) {
    // A thread on its way out has no counter any more.
    let _ = COUNT.try_with(|cell| {
        let Count { calls: before, live, peak } = cell.get();
        let live = live + bytes;
        cell.set(Count { calls: before + calls, live, peak: peak.max(live) });
    });
}

// SAFETY: every call goes to `System` unchanged; the counter neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size() as isize);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, -(layout.size() as isize));
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// How often this thread allocates while it does `work`.
pub fn allocations(work: impl FnOnce()) -> usize {
    let before = COUNT.get().calls;
    work();
    COUNT.get().calls - before
}

/// What `work` gives, and by how many bytes this thread's heap grows at most meanwhile.
pub fn growth<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = COUNT.get();
    COUNT.set(Count { peak: before.live, ..before });
    let done = work();
    let after = COUNT.get();
    COUNT.set(Count { peak: after.peak.max(before.peak), ..after });
    (done, (after.peak - before.live) as usize)
}
