//! How a picture is drawn within a RAM budget: which networks are held at once, and by how many threads.

use serde::Serialize;

use super::networks::{Load, Measured, WORKER_STACK};

/// A way of drawing a picture, and the bytes that it takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Blocks evaluated at once.
    pub threads: usize,
    /// Which networks are held at once.
    pub residency: Residency,
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

/// What conditioner, denoiser and decoder took when they were tried.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trial {
    pub base: u64,
    pub sampling: [Measured; 2],
    pub decoding: Measured,
}

impl Trial {
    /// The plans, best first: with every number of threads from `threads` down to one, the networks together, then
    /// stage by stage. `load` says what so many threads have at work.
    pub fn plans(&self, threads: usize, load: impl Fn(usize) -> Load) -> Vec<Plan> {
        let both = [Residency::Together, Residency::StageByStage];
        let pairs = (1..=threads).rev().flat_map(|threads| both.map(|residency| (threads, residency)));
        pairs.map(|(threads, residency)| self.plan(threads, residency, load(threads))).collect()
    }

    fn plan(&self, threads: usize, residency: Residency, load: Load) -> Plan {
        let Load { workers, walk, picture } = load;
        let stacks = (workers.saturating_sub(1) * WORKER_STACK) as u64;
        let held = |networks: &[Measured], workers| networks.iter().map(|n| n.held(workers)).sum::<u64>();
        let alone = [held(&self.sampling, workers), held(&[self.decoding], 1)];
        let held = match residency {
            Residency::Together => [alone[0].saturating_add(alone[1]); 2],
            Residency::StageByStage => alone,
        };
        let peaks = self.sampling.map(|network| network.peak(workers, walk.saturating_add(stacks)));
        let [sample, decode] = [peaks[0].max(peaks[1]), self.decoding.peak(1, picture)];
        let stage = |name, held, peak| PlannedStage { name, held, peak };
        let stages = [stage("sample", held[0], sample), stage("decode", held[1], decode)];
        Plan { threads, residency, base: self.base, stages }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial() -> Trial {
        let network = |loaded, workspace| Measured { loaded, load: 3 * loaded, workspace, run: 5 };
        Trial { base: 1000, sampling: [network(10, 100), network(40, 200)], decoding: network(20, 600) }
    }

    #[test]
    fn what_is_held_adds_up_and_what_comes_and_goes_does_not() {
        let load = |threads| Load { workers: threads, walk: 7, picture: 50 };
        let plans = trial().plans(2, load);
        let order: Vec<_> = plans.iter().map(|plan| (plan.threads, plan.residency)).collect();
        assert_eq!(order[0], (2, Residency::Together));
        assert_eq!(order[3], (1, Residency::StageByStage));
        let [sample, decode] = plans[3].stages;
        assert_eq!((sample.held, sample.peak), (10 + 100 + 40 + 200, 5 + 7));
        assert_eq!((decode.held, decode.peak), (20 + 600, 5 + 50));
        assert_eq!(plans[3].needs(), 1000 + 620 + 55);
        let stacks = WORKER_STACK as u64;
        let [sample, decode] = plans[0].stages;
        assert_eq!((sample.held, decode.held), (50 + 600 + 620, 50 + 600 + 620));
        assert_eq!((sample.peak, decode.peak), (2 * 5 + 7 + stacks, 55));
        assert!(plans.windows(2).all(|pair| pair[0].needs() >= pair[1].needs()));
    }

    #[test]
    fn a_network_that_swells_while_it_is_loaded_counts_so() {
        let network = Measured { loaded: 10, load: 500, workspace: 4, run: 1 };
        assert_eq!(network.held(3) + network.peak(3, 0), 500);
        let absurd = Measured { loaded: u64::MAX, load: u64::MAX, workspace: u64::MAX, run: u64::MAX };
        assert_eq!((absurd.held(9), absurd.peak(9, 1)), (u64::MAX, u64::MAX));
    }
}
