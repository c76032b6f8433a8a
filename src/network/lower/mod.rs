//! From an ONNX graph to a [`Program`] of our operators.
//!
//! Recognised is what our exporter writes, and nothing else: another graph is left to tract. All sizes come from a
//! file; they are checked here, so that no operator reads or writes beyond its buffers.

mod attributes;
mod constants;
mod fuse;
mod graph;
mod place;
mod recognise;
#[cfg(test)]
mod tests;

use tract_onnx::pb::ModelProto;

use super::program::Program;
use crate::bundle::manifest::NetworkEntry;

/// The program of `model`, which has the signature of `entry`; or which node is not ours.
pub(super) fn lower(model: &ModelProto, entry: &NetworkEntry) -> Result<Program, String> {
    let (mut graph, output) = recognise::recognise(model, entry)?;
    fuse::fuse(&mut graph, output);
    place::place(graph, output)
}
