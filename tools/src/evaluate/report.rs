//! The report of an evaluation: `report.json` for machines, `report.html` for people, one file each.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use image::RgbImage;
use rissole::atomic_file::write_atomically;
use rissole::{Error, Result};
use serde::Serialize;
use serde_json::Value;

use super::html;
use super::measure::{Kind, Row};
use super::sheet::sheet_png;

/// Everything a report says in numbers.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Name of the bundle.
    pub bundle: String,
    /// BLAKE3 of its manifest's list of files, which holds the hashes of them all.
    pub files_blake3: String,
    /// Where the pictures come from.
    pub data: String,
    /// Pictures in the training part, which the database is made of.
    pub training_pictures: usize,
    /// Pictures in the bundle's database.
    pub database_pictures: usize,
    /// Pictures held out: the reference set of every measure.
    pub held_out_pictures: usize,
    /// Seed of the split; `None` where the last pictures are held out.
    pub split_seed: Option<u64>,
    /// Seed of the first sample; the others follow.
    pub seed: u64,
    /// Whether a picture may not be its own neighbour.
    pub exclude_self: bool,
    /// The feature network, if there is one.
    pub features: Option<FeatureSummary>,
    /// The measures of each set; the held-out pictures last.
    pub rows: Vec<Row>,
}

/// What the features are.
#[derive(Debug, Clone, Serialize)]
pub struct FeatureSummary {
    /// File, output and input size.
    pub network: String,
    /// Values per picture.
    pub dim: usize,
    /// Hash of the network's file, output and preprocessing.
    pub id: String,
}

/// The pictures that a report shows.
#[derive(Debug, Clone, Default)]
pub struct Gallery {
    /// Samples of each setting: name and pictures.
    pub samples: Vec<(String, Vec<RgbImage>)>,
    /// Real pictures to compare with.
    pub real: Vec<RgbImage>,
    /// Held-out pictures and their reconstructions.
    pub reconstructions: Vec<(RgbImage, RgbImage)>,
    /// The samples nearest to the database, with the database picture and the RMS distance.
    pub suspects: Vec<(RgbImage, RgbImage, f64)>,
}

/// A training curve: names and points (step, value) of its columns.
pub type Curve = Vec<(String, Vec<(f64, f64)>)>;

impl Report {
    /// Writes `report.json` and `report.html` into `folder`, and for a model card `samples.png`, the grid of the
    /// first setting, and the curves as `NAME.svg`; each in one piece.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, folder: &Path, gallery: &Gallery, curves: &[(String, Curve)]) -> Result<()> {
        let json = serde_json::to_vec_pretty(self).map_err(|e| Error::Internal(e.to_string()))?;
        let page = html::page(self, gallery, curves)?;
        let write =
            |name: &str, bytes: &[u8]| write_atomically(folder.join(name), |out: &mut dyn Write| out.write_all(bytes));
        if let Some((_, images)) = gallery.samples.first() {
            let (images, columns) = html::sample_grid(images);
            write("samples.png", &sheet_png(images, columns)?)?;
        }
        for (name, curve) in curves {
            write(&format!("{name}.svg"), html::training_plot(name, curve).as_bytes())?;
        }
        write("report.json", &json)?;
        write("report.html", page.as_bytes())
    }

    /// The measures as a manifest's `quality` holds them, to four significant digits.
    pub fn quality(&self) -> BTreeMap<String, Value> {
        let mut quality: BTreeMap<String, Value> =
            self.rows.iter().map(|row| (row.name.clone(), Value::Object(measures(row)))).collect();
        if let Some(features) = &self.features {
            quality.insert("Features".to_owned(), features.network.clone().into());
        }
        quality
    }

    /// What is not in the report and why, and what weakens its numbers, in plain sentences.
    pub fn caveats(&self) -> Vec<String> {
        let mut caveats = Vec::new();
        if self.database_pictures != self.training_pictures {
            caveats.push(format!(
                "The bundle's database holds {} pictures and the training part {}: this may not be the split that it \
                 was trained with, and copies may go unnoticed.",
                self.database_pictures, self.training_pictures
            ));
        }
        match &self.features {
            None => caveats.push(
                "No feature network was given (--features), so there is no Fréchet distance and no KID.".to_owned(),
            ),
            Some(features) => {
                let compared = self.rows.iter().filter(|row| row.frechet.is_some());
                let fewest = compared.map(|row| row.pictures).chain([self.held_out_pictures]).min().unwrap_or(0);
                if fewest <= features.dim {
                    caveats.push(format!(
                        "The smallest set has {fewest} pictures for {} features: its covariance is singular and the \
                         Fréchet distance is biased upwards. KID is not.",
                        features.dim
                    ));
                }
            }
        }
        if !self.exclude_self {
            caveats.push(
                "A picture may be its own neighbour here: read the Fréchet distance together with the copy distance."
                    .to_owned(),
            );
        }
        if !self.rows.iter().any(|row| row.kind == Kind::Reconstructions) {
            caveats.push("The bundle has no encoder, so there are no reconstructions to compare with.".to_owned());
        }
        if self.rows.iter().all(|row| row.seam_ratio.is_none()) {
            caveats.push("The bundle's grid has no boundaries of both kinds, so there is no seam ratio.".to_owned());
        }
        let sizes: Vec<usize> = self.rows.iter().map(|row| row.pictures).collect();
        if sizes.iter().any(|n| *n != sizes[0]) {
            caveats.push(
                "The sets differ in size; Fréchet distances of different numbers of pictures do not compare exactly."
                    .to_owned(),
            );
        }
        caveats
    }
}

