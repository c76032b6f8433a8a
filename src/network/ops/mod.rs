//! The operators, on height × width × channels.
//!
//! Each is written once, in portable Rust that vectorises, and compiled once per instruction set ([`Isa`](crate::isa::Isa)). All of
//! them fuse multiply and add and sum in one fixed order, so that every instruction set gives the same bits. A
//! convolution may also be one of integers ([`Number`](number::Number)), where the network's file says so.

mod array;
mod attention;
mod conv;
mod grid;
mod lanes;
mod norm;
mod number;
mod pointwise;
mod rounding;
#[cfg(test)]
mod tests;
mod weights;

pub(super) use array::{Array, Visitor};
pub(super) use attention::Attention;
pub(super) use conv::{Conv, ConvInputs, Corner, Geometry};
pub(super) use grid::{Grid, GridMut, Shape, View};
pub(super) use lanes::LANES;
pub(super) use norm::{GroupNorm, LayerNorm};
pub(super) use pointwise::{add, add_vector, copy, depth_to_space, read_planes, silu, sinusoid, write_planes};
pub(super) use rounding::Rounding;
pub(super) use weights::{Kernel, Quantized, Weights};
