//! A whole recipe, from pictures to a measured bundle: in one go, and interrupted again and again.

#[path = "../../tests/common/mod.rs"]
mod common;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use clap::Parser;
use common::TempDir;
use rissole::{Bundle, Error};
use rissole_train::evaluate::features::FeatureArgs;
use rissole_train::recipe::Recipe;
use rissole_train::stages::{INTERRUPTED, Run, Shard, Stage};

const PICTURES: usize = 24;
const RECIPE: &str = r#"
name = "tiny"
licence = "none: random squares"
seed = 5
about = "about.md"
[data]
validation = 6
split_seed = 1
description = "squares"
source = { path = "pictures", layout = "folder", size = 16 }
[vqgan]
batch = 2
steps = 6
quantize_from = 2
squared_weight = 1.0
commitment = 0.25
model = { latent_channels = 4, widths = [8, 8], residuals = [1, 1], codebook_size = 16 }
optimizer = { rate = 1e-3, warmup = 2, weight_decay = 0.0, max_norm = 1.0, average_decay = 0.9 }
[denoiser]
rows = 2
cols = 2
thumbnail = true
margin = 1
position_embedding = true
previous_block = false
neighbours = 3
exclude_self = true
source = "database"
thumbnail_codebook_size = 8
timesteps = 50
schedule = "cosine"
prediction = "v"
min_snr = 5.0
thumbnail_share = 0.3
thumbnail_noise = 0.3
batch = 4
steps = 6
unet = { widths = [8], residuals = 1, embedding = 8 }
optimizer = { rate = 1e-3, warmup = 2, weight_decay = 0.01, max_norm = 1.0, average_decay = 0.9 }
[consistency]
batch = 3
steps = 5
halvings = 2
optimizer = { rate = 1e-3, warmup = 2, weight_decay = 0.0, max_norm = 1.0, average_decay = 0.9 }
[decoder]
batch = 2
steps = 5
squared_weight = 1.0
difference_weight = 1.0
optimizer = { rate = 1e-3, warmup = 2, weight_decay = 0.0, max_norm = 1.0, average_decay = 0.9 }
discriminator = { width = 8, from = 2, weight = 0.25, rate = 1e-3 }
[sampling]
sampler = "dpm++2m"
steps = 3
snap_to_codebook = true
[export]
weights = "int8"
[evaluation]
samples = 4
samplers = ["dpm++2m:3", "ddim:2", "consistency:2"]
"#;

/// A folder with the recipe and its pictures: squares of random colours.
fn workshop() -> TempDir {
    let dir = TempDir::new();
    let mut random = common::Random(11);
    std::fs::create_dir(dir.path().join("pictures")).unwrap();
    for i in 0..PICTURES {
        let mut colour = || [0; 3].map(|_| random.below(256) as u8);
        let (inside, outside) = (colour(), colour());
        let square = |x, y| if (4..12).contains(&x) && (4..12).contains(&y) { inside } else { outside };
        let picture = image::RgbImage::from_fn(16, 16, |x, y| image::Rgb(square(x, y)));
        picture.save(dir.path().join(format!("pictures/{i}.png"))).unwrap();
    }
    std::fs::write(dir.path().join("tiny.toml"), RECIPE).unwrap();
    std::fs::write(dir.path().join("about.md"), "Squares, drawn by chance.\n").unwrap();
    dir
}

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
    let quality = &bundle.manifest.quality["Samples: DPM-Solver++ 2M, 3 steps"];
    assert!(quality["copy_distance"].is_f64() && quality["frechet"].is_null(), "{quality}");

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
    std::fs::remove_file(whole.path().join("runs/tiny/blocks.rsdb")).unwrap();
    run(whole.path(), &[]).merge_shards(3).unwrap();
    let merged = std::fs::read(whole.path().join("runs/tiny/blocks.rsdb")).unwrap();
    assert!(merged == bytes(whole.path(), "blocks.rsdb"));
    assert!(["0/3", "4/3", "1", "1/0", "-1/3"].iter().all(|text| text.parse::<Shard>().is_err()));
    std::fs::copy(part(1), part(2)).unwrap();
    let error = run(whole.path(), &[]).merge_shards(3).unwrap_err();
    assert!(error.to_string().contains("blocks.2-of-3.rsdb"), "{error}");

    // A half-trained denoiser is no bundle, and a damaged checkpoint is named.
    std::fs::write(whole.path().join("runs/tiny/denoiser.ckpt"), "no checkpoint").unwrap();
    let error = run(whole.path(), &[]).stage(Stage::Export).unwrap_err();
    assert!(error.to_string().contains("denoiser.ckpt"), "{error}");
}
