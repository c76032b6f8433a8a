//! A network as a list of steps over one arena.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::arena::{Place, split};
use super::ops::{self, Array, Attention, Conv, ConvInputs, Corner, GroupNorm, LayerNorm, Visitor};
use super::team::{Scratch, Team};
use crate::isa::Isa;
use crate::threads::Threads;

/// What a step computes, and from what.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Op {
    /// An input of the network.
    Input(usize),
    /// A convolution or a linear layer.
    Conv {
        #[serde(with = "shared")]
        conv: Arc<Conv>,
        x: Place,
        vector: Option<Place>,
        residual: Option<Place>,
        /// The default, but in a tile.
        #[serde(skip)]
        corner: Corner,
    },
    /// Group normalisation, with SiLU or not.
    GroupNorm { norm: GroupNorm, x: Place },
    /// Layer normalisation.
    LayerNorm { norm: LayerNorm, x: Place },
    /// Self-attention.
    Attention { attention: Attention, qkv: Place },
    /// SiLU.
    Silu { x: Place },
    /// A sum.
    Add { a: Place, b: Place },
    /// One value per channel added to every pixel.
    AddVector { x: Place, vector: Place },
    /// A copy, where concatenation cannot do without.
    Copy { x: Place },
    /// Channels to block × block pixels.
    DepthToSpace { block: usize, x: Place },
    /// Cosines and sines of one value times each rate.
    Sinusoid { rates: Array<f32>, t: Place },
}

/// A convolution is written as if it were not shared.
mod shared {
    use super::*;
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(conv: &Arc<Conv>, serializer: S) -> Result<S::Ok, S::Error> {
        (**conv).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<Conv>, D::Error> {
        Conv::deserialize(deserializer).map(Arc::new)
    }
}

/// One step. No input lies in the buffer of the output.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Step {
    pub op: Op,
    pub out: Place,
}

impl Op {
    /// Everything it reads.
    pub fn reads(&self) -> impl Iterator<Item = &Place> {
        let places = match self {
            Self::Input(_) => [None; 3],
            Self::Conv { x, vector, residual, .. } => [Some(x), vector.as_ref(), residual.as_ref()],
            Self::Add { a, b } => [Some(a), Some(b), None],
            Self::AddVector { x, vector } => [Some(x), Some(vector), None],
            Self::GroupNorm { x, .. } | Self::LayerNorm { x, .. } | Self::DepthToSpace { x, .. } => {
                [Some(x), None, None]
            }
            Self::Attention { qkv: x, .. } | Self::Silu { x } | Self::Copy { x } => [Some(x), None, None],
            Self::Sinusoid { t, .. } => [Some(t), None, None],
        };
        places.into_iter().flatten()
    }
}

impl Op {
    /// What it is called; `None` for an input, which computes nothing.
    pub fn name(&self) -> Option<&'static str> {
        Some(match self {
            Self::Input(_) => return None,
            Self::Conv { conv, .. } if conv.is_of_integers() => "integer convolution",
            Self::Conv { .. } => "convolution",
            Self::GroupNorm { .. } => "group normalisation",
            Self::LayerNorm { .. } => "layer normalisation",
            Self::Attention { .. } => "attention",
            Self::Silu { .. } => "SiLU",
            Self::Add { .. } | Self::AddVector { .. } => "sum",
            Self::Copy { .. } => "copy",
            Self::DepthToSpace { .. } => "depth to space",
            Self::Sinusoid { .. } => "sinusoid",
        })
    }
}

impl Step {
    /// Whether nothing that it reads lies in the buffer that it writes.
    pub fn writes_apart(&self) -> bool {
        let out = &self.out.buffer;
        self.op.reads().all(|read| read.buffer.end <= out.start || out.end <= read.buffer.start)
    }

    /// The scratch that the step takes, or `None` where that overflows.
    pub fn scratch(&self) -> Option<Scratch> {
        Some(match &self.op {
            Op::Conv { conv, x, corner, .. } => conv.scratch(x.view.shape, self.out.view.shape, *corner)?,
            Op::GroupNorm { x, .. } | Op::LayerNorm { x, .. } => {
                Scratch { common: x.view.shape.channels.checked_mul(2)?, each: 0 }
            }
            Op::Attention { attention, .. } => Scratch { common: 0, each: attention.scratch(self.out.view.shape)? },
            _ => Scratch::default(),
        })
    }

