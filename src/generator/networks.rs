//! Which networks are in RAM, and whether they fit.

use std::time::Instant;

use super::plan::{Plan, Residency, Trial};
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

/// RAM that one network took when it was tried, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    /// Of the network itself.
    pub loaded: u64,
    /// Peak of loading it.
    pub load: u64,
    /// What a run leaves behind, the memory it worked in: every worker will have left behind as much.
    pub workspace: u64,
    /// More, while a run lasts.
    pub run: u64,
}

/// What is neither network nor array, generously: lists of neighbours and positions, threads, events, the report. Measured:
/// 1.6 KiB with one thread, 1.9 KiB with two.
const SUNDRIES: u64 = 8 << 10;

impl Measured {
    /// While it is held and `workers` run it.
    pub fn held(&self, workers: usize) -> u64 {
        self.loaded.saturating_add(self.workspace.saturating_mul(workers as u64))
    }

    /// More, at the peak of loading it or of `workers` running it with `more` bytes in use beside it.
    pub fn peak(&self, workers: usize, more: u64) -> u64 {
        let run = self.run.saturating_mul(workers as u64).saturating_add(more);
        run.max(self.load.saturating_sub(self.held(workers)))
    }
}

impl Networks {
    /// The networks of `bundle`, all in RAM, with the memory for a run of each.
    ///
    /// # Errors
    /// As [`Network::open`] and [`Network::run`].
    pub fn open(bundle: &Bundle, load: Load) -> Result<Self> {
        let mut networks = Self::new(bundle, None, load, true);
        networks.hold(Stage::Sample)?;
        networks.hold(Stage::Decode)?;
        let held = [&networks.conditioner, &networks.denoiser, &networks.decoder];
        held.into_iter().flatten().try_for_each(Network::reserve)?;
        Ok(networks)
    }

    /// The networks of `bundle`, loaded as `plan` says when they are needed, within `budget` bytes.
    pub fn planned(bundle: &Bundle, budget: u64, load: Load, plan: &Plan) -> Self {
        Self::new(bundle, Some(budget), load, plan.residency == Residency::Together)
    }

    fn new(bundle: &Bundle, budget: Option<u64>, load: Load, together: bool) -> Self {
        Self {
            bundle: bundle.clone(),
            budget,
            load,
            together,
            encoder_fits: false,
            conditioner: None,
            denoiser: None,
            decoder: None,
            encoder: None,
            seconds: 0.0,
        }
    }

    /// Has the networks of `stage` in RAM, giving up those that do not fit beside them.
    ///
    /// # Errors
    /// As [`Network::open`]; [`Error::Usage`] for the encoder of a bundle without one; [`Error::Budget`] where
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

    /// The encoder is held alone where there is a budget, and looked at when it is first needed.
    fn check_encoder(&mut self) -> Result<()> {
        let entry = encoder_entry(&self.bundle)?.clone();
        if self.budget.is_some() && !self.encoder_fits {
            let base = budget::live_bytes();
            let cost = measure(&self.bundle, &entry)?;
            let needs = base.saturating_add(cost.held(1)).saturating_add(cost.peak(1, self.load.picture));
            budget::check(needs, self.budget)?;
            self.encoder_fits = true;
        }
        Ok(())
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

/// What conditioner, denoiser and decoder of `bundle` take: each is loaded, made ready for a run and let go.
///
/// # Errors
/// As [`Network::open`] and [`Network::run`].
pub(super) fn try_out(bundle: &Bundle) -> Result<Trial> {
    let base = budget::live_bytes() + SUNDRIES;
    let entries = &bundle.manifest.networks;
    let sampling = [measure(bundle, &entries.conditioner)?, measure(bundle, &entries.denoiser)?];
    Ok(Trial { base, sampling, decoding: measure(bundle, &entries.decoder)? })
}

/// Loads a network, makes it ready for a run and lets it go.
fn measure(bundle: &Bundle, entry: &NetworkEntry) -> Result<Measured> {
    let base = budget::live_bytes();
    let (network, load_peak) = budget::peak_of(|| Network::open(bundle, entry));
    let network = network?;
    let loaded = budget::live_bytes();
    let (ready, run_peak) = budget::peak_of(|| network.reserve());
    ready?;
    let after = budget::live_bytes().max(loaded);
    Ok(Measured {
        loaded: loaded.saturating_sub(base),
        load: load_peak.saturating_sub(base),
        workspace: after - loaded,
        run: run_peak.saturating_sub(after),
    })
}

fn ensure(slot: &mut Option<Network>, bundle: &Bundle, entry: &NetworkEntry) -> Result<()> {
    if slot.is_none() {
        *slot = Some(Network::open(bundle, entry)?);
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
