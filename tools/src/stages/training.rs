//! The loop of every stage that trains: progress bar, curve, checkpoints, Ctrl-C.

use std::path::PathBuf;

use rissole::{Error, Result};

use super::curve::Curve;
use super::{Run, Stage, interrupted, progress};
use crate::train::Trainer;
use crate::train::checkpoint::Checkpoint;
use crate::train::group::Group;

/// Steps between two rows of the curve.
const REPORT_EVERY: u64 = 50;
/// Steps between two checkpoints.
const SAVE_EVERY: u64 = 250;

/// A trainer with its data.
pub(super) trait Training {
    /// What a step measures: the columns of the curve, the first of them shown beside the bar.
    const MEASURES: &'static [&'static str];

    /// What is trained.
    fn trainer(&self) -> &dyn Trainer;

    /// One step. `saved_after` it, the trainer's state must be that of a run that goes on from a checkpoint.
    fn advance(&mut self, saved_after: bool) -> Result<Vec<f64>>;
}

impl Run {
    /// Trains until `steps` are done.
    ///
    /// # Errors
    /// [`Error::Interrupted`] after Ctrl-C, with a checkpoint saved; [`Error::Usage`] when a measure is not finite.
    pub(super) fn train<T: Training>(&self, stage: Stage, mut training: T, steps: u64) -> Result<()> {
        let (name, path) = (stage.name(), self.product(stage));
        let (parameters, from) = (training.trainer().parameters(), training.trainer().step());
        log::info!("{name}: {parameters} parameters, from step {from}");
        let header = format!("step,{}", T::MEASURES.join(","));
        let alone = Group::alone();
        let group = if stage.is_shared() { &self.group } else { &alone };
        let leads = group.leads();
        let mut curve = leads.then(|| Curve::open(&self.curve(stage), &header, from)).transpose()?;
        let bar = if leads { progress(name, steps) } else { indicatif::ProgressBar::hidden() };
        let mut sums = vec![0.0; T::MEASURES.len()];
        for step in from + 1..=steps {
            // All stop at the same step, whoever was interrupted.
            let interrupted = group.any(interrupted())?;
            let saves = step == steps || step.is_multiple_of(SAVE_EVERY) || interrupted;
            let measured = training.advance(saves)?;
            if !measured.iter().all(|v| v.is_finite()) {
                return Err(Error::Usage(format!("{name}: the loss is not finite at step {step}")));
            }
            sums.iter_mut().zip(measured).for_each(|(sum, v)| *sum += v);
            bar.set_position(step);
            if step.is_multiple_of(REPORT_EVERY) {
                let means: Vec<f64> = sums.iter().map(|s| s / REPORT_EVERY as f64).collect();
                curve.as_mut().map_or(Ok(()), |curve| curve.add(step, &means))?;
                let shown = format!("{} {:.4}", T::MEASURES[0], means[0]);
                log::debug!("{name} step {step}: {shown}");
                bar.set_message(shown);
                sums.fill(0.0);
            }
            if saves {
                if leads {
                    training.trainer().save(&path)?;
                }
                if interrupted && step < steps {
                    return Err(Error::Interrupted);
                }
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// The curve of a stage that trains.
    pub(super) fn curve(&self, stage: Stage) -> PathBuf {
        self.dir.join(format!("{}.csv", stage.name()))
    }

    /// The stages of this recipe that train, in order.
    pub(super) fn training_stages(&self) -> impl Iterator<Item = Stage> {
        [Stage::Vqgan, Stage::Denoiser, Stage::Consistency, Stage::Decoder].into_iter().filter(|&s| self.has(s))
    }

    /// Steps that the checkpoint of a stage has done.
    pub(super) fn steps_done(&self, stage: Stage) -> Result<u64> {
        Ok(Checkpoint::load(&self.product(stage))?.map_or(0, |checkpoint| checkpoint.step))
    }
}
