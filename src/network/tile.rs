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
use super::team::Scratch;
use flow::{Flow, Part, Spans};
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
    pub scratch: Scratch,
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
    /// Cuts `program`, whose output is to be of shape `output`, into tiles of `side` × `side` pixels of it, at the right
    /// and lower edges perhaps less; or says why it cannot be cut.
    pub fn new(program: &Program, side: usize, output: Shape) -> Result<Self, String> {
        if side == 0 {
            return Err("a tile has at least one pixel".into());
        }
        let flow = Flow::new(program)?;
        if flow.shape(flow.output) != output {
            return Err("its output has other sides than it is computed with".into());
        }
        let Shape { height, width, .. } = output;
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
        let mut scratch = program.steps.iter().zip(&flow.sites).map(|(step, site)| match (&step.op, site.reads[0]) {
            (Op::Conv { conv, .. }, Some((_, x))) => conv.scratch(shape(x), shape(site.out), corner),
            _ => step.scratch(),
        });
        let scratch = scratch.try_fold(Scratch::default(), |most, scratch| scratch.map(|scratch| most.max(scratch)));
        let (scratch, input_len) = (scratch.ok_or("scratch overflows")?, shape(flow.sites[flow.input].out).len());
        Ok(Self { flow, side, ranges, arena, scratch, input_len })
    }

    /// The shape of the whole input.
    pub fn input(&self) -> Shape {
        self.flow.shape(self.flow.sites[self.flow.input].out)
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

    /// Bytes that a run takes beside the memory that it works in: a tile's input and output, and the [`Tile`] itself.
    pub fn passing_bytes(&self) -> u64 {
        let (steps, buffers) = (self.flow.sites.len(), self.flow.buffers.len());
        let tile = steps * size_of::<Step>() + 2 * (steps + buffers) * size_of::<Span>();
        ((self.input_len + self.output_len()) * size_of::<f32>() + tile) as u64
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
        let spans = [
            self.flow.spans(rows.clone(), |shape| shape.height),
            self.flow.spans(columns.clone(), |shape| shape.width),
        ];
        let mut steps = Vec::with_capacity(program.steps.len());
        for (i, step) in program.steps.iter().enumerate() {
            steps.push(self.step(i, step, &spans)?);
        }
        let mut tile = Program::new(steps, self.place(self.flow.output, &spans, &rows, &columns))?;
        tile.isa = program.isa;
        let [rows, columns] = &spans;
        Ok(Tile { program: tile, input: Window::new(&rows.needed[self.flow.input], &columns.needed[self.flow.input]) })
    }

    /// The step that does for a tile what step `i`, `step`, does for the whole; `spans` are the rows and columns.
    fn step(&self, i: usize, step: &Step, spans: &[Spans; 2]) -> Result<Step, String> {
        let site = self.flow.sites.get(i).ok_or_else(another)?;
        let [needed_rows, needed_columns] = spans.each_ref().map(|spans| &spans.needed[i]);
        let Shape { height, width, .. } = self.flow.shape(site.out);
        let [rows, columns] = [&site.computed(needed_rows, height), &site.computed(needed_columns, width)];
        let read = |(reach, part): (Reach, Part)| {
            let Shape { height, width, .. } = self.flow.shape(part);
            let read_rows = site.read(reach, needed_rows, height);
            let read_columns = site.read(reach, needed_columns, width);
            let before = [reach.before(rows, &read_rows), reach.before(columns, &read_columns)];
            (self.place(part, spans, &read_rows, &read_columns), before)
        };
        let [first, second] = site.reads.map(|part| part.map(read));
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
            _ => return Err(another()),
        };
        Ok(Step { op, out: self.place(site.out, spans, rows, columns) })
    }

    /// Where `rows` and `columns` of `part` lie in a tile's arena.
    fn place(&self, part: Part, spans: &[Spans; 2], rows: &Span, columns: &Span) -> Place {
        let Part { id, first, channels } = part;
        let zeros = self.flow.buffers[id].shape.channels;
        let [held_rows, held_columns] = spans.each_ref().map(|spans| &spans.held[id]);
        let Window { top, left, height, width } = Window::new(held_rows, held_columns);
        let view = View::whole(Shape { channels: zeros, height, width }).channels(first, channels);
        let view = view.window(rows.start - top, columns.start - left, rows.len(), columns.len());
        Place { buffer: self.ranges[id].clone(), view, zeros }
    }
}

fn another() -> String {
    "another program than the one that was cut".into()
}

/// A side of `whole` pixels in spans of `side`.
fn tiles(whole: usize, side: usize) -> impl Iterator<Item = Span> {
    (0..whole).step_by(side).map(move |start| start..start.saturating_add(side).min(whole))
}

/// How much of each buffer is held at most.
fn longest(flow: &Flow, tiles: impl Iterator<Item = Span>, side: fn(Shape) -> usize) -> Vec<usize> {
    let mut longest = vec![0; flow.buffers.len()];
    for tile in tiles {
        let held = flow.spans(tile, side).held;
        longest.iter_mut().zip(held).for_each(|(longest, held)| *longest = held.len().max(*longest));
    }
    longest
}
