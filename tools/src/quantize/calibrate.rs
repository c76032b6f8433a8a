//! Runs a network on real inputs: which values it has where they are to be rounded, and what that does to its output.

use std::path::Path;

use rayon::prelude::*;
use rissole::bundle::manifest::NetworkEntry;
use rissole::{Error, Result};
use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::*;

use super::inputs::Inputs;
use super::insert::{Nodes, Place, insert};
use super::ranges::{Extremes, Range};

/// Runs by which a range is chosen.
const TRIED: usize = 24;

/// A network and what it is run on.
pub struct Calibration<'a> {
    path: &'a Path,
    entry: &'a NetworkEntry,
    model: &'a ModelProto,
    inputs: &'a [Inputs],
    /// Told how many more runs are done; answers false to stop.
    step: &'a dyn Fn(usize) -> bool,
}

/// The range of a value, and what it costs alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// Where.
    pub place: Place,
    /// Its range.
    pub range: Range,
    /// Mean square of what becomes of the network's output over that of the output, were this value alone rounded.
    pub noise: f64,
}

impl<'a> Calibration<'a> {
    /// Of `model`, the file at `path` of which the manifest says `entry`, on `inputs`.
    pub fn new(
        path: &'a Path,
        entry: &'a NetworkEntry,
        model: &'a ModelProto,
        inputs: &'a [Inputs],
        step: &'a dyn Fn(usize) -> bool,
    ) -> Self {
        Self { path, entry, model, inputs, step }
    }

    /// The ranges of `places`: of those that leave out ever more of the largest magnitudes, the first that a narrower
    /// one does not improve on. What is compared is the error of the network's output: a value that is clipped errs
    /// the same way wherever it occurs, so its own error says less.
    ///
    /// # Errors
    /// [`Error::File`] naming the network where tract cannot run it, or a value is not finite; [`Error::Interrupted`].
    pub fn choose(&self, places: Vec<Place>) -> Result<Vec<Choice>> {
        let extremes = self.extremes(&places)?;
        let tried = &self.inputs[..self.inputs.len().min(TRIED)];
        let expected = self.outputs(self.model, tried)?;
        let mut choices = vec![];
        for (place, extremes) in places.into_iter().zip(extremes) {
            let mut best: Option<Choice> = None;
            for range in extremes.ranges(place.bits) {
                let mut model = self.model.clone();
                // tract has no `uint16`.
                insert(&mut model, &[(&place, range)], Nodes::OnReals);
                let noise = noise(&expected, &self.outputs(&model, tried)?);
                if best.as_ref().is_some_and(|best| noise >= best.noise) {
                    break;
                }
                best = Some(Choice { place: place.clone(), range, noise });
            }
            choices.extend(best);
        }
        Ok(choices)
    }

    fn extremes(&self, places: &[Place]) -> Result<Vec<Extremes>> {
        let mut extremes = vec![Extremes::default(); places.len()];
        let names: Vec<&str> = places.iter().map(|place| place.value.as_str()).collect();
        self.run(self.model, &names, self.inputs, |outputs| {
            for ((place, extremes), values) in places.iter().zip(&mut extremes).zip(outputs) {
                if !extremes.add(values) {
                    let fault = format!("{} is not finite: its weights are damaged", place.value);
                    return Err(Error::file(self.path, fault));
                }
            }
            Ok(())
        })?;
        Ok(extremes)
    }

    /// The output of each run of `model`.
    fn outputs(&self, model: &ModelProto, inputs: &[Inputs]) -> Result<Vec<Vec<f32>>> {
        let names: Vec<&str> = self.entry.outputs.iter().map(|output| output.name.as_str()).collect();
        let mut all = vec![];
        self.run(model, &names, inputs, |outputs| {
            all.extend(outputs.first().map(|values| values.to_vec()));
            Ok(())
        })?;
        Ok(all)
    }

