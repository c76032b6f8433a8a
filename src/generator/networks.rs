//! Which networks are in RAM, and whether they fit.

use std::time::Instant;

use crate::budget;
use crate::bundle::Bundle;
use crate::bundle::manifest::NetworkEntry;
use crate::error::{Error, Result};
use crate::network::Network;

/// Stack of a worker thread in bytes; counted in the budget.
pub(super) const WORKER_STACK: usize = 1 << 20;

/// What a picture needs networks for, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The encoder.
    Encode,
    /// The conditioner and the denoiser.
    Sample,
    /// The decoder.
    Decode,
}

/// How much is at work at once; decides what RAM a stage takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    /// Blocks evaluated at once.
    pub workers: usize,
    /// Bytes that the walk itself holds while it samples.
    pub walk: u64,
    /// Bytes of a picture on its way through encoder or decoder.
    pub picture: u64,
}

/// The networks of a bundle, loaded when they are needed.
#[derive(Debug)]
pub(super) struct Networks {
    bundle: Bundle,
    budget: Option<u64>,
    load: Load,
    /// Whether conditioner, denoiser and decoder fit together.
    together: bool,
    /// Whether the encoder has been found to fit.
    encoder_fits: bool,
    conditioner: Option<Network>,
    denoiser: Option<Network>,
    decoder: Option<Network>,
    encoder: Option<Network>,
    seconds: f64,
}

/// RAM of one network in bytes.
#[derive(Debug, Clone, Copy)]
struct Cost {
    /// While it is held.
    held: u64,
    /// More, at the peak of loading or running it.
    extra: u64,
}

impl Networks {
    /// Loads conditioner, denoiser and decoder, runs each once, and decides what can stay in RAM together:
    /// without a budget (or without the counting allocator) everything.
    ///
    /// # Errors
    /// As [`Network::load`] and [`Network::run`]; [`Error::Budget`] where a stage alone does not fit.
    pub fn open(bundle: &Bundle, budget: Option<u64>, load: Load) -> Result<Self> {
        let budget = budget.filter(|_| budget::is_counting());
        let mut networks = Self {
            bundle: bundle.clone(),
            budget,
            load,
            together: true,
            encoder_fits: false,
            conditioner: None,
            denoiser: None,
            decoder: None,
            encoder: None,
            seconds: 0.0,
        };
        match budget {
            Some(budget) => networks.plan(budget)?,
            None => {
                networks.hold(Stage::Sample)?;
                networks.hold(Stage::Decode)?;
                let held = [&networks.conditioner, &networks.denoiser, &networks.decoder];
                held.into_iter().flatten().try_for_each(Network::warm_up)?;
            }
        }
        Ok(networks)
    }

    /// Has the networks of `stage` in RAM, giving up those that do not fit beside them.
    ///
    /// # Errors
    /// As [`Network::load`]; [`Error::Usage`] for the encoder of a bundle without one; [`Error::Budget`] where
    /// the encoder does not fit.
    pub fn hold(&mut self, stage: Stage) -> Result<()> {
        let started = Instant::now();
        self.give_up_beside(stage);
        if stage == Stage::Encode {
            self.check_encoder()?;
        }
        let Self { bundle, conditioner, denoiser, decoder, encoder, .. } = self;
        let entries = &bundle.manifest.networks;
        match stage {
            Stage::Sample => {
                ensure(conditioner, bundle, &entries.conditioner)?;
                ensure(denoiser, bundle, &entries.denoiser)?;
            }
            Stage::Decode => ensure(decoder, bundle, &entries.decoder)?,
            Stage::Encode => ensure(encoder, bundle, encoder_entry(bundle)?)?,
        }
        self.seconds += started.elapsed().as_secs_f64();
        Ok(())
    }

    /// Conditioner and denoiser, after [`Stage::Sample`] is held.
    pub fn sampling(&self) -> Result<(&Network, &Network)> {
        self.conditioner.as_ref().zip(self.denoiser.as_ref()).ok_or_else(not_held)
    }

    /// The decoder, if it is in RAM.
    pub fn decoder(&self) -> Option<&Network> {
        self.decoder.as_ref()
    }

    /// The encoder, after [`Stage::Encode`] is held.
    pub fn encoder(&self) -> Result<&Network> {
        self.encoder.as_ref().ok_or_else(not_held)
    }

