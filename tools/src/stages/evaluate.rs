//! Stage: measure the bundle, and give it its quality and its card.

use rissole::bundle::Bundle;
use rissole::{Error, Result};

use super::{INTERRUPTED, Run, Stage};
use crate::evaluate::kid::Subsets;
use crate::evaluate::{self, EvaluateArgs, SplitArgs};
use crate::export::bundle::describe_bundle;

/// File name of the sample grid, in the report's folder and in the bundle.
pub(super) const SAMPLES: &str = "samples.png";

impl Run {
    pub(super) fn evaluate(&self) -> Result<()> {
        let data = &self.recipe.data;
        let subsets = Subsets::default();
        let out = self.dir.join("report");
        let report = evaluate::run(
            &EvaluateArgs {
                model: self.bundle_dir.clone(),
                data: self.product(Stage::Prepare),
                split: SplitArgs {
                    validation: data.validation,
                    split_seed: data.split_seed,
                    hold_out_last: data.hold_out_last,
                },
                samples: self.recipe.evaluation.samples,
                settings: self.recipe.evaluation.samplers.clone(),
                exclude_self: None,
                seed: 0,
                features: self.features.clone(),
                kid_subsets: subsets.count,
                kid_subset_size: subsets.size,
                curves: self.training_stages().map(|stage| self.curve(stage)).collect(),
                out: out.clone(),
            },
            &INTERRUPTED,
        )?;
        let curves = self.training_stages().map(|stage| format!("{}.svg", stage.name()));
        let names = curves.chain([SAMPLES.to_owned()]);
        let read = |name: String| {
            let path = out.join(&name);
            std::fs::read(&path).map(|bytes| (name, bytes)).map_err(|e| Error::io(&path, e))
        };
        let pictures = names.map(read).collect::<Result<Vec<_>>>()?;
        let manifest = Bundle::open(&self.bundle_dir)?.manifest;
        describe_bundle(&self.bundle_dir, report.quality(), &self.card(&manifest, Some(&report))?, &pictures)
    }
}
