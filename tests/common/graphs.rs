//! Random graphs made of what our exporter writes.

use rissole::bundle::manifest::{NetworkEntry, TensorEntry};
use tract_onnx::pb::tensor_proto::DataType;

use super::Random;
use super::onnx::{Graph, float, int, ints, text};

/// A value `[1, channels, height, width]`.
#[derive(Clone)]
struct Value {
    name: String,
    channels: usize,
    height: usize,
    width: usize,
}

impl Value {
    fn pixels(&self) -> usize {
        self.height * self.width
    }

    fn dims(&self) -> [usize; 4] {
        [1, self.channels, self.height, self.width]
    }
}

struct Maker {
    graph: Graph,
    random: Random,
}

/// A graph of the inputs `x` and `t` (a timestep), of twelve random layers.
pub fn random(seed: u64) -> (NetworkEntry, Graph) {
    let mut random = Random(seed);
    let [height, width] = [0; 2].map(|_| 2 * (1 + random.below(5)));
    let channels = 1 + random.below(40);
    let tensor = |name: &str, shape: &[usize]| TensorEntry { name: name.into(), shape: shape.to_vec() };
    let inputs = vec![tensor("x", &[1, channels, height, width]), tensor("t", &[1, 1])];
    let mut maker = Maker { graph: Graph::new(seed, &inputs, &[]), random };
    let mut x = Value { name: "x".into(), channels, height, width };
    let time = maker.time(14);
    let mut seen = vec![];
    for _ in 0..12 {
        x = maker.layer(&x, &time, &seen);
        seen.push(x.clone());
    }
    let channels = 4 * (1 + maker.random.below(3));
    x = maker.conv(&x, channels, 3, 1);
    x = match maker.random.below(3) {
        0 if x.height > 2 && x.width > 2 => maker.crop(&x),
        1 => maker.depth_to_space(&x),
        _ => x,
    };
    maker.end(inputs, &x, "y")
}

/// A graph of the input `latent`, of nine random layers of which a pixel depends on those near it alone.
pub fn local(seed: u64) -> (NetworkEntry, Graph) {
    let mut random = Random(seed);
    let [height, width] = [0; 2].map(|_| 1 + random.below(11));
    let channels = 1 + random.below(40);
    let tensor = |name: &str, shape: &[usize]| TensorEntry { name: name.into(), shape: shape.to_vec() };
    let inputs = vec![tensor("latent", &[1, channels, height, width])];
    let mut maker = Maker { graph: Graph::new(seed, &inputs, &[]), random };
    let mut x = Value { name: "latent".into(), channels, height, width };
    let mut seen: Vec<Value> = vec![];
    for _ in 0..9 {
        let channels = 1 + maker.random.below(50);
        let kind = maker.random.below(9);
        let alike = |other: &&Value| other.dims()[2..] == x.dims()[2..] && other.name != x.name;
        let other = seen.iter().rfind(alike).filter(|other| x.channels + other.channels < 120).cloned();
        x = match (kind, other) {
            (0 | 1, _) => maker.conv(&x, channels, 3, 1),
            (2, _) => maker.conv(&x, channels, 1, 1),
            (3, _) if x.height > 2 && x.width > 2 => maker.conv(&x, channels, 3, 2),
            (4 | 5, _) if x.pixels() <= 400 => maker.upsample(&x, channels),
            (6, Some(other)) => maker.concat(&x, &other),
            (7, _) => maker.silu(&x),
            _ => maker.residual(&x),
        };
        seen.push(x.clone());
    }
    x = maker.conv(&x, 12, 3, 1);
    if maker.random.below(2) == 0 {
        x = maker.depth_to_space(&x);
    }
    maker.end(inputs, &x, "image")
}

/// A graph of the input `latent` of `side` × `side` pixels, whose second half of a concatenation is made from the first.
pub fn skip(side: usize) -> (NetworkEntry, Graph) {
    let inputs = vec![TensorEntry { name: "latent".into(), shape: vec![1, 4, side, side] }];
    let mut maker = Maker { graph: Graph::new(0, &inputs, &[]), random: Random(0) };
    let x = Value { name: "latent".into(), channels: 4, height: side, width: side };
    let skipped = maker.conv(&x, 16, 3, 1);
    let deep = maker.conv(&skipped, 16, 3, 1);
    let both = maker.concat(&deep, &skipped);
    let x = maker.conv(&both, 3, 3, 1);
    maker.end(inputs, &x, "image")
}