    /// Seconds spent loading since this was last asked.
    pub fn take_seconds(&mut self) -> f64 {
        std::mem::take(&mut self.seconds)
    }

    /// Decides whether the stages fit `budget` together, or at least one by one.
    fn plan(&mut self, budget: u64) -> Result<()> {
        let started = Instant::now();
        let base = budget::live_bytes();
        let Load { workers, walk, picture } = self.load;
        let stacks = workers.saturating_sub(1) * WORKER_STACK;
        let entries = self.bundle.manifest.networks.clone();
        let sampling = [
            self.measure(&entries.conditioner, workers, walk + stacks as u64)?,
            self.measure(&entries.denoiser, workers, walk + stacks as u64)?,
        ];
        let decoding = [self.measure(&entries.decoder, 1, picture)?];
        budget::check(base + needs(&sampling).max(needs(&decoding)), Some(budget))?;
        let [conditioner, denoiser] = sampling;
        self.together = base + needs(&[conditioner, denoiser, decoding[0]]) <= budget;
        self.seconds += started.elapsed().as_secs_f64();
        Ok(())
    }

    /// The encoder is held alone where there is a budget, and looked at when it is first needed.
    fn check_encoder(&mut self) -> Result<()> {
        let entry = encoder_entry(&self.bundle)?.clone();
        if self.budget.is_some() && !self.encoder_fits {
            let base = budget::live_bytes();
            let cost = self.measure(&entry, 1, self.load.picture)?;
            budget::check(base + needs(&[cost]), self.budget)?;
            self.encoder_fits = true;
        }
        Ok(())
    }

    /// Loads a network, runs it once and lets it go. `workers` run it at once later; `more` bytes are then in
    /// use beside it.
    fn measure(&self, entry: &NetworkEntry, workers: usize, more: u64) -> Result<Cost> {
        let base = budget::live_bytes();
        let (network, load_peak) = budget::peak_of(|| Network::load(self.bundle.path_of(&entry.file), entry));
        let network = network?;
        let loaded = budget::live_bytes();
        let (ran, run_peak) = budget::peak_of(|| network.warm_up());
        ran?;
        let after = budget::live_bytes().max(loaded);
        // What a run leaves behind, the memory it worked in, every worker will have left behind.
        let left = (after - loaded).saturating_mul(workers as u64);
        let held = loaded.saturating_sub(base).saturating_add(left);
        let run = run_peak.saturating_sub(after).saturating_mul(workers as u64).saturating_add(more);
        Ok(Cost { held, extra: run.max(load_peak.saturating_sub(base).saturating_sub(held)) })
    }

    fn give_up_beside(&mut self, stage: Stage) {
        if self.budget.is_none() {
            return;
        }
        let apart = !self.together;
        if stage == Stage::Encode || (stage == Stage::Decode && apart) {
            (self.conditioner, self.denoiser) = (None, None);
        }
        if stage == Stage::Encode || (stage == Stage::Sample && apart) {
            self.decoder = None;
        }
        if stage != Stage::Encode {
            self.encoder = None;
        }
    }
}

/// Bytes for networks held together, of which one is loaded or run at a time.
fn needs(costs: &[Cost]) -> u64 {
    let held = costs.iter().fold(0u64, |sum, cost| sum.saturating_add(cost.held));
    held.saturating_add(costs.iter().map(|cost| cost.extra).max().unwrap_or(0))
}

fn ensure(slot: &mut Option<Network>, bundle: &Bundle, entry: &NetworkEntry) -> Result<()> {
    if slot.is_none() {
        *slot = Some(Network::load(bundle.path_of(&entry.file), entry)?);
    }
    Ok(())
}

fn encoder_entry(bundle: &Bundle) -> Result<&NetworkEntry> {
    let entry = bundle.manifest.networks.encoder.as_ref();
    entry.ok_or_else(|| Error::Usage("this bundle has no encoder, so it cannot take pictures in".into()))
}

fn not_held() -> Error {
    Error::Internal("a network is used that is not held".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_adds_up_and_what_comes_and_goes_does_not() {
        let cost = |held, extra| Cost { held, extra };
        assert_eq!(needs(&[cost(10, 5), cost(20, 7)]), 37);
        assert_eq!(needs(&[]), 0);
        assert_eq!(needs(&[cost(u64::MAX, 1), cost(1, 1)]), u64::MAX);
    }
}
