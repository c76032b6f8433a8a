//! One position while it is denoised, and doing several at once.

use std::thread;

use super::canvas::Canvas;
use super::condition::Guide;
use super::networks::WORKER_STACK;
use crate::bundle::manifest::is_unguided;
use crate::diffusion::{Noise, Sampler, SamplerState, Stream};
use crate::error::{Error, Result};
use crate::latent::BlockGrid;
use crate::network::Network;

/// One position at work.
#[derive(Debug)]
pub(super) struct Drawing {
    pub position: usize,
    /// The cells of the window.
    cells: Vec<Option<usize>>,
    /// `condition` [1, w, wh, ww]
    condition: Vec<f32>,
    /// `latent` [1, C(+1), wh, ww]: the window, and with a margin which of its cells are in the picture.
    window: Vec<f32>,
    /// `position` [1, positions], one-hot; `None` where the denoiser is not told.
    one_hot: Option<Vec<f32>>,
    /// `prediction` [1, C, h, w]
    prediction: Vec<f32>,
    /// The block's own noisy values, C×h×w, and fresh noise for them.
    values: Vec<f32>,
    noise: Vec<f32>,
    state: SamplerState,
    unguided: Option<Unguided>,
}

/// The same position without neighbours, for guidance.
#[derive(Debug)]
struct Unguided {
    guidance: f32,
    /// As [`Drawing::condition`].
    condition: Vec<f32>,
    /// As [`Drawing::prediction`].
    prediction: Vec<f32>,
}

impl Drawing {
    /// The drawing of `position`, not begun; see [`Options::guidance`](super::Options::guidance).
    pub fn new(grid: &BlockGrid, position: usize, told_position: bool, condition_len: usize, guidance: f32) -> Self {
        let cells = grid.position_cells(position);
        let mut window = vec![0.0; grid.window().len()];
        if grid.margin() > 0 {
            window.extend(cells.iter().map(|cell| f32::from(u8::from(cell.is_some()))));
        }
        let one_hot = || (0..grid.positions()).map(|i| f32::from(u8::from(i == position))).collect();
        let block = vec![0.0; grid.block().len()];
        let unguided = || Unguided { guidance, condition: vec![0.0; condition_len], prediction: block.clone() };
        let unguided = (!is_unguided(&guidance)).then(unguided);
        Self {
            position,
            cells,
            condition: vec![0.0; condition_len],
            window,
            one_hot: told_position.then(one_hot),
            prediction: block.clone(),
            values: block.clone(),
            noise: block,
            state: SamplerState::default(),
            unguided,
        }
    }

    /// Bytes of one drawing, for the budget.
    pub fn bytes(grid: &BlockGrid, condition_len: usize, guidance: f32) -> u64 {
        let (window, block) = (grid.window(), grid.block().len());
        let unguided = if is_unguided(&guidance) { 0 } else { condition_len + block };
        let floats = condition_len + window.len() + window.cells() + grid.positions() + 5 * block + unguided;
        (4 * floats + size_of::<Option<usize>>() * window.cells()) as u64
    }

    /// Fills the block with the noise that sampling starts from.
    pub fn begin(&mut self, noise: Noise, canvas: &mut Canvas) {
        noise.fill(self.position as u32, 0, Stream::Initial, &mut self.values);
        canvas.write(self.position, &self.values);
    }

    /// Runs the conditioner.
    pub fn condition(&mut self, guide: &Guide, conditioner: &Network, canvas: &Canvas) -> Result<()> {
        let mut inputs = guide.inputs(self.position, &self.cells, canvas)?;
        run(conditioner, &inputs, &mut self.condition)?;
        if let Some(unguided) = &mut self.unguided {
            Guide::forget_neighbours(&mut inputs);
            run(conditioner, &inputs, &mut unguided.condition)?;
        }
        Ok(())
    }

    /// Runs the denoiser on the canvas as it stands.
    pub fn predict(&mut self, denoiser: &Network, timestep: usize, canvas: &Canvas) -> Result<()> {
        canvas.gather(self.position, &self.cells, &mut self.window);
        let timestep = [timestep as f32];
        let mut inputs: Vec<&[f32]> = vec![&self.window, &timestep];
        inputs.extend(self.one_hot.as_deref());
        inputs.push(&self.condition);
        denoiser.run(&inputs, &mut self.prediction)?;
        if let Some(Unguided { guidance, condition, prediction }) = &mut self.unguided {
            inputs.pop();
            inputs.push(&*condition);
            denoiser.run(&inputs, prediction)?;
            let both = self.prediction.iter_mut().zip(prediction.iter());
            both.for_each(|(with, without)| *with = without + *guidance * (*with - without));
        }
        Ok(())
    }

    /// Takes the block one step on.
    pub fn advance(&mut self, sampler: &Sampler, step: usize, noise: Noise, canvas: &mut Canvas) {
        if sampler.adds_noise(step) {
            noise.fill(self.position as u32, step as u32, Stream::Step, &mut self.noise);
        }
        sampler.advance(step, &mut self.state, &mut self.values, &self.prediction, &self.noise);
        canvas.write(self.position, &self.values);
        canvas.show(self.position, self.state.data());
    }
}

fn run(network: &Network, inputs: &[Vec<f32>], out: &mut [f32]) -> Result<()> {
    let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
    network.run(&inputs, out)
}

/// Does `work` on every drawing, on up to `threads` threads. Each drawing depends on itself alone, so the
/// result does not depend on `threads`.
///
/// # Errors
/// The first error in order; [`Error::Usage`] where the system gives no more threads.
pub(super) fn each(
    drawings: &mut [Drawing],
    threads: usize,
    work: impl Fn(&mut Drawing) -> Result<()> + Sync,
) -> Result<()> {
    if threads.min(drawings.len()) <= 1 {
        return drawings.iter_mut().try_for_each(work);
    }
    let share = drawings.len().div_ceil(threads);
    let work = &work;
    thread::scope(|scope| {
        let workers = drawings.chunks_mut(share).map(|drawings| {
            let work = move || drawings.iter_mut().try_for_each(work);
            thread::Builder::new().stack_size(WORKER_STACK).spawn_scoped(scope, work)
        });
        // Start all before waiting for the first.
        let workers: Vec<_> = workers.collect();
        workers.into_iter().try_for_each(|worker| {
            let worker = worker.map_err(|e| Error::Usage(format!("cannot start {threads} threads: {e}")))?;
            worker.join().unwrap_or_else(|panic| Err(Error::panic(panic.as_ref())))
        })
    })
}
