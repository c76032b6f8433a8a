//! What a quantized bundle says of itself.

use std::fmt::Write;

use rissole::{Bundle, Error, Manifest, Result};
use serde_json::{Map, Value, json};

use super::gate::{Change, Cost, NetworkCost};

/// Added to the name of a measure of the bundle before.
const BEFORE: &str = " (before quantization)";

/// `manifest` with what was done in its provenance, and in its quality what it costs beside what was measured before.
pub(super) fn manifest(manifest: Manifest, cost: &Cost) -> Manifest {
    let Manifest { mut provenance, quality, .. } = manifest;
    let known = match provenance.remove("quantization") {
        Some(Value::Object(known)) => known,
        _ => Map::new(),
    };
    let done = cost.networks.iter().map(|network| {
        let NetworkCost { role, bits, quantized, convolutions, calibration, .. } = network;
        let done = json!({
            "convolutions": convolutions,
            "quantized_convolutions": quantized,
            "bits": bits,
            "calibration_runs": calibration,
            "trainer": concat!("rissole-train ", env!("CARGO_PKG_VERSION")),
        });
        (role.to_string(), done)
    });
    provenance.insert("quantization".into(), Value::Object(known.into_iter().chain(done).collect()));
    let before = quality.into_iter().map(|(name, value)| match name.contains("uantiz") {
        true => (name, value),
        false => (name + BEFORE, value),
    });
    let quality = before.chain([(format!("Quantized: {}", roles(cost)), quality_of(cost))]).collect();
    Manifest { provenance, quality, ..manifest }
}

fn roles(cost: &Cost) -> String {
    cost.networks.iter().map(|network| network.role.to_string()).collect::<Vec<_>>().join(", ")
}

fn quality_of(cost: &Cost) -> Value {
    let mut quality = Map::new();
    quality.insert("pictures".into(), cost.pictures.into());
    quality.insert("samples".into(), cost.setting.clone().into());
    for network in &cost.networks {
        quality.insert(format!("{}_signal_to_noise_db", network.role), rounded(network.decibels));
    }
    for (name, change) in [("seam_ratio", cost.seam_ratio), ("frechet", cost.frechet)] {
        if let Some(Change { before, after }) = change {
            quality.insert(format!("{name}_before"), rounded(before));
            quality.insert(name.into(), rounded(after));
        }
    }
    quality.extend(cost.features.clone().map(|network| ("features".to_owned(), network.into())));
    Value::Object(quality)
}

/// To four significant digits.
fn rounded(value: f64) -> Value {
    format!("{value:.3e}").parse().unwrap_or(value).into()
}

/// The card of `old` with what became of it.
pub(super) fn card(old: &Bundle, cost: &Cost) -> Result<String> {
    let path = old.dir.join("README.md");
    let card = match std::fs::read_to_string(&path) {
        Ok(card) => card,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => format!("# {}\n", old.manifest.name),
        Err(e) => return Err(Error::io(&path, e)),
    };
    Ok(card + &section(cost))
}

fn section(cost: &Cost) -> String {
    let mut text = format!("\n## Quantized: {}\n", roles(cost));
    text.push_str("What is shown and measured above is the bundle before.\n\n");
    for network in &cost.networks {
        let NetworkCost { role, quantized, convolutions, calibration, checked, decibels, .. } = network;
        let bits = network.shown_bits();
        let _ = writeln!(
            text,
            "In the {role}, {quantized} of {convolutions} convolutions take values of {bits} (`QuantizeLinear`, \
             `DequantizeLinear`), their ranges calibrated in {calibration} runs. Signal-to-noise ratio of its output \
             against the one before, in {checked} other runs: {decibels:.1} dB.\n"
        );
    }
    let features = cost.features.as_ref().map_or_else(String::new, |name| format!("; features: {name}"));
    let _ = write!(
        text,
        "{} samples of either bundle from the same seeds ({}){features}:\n\n\
         | | before | after | change |\n|---|---|---|---|\n",
        cost.pictures, cost.setting
    );
    for (name, change) in cost.measures() {
        let _ = match change {
            Some(change) => {
                let (Change { before, after }, loss) = (change, 100.0 * change.loss());
                writeln!(text, "| {name} | {before:.4} | {after:.4} | {loss:+.2} % |")
            }
            None => writeln!(text, "| {name} | not measured | | |"),
        };
    }
    text
}

/// The pictures that lie beside the card of a bundle: file names and contents. The manifest does not list them.
pub(super) fn pictures(bundle: &Bundle) -> Result<Vec<(String, Vec<u8>)>> {
    let dir = &bundle.dir;
    let mut pictures = vec![];
    for entry in std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))? {
        let path = entry.map_err(|e| Error::io(dir, e))?.path();
        let is_picture = path.extension().is_some_and(|ending| ending == "png" || ending == "svg");
        if let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|_| is_picture && path.is_file()) {
            pictures.push((name.to_owned(), std::fs::read(&path).map_err(|e| Error::io(&path, e))?));
        }
    }
    pictures.sort();
    Ok(pictures)
}
