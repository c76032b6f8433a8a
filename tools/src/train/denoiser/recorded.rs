//! How conditioner and denoiser are recorded on a tape: for training, and, once trained, for export.

use crate::backend::Backend;
use crate::backend::windows::Batch;
use crate::model::denoiser::{Conditioner, Conditions, Denoiser, DenoiserShape};
use crate::tape::{NodeId, ParamSet, Tape};

/// Trained conditioner and denoiser.
#[derive(Debug)]
pub struct TrainedDenoiser<'a, B: Backend> {
    pub(super) backend: &'a B,
    pub(super) shape: DenoiserShape,
    pub(super) set: ParamSet<B>,
    pub(super) conditioner: Conditioner,
    pub(super) denoiser: Denoiser,
    /// Channels of a condition.
    pub(super) width: usize,
}

impl<B: Backend> TrainedDenoiser<'_, B> {
    /// Records the conditioner on one window, for export. Returns the tape and the condition.
    pub fn record_conditioner(&mut self) -> (Tape<'_, B>, NodeId) {
        let (cells, c) = (self.shape.grid.window().cells(), self.shape.grid.window().channels);
        let zeros = |n: usize| self.backend.upload_activations(&vec![0.0; n]);
        let inputs = Conditions {
            neighbours: zeros(cells * c * self.shape.neighbours),
            thumbnail: self.shape.grid.has_thumbnail().then(|| zeros(cells * c)),
            previous: self.shape.previous_block.then(|| zeros(cells * c)),
        };
        let mut tape = Tape::new(self.backend, &mut self.set);
        let condition = record_conditioner(&mut tape, &self.shape, &self.conditioner, (1, inputs), true);
        (tape, condition)
    }

    /// Records the denoiser on one window, for export. Returns the tape and the prediction.
    pub fn record_denoiser(&mut self) -> (Tape<'_, B>, NodeId) {
        let window = self.shape.grid.window();
        let zeros = |n: usize| self.backend.upload_activations(&vec![0.0; n]);
        let noisy = zeros(window.cells() * self.shape.noisy_channels());
        let (timesteps, positions) = (self.backend.zeros(1), zeros(self.shape.grid.positions()));
        let mut tape = Tape::new(self.backend, &mut self.set);
        let inputs = denoiser_inputs(&mut tape, &self.shape, (1, noisy, timesteps, positions), true);
        let shape = [1, window.height, window.width, self.width];
        let condition = tape.input("condition", shape, &vec![0.0; window.cells() * self.width]);
        let prediction = self.denoiser.apply(&mut tape, inputs.0, inputs.1, inputs.2, condition);
        (tape, prediction)
    }
}

/// Records the conditioner on `samples` windows. Inputs carry their names only for export: unnamed ones get no gradient.
fn record_conditioner<B: Backend>(
    tape: &mut Tape<B>,
    shape: &DenoiserShape,
    conditioner: &Conditioner,
    (samples, inputs): (usize, Conditions<B::Buffer>),
    named: bool,
) -> NodeId {
    let window = shape.grid.window();
    let mut input = |name: &str, channels: usize, values: B::Buffer| {
        let shape = [samples, window.height, window.width, channels];
        tape.device_input(if named { name } else { "" }, shape, values)
    };
    let inputs = Conditions {
        neighbours: input("neighbours", shape.neighbours * window.channels, inputs.neighbours),
        thumbnail: inputs.thumbnail.map(|values| input("thumbnail", window.channels, values)),
        previous: inputs.previous.map(|values| input("previous", window.channels, values)),
    };
    conditioner.apply(tape, inputs)
}

/// Records conditioner and denoiser for training. Returns the prediction, the target and the weights of the batch.
pub(super) fn record_prediction<B: Backend>(
    tape: &mut Tape<B>,
    shape: &DenoiserShape,
    (conditioner, denoiser): (&Conditioner, &Denoiser),
    (samples, batch): (usize, Batch<B::Buffer>),
) -> (NodeId, B::Buffer, B::Buffer) {
    let Batch { noisy, timesteps, positions, neighbours, thumbnail, previous, target, weights } = batch;
    let (noisy, timestep, position) = denoiser_inputs(tape, shape, (samples, noisy, timesteps, positions), false);
    let conditions = Conditions { neighbours, thumbnail, previous };
    let condition = record_conditioner(tape, shape, conditioner, (samples, conditions), false);
    (denoiser.apply(tape, noisy, timestep, position, condition), target, weights)
}

/// Records the denoiser's inputs but the condition: those of `samples` windows, noisy values, timesteps and positions.
fn denoiser_inputs<B: Backend>(
    tape: &mut Tape<B>,
    shape: &DenoiserShape,
    (samples, noisy, timesteps, positions): (usize, B::Buffer, B::Buffer, B::Buffer),
    named: bool,
) -> (NodeId, NodeId, Option<NodeId>) {
    let window = shape.grid.window();
    let mut input =
        |name: &str, shape, values: B::Buffer| tape.device_input(if named { name } else { "" }, shape, values);
    let noisy = input("latent", [samples, window.height, window.width, shape.noisy_channels()], noisy);
    let timestep = input("timestep", [samples, 1, 1, 1], timesteps);
    let position = match shape.position_embedding {
        true => Some(input("position", [samples, 1, 1, shape.grid.positions()], positions)),
        false => None,
    };
    (noisy, timestep, position)
}
