//! Which convolutions take bytes, and the nodes that make them: `QuantizeLinear` and `DequantizeLinear` between a value
//! and the convolutions that read it.
//!
//! In float stay the first and the last convolutions of a network, which no other precedes or follows; linear layers;
//! those whose weights are not `i8` already; and those that read a concatenation of channels, whose parts have ranges
//! of their own that one scale would not suit.

use std::collections::{HashMap, HashSet};

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, TensorProto};

use super::ranges::Range;
use crate::export::proto;

/// Operator sets in which the nodes mean what they are written for: quantization by axis is new in the first.
const OPSETS: std::ops::RangeInclusive<i64> = 13..=22;

/// Largest magnitude of a byte less its zero point, times that of a weight.
const LARGEST_PRODUCT: usize = 255 * 128;

/// Sums stay this many times below the largest `i32`, so that an engine may add up in any order, and in parts.
const SUM_RESERVE: usize = 4;

/// A value that convolutions take as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Name of the value.
    pub value: String,
    /// Indices of the nodes that read it as bytes, in order.
    pub convolutions: Vec<usize>,
}

/// The values of `model` that can be quantized, in the order in which they are first read.
///
/// # Errors
/// Why there is none.
pub fn places(model: &ModelProto) -> Result<Vec<Place>, String> {
    let standard = |domain: &str| matches!(domain, "" | "ai.onnx");
    if !model.opset_import.iter().all(|set| standard(&set.domain) && OPSETS.contains(&set.version)) {
        return Err(format!("its operator set is not within {}…{}", OPSETS.start(), OPSETS.end()));
    }
    let graph = model.graph.as_ref().ok_or("it has no graph")?;
    let view = View::new(graph);
    if graph.node.iter().any(|node| node.op_type == "QuantizeLinear") {
        return Err("it is quantized already".into());
    }
    let mut places: Vec<Place> = vec![];
    for (i, node) in graph.node.iter().enumerate().filter(|(i, node)| node.op_type == "Conv" && view.takes_bytes(*i)) {
        match places.iter_mut().find(|place| place.value == node.input[0]) {
            Some(place) => place.convolutions.push(i),
            None => places.push(Place { value: node.input[0].clone(), convolutions: vec![i] }),
        }
    }
    match places.is_empty() {
        true => Err("it has no convolution of int8 weights between the first and the last".into()),
        false => Ok(places),
    }
}

/// Number of convolutions in `model`.
pub fn convolutions(model: &ModelProto) -> usize {
    model.graph.iter().flat_map(|graph| &graph.node).filter(|node| node.op_type == "Conv").count()
}

/// Puts the nodes for `places`, each with its range, into `model`, of which [`places`] gave them.
pub fn insert(model: &mut ModelProto, places: &[(&Place, Range)]) {
    let Some(graph) = &mut model.graph else { return };
    let mut names = Names::of(graph);
    let mut before: HashMap<usize, [NodeProto; 2]> = HashMap::new();
    for (Place { value, convolutions }, range) in places {
        let Some(&first) = convolutions.first() else { continue };
        // tract names the parts of a node with a point, so no name here is another with a point and more.
        let name = |what: &str, names: &mut Names| names.fresh(&format!("{value}_{what}"));
        let [scale, zero, byte, real] =
            ["scale", "zero_point", "quantized", "dequantized"].map(|what| name(what, &mut names));
        graph.initializer.push(proto::floats(&scale, &[], &[range.scale]));
        graph.initializer.push(proto::unsigned(&zero, &[], &[range.zero]));
        let quantize = proto::node("QuantizeLinear", &[value, &scale, &zero], &[&byte], vec![]);
        let dequantize = proto::node("DequantizeLinear", &[&byte, &scale, &zero], &[&real], vec![]);
        convolutions.iter().for_each(|&i| graph.node[i].input[0].clone_from(&real));
        before.insert(first, [quantize, dequantize]);
    }
    let nodes = std::mem::take(&mut graph.node);
    for (i, node) in nodes.into_iter().enumerate() {
        graph.node.extend(before.remove(&i).into_iter().flatten());
        graph.node.push(node);
    }
}

/// The names in a graph.
struct Names(HashSet<String>);

impl Names {
    fn of(graph: &GraphProto) -> Self {
        let nodes = graph.node.iter().flat_map(|node| node.output.iter().chain([&node.name]));
        let values = graph.initializer.iter().map(|tensor| &tensor.name);
        Self(nodes.chain(values).chain(graph.input.iter().map(|input| &input.name)).cloned().collect())
    }

