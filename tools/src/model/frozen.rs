//! A network read from an ONNX file onto the tape, its weights fixed: convolutions, ReLU, pools and concatenation, of
//! which feature networks like VGG and Inception are made.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use prost::Message;
use rissole::{Error, Result};
use tract_onnx::pb::{AttributeProto, ModelProto, NodeProto, TensorProto, tensor_proto::DataType};

use crate::backend::{Backend, Window};
use crate::tape::{NodeId, ParamSet, Tape};

/// Most pixels in a window.
const MAX_TAPS: usize = 25;

/// What a node of the file computes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Layer {
    Conv { weight: usize, bias: usize, inputs: usize, window: Window },
    Relu,
    Pool { window: Window, mean: bool },
    Concat,
}

/// A node: what it makes of which values. The picture is value 0, and node i makes value i + 1.
#[derive(Debug)]
struct Node {
    name: String,
    layer: Layer,
    from: Vec<usize>,
}

/// A network whose weights do not change.
#[derive(Debug)]
pub struct Frozen<B: Backend> {
    set: ParamSet<B>,
    nodes: Vec<Node>,
    /// The values asked for.
    outputs: Vec<usize>,
}

impl<B: Backend> Frozen<B> {
    /// Reads what of the network in `bytes`, the contents of `path`, leads to the tensors called `outputs`. It takes one
    /// input, pictures `n×3×h×w`.
    ///
    /// # Errors
    /// [`Error::File`] where it is no network of such layers, or has no such tensor.
    pub fn read(backend: &B, path: &Path, bytes: &[u8], outputs: &[&str]) -> Result<Self> {
        let model = ModelProto::decode(bytes).map_err(|e| Error::file(path, format!("is no ONNX file: {e}")))?;
        let graph = model.graph.unwrap_or_default();
        let constants: HashMap<&str, &TensorProto> =
            graph.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        let picture = graph.input.iter().map(|input| input.name.as_str()).find(|name| !constants.contains_key(name));
        let fault = |text: String| Error::file(path, text);
        let picture = picture.ok_or_else(|| fault("the network has no input".into()))?;

        let mut reader = Reader { backend, constants, set: ParamSet::default(), known: HashMap::from([(picture, 0)]) };
        let mut nodes: Vec<Node> = vec![];
        for node in needed(&graph.node, outputs) {
            let name = node.output.first().map_or("", String::as_str);
            let read = reader.node(node).map_err(|text| fault(format!("{name} ({}): {text}", node.op_type)))?;
            nodes.push(Node { name: name.into(), ..read });
            if reader.known.insert(name, nodes.len()).is_some() {
                return Err(fault(format!("{name} is made twice")));
            }
        }
        let place = |name: &&str| {
            let place = reader.known.get(name).filter(|&&place| place > 0).copied();
            place.ok_or_else(|| fault(format!("there is no tensor {name} in the network")))
        };
        let outputs = outputs.iter().map(place).collect::<Result<_>>()?;
        Ok(Self { set: reader.set, nodes, outputs })
    }

    /// Checks that pictures of `height × width` can be put in.
    ///
    /// # Errors
    /// [`Error::Usage`] where a window is larger than the map it moves over, or maps of two sizes or of another number of
    /// channels meet.
    pub fn check(&self, height: usize, width: usize) -> Result<()> {
        let mut shapes = vec![[height, width, 3]];
        for node in &self.nodes {
            let [h, w, c] = shapes[node.from[0]];
            let places = |window: &Window| window.places(h, w).filter(|_| h > 0 && w > 0);
            let shape = match &node.layer {
                Layer::Conv { inputs, .. } if *inputs != c => None,
                Layer::Conv { bias, window, .. } => {
                    places(window).map(|[h, w]| [h, w, self.set.params[*bias].shape[3]])
                }
                Layer::Relu => Some([h, w, c]),
                Layer::Pool { window, .. } => places(window).map(|[h, w]| [h, w, c]),
                Layer::Concat => node.from.iter().try_fold([h, w, 0], |[h, w, c], &from| {
                    let [other_h, other_w, more] = shapes[from];
                    ([other_h, other_w] == [h, w]).then_some([h, w, c + more])
                }),
            };
            shapes.push(shape.ok_or_else(|| {
                let text = format!("the feature network cannot take pictures of {width}×{height}: {} fails", node.name);
                Error::Usage(text)
            })?);
        }
        Ok(())
    }

