//! Which activations a program has, and what of each a tile depends on.

use std::ops::Range;

use super::reach::{Reach, Reads, Span, aligned, reads};
use crate::network::arena::Place;
use crate::network::ops::Shape;
use crate::network::program::{Op, Program};

/// Number of a buffer.
pub(super) type Id = usize;

/// An activation, or several side by side, for as long as it is needed. Another may lie in the same memory later.
#[derive(Debug)]
pub(super) struct Buffer {
    /// Where it lies in the program's arena.
    range: Range<usize>,
    pub shape: Shape,
    /// A multiple of the units of all that write to it.
    unit: usize,
    /// Channels that have been written, none twice.
    written: Vec<Range<usize>>,
    is_read: bool,
    /// First and last step that touch it.
    pub first: usize,
    pub last: usize,
}

/// Channels of a buffer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub id: Id,
    pub first: usize,
    pub channels: usize,
}

/// What a step touches.
#[derive(Debug)]
pub(super) struct Site {
    pub reads: Reads<Part>,
    pub out: Part,
    unit: usize,
}

impl Site {
    /// What the step computes where `needed` is needed of its output, on a side of `side` pixels.
    pub fn computed(&self, needed: &Span, side: usize) -> Span {
        aligned(needed, self.unit, side)
    }

    /// What the step reads, `reach` around, on a side of `side` pixels, where `needed` is needed of its output.
    pub fn read(&self, reach: Reach, needed: &Span, side: usize) -> Span {
        match reach {
            Reach::Same => self.computed(needed, side),
            Reach::Around(_) | Reach::Smaller(_) => reach.of(needed, side),
        }
    }
}

impl Buffer {
    /// What of it is held where `needed` is needed, on a side of `side` pixels.
    pub fn held(&self, needed: &Span, side: usize) -> Span {
        aligned(needed, self.unit, side)
    }
}

/// What a program reads and writes, step by step, whoever shares memory.
#[derive(Debug)]
pub(super) struct Flow {
    pub buffers: Vec<Buffer>,
    pub sites: Vec<Site>,
    pub input: Part,
    pub output: Part,
}

impl Flow {
    /// That of `program`, or why it cannot be cut.
    pub fn new(program: &Program) -> Result<Self, String> {
        let mut buffers = Buffers::default();
        let (mut sites, mut inputs) = (Vec::with_capacity(program.steps.len()), vec![]);
        for (i, step) in program.steps.iter().enumerate() {
            let far =
                || format!("a pixel of its {} depends on more than those near it", step.op.name().unwrap_or("input"));
            let [first, second] = reads(&step.op).ok_or_else(far)?;
            let mut read = |read: Option<_>| match read {
                Some((reach, place)) => buffers.read(place, i).map(|part| Some((reach, part))),
                None => Ok(None),
            };
            let reads = [read(first)?, read(second)?];
            let unit = reads.iter().flatten().map(|(reach, _)| reach.unit()).max().unwrap_or(1);
            let out = buffers.write(&step.out, i, unit)?;
            inputs.extend(matches!(step.op, Op::Input(_)).then_some(out));
            sites.push(Site { reads, out, unit });
        }
        let output = buffers.read(&program.output, program.steps.len())?;
        let Buffers(buffers) = buffers;
        let &[input] = &inputs[..] else { return Err("it has not one input".into()) };
        match buffers.iter().all(|buffer| buffer.is_read) {
            true => Ok(Self { buffers, sites, input, output }),
            false => Err("it computes what is not used".into()),
        }
    }

    /// The shape of a part.
    pub fn shape(&self, Part { id, channels, .. }: Part) -> Shape {
        Shape { channels, ..self.buffers[id].shape }
    }

