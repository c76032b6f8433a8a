//! How a picture is drawn within a RAM budget: which networks are held at once, in what tiles it is decoded, and by how
//! many threads it is drawn.

use std::fmt;

use serde::Serialize;

use super::networks::{Beside, Load, Measured, Runs};
use crate::threads::Threads;

/// A way of drawing a picture, and the bytes that it takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Threads that draw.
    pub threads: usize,
    /// Which networks are held at once.
    pub residency: Residency,
    /// Side of the tiles that are decoded one after the other, in pixels; `None` where the picture is decoded at once.
    pub tile: Option<usize>,
    /// Bytes held all the time: the program, database and index as far as they are in the heap, and 8 KiB for what is
    /// neither network nor array.
    pub base: u64,
    /// Sampling and decoding.
    pub stages: [PlannedStage; 2],
}

/// Which networks are held at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Residency {
    /// All that a picture needs.
    Together,
    /// Those of one stage; each is loaded again for the next picture.
    StageByStage,
}

/// Bytes of one stage beyond [`Plan::base`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PlannedStage {
    /// `sample` (conditioner and denoiser) or `decode` (decoder).
    pub name: &'static str,
    /// Networks and the memory that they work in.
    pub held: u64,
    /// More, at the peak of loading or running one of them.
    pub peak: u64,
}

impl Plan {
    /// Bytes of heap and worker stacks that it takes at most.
    pub fn needs(&self) -> u64 {
        let most = self.stages.iter().map(|stage| stage.held.saturating_add(stage.peak)).max().unwrap_or(0);
        self.base.saturating_add(most)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = match self.residency {
            Residency::Together => "all networks together",
            Residency::StageByStage => "stage by stage",
        };
        write!(f, "by {} thread(s), {held}", self.threads)?;
        match self.tile {
            Some(side) => write!(f, ", decoded in tiles of {side} pixels"),
            None => Ok(()),
        }
    }
}

/// What conditioner, denoiser and decoder took when they were tried.
#[derive(Debug, Clone)]
pub(super) struct Trial {
    pub base: u64,
    pub sampling: [Measured; 2],
    /// At once, then in smaller and smaller tiles.
    pub decoding: Vec<Decoding>,
}

/// What the decoder takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Decoding {
    /// Side of the tiles; `None`: the whole picture at once.
    pub tile: Option<usize>,
    /// The run includes what it gives.
    pub cost: Measured,
}

impl Trial {
    /// The plans, best first, each of which needs less than those before it. `load` says what so many threads have at
    /// work.
    ///
    /// Best is what costs least time, since the pixels are the same: one stage in RAM at a time costs loading networks
    /// again, milliseconds; tiles cost their overlap, part of the time of decoding and more the smaller they are; a
    /// thread less costs most, as the sampling lasts so much longer.
    pub fn plans(&self, threads: usize, load: impl Fn(usize) -> Load) -> Vec<Plan> {
        let mut plans: Vec<Plan> = vec![];
        for threads in (1..=threads).rev() {
            for &decoding in &self.decoding {
                for residency in [Residency::Together, Residency::StageByStage] {
                    let plan = self.plan(threads, residency, decoding, load(threads));
                    if plans.last().is_none_or(|last| plan.needs() < last.needs()) {
                        plans.push(plan);
                    }
                }
            }
        }
        plans
    }

