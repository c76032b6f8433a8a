//! The ONNX writer: translates what a [`Tape`] recorded into the graph that ships.
//!
//! The tape is NHWC, ONNX is NCHW: maps `[1,H,W,C]` become `[1,C,H,W]`, vectors `[1,1,1,C]` become `[1,C]`.
//! Graphs have batch 1 and static shapes, and are written as tract runs them best: normalisations and
//! per-channel sums at rank 3 (`[1,C,H·W]`), since tract is slow where `[C,1,1]` meets rank 4.

pub mod bundle;
mod graph;
pub mod proto;
mod quantize;
#[cfg(test)]
mod tests;
mod translate;
mod values;

pub use quantize::{Quantized, is_quantized, quantize_dequantize};
pub use values::record_values;

use std::collections::BTreeSet;

use prost::Message;
use rissole::bundle::manifest::{NetworkEntry, TensorEntry};
use serde::{Deserialize, Serialize};
use tract_onnx::pb::tensor_shape_proto::dimension::Value;
use tract_onnx::pb::{ModelProto, ValueInfoProto, type_proto};

use crate::backend::Backend;
use crate::tape::{NodeId, Op, Tape};
use graph::Graph;
use translate::{Form, Translator};

/// How weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weights {
    /// As trained.
    F32,
    /// Convolution weights of 8192 values or more as `i8` with one scale per output channel, expanded by
    /// `DequantizeLinear` when the file is loaded; everything else `f32`. See [`quantize_dequantize`].
    Int8,
}

/// What to write.
#[derive(Debug, Clone, Copy)]
pub struct ExportSpec<'a> {
    /// Name of the graph.
    pub name: &'a str,
    /// The node to compute, and its name outside.
    pub output: (NodeId, &'a str),
    /// How weights are stored.
    pub weights: Weights,
}

/// Translates the nodes that `spec.output` depends on. Inputs keep their names and the order of their recording.
///
/// # Panics
/// Where the tape was not recorded with batch 1, two inputs share a name, or an operation is used in a way that
/// no network here does: defects of the caller.
pub fn to_onnx<B: Backend>(tape: &Tape<B>, backend: &B, spec: ExportSpec) -> ModelProto {
    let (output, output_name) = spec.output;
    let needed = ancestors(tape, output);
    let input_names = needed.iter().filter_map(|&i| match &tape.nodes()[i].op {
        Op::Input { name } => Some(name.clone()),
        _ => None,
    });
    let graph = Graph::new(input_names.chain([output_name.to_owned()]));
    let mut translator = Translator::new(tape, backend, spec.weights, graph);
    needed.iter().for_each(|&i| translator.translate(NodeId(i)));
    let (from, form) = translator.best(output, &[Form::Vector, Form::Map]);
    let shape = form.dims(tape.shape(output));
    proto::model(translator.into_graph().finish(spec.name, &from, output_name, &shape))
}

/// [`to_onnx`] as the bytes of a file.
pub fn to_onnx_bytes<B: Backend>(tape: &Tape<B>, backend: &B, spec: ExportSpec) -> Vec<u8> {
    to_onnx(tape, backend, spec).encode_to_vec()
}

/// What the manifest says of a network that is stored as `file`.
pub fn network_entry(file: &str, model: &ModelProto) -> NetworkEntry {
    let all = |list: &[ValueInfoProto]| list.iter().map(tensor_entry).collect();
    let graph = model.graph.as_ref();
    NetworkEntry {
        file: file.to_owned(),
        inputs: graph.map(|g| all(&g.input)).unwrap_or_default(),
        outputs: graph.map(|g| all(&g.output)).unwrap_or_default(),
    }
}

/// Name and shape; a dimension that is not static counts as 0.
fn tensor_entry(info: &ValueInfoProto) -> TensorEntry {
    let r#type = info.r#type.as_ref().and_then(|t| t.value.as_ref());
    let shape = r#type.and_then(|type_proto::Value::TensorType(t)| t.shape.as_ref());
    let size = |value: &Option<Value>| match value {
        Some(Value::DimValue(size)) => usize::try_from(*size).unwrap_or(0),
        _ => 0,
    };
    let shape = shape.map(|s| s.dim.iter().map(|d| size(&d.value)).collect()).unwrap_or_default();
    TensorEntry { name: info.name.clone(), shape }
}

/// The nodes that `output` is computed from, with itself, in order of recording.
fn ancestors<B: Backend>(tape: &Tape<B>, output: NodeId) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    let mut open = vec![output];
    while let Some(id) = open.pop() {
        if found.insert(id.0) {
            open.extend(&tape.nodes()[id.0].inputs);
        }
    }
    found
}
