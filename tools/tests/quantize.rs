//! Quantization of a tiny bundle with random weights, from calibration to the new bundle.

#[path = "../../tests/common/mod.rs"]
mod common;
mod pictures;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use common::onnx::{Graph, int, ints, text};
use common::{Random, TempDir};
use rissole::bundle::manifest::{Coherence, NeighbourSource, NetworkEntry};
use rissole::{Bundle, Error, Generator, Options, Query, Result};
use rissole_train::quantize::gate::Cost;
use rissole_train::quantize::{self, QuantizeArgs, Role};
use tract_onnx::pb::tensor_proto::DataType;

/// As the command line wraps the arguments.
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: QuantizeArgs,
}

const WIDTH: usize = 16;

/// The latent in float, plus condition, timestep and position → of bytes → in float, which eats the margin.
fn denoiser(entry: &NetworkEntry, margin: usize) -> Graph {
    let mut graph = Graph::new(6, &entry.inputs, &entry.outputs);
    let shape = |name: &str| &entry.inputs.iter().find(|input| input.name == name).unwrap().shape;
    let width = shape("condition")[1];
    let mut x = graph.conv("latent", [shape("latent")[1], WIDTH], 3, 1, 1);
    let condition = graph.conv("condition", [width, WIDTH], 1, 0, 1);
    x = graph.node("Add", &[&x, &condition], vec![]);
    for (name, scale) in [("timestep", 1e-3), ("position", 1.0)] {
        let scales = graph.tensor(&[shape(name)[1], WIDTH], &vec![scale; WIDTH * shape(name)[1]]);
        let vector = graph.node("MatMul", &[name, &scales], vec![]);
        let vector = graph.reshape(&vector, &[1, WIDTH, 1, 1]);
        x = graph.node("Add", &[&x, &vector], vec![]);
    }
    x = silu(&mut graph, &x);
    x = conv_of_bytes(&mut graph, &x);
    x = silu(&mut graph, &x);
    x = graph.conv(&x, [WIDTH, entry.outputs[0].shape[1]], 2 * margin + 1, 0, 1);
    graph.output(&x, "prediction");
    graph
}

/// Convolutions in float, of bytes, upsampling, of bytes, in float.
fn decoder(entry: &NetworkEntry) -> Graph {
    let mut graph = Graph::new(5, &entry.inputs, &entry.outputs);
    let mut x = graph.conv("latent", [entry.inputs[0].shape[1], WIDTH], 3, 1, 1);
    x = silu(&mut graph, &x);
    x = conv_of_bytes(&mut graph, &x);
    let scales = graph.tensor(&[4], &[1.0, 1.0, 2.0, 2.0]);
    let nearest = [("mode", "nearest"), ("coordinate_transformation_mode", "asymmetric"), ("nearest_mode", "floor")];
    x = graph.node("Resize", &[&x, "", &scales], nearest.map(|(name, value)| text(name, value)).to_vec());
    x = conv_of_bytes(&mut graph, &x);
    x = silu(&mut graph, &x);
    x = graph.conv(&x, [WIDTH, 3], 3, 1, 1);
    graph.output(&x, "image");
    graph
}

fn silu(graph: &mut Graph, x: &str) -> String {
    let gate = graph.node("Sigmoid", &[x], vec![]);
    graph.node("Mul", &[x, &gate], vec![])
}

fn conv_of_bytes(graph: &mut Graph, x: &str) -> String {
    let mut random = Random(7);
    let dims = [WIDTH, WIDTH, 3, 3];
    let values = (0..dims.iter().product()).map(|_| random.next() as u8).collect();
    let values = graph.initializer(&dims, DataType::Int8, values);
    let scales = graph.tensor(&[WIDTH], &[1.0 / 800.0; WIDTH]);
    let weights = graph.node("DequantizeLinear", &[&values, &scales], vec![int("axis", 0)]);
    let window = vec![ints("kernel_shape", &[3; 2]), ints("pads", &[1; 4]), ints("strides", &[1; 2])];
    graph.node("Conv", &[x, &weights], window)
}

/// A folder with a bundle, whose card shows a picture, and pictures.
fn prepare() -> TempDir {
    let dir = TempDir::new();
    let folder = dir.path().join("bundle");
    std::fs::create_dir(&folder).unwrap();
    let coherence = Coherence { thumbnail: true, margin: 1, position_embedding: true, previous_block: false };
    let mut manifest = common::bundle(&folder, common::manifest(coherence, NeighbourSource::Database)).manifest;
    std::fs::write(folder.join("decoder.onnx"), decoder(&manifest.networks.decoder).bytes()).unwrap();
    let margin = manifest.coherence.margin;
    std::fs::write(folder.join("denoiser.onnx"), denoiser(&manifest.networks.denoiser, margin).bytes()).unwrap();
    manifest.quality.insert("Samples".into(), 1.5.into());
    common::list_files(&folder, manifest);
    std::fs::write(folder.join("README.md"), "# tiny\n![Samples](samples.png)\n").unwrap();
    std::fs::write(folder.join("samples.png"), "a picture").unwrap();
    pictures::write(&dir.path().join("pictures.bin"));
    dir
}

fn run(dir: &Path, more: &[&str]) -> Result<Cost> {
    let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let usual = [path("bundle"), "--out".into(), path("new"), "--samples".into(), "6".into()];
    let usual = ["quantize".to_owned()].into_iter().chain(usual).chain(["--calibration".into(), "8".into()]);
    let usual = usual.chain(["--bits".into(), "8".into()].into_iter().filter(|_| !more.contains(&"--bits")));
    let line = usual.chain(more.iter().map(|&word| word.to_owned()));
    quantize::run(&Cli::try_parse_from(line).unwrap().args, &AtomicBool::new(false))
}