    /// `stem`, or `stem` with a number.
    fn fresh(&mut self, stem: &str) -> String {
        let numbered = (2..).map(|i| format!("{stem}_{i}"));
        let mut names = std::iter::once(stem.to_owned()).chain(numbered);
        names.find(|name| self.0.insert(name.clone())).expect("numbers do not end")
    }
}

/// A graph, looked at from its values.
struct View<'a> {
    graph: &'a GraphProto,
    constants: HashMap<&'a str, &'a TensorProto>,
    /// The node that makes a value.
    makers: HashMap<&'a str, usize>,
    /// Whether a convolution or a linear layer lies between the inputs and a node, itself left out.
    is_preceded: Vec<bool>,
    /// Whether one lies between a node and the output.
    is_followed: Vec<bool>,
}

impl<'a> View<'a> {
    fn new(graph: &'a GraphProto) -> Self {
        let outputs = |(i, node): (usize, &'a NodeProto)| node.output.iter().map(move |name| (name.as_str(), i));
        let makers: HashMap<_, _> = graph.node.iter().enumerate().flat_map(outputs).collect();
        let is_layer = |i: usize| matches!(graph.node[i].op_type.as_str(), "Conv" | "Gemm");
        let sources = |i: usize| graph.node[i].input.iter().filter_map(|name| makers.get(name.as_str()).copied());
        let (mut is_preceded, mut is_followed) = (vec![false; graph.node.len()], vec![false; graph.node.len()]);
        // Nodes stand in the order in which they are computed.
        for i in 0..graph.node.len() {
            is_preceded[i] = sources(i).any(|source| is_preceded[source] || is_layer(source));
        }
        for i in (0..graph.node.len()).rev() {
            let follows = is_followed[i] || is_layer(i);
            sources(i).for_each(|source| is_followed[source] |= follows);
        }
        let constants = graph.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        Self { graph, constants, makers, is_preceded, is_followed }
    }

    /// Whether the convolution `i` is to take bytes.
    fn takes_bytes(&self, i: usize) -> bool {
        let inner = self.is_preceded[i] && self.is_followed[i];
        let [x, weights, ..] = &self.graph.node[i].input[..] else { return false };
        let Some(values) = self.bytes_of(weights) else { return false };
        // Values that one output channel is a sum of, by the sides of the weights.
        let terms = values.iter().map(|tensor| product(&tensor.dims[1..])).max().unwrap_or(0);
        let fits = terms.saturating_mul(SUM_RESERVE * LARGEST_PRODUCT) < 1 << 31;
        inner && fits && !self.is_concatenation(x)
    }

    /// The `i8` constants that make up weights with one scale for each output channel.
    fn bytes_of(&self, weights: &str) -> Option<Vec<&'a TensorProto>> {
        let node = &self.graph.node[*self.makers.get(weights)?];
        let first_axis = node.attribute.iter().any(|attribute| attribute.name == "axis" && attribute.i == 0);
        match (node.op_type.as_str(), &node.input[..]) {
            ("DequantizeLinear", [values, scales]) if first_axis => {
                let [values, scales] = [values, scales].map(|name| self.constants.get(name.as_str()));
                let (values, scales) = (*values?, *scales?);
                let is = |tensor: &TensorProto, kind: DataType| tensor.data_type == kind as i32;
                let fit = is(values, DataType::Int8) && is(scales, DataType::Float) && !values.dims.is_empty();
                (fit && scales.dims == values.dims[..1]).then(|| vec![values])
            }
            ("Concat", parts) if first_axis => {
                let parts: Vec<_> = parts.iter().map(|part| self.bytes_of(part)).collect::<Option<_>>()?;
                Some(parts.concat())
            }
            _ => None,
        }
    }

    /// Whether a value is a concatenation, as it is or in another shape or size.
    fn is_concatenation(&self, value: &str) -> bool {
        let Some(node) = self.makers.get(value).map(|&i| &self.graph.node[i]) else { return false };
        match node.op_type.as_str() {
            "Concat" => true,
            "Reshape" | "Resize" | "Identity" => self.is_concatenation(&node.input[0]),
            _ => false,
        }
    }
}

fn product(sides: &[i64]) -> usize {
    sides.iter().fold(1, |n, &side| n.saturating_mul(usize::try_from(side).unwrap_or(usize::MAX)))
}

#[cfg(test)]
mod tests;
