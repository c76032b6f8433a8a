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
    /// Channels that have been written, none twice, and by which steps.
    written: Vec<(Range<usize>, usize)>,
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
    /// The steps that have written any of `channels`.
    fn writers(&self, channels: Range<usize>) -> impl Iterator<Item = usize> {
        let meets = move |written: &Range<usize>| written.start < channels.end && channels.start < written.end;
        self.written.iter().filter(move |(written, _)| meets(written)).map(|&(_, step)| step)
    }
}

/// Rows, or columns, that a tile depends on.
#[derive(Debug)]
pub(super) struct Spans {
    /// What is needed of each step's output. A little more may be computed, where pixels are so several at a time.
    pub needed: Vec<Span>,
    /// What each buffer holds: all that is computed of what lies in it.
    pub held: Vec<Span>,
}

/// What a program reads and writes, step by step, whoever shares memory.
#[derive(Debug)]
pub(super) struct Flow {
    pub buffers: Vec<Buffer>,
    pub sites: Vec<Site>,
    /// The step that takes the input.
    pub input: usize,
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
            let out = buffers.write(&step.out, i)?;
            inputs.extend(matches!(step.op, Op::Input(_)).then_some(i));
            sites.push(Site { reads, out, unit });
        }
        let output = buffers.read(&program.output, program.steps.len())?;
        let Buffers(buffers) = buffers;
        let &[input] = &inputs[..] else { return Err("it has not one input".into()) };
        let flow = Self { buffers, sites, input, output };
        let whole = flow.spans(0..flow.shape(output).height, |shape| shape.height);
        match whole.needed.iter().any(Span::is_empty) {
            true => Err("it computes what is not used".into()),
            false => Ok(flow),
        }
    }

    /// The shape of a part.
    pub fn shape(&self, Part { id, channels, .. }: Part) -> Shape {
        Shape { channels, ..self.buffers[id].shape }
    }

    /// What the span `tile` of the output depends on; `side` is that of a shape.
    pub fn spans(&self, tile: Span, side: fn(Shape) -> usize) -> Spans {
        let side = |part: Part| side(self.buffers[part.id].shape);
        let mut needed = vec![0..0; self.sites.len()];
        self.need(self.output, &tile, &mut needed);
        // What reads stands behind what it reads, so that all that needs a step has been met before it.
        for (i, site) in self.sites.iter().enumerate().rev().filter(|_| !tile.is_empty()) {
            let span = needed[i].clone();
            for &(reach, part) in site.reads.iter().flatten().filter(|_| !span.is_empty()) {
                self.need(part, &site.read(reach, &span, side(part)), &mut needed);
            }
        }
        let mut held = vec![0..0; self.buffers.len()];
        for (site, span) in self.sites.iter().zip(&needed) {
            let held = &mut held[site.out.id];
            *held = hull(held, &site.computed(span, side(site.out)));
        }
        Spans { needed, held }
    }

    /// Makes `span` of `part` needed of the steps that write it.
    fn need(&self, Part { id, first, channels }: Part, span: &Span, needed: &mut [Span]) {
        for writer in self.buffers[id].writers(first..first + channels) {
            needed[writer] = hull(&needed[writer], span);
        }
    }
}

fn hull(a: &Span, b: &Span) -> Span {
    match (a.is_empty(), b.is_empty()) {
        (true, _) => b.clone(),
        (_, true) => a.clone(),
        _ => a.start.min(b.start)..a.end.max(b.end),
    }
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
        let common =
            |(written, _): &(Range<usize>, _)| written.end.min(part.end).saturating_sub(written.start.max(part.start));
        if buffer.written.iter().map(common).sum::<usize>() != part.len() {
            return Err("it reads what was never written".into());
        }
        buffer.last = i;
        Ok(Part { id, first: part.start, channels: part.len() })
    }

    /// The part that step `i` writes at `place`: of the buffer that stands there, or of a new one where that is another or
    /// has these channels already.
    fn write(&mut self, place: &Place, i: usize) -> Result<Part, String> {
        let (shape, part) = whole(place)?;
        let is_free = |&id: &Id| self.0[id].writers(part.clone()).next().is_none();
        let standing = self.standing(place, shape).filter(is_free);
        let id = standing.unwrap_or_else(|| {
            let range = place.buffer.clone();
            self.0.push(Buffer { range, shape, written: vec![], first: i, last: i });
            self.0.len() - 1
        });
        let (first, channels) = (part.start, part.len());
        let buffer = &mut self.0[id];
        buffer.written.push((part, i));
        buffer.last = i;
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