#[test]
fn a_bundle_is_quantized_measured_and_written() {
    let dir = prepare();
    let cost = run(dir.path(), &["--force"]).unwrap();
    let network = &cost.networks[0];
    assert_eq!((network.quantized, network.convolutions, network.calibration), (2, 4, 8));
    assert!(network.decibels > 25.0 && network.decibels < 70.0, "{}", network.decibels);
    assert!(cost.seam_ratio.is_some() && cost.frechet.is_none());

    let [old, new] = ["bundle", "new"].map(|name| Bundle::open(dir.path().join(name)).unwrap());
    new.verify().unwrap();
    let hash = |bundle: &Bundle, name: &str| bundle.measure(name).unwrap().blake3;
    for name in ["denoiser.onnx", "conditioner.onnx", "encoder.onnx", "blocks.rsdb", "blocks.rshn", "samples.png"] {
        assert_eq!(hash(&new, name), hash(&old, name), "{name}");
    }
    assert_ne!(hash(&new, "decoder.onnx"), hash(&old, "decoder.onnx"));
    assert_eq!(new.manifest.provenance["quantization"]["decoder"]["quantized_convolutions"], 2);
    assert_eq!(new.manifest.quality["Samples (before quantization)"], 1.5);
    assert!(new.manifest.quality["Quantized: decoder"]["decoder_signal_to_noise_db"].is_f64());
    let card = std::fs::read_to_string(new.dir.join("README.md")).unwrap();
    assert!(
        card.starts_with("# tiny\n") && card.contains("## Quantized: decoder") && card.contains("2 of 4"),
        "{card}"
    );

    let draw = |bundle: &Bundle| {
        let mut generator = Generator::open(bundle, &Options::default()).unwrap();
        generator.generate(0, &Query::Random, &mut |_| Ok(())).unwrap().image
    };
    let (before, after) = (draw(&old), draw(&new));
    let differences = before.as_raw().iter().zip(after.as_raw()).map(|(a, b)| a.abs_diff(*b));
    let largest = differences.max().unwrap();
    assert!((1..20).contains(&largest), "{largest}");
}

#[test]
fn with_a_feature_network_the_frechet_distance_is_measured_too() {
    let dir = prepare();
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    // Any network with pictures as input serves for features.
    let (features, data) = (path("bundle/encoder.onnx"), path("pictures.bin"));
    let more = ["--features", &features, "--data", &data, "--validation", "5", "--force", "--keep", &path("keep")];
    let cost = run(dir.path(), &more).unwrap();
    let change = cost.frechet.unwrap();
    assert!(change.before > 0.0 && change.after > 0.0 && change.before != change.after, "{change:?}");
    let quality = &Bundle::open(dir.path().join("new")).unwrap().manifest.quality["Quantized: decoder"];
    assert!(quality["frechet"].is_f64() && quality["frechet_before"].is_f64());
    // Samples and features are kept: the same again.
    assert_eq!(run(dir.path(), &more).unwrap(), cost);
}

#[test]
fn the_denoiser_too_is_quantized_on_request_and_what_costs_most_is_left_in_float() {
    let dir = prepare();
    let cost = run(dir.path(), &["--networks", "denoiser,decoder", "--force"]).unwrap();
    let [decoder, denoiser] = &cost.networks[..] else { panic!("two networks") };
    assert_eq!((decoder.role, denoiser.role), (Role::Decoder, Role::Denoiser));
    assert_eq!((denoiser.quantized, denoiser.convolutions, denoiser.calibration), (1, 4, 8));
    assert!(denoiser.decibels > 25.0 && denoiser.decibels < 70.0, "{}", denoiser.decibels);
    let card = std::fs::read_to_string(dir.path().join("new/README.md")).unwrap();
    assert!(card.contains("## Quantized: decoder, denoiser"), "{card}");

    let finer = run(dir.path(), &["--bits", "12", "--force"]).unwrap();
    assert_eq!((finer.networks[0].bits, finer.networks[0].quantized), ([12, 12], 2));
    assert!(finer.networks[0].decibels > decoder.decibels + 15.0, "{}", finer.networks[0].decibels);

    let least = format!("{}", decoder.decibels + 1.0);
    let less = run(dir.path(), &["--least-snr", &least, "--force"]).unwrap();
    assert_eq!(less.networks[0].quantized, 1);
    let error = run(dir.path(), &["--least-snr", "120", "--force"]).unwrap_err();
    assert!(error.to_string().contains("not one convolution can be quantized"), "{error}");
}

#[test]
fn what_cannot_be_done_is_refused_and_nothing_is_written() {
    let dir = prepare();
    let refused = |more: &[&str], words: &str| {
        let error = run(dir.path(), more).unwrap_err();
        assert!(matches!(&error, Error::Usage(text) if text.contains(words)), "{error}");
        assert!(!dir.path().join("new").exists());
    };
    refused(&["--data", "pictures.bin"], "go together");
    refused(&["--features", "network.onnx"], "go together");
    let manifest = Bundle::open(dir.path().join("bundle")).unwrap().manifest;
    let decoder = common::onnx::decoder(&manifest.networks.decoder, 2);
    std::fs::write(dir.path().join("bundle/decoder.onnx"), decoder.bytes()).unwrap();
    common::list_files(&dir.path().join("bundle"), manifest);
    refused(&[], "decoder.onnx: cannot be quantized");

    let bundle = dir.path().join("bundle").to_string_lossy().into_owned();
    let line = ["quantize", &bundle, "--out", &bundle];
    let error = quantize::run(&Cli::try_parse_from(line).unwrap().args, &AtomicBool::new(false)).unwrap_err();
    assert!(error.to_string().contains("must not take the place"), "{error}");
}
