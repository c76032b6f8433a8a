//! One position while it is denoised, and doing several at once.

use std::sync::{Mutex, PoisonError};

use super::canvas::Canvas;
use super::condition::Guide;
use crate::bundle::manifest::is_unguided;
use crate::diffusion::{Noise, Sampler, SamplerState, Stream};
use crate::error::Result;
use crate::latent::BlockGrid;
use crate::network::Network;
use crate::threads::Threads;

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

    /// Runs the conditioner by `threads`.
    pub fn condition(
        &mut self,
        guide: &Guide,
        conditioner: &Network,
        threads: &Threads,
        canvas: &Canvas,
    ) -> Result<()> {
        let mut inputs = guide.inputs(self.position, &self.cells, canvas)?;
        run(conditioner, &inputs, &mut self.condition, threads)?;
        if let Some(unguided) = &mut self.unguided {
            Guide::forget_neighbours(&mut inputs);
            run(conditioner, &inputs, &mut unguided.condition, threads)?;
        }
        Ok(())
    }

    /// Runs the denoiser on the canvas as it stands, by `threads`.
    pub fn predict(&mut self, denoiser: &Network, threads: &Threads, timestep: usize, canvas: &Canvas) -> Result<()> {
        canvas.gather(self.position, &self.cells, &mut self.window);
        let timestep = [timestep as f32];
        let mut inputs: Vec<&[f32]> = vec![&self.window, &timestep];
        inputs.extend(self.one_hot.as_deref());
        inputs.push(&self.condition);
        denoiser.run_by(threads, &inputs, &mut self.prediction)?;
        if let Some(Unguided { guidance, condition, prediction }) = &mut self.unguided {
            inputs.pop();
            inputs.push(&*condition);
            denoiser.run_by(threads, &inputs, prediction)?;
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

fn run(network: &Network, inputs: &[Vec<f32>], out: &mut [f32], threads: &Threads) -> Result<()> {
    let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
    network.run_by(threads, &inputs, out)
}

/// Does `work` on every drawing: on several at once, each by one of `threads`; on one alone by all of them. Each drawing
/// depends on itself alone, so the result does not depend on `threads`.
///
/// # Errors
/// The first error in order.
pub(super) fn each(
    drawings: &mut [Drawing],
    threads: &Threads,
    work: impl Fn(&mut Drawing, &Threads) -> Result<()> + Sync,
) -> Result<()> {
    if let [drawing] = drawings {
        return work(drawing, threads);
    }
    let failed = Mutex::new(None);
    threads.each(drawings.iter_mut().enumerate(), |(i, drawing)| {
        if let Err(error) = work(drawing, &Threads::alone()) {
            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
            if failed.as_ref().is_none_or(|(first, _)| i < *first) {
                *failed = Some((i, error));
            }
        }
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}
