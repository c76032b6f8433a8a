//! How far operators look.

use std::ops::Range;

use crate::network::arena::Place;
use crate::network::ops::Geometry;
use crate::network::program::Op;

/// Rows or columns, from the first to before the last.
pub(super) type Span = Range<usize>;

/// Which pixels of what it reads an operator looks at for a span of its output.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reach {
    /// The same.
    Same,
    /// Those that a convolution does.
    Around(Geometry),
    /// In a picture so many times smaller, those that become the span.
    Smaller(usize),
}

impl Reach {
    /// What it looks at for `out`, in an activation of `side` rows or columns. Neither is empty.
    pub fn of(self, out: &Span, side: usize) -> Span {
        match self {
            Self::Same => out.clone(),
            Self::Around(Geometry { upsample: true, .. }) => {
                out.start.saturating_sub(1) / 2..(out.end / 2 + 1).min(side)
            }
            Self::Around(Geometry { size, stride, pad, .. }) => {
                let (first, last) = (out.start * stride, (out.end - 1) * stride);
                first.saturating_sub(pad)..(last + size).saturating_sub(pad).min(side)
            }
            Self::Smaller(block) => out.start / block..out.end.div_ceil(block),
        }
    }

    /// Where in `read`, which [`Self::of`] gave for what is needed of it, the first pixel of `out` stands.
    pub fn before(self, out: &Span, read: &Span) -> usize {
        match self {
            Self::Around(Geometry { upsample: true, .. }) => out.start / 2 - read.start,
            Self::Around(Geometry { stride, .. }) => out.start * stride - read.start,
            Self::Same | Self::Smaller(_) => 0,
        }
    }

    /// How many pixels of the output are computed together: spans of it begin and end at multiples of that.
    pub fn unit(self) -> usize {
        match self {
            Self::Same | Self::Around(Geometry { upsample: false, .. }) => 1,
            Self::Around(_) => 2,
            Self::Smaller(block) => block,
        }
    }
}

/// `span`, on a side of `side` pixels, made larger to begin and end at multiples of `unit`.
pub(super) fn aligned(span: &Span, unit: usize, side: usize) -> Span {
    span.start / unit * unit..span.end.next_multiple_of(unit).min(side)
}

/// What a step reads: the one that it looks around in, and another.
pub(super) type Reads<T> = [Option<(Reach, T)>; 2];

/// What a step of `op` reads, or `None` where a pixel of its output depends on more than pixels near it.
pub(super) fn reads(op: &Op) -> Option<Reads<&Place>> {
    Some(match op {
        Op::Input(_) => [None, None],
        // With more zeros than it is wide, a convolution may look at nothing else.
        Op::Conv { conv, x, vector: None, residual, .. } if conv.geometry.pad < conv.geometry.size => {
            [Some((Reach::Around(conv.geometry), x)), residual.as_ref().map(|residual| (Reach::Same, residual))]
        }
        Op::Silu { x } | Op::Copy { x } => [Some((Reach::Same, x)), None],
        Op::Add { a, b } => [Some((Reach::Same, a)), Some((Reach::Same, b))],
        Op::DepthToSpace { block, x } => [Some((Reach::Smaller(*block), x)), None],
        Op::Conv { .. }
        | Op::GroupNorm { .. }
        | Op::LayerNorm { .. }
        | Op::Attention { .. }
        | Op::AddVector { .. }
        | Op::Sinusoid { .. } => return None,
    })
}
