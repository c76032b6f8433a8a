//! The model card: what a bundle is, whose, and what was measured of it.

use std::fmt::Write;

use rissole::{Error, Manifest, Result};

use super::Run;
use super::evaluate::SAMPLES;
use crate::evaluate::measure::Row;
use crate::evaluate::report::Report;
use crate::evaluate::samples::Setting;

impl Run {
    /// The recipe's own words on its pictures; empty where it has none.
    pub(super) fn about(&self) -> Result<String> {
        let Some(path) = &self.recipe.about else { return Ok(String::new()) };
        std::fs::read_to_string(path).map(|text| text.trim().to_owned()).map_err(|e| Error::io(path, e))
    }

    /// The card of the bundle with `manifest`, with the measures of `report` once there is one.
    pub(super) fn card(&self, manifest: &Manifest, report: Option<&Report>) -> Result<String> {
        let mut card = format!("# {}\n{}\n\n", manifest.name, self.about()?);
        if report.is_some() {
            let setting = self.recipe.evaluation.samplers.first().copied().unwrap_or(Setting::default_of(manifest));
            let _ = writeln!(card, "![Samples: {}]({SAMPLES})\n", setting.resolved(manifest));
        }
        self.facts(&mut card, manifest)?;
        card.push_str("\n## Measured\n");
        match report {
            Some(report) => {
                measures(&mut card, report);
                card.push_str("\n## Training\n");
                for stage in self.training_stages() {
                    let _ = writeln!(card, "![Training curve: {0}]({0}.svg)\n", stage.name());
                }
            }
            None => card.push_str("Nothing yet.\n"),
        }
        Ok(card.trim_end().to_owned() + "\n")
    }

    fn facts(&self, card: &mut String, manifest: &Manifest) -> Result<()> {
        let Manifest { image, latent, retrieval, coherence, diffusion, .. } = manifest;
        let grid = manifest.block_grid()?;
        let blocks = |level| {
            let (rows, cols) = grid.level(level).rows_cols();
            format!("{rows}×{cols}")
        };
        let cells = match coherence.margin {
            1 => "1 cell".to_owned(),
            margin => format!("{margin} cells"),
        };
        let recipe = &self.recipe;
        let (vqgan, denoiser) = (&recipe.vqgan, &recipe.denoiser);
        let shape = latent.shape;
        let how = |on: bool, text: String| if on { text } else { String::new() };
        let consistency = recipe.consistency.as_ref().map_or_else(String::new, |tuning| {
            format!(", tuned for consistency {} steps of {} blocks", tuning.steps, tuning.batch)
        });
        let decoder = recipe.decoder.as_ref().map_or_else(String::new, |decoder| {
            format!(", decoder alone {} steps of {} pictures", decoder.steps, decoder.batch)
        });
        let facts = [
            ("Data", recipe.data.description.clone()),
            ("Licence", manifest.licence.clone()),
            ("Pictures", format!("{}×{} pixels", image.width, image.height)),
            (
                "Latent",
                format!("{}×{}×{}, codebook of {}", shape.channels, shape.height, shape.width, latent.codebook_size),
            ),
            (
                "Blocks",
                blocks(grid.finest())
                    + &how(coherence.thumbnail, ", a thumbnail drawn first".into())
                    + &(1..grid.finest()).map(|level| format!(", then {}", blocks(level))).collect::<String>()
                    + &how(coherence.margin > 0, format!(", each sees {cells} around it"))
                    + &how(denoiser.margin_through_unet, ", throughout the U-Net".into())
                    + &how(coherence.previous_block, ", each sees the one before".into()),
            ),
            (
                "Neighbours",
                format!("{}", retrieval.neighbours)
                    + &how(retrieval.exclude_self, ", never the picture itself (`exclude_self`)".into())
                    + &how(
                        denoiser.neighbour_dropout > 0.0,
                        format!(
                            ", none in {:.0} % of the training (takes `--guidance`)",
                            100.0 * denoiser.neighbour_dropout
                        ),
                    ),
            ),
            (
                "Diffusion",
                format!(
                    "{:?} prediction, {:?} schedule, {} timesteps; default {}",
                    diffusion.prediction,
                    diffusion.schedule,
                    diffusion.timesteps,
                    Setting::default_of(manifest).resolved(manifest)
                )
                .to_lowercase(),
            ),
            (
                "Training",
                format!(
                    "VQ-GAN {} steps of {} pictures, denoiser {} steps of {} blocks",
                    vqgan.steps, vqgan.batch, denoiser.steps, denoiser.batch
                ) + &consistency
                    + &decoder
                    + &format!("; recipe `{}.toml`, seed {}", recipe.name, recipe.seed),
            ),
        ];
        card.push_str("| | |\n|---|---|\n");
        for (name, fact) in facts {
            let _ = writeln!(card, "| {name} | {} |", fact.replace('|', "\\|"));
        }
        Ok(())
    }
}

fn measures(card: &mut String, report: &Report) {
    let network = report.features.as_ref().map_or_else(String::new, |f| format!(" Features: {}.", f.network));
    let _ = write!(
        card,
        "Against {} held-out pictures; samples from seed {} on.{network}\n\n\
         | pictures | number | Fréchet distance | KID × 1000 | seam ratio | beside real | copy distance |\n\
         |---|---|---|---|---|---|---|\n",
        report.held_out_pictures, report.seed
    );
    for row in &report.rows {
        let _ = writeln!(card, "{}", cells(row));
    }
    card.push_str(
        "\nSeam ratio: mean absolute pixel difference across block boundaries over that across other latent-cell \
         boundaries; beside it, the same over the real pictures'. Copy distance: RMS distance to the nearest database \
         picture over the same for held-out pictures; well under 1 is copying.\n",
    );
    for caveat in report.caveats() {
        let _ = writeln!(card, "\n{caveat}");
    }
}

fn cells(row: &Row) -> String {
    let cell = |text: Option<String>| text.unwrap_or_else(|| "–".into());
    format!(
        "| {} | {} | {} | {} | {} | {} | {} |",
        row.name,
        row.pictures,
        cell(row.frechet.map(|v| format!("{v:.2}"))),
        cell(row.kid.map(|k| format!("{:.2} ± {:.2}", k.mean * 1e3, k.std * 1e3))),
        cell(row.seam_ratio.map(|v| format!("{v:.3}"))),
        cell(row.seam_ratio_to_real.map(|v| format!("{v:.3}"))),
        cell(row.copy.map(|c| format!("{:.2} ({:.1} against {:.1} levels)", c.ratio, c.samples, c.held_out))),
    )
}
