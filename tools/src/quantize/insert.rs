//! Which convolutions take rounded values, and the nodes that round them: `QuantizeLinear` and `DequantizeLinear` between
//! a value and the convolutions that read it.
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
/// From this one on there is `uint16`, for more than 8 bits, and the version of the file's format that goes with it.
const WIDE: (i64, i64) = (21, 10);

/// Bits that values are rounded to. The runtime multiplies integers of 16 bits, so more than 8 cost it nothing but on ARM
/// cores with dot products; Winograd's convolution adds up four of them.
pub const BITS: std::ops::RangeInclusive<u32> = 8..=12;

/// Largest magnitude of a weight.
const LARGEST_WEIGHT: usize = 128;

/// Sums stay this many times below the largest `i32`, so that an engine may add up in any order, and in parts.
const SUM_RESERVE: usize = 4;

/// How values are rounded to the levels of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nodes {
    /// By `QuantizeLinear` and `DequantizeLinear`: `uint8`, or `uint16` after a `Clip`, since its ends lie further out.
    Standard,
    /// The same by operators on reals, which any engine has.
    OnReals,
}

/// A value that convolutions take rounded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Name of the value.
    pub value: String,
    /// Bits that it is rounded to.
    pub bits: u32,
    /// Indices of the nodes that read it so, in order.
    pub convolutions: Vec<usize>,
}

/// The values of `model` that can be quantized, in the order in which they are first read: to `bits` bits, or to as many
/// from 8 on as the sums of the convolutions that read them can take.
///
/// # Errors
/// Why there is none.
pub fn places(model: &ModelProto, bits: u32) -> Result<Vec<Place>, String> {
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
    for (i, node) in graph.node.iter().enumerate().filter(|(_, node)| node.op_type == "Conv") {
        let Some(bits) = view.bits(i).map(|most| most.min(bits)) else { continue };
        match places.iter_mut().find(|place| place.value == node.input[0]) {
            Some(place) => {
                place.convolutions.push(i);
                place.bits = place.bits.min(bits);
            }
            None => places.push(Place { value: node.input[0].clone(), bits, convolutions: vec![i] }),
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

/// Puts the `nodes` for `places`, each with its range, into `model`, of which [`places`] gave them.
pub fn insert(model: &mut ModelProto, places: &[(&Place, Range)], nodes: Nodes) {
    let Some(graph) = &mut model.graph else { return };
    let mut names = Names::of(graph);
    let mut before: HashMap<usize, Vec<NodeProto>> = HashMap::new();
    for (Place { value, convolutions, .. }, range) in places {
        let Some(&first) = convolutions.first() else { continue };
        let rounded = rounded(graph, &mut names, value, *range, nodes);
        let last = rounded.last().and_then(|node| node.output.first()).cloned().unwrap_or_default();
        convolutions.iter().for_each(|&i| graph.node[i].input[0].clone_from(&last));
        before.insert(first, rounded);
    }
    let all = std::mem::take(&mut graph.node);
    for (i, node) in all.into_iter().enumerate() {
        graph.node.extend(before.remove(&i).into_iter().flatten());
        graph.node.push(node);
    }
    if nodes == Nodes::Standard && places.iter().any(|(_, range)| range.most > u8::MAX.into()) {
        model.opset_import.iter_mut().for_each(|set| set.version = set.version.max(WIDE.0));
        model.ir_version = model.ir_version.max(WIDE.1);
    }
}

/// The nodes that round `value` to the levels of `range`; their constants go into `graph`.
fn rounded(graph: &mut GraphProto, names: &mut Names, value: &str, range: Range, nodes: Nodes) -> Vec<NodeProto> {
    // tract names the parts of a node with a point, so no name here is another with a point and more.
    let mut name = |what: &str| names.fresh(&format!("{value}_{what}"));
    let is_wide = range.most > u8::MAX.into();
    let scale = name("scale");
    graph.initializer.push(proto::floats(&scale, &[], &[range.scale]));
    let (mut made, mut from) = (vec![], value.to_owned());
    if is_wide || nodes == Nodes::OnReals {
        let [least, most, clipped] = ["least", "most", "clipped"].map(&mut name);
        for (bound, value) in [&least, &most].into_iter().zip(range.ends()) {
            graph.initializer.push(proto::floats(bound, &[], &[value]));
        }
        made.push(proto::node("Clip", &[&from, &least, &most], &[&clipped], vec![]));
        from = clipped;
    }
    let [quantized, real] = ["quantized", "dequantized"].map(&mut name);
    match nodes {
        Nodes::OnReals => {
            let steps = name("steps");
            made.push(proto::node("Div", &[&from, &scale], &[&steps], vec![]));
            made.push(proto::node("Round", &[&steps], &[&quantized], vec![]));
            made.push(proto::node("Mul", &[&quantized, &scale], &[&real], vec![]));
        }
        Nodes::Standard => {
            let zero = name("zero_point");
            graph.initializer.push(proto::unsigned(&zero, range.zero, is_wide));
            made.push(proto::node("QuantizeLinear", &[&from, &scale, &zero], &[&quantized], vec![]));
            made.push(proto::node("DequantizeLinear", &[&quantized, &scale, &zero], &[&real], vec![]));
        }
    }
    made
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

    /// Most bits of what the convolution `i` may take; `None` where it is to stay in float.
    fn bits(&self, i: usize) -> Option<u32> {
        let inner = self.is_preceded[i] && self.is_followed[i];
        let [x, weights, ..] = &self.graph.node[i].input[..] else { return None };
        let values = self.bytes_of(weights)?;
        // Values that one output channel is a sum of, by the sides of the weights.
        let terms = values.iter().map(|tensor| product(&tensor.dims[1..])).max().unwrap_or(0);
        let fits = |bits: &u32| terms.saturating_mul(SUM_RESERVE * LARGEST_WEIGHT * ((1 << bits) - 1)) < 1 << 31;
        let most = BITS.rev().find(fits)?;
        (inner && !self.is_concatenation(x)).then_some(most)
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
