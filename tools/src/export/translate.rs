//! One operation of the tape to a few nodes of ONNX.

use std::collections::HashMap;

use tract_onnx::pb::AttributeProto;

use super::Weights;
use super::graph::Graph;
use super::proto::{float, int, ints, text};
use super::quantize::{Quantized, is_quantized};
use crate::backend::{Backend, Window};
use crate::tape::{NodeId, Op, Shape, Tape};

/// Values of one dequantization. tract folds constants up to 4 MiB; larger ones it would expand at every run.
const FOLDED: usize = 1 << 20;
/// Added to the variance: see [`Op::GroupNorm`] and [`Op::LayerNorm`].
const EPSILON: f32 = 1e-5;

/// How a value lies in the graph. All forms hold the same numbers in the same order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// `[1, C, H, W]`.
    Map,
    /// `[1, C, H·W]`.
    Rows,
    /// `[1, C]`, where height and width are 1.
    Vector,
}

impl Form {
    /// The dimensions in ONNX of a node of `shape` on the tape.
    pub fn dims(self, shape: Shape) -> Vec<usize> {
        let [_, h, w, c] = shape;
        match self {
            Self::Map => vec![1, c, h, w],
            Self::Rows => vec![1, c, h * w],
            Self::Vector => vec![1, c],
        }
    }
}

/// Writes the nodes of a tape into a graph, one after the other.
pub struct Translator<'a, 'p, B: Backend> {
    tape: &'a Tape<'p, B>,
    backend: &'a B,
    weights: Weights,
    graph: Graph,
    /// Names of the values written so far.
    values: HashMap<(NodeId, Form), String>,
    /// Names of the constants written so far, by parameter and use.
    constants: HashMap<(usize, &'static str), String>,
}

impl<'a, 'p, B: Backend> Translator<'a, 'p, B> {
    /// Writes into `graph`.
    pub fn new(tape: &'a Tape<'p, B>, backend: &'a B, weights: Weights, graph: Graph) -> Self {
        Self { tape, backend, weights, graph, values: HashMap::new(), constants: HashMap::new() }
    }

    /// What was written.
    pub fn into_graph(self) -> Graph {
        self.graph
    }

    /// The value of `id` in `form`, reshaped where it has not been asked for before.
    fn at(&mut self, id: NodeId, form: Form) -> String {
        if let Some(name) = self.values.get(&(id, form)) {
            return name.clone();
        }
        let (from, _) = self.best(id, &[Form::Map, Form::Rows, Form::Vector]);
        let name = self.reshape(&from, &form.dims(self.shape(id)));
        self.values.insert((id, form), name.clone());
        name
    }

    /// The value of `id` in the first of `forms` that it has; else in the last.
    pub fn best(&mut self, id: NodeId, forms: &[Form]) -> (String, Form) {
        let has = forms.iter().find(|&&form| self.values.contains_key(&(id, form)));
        let form = *has.or(forms.last()).expect("at least one form");
        (self.at(id, form), form)
    }

    fn reshape(&mut self, from: &str, dims: &[usize]) -> String {
        let dims: Vec<i64> = dims.iter().map(|&d| d as i64).collect();
        let dims = self.graph.integers(&dims);
        self.graph.node("Reshape", &format!("{from}_reshape"), &[from, &dims], vec![])
    }

    fn shape(&self, id: NodeId) -> Shape {
        self.tape.shape(id)
    }

