//! Which networks are in RAM, and whether they fit.

use std::time::Instant;

use super::plan::{Decoding, Plan, Residency, Trial};
use crate::budget;
use crate::bundle::Bundle;
use crate::bundle::manifest::NetworkEntry;
use crate::error::{Error, Result};
use crate::network::Network;

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
    pub blocks: usize,
    /// Bytes that the walk itself holds while it samples.
    pub walk: u64,
    /// Bytes of a latent, which waits while the decoder is loaded.
    pub latent: u64,
    /// Bytes of a picture and its latents on their way through encoder or decoder.
    pub picture: u64,
    /// Bytes of the picture in `f32`.
    pub planes: u64,
}

/// The networks of a bundle, loaded when they are needed.
#[derive(Debug)]
pub(super) struct Networks {
    /// With the budget that all is kept within, where there is one.
    bundle: Bundle,
    load: Load,
    /// Whether conditioner, denoiser and decoder fit together.
    together: bool,
    /// Side of the tiles that are decoded, where they are.
    tile: Option<usize>,
    /// Whether the encoder has been found to fit.
    encoder_fits: bool,
    conditioner: Option<Network>,
    denoiser: Option<Network>,
    decoder: Option<Network>,
    encoder: Option<Network>,
    seconds: f64,
}

/// Runs of a network.
#[derive(Debug, Clone, Copy)]
pub(super) struct Runs {
    /// How many there are at once.
    pub at_once: usize,
    /// How many threads they share.
    pub threads: usize,
}

impl Runs {
    /// One, by one thread.
    pub fn one() -> Self {
        Self { at_once: 1, threads: 1 }
    }
}

/// Bytes in use beside a network that are neither held nor its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Beside {
    /// While it is loaded.
    pub loading: u64,
    /// While it runs.
    pub running: u64,
}

impl Beside {
    /// Nothing while it is loaded.
    pub fn while_running(running: u64) -> Self {
        Self { loading: 0, running }
    }
}

/// RAM that one network took when it was tried, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    /// Of the network itself.
    pub loaded: u64,
    /// Peak of loading it.
    pub load: u64,
    /// What a run by one thread leaves behind, the memory it worked in.
    pub workspace: u64,
    /// What each more thread of a run leaves behind.
    pub thread: u64,
    /// More, while a run lasts.
    pub run: u64,
}

/// What is neither network nor array, generously: lists of neighbours and positions, threads, events, the report. Measured:
/// 1.6 KiB with one thread, 1.9 KiB with two.
const SUNDRIES: u64 = 8 << 10;

impl Measured {
    /// While it is held, and so many runs of it share so many threads.
    pub fn held(&self, Runs { at_once, threads }: Runs) -> u64 {
        let workspaces = self.workspace.saturating_mul(at_once as u64);
        let more = self.thread.saturating_mul(threads.saturating_sub(at_once) as u64);
        self.loaded.saturating_add(workspaces).saturating_add(more)
    }

    /// More, at the peak of loading or running it.
    pub fn peak(&self, runs: Runs, beside: Beside) -> u64 {
        let run = self.run.saturating_mul(runs.at_once as u64).saturating_add(beside.running);
        run.max(self.load.saturating_add(beside.loading).saturating_sub(self.held(runs)))
    }
}

impl Networks {
    /// The networks of `bundle`, all in RAM, with the memory for a run of each.
    ///
    /// # Errors
    /// As [`Network::open`] and [`Network::run`].
    pub fn open(bundle: Bundle, load: Load) -> Result<Self> {
        let mut networks = Self::new(bundle, load, true, None);
        networks.hold(Stage::Sample)?;
        networks.hold(Stage::Decode)?;
        let held = [&networks.conditioner, &networks.denoiser, &networks.decoder];
        held.into_iter().flatten().try_for_each(Network::reserve)?;
        Ok(networks)
    }

    /// The networks of `bundle`, loaded as `plan` says when they are needed, within its budget.
    pub fn planned(bundle: Bundle, load: Load, plan: &Plan) -> Self {
        Self::new(bundle, load, plan.residency == Residency::Together, plan.tile)
    }

