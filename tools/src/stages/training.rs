//! The loop of every stage that trains: progress bar, curve, checkpoints, Ctrl-C.

use std::path::{Path, PathBuf};

use rissole::{Error, Result};

use super::curve::Curve;
use super::{Run, Stage, interrupted, progress};
use crate::train::Trainer;
use crate::train::checkpoint::Checkpoint;
use crate::train::measures::KEPT;

/// Steps between two rows of the curve. Only then, and before a checkpoint, is a device waited for, unless gradients go
/// over TCP.
const REPORT_EVERY: u64 = 50;
const _: () = assert!(REPORT_EVERY <= KEPT as u64);
/// Steps after which processes that train together ask each other whether one was interrupted.
const ASK_EVERY: u64 = 10;
/// Steps between two checkpoints.
const SAVE_EVERY: u64 = 250;

/// A trainer with its data.
pub(super) trait Training {
    /// What is trained.
    fn trainer(&mut self) -> &mut dyn Trainer;

    /// One step.
    fn advance(&mut self) -> Result<()>;
}

impl Run {
    /// Trains until `steps` are done.
    ///
    /// # Errors
    /// [`Error::Interrupted`] after Ctrl-C, with a checkpoint saved; [`Error::Usage`] when a measure or a weight is not
    /// finite or the loss has gone [`astray`](Losses::astray), and then the checkpoint stays the last good one.
    pub(super) fn train<T: Training>(&self, stage: Stage, mut training: T, steps: u64) -> Result<()> {
        let (name, path) = (stage.name(), self.product(stage));
        let trainer = training.trainer();
        let (parameters, from, measures) = (trainer.parameters(), trainer.step(), trainer.measures());
        log::info!("{name}: {parameters} parameters, from step {from}");
        let header = format!("step,{}", measures.join(","));
        let (group, leads) = (&self.group, self.group.leads());
        let mut curve = leads.then(|| Curve::open(&self.curve(stage), &header, from)).transpose()?;
        let bar = if leads { progress(name, steps) } else { indicatif::ProgressBar::hidden() };
        let (mut rows, mut saved, mut losses) = (vec![], from, Losses::default());
        for step in from + 1..=steps {
            // All stop at the same step, whoever was interrupted.
            let asks = group.is_alone() || step.is_multiple_of(ASK_EVERY);
            let interrupted = asks && group.any(interrupted())?;
            let saves = step == steps || step.is_multiple_of(SAVE_EVERY) || interrupted;
            training.advance()?;
            bar.set_position(step);
            let reports = step.is_multiple_of(REPORT_EVERY);
            if reports || saves {
                rows.extend(measured(training.trainer(), saved, &path)?);
            }
            if reports {
                let means = means(&rows, measures.len());
                if losses.astray(means[0]) {
                    let what = format!("the loss is {:.3}, {}", means[0], Losses::ASTRAY);
                    return Err(diverged(&what, step, saved, &path));
                }
                curve.as_mut().map_or(Ok(()), |curve| curve.add(step, &means))?;
                let shown = format!("{} {:.4}", measures[0], means[0]);
                log::debug!("{name} step {step}: {shown}");
                bar.set_message(shown);
                rows.clear();
            }
            if saves {
                let outcome = if leads { save(training.trainer(), &path, step, saved) } else { Ok(()) };
                // The others neither go on without the one that saves nor end before it has.
                if group.any(outcome.is_err())? {
                    outcome?;
                    return Err(Error::Usage(format!("{name}: the process that leads could not save step {step}")));
                }
                saved = step;
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

/// What the steps since the last call measured, the last save before them at the step `saved`, unless it is no number.
fn measured(trainer: &mut dyn Trainer, saved: u64, path: &Path) -> Result<Vec<Vec<f64>>> {
    let measured = trainer.measured()?;
    let first = trainer.step() + 1 - measured.len() as u64;
    for (step, row) in (first..).zip(&measured) {
        if let Some(wrong) = row.iter().find(|v| !v.is_finite()) {
            return Err(diverged(&format!("the loss is {wrong}"), step, saved, path));
        }
    }
    Ok(measured)
}

/// Losses of a run, from report to report.
#[derive(Debug, Default)]
struct Losses {
    /// The first and the lowest.
    seen: Option<(f64, f64)>,
}

impl Losses {
    const ASTRAY: &str = "more than at first, and over ten times its lowest";

    /// Whether training that had come to something has lost it: `loss` is worse than where this run began, and ten times
    /// worse than the best.
    fn astray(&mut self, loss: f64) -> bool {
        let (first, lowest) = self.seen.unwrap_or((loss, loss));
        self.seen = Some((first, lowest.min(loss)));
        loss > first && loss > 10.0 * lowest
    }
}

/// The mean of each column.
fn means(rows: &[Vec<f64>], columns: usize) -> Vec<f64> {
    (0..columns).map(|column| rows.iter().map(|row| row[column]).sum::<f64>() / rows.len() as f64).collect()
}

/// Saves a trainer, the last save of which was at the step `saved`, unless its weights are no numbers.
fn save(trainer: &dyn Trainer, path: &Path, step: u64, saved: u64) -> Result<()> {
    let checkpoint = trainer.checkpoint()?;
    if !checkpoint.is_finite() {
        return Err(diverged("the weights are no numbers", step, saved, path));
    }
    checkpoint.save(path)
}

/// What became of a run that went astray in `step`, with a checkpoint of the step `saved` at `path`, or none.
fn diverged(what: &str, step: u64, saved: u64, path: &Path) -> Error {
    let kept = match saved {
        0 => "no checkpoint was saved before".to_owned(),
        _ => format!("{} holds step {saved}, the last good one", path.display()),
    };
    Error::Usage(format!("training diverged: {what} at step {step}; {kept}. A lower rate or a longer warm-up may help"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::features::FeatureArgs;
    use crate::random::Random;
    use crate::recipe::Recipe;
    use clap::Parser;

    /// As the command line wraps the feature network.
    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        features: FeatureArgs,
    }

    /// Training with these losses by step, whose weight is no number from a step on.
    struct Failing {
        step: u64,
        losses: Vec<f64>,
        loss: fn(u64) -> f64,
        weight_fails: u64,
    }

    impl Trainer for Failing {
        fn parameters(&self) -> usize {
            1
        }

        fn step(&self) -> u64 {
            self.step
        }

        fn measures(&self) -> &'static [&'static str] {
            &["loss"]
        }

        fn measured(&mut self) -> Result<Vec<Vec<f64>>> {
            Ok(self.losses.drain(..).map(|loss| vec![loss]).collect())
        }

        fn checkpoint(&self) -> Result<Checkpoint> {
            let mut checkpoint = Checkpoint::new(self.step, String::new(), &Random::new(1));
            let weight = if self.step >= self.weight_fails { f32::INFINITY } else { 1.0 };
            checkpoint.tensors.insert("weight".into(), vec![weight]);
            Ok(checkpoint)
        }
    }

    impl Training for Failing {
        fn trainer(&mut self) -> &mut dyn Trainer {
            self
        }

        fn advance(&mut self) -> Result<()> {
            self.step += 1;
            self.losses.push((self.loss)(self.step));
            Ok(())
        }
    }

    #[test]
    fn training_that_diverges_keeps_the_last_good_checkpoint() {
        let runs = std::env::temp_dir().join(format!("rissole-diverging-{}", std::process::id()));
        let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/recipes/pictures64.toml");
        let recipe = Recipe::load(Path::new(recipe)).unwrap();
        let features = Cli::try_parse_from(["run"]).unwrap().features;
        let run = Run::new(recipe, &runs, None, features).unwrap();
        let train = |loss, weight_fails| {
            let training = Failing { step: 0, losses: vec![], loss, weight_fails };
            run.train(Stage::Denoiser, training, 1000).unwrap_err().to_string()
        };
        let none = train(|step| if step < 7 { 1.0 } else { f64::NAN }, u64::MAX);
        assert!(none.contains("NaN at step 7") && none.contains("no checkpoint"), "{none}");
        let after = train(|step| if step < SAVE_EVERY + 7 { 1.0 } else { f64::NAN }, u64::MAX);
        assert!(after.contains(&format!("denoiser.ckpt holds step {SAVE_EVERY}")), "{after}");
        let weights = train(|_| 1.0, SAVE_EVERY + 7);
        assert!(weights.contains(&format!("step {}", 2 * SAVE_EVERY)), "{weights}");
        let kept = Checkpoint::load(&run.product(Stage::Denoiser)).unwrap().unwrap();
        assert_eq!((kept.step, kept.is_finite()), (SAVE_EVERY, true));
        // Ten times its best is no divergence below where it began.
        let lost = train(|step| [1.0, 0.02, 0.9, 1.1][(step / 200).min(3) as usize], u64::MAX);
        assert!(lost.contains("the loss is 1.1") && lost.contains("ten times its lowest at step 650; "), "{lost}");
        std::fs::remove_dir_all(&runs).unwrap();
    }
}