    fn run(&self, isa: Isa, inputs: &[&[f32]], arena: &mut [f32], team: &mut Team) {
        let (out, others) = split(arena, &self.out);
        let grid = |place: &Place| others.grid(place);
        match &self.op {
            Op::Input(i) => ops::read_planes(inputs[*i], out),
            Op::Conv { conv, x, vector, residual, corner } => {
                let vector = vector.as_ref().map(|place| others.vector(place));
                let residual = residual.as_ref().map(grid);
                let inputs = ConvInputs { x: grid(x), vector, residual, corner: *corner };
                conv.run(isa, inputs, out, team);
            }
            Op::GroupNorm { norm, x } => norm.run(isa, grid(x), out, team),
            Op::LayerNorm { norm, x } => norm.run(isa, grid(x), out, team),
            Op::Attention { attention, qkv } => attention.run(isa, grid(qkv), out, team),
            Op::Silu { x } => ops::silu(isa, grid(x), out),
            Op::Add { a, b } => ops::add(grid(a), grid(b), out),
            Op::AddVector { x, vector } => ops::add_vector(grid(x), others.vector(vector), out),
            Op::Copy { x } => ops::copy(grid(x), out),
            Op::DepthToSpace { block, x } => ops::depth_to_space(grid(x), *block, out),
            Op::Sinusoid { rates, t } => ops::sinusoid(others.vector(t)[0], rates, out),
        }
    }
}

/// A network, ready to run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Program {
    pub steps: Vec<Step>,
    /// The network's output.
    pub output: Place,
    /// Values of the arena.
    #[serde(skip)]
    pub arena: usize,
    /// Scratch that suffices for any step.
    #[serde(skip)]
    pub scratch: Scratch,
    /// What the steps are run with.
    #[serde(skip, default = "Isa::best")]
    pub isa: Isa,
}

/// The memory of one run at a time.
#[derive(Debug)]
pub(super) struct Workspace {
    arena: Box<[f32]>,
    common: Box<[f32]>,
    /// One for each thread of the run.
    pub scratch: Vec<Box<[f32]>>,
}

impl Workspace {
    /// For an arena of so many values, and no thread yet.
    pub fn new(arena: usize, scratch: Scratch) -> Self {
        Self { arena: zeros(arena), common: zeros(scratch.common), scratch: vec![] }
    }

    /// For a run by one thread.
    #[cfg(test)]
    pub fn for_one(arena: usize, scratch: Scratch) -> Self {
        Self { scratch: vec![zeros(scratch.each)], ..Self::new(arena, scratch) }
    }
}

/// So many.
pub(super) fn zeros(values: usize) -> Box<[f32]> {
    vec![0.0; values].into()
}

impl Program {
    /// The program of these steps.
    pub fn new(steps: Vec<Step>, output: Place) -> Result<Self, String> {
        let mut program = Self { steps, output, arena: 0, scratch: Scratch::default(), isa: Isa::best() };
        program.measure()?;
        Ok(program)
    }

    /// Finds out what memory a run takes.
    pub fn measure(&mut self) -> Result<(), String> {
        let places = self.steps.iter().flat_map(|step| step.op.reads().chain([&step.out])).chain([&self.output]);
        self.arena = places.map(|place| place.buffer.end).max().unwrap_or(0);
        let mut scratch = self.steps.iter().map(Step::scratch);
        let most = scratch.try_fold(Scratch::default(), |most, scratch| scratch.map(|scratch| most.max(scratch)));
        self.scratch = most.ok_or("scratch overflows")?;
        Ok(())
    }

    /// Shows `visitor` every array.
    pub fn visit(&mut self, visitor: &mut impl Visitor) -> Result<(), String> {
        self.steps.iter_mut().try_for_each(|step| match &mut step.op {
            Op::Conv { conv, .. } => match Arc::get_mut(conv) {
                Some(conv) => conv.weights.visit(visitor),
                None => Err("a convolution is in use".into()),
            },
            Op::GroupNorm { norm, .. } => norm.visit(visitor),
            Op::LayerNorm { norm, .. } => norm.visit(visitor),
            Op::Sinusoid { rates, .. } => visitor.visit(rates),
            _ => Ok(()),
        })
    }

    /// Runs it: `inputs` and `out` are of the network's shapes, channel × height × width; `workspace` is made for at least
    /// [`Self::arena`] and [`Self::scratch`], with scratch for each of `threads`. Allocates nothing.
    pub fn run(&self, inputs: &[&[f32]], out: &mut [f32], workspace: &mut Workspace, threads: &Threads) {
        let Workspace { arena, common, scratch } = workspace;
        let mut team = Team::new(threads, common, scratch);
        self.steps.iter().for_each(|step| step.run(self.isa, inputs, arena, &mut team));
        let values = &arena[self.output.buffer.clone()];
        ops::write_planes(ops::Grid { values, view: self.output.view }, out);
    }
}
