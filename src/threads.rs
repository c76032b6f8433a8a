//! Threads that do one piece of work together, again and again.
//!
//! Between two operators of a network there are microseconds: to start threads for each, or to wake them by the system,
//! would take longer than they save. So they look for work for a while before they sleep, and none that comes late is
//! waited for. Safe Rust lends to threads only what outlives them; that is the one reason for unsafe code here.
#![allow(unsafe_code)]

use std::any::Any;
use std::cell::Cell;
use std::marker::PhantomData;
use std::mem::transmute;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, Thread};

/// Stack of a thread in bytes.
const STACK: usize = 1 << 20;
/// Bytes that are allocated to start a thread, generously.
const HANDLE: usize = 1 << 10;

/// How often a thread looks for work before it sleeps: some 20 µs.
const LOOKS: usize = 1000;

/// The thread that calls and others, which wait for work until this is dropped. One piece of work at a time: it is not
/// `Sync`, so that work cannot offer work.
#[derive(Debug, Default)]
pub struct Threads {
    others: Vec<JoinHandle<()>>,
    board: Option<Arc<Board>>,
    _not_sync: PhantomData<Cell<()>>,
}

/// What work there is.
#[derive(Debug, Default)]
struct Board {
    /// Pieces of work offered so far, and one more at the end.
    offers: AtomicUsize,
    /// Threads at the one at hand, beside the caller.
    at_work: AtomicUsize,
    offer: Mutex<Offer>,
}

#[derive(Default)]
struct Offer {
    work: Option<Work>,
    /// Who offers it.
    caller: Option<Thread>,
    panic: Option<Box<dyn Any + Send>>,
    is_end: bool,
}

type Work = &'static (dyn Fn() + Sync);

impl Threads {
    /// The caller's thread alone.
    pub fn alone() -> Self {
        Self::default()
    }

    /// The caller's thread and as many as make `count`.
    ///
    /// # Errors
    /// Where the system gives no more threads.
    pub fn start(count: usize) -> std::io::Result<Self> {
        let mut threads = Self::alone();
        if count <= 1 {
            return Ok(threads);
        }
        let board = threads.board.insert(Arc::default());
        for _ in 1..count {
            let board = Arc::clone(board);
            threads.others.push(thread::Builder::new().stack_size(STACK).spawn(move || board.serve())?);
        }
        Ok(threads)
    }

    /// How many they are.
    pub fn count(&self) -> usize {
        1 + self.others.len()
    }

    /// Bytes that `count` threads take, most of them stacks; the caller's are not counted.
    pub fn bytes(count: usize) -> u64 {
        (count.saturating_sub(1) * (STACK + HANDLE)) as u64
    }

    /// Calls `work` with every item, on several threads at once. Allocates nothing, unless work panics.
    ///
    /// # Panics
    /// Where work does on any thread; others may have taken all items by then.
    pub fn each<T>(&self, items: impl Iterator<Item = T> + Send, work: impl Fn(T) + Sync) {
        if self.others.is_empty() {
            return items.for_each(work);
        }
        let items = Mutex::new(items);
        let next = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
        self.together(|| {
            while let Some(item) = next() {
                work(item);
            }
        });
    }

    /// Calls `work` on this thread, and on those others that are there before it returns here. Returns when all have.
    fn together(&self, work: impl Fn() + Sync) {
        let Some(board) = &self.board else { return work() };
        let work: &(dyn Fn() + Sync) = &work;
        // SAFETY: only the lifetime changes. `Offered` takes it from the board and waits for all that are at it, when it is
        // dropped at the latest, which is before `work` ends, whether this returns or unwinds.
        let work = unsafe { transmute::<&(dyn Fn() + Sync), Work>(work) };
        let offered = board.offer(work);
        self.others.iter().for_each(|other| other.thread().unpark());
        work();
        drop(offered);
        let panic = board.offer_at_hand().panic.take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        let Some(board) = &self.board else { return };
        board.offer_at_hand().is_end = true;
        board.offers.fetch_add(1, Ordering::Release);
        for other in self.others.drain(..) {
            other.thread().unpark();
            // It catches what its work panics with.
            let _ = other.join();
        }
    }
}

