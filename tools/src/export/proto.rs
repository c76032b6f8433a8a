//! ONNX messages, spelled short.

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, attribute_proto::AttributeType, tensor_shape_proto::Dimension,
    tensor_shape_proto::dimension::Value, type_proto,
};

/// The operator set that the graphs are written in: the last whose `ReduceMean` and `Split` every runtime has.
const OPSET: i64 = 17;
/// The version of the file format that goes with [`OPSET`].
const IR_VERSION: i64 = 8;

/// A model around one graph.
pub fn model(graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: IR_VERSION,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
        producer_name: "rissole-train".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        graph: Some(graph),
        ..ModelProto::default()
    }
}

/// A node with one output, which gives it its name.
pub fn node(op: &str, inputs: &[&str], outputs: &[&str], attributes: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: op.to_owned(),
        name: outputs[0].to_owned(),
        input: inputs.iter().map(|&s| s.to_owned()).collect(),
        output: outputs.iter().map(|&s| s.to_owned()).collect(),
        attribute: attributes,
        ..NodeProto::default()
    }
}

/// An `f32` tensor of static shape, from or to outside.
pub fn value_info(name: &str, shape: &[usize]) -> ValueInfoProto {
    let dim =
        shape.iter().map(|&d| Dimension { value: Some(Value::DimValue(d as i64)), ..Dimension::default() }).collect();
    let tensor = type_proto::Tensor { elem_type: DataType::Float as i32, shape: Some(TensorShapeProto { dim }) };
    let r#type = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: name.to_owned(), r#type: Some(r#type), ..ValueInfoProto::default() }
}

/// An `f32` constant.
pub fn floats(name: &str, shape: &[usize], values: &[f32]) -> TensorProto {
    tensor(name, DataType::Float, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect(), 4)
}

/// An `i8` constant.
pub fn bytes(name: &str, shape: &[usize], values: &[i8]) -> TensorProto {
    tensor(name, DataType::Int8, shape, values.iter().map(|&v| v as u8).collect(), 1)
}

/// A single `u8`, or `u16` where it is wide.
pub fn unsigned(name: &str, value: u16, is_wide: bool) -> TensorProto {
    let [low, high] = value.to_le_bytes();
    match is_wide {
        true => tensor(name, DataType::Uint16, &[], vec![low, high], 2),
        false => tensor(name, DataType::Uint8, &[], vec![low], 1),
    }
}

/// A vector of `i64`.
pub fn integers(name: &str, values: &[i64]) -> TensorProto {
    tensor(name, DataType::Int64, &[values.len()], values.iter().flat_map(|v| v.to_le_bytes()).collect(), 8)
}

fn tensor(name: &str, kind: DataType, shape: &[usize], raw_data: Vec<u8>, size: usize) -> TensorProto {
    assert_eq!(raw_data.len(), size * shape.iter().product::<usize>(), "constant {name}");
    TensorProto {
        name: name.to_owned(),
        data_type: kind as i32,
        dims: shape.iter().map(|&d| d as i64).collect(),
        raw_data,
        ..TensorProto::default()
    }
}

/// An integer attribute.
pub fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { i, ..attribute(name, AttributeType::Int) }
}

/// An attribute that lists integers.
pub fn ints(name: &str, ints: &[usize]) -> AttributeProto {
    AttributeProto { ints: ints.iter().map(|&i| i as i64).collect(), ..attribute(name, AttributeType::Ints) }
}

/// A real attribute.
pub fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { f, ..attribute(name, AttributeType::Float) }
}

/// A text attribute.
pub fn text(name: &str, s: &str) -> AttributeProto {
    AttributeProto { s: s.as_bytes().to_vec(), ..attribute(name, AttributeType::String) }
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: name.to_owned(), r#type: kind as i32, ..AttributeProto::default() }
}