    /// Writes one node; its inputs must have been written.
    pub fn translate(&mut self, id: NodeId) {
        let node = &self.tape.nodes()[id.0];
        let x = node.inputs.first().copied().unwrap_or(id);
        let (form, name) = match node.op {
            Op::Param { .. } => return,
            Op::Input { ref name } => self.input(name, node.shape),
            Op::Conv { window } => self.conv(x, node.inputs[1], node.inputs[2], window),
            Op::Pool { window, mean } => (Form::Map, self.pool(x, window, mean)),
            Op::GroupNorm { groups, silu } => self.group_norm(x, node.inputs[1], node.inputs[2], groups, silu),
            Op::LayerNorm => self.layer_norm(x, node.inputs[1], node.inputs[2]),
            Op::Silu => {
                let (x, form) = self.best(x, &[Form::Vector, Form::Rows, Form::Map]);
                (form, self.silu(&x))
            }
            Op::LeakyRelu { slope } => {
                let (x, form) = self.best(x, &[Form::Vector, Form::Rows, Form::Map]);
                (form, self.graph.node("LeakyRelu", "leaky_relu", &[&x], vec![float("alpha", slope)]))
            }
            Op::Add => self.add(x, node.inputs[1]),
            Op::AddVector => {
                let (x, v) = (self.at(x, Form::Rows), self.at(node.inputs[1], Form::Rows));
                (Form::Rows, self.graph.node("Add", "add_vector", &[&x, &v], vec![]))
            }
            Op::Concat => {
                let (a, b, form) = self.both(x, node.inputs[1]);
                (form, self.graph.node("Concat", "concat", &[&a, &b], vec![int("axis", 1)]))
            }
            Op::Upsample => (Form::Map, self.upsample(x)),
            Op::DepthToSpace => {
                let x = self.at(x, Form::Map);
                let attributes = vec![int("blocksize", 2), text("mode", "DCR")];
                (Form::Map, self.graph.node("DepthToSpace", "depth_to_space", &[&x], attributes))
            }
            Op::Crop { margin } => (Form::Map, self.crop(x, margin)),
            Op::Attention { heads } => (Form::Rows, self.attention(x, heads)),
            Op::Sinusoid { dim } => (Form::Vector, self.sinusoid(x, dim)),
            // Its forward value is made outside the graph; what a runtime computes is the value it stands for.
            // Nor is anything dropped but in training.
            Op::StraightThrough | Op::Dropout { .. } => {
                let (x, form) = self.best(x, &[Form::Vector, Form::Rows, Form::Map]);
                (form, x)
            }
        };
        self.values.insert((id, form), name);
    }

    fn input(&mut self, name: &str, shape: Shape) -> (Form, String) {
        let [batch, h, w, _] = shape;
        assert_eq!(batch, 1, "exported graphs have batch 1: input {name}");
        let form = if h * w == 1 { Form::Vector } else { Form::Map };
        (form, self.graph.input(name, &form.dims(shape)))
    }

    fn silu(&mut self, x: &str) -> String {
        let gate = self.graph.node("Sigmoid", "sigmoid", &[x], vec![]);
        self.graph.node("Mul", "silu", &[x, &gate], vec![])
    }

    /// Two values in a form that both have, or as maps.
    fn both(&mut self, a: NodeId, b: NodeId) -> (String, String, Form) {
        let forms = [Form::Map, Form::Rows, Form::Vector];
        let shared = forms.into_iter().find(|&f| [a, b].iter().all(|&id| self.values.contains_key(&(id, f))));
        let form = shared.unwrap_or(Form::Map);
        (self.at(a, form), self.at(b, form), form)
    }

    fn add(&mut self, a: NodeId, b: NodeId) -> (Form, String) {
        let (a, b, form) = self.both(a, b);
        (form, self.graph.node("Add", "add", &[&a, &b], vec![]))
    }

    fn conv(&mut self, x: NodeId, weight: NodeId, bias: NodeId, window: Window) -> (Form, String) {
        let (index, name) = self.param(weight);
        let stem = format!("{}.out", name.strip_suffix(".weight").unwrap_or(name));
        let linear = window == Window::centred(1, 1) && self.values.contains_key(&(x, Form::Vector));
        let inputs = self.shape(x)[3];
        let outputs = self.shape(weight)[3];
        let [rows, columns] = window.sides;
        let bias = self.constant(bias, "bias", &[outputs], |values| values);
        if linear {
            let (x, w) = (self.at(x, Form::Vector), self.weight(index, &[outputs, inputs], inputs));
            return (Form::Vector, self.graph.node("Gemm", &stem, &[&x, &w, &bias], vec![int("transB", 1)]));
        }
        let (x, w) = (self.at(x, Form::Map), self.weight(index, &[outputs, inputs, rows, columns], inputs));
        (Form::Map, self.graph.node("Conv", &stem, &[&x, &w, &bias], window_attributes(window)))
    }

    fn pool(&mut self, x: NodeId, window: Window, mean: bool) -> String {
        let x = self.at(x, Form::Map);
        self.graph.node(if mean { "AveragePool" } else { "MaxPool" }, "pool", &[&x], window_attributes(window))
    }

    /// Index and name of the parameter that a node stands for.
    fn param(&self, id: NodeId) -> (usize, &'a str) {
        let Op::Param { index } = self.tape.nodes()[id.0].op else {
            panic!("weights, biases and affines are parameters");
        };
        (index, &self.tape.params().params[index].name)
    }