/// How values are rounded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Integers {
    /// To `uint8`.
    Of8Bits,
    /// Within bounds, to `uint16`.
    Wide,
    /// In the same way, by operators on reals.
    WideByFloats,
}

/// A graph of the input `x`, rounded: of one convolution with weights of 8 bits.
pub fn rounded(seed: u64, integers: Integers) -> (NetworkEntry, Graph) {
    let mut random = Random(seed);
    let [height, width] = [0; 2].map(|_| 3 + random.below(9));
    let channels = 1 + random.below(60);
    let inputs = vec![TensorEntry { name: "x".into(), shape: vec![1, channels, height, width] }];
    let mut maker = Maker { graph: Graph::new(seed, &inputs, &[]), random };
    let mut x = Value { name: "x".into(), channels, height, width };
    if seed.is_multiple_of(3) {
        x = maker.twice(&x);
    }
    x.name = maker.rounded(&x.name, integers);
    let outputs = 1 + maker.random.below(50);
    let (size, stride) = [(1, 1), (3, 1), (3, 2)][if seed.is_multiple_of(3) { 1 } else { maker.random.below(3) }];
    let weights = maker.weights_of_8_bits(&[outputs, channels, size, size]);
    x = maker.conv_with(&x, &weights, [outputs, size, stride]);
    maker.end(inputs, &x, "y")
}

impl Maker {
    /// The graph whose output `name` is `x`.
    fn end(mut self, inputs: Vec<TensorEntry>, x: &Value, name: &str) -> (NetworkEntry, Graph) {
        let outputs = vec![TensorEntry { name: name.into(), shape: x.dims().to_vec() }];
        let entry = NetworkEntry { file: "network.onnx".into(), inputs, outputs: outputs.clone() };
        self.graph.proto.output = Graph::new(0, &[], &outputs).proto.output;
        self.graph.output(&x.name, name);
        (entry, self.graph)
    }

    fn layer(&mut self, x: &Value, time: &str, seen: &[Value]) -> Value {
        let channels = 1 + self.random.below(50);
        match self.random.below(10) {
            0 => self.conv(x, channels, 3, 1),
            1 => self.conv(x, channels, 1, 1),
            2 if x.height > 2 && x.width > 2 => self.conv(x, channels, 3, 2),
            3 if x.pixels() <= 36 => self.upsample(x, channels),
            4 => self.group_norm(x),
            5 => self.layer_norm(x),
            6 if x.pixels() <= 36 => self.attention(x),
            7 => self.add_time(x, time),
            8 => self.residual(x),
            _ => match seen.iter().rfind(|other| other.pixels() == x.pixels() && other.dims()[2..] == x.dims()[2..]) {
                Some(other) if other.name != x.name && x.channels + other.channels < 120 => self.concat(x, other),
                _ => self.silu(x),
            },
        }
    }

    fn value(&self, name: String, channels: usize, of: &Value) -> Value {
        Value { name, channels, ..of.clone() }
    }

    /// Weights in `f32` or `i8`.
    fn weights(&mut self, dims: &[usize]) -> String {
        match self.random.below(2) {
            0 => self.graph.weights(dims),
            _ => self.weights_of_8_bits(dims),
        }
    }

    fn weights_of_8_bits(&mut self, dims: &[usize]) -> String {
        let len: usize = dims.iter().product();
        let bytes = (0..len).map(|_| self.random.next() as u8).collect();
        let row = (len / dims[0]) as f32;
        let scales: Vec<f32> = (0..dims[0]).map(|_| (1.2 + self.random.symmetric()) / 127.0 / row.sqrt()).collect();
        let bytes = self.graph.initializer(dims, DataType::Int8, bytes);
        let scales = self.graph.tensor(&[dims[0]], &scales);
        self.graph.node("DequantizeLinear", &[&bytes, &scales], vec![int("axis", 0)])
    }

    fn vector(&mut self, dims: &[usize]) -> String {
        let values: Vec<f32> = (0..dims.iter().product()).map(|_| self.random.symmetric()).collect();
        self.graph.tensor(dims, &values)
    }

