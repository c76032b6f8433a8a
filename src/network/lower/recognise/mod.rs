//! Understands the ONNX nodes that our exporter writes, one after the other.
//!
//! Several ONNX nodes make one operator of ours (a group normalisation is seven). Each value is therefore known by
//! what it means so far ([`Form`]); a node that goes on from there gives a value that means more.

mod attention;
mod quantized;

use std::collections::HashMap;

use tract_onnx::pb::{ModelProto, NodeProto, TensorProto};

use attention::Stage;

use super::attributes::Attributes;
use super::constants::{self, Kernels};
use super::graph::{Conv, Graph, Id, Kind};
use crate::bundle::manifest::NetworkEntry;
use crate::network::ops::{Geometry, Rounding, Shape};

/// What an ONNX value means.
#[derive(Debug, Clone)]
enum Form<'a> {
    /// A constant of the file.
    Constant(&'a TensorProto),
    /// Weights of a convolution.
    Kernels(Kernels<'a>),
    /// The activation of a node, in the order channel, row, column.
    Active(Id),
    /// That, normalised group by group, before the affine.
    Normal {
        x: Id,
        groups: usize,
        epsilon: f32,
    },
    /// That times one scale for each channel.
    Scaled {
        x: Id,
        groups: usize,
        epsilon: f32,
        scale: &'a TensorProto,
    },
    /// The sigmoid of an activation.
    Gate(Id),
    /// An activation, twice as high and wide.
    Upsampled(Id),
    /// An activation, or one twice as high and wide, kept within bounds; rounded, by a scale and a zero point; the same as
    /// real numbers again.
    Clipped(Map, [f32; 2]),
    Rounded(Map, Rounding, [&'a TensorProto; 2]),
    Restored(Map, Rounding),
    /// An activation of one value times rates; its cosines; its sines.
    Angles(Id, &'a TensorProto),
    Cosines(Id, &'a TensorProto),
    Sines(Id, &'a TensorProto),
    /// A step on the way from queries, keys and values to attention.
    Attending(Id, Stage),
}

/// What a convolution may read.
#[derive(Debug, Clone, Copy)]
struct Map {
    x: Id,
    /// Whether it is twice as high and wide as `x`.
    upsample: bool,
}

/// A value: what it means, and its sides in ONNX.
#[derive(Debug, Clone)]
struct Value<'a> {
    form: Form<'a>,
    dims: Vec<usize>,
}

/// The last axis, as the file may count it.
const LAST: i64 = -1;
/// Operator sets in which the nodes below mean what they are taken for.
const OPSETS: std::ops::RangeInclusive<i64> = 13..=22;

type Answer<T> = Result<T, String>;

/// The graph of `model`, and the node of its output; or what is not understood.
pub(super) fn recognise<'a>(model: &'a ModelProto, entry: &NetworkEntry) -> Answer<(Graph<'a>, Id)> {
    let proto = model.graph.as_ref().ok_or("no graph")?;
    let standard = |domain: &str| matches!(domain, "" | "ai.onnx");
    if !model.opset_import.iter().all(|set| standard(&set.domain) && OPSETS.contains(&set.version)) {
        return Err("another operator set".into());
    }
    let mut recogniser = Recogniser { graph: Graph::default(), values: HashMap::new() };
    for (i, input) in entry.inputs.iter().enumerate() {
        let shape = match input.shape[..] {
            [1, channels] => Shape { channels, height: 1, width: 1 },
            [1, channels, height, width] => Shape { channels, height, width },
            _ => return Err(format!("input {:?}: {:?}", input.name, input.shape)),
        };
        let id = recogniser.graph.add(Kind::Input(i), vec![], shape)?;
        recogniser.set(&input.name, Form::Active(id), input.shape.clone())?;
    }
    for tensor in &proto.initializer {
        let dims = constants::dims(tensor).ok_or_else(|| format!("constant {:?}", tensor.name))?;
        recogniser.set(&tensor.name, Form::Constant(tensor), dims)?;
    }
    for node in &proto.node {
        let named = |fault| format!("{} {:?}: {fault}", node.op_type, node.output.first().map_or("", |name| name));
        if !standard(&node.domain) {
            return Err(named(format!("domain {:?}", node.domain)));
        }
        recogniser.node(node).map_err(named)?;
    }
    let output = entry.outputs.first().ok_or("no output")?;
    match recogniser.value(&output.name)? {
        Value { form: Form::Active(id), dims } if dims == output.shape => Ok((recogniser.graph, id)),
        _ => Err(format!("output {:?}", output.name)),
    }
}

/// What is known so far.
struct Recogniser<'a> {
    graph: Graph<'a>,
    values: HashMap<String, Value<'a>>,
}

impl<'a> Recogniser<'a> {
    fn set(&mut self, name: &str, form: Form<'a>, dims: Vec<usize>) -> Answer<()> {
        match self.values.insert(name.to_owned(), Value { form, dims }) {
            Some(_) => Err(format!("{name:?} is made twice")),
            None => Ok(()),
        }
    }

    fn value(&self, name: &str) -> Answer<Value<'a>> {
        self.values.get(name).cloned().ok_or_else(|| format!("{name:?} is not there yet"))
    }

    fn node(&mut self, node: &'a NodeProto) -> Answer<()> {
        let mut attributes = Attributes::of(node);
        let inputs = node.input.iter().filter(|name| !name.is_empty()).map(|name| self.value(name));
        let inputs: Vec<Value> = inputs.collect::<Answer<_>>()?;
        let skipped = node.input.iter().position(String::is_empty);
        if skipped.is_some() && (node.op_type.as_str(), skipped) != ("Resize", Some(1)) {
            return Err("an input is left out".into());
        }
        let made = match (node.op_type.as_str(), &inputs[..]) {
            ("Split", [x, sizes]) => return self.split(x, sizes, node, attributes),
            ("Identity", [x]) => Some(x.clone()),
            ("DequantizeLinear", [values, scales]) => quantized::dequantize(values, scales, &mut attributes),
            ("Clip", [x, least, most]) => self.clip(x, least, most),
            ("QuantizeLinear", [x, scale, zero]) => self.quantize(x, scale, zero),
            ("DequantizeLinear", [x, scale, zero]) => quantized::restore(x, scale, zero),
            ("Conv", [x, weights, bias]) => self.conv(x, weights, Some(bias), &mut attributes)?,
            ("Conv", [x, weights]) => self.conv(x, weights, None, &mut attributes)?,
            ("Gemm", [x, weights, bias]) => self.linear(x, weights, bias, &mut attributes)?,
            ("Reshape", [x, dims]) => reshape(x, dims),
            ("InstanceNormalization", [x, ones, zeros]) => self.normalise(x, ones, zeros, &mut attributes),
            ("LayerNormalization", [x, scale, shift]) => self.layer_norm(x, scale, shift, &mut attributes)?,
            ("Mul", [a, b]) => self.mul(a, b)?,
            ("Add", [a, b]) => self.add(a, b)?,
            ("Sigmoid", [Value { form: Form::Active(x), dims }]) => value(Form::Gate(*x), dims),
            ("Concat", parts) => self.concat(parts, &mut attributes)?,
            ("Resize", [x, scales]) => self.resize(x, scales, &mut attributes),
            ("DepthToSpace", [x]) => self.depth_to_space(x, &mut attributes)?,
            ("Slice", [x, starts, ends, axes]) => self.crop(x, starts, ends, axes)?,
            ("Transpose", [x]) => attention::transpose(x, &mut attributes),
            ("MatMul", [a, b]) => self.matmul(a, b)?,
            ("Softmax", [x]) => attention::softmax(x, &mut attributes),
            ("Cos", [Value { form: Form::Angles(t, rates), dims }]) => value(Form::Cosines(*t, rates), dims),
            ("Sin", [Value { form: Form::Angles(t, rates), dims }]) => value(Form::Sines(*t, rates), dims),
            _ => None,
        };
        let (Some(made), [output]) = (made, &node.output[..]) else {
            return Err("not one of our operators in this place".into());
        };
        attributes.finish()?;
        self.set(output, made.form, made.dims)
    }

    /// The activation of a value that lies as a map `[1, C, H, W]`.
    fn map(&self, x: &Value) -> Option<(Id, Shape)> {
        let (id, shape) = self.active(x)?;
        (x.dims == [1, shape.channels, shape.height, shape.width]).then_some((id, shape))
    }

    /// The activation of a value, however it lies.
    fn active(&self, x: &Value) -> Option<(Id, Shape)> {
        let Form::Active(id) = x.form else { return None };
        Some((id, self.graph.shape(id)))
    }

    /// The activation of a value that lies as a map, or is one twice as high and wide.
    fn map_to_convolve(&self, x: &Value) -> Option<Map> {
        match x.form {
            Form::Upsampled(x) => Some(Map { x, upsample: true }),
            _ => self.map(x).map(|(x, _)| Map { x, upsample: false }),
        }
    }

    fn clip(&self, x: &Value<'a>, least: &Value<'a>, most: &Value<'a>) -> Option<Value<'a>> {
        let (map, bounds) = (self.map_to_convolve(x)?, quantized::bounds(least, most)?);
        value(Form::Clipped(map, bounds), &x.dims)
    }

    fn quantize(&self, x: &Value<'a>, scale: &Value<'a>, zero: &Value<'a>) -> Option<Value<'a>> {
        let (map, bounds) = match x.form {
            Form::Clipped(map, bounds) => (map, bounds),
            _ => (self.map_to_convolve(x)?, [f32::NEG_INFINITY, f32::INFINITY]),
        };
        let (rounding, by) = quantized::rounding(bounds, scale, zero)?;
        value(Form::Rounded(map, rounding, by), &x.dims)
    }

    fn conv(
        &mut self,
        x: &Value<'a>,
        weights: &Value<'a>,
        bias: Option<&Value<'a>>,
        attributes: &mut Attributes,
    ) -> Answer<Option<Value<'a>>> {
        let found = match x.form {
            Form::Restored(map, rounding) => Some((map, Some(rounding))),
            _ => self.map_to_convolve(x).map(|map| (map, None)),
        };
        let Some((Map { x, upsample }, rounding)) = found else { return Ok(None) };
        let input = self.graph.shape(x);
        let [outputs, inputs, size, width] = weights.dims[..] else { return Ok(None) };
        let sides = |values: Option<Vec<usize>>| match values.as_deref() {
            Some([first, rest @ ..]) if rest.iter().all(|side| side == first) => Some((*first, 1 + rest.len())),
            _ => None,
        };
        let kernel = sides(attributes.ints("kernel_shape")) == Some((size, 2)) && size == width;
        let (Some((stride, 2)), Some((pad, 4))) = (sides(attributes.ints("strides")), sides(attributes.ints("pads")))
        else {
            return Ok(None);
        };
        // More zeros than the kernel is wide would only make work.
        if !kernel || inputs != input.channels || pad >= size {
            return Ok(None);
        }
        let Some((kernels, bias)) = kernels(weights).zip(bias_of(bias, outputs)) else { return Ok(None) };
        let geometry = Geometry { size, stride, pad, upsample };
        let Some(output) = geometry.output(input, outputs) else { return Ok(None) };
        let conv = Box::new(Conv::new(kernels, bias, geometry, rounding));
        let id = self.graph.add(Kind::Conv(conv), vec![x], output)?;
        Ok(value(Form::Active(id), &[1, outputs, output.height, output.width]))
    }

    fn linear(
        &mut self,
        x: &Value<'a>,
        weights: &Value<'a>,
        bias: &Value<'a>,
        attributes: &mut Attributes,
    ) -> Answer<Option<Value<'a>>> {
        let [outputs, inputs] = weights.dims[..] else { return Ok(None) };
        let Some((x, shape)) = self.active(x).filter(|_| x.dims == [1, inputs]) else { return Ok(None) };
        let shaped = shape.pixels() == 1 && attributes.int("transB") == Some(1);
        let Some((kernels, bias)) = kernels(weights).zip(bias_of(Some(bias), outputs)).filter(|_| shaped) else {
            return Ok(None);
        };
        let conv = Box::new(Conv::new(kernels, bias, Geometry::LINEAR, None));
        let id = self.graph.add(Kind::Conv(conv), vec![x], Shape { channels: outputs, ..shape })?;
        Ok(value(Form::Active(id), &[1, outputs]))
    }

    /// `[1, groups, values of a group]`, not yet scaled.
    fn normalise(
        &self,
        x: &Value<'a>,
        ones: &Value<'a>,
        zeros: &Value<'a>,
        attributes: &mut Attributes,
    ) -> Option<Value<'a>> {
        let (id, shape) = self.active(x)?;
        let [1, groups, _] = x.dims[..] else { return None };
        let all = |value: &Value, number| {
            value.dims == [groups] && floats(value).is_some_and(|values| values.iter().all(|v| *v == number))
        };
        let epsilon = attributes.float("epsilon")?;
        let divides = groups > 0 && shape.channels.is_multiple_of(groups);
        (divides && all(ones, 1.0) && all(zeros, 0.0))
            .then(|| Value { form: Form::Normal { x: id, groups, epsilon }, dims: x.dims.clone() })
    }

    fn layer_norm(
        &mut self,
        x: &Value<'a>,
        scale: &Value<'a>,
        shift: &Value<'a>,
        attributes: &mut Attributes,
    ) -> Answer<Option<Value<'a>>> {
        let (Some((id, shape)), [1, len]) = (self.active(x), &x.dims[..]) else { return Ok(None) };
        let affine = |value: &Value| Some(floats(value)?.into()).filter(|_| value.dims == [*len]);
        let (Some(scale), Some(shift)) = (affine(scale), affine(shift)) else { return Ok(None) };
        let Some(epsilon) = attributes.float("epsilon").filter(|_| is_last(attributes.int("axis"), 2)) else {
            return Ok(None);
        };
        let id = self.graph.add(Kind::LayerNorm { epsilon, scale, shift }, vec![id], shape)?;
        Ok(value(Form::Active(id), &x.dims))
    }

    fn mul(&mut self, a: &Value<'a>, b: &Value<'a>) -> Answer<Option<Value<'a>>> {
        let form = match (&a.form, &b.form) {
            (Form::Active(x), Form::Gate(gate)) if x == gate && a.dims == b.dims => {
                Form::Active(self.graph.add(Kind::Silu, vec![*x], self.graph.shape(*x))?)
            }
            (&Form::Normal { x, groups, epsilon }, Form::Constant(scale)) if self.is_per_channel(x, a, b) => {
                Form::Scaled { x, groups, epsilon, scale }
            }
            (Form::Attending(..), Form::Constant(_)) => return Ok(attention::scale(a, b)),
            (Form::Active(t), Form::Constant(rates)) => match b.dims[..] {
                [1, _] if a.dims == [1, 1] => return Ok(value(Form::Angles(*t, rates), &b.dims)),
                _ => return Ok(None),
            },
            _ => return Ok(None),
        };
        Ok(value(form, &a.dims))
    }

    /// Whether `x` lies as `[1, C, pixels]` in `a`, and `b` is one value for each of its channels.
    fn is_per_channel(&self, x: Id, a: &Value, b: &Value) -> bool {
        let shape = self.graph.shape(x);
        a.dims == [1, shape.channels, shape.pixels()] && b.dims == [1, shape.channels, 1]
    }

    fn add(&mut self, a: &Value<'a>, b: &Value<'a>) -> Answer<Option<Value<'a>>> {
        let (kind, inputs) = match (&a.form, &b.form) {
            (&Form::Scaled { x, groups, epsilon, scale }, Form::Constant(shift)) if self.is_per_channel(x, a, b) => {
                let affine = constants::floats(scale).zip(constants::floats(shift));
                let Some((scale, shift)) = affine else { return Ok(None) };
                let (scale, shift) = (scale.into(), shift.into());
                (Kind::GroupNorm { groups, epsilon, scale, shift, silu: false }, vec![x])
            }
            (&Form::Active(x), &Form::Active(y)) if a.dims == b.dims && self.graph.shape(x) == self.graph.shape(y) => {
                (Kind::Add, vec![x, y])
            }
            (&Form::Active(x), &Form::Active(y))
                if self.is_per_channel(x, a, b) && self.graph.shape(y).pixels() == 1 =>
            {
                (Kind::AddVector, vec![x, y])
            }
            _ => return Ok(None),
        };
        let shape = self.graph.shape(inputs[0]);
        Ok(value(Form::Active(self.graph.add(kind, inputs, shape)?), &a.dims))
    }

    fn concat(&mut self, parts: &[Value<'a>], attributes: &mut Attributes) -> Answer<Option<Value<'a>>> {
        match (attributes.int("axis"), parts) {
            (Some(0), _) => return Ok(quantized::joined(parts)),
            (Some(1), [Value { form: Form::Cosines(t, rates), .. }, Value { form: Form::Sines(s, same), .. }])
                if t == s && std::ptr::eq(*rates, *same) =>
            {
                let Some(rates) = constants::floats(rates) else { return Ok(None) };
                let channels = 2 * rates.len();
                let shape = Shape { channels, height: 1, width: 1 };
                let id = self.graph.add(Kind::Sinusoid { rates: rates.into() }, vec![*t], shape)?;
                return Ok(value(Form::Active(id), &[1, channels]));
            }
            (Some(1), [_, ..]) => {}
            _ => return Ok(None),
        }
        let Some(active) = parts.iter().map(|part| self.active(part)).collect::<Option<Vec<_>>>() else {
            return Ok(None);
        };
        let first = active[0].1;
        let alike = |(part, (_, shape)): (&Value, &(Id, Shape))| {
            let rest = [part.dims.first(), part.dims.get(1)] == [Some(&1), Some(&shape.channels)];
            rest && (shape.height, shape.width) == (first.height, first.width) && part.dims[2..] == parts[0].dims[2..]
        };
        let sum = active.iter().try_fold(0usize, |sum, (_, shape)| sum.checked_add(shape.channels));
        let Some(channels) = sum.filter(|_| parts.iter().zip(&active).all(alike)) else { return Ok(None) };
        let inputs = active.iter().map(|(id, _)| *id).collect();
        let id = self.graph.add(Kind::Concat, inputs, Shape { channels, ..first })?;
        let mut dims = parts[0].dims.clone();
        dims[1] = channels;
        Ok(value(Form::Active(id), &dims))
    }

    fn resize(&self, x: &Value<'a>, scales: &Value<'a>, attributes: &mut Attributes) -> Option<Value<'a>> {
        let (id, Shape { channels, height, width }) = self.map(x)?;
        let nearest = attributes.is_text("mode", "nearest")
            & attributes.is_text("coordinate_transformation_mode", "asymmetric")
            & attributes.is_text("nearest_mode", "floor");
        let twice = floats(scales)? == [1.0, 1.0, 2.0, 2.0];
        let dims = vec![1, channels, height.checked_mul(2)?, width.checked_mul(2)?];
        (nearest && twice).then_some(Value { form: Form::Upsampled(id), dims })
    }

    fn depth_to_space(&mut self, x: &Value<'a>, attributes: &mut Attributes) -> Answer<Option<Value<'a>>> {
        let block = attributes.int("blocksize").and_then(|block| usize::try_from(block).ok());
        let is_ours = attributes.is_text("mode", "DCR");
        let (Some((id, shape)), Some(block)) = (self.map(x), block.filter(|block| *block > 0 && is_ours)) else {
            return Ok(None);
        };
        let larger = || {
            let divides = shape.channels.is_multiple_of(block.checked_mul(block)?);
            let channels = divides.then(|| shape.channels / (block * block))?;
            Some(Shape { channels, height: shape.height.checked_mul(block)?, width: shape.width.checked_mul(block)? })
        };
        let Some(larger) = larger() else { return Ok(None) };
        let id = self.graph.add(Kind::DepthToSpace { block }, vec![id], larger)?;
        Ok(value(Form::Active(id), &[1, larger.channels, larger.height, larger.width]))
    }

    fn crop(
        &mut self,
        x: &Value<'a>,
        starts: &Value<'a>,
        ends: &Value<'a>,
        axes: &Value<'a>,
    ) -> Answer<Option<Value<'a>>> {
        let (Some((id, shape)), Some([2, 3])) = (self.map(x), sides(axes).as_deref()) else { return Ok(None) };
        let (Some(&[top, left]), Some(&[bottom, right])) = (sides(starts).as_deref(), sides(ends).as_deref()) else {
            return Ok(None);
        };
        if !(top < bottom && bottom <= shape.height && left < right && right <= shape.width) {
            return Ok(None);
        }
        let (height, width) = (bottom - top, right - left);
        let id = self.graph.add(Kind::Crop { top, left }, vec![id], Shape { height, width, ..shape })?;
        Ok(value(Form::Active(id), &[1, shape.channels, height, width]))
    }
}

