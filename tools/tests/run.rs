//! A whole recipe, from pictures to a measured bundle: in one go, and interrupted again and again.

#[path = "../../tests/common/mod.rs"]
mod common;
mod workshop;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use clap::Parser;
use rissole::store::{BlockDatabase, RowBuffer};
use rissole::{Bundle, Error};
use rissole_train::evaluate::features::FeatureArgs;
use rissole_train::recipe::Recipe;
use rissole_train::stages::{INTERRUPTED, Run, Shard, Stage};
use workshop::workshop;

/// As the command line wraps the feature network.
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    features: FeatureArgs,
}

fn run(dir: &Path, features: &[&str]) -> Run {
    let cli = Cli::try_parse_from([&["run"], features].concat()).unwrap();
    let recipe = Recipe::load(&dir.join("tiny.toml")).unwrap();
    Run::new(recipe, &dir.join("runs"), Some(dir.join("bundle")), cli.features).unwrap()
}

fn bytes(dir: &Path, name: &str) -> Vec<u8> {
    std::fs::read(dir.join("bundle").join(name)).unwrap()
}

/// The mirror image of a square in the middle is the square.
fn mirrored_pictures_lie_beside_the_others(dir: &Path) {
    let open = |name: &str| BlockDatabase::open(dir.join("runs/tiny").join(name)).unwrap();
    let (database, mirrored) = (open("blocks.rsdb"), open("mirrored.rsdb"));
    assert_eq!((database.images(), database.positions()), (mirrored.images(), mirrored.positions()));
    let mut changed = 0;
    for image in 0..database.images() {
        let name = database.name(image).unwrap().unwrap();
        assert_eq!(mirrored.name(image).unwrap().unwrap(), name);
        let codes = |database: &BlockDatabase| {
            let mut buffer = RowBuffer::default();
            let row = |position| database.row(image, position, &mut buffer).unwrap().iter().collect::<Vec<_>>();
            (0..database.positions()).map(row).collect::<Vec<_>>()
        };
        let same = codes(&database) == codes(&mirrored);
        let number: usize = name.trim_end_matches(".png").parse().unwrap();
        assert!(same || !number.is_multiple_of(2), "{name}");
        changed += usize::from(!same);
    }
    assert!(changed > 0);
}

/// One test, because Ctrl-C is for the whole process.
#[test]
fn a_recipe_becomes_the_same_measured_bundle_however_often_it_is_interrupted() {
    let whole = workshop();
    Stage::ALL.into_iter().try_for_each(|stage| run(whole.path(), &[]).stage(stage)).unwrap();
    let bundle = Bundle::open(whole.path().join("bundle")).unwrap();
    bundle.verify().unwrap();
    let card = String::from_utf8(bytes(whole.path(), "README.md")).unwrap();
    for text in
        ["# tiny\nSquares, drawn by chance.", "(samples.png)", "(denoiser.svg)", "| Samples: DDIM, 2 steps | 4 |"]
    {
        assert!(card.contains(text), "{text}: {card}");
    }
    let quality = &bundle.manifest.quality["Samples: DPM-Solver++ 2M, 3 steps, guidance 1.5"];
    assert!(quality["copy_distance"].is_f64() && quality["frechet"].is_null(), "{quality}");

    assert_eq!(bundle.manifest.retrieval.guidance, Some(1.5));
    mirrored_pictures_lie_beside_the_others(whole.path());

    let cut = workshop();
    for stage in Stage::ALL {
        let mut left = 3;
        INTERRUPTED.store(true, Ordering::Relaxed);
        while let Err(error) = run(cut.path(), &[]).stage(stage) {
            assert!(matches!(error, Error::Interrupted), "{stage:?}: {error}");
            left -= 1;
            INTERRUPTED.store(left > 0, Ordering::Relaxed);
        }
        INTERRUPTED.store(false, Ordering::Relaxed);
        let at_once = matches!(stage, Stage::Prepare | Stage::Index | Stage::Export);
        assert_eq!(left < 3, !at_once, "{stage:?}");
    }
    for name in [
        "denoiser.onnx",
        "denoiser.packed",
        "decoder.onnx",
        "decoder.packed",
        "blocks.rsdb",
        "blocks.rshn",
        "manifest.json",
        "denoiser.svg",
        "consistency.svg",
        "decoder.svg",
    ] {
        assert!(bytes(cut.path(), name) == bytes(whole.path(), name), "{name}");
    }

    // Done again, it changes nothing; with a feature network, it measures what was missing.
    let written = |dir: &Path| std::fs::metadata(dir.join("bundle/manifest.json")).unwrap().modified().unwrap();
    let before = written(whole.path());
    Stage::ALL.into_iter().try_for_each(|stage| run(whole.path(), &[]).stage(stage)).unwrap();
    assert_eq!(written(whole.path()), before);
    let network: PathBuf = whole.path().join("bundle/encoder.onnx");
    run(whole.path(), &["--features", network.to_str().unwrap()]).stage(Stage::Evaluate).unwrap();
    let bundle = Bundle::open(whole.path().join("bundle")).unwrap();
    assert!(bundle.manifest.quality["Training pictures"]["frechet"].is_f64());
    run(whole.path(), &[]).stage(Stage::Evaluate).unwrap();
    assert_eq!(Bundle::open(whole.path().join("bundle")).unwrap().manifest, bundle.manifest);

    // Encoded in parts it is the same database, and a part of other pictures is named.
    let part = |i: usize| whole.path().join(format!("runs/tiny/blocks.{i}-of-3.rsdb"));
    for shard in ["3/3", "1/3", "2/3"] {
        run(whole.path(), &[]).encode_shard(shard.parse().unwrap()).unwrap();
    }
    let mirrored = std::fs::read(whole.path().join("runs/tiny/mirrored.rsdb")).unwrap();
    for name in ["blocks.rsdb", "mirrored.rsdb"] {
        std::fs::remove_file(whole.path().join("runs/tiny").join(name)).unwrap();
    }
    run(whole.path(), &[]).merge_shards(3).unwrap();
    let made = |name: &str| std::fs::read(whole.path().join("runs/tiny").join(name)).unwrap();
    assert!(made("blocks.rsdb") == bytes(whole.path(), "blocks.rsdb") && made("mirrored.rsdb") == mirrored);
    assert!(["0/3", "4/3", "1", "1/0", "-1/3"].iter().all(|text| text.parse::<Shard>().is_err()));
    std::fs::copy(part(1), part(2)).unwrap();
    let error = run(whole.path(), &[]).merge_shards(3).unwrap_err();
    assert!(error.to_string().contains("blocks.2-of-3.rsdb"), "{error}");

    // A half-trained denoiser is no bundle, and a damaged checkpoint is named.
    std::fs::write(whole.path().join("runs/tiny/denoiser.ckpt"), "no checkpoint").unwrap();
    let error = run(whole.path(), &[]).stage(Stage::Export).unwrap_err();
    assert!(error.to_string().contains("denoiser.ckpt"), "{error}");
}
