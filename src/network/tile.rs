//! A program cut into tiles: a window of its output is computed from a window of its input, and comes out bit for bit as
//! it does within the whole.
//!
//! From the output back, each activation is computed as far as the tile depends on it: an operator that looks around
//! makes the window of what it reads that much larger than its own, up to the edges of the whole. So the zeros around an
//! activation stand where they stand in the whole, and every operator sums the same values in the same order. What a
//! window is larger by grows towards the input: where the pixels are many, there is little of it.

mod flow;
mod reach;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use super::arena::{self, Lifetime, Place};
use super::ops::{Corner, Shape, View};
use super::program::{Op, Program, Step};
use flow::{Flow, Part, Site};
use reach::{Reach, Span};

/// A window of a picture, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Its first row.
    pub top: usize,
    /// Its first column.
    pub left: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Window {
    fn new(rows: &Span, columns: &Span) -> Self {
        Self { top: rows.start, left: columns.start, height: rows.len(), width: columns.len() }
    }

    /// Where its rows lie in planes channel × height × width of `shape`, plane by plane.
    pub(super) fn rows(self, shape: Shape) -> impl Iterator<Item = Range<usize>> {
        let row = move |c: usize, y: usize| ((c * shape.height) + self.top + y) * shape.width + self.left;
        let starts = (0..shape.channels).flat_map(move |c| (0..self.height).map(move |y| row(c, y)));
        starts.map(move |start| start..start + self.width)
    }
}

/// How a program is cut into tiles.
#[derive(Debug)]
pub(super) struct Tiling {
    flow: Flow,
    /// Height and width of a tile.
    side: usize,
    /// Where each buffer lies in the arena of a tile, large enough for any.
    ranges: Vec<Range<usize>>,
    /// Values of arena, scratch and input that suffice for any tile.
    pub arena: usize,
    pub scratch: usize,
    pub input_len: usize,
}

/// What computes a tile.
#[derive(Debug)]
pub(super) struct Tile {
    pub program: Program,
    /// What of the whole input it is computed from.
    pub input: Window,
}

impl Tiling {
    /// Cuts `program` into tiles of `side` × `side` pixels of its output, at the right and lower edges perhaps less; or
    /// says why it cannot be cut.
    pub fn new(program: &Program, side: usize) -> Result<Self, String> {
        if side == 0 {
            return Err("a tile has at least one pixel".into());
        }
        let flow = Flow::new(program)?;
        let Shape { height, width, .. } = flow.shape(flow.output);
        let heights = longest(&flow, tiles(height, side), |shape| shape.height);
        let widths = longest(&flow, tiles(width, side), |shape| shape.width);
        let shape = |Part { id, channels, .. }: Part| Shape { channels, height: heights[id], width: widths[id] };
        let lifetime = |(id, buffer): (usize, &flow::Buffer)| {
            let channels = buffer.shape.channels;
            // No larger than the whole, which has been checked.
            let len = shape(Part { id, first: 0, channels }).len() + channels;
            Lifetime { len, first: buffer.first, last: buffer.last }
        };
        let lifetimes: Vec<Lifetime> = flow.buffers.iter().enumerate().map(lifetime).collect();
        let (starts, arena) = arena::plan(&lifetimes).ok_or("the activations overflow")?;
        let ranges = starts.iter().zip(&lifetimes).map(|(&start, lifetime)| start..start + lifetime.len).collect();
        // As if all began at odd rows and columns: that takes the most.
        let corner = Corner { odd: [1; 2], before: [0; 2] };
        let mut scratch = program.steps.iter().zip(&flow.sites).map(|(step, site)| match &step.op {
            Op::Conv { conv, .. } => conv.scratch(shape(site.out), corner),
            _ => step.scratch(),
        });
        let scratch = scratch.try_fold(0, |most, scratch| scratch.map(|scratch| scratch.max(most)));
        let (scratch, input_len) = (scratch.ok_or("scratch overflows")?, shape(flow.input).len());
        Ok(Self { flow, side, ranges, arena, scratch, input_len })
    }

    /// The shape of the whole input.
    pub fn input(&self) -> Shape {
        self.flow.shape(self.flow.input)
    }

    /// The shape of the whole output.
    pub fn output(&self) -> Shape {
        self.flow.shape(self.flow.output)
    }

    /// Values of the output that suffice for any tile.
    pub fn output_len(&self) -> usize {
        let Shape { channels, height, width } = self.output();
        channels * height.min(self.side) * width.min(self.side)
    }

    /// Bytes that a [`Tile`] takes while it is made and run, apart from the memory that it works in.
    pub fn tile_bytes(&self) -> usize {
        self.flow.sites.len() * size_of::<Step>() + 2 * self.flow.buffers.len() * size_of::<Span>()
    }

