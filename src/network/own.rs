//! A program with the memory that its runs work in.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::ops::Shape;
use super::program::{Program, Workspace};
use super::tile::{Tiling, Window};

/// A program, whole or cut into tiles, and the memory that its runs have left: as much as ran at once at most.
#[derive(Debug)]
pub(super) struct OwnRunner {
    pub program: Program,
    pub is_packed: bool,
    pub tiling: Option<Tiling>,
    idle: Mutex<Vec<Workspace>>,
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
        let tiling = Tiling::new(&self.program, side)?;
        if tiling.output() != (Shape { channels, height, width }) {
            return Err("its output has other sides than it is computed with".into());
        }
        self.tiling = Some(tiling);
        Ok(())
    }

    /// Bytes of memory that one run at a time works in.
    pub fn workspace_bytes(&self) -> u64 {
        let (arena, scratch) = self.workspace_lens();
        (arena as u64 + scratch as u64) * size_of::<f32>() as u64
    }

    /// Bytes that [`Self::run_tiles`] takes while it lasts, beside those.
    pub fn tile_bytes(tiling: &Tiling) -> u64 {
        ((tiling.input_len + tiling.output_len()) * size_of::<f32>() + tiling.tile_bytes()) as u64
    }

    /// Runs the whole program.
    pub fn run(&self, inputs: &[&[f32]], out: &mut [f32]) {
        let mut workspace = self.take();
        self.program.run(inputs, out, &mut workspace);
        self.idle().push(workspace);
    }

    /// Runs the program, whose only input is `input`, tile by tile, and tells `each` of the tile and its values.
    pub fn run_tiles(
        &self,
        tiling: &Tiling,
        input: &[f32],
        each: &mut dyn FnMut(Window, &[f32]),
    ) -> Result<(), String> {
        let mut workspace = self.take();
        let (mut seen, mut out) = (vec![0.0; tiling.input_len], vec![0.0; tiling.output_len()]);
        let channels = [tiling.input().channels, tiling.output().channels];
        for window in tiling.windows() {
            let tile = tiling.tile(&self.program, window)?;
            let [from, to] = [tile.input, window];
            let seen = &mut seen[..channels[0] * from.height * from.width];
            let out = &mut out[..channels[1] * to.height * to.width];
            let rows = seen.chunks_exact_mut(from.width).zip(from.rows(tiling.input()));
            rows.for_each(|(row, range)| row.copy_from_slice(&input[range]));
            tile.program.run(&[seen], out, &mut workspace);
            each(window, out);
        }
        self.idle().push(workspace);
        Ok(())
    }

    /// Leaves memory for a run where there is none.
    pub fn reserve(&self) {
        let workspace = self.take();
        self.idle().push(workspace);
    }

    /// Memory that an earlier run has left, or new.
    fn take(&self) -> Workspace {
        let (arena, scratch) = self.workspace_lens();
        let left = self.idle().pop();
        left.unwrap_or_else(|| Workspace::new(arena, scratch))
    }

    fn workspace_lens(&self) -> (usize, usize) {
        match &self.tiling {
            Some(tiling) => (tiling.arena, tiling.scratch),
            None => (self.program.arena, self.program.scratch),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Workspace>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
