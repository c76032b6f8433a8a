//! The threads that share a run's work: each operator's output is cut into bands of rows, one for each thread.
//!
//! A pixel is computed as it is by one thread, from the same values in the same order: the bits are the same.

use std::ops::Range;

use super::ops::GridMut;
use crate::threads::Threads;

/// Values of scratch that a step takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Scratch {
    /// Once.
    pub common: usize,
    /// For each member of the team.
    pub each: usize,
}

impl Scratch {
    /// What suffices for either.
    pub fn max(self, other: Self) -> Self {
        Self { common: self.common.max(other.common), each: self.each.max(other.each) }
    }
}

/// Those that work on a run together.
#[derive(Debug)]
pub(super) struct Team<'a> {
    /// None for one member.
    threads: Option<&'a Threads>,
    /// Scratch that operators fill before they share the rest.
    common: &'a mut [f32],
    /// Scratch of each member; there is one at the least.
    scratch: &'a mut [Box<[f32]>],
    /// Operations for which one member is called.
    least: usize,
}

/// Where bands may begin: at rows that are whole multiples of `rows`, `before` rows of the first being above the output.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grain {
    pub rows: usize,
    pub before: usize,
}

impl Grain {
    /// Anywhere.
    pub fn row() -> Self {
        Self { rows: 1, before: 0 }
    }
}

/// Operations that take longer than it does to have them done by another thread: a few µs.
const WORTHWHILE: usize = 100_000;

impl<'a> Team<'a> {
    /// Of as many of `threads` as there is scratch in `scratch`; `common` is scratch for all of them.
    pub fn new(threads: &'a Threads, common: &'a mut [f32], scratch: &'a mut [Box<[f32]>]) -> Self {
        Self { threads: Some(threads), common, scratch, least: WORTHWHILE }
    }

    /// The same, sharing whatever can be shared.
    #[cfg(test)]
    pub fn keen(self) -> Self {
        Self { least: 1, ..self }
    }

    /// What an operator fills before it shares the rest, and the team for that: as many as are worth the while of
    /// `operations`.
    pub fn for_work(&mut self, operations: usize) -> (&mut [f32], Team<'_>) {
        let members = (operations / self.least).clamp(1, self.scratch.len());
        let threads = self.threads.filter(|_| members > 1);
        let team = Team { threads, common: &mut [], scratch: &mut self.scratch[..members], least: self.least };
        (self.common, team)
    }

    /// What an operator may fill that is not shared.
    pub fn common(&mut self) -> &mut [f32] {
        self.common
    }

    /// How many they are.
    pub fn members(&self) -> usize {
        self.scratch.len()
    }

    /// Calls `work` with every item, side by side.
    pub fn each<T>(&self, items: impl Iterator<Item = T> + Send, work: impl Fn(T) + Sync) {
        each(self.threads, items, work);
    }

    /// Does `work` on bands of `out`, side by side. It is given a band, the number of the band's first row, and scratch.
    pub fn share_rows(self, out: GridMut, grain: Grain, work: impl Fn(GridMut, usize, &mut [f32]) + Sync) {
        let bands = Bands { rest: Some(out), first: 0, grain, scratch: self.scratch.iter_mut() };
        each(self.threads, bands, |(band, first, scratch)| work(band, first, scratch));
    }

    /// Does `work` on ranges of the numbers below `count`, which is not 0, side by side, with scratch; then `collect`, one
    /// after the other, with what is in the scratch.
    pub fn share_range(
        self,
        count: usize,
        work: impl Fn(Range<usize>, &mut [f32]) + Sync,
        mut collect: impl FnMut(Range<usize>, &[f32]),
    ) {
        let members = self.scratch.len().min(count);
        let range = |i: usize| i * count / members..(i + 1) * count / members;
        let scratch = &mut self.scratch[..members];
        each(self.threads, scratch.iter_mut().enumerate(), |(i, scratch)| work(range(i), scratch));
        scratch.iter().enumerate().for_each(|(i, scratch)| collect(range(i), scratch));
    }
}

fn each<T>(threads: Option<&Threads>, items: impl Iterator<Item = T> + Send, work: impl Fn(T) + Sync) {
    match threads {
        Some(threads) => threads.each(items, work),
        None => items.for_each(work),
    }
}

/// What is left of an output, and the scratch for it.
struct Bands<'a> {
    rest: Option<GridMut<'a>>,
    /// The number of its first row.
    first: usize,
    /// For it.
    grain: Grain,
    scratch: std::slice::IterMut<'a, Box<[f32]>>,
}

impl<'a> Iterator for Bands<'a> {
    type Item = (GridMut<'a>, usize, &'a mut [f32]);

    /// What is left is divided by the members that are left.
    fn next(&mut self) -> Option<Self::Item> {
        let (rest, members) = (self.rest.take()?, self.scratch.len());
        let scratch = self.scratch.next()?;
        let (Grain { rows, before }, height) = (self.grain, rest.view.shape.height);
        let end = (before + height).div_ceil(rows).div_ceil(members) * rows - before;
        let first = self.first;
        if end >= height {
            return Some((rest, first, scratch));
        }
        let (band, rest) = rest.split(end);
        (self.rest, self.first, self.grain) = (Some(rest), first + end, Grain { rows, before: 0 });
        Some((band, first, scratch))
    }
}
