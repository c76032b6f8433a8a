//! Networks on small graphs: values against a naive convolution, and files that are damaged.

mod common;

use std::fs;

use common::{Random, TempDir, onnx};
use rissole::Error;
use rissole::bundle::manifest::{NetworkEntry, TensorEntry};
use rissole::network::Network;

fn entry(inputs: &[(&str, &[usize])], outputs: &[(&str, &[usize])]) -> NetworkEntry {
    let tensors = |list: &[(&str, &[usize])]| {
        list.iter().map(|(name, shape)| TensorEntry { name: (*name).into(), shape: shape.to_vec() }).collect()
    };
    NetworkEntry { file: "network.onnx".into(), inputs: tensors(inputs), outputs: tensors(outputs) }
}

/// 3×3 convolution with zero padding of `input` (C planes of side×side).
fn convolve(input: &[f32], weights: &[f32], channels: [usize; 2], side: usize) -> Vec<f32> {
    let at = |c: usize, y: i64, x: i64| {
        let inside = (0..side as i64).contains(&y) && (0..side as i64).contains(&x);
        if inside { input[(c * side + y as usize) * side + x as usize] } else { 0.0 }
    };
    let value = |out: usize, y: usize, x: usize| -> f32 {
        let taps = (0..channels[0]).flat_map(|c| (0..9).map(move |tap| (c, tap)));
        taps.map(|(c, tap)| {
            let (dy, dx) = (tap as i64 / 3 - 1, tap as i64 % 3 - 1);
            weights[(out * channels[0] + c) * 9 + tap] * at(c, y as i64 + dy, x as i64 + dx)
        })
        .sum()
    };
    (0..channels[1] * side * side).map(|i| value(i / (side * side), i / side % side, i % side)).collect()
}

#[test]
fn a_network_computes_what_its_graph_says() {
    let dir = TempDir::new();
    let path = dir.path().join("network.onnx");
    let entry = entry(&[("a", &[1, 2, 5, 5]), ("b", &[1, 3, 5, 5])], &[("y", &[1, 3, 5, 5])]);
    let mut graph = onnx::Graph::new(5, &entry.inputs, &entry.outputs);
    let x = graph.conv("a", [2, 3], 3, 1, 1);
    let x = graph.node("Add", &[&x, "b"], vec![]);
    graph.output(&x, "y");
    let raw = graph.proto.initializer[0].raw_data.clone();
    let weights: Vec<f32> = raw.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    fs::write(&path, graph.bytes()).unwrap();

    let network = Network::load(&path, &entry).unwrap();
    assert_eq!(network.input_lens().collect::<Vec<_>>(), [50, 75]);
    let mut random = Random(3);
    let a: Vec<f32> = (0..50).map(|_| random.symmetric()).collect();
    let b: Vec<f32> = (0..75).map(|_| random.symmetric()).collect();
    let mut y = vec![0.0; network.output_len()];
    network.run(&[&a, &b], &mut y).unwrap();
    let expected = convolve(&a, &weights, [2, 3], 5);
    for (i, y) in y.iter().enumerate() {
        assert!((y - (expected[i] + b[i])).abs() < 1e-5);
    }
    assert!(matches!(network.run(&[&a], &mut y), Err(Error::Internal(_))));
    assert!(matches!(network.run(&[&b, &a], &mut y), Err(Error::Internal(_))));
}

#[test]
fn another_signature_is_refused() {
    let dir = TempDir::new();
    let path = dir.path().join("network.onnx");
    let right = entry(&[("a", &[1, 2])], &[("y", &[1, 2])]);
    let mut graph = onnx::Graph::new(5, &right.inputs, &right.outputs);
    let x = graph.node("Tanh", &["a"], vec![]);
    graph.output(&x, "y");
    fs::write(&path, graph.bytes()).unwrap();
    Network::load(&path, &right).unwrap();
    let wrong = [
        entry(&[("b", &[1, 2])], &[("y", &[1, 2])]),
        entry(&[("a", &[2, 1])], &[("y", &[1, 2])]),
        entry(&[("a", &[1, 2])], &[("y", &[1, 2, 1])]),
        entry(&[("a", &[1, 2]), ("b", &[1])], &[("y", &[1, 2])]),
        entry(&[("a", &[1, 2])], &[]),
        entry(&[("a", &[1, 2])], &[("y", &[1 << 40, 1 << 40])]),
        entry(&[("a", &[1, 1 << 30])], &[("y", &[1, 2])]),
    ];
    for wrong in wrong {
        assert!(matches!(Network::load(&path, &wrong), Err(Error::File { .. })), "{wrong:?}");
    }
}

#[test]
fn an_input_may_go_unused() {
    let dir = TempDir::new();
    let path = dir.path().join("network.onnx");
    let entry = entry(&[("a", &[1, 2]), ("b", &[1, 3])], &[("y", &[1, 2])]);
    let mut graph = onnx::Graph::new(5, &entry.inputs, &entry.outputs);
    let x = graph.node("Neg", &["a"], vec![]);
    graph.output(&x, "y");
    fs::write(&path, graph.bytes()).unwrap();
    let mut y = [0.0; 2];
    Network::load(&path, &entry).unwrap().run(&[&[1.0, 2.0], &[0.0; 3]], &mut y).unwrap();
    assert_eq!(y, [-1.0, -2.0]);
}

#[test]
fn a_damaged_file_is_refused_or_runs_but_never_panics() {
    let dir = TempDir::new();
    let path = dir.path().join("network.onnx");
    let entry = entry(&[("a", &[1, 2, 5, 5]), ("t", &[1, 1])], &[("y", &[1, 2, 5, 5])]);
    let mut graph = onnx::Graph::new(5, &entry.inputs, &entry.outputs);
    let x = graph.conv("a", [2, 4], 3, 1, 1);
    let x = graph.node("Tanh", &[&x], vec![]);
    let x = graph.conv(&x, [4, 2], 3, 1, 1);
    let x = graph.node("Mul", &[&x, "t"], vec![]);
    graph.output(&x, "y");
    let whole = graph.bytes();
    let mut random = Random(8);
    let mut refused = 0;
    for i in 0..300 {
        let mut bytes = whole.clone();
        if i % 3 == 0 {
            bytes.truncate(random.below(whole.len()));
        } else {
            let at = random.below(whole.len());
            bytes[at] ^= 1 << random.below(8);
        }
        fs::write(&path, &bytes).unwrap();
        match Network::load(&path, &entry).and_then(|network| network.warm_up()) {
            Ok(()) => {}
            Err(Error::File { path: named, .. }) if named == path => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(refused > 100, "{refused}");
}
