//! A program with the memory that its runs work in.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::ops::Shape;
use super::program::{Program, Workspace, zeros};
use super::team::Scratch;
use super::tile::{Tiling, Window};
use crate::threads::Threads;

/// A program, whole or cut into tiles, and the memory that its runs have left.
#[derive(Debug)]
pub(super) struct OwnRunner {
    pub program: Program,
    pub is_packed: bool,
    pub tiling: Option<Tiling>,
    idle: Mutex<Idle>,
}

/// Memory that no run works in: in all as much as ran at once at most, and as many threads.
#[derive(Debug, Default)]
struct Idle {
    /// Without scratch.
    workspaces: Vec<Workspace>,
    scratch: Vec<Box<[f32]>>,
}

impl OwnRunner {
    pub fn new(program: Program, is_packed: bool) -> Self {
        Self { program, is_packed, tiling: None, idle: Mutex::default() }
    }

    /// Cuts it into tiles of at most `side` × `side` pixels of its output, planes of these sides; or says why it is whole
    /// now.
    pub fn cut(&mut self, side: usize, [channels, height, width]: [usize; 3]) -> Result<(), String> {
        // Memory that an earlier run has left is of another size.
        (self.tiling, self.idle) = (None, Mutex::default());
        self.tiling = Some(Tiling::new(&self.program, side, Shape { channels, height, width })?);
        Ok(())
    }

    /// Bytes of memory that one run at a time works in, by one thread.
    pub fn workspace_bytes(&self) -> u64 {
        let (arena, Scratch { common, .. }) = self.workspace_lens();
        (arena as u64 + common as u64) * size_of::<f32>() as u64 + self.thread_bytes()
    }

    /// Bytes of memory for each more thread of a run.
    pub fn thread_bytes(&self) -> u64 {
        let (_, Scratch { each, .. }) = self.workspace_lens();
        each as u64 * size_of::<f32>() as u64
    }

    /// Runs the whole program by `threads`.
    pub fn run(&self, inputs: &[&[f32]], out: &mut [f32], threads: &Threads) {
        let mut workspace = self.take(threads.count());
        self.program.run(inputs, out, &mut workspace, threads);
        self.leave(workspace);
    }

    /// Runs the program, whose only input is `input`, as `tiling`, its own, says, by `threads`.
    pub fn tiles<'a>(
        &'a self,
        tiling: &'a Tiling,
        input: &'a [f32],
        threads: &'a Threads,
    ) -> Tiles<'a, impl Iterator<Item = Window>> {
        let (seen, out) = (vec![0.0; tiling.input_len], vec![0.0; tiling.output_len()]);
        let workspace = self.take(threads.count());
        Tiles { runner: self, tiling, input, threads, windows: tiling.windows(), seen, out, workspace }
    }

    /// Leaves memory for a run by one thread where there is none.
    pub fn reserve(&self) {
        self.leave(self.take(1));
    }

    /// Memory that earlier runs have left, or new.
    fn take(&self, threads: usize) -> Workspace {
        let (arena, scratch) = self.workspace_lens();
        let mut idle = self.idle();
        let mut workspace = idle.workspaces.pop().unwrap_or_else(|| Workspace::new(arena, scratch));
        for _ in 0..threads {
            let left = idle.scratch.pop();
            workspace.scratch.push(left.unwrap_or_else(|| zeros(scratch.each)));
        }
        workspace
    }

    fn leave(&self, mut workspace: Workspace) {
        let mut idle = self.idle();
        idle.scratch.append(&mut workspace.scratch);
        idle.workspaces.push(workspace);
    }

    fn workspace_lens(&self) -> (usize, Scratch) {
        match &self.tiling {
            Some(tiling) => (tiling.arena, tiling.scratch),
            None => (self.program.arena, self.program.scratch),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A run of a program tile by tile.
pub(super) struct Tiles<'a, W> {
    runner: &'a OwnRunner,
    tiling: &'a Tiling,
    input: &'a [f32],
    threads: &'a Threads,
    windows: W,
    seen: Vec<f32>,
    out: Vec<f32>,
    workspace: Workspace,
}

impl<W: Iterator<Item = Window>> Tiles<'_, W> {
    /// The next tile and its values.
    pub fn next(&mut self) -> Result<Option<(Window, &[f32])>, String> {
        let Some(window) = self.windows.next() else { return Ok(None) };
        let tile = self.tiling.tile(&self.runner.program, window)?;
        let [from, to] = [tile.input, window];
        let seen = &mut self.seen[..self.tiling.input().channels * from.height * from.width];
        let out = &mut self.out[..self.tiling.output().channels * to.height * to.width];
        let rows = seen.chunks_exact_mut(from.width).zip(from.rows(self.tiling.input()));
        rows.for_each(|(row, range)| row.copy_from_slice(&self.input[range]));
        tile.program.run(&[seen], out, &mut self.workspace, self.threads);
        Ok(Some((window, out)))
    }

    /// Leaves the memory that it worked in to the next run.
    pub fn end(self) {
        self.runner.leave(self.workspace);
    }
}
