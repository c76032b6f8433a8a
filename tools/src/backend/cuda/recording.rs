//! Work that is done again and again, as one CUDA graph: what is launched is recorded once and then submitted as a
//! whole, so that the device never waits for the host between kernels.

use std::rc::Rc;

use super::Cuda;
use super::device::{Device, Graph};
use super::memory::{Free, Pool};
use super::optimizer::Table;

/// A recording, or what there is of it.
#[derive(Debug, Default)]
pub struct Recording(State);

#[derive(Debug, Default)]
enum State {
    #[default]
    New,
    /// The work was done once, in memory that is now its own.
    Tried(Arena),
    Recorded {
        graph: Graph,
        /// What the graph works in.
        arena: Arena,
        _tables: Vec<Rc<Table>>,
    },
    /// The driver cannot record it.
    Refused,
}

/// Memory that nothing else is given.
#[derive(Debug)]
struct Arena {
    pool: Rc<Pool>,
    free: Free,
}

impl Arena {
    /// Does `work`, which is given this memory.
    fn within(&mut self, work: impl FnOnce()) {
        self.pool.exchange(&mut self.free);
        work();
        self.pool.exchange(&mut self.free);
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        self.pool.take_in(std::mem::take(&mut self.free));
    }
}

impl Cuda {
    /// See [`Backend::repeat`](super::super::Backend::repeat).
    pub(super) fn record_or_replay(&self, recording: &mut Recording, mut work: impl FnMut()) {
        if !self.records {
            return work();
        }
        if self.device.is_profiled() {
            return match &mut recording.0 {
                State::Tried(arena) | State::Recorded { arena, .. } => arena.within(work),
                State::New | State::Refused => work(),
            };
        }
        let state = std::mem::take(&mut recording.0);
        recording.0 = match state {
            State::New => {
                // What is kept for others would be missing here.
                self.pool.trim();
                let mut arena = Arena { pool: self.pool.clone(), free: Free::default() };
                arena.within(work);
                State::Tried(arena)
            }
            State::Tried(arena) => self.record(arena, work),
            State::Recorded { graph, arena, _tables } => {
                self.replay(&graph);
                State::Recorded { graph, arena, _tables }
            }
            State::Refused => {
                work();
                State::Refused
            }
        };
    }

    fn replay(&self, graph: &Graph) {
        self.run(|_| graph.launch());
        self.replays.set(self.replays.get() + 1);
    }

    /// Records `work` and does it.
    fn record(&self, mut arena: Arena, mut work: impl FnMut()) -> State {
        if self.broken.get() {
            return State::Refused;
        }
        *self.recorded_tables.borrow_mut() = Some(Vec::new());
        let mut graph = None;
        arena.within(|| graph = Some(Device::record(&self.device, &mut work)));
        let tables = self.recorded_tables.take().unwrap_or_default();
        match graph.expect("work was recorded") {
            Ok(graph) if !self.broken.get() => {
                self.replay(&graph);
                State::Recorded { graph, arena, _tables: tables }
            }
            failed => {
                // Nothing was done, so nothing is lost: the work is submitted as it was before.
                let why = self.fault.take().or_else(|| failed.err()).map(|e| e.to_string()).unwrap_or_default();
                log::warn!("{}: a step is submitted kernel by kernel: {why}", self.name());
                self.broken.set(false);
                arena.within(work);
                State::Refused
            }
        }
    }
}