    /// A parameter as an `f32` constant, its values put in order by `arrange`.
    fn constant(
        &mut self,
        id: NodeId,
        r#use: &'static str,
        dims: &[usize],
        arrange: impl FnOnce(Vec<f32>) -> Vec<f32>,
    ) -> String {
        let (index, name) = self.param(id);
        if let Some(known) = self.constants.get(&(index, r#use)) {
            return known.clone();
        }
        let values = arrange(self.backend.download(&self.tape.params().params[index].value));
        let name = self.graph.floats(name, dims, &values);
        self.constants.insert((index, r#use), name.clone());
        name
    }

    /// The weight of a convolution, `[O,I,k,k]` or `[O,I]`, from rows by kernel row, kernel column, input channel.
    fn weight(&mut self, index: usize, dims: &[usize], inputs: usize) -> String {
        let r#use = if dims.len() == 2 { "matrix" } else { "kernel" };
        if let Some(known) = self.constants.get(&(index, r#use)) {
            return known.clone();
        }
        let param = &self.tape.params().params[index];
        let values = self.backend.download(&param.value);
        let name = if self.weights == Weights::Int8 && is_quantized(param.shape) {
            let q = Quantized::new(&values, dims[0]);
            self.dequantized(&param.name, dims, &outputs_first(&q.values, dims[0], inputs), &q.scales)
        } else {
            self.graph.floats(&param.name, dims, &outputs_first(&values, dims[0], inputs))
        };
        self.constants.insert((index, r#use), name.clone());
        name
    }

    /// An `i8` weight and its scales, expanded in parts that tract folds when it loads the file.
    fn dequantized(&mut self, name: &str, dims: &[usize], values: &[i8], scales: &[f32]) -> String {
        let row = values.len() / scales.len();
        let per_part = (FOLDED / row).max(1);
        let parts: Vec<String> = values
            .chunks(per_part * row)
            .zip(scales.chunks(per_part))
            .map(|(values, scales)| {
                let dims: Vec<usize> = [scales.len()].iter().chain(&dims[1..]).copied().collect();
                let q = self.graph.bytes(&format!("{name}_int8"), &dims, values);
                let scales = self.graph.floats(&format!("{name}_scale"), &[scales.len()], scales);
                self.graph.node("DequantizeLinear", name, &[&q, &scales], vec![int("axis", 0)])
            })
            .collect();
        if let [one] = &parts[..] {
            return one.clone();
        }
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        self.graph.node("Concat", name, &parts, vec![int("axis", 0)])
    }

    /// Normalised as `[1, groups, values of a group]`; the affine, one scale and shift per channel, at rank 3.
    fn group_norm(&mut self, x: NodeId, scale: NodeId, shift: NodeId, groups: usize, silu: bool) -> (Form, String) {
        let shape @ [_, h, w, c] = self.shape(x);
        let (x, _) = self.best(x, &[Form::Rows, Form::Map]);
        let grouped = self.reshape(&x, &[1, groups, c / groups * h * w]);
        let ones = self.graph.shared_floats("ones", &vec![1.0; groups]);
        let zeros = self.graph.shared_floats("zeros", &vec![0.0; groups]);
        let epsilon = vec![float("epsilon", EPSILON)];
        let normal = self.graph.node("InstanceNormalization", "group_norm", &[&grouped, &ones, &zeros], epsilon);
        let rows = self.reshape(&normal, &Form::Rows.dims(shape));
        let scale = self.constant(scale, "affine", &[1, c, 1], |v| v);
        let shift = self.constant(shift, "affine", &[1, c, 1], |v| v);
        let y = self.graph.node("Mul", "group_norm_scaled", &[&rows, &scale], vec![]);
        let y = self.graph.node("Add", "group_norm_shifted", &[&y, &shift], vec![]);
        (Form::Rows, if silu { self.silu(&y) } else { y })
    }

    /// Over all values as one row.
    fn layer_norm(&mut self, x: NodeId, scale: NodeId, shift: NodeId) -> (Form, String) {
        let shape @ [_, h, w, c] = self.shape(x);
        let (x, _) = self.best(x, &[Form::Map, Form::Rows]);
        let all = h * w * c;
        let row = self.reshape(&x, &[1, all]);
        let scale = self.constant(scale, "affine", &[all], |v| channels_first(&v, c));
        let shift = self.constant(shift, "affine", &[all], |v| channels_first(&v, c));
        let attributes = vec![int("axis", -1), float("epsilon", EPSILON)];
        let y = self.graph.node("LayerNormalization", "layer_norm", &[&row, &scale, &shift], attributes);
        (Form::Map, self.reshape(&y, &Form::Map.dims(shape)))
    }

    fn upsample(&mut self, x: NodeId) -> String {
        let x = self.at(x, Form::Map);
        let scales = self.graph.shared_floats("scales", &[1.0, 1.0, 2.0, 2.0]);
        let attributes = vec![
            text("mode", "nearest"),
            text("coordinate_transformation_mode", "asymmetric"),
            text("nearest_mode", "floor"),
        ];
        self.graph.node("Resize", "upsample", &[&x, "", &scales], attributes)
    }

    fn crop(&mut self, x: NodeId, margin: usize) -> String {
        let [_, h, w, _] = self.shape(x);
        let x = self.at(x, Form::Map);
        let starts = self.graph.integers(&[margin as i64; 2]);
        let ends = self.graph.integers(&[(h - margin) as i64, (w - margin) as i64]);
        let axes = self.graph.integers(&[2, 3]);
        self.graph.node("Slice", "crop", &[&x, &starts, &ends, &axes], vec![])
    }

    /// Queries, keys and values as `[heads, channels of a head, tokens]`; the result is `[1, C, tokens]`.
    fn attention(&mut self, qkv: NodeId, heads: usize) -> String {
        let [_, h, w, c3] = self.shape(qkv);
        let (c, tokens) = (c3 / 3, h * w);
        let qkv = self.at(qkv, Form::Rows);
        let sizes = self.graph.integers(&[c as i64; 3]);
        let parts: [String; 3] = self.graph.node_with("Split", "attention_part", &[&qkv, &sizes], vec![int("axis", 1)]);
        let [q, k, v] = parts.map(|part| self.reshape(&part, &[heads, c / heads, tokens]));
        let scale = self.graph.shared_floats("attention_scale", &[1.0 / ((c / heads) as f32).sqrt()]);
        let swap = || vec![ints("perm", &[0, 2, 1])];
        let q = self.graph.node("Mul", "attention_query", &[&q, &scale], vec![]);
        let q = self.graph.node("Transpose", "attention_query", &[&q], swap());
        let scores = self.graph.node("MatMul", "attention_scores", &[&q, &k], vec![]);
        let weights = self.graph.node("Softmax", "attention_weights", &[&scores], vec![int("axis", -1)]);
        let weights = self.graph.node("Transpose", "attention_weights", &[&weights], swap());
        let out = self.graph.node("MatMul", "attention", &[&v, &weights], vec![]);
        self.reshape(&out, &[1, c, tokens])
    }

    fn sinusoid(&mut self, t: NodeId, dim: usize) -> String {
        let half = dim / 2;
        let rates: Vec<f32> = (0..half).map(|i| (-(10_000f32.ln()) * i as f32 / half as f32).exp()).collect();
        let t = self.at(t, Form::Vector);
        let rates = self.graph.floats("sinusoid_rates", &[1, half], &rates);
        let angles = self.graph.node("Mul", "sinusoid_angles", &[&t, &rates], vec![]);
        let cos = self.graph.node("Cos", "sinusoid_cos", &[&angles], vec![]);
        let sin = self.graph.node("Sin", "sinusoid_sin", &[&angles], vec![]);
        self.graph.node("Concat", "sinusoid", &[&cos, &sin], vec![int("axis", 1)])
    }
}

fn window_attributes(window: Window) -> Vec<AttributeProto> {
    let pads = [window.before, window.after].concat();
    vec![ints("kernel_shape", &window.sides), ints("strides", &[window.stride; 2]), ints("pads", &pads)]
}

/// `taps × inputs × outputs` → `outputs × inputs × taps`.
fn outputs_first<T: Copy>(weight: &[T], outputs: usize, inputs: usize) -> Vec<T> {
    let taps = weight.len() / (inputs * outputs);
    let at = |o, i, tap| weight[(tap * inputs + i) * outputs + o];
    (0..weight.len()).map(|n| at(n / (inputs * taps), n / taps % inputs, n % taps)).collect()
}

/// `pixels × channels` → `channels × pixels`.
fn channels_first(x: &[f32], channels: usize) -> Vec<f32> {
    let pixels = x.len() / channels;
    (0..x.len()).map(|n| x[n % pixels * channels + n / pixels]).collect()
}
