//! The whole evaluation, on a tiny bundle with random weights.

#[path = "../../tests/common/mod.rs"]
mod common;
mod pictures;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use common::{IMAGES, TempDir};
use pictures::HELD_OUT;
use rissole::Error;
use rissole::bundle::manifest::{Coherence, NeighbourSource};
use rissole_train::evaluate::{self, EvaluateArgs};
use serde_json::Value;

/// As the command line wraps the arguments.
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: EvaluateArgs,
}

/// The usual arguments, those in `more` taking the place of the usual ones of the same name.
fn arguments(dir: &Path, more: &[&str]) -> EvaluateArgs {
    let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let usual = [
        ("--model", path("bundle")),
        ("--data", path("pictures.bin")),
        ("--validation", HELD_OUT.to_string()),
        ("--samples", "4".into()),
        ("--out", path("out")),
    ];
    let usual = usual.into_iter().filter(|(name, _)| !more.contains(name));
    let line = usual.flat_map(|(name, value)| [name.to_owned(), value]).chain(more.iter().map(|&m| m.to_owned()));
    Cli::try_parse_from(["evaluate".to_owned()].into_iter().chain(line)).unwrap().args
}

fn prepare() -> TempDir {
    let dir = TempDir::new();
    let coherence = Coherence { thumbnail: true, margin: 1, position_embedding: true, previous_block: false };
    std::fs::create_dir(dir.path().join("bundle")).unwrap();
    common::bundle(&dir.path().join("bundle"), common::manifest(coherence, NeighbourSource::Database));
    pictures::write(&dir.path().join("pictures.bin"));
    dir
}

fn report(dir: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(dir.join("out/report.json")).unwrap()).unwrap()
}

#[test]
fn a_bundle_is_measured_from_samples_to_report() {
    let dir = prepare();
    let encoder = dir.path().join("bundle/encoder.onnx").to_string_lossy().into_owned();
    std::fs::write(dir.path().join("loss.csv"), "step,loss\n0,1\n10,0.5\n").unwrap();
    let curve = dir.path().join("loss.csv").to_string_lossy().into_owned();
    // Any network with pictures as input serves for features: here the bundle's own encoder, pooled.
    let more = [
        "--sampler",
        "ddim:2",
        "--sampler",
        "dpm++2m:3",
        "--features",
        &encoder,
        "--curve",
        &curve,
        "--kid-subsets",
        "3",
    ];
    let args = arguments(dir.path(), &more);
    evaluate::run(&args, &AtomicBool::new(false)).unwrap();

    let first = report(dir.path());
    assert_eq!((&first["bundle"], &first["training_pictures"]), (&"tiny".into(), &IMAGES.into()));
    assert_eq!(first["features"]["dim"], 3);
    let rows = first["rows"].as_array().unwrap();
    let kinds: Vec<&str> = rows.iter().map(|row| row["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["samples", "samples", "reconstructions", "training", "held-out"]);
    for row in &rows[..4] {
        assert!(row["frechet"].as_f64().unwrap() >= 0.0 && row["kid"]["mean"].is_f64(), "{row}");
        assert_eq!(row["copy"].is_object(), row["kind"] == "samples");
    }
    assert!(rows[0]["name"].as_str().unwrap().contains("DDIM, 2 steps"));
    let page = std::fs::read_to_string(dir.path().join("out/report.html")).unwrap();
    assert!(
        page.contains("data:image/png;base64,") && page.contains("encoder.onnx") && page.matches("<svg").count() == 2
    );

    assert!(image::open(dir.path().join("out/samples.png")).is_ok() && dir.path().join("out/loss.svg").exists());

    // Once more, from the samples and features kept: the same report.
    evaluate::run(&args, &AtomicBool::new(false)).unwrap();
    assert_eq!(report(dir.path()), first);
}

#[test]
fn without_features_the_rest_is_still_measured() {
    let dir = prepare();
    evaluate::run(&arguments(dir.path(), &[]), &AtomicBool::new(false)).unwrap();
    let report = report(dir.path());
    assert!(report["features"].is_null() && report["rows"][0]["frechet"].is_null());
    assert!(report["rows"][0]["seam_ratio"].is_f64() && report["rows"][0]["copy"]["ratio"].is_f64());
    let page = std::fs::read_to_string(dir.path().join("out/report.html")).unwrap();
    assert!(page.contains("No feature network was given"));
}

#[test]
fn an_interrupted_evaluation_leaves_no_report_and_bad_input_is_named() {
    let dir = prepare();
    let stopped = evaluate::run(&arguments(dir.path(), &[]), &AtomicBool::new(true));
    assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
    assert!(!dir.path().join("out/report.json").exists());

    let run = |more: &[&str]| evaluate::run(&arguments(dir.path(), more), &AtomicBool::new(false));
    assert!(matches!(run(&["--samples", "1"]), Err(Error::Usage(_))));
    assert!(matches!(run(&["--validation", "17"]), Err(Error::Usage(_))));
    assert!(matches!(run(&["--sampler", "ddim:5000"]), Err(Error::Usage(_))));
    assert!(matches!(run(&["--curve", "nowhere.csv"]), Err(Error::Io { .. })));
    assert!(matches!(run(&["--data", "nowhere"]), Err(Error::Io { .. })));
    std::fs::write(dir.path().join("pictures.bin"), "too short to be pictures").unwrap();
    assert!(matches!(run(&[]), Err(Error::File { .. })));
}