    fn new(bundle: Bundle, load: Load, together: bool, tile: Option<usize>) -> Self {
        Self {
            bundle,
            load,
            together,
            tile,
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
        let Self { bundle, together, tile, conditioner, denoiser, decoder, encoder, .. } = self;
        let entries = &bundle.manifest.networks;
        match stage {
            Stage::Sample => {
                ensure(conditioner, bundle, &entries.conditioner)?;
                ensure(denoiser, bundle, &entries.denoiser)?;
                // For previews.
                if *together {
                    ensure_decoder(decoder, bundle, *tile)?;
                }
            }
            Stage::Decode => ensure_decoder(decoder, bundle, *tile)?,
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
        if self.bundle.budget.is_some() && !self.encoder_fits {
            let base = budget::live_bytes();
            let (_, cost) = measure(&self.bundle, &entry)?;
            let picture = self.load.picture.saturating_add(self.load.planes);
            let needs = base
                .saturating_add(cost.held(Runs::one()))
                .saturating_add(cost.peak(Runs::one(), Beside::while_running(picture)));
            budget::check(needs, self.bundle.budget)?;
            self.encoder_fits = true;
        }
        Ok(())
    }

    fn give_up_beside(&mut self, stage: Stage) {
        if self.bundle.budget.is_none() {
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

/// Sides of the smallest tiles, in pixels: smaller ones would be mostly overlap.
const SMALLEST_TILE: usize = 16;

/// What conditioner, denoiser and decoder of `bundle` take: each is loaded, asked what a run of it takes, or run where it
/// cannot tell, and let go.
///
/// # Errors
/// As [`Network::open`] and [`Network::run`].
pub(super) fn try_out(bundle: &Bundle) -> Result<Trial> {
    let base = budget::live_bytes() + SUNDRIES;
    let entries = &bundle.manifest.networks;
    let alone = |entry| measure(bundle, entry).map(|(_, cost)| cost);
    let sampling = [alone(&entries.conditioner)?, alone(&entries.denoiser)?];
    Ok(Trial { base, sampling, decoding: try_decoding(bundle)? })
}

/// What the decoder takes, at once and in tiles.
fn try_decoding(bundle: &Bundle) -> Result<Vec<Decoding>> {
    let entry = &bundle.manifest.networks.decoder;
    let (mut network, whole) = measure(bundle, entry)?;
    let passing = |network: &Network, run: u64| run.saturating_add(network.passing_bytes());
    let mut ways = vec![Decoding { tile: None, cost: Measured { run: passing(&network, whole.run), ..whole } }];
    for side in tile_sides(bundle) {
        let (cut, tiling) = budget::cost_of(|| network.cut(side));
        if let Err(why) = cut {
            log::info!("{} is not run in tiles: {why}", entry.file);
            break;
        }
        let cost = Measured {
            loaded: whole.loaded.saturating_add(tiling.kept),
            load: whole.load.max(whole.loaded.saturating_add(tiling.peak)),
            workspace: network.workspace_bytes().unwrap_or(whole.workspace),
            thread: network.thread_bytes(),
            run: passing(&network, 0),
        };
        ways.push(Decoding { tile: Some(side), cost });
    }
    Ok(ways)
}

/// The picture's longer side halved again and again, in whole latent cells.
fn tile_sides(bundle: &Bundle) -> impl Iterator<Item = usize> + use<> {
    let (image, cell) = (bundle.manifest.image, bundle.manifest.latent.downsampling);
    let halved = move |side: &usize| Some(side.div_ceil(2).next_multiple_of(cell)).filter(|half| half < side);
    let sides = std::iter::successors(Some(image.width.max(image.height)), halved);
    sides.skip(1).take_while(|side| *side >= SMALLEST_TILE)
}

/// A network, loaded, and what it takes. Only one run by tract is run to find out.
fn measure(bundle: &Bundle, entry: &NetworkEntry) -> Result<(Network, Measured)> {
    let (network, load) = budget::cost_of(|| Network::open(bundle, entry));
    let network = network?;
    let (workspace, run) = match network.workspace_bytes() {
        Some(workspace) => (workspace, 0),
        None => {
            let (ran, run) = budget::cost_of(|| network.warm_up());
            ran?;
            (run.kept, run.peak - run.kept)
        }
    };
    let thread = network.thread_bytes();
    Ok((network, Measured { loaded: load.kept, load: load.peak, workspace, thread, run }))
}

fn ensure(slot: &mut Option<Network>, bundle: &Bundle, entry: &NetworkEntry) -> Result<()> {
    if slot.is_none() {
        *slot = Some(Network::open(bundle, entry)?);
    }
    Ok(())
}

fn ensure_decoder(slot: &mut Option<Network>, bundle: &Bundle, tile: Option<usize>) -> Result<()> {
    if slot.is_none() {
        let mut decoder = Network::open(bundle, &bundle.manifest.networks.decoder)?;
        if let Some(side) = tile {
            decoder.cut(side).map_err(|why| Error::Internal(format!("the decoder is not cut: {why}")))?;
        }
        *slot = Some(decoder);
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