/// Work on the board.
struct Offered<'a>(&'a Board);

impl Drop for Offered<'_> {
    fn drop(&mut self) {
        // Whoever takes it is counted under the same lock.
        self.0.offer_at_hand().work = None;
        wait(|| self.0.at_work.load(Ordering::Acquire) == 0);
    }
}

impl Board {
    /// Nothing that holds it panics.
    fn offer_at_hand(&self) -> MutexGuard<'_, Offer> {
        self.offer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn offer(&self, work: Work) -> Offered<'_> {
        let mut offer = self.offer_at_hand();
        // A panic that is left is of work that ended in another, of the caller's own.
        (offer.work, offer.caller, offer.panic) = (Some(work), Some(thread::current()), None);
        self.offers.fetch_add(1, Ordering::Release);
        Offered(self)
    }

    /// What another thread does until the end.
    fn serve(&self) {
        let mut seen = 0;
        loop {
            wait(|| self.offers.load(Ordering::Acquire) != seen);
            let offer = self.offer_at_hand();
            if offer.is_end {
                return;
            }
            // Under the lock: that of the work which is taken.
            seen = self.offers.load(Ordering::Relaxed);
            let Some(work) = offer.work else { continue };
            self.at_work.fetch_add(1, Ordering::Relaxed);
            drop(offer);
            let done = catch_unwind(AssertUnwindSafe(work));
            self.leave(done.err());
        }
    }

    fn leave(&self, panic: Option<Box<dyn Any + Send>>) {
        let mut offer = self.offer_at_hand();
        offer.panic = panic.or(offer.panic.take());
        let caller = offer.caller.clone();
        drop(offer);
        if self.at_work.fetch_sub(1, Ordering::Release) == 1 {
            caller.inspect(Thread::unpark);
        }
    }
}

/// Waits until `is_so`: looks a number of times, then sleeps until it is woken, again and again.
fn wait(is_so: impl Fn() -> bool) {
    for _ in 0..LOOKS {
        if is_so() {
            return;
        }
        std::hint::spin_loop();
    }
    while !is_so() {
        thread::park();
    }
}

impl std::fmt::Debug for Offer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Offer").field("is_end", &self.is_end).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;

    /// How often each of so many items was taken.
    fn counted(threads: &Threads, count: usize) -> Vec<usize> {
        let taken: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
        threads.each(taken.iter(), |taken| {
            taken.fetch_add(1, Ordering::Relaxed);
        });
        taken.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn each_part_is_done_once() {
        for count in [0, 1, 2, 3, 8] {
            let threads = Threads::start(count).unwrap();
            assert_eq!(threads.count(), count.max(1));
            for parts in (0..2000).map(|i| i % 17) {
                assert_eq!(counted(&threads, parts), vec![1; parts]);
            }
        }
    }

    #[test]
    fn others_help_and_wake_up_after_a_while() {
        let threads = Threads::start(3).unwrap();
        for _ in 0..3 {
            let seen = Mutex::new(BTreeSet::new());
            let all_there = std::sync::Barrier::new(3);
            threads.together(|| {
                all_there.wait();
                seen.lock().unwrap().insert(format!("{:?}", thread::current().id()));
            });
            assert_eq!(seen.into_inner().unwrap().len(), 3);
            thread::sleep(Duration::from_millis(20));
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_threads_go_on() {
        let threads = Threads::start(3).unwrap();
        let here = thread::current().id();
        for is_any in [true, false] {
            let panic = catch_unwind(AssertUnwindSafe(|| {
                threads.together(|| assert!(!is_any, "on purpose"));
            }));
            assert_eq!(panic.is_err(), is_any);
        }
        for is_here in [true, false] {
            let all_there = std::sync::Barrier::new(3);
            let panic = catch_unwind(AssertUnwindSafe(|| {
                threads.together(|| {
                    all_there.wait();
                    assert!((thread::current().id() == here) != is_here, "on purpose");
                });
            }));
            assert!(panic.is_err());
            assert_eq!(counted(&threads, 5), [1; 5]);
        }
    }
}
