//! What the program's hooks refuse is taken from the system, until the call at work has noticed and gives it back. A Rust
//! program cannot go on without an allocation that it asked for: `handle_alloc_error` ends it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Refusals since the program began.
static REFUSALS: AtomicUsize = AtomicUsize::new(0);
/// Blocks of the system that are alive.
static ALIVE: AtomicUsize = AtomicUsize::new(0);
static BLOCKS: Mutex<Blocks> = Mutex::new(Blocks(null_mut()));

/// A list of the blocks of the system: they are few, since a call that was refused ends soon.
#[derive(Debug)]
struct Blocks(*mut Header);

// SAFETY: the headers are touched under the lock alone.
unsafe impl Send for Blocks {}

/// Lies before each block.
#[derive(Debug)]
struct Header {
    next: *mut Header,
    block: *mut u8,
}

/// How often the hooks have refused.
pub(super) fn refusals() -> usize {
    REFUSALS.load(Relaxed)
}

/// The list; nothing that holds it panics.
fn blocks() -> MutexGuard<'static, Blocks> {
    BLOCKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The layout of a block with its header, and where in it the block begins.
fn with_header(layout: Layout) -> Option<(Layout, usize)> {
    Layout::new::<Header>().extend(layout).ok()
}

/// A block of the system in place of one that was refused; NULL where the system has none either.
pub(super) fn alloc(layout: Layout) -> *mut u8 {
    REFUSALS.fetch_add(1, Relaxed);
    let Some((whole, offset)) = with_header(layout) else { return null_mut() };
    // SAFETY: `whole` is not empty: it has a header.
    let start = unsafe { System.alloc(whole) };
    if start.is_null() {
        return start;
    }
    // SAFETY: `offset` lies within `whole`.
    let (header, block) = (start.cast::<Header>(), unsafe { start.add(offset) });
    let mut blocks = blocks();
    // SAFETY: the header is ours, aligned and large enough.
    unsafe { header.write(Header { next: blocks.0, block }) };
    blocks.0 = header;
    // Whoever frees a block was given it after this.
    ALIVE.fetch_add(1, Relaxed);
    block
}

/// Whether `block`, which is alive, is one of the system.
pub(super) fn has(block: *mut u8) -> bool {
    ALIVE.load(Relaxed) > 0 && blocks().link(block).is_some()
}

/// Gives `block` of `layout` back; false where it is none of the system.
pub(super) fn dealloc(block: *mut u8, layout: Layout) -> bool {
    if ALIVE.load(Relaxed) == 0 {
        return false;
    }
    let mut blocks = blocks();
    let (Some(link), Some((whole, _))) = (blocks.link(block), with_header(layout)) else { return false };
    // SAFETY: a link of the list leads to a header of it, which `alloc` made of `whole`; it is taken out first.
    unsafe {
        let header = *link;
        *link = (*header).next;
        System.dealloc(header.cast(), whole);
    }
    ALIVE.fetch_sub(1, Relaxed);
    true
}

impl Blocks {
    /// What points to the header of `block`.
    fn link(&mut self, block: *mut u8) -> Option<*mut *mut Header> {
        let mut link = &raw mut self.0;
        // SAFETY: all headers of the list are alive, and no one else has them while the list is borrowed.
        unsafe {
            while !(*link).is_null() {
                if (**link).block == block {
                    return Some(link);
                }
                link = &raw mut (**link).next;
            }
        }
        None
    }
}