    /// What of each buffer is needed for the span `tile` of the output; `side` is that of a shape.
    pub fn spans(&self, tile: Span, side: fn(Shape) -> usize) -> Vec<Span> {
        let side = |id: Id| side(self.buffers[id].shape);
        let mut spans = vec![0..0; self.buffers.len()];
        spans[self.output.id] = tile;
        // Where something is read before all that lies beside it is written, once back through the steps is not enough.
        while self.widen(&mut spans, side) {}
        spans
    }

    /// Widens `spans` to what the steps depend on; false where nothing is missing.
    fn widen(&self, spans: &mut [Span], side: impl Fn(Id) -> usize) -> bool {
        let mut has_grown = false;
        for site in self.sites.iter().rev() {
            let span = spans[site.out.id].clone();
            if span.is_empty() {
                continue;
            }
            for (reach, read) in site.reads.iter().flatten() {
                let needed = hull(&spans[read.id], site.read(*reach, &span, side(read.id)));
                has_grown |= spans[read.id] != needed;
                spans[read.id] = needed;
            }
        }
        has_grown
    }
}

fn hull(a: &Span, b: Span) -> Span {
    if a.is_empty() { b } else { a.start.min(b.start)..a.end.max(b.end) }
}

/// The buffers so far, as the steps go by.
#[derive(Debug, Default)]
struct Buffers(Vec<Buffer>);

impl Buffers {
    /// The part that step `i` reads at `place`.
    fn read(&mut self, place: &Place, i: usize) -> Result<Part, String> {
        let (shape, part) = whole(place)?;
        let id = self.standing(place, shape).ok_or("it reads what is no longer there")?;
        let buffer = &mut self.0[id];
        let common = |written: &Range<usize>| written.end.min(part.end).saturating_sub(written.start.max(part.start));
        if buffer.written.iter().map(common).sum::<usize>() != part.len() {
            return Err("it reads what was never written".into());
        }
        (buffer.is_read, buffer.last) = (true, i);
        Ok(Part { id, first: part.start, channels: part.len() })
    }

    /// The part that step `i` of `unit` writes at `place`: of the buffer that stands there, or of a new one where that is another or
    /// has these channels already.
    fn write(&mut self, place: &Place, i: usize, unit: usize) -> Result<Part, String> {
        let (shape, part) = whole(place)?;
        let apart = |written: &Range<usize>| written.end <= part.start || part.end <= written.start;
        let standing = self.standing(place, shape).filter(|&id| self.0[id].written.iter().all(apart));
        let id = standing.unwrap_or_else(|| {
            let range = place.buffer.clone();
            self.0.push(Buffer { range, shape, unit: 1, written: vec![], is_read: false, first: i, last: i });
            self.0.len() - 1
        });
        let (first, channels) = (part.start, part.len());
        let buffer = &mut self.0[id];
        buffer.written.push(part);
        buffer.last = i;
        if !buffer.unit.is_multiple_of(unit) {
            buffer.unit = buffer.unit.saturating_mul(unit);
        }
        Ok(Part { id, first, channels })
    }

    /// The buffer of `shape` at `place`, if nothing has been written over it.
    fn standing(&self, place: &Place, shape: Shape) -> Option<Id> {
        let meets = |other: &Buffer| other.range.start < place.buffer.end && place.buffer.start < other.range.end;
        let last = self.0.iter().rposition(meets)?;
        (self.0[last].range == place.buffer && self.0[last].shape == shape).then_some(last)
    }
}

/// The shape of the buffer at `place`, and the channels of it that lie there.
fn whole(place: &Place) -> Result<(Shape, Range<usize>), String> {
    let Place { buffer, view, zeros } = place;
    let shape = Shape { channels: *zeros, ..view.shape };
    let is_whole = view.pixel == *zeros
        && view.row == view.shape.width * zeros
        && view.offset + view.shape.channels <= *zeros
        && buffer.len() == shape.len() + zeros;
    match is_whole {
        true => Ok((shape, view.offset..view.offset + view.shape.channels)),
        false => Err("it crops an activation".into()),
    }
}
