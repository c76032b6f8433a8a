//! Runs a network on real inputs and looks at the values that are to be quantized.

use std::path::Path;

use rayon::prelude::*;
use rissole::bundle::manifest::NetworkEntry;
use rissole::{Error, Result};
use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::*;

use super::inputs::Inputs;
use super::insert::Place;
use super::ranges::{Histogram, Range};

/// The range of each of `places` over the runs of `model`, the file at `path`, on `inputs`. `step` is told how many
/// more are done, and answers false to stop.
///
/// # Errors
/// [`Error::File`] naming `path` where tract cannot run the network, or a value is not finite; [`Error::Interrupted`].
pub fn ranges(
    path: &Path,
    entry: &NetworkEntry,
    model: &ModelProto,
    places: &[Place],
    inputs: &[Inputs],
    step: &mut dyn FnMut(usize) -> bool,
) -> Result<Vec<Range>> {
    let fault = |e: TractError| Error::file(path, format!("cannot be calibrated: {e:#}"));
    let plan = plan(model, places).map_err(fault)?;
    let mut histograms = vec![Histogram::default(); places.len()];
    // As many runs at once as there are threads: all values of those are held, of all runs the histograms alone.
    for runs in inputs.chunks(rayon::current_num_threads()) {
        let run = |run: &Inputs| {
            let tensors = entry.inputs.iter().zip(run).map(|(input, values)| Tensor::from_shape(&input.shape, values));
            plan.run(tensors.map(|tensor| Ok(tensor?.into_tvalue())).collect::<TractResult<_>>()?)
        };
        let outputs = runs.par_iter().map(run).collect::<TractResult<Vec<_>>>();
        for outputs in outputs.map_err(fault)? {
            for ((place, histogram), output) in places.iter().zip(&mut histograms).zip(&*outputs) {
                let plain = output.try_as_plain_ram().map_err(fault)?;
                if !histogram.add(plain.as_slice::<f32>().map_err(fault)?) {
                    return Err(Error::file(path, format!("{} is not finite: its weights are damaged", place.value)));
                }
            }
        }
        if !step(runs.len()) {
            return Err(Error::Interrupted);
        }
    }
    Ok(histograms.iter().map(Histogram::best_range).collect())
}

/// The network with the values of `places` as its outputs.
fn plan(model: &ModelProto, places: &[Place]) -> TractResult<Arc<TypedRunnableModel>> {
    let mut model = tract_onnx::onnx().model_for_proto_model(model)?;
    model.select_outputs_by_name(places.iter().map(|place| &place.value))?;
    model.into_optimized()?.into_runnable()
}