    /// The tiles, row by row.
    pub fn windows(&self) -> impl Iterator<Item = Window> + use<> {
        let (Shape { height, width, .. }, side) = (self.output(), self.side);
        tiles(height, side).flat_map(move |rows| tiles(width, side).map(move |columns| Window::new(&rows, &columns)))
    }

    /// What computes the tile `window` of `program`, the one that was cut.
    pub fn tile(&self, program: &Program, window: Window) -> Result<Tile, String> {
        let Window { top, left, height, width } = window;
        let (rows, columns) = (top..top + height, left..left + width);
        let needed = Needed {
            rows: self.flow.spans(rows.clone(), |shape| shape.height),
            columns: self.flow.spans(columns.clone(), |shape| shape.width),
        };
        let mut steps = Vec::with_capacity(program.steps.len());
        for (step, site) in program.steps.iter().zip(&self.flow.sites) {
            steps.push(self.step(step, site, &needed)?);
        }
        let mut tile = Program::new(steps, self.place(self.flow.output, &needed, &rows, &columns))?;
        tile.isa = program.isa;
        let input = self.flow.input.id;
        Ok(Tile { program: tile, input: Window::new(&needed.rows[input], &needed.columns[input]) })
    }

    /// The step that does for a tile what `step` does for the whole.
    fn step(&self, step: &Step, site: &Site, needed: &Needed) -> Result<Step, String> {
        let [wanted_rows, wanted_columns] = [&needed.rows[site.out.id], &needed.columns[site.out.id]];
        let Shape { height, width, .. } = self.flow.shape(site.out);
        let [rows, columns] = [&site.computed(wanted_rows, height), &site.computed(wanted_columns, width)];
        let seen = |(reach, part): (Reach, Part)| {
            let Shape { height, width, .. } = self.flow.shape(part);
            let seen_rows = site.read(reach, wanted_rows, height);
            let seen_columns = site.read(reach, wanted_columns, width);
            let before = [reach.before(rows, &seen_rows), reach.before(columns, &seen_columns)];
            (self.place(part, needed, &seen_rows, &seen_columns), before)
        };
        let [first, second] = site.reads.map(|read| read.map(seen));
        let (second, odd) = (second.map(|(place, _)| place), [rows.start % 2, columns.start % 2]);
        let op = match (&step.op, first, second) {
            (Op::Input(i), None, None) => Op::Input(*i),
            (Op::Conv { conv, .. }, Some((x, before)), residual) => {
                Op::Conv { conv: Arc::clone(conv), x, vector: None, residual, corner: Corner { before, odd } }
            }
            (Op::Silu { .. }, Some((x, _)), None) => Op::Silu { x },
            (Op::Copy { .. }, Some((x, _)), None) => Op::Copy { x },
            (Op::Add { .. }, Some((a, _)), Some(b)) => Op::Add { a, b },
            (&Op::DepthToSpace { block, .. }, Some((x, _)), None) => Op::DepthToSpace { block, x },
            _ => return Err("another program than the one that was cut".into()),
        };
        Ok(Step { op, out: self.place(site.out, needed, rows, columns) })
    }

    /// Where `rows` and `columns` of `part` lie in a tile's arena.
    fn place(&self, part: Part, needed: &Needed, rows: &Span, columns: &Span) -> Place {
        let Part { id, first, channels } = part;
        let buffer = &self.flow.buffers[id];
        let Shape { channels: zeros, height, width } = buffer.shape;
        let held = Window::new(&buffer.held(&needed.rows[id], height), &buffer.held(&needed.columns[id], width));
        let Window { top, left, height, width } = held;
        let view = View::whole(Shape { channels: zeros, height, width }).channels(first, channels);
        let view = view.window(rows.start - top, columns.start - left, rows.len(), columns.len());
        Place { buffer: self.ranges[id].clone(), view, zeros }
    }
}

/// What of each buffer a tile depends on. A little more may be held, where pixels are computed several at a time.
#[derive(Debug)]
struct Needed {
    rows: Vec<Span>,
    columns: Vec<Span>,
}

/// A side of `whole` pixels in spans of `side`.
fn tiles(whole: usize, side: usize) -> impl Iterator<Item = Span> {
    (0..whole).step_by(side).map(move |start| start..start.saturating_add(side).min(whole))
}

/// How much of each buffer is held at most.
fn longest(flow: &Flow, tiles: impl Iterator<Item = Span>, side: fn(Shape) -> usize) -> Vec<usize> {
    let mut longest = vec![0; flow.buffers.len()];
    for tile in tiles {
        let spans = flow.buffers.iter().zip(flow.spans(tile, side));
        let held = spans.map(|(buffer, span)| buffer.held(&span, side(buffer.shape)).len());
        longest.iter_mut().zip(held).for_each(|(longest, held)| *longest = held.max(*longest));
    }
    longest
}
