//! Records what tract computes, for `tools/check/onnx_check.py` to compare with onnxruntime.

use std::fs;
use std::path::Path;

use rissole::{Error, Result};
use tract_onnx::prelude::*;

use crate::random::Random;

/// Runs the network at `path` in tract on random inputs and writes them and the outputs below `out`:
/// `out/STEM/TENSOR.f32`, raw little-endian `f32` in row-major order.
///
/// # Errors
/// [`Error::File`] where tract does not take the network; [`Error::Io`] where a value cannot be written.
pub fn record_values(path: &Path, out: &Path, seed: u64) -> Result<()> {
    let values = run(path, seed).map_err(|e| Error::file(path, format!("{e:#}")))?;
    let folder = out.join(path.file_stem().unwrap_or_default());
    fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
    for (name, values) in values {
        let to = folder.join(format!("{name}.f32"));
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        fs::write(&to, bytes).map_err(|e| Error::io(&to, e))?;
    }
    Ok(())
}

/// Inputs and outputs by name.
fn run(path: &Path, seed: u64) -> TractResult<Vec<(String, Vec<f32>)>> {
    let model = tract_onnx::onnx().model_for_path(path)?;
    let outputs: Vec<String> =
        model.outputs.iter().map(|&o| model.outlet_label(o).unwrap_or("output").to_owned()).collect();
    let model = model.into_optimized()?;
    let mut random = Random::new(seed);
    let mut values = Vec::new();
    let mut inputs = tvec![];
    for &outlet in &model.inputs {
        let name = &model.node(outlet.node).name;
        let fact = model.outlet_fact(outlet)?;
        let shape = fact.shape.as_concrete().ok_or_else(|| TractError::msg(format!("{name} has no static shape")))?;
        let input = random_input(name, shape.iter().product(), &mut random);
        inputs.push(Tensor::from_shape(shape, &input)?.into_tvalue());
        values.push((name.clone(), input));
    }
    let found = model.into_runnable()?.run(inputs)?;
    for (name, tensor) in outputs.into_iter().zip(&*found) {
        values.push((name, tensor.to_plain_array_view::<f32>()?.iter().copied().collect()));
    }
    Ok(values)
}

/// Values that fit what the name means: a timestep, a one-hot position, else standard normal.
fn random_input(name: &str, len: usize, random: &mut Random) -> Vec<f32> {
    let mut values = vec![0.0; len];
    match name {
        "timestep" => values.fill_with(|| random.below(1000) as f32),
        "position" => values[random.below(len)] = 1.0,
        _ => random.fill_normal(&mut values),
    }
    values
}
