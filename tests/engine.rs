//! Our own operators against tract.

mod common;

use std::fs;
use std::path::Path;

use common::graphs::Integers;
use common::{Random, TempDir, graphs, onnx};
use rissole::Bundle;
use rissole::bundle::manifest::{NetworkEntry, TensorEntry};
use rissole::network::{Engine, Network};

fn shipped(name: &str) -> Bundle {
    Bundle::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name)).unwrap()
}

/// Most that the two engines differ by on `inputs`, over the standard deviation of tract's output.
fn difference(ours: &Network, tract: &Network, inputs: &[Vec<f32>]) -> f64 {
    let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
    let [mut found, mut expected] = [ours, tract].map(|network| vec![0.0; network.output_len()]);
    ours.run(&inputs, &mut found).unwrap();
    tract.run(&inputs, &mut expected).unwrap();
    let count = expected.len() as f64;
    let mean = expected.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
    let variance = expected.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / count;
    let most = found.iter().zip(&expected).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
    most / variance.sqrt()
}

#[test]
fn the_shipped_networks_give_what_tract_gives() {
    ["avatars64", "avatars256"].into_iter().for_each(gives_what_tract_gives);
}

fn gives_what_tract_gives(name: &str) {
    let bundle = shipped(name);
    bundle.verify().unwrap();
    let mut random = Random(77);
    for entry in bundle.manifest.networks.all() {
        let path = bundle.path_of(&entry.file);
        let (ours, tract) = (Network::load(&path, entry).unwrap(), Network::load_with_tract(&path, entry).unwrap());
        assert_eq!((ours.engine(), tract.engine()), (Engine::Own, Engine::Tract), "{}", entry.file);
        for _ in 0..4 {
            let mut values = |name: &str, len: usize| -> Vec<f32> {
                match name {
                    "timestep" => vec![random.below(1000) as f32],
                    "position" => {
                        let position = random.below(len);
                        (0..len).map(|i| f32::from(u8::from(i == position))).collect()
                    }
                    _ => (0..len).map(|_| 1.7 * random.symmetric()).collect(),
                }
            };
            let inputs: Vec<Vec<f32>> =
                entry.inputs.iter().map(|input| values(&input.name, input.shape.iter().product())).collect();
            let difference = difference(&ours, &tract, &inputs);
            assert!(difference < 2e-4, "{name}, {}: {difference}", entry.file);
        }
    }
}

#[test]
fn graphs_of_what_is_exported_give_what_tract_gives() {
    let dir = TempDir::new();
    let path = dir.path().join("network.onnx");
    for seed in 0..60 {
        let (entry, graph) = graphs::random(seed);
        fs::write(&path, graph.bytes()).unwrap();
        let (ours, tract) = (Network::load(&path, &entry).unwrap(), Network::load_with_tract(&path, &entry).unwrap());
        assert_eq!(ours.engine(), Engine::Own, "graph {seed}");
        let mut random = Random(seed);
        for timestep in [3.0, 611.0] {
            let x = (0..ours.input_lens().next().unwrap()).map(|_| random.symmetric()).collect();
            let difference = difference(&ours, &tract, &[x, vec![timestep]]);
            // What the engines compute a little differently may be rounded to the next integer.
            let is_rounded = graph.proto.node.iter().any(|node| node.op_type == "QuantizeLinear");
            let most = if is_rounded { 5e-2 } else { 2e-4 };
            assert!(difference < most, "graph {seed}: {difference}");
        }
    }
}

#[test]
fn convolutions_of_integers_give_what_tract_gives() {
    let dir = TempDir::new();
    let path = |name: &str| dir.path().join(name);
    // tract knows `uint8` alone; wider integers it computes by operators on reals.
    for (ours, tracts) in [(Integers::Of8Bits, Integers::Of8Bits), (Integers::Wide, Integers::WideByFloats)] {
        for seed in 0..40 {
            let (entry, graph) = graphs::rounded(seed, ours);
            fs::write(path("ours.onnx"), graph.bytes()).unwrap();
            fs::write(path("tracts.onnx"), graphs::rounded(seed, tracts).1.bytes()).unwrap();
            let ours = Network::load(path("ours.onnx"), &entry).unwrap();
            let tract = Network::load_with_tract(path("tracts.onnx"), &entry).unwrap();
            assert_eq!(ours.engine(), Engine::Own, "graph {seed}");
            assert!(ours.operators().contains_key("integer convolution"), "graph {seed}");
            let mut random = Random(seed);
            let x = (0..ours.input_lens().next().unwrap()).map(|_| 4.0 * random.symmetric()).collect();
            let difference = difference(&ours, &tract, &[x]);
            assert!(difference < 1e-5, "graph {seed}: {difference}");
        }
    }
}

#[test]
fn what_is_not_exported_is_left_to_tract() {
    let dir = TempDir::new();
    let path = dir.path().join("network.onnx");
    let tensor = |name: &str, shape: &[usize]| TensorEntry { name: name.into(), shape: shape.to_vec() };
    let (inputs, outputs) = (vec![tensor("x", &[1, 2, 6, 6])], vec![tensor("y", &[1, 3, 6, 6])]);
    let entry = NetworkEntry { file: "network.onnx".into(), inputs, outputs };
    let engine = |change: &dyn Fn(&mut onnx::Graph, String) -> String| {
        let mut graph = onnx::Graph::new(5, &entry.inputs, &entry.outputs);
        let x = graph.conv("x", [2, 3], 3, 1, 1);
        let x = change(&mut graph, x);
        graph.output(&x, "y");
        fs::write(&path, graph.bytes()).unwrap();
        let network = Network::load(&path, &entry).unwrap();
        network.warm_up().unwrap();
        network.engine()
    };
    assert_eq!(engine(&|_, x| x), Engine::Own);
    assert_eq!(engine(&|graph, x| graph.node("Tanh", &[&x], vec![])), Engine::Tract);
    let dilate = |graph: &mut onnx::Graph, x: String| {
        let node = graph.proto.node.last_mut().unwrap();
        node.attribute = vec![onnx::ints("pads", &[2; 4]), onnx::ints("dilations", &[2; 2])];
        x
    };
    assert_eq!(engine(&dilate), Engine::Tract);
}

#[test]
fn threads_do_not_change_a_bit() {
    let bundle = shipped("avatars64");
    let entry = &bundle.manifest.networks.denoiser;
    let network = Network::load(bundle.path_of(&entry.file), entry).unwrap();
    let inputs: Vec<Vec<f32>> =
        network.input_lens().map(|len| (0..len).map(|i| (i % 7) as f32 - 3.0).collect()).collect();
    let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
    let run = || {
        let mut out = vec![0.0; network.output_len()];
        network.run(&inputs, &mut out).unwrap();
        out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    let alone = run();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(|| (0..5).all(|_| run() == alone))).collect();
        assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
    });
}
