//! A system that refuses: [`pass`] stands before every file operation of the module above.

use std::cell::Cell;
use std::io;

/// Which operations of this thread are refused.
#[derive(Debug, Clone, Copy)]
struct Plan {
    /// Operations until then go well.
    at: usize,
    /// Whether all that follow are refused too.
    for_good: bool,
    /// Operations asked for so far.
    asked: usize,
}

const NONE: Plan = Plan { at: usize::MAX, for_good: false, asked: 0 };

thread_local!(static PLAN: Cell<Plan> = const { Cell::new(NONE) });

/// Counts an operation, and refuses it where that is planned.
pub fn pass() -> io::Result<()> {
    let mut plan = PLAN.get();
    let refused = plan.asked == plan.at || (plan.for_good && plan.asked > plan.at);
    plan.asked += 1;
    PLAN.set(plan);
    if refused { Err(io::Error::from(io::ErrorKind::StorageFull)) } else { Ok(()) }
}

/// Does `work` while operation number `at` (from 0) is refused, or, `for_good`, all from there on. Also tells how
/// many operations `work` asked for.
pub fn refusing<T>(at: usize, for_good: bool, work: impl FnOnce() -> T) -> (T, usize) {
    PLAN.set(Plan { at, for_good, asked: 0 });
    let done = work();
    (done, PLAN.replace(NONE).asked)
}
