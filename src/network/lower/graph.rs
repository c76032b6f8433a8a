//! The graph between ONNX and a program: few kinds of nodes, each one operator of ours, one activation each.

use super::constants::Kernels;
use crate::network::Network;
use crate::network::ops::{Geometry, Rounding, Shape};

/// Number of a node; inputs have lower numbers.
pub(super) type Id = usize;

/// What a node computes.
#[derive(Debug)]
pub(super) enum Kind<'a> {
    /// An input of the network, by number.
    Input(usize),
    Conv(Box<Conv<'a>>),
    GroupNorm {
        groups: usize,
        epsilon: f32,
        scale: Box<[f32]>,
        shift: Box<[f32]>,
        silu: bool,
    },
    /// Scale and shift in the order channel, row, column.
    LayerNorm {
        epsilon: f32,
        scale: Box<[f32]>,
        shift: Box<[f32]>,
    },
    Attention {
        heads: usize,
        scale: f32,
    },
    Silu,
    Add,
    /// Inputs: activation, vector.
    AddVector,
    /// On channels.
    Concat,
    DepthToSpace {
        block: usize,
    },
    Crop {
        top: usize,
        left: usize,
    },
    Sinusoid {
        rates: Box<[f32]>,
    },
    /// Taken up by another node.
    Gone,
}

/// A convolution. The node's inputs: the activation, then vector and residual where it has them.
#[derive(Debug)]
pub(super) struct Conv<'a> {
    pub kernels: Kernels<'a>,
    pub bias: Box<[f32]>,
    pub geometry: Geometry,
    /// How its input is rounded, where it is.
    pub rounding: Option<Rounding>,
    pub vector: Option<Id>,
    pub residual: Option<Id>,
    pub silu: bool,
}

impl<'a> Conv<'a> {
    /// With nothing taken in.
    pub fn new(kernels: Kernels<'a>, bias: Box<[f32]>, geometry: Geometry, rounding: Option<Rounding>) -> Self {
        Self { kernels, bias, geometry, rounding, vector: None, residual: None, silu: false }
    }
}

/// A node.
#[derive(Debug)]
pub(super) struct Node<'a> {
    pub kind: Kind<'a>,
    pub inputs: Vec<Id>,
    pub shape: Shape,
}

/// Nodes in order of computation.
#[derive(Debug, Default)]
pub(super) struct Graph<'a> {
    pub nodes: Vec<Node<'a>>,
}

impl<'a> Graph<'a> {
    /// Adds a node; an activation that is empty or too large is refused.
    pub fn add(&mut self, kind: Kind<'a>, inputs: Vec<Id>, shape: Shape) -> Result<Id, String> {
        let Shape { channels, height, width } = shape;
        let len = channels.checked_mul(height).and_then(|n| n.checked_mul(width));
        match len {
            Some(1..=Network::MAX_VALUES) => {}
            _ => return Err(format!("an activation of {channels}×{height}×{width} values")),
        }
        self.nodes.push(Node { kind, inputs, shape });
        Ok(self.nodes.len() - 1)
    }

    /// Shape of a node's activation.
    pub fn shape(&self, id: Id) -> Shape {
        self.nodes[id].shape
    }
}

impl Node<'_> {
    /// All that the node reads.
    pub fn reads(&self) -> impl Iterator<Item = Id> {
        let more = match &self.kind {
            Kind::Conv(conv) => [conv.vector, conv.residual],
            _ => [None; 2],
        };
        self.inputs.iter().copied().chain(more.into_iter().flatten())
    }
}