    /// `x` rounded to integers, and as real numbers again.
    fn rounded(&mut self, x: &str, integers: Integers) -> String {
        let (scale, zero) = (0.02 + 0.01 * self.random.symmetric(), self.random.below(256) as u8);
        let scale = if integers == Integers::Of8Bits { scale } else { scale / 20.0 };
        let step = self.graph.tensor(&[], &[scale]);
        if integers == Integers::Of8Bits {
            let zero = self.graph.initializer(&[], DataType::Uint8, vec![zero]);
            let rounded = self.graph.node("QuantizeLinear", &[x, &step, &zero], vec![]);
            return self.graph.node("DequantizeLinear", &[&rounded, &step, &zero], vec![]);
        }
        let [least, most] = [-900.3, 1100.7].map(|bound| self.graph.tensor(&[], &[scale * bound]));
        let clipped = self.graph.node("Clip", &[x, &least, &most], vec![]);
        if integers == Integers::Wide {
            let zero = self.graph.initializer(&[], DataType::Uint16, vec![zero, 16]);
            let rounded = self.graph.node("QuantizeLinear", &[&clipped, &step, &zero], vec![]);
            return self.graph.node("DequantizeLinear", &[&rounded, &step, &zero], vec![]);
        }
        let steps = self.graph.node("Div", &[&clipped, &step], vec![]);
        let rounded = self.graph.node("Round", &[&steps], vec![]);
        self.graph.node("Mul", &[&rounded, &step], vec![])
    }

    fn conv(&mut self, x: &Value, channels: usize, size: usize, stride: usize) -> Value {
        let dims = [channels, x.channels, size, size];
        let (name, weights) = match self.random.below(4) {
            0 => (self.rounded(&x.name, Integers::Of8Bits), self.weights_of_8_bits(&dims)),
            _ => (x.name.clone(), self.weights(&dims)),
        };
        self.conv_with(&Value { name, ..x.clone() }, &weights, [channels, size, stride])
    }

    fn conv_with(&mut self, x: &Value, weights: &str, [channels, size, stride]: [usize; 3]) -> Value {
        let bias = self.vector(&[channels]);
        let attributes =
            vec![ints("kernel_shape", &[size; 2]), ints("strides", &[stride; 2]), ints("pads", &[size / 2; 4])];
        let name = self.graph.node("Conv", &[&x.name, weights, &bias], attributes);
        let side = |side: usize| (side + 2 * (size / 2) - size) / stride + 1;
        Value { name, channels, height: side(x.height), width: side(x.width) }
    }

    fn linear(&mut self, x: &str, inputs: usize, outputs: usize) -> String {
        let (weights, bias) = (self.weights(&[outputs, inputs]), self.vector(&[outputs]));
        self.graph.node("Gemm", &[x, &weights, &bias], vec![int("transB", 1)])
    }

    fn gated(&mut self, x: &str) -> String {
        let gate = self.graph.node("Sigmoid", &[x], vec![]);
        self.graph.node("Mul", &[x, &gate], vec![])
    }

    fn silu(&mut self, x: &Value) -> Value {
        let name = self.gated(&x.name);
        self.value(name, x.channels, x)
    }

    fn residual(&mut self, x: &Value) -> Value {
        let inner = self.silu(x);
        let inner = self.conv(&inner, x.channels, 3, 1);
        let name = self.graph.node("Add", &[&x.name, &inner.name], vec![]);
        self.value(name, x.channels, x)
    }

    fn upsample(&mut self, x: &Value, channels: usize) -> Value {
        let twice = self.twice(x);
        self.conv(&twice, channels, 3, 1)
    }

    /// `x` of twice the height and width.
    fn twice(&mut self, x: &Value) -> Value {
        let scales = self.graph.tensor(&[4], &[1.0, 1.0, 2.0, 2.0]);
        let attributes = vec![
            text("mode", "nearest"),
            text("coordinate_transformation_mode", "asymmetric"),
            text("nearest_mode", "floor"),
        ];
        let name = self.graph.node("Resize", &[&x.name, "", &scales], attributes);
        Value { name, height: 2 * x.height, width: 2 * x.width, ..x.clone() }
    }

    fn group_norm(&mut self, x: &Value) -> Value {
        let Value { channels: c, .. } = *x;
        let groups = (1..=4).rev().find(|groups| c.is_multiple_of(*groups)).unwrap();
        let (ones, zeros) =
            (self.graph.tensor(&[groups], &vec![1.0; groups]), self.graph.tensor(&[groups], &vec![0.0; groups]));
        let y = self.graph.reshape(&x.name, &[1, groups, c / groups * x.pixels()]);
        let y = self.graph.node("InstanceNormalization", &[&y, &ones, &zeros], vec![float("epsilon", 1e-3)]);
        let y = self.graph.reshape(&y, &[1, c, x.pixels()]);
        let (scale, shift) = (self.vector(&[1, c, 1]), self.vector(&[1, c, 1]));
        let y = self.graph.node("Mul", &[&y, &scale], vec![]);
        let mut y = self.graph.node("Add", &[&y, &shift], vec![]);
        if self.random.below(3) > 0 {
            y = self.gated(&y);
        }
        let name = self.graph.reshape(&y, &x.dims());
        self.value(name, c, x)
    }