/// What was measured of a set, under the names that the report gives it.
fn measures(row: &Row) -> serde_json::Map<String, Value> {
    let values = [
        ("frechet", row.frechet),
        ("kid", row.kid.map(|kid| kid.mean)),
        ("seam_ratio", row.seam_ratio),
        ("seam_ratio_to_real", row.seam_ratio_to_real),
        ("copy_distance", row.copy.map(|copy| copy.ratio)),
    ];
    let measured = values.into_iter().filter_map(|(name, value)| Some((name.to_owned(), rounded(value?).into())));
    [("pictures".to_owned(), row.pictures.into())].into_iter().chain(measured).collect()
}

/// `value` to four significant digits.
fn rounded(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

/// Parses a training curve: a header line of names, the first being the step, then numbers with commas.
///
/// # Errors
/// [`Error::File`] naming the line at fault.
pub fn parse_curve(path: &Path, text: &str) -> Result<Curve> {
    let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let header = lines.next().ok_or_else(|| Error::file(path, "the curve is empty"))?.1;
    let mut curve: Curve = header.split(',').skip(1).map(|name| (name.trim().to_owned(), Vec::new())).collect();
    if curve.is_empty() {
        return Err(Error::file(path, "a curve needs a column of steps and at least one of values"));
    }
    for (number, line) in lines {
        let fault = || Error::file(path, format!("line {} is not {} numbers", number + 1, curve.len() + 1));
        let values: Vec<f64> =
            line.split(',').map(|v| v.trim().parse()).collect::<std::result::Result<_, _>>().map_err(|_| fault())?;
        let Some((&step, values)) = values.split_first().filter(|(_, values)| values.len() == curve.len()) else {
            return Err(fault());
        };
        for ((_, points), &value) in curve.iter_mut().zip(values) {
            points.push((step, value));
        }
    }
    Ok(curve)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::copy::CopyDistance;
    use crate::evaluate::kid::Kid;

    fn row(kind: Kind, name: &str) -> Row {
        Row {
            kind,
            name: name.into(),
            pictures: 100,
            frechet: None,
            kid: None,
            seam_ratio: Some(1.0625),
            seam_ratio_to_real: Some(1.02),
            copy: None,
            nearest: Vec::new(),
        }
    }

    fn report() -> Report {
        Report {
            bundle: "avatars <64>".into(),
            files_blake3: "00".into(),
            data: "pictures.zip".into(),
            training_pictures: 1000,
            database_pictures: 1001,
            held_out_pictures: 100,
            split_seed: Some(1),
            seed: 0,
            exclude_self: true,
            features: None,
            rows: vec![row(Kind::Samples, "a & b"), row(Kind::HeldOut, "Held-out pictures")],
        }
    }

    #[test]
    fn the_report_says_what_is_missing_and_escapes_what_it_is_given() {
        let report = report();
        let page = html::page(&report, &Gallery::default(), &[]).unwrap();
        assert!(page.contains("no Fréchet distance and no KID"));
        assert!(page.contains("no encoder"));
        assert!(page.contains("holds 1001 pictures"));
        assert!(page.contains("avatars &lt;64&gt;") && page.contains("a &amp; b") && !page.contains("a & b"));
        assert!(
            !page.contains("http://") || page.matches("http://").count() == page.matches("http://www.w3.org").count()
        );
    }

    #[test]
    fn measured_rows_are_shown_with_the_network_and_the_bias_of_few_pictures() {
        let mut report = report();
        report.features =
            Some(FeatureSummary { network: "net.onnx (f768, 299×299)".into(), dim: 768, id: "1".into() });
        report.rows[0].frechet = Some(12.3456);
        report.rows[0].kid = Some(Kid { mean: 0.0037, std: 0.0004, subset_size: 100, subsets: 10 });
        report.rows[0].copy =
            Some(CopyDistance { ratio: 0.85, samples: 29.8, held_out: 35.1, closest_sample: 9.0, suspect: 0.125 });
        let page = html::page(&report, &Gallery::default(), &[]).unwrap();
        for text in ["12.35", "3.70 ± 0.400", "net.onnx (f768, 299×299)", "0.85", "12.5", "1.062", "biased upwards"] {
            assert!(page.contains(text), "{text}");
        }
    }

    #[test]
    fn quality_holds_what_was_measured_and_nothing_else() {
        let mut report = report();
        report.rows[0].frechet = Some(12.345678);
        let quality = report.quality();
        let expected =
            serde_json::json!({"pictures": 100, "frechet": 12.35, "seam_ratio": 1.062, "seam_ratio_to_real": 1.02});
        assert_eq!(quality["a & b"], expected);
        assert!(!quality.contains_key("Features") && quality["Held-out pictures"].get("frechet").is_none());
        assert_eq!(rounded(-0.000123456), -0.0001235);
    }

    #[test]
    fn the_files_are_written_and_the_json_names_every_measure() {
        let folder = std::env::temp_dir().join(format!("rissole-report-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let curve = vec![("loss".to_owned(), vec![(0.0, 1.0), (1.0, 0.5)])];
        report().write(&folder, &Gallery::default(), &[("denoiser".into(), curve)]).unwrap();
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.join("report.json")).unwrap()).unwrap();
        assert_eq!(json["rows"][0]["seam_ratio"], 1.0625);
        assert_eq!(json["rows"][1]["kind"], "held-out");
        assert!(json["features"].is_null() && json["rows"][0]["frechet"].is_null());
        let page = std::fs::read_to_string(folder.join("report.html")).unwrap();
        assert!(page.starts_with("<!doctype html>") && page.contains("<svg"));
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 3);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn curves_are_parsed_or_the_line_at_fault_is_named() {
        let path = Path::new("loss.csv");
        let curve = parse_curve(path, "step,loss,rate\n0,1.5,1e-4\n\n50, 0.5 ,2e-4\n").unwrap();
        assert_eq!(curve[0], ("loss".into(), vec![(0.0, 1.5), (50.0, 0.5)]));
        assert_eq!(curve[1].1[1], (50.0, 2e-4));
        let error = parse_curve(path, "step,loss\n0,1\n1,one\n").unwrap_err().to_string();
        assert!(error.contains("loss.csv") && error.contains("line 3"), "{error}");
        assert!(parse_curve(path, "step,loss\n0,1,2\n").is_err());
        assert!(parse_curve(path, "").is_err() && parse_curve(path, "step\n1\n").is_err());
    }
}