    /// A tape on which the network can be recorded.
    pub fn tape<'a>(&'a mut self, backend: &'a B) -> (Tape<'a, B>, Recorder<'a>) {
        let Self { set, nodes, outputs } = self;
        (Tape::new(backend, set).frozen(), Recorder { nodes, outputs })
    }
}

/// Records a [`Frozen`] network.
#[derive(Debug, Clone, Copy)]
pub struct Recorder<'a> {
    nodes: &'a [Node],
    outputs: &'a [usize],
}

impl Recorder<'_> {
    /// Records the network on `picture`, `[N,H,W,3]`; what it makes of it, in the order asked for.
    pub fn apply<B: Backend>(&self, t: &mut Tape<B>, picture: NodeId) -> Vec<NodeId> {
        let mut values = vec![picture];
        for node in self.nodes {
            let x = values[node.from[0]];
            let value = match node.layer {
                Layer::Conv { weight, bias, window, .. } => {
                    let (weight, bias) = (t.param(weight), t.param(bias));
                    t.conv(x, weight, bias, window)
                }
                Layer::Relu => t.leaky_relu(x, 0.0),
                Layer::Pool { window, mean } => t.pool(x, window, mean),
                Layer::Concat => node.from[1..].iter().fold(x, |all, &more| t.concat(all, values[more])),
            };
            values.push(value);
        }
        self.outputs.iter().map(|&output| values[output]).collect()
    }
}

/// The nodes that lead to `outputs`, in the file's order, which is one in which they can be computed.
fn needed<'a>(nodes: &'a [NodeProto], outputs: &[&str]) -> Vec<&'a NodeProto> {
    let mut wanted: HashSet<&str> = outputs.iter().copied().collect();
    let mut found = vec![];
    for node in nodes.iter().rev() {
        if node.output.iter().any(|name| wanted.contains(name.as_str())) {
            wanted.extend(node.input.iter().map(String::as_str));
            found.push(node);
        }
    }
    found.reverse();
    found
}

/// Reads node by node.
struct Reader<'a, B: Backend> {
    backend: &'a B,
    constants: HashMap<&'a str, &'a TensorProto>,
    set: ParamSet<B>,
    /// The values by name.
    known: HashMap<&'a str, usize>,
}

impl<B: Backend> Reader<'_, B> {
    /// `node`, without its name; the error says what of it is not understood.
    fn node(&mut self, node: &NodeProto) -> std::result::Result<Node, String> {
        let attributes = Attributes(&node.attribute);
        let of_map = |i: usize| node.input.get(i).filter(|name| !name.is_empty());
        let layer = match node.op_type.as_str() {
            "Conv" => {
                let (dims, weight) = self.constant(of_map(1).ok_or("has no weight")?)?;
                let [outputs, inputs, rows, columns] = dims[..] else {
                    return Err("is not over two dimensions".into());
                };
                let window = attributes.window([rows, columns])?;
                if attributes.number("group", 1)? != 1 {
                    return Err("works in groups".into());
                }
                let bias = match of_map(2) {
                    Some(name) => self.constant(name)?.1,
                    None => vec![0.0; outputs],
                };
                if bias.len() != outputs {
                    return Err("has a bias of another length".into());
                }
                let weight = taps_first(&weight, outputs, inputs);
                let shape = [1, 1, window.taps() * inputs, outputs];
                let weight = self.set.add_fixed(self.backend, format!("{}.weight", node.output[0]), shape, &weight);
                let shape = [1, 1, 1, outputs];
                let bias = self.set.add_fixed(self.backend, format!("{}.bias", node.output[0]), shape, &bias);
                Layer::Conv { weight, bias, inputs, window }
            }
            "Relu" => Layer::Relu,
            "MaxPool" | "AveragePool" => {
                let sides = attributes.numbers("kernel_shape", &[])?;
                let window = attributes.window(sides.try_into().map_err(|_| "is not over two dimensions")?)?;
                let mean = node.op_type == "AveragePool";
                if mean && attributes.number("count_include_pad", 0)? != 0 && window.before.iter().any(|&b| b > 0) {
                    return Err("counts zeros around the map".into());
                }
                Layer::Pool { window, mean }
            }
            "Concat" if matches!(attributes.0, [axis] if axis.name == "axis" && [1, -3].contains(&axis.i)) => {
                Layer::Concat
            }
            _ => return Err("is no convolution, ReLU, pool or concatenation of channels".into()),
        };
        let maps = if layer == Layer::Concat { node.input.len() } else { 1 };
        let place = |name: &String| {
            self.known.get(name.as_str()).copied().ok_or_else(|| format!("{name} is not made before it"))
        };
        let from: Vec<usize> = node.input.iter().take(maps).map(place).collect::<std::result::Result<_, _>>()?;
        match from.is_empty() {
            true => Err("has no input".into()),
            false => Ok(Node { name: String::new(), layer, from }),
        }
    }

    /// Dimensions and values of an `f32` constant.
    fn constant(&self, name: &str) -> std::result::Result<(Vec<usize>, Vec<f32>), String> {
        let tensor = self.constants.get(name).ok_or_else(|| format!("{name} is no constant"))?;
        let dims: Option<Vec<usize>> =
            tensor.dims.iter().map(|&d| usize::try_from(d).ok().filter(|&d| d > 0)).collect();
        let dims = dims.ok_or_else(|| format!("{name} has an impossible shape"))?;
        let count = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let values: Vec<f32> = match (tensor.data_type == DataType::Float as i32, tensor.raw_data.is_empty()) {
            (false, _) => return Err(format!("{name} is not of type float")),
            (true, true) => tensor.float_data.clone(),
            (true, false) => {
                let (values, rest) = tensor.raw_data.as_chunks::<4>();
                if !rest.is_empty() {
                    return Err(format!("{name} has half a value"));
                }
                values.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
            }
        };
        match count == Some(values.len()) && values.iter().all(|v| v.is_finite()) {
            true => Ok((dims, values)),
            false => Err(format!("{name} has not as many values as its shape says, or such as are not finite")),
        }
    }
}