    fn plan(&self, threads: usize, residency: Residency, decoding: Decoding, load: Load) -> Plan {
        let Load { blocks, walk, latent, picture, .. } = load;
        let Decoding { tile, cost: decoding } = decoding;
        let beside = |running: u64| Beside::while_running(running.saturating_add(Threads::bytes(threads)));
        let [sampling, once] = [blocks, 1].map(|at_once| Runs { at_once, threads });
        let alone = [self.sampling.iter().map(|n| n.held(sampling)).sum::<u64>(), decoding.held(once)];
        let held = match residency {
            Residency::Together => [alone[0].saturating_add(alone[1]); 2],
            Residency::StageByStage => alone,
        };
        let peaks = self.sampling.map(|network| network.peak(sampling, beside(walk)));
        let mut sample = peaks[0].max(peaks[1]);
        let decode = decoding.peak(once, Beside { loading: latent, ..beside(picture) });
        if residency == Residency::Together {
            // A preview, between two steps.
            sample = sample.max(decoding.peak(once, beside(picture.saturating_add(walk))));
        }
        let stage = |name, held, peak| PlannedStage { name, held, peak };
        let stages = [stage("sample", held[0], sample), stage("decode", held[1], decode)];
        Plan { threads, residency, tile, base: self.base, stages }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of four blocks.
    fn load(threads: usize) -> Load {
        Load { blocks: threads.min(4), walk: 7, latent: 11, picture: 50, planes: 9 }
    }

    fn trial() -> Trial {
        let network =
            |loaded, workspace| Measured { loaded, load: 3 * loaded, workspace, thread: workspace / 10, run: 5 };
        let whole = Decoding { tile: None, cost: network(20, 600) };
        let tiles = Decoding { tile: Some(32), cost: network(25, 150) };
        Trial { base: 1000, sampling: [network(10, 100), network(40, 200)], decoding: vec![whole, tiles] }
    }

    #[test]
    fn what_is_held_adds_up_and_what_comes_and_goes_does_not() {
        let plan = |threads, residency, i: usize| trial().plan(threads, residency, trial().decoding[i], load(threads));
        let [sample, decode] = plan(1, Residency::StageByStage, 0).stages;
        assert_eq!((sample.held, sample.peak), (10 + 100 + 40 + 200, 5 + 7));
        assert_eq!((decode.held, decode.peak), (20 + 600, 5 + 50));
        assert_eq!(plan(1, Residency::StageByStage, 0).needs(), 1000 + 620 + 55);
        let stacks = Threads::bytes(2);
        let [sample, decode] = plan(2, Residency::Together, 0).stages;
        assert_eq!((sample.held, decode.held), (50 + 600 + 620 + 60, 50 + 600 + 620 + 60), "two share the decoding");
        assert_eq!((sample.peak, decode.peak), (5 + 50 + 7 + stacks, 55 + stacks));
        let [sample, _] = plan(6, Residency::StageByStage, 0).stages;
        assert_eq!(sample.held, 50 + 4 * 300 + 2 * 30, "six share four blocks");
        let [sample, _] = plan(1, Residency::Together, 0).stages;
        assert_eq!(sample.peak, 5 + 50 + 7, "of a preview");
        let [_, decode] = plan(1, Residency::StageByStage, 1).stages;
        assert_eq!((decode.held, decode.peak), (25 + 150, 5 + 50));
    }

    #[test]
    fn a_plan_that_costs_more_time_needs_less() {
        let order = |threads| -> Vec<_> {
            let plans = trial().plans(threads, load);
            assert!(plans.windows(2).all(|pair| pair[0].needs() > pair[1].needs()));
            plans.iter().map(|plan| (plan.threads, plan.residency, plan.tile)).collect()
        };
        use Residency::{StageByStage, Together};
        // Together in tiles needs less than one stage at a time without them: the decoder is the largest.
        let alone =
            [(1, Together, None), (1, StageByStage, None), (1, Together, Some(32)), (1, StageByStage, Some(32))];
        assert_eq!(order(1), alone);
        // With stacks in either stage.
        let two = [(2, Together, None), (2, StageByStage, None), (2, StageByStage, Some(32))];
        assert_eq!(order(2), [&two[..], &alone].concat());
    }

    #[test]
    fn a_network_that_swells_while_it_is_loaded_counts_so() {
        let network = Measured { loaded: 10, load: 500, workspace: 4, thread: 2, run: 1 };
        let runs = Runs { at_once: 3, threads: 9 };
        assert_eq!(
            network.held(runs) + network.peak(runs, Beside { loading: 7, running: 0 }),
            507,
            "beside what waits meanwhile"
        );
        let most = u64::MAX;
        let absurd = Measured { loaded: most, load: most, workspace: most, thread: most, run: most };
        assert_eq!((absurd.held(runs), absurd.peak(runs, Beside { loading: 1, running: 1 })), (most, most));
    }
}
