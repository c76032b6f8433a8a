//! Writes small ONNX files.

use prost::Message;
use rissole::bundle::manifest::{NetworkEntry, TensorEntry};
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, attribute_proto::AttributeType, type_proto,
};

use super::Random;

/// A graph under construction. Methods add a node and give back the name of its output.
pub struct Graph {
    pub proto: GraphProto,
    random: Random,
}

impl Graph {
    pub fn new(seed: u64, inputs: &[TensorEntry], outputs: &[TensorEntry]) -> Self {
        let proto = GraphProto {
            name: "tiny".into(),
            input: inputs.iter().map(value_info).collect(),
            output: outputs.iter().map(value_info).collect(),
            ..Default::default()
        };
        Self { proto, random: Random(seed) }
    }

    pub fn node(&mut self, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        let output = format!("{op}_{}", self.proto.node.len());
        self.proto.node.push(NodeProto {
            op_type: op.into(),
            name: output.clone(),
            input: inputs.iter().map(|&name| name.into()).collect(),
            output: vec![output.clone()],
            attribute: attributes,
            ..Default::default()
        });
        output
    }

    /// Makes `name` the graph's output of that name.
    pub fn output(&mut self, name: &str, output: &str) {
        self.node("Identity", &[name], vec![]);
        self.proto.node.last_mut().unwrap().output = vec![output.into()];
    }

    /// Weights, uniform in ±1/√(values per first dimension).
    pub fn weights(&mut self, dims: &[usize]) -> String {
        let len: usize = dims.iter().product();
        let bound = 1.0 / (len as f32 / dims[0] as f32).sqrt();
        let values: Vec<f32> = (0..len).map(|_| bound * self.random.symmetric()).collect();
        self.tensor(dims, &values)
    }

    pub fn tensor(&mut self, dims: &[usize], values: &[f32]) -> String {
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.initializer(dims, DataType::Float, raw)
    }

    pub fn initializer(&mut self, dims: &[usize], kind: DataType, raw_data: Vec<u8>) -> String {
        let name = format!("weight_{}", self.proto.initializer.len());
        self.proto.initializer.push(TensorProto {
            name: name.clone(),
            dims: dims.iter().map(|&d| d as i64).collect(),
            data_type: kind as i32,
            raw_data,
            ..Default::default()
        });
        name
    }

    /// A vector of integers.
    pub fn integers(&mut self, values: &[usize]) -> String {
        let raw = values.iter().flat_map(|&v| (v as i64).to_le_bytes()).collect();
        self.initializer(&[values.len()], DataType::Int64, raw)
    }

    /// The same values with other sides.
    pub fn reshape(&mut self, input: &str, dims: &[usize]) -> String {
        let dims = self.integers(dims);
        self.node("Reshape", &[input, &dims], vec![])
    }

    /// Convolution with random weights; `pad` on every side.
    pub fn conv(&mut self, input: &str, channels: [usize; 2], kernel: usize, pad: usize, stride: usize) -> String {
        let weights = self.weights(&[channels[1], channels[0], kernel, kernel]);
        let attributes =
            vec![ints("kernel_shape", &[kernel; 2]), ints("pads", &[pad; 4]), ints("strides", &[stride; 2])];
        self.node("Conv", &[input, &weights], attributes)
    }

    pub fn bytes(&self) -> Vec<u8> {
        let opset = OperatorSetIdProto { domain: String::new(), version: 17 };
        let graph = Some(self.proto.clone());
        ModelProto { ir_version: 8, opset_import: vec![opset], graph, ..Default::default() }.encode_to_vec()
    }
}

pub fn ints(name: &str, values: &[usize]) -> AttributeProto {
    AttributeProto {
        name: name.into(),
        r#type: AttributeType::Ints as i32,
        ints: values.iter().map(|&v| v as i64).collect(),
        ..Default::default()
    }
}

pub fn int(name: &str, value: usize) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: AttributeType::Int as i32, i: value as i64, ..Default::default() }
}

pub fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: AttributeType::Float as i32, f: value, ..Default::default() }
}