fn value<'a>(form: Form<'a>, dims: &[usize]) -> Option<Value<'a>> {
    Some(Value { form, dims: dims.to_vec() })
}

fn kernels<'a>(weights: &Value<'a>) -> Option<Kernels<'a>> {
    match &weights.form {
        Form::Kernels(kernels) => Some(kernels.clone()),
        Form::Constant(tensor) => Some(Kernels::Float(tensor)),
        _ => None,
    }
}

/// The bias of `outputs` channels; zeros where there is none.
fn bias_of(bias: Option<&Value>, outputs: usize) -> Option<Box<[f32]>> {
    match bias {
        Some(bias) if bias.dims == [outputs] => Some(floats(bias)?.into()),
        Some(_) => None,
        None => Some(vec![0.0; outputs].into()),
    }
}

fn floats(value: &Value) -> Option<Vec<f32>> {
    match value.form {
        Form::Constant(tensor) => constants::floats(tensor),
        _ => None,
    }
}

fn sides(value: &Value) -> Option<Vec<usize>> {
    match value.form {
        Form::Constant(tensor) => constants::sides(tensor),
        _ => None,
    }
}

/// The same values, with other sides.
fn reshape<'a>(x: &Value<'a>, dims: &Value) -> Option<Value<'a>> {
    let dims = sides(dims)?;
    let len = |dims: &[usize]| dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    let may = matches!(x.form, Form::Active(_) | Form::Normal { .. } | Form::Attending(_, Stage::Part(_)));
    // A zero would stand for the side as it was.
    (may && !dims.contains(&0) && len(&dims) == len(&x.dims)).then(|| Value { form: x.form.clone(), dims })
}

/// Whether an axis is the last of `rank`.
fn is_last(axis: Option<i64>, rank: i64) -> bool {
    axis.is_some_and(|axis| axis == LAST || axis == rank - 1)
}
