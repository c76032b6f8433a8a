//! What is checked of an ONNX graph before tract sees it.

use std::collections::HashSet;

use tract_onnx::pb::{
    GraphProto, ModelProto, TensorProto, ValueInfoProto, tensor_proto, tensor_shape_proto::dimension, type_proto,
};

use crate::bundle::manifest::{NetworkEntry, TensorEntry};

type Check = std::result::Result<(), String>;

/// Checks `model` against `entry` and against what tract would panic on.
pub(super) fn check(model: &ModelProto, entry: &NetworkEntry) -> Check {
    let graph = model.graph.as_ref().ok_or("holds no graph")?;
    check_signature(graph, entry)?;
    check_names(graph)?;
    graph.initializer.iter().try_for_each(check_tensor)?;
    for attribute in graph.node.iter().flat_map(|node| &node.attribute) {
        if attribute.g.is_some() || !attribute.graphs.is_empty() {
            return Err(format!("attribute {:?}: graphs within the graph are not supported", attribute.name));
        }
        attribute.t.iter().chain(&attribute.tensors).try_for_each(check_tensor)?;
    }
    Ok(())
}

fn check_signature(graph: &GraphProto, entry: &NetworkEntry) -> Check {
    // Old exporters list the weights among the inputs.
    let weights: HashSet<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
    let inputs: Vec<_> = graph.input.iter().filter(|input| !weights.contains(input.name.as_str())).collect();
    check_tensors("input", &inputs, &entry.inputs)?;
    check_tensors("output", &graph.output.iter().collect::<Vec<_>>(), &entry.outputs)
}

fn check_tensors(what: &str, found: &[&ValueInfoProto], expected: &[TensorEntry]) -> Check {
    if found.len() != expected.len() {
        return Err(format!("has {} {what}s, the manifest says {}", found.len(), expected.len()));
    }
    for (found, expected) in found.iter().zip(expected) {
        if found.name != expected.name {
            return Err(format!("{what} {:?} should be {:?}", found.name, expected.name));
        }
        if shape_of(found).as_ref() != Some(&expected.shape) {
            return Err(format!("{what} {:?} is not a float tensor of shape {:?}", found.name, expected.shape));
        }
    }
    Ok(())
}

/// The static shape of a float tensor, or `None` for any other.
fn shape_of(value: &ValueInfoProto) -> Option<Vec<usize>> {
    let type_proto::Value::TensorType(tensor) = value.r#type.as_ref()?.value.as_ref()?;
    if tensor.elem_type != tensor_proto::DataType::Float as i32 {
        return None;
    }
    let side = |value: &Option<dimension::Value>| match value {
        Some(dimension::Value::DimValue(side)) => usize::try_from(*side).ok(),
        _ => None,
    };
    tensor.shape.as_ref()?.dim.iter().map(|dim| side(&dim.value)).collect()
}

/// Every value that is used exists.
fn check_names(graph: &GraphProto) -> Check {
    let given = graph.input.iter().map(|input| &input.name).chain(graph.initializer.iter().map(|t| &t.name));
    let names: HashSet<&String> = given.chain(graph.node.iter().flat_map(|node| &node.output)).collect();
    let used = graph.node.iter().flat_map(|node| &node.input).filter(|name| !name.is_empty());
    match used.chain(graph.output.iter().map(|output| &output.name)).find(|name| !names.contains(name)) {
        Some(name) => Err(format!("{name:?} is used but nothing makes it")),
        None => Ok(()),
    }
}

fn check_tensor(tensor: &TensorProto) -> Check {
    if tensor.data_location == Some(tensor_proto::DataLocation::External as i32) || !tensor.external_data.is_empty() {
        return Err(format!("weight {:?} is kept in another file", tensor.name));
    }
    let is_float = tensor.data_type == tensor_proto::DataType::Float as i32;
    let raw = tensor.raw_data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    if is_float && raw.chain(tensor.float_data.iter().copied()).any(f32::is_nan) {
        return Err(format!("weight {:?} holds NaN", tensor.name));
    }
    Ok(())
}