pub fn text(name: &str, value: &str) -> AttributeProto {
    let s = value.as_bytes().to_vec();
    AttributeProto { name: name.into(), r#type: AttributeType::String as i32, s, ..Default::default() }
}

fn value_info(entry: &TensorEntry) -> ValueInfoProto {
    let side = |&d: &usize| Dimension { value: Some(dimension::Value::DimValue(d as i64)), ..Default::default() };
    let shape = Some(TensorShapeProto { dim: entry.shape.iter().map(side).collect() });
    let tensor = type_proto::Tensor { elem_type: DataType::Float as i32, shape };
    let r#type = Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() });
    ValueInfoProto { name: entry.name.clone(), r#type, ..Default::default() }
}

/// All inputs side by side on channels → 3×3 convolution → tanh.
pub fn conditioner(entry: &NetworkEntry) -> Graph {
    let mut graph = Graph::new(1, &entry.inputs, &entry.outputs);
    let names: Vec<&str> = entry.inputs.iter().map(|input| input.name.as_str()).collect();
    let channels = entry.inputs.iter().map(|input| input.shape[1]).sum();
    let all = graph.node("Concat", &names, vec![int("axis", 1)]);
    let out = graph.conv(&all, [channels, entry.outputs[0].shape[1]], 3, 1, 1);
    let out = graph.node("Tanh", &[&out], vec![]);
    graph.output(&out, "condition");
    graph
}

/// Convolution of the latent, plus condition, timestep and position → tanh → convolution that eats the margin.
pub fn denoiser(entry: &NetworkEntry, margin: usize) -> Graph {
    let mut graph = Graph::new(2, &entry.inputs, &entry.outputs);
    let input = |name: &str| entry.inputs.iter().find(|input| input.name == name);
    let width = input("condition").unwrap().shape[1];
    let mut x = graph.conv("latent", [input("latent").unwrap().shape[1], width], 3, 1, 1);
    x = graph.node("Add", &[&x, "condition"], vec![]);
    for (name, scale) in [("timestep", 1e-3), ("position", 1.0)] {
        let Some(entry) = input(name) else { continue };
        let rows = entry.shape[1];
        let values: Vec<f32> = (0..rows * width).map(|i| scale * ((i * 7 % 11) as f32 / 11.0 - 0.4)).collect();
        let table = graph.tensor(&[rows, width], &values);
        let row = graph.node("MatMul", &[name, &table], vec![]);
        let dims: Vec<u8> = [1, width as i64, 1, 1].iter().flat_map(|d| d.to_le_bytes()).collect();
        let dims = graph.initializer(&[4], DataType::Int64, dims);
        let row = graph.node("Reshape", &[&row, &dims], vec![]);
        x = graph.node("Add", &[&x, &row], vec![]);
    }
    x = graph.node("Tanh", &[&x], vec![]);
    x = graph.conv(&x, [width, entry.outputs[0].shape[1]], 2 * margin + 1, 0, 1);
    graph.output(&x, "prediction");
    graph
}

/// 3×3 convolution → depth to space → tanh.
pub fn decoder(entry: &NetworkEntry, downsampling: usize) -> Graph {
    let mut graph = Graph::new(3, &entry.inputs, &entry.outputs);
    let x = graph.conv("latent", [entry.inputs[0].shape[1], 3 * downsampling * downsampling], 3, 1, 1);
    let x = graph.node("DepthToSpace", &[&x], vec![int("blocksize", downsampling)]);
    let x = graph.node("Tanh", &[&x], vec![]);
    graph.output(&x, "image");
    graph
}

/// What our own operators run, in tiles too: two 3×3 convolutions with SiLU between them → depth to space.
pub fn local_decoder(entry: &NetworkEntry, downsampling: usize, width: usize) -> Graph {
    let mut graph = Graph::new(3, &entry.inputs, &entry.outputs);
    let x = graph.conv("latent", [entry.inputs[0].shape[1], width], 3, 1, 1);
    let gate = graph.node("Sigmoid", &[&x], vec![]);
    let x = graph.node("Mul", &[&x, &gate], vec![]);
    let x = graph.conv(&x, [width, 3 * downsampling * downsampling], 3, 1, 1);
    let x = graph.node("DepthToSpace", &[&x], vec![int("blocksize", downsampling), text("mode", "DCR")]);
    graph.output(&x, "image");
    graph
}

/// One convolution with the stride of the downsampling.
pub fn encoder(entry: &NetworkEntry, downsampling: usize) -> Graph {
    let mut graph = Graph::new(4, &entry.inputs, &entry.outputs);
    let x = graph.conv("image", [3, entry.outputs[0].shape[1]], downsampling, 0, downsampling);
    graph.output(&x, "latent");
    graph
}