/// `[O, I, taps]` → `[taps, I, O]`.
fn taps_first(weight: &[f32], outputs: usize, inputs: usize) -> Vec<f32> {
    let taps = weight.len() / (outputs * inputs);
    let place = |i: usize| (i % outputs, i / outputs % inputs, i / (outputs * inputs));
    let from = |(output, input, tap): (usize, usize, usize)| weight[(output * inputs + input) * taps + tap];
    (0..weight.len()).map(|i| from(place(i))).collect()
}

/// Attributes of a node, with the defaults of the standard.
struct Attributes<'a>(&'a [AttributeProto]);

impl Attributes<'_> {
    fn find(&self, name: &str) -> Option<&AttributeProto> {
        self.0.iter().find(|attribute| attribute.name == name)
    }

    fn number(&self, name: &str, default: usize) -> std::result::Result<usize, String> {
        let found = self.find(name).map_or(Ok(default), |attribute| usize::try_from(attribute.i));
        found.map_err(|_| format!("{name} is below zero"))
    }

    fn numbers(&self, name: &str, default: &[usize]) -> std::result::Result<Vec<usize>, String> {
        let Some(found) = self.find(name) else { return Ok(default.to_vec()) };
        found.ints.iter().map(|&i| usize::try_from(i).map_err(|_| format!("{name} is below zero"))).collect()
    }

    /// The window of `sides`.
    fn window(&self, sides: [usize; 2]) -> std::result::Result<Window, String> {
        let taps = sides[0].checked_mul(sides[1]).filter(|&taps| (1..=MAX_TAPS).contains(&taps));
        if taps.is_none() || self.numbers("kernel_shape", &sides)? != sides {
            return Err(format!("has a window of {sides:?} pixels; at most {MAX_TAPS} are possible"));
        }
        let strides = self.numbers("strides", &[1, 1])?;
        let pads = self.numbers("pads", &[0; 4])?;
        let plain = ["", "NOTSET"].map(str::as_bytes);
        let auto_pad = self.find("auto_pad").is_some_and(|a| !plain.contains(&a.s.as_slice()));
        let dilated = self.numbers("dilations", &[1, 1])?.iter().any(|&d| d != 1);
        match (&strides[..], &pads[..]) {
            (&[stride, across], &[above, left, below, right])
                if stride == across && (1..=16).contains(&stride) && !auto_pad && !dilated =>
            {
                let window = Window { sides, stride, before: [above, left], after: [below, right] };
                // So every place of it sees a pixel of the map.
                let within = |pads: [usize; 2]| pads[0] < sides[0] && pads[1] < sides[1];
                match within(window.before) && within(window.after) && self.number("ceil_mode", 0)? == 0 {
                    true => Ok(window),
                    false => Err("is padded by a window or more, or rounds up".into()),
                }
            }
            _ => Err("has strides, paddings or dilations that are not understood".into()),
        }
    }
}

#[cfg(test)]
mod tests;