    /// Runs `model` on each of `inputs` and hands on the values with these `names`: of as many runs as there are
    /// threads, all values are held at once.
    fn run(
        &self,
        model: &ModelProto,
        names: &[&str],
        inputs: &[Inputs],
        mut each: impl FnMut(&[&[f32]]) -> Result<()>,
    ) -> Result<()> {
        let fault = |e: TractError| Error::file(self.path, format!("cannot be calibrated: {e:#}"));
        let plan = plan(model, names).map_err(fault)?;
        let run = |run: &Inputs| {
            let shaped = self.entry.inputs.iter().zip(run);
            let tensors = shaped.map(|(input, values)| Ok(Tensor::from_shape(&input.shape, values)?.into_tvalue()));
            plan.run(tensors.collect::<TractResult<_>>()?)
        };
        for runs in inputs.chunks(rayon::current_num_threads()) {
            let outputs = runs.par_iter().map(run).collect::<TractResult<Vec<_>>>().map_err(fault)?;
            for outputs in outputs {
                let plain = outputs.iter().map(|output| output.try_as_plain_ram()).collect::<TractResult<Vec<_>>>();
                let plain = plain.map_err(fault)?;
                let values = plain.iter().map(|plain| plain.as_slice::<f32>()).collect::<TractResult<Vec<_>>>();
                each(&values.map_err(fault)?)?;
            }
            if !(self.step)(runs.len()) {
                return Err(Error::Interrupted);
            }
        }
        Ok(())
    }
}

/// The network with the values `names` as its outputs.
fn plan(model: &ModelProto, names: &[&str]) -> TractResult<Arc<TypedRunnableModel>> {
    let mut model = tract_onnx::onnx().model_for_proto_model(model)?;
    model.select_outputs_by_name(names)?;
    model.into_optimized()?.into_runnable()
}

/// Mean square of the differences over that of what is expected.
fn noise(expected: &[Vec<f32>], found: &[Vec<f32>]) -> f64 {
    let square = |v: f32| f64::from(v).powi(2);
    let signal: f64 = expected.iter().flatten().map(|&v| square(v)).sum();
    let differences = expected.iter().flatten().zip(found.iter().flatten()).map(|(a, b)| a - b);
    differences.map(square).sum::<f64>() / signal.max(f64::MIN_POSITIVE)
}

/// Leaves out of `choices` those of the largest noise, until what is left makes no more than `decibels` allow; errors
/// of different values add up as if by chance. Gives what is left out.
pub fn spare(choices: &mut Vec<Choice>, decibels: f64) -> Vec<Choice> {
    let allowed = 10f64.powf(-decibels / 10.0);
    let mut spared = vec![];
    while choices.iter().map(|choice| choice.noise).sum::<f64>() > allowed {
        let noise = |&i: &usize| choices[i].noise;
        let Some(worst) = (0..choices.len()).max_by(|a, b| noise(a).total_cmp(&noise(b))) else { break };
        spared.push(choices.remove(worst));
    }
    spared
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_are_spared_until_the_rest_is_good_enough() {
        let choice = |name: &str, noise| Choice {
            place: Place { value: name.into(), bits: 8, convolutions: vec![] },
            range: Range::new(0.0, 1.0, 8),
            noise,
        };
        let names = |choices: &[Choice]| choices.iter().map(|c| c.place.value.clone()).collect::<Vec<_>>().join(" ");
        let all = || vec![choice("a", 2e-5), choice("b", 8e-5), choice("c", 1e-5), choice("d", 5e-5)];
        for (decibels, left, spared) in
            [(30.0, "a b c d", ""), (40.0, "a c d", "b"), (45.0, "a c", "b d"), (60.0, "", "b d a c")]
        {
            let mut choices = all();
            let gone = spare(&mut choices, decibels);
            assert_eq!((names(&choices).as_str(), names(&gone).as_str()), (left, spared), "{decibels} dB");
        }
    }

    #[test]
    fn noise_is_relative_to_what_is_expected() {
        assert_eq!(noise(&[vec![3.0], vec![-4.0]], &[vec![3.0], vec![-4.5]]), 0.01);
        assert_eq!(noise(&[vec![0.0]], &[vec![0.0]]), 0.0);
    }
}