    fn layer_norm(&mut self, x: &Value) -> Value {
        let len = x.channels * x.pixels();
        let (scale, shift) = (self.vector(&[len]), self.vector(&[len]));
        let y = self.graph.reshape(&x.name, &[1, len]);
        let mut axis = int("axis", 0);
        axis.i = -1;
        let y = self.graph.node("LayerNormalization", &[&y, &scale, &shift], vec![axis, float("epsilon", 1e-3)]);
        let name = self.graph.reshape(&y, &x.dims());
        self.value(name, x.channels, x)
    }

    fn attention(&mut self, x: &Value) -> Value {
        let (heads, size) = (1 + self.random.below(3), 1 + self.random.below(20));
        let (c, tokens) = (heads * size, x.pixels());
        let qkv = self.conv(x, 3 * c, 1, 1);
        let rows = self.graph.reshape(&qkv.name, &[1, 3 * c, tokens]);
        let sizes = self.graph.integers(&[c; 3]);
        let first = self.graph.node("Split", &[&rows, &sizes], vec![int("axis", 1)]);
        let names = ["q", "k", "v"].map(|part| format!("{first}_{part}"));
        self.graph.proto.node.last_mut().unwrap().output = names.to_vec();
        let [q, k, v] = names.map(|name| self.graph.reshape(&name, &[heads, size, tokens]));
        let scale = self.graph.tensor(&[1], &[0.7]);
        let swap = || vec![ints("perm", &[0, 2, 1])];
        let q = self.graph.node("Mul", &[&q, &scale], vec![]);
        let q = self.graph.node("Transpose", &[&q], swap());
        let scores = self.graph.node("MatMul", &[&q, &k], vec![]);
        let mut axis = int("axis", 0);
        axis.i = -1;
        let weights = self.graph.node("Softmax", &[&scores], vec![axis]);
        let weights = self.graph.node("Transpose", &[&weights], swap());
        let y = self.graph.node("MatMul", &[&v, &weights], vec![]);
        let y = self.graph.reshape(&y, &[1, c, tokens]);
        let name = self.graph.reshape(&y, &[1, c, x.height, x.width]);
        self.value(name, c, x)
    }

    /// An embedding of `t`, `[1, size]`.
    fn time(&mut self, size: usize) -> String {
        let rates =
            self.graph.tensor(&[1, size / 2], &(0..size / 2).map(|i| 0.3f32.powi(i as i32)).collect::<Vec<_>>());
        let angles = self.graph.node("Mul", &["t", &rates], vec![]);
        let (cos, sin) = (self.graph.node("Cos", &[&angles], vec![]), self.graph.node("Sin", &[&angles], vec![]));
        let embedding = self.graph.node("Concat", &[&cos, &sin], vec![int("axis", 1)]);
        let embedding = self.linear(&embedding, size, size);
        self.gated(&embedding)
    }

    fn add_time(&mut self, x: &Value, time: &str) -> Value {
        let (c, pixels) = (x.channels, x.pixels());
        let vector = self.linear(time, 14, c);
        let vector = self.graph.reshape(&vector, &[1, c, 1]);
        let rows = self.graph.reshape(&x.name, &[1, c, pixels]);
        let rows = self.graph.node("Add", &[&rows, &vector], vec![]);
        let name = self.graph.reshape(&rows, &x.dims());
        self.value(name, c, x)
    }

    fn concat(&mut self, x: &Value, other: &Value) -> Value {
        let name = self.graph.node("Concat", &[&x.name, &other.name], vec![int("axis", 1)]);
        self.value(name, x.channels + other.channels, x)
    }

    fn crop(&mut self, x: &Value) -> Value {
        let starts = self.graph.integers(&[1, 1]);
        let ends = self.graph.integers(&[x.height - 1, x.width - 1]);
        let axes = self.graph.integers(&[2, 3]);
        let name = self.graph.node("Slice", &[&x.name, &starts, &ends, &axes], vec![]);
        Value { name, height: x.height - 2, width: x.width - 2, ..x.clone() }
    }

    fn depth_to_space(&mut self, x: &Value) -> Value {
        let attributes = vec![int("blocksize", 2), text("mode", "DCR")];
        let name = self.graph.node("DepthToSpace", &[&x.name], attributes);
        Value { name, channels: x.channels / 4, height: 2 * x.height, width: 2 * x.width }
    }
}
