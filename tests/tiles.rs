//! Networks cut into tiles: the same bits as from the whole, in the memory that they say.

mod common;

use std::fs;
use std::path::Path;

use common::counting::{Counting, growth};
use common::{Random, TempDir, graphs};
use rissole::Bundle;
use rissole::bundle::manifest::NetworkEntry;
use rissole::network::{Engine, Network};

#[global_allocator]
static COUNTING: Counting = Counting;

fn shipped(name: &str) -> Bundle {
    Bundle::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name)).unwrap()
}

fn values(random: &mut Random, network: &Network) -> Vec<f32> {
    let len = network.input_lens().next().unwrap();
    (0..len).map(|_| 1.7 * random.symmetric()).collect()
}

fn bits(network: &Network, input: &[f32]) -> Vec<u32> {
    let mut out = vec![f32::NAN; network.output_len()];
    network.run(&[input], &mut out).unwrap();
    out.into_iter().map(f32::to_bits).collect()
}

#[test]
fn tiles_of_any_size_give_the_same_bits() {
    let dir = TempDir::new();
    let path = dir.path().join("network.onnx");
    let mut random = Random(5);
    let mut tiles = 0;
    for seed in 0..80 {
        let (entry, graph) = graphs::local(seed);
        fs::write(&path, graph.bytes()).unwrap();
        let mut network = Network::load(&path, &entry).unwrap();
        assert_eq!(network.engine(), Engine::Own, "graph {seed}");
        let input = values(&mut random, &network);
        let whole = bits(&network, &input);
        let [_, _, height, width] = entry.outputs[0].shape[..] else { panic!() };
        for side in [1 + height.max(width) / 5, 1 + random.below(height.max(width)), height.max(width)] {
            network.cut(side).unwrap();
            assert!(bits(&network, &input) == whole, "graph {seed} of {height}×{width} in tiles of {side}");
            tiles += height.div_ceil(side) * width.div_ceil(side);
        }
    }
    assert!(tiles > 2000, "{tiles}");
}

#[test]
fn the_shipped_decoders_give_the_same_bits_in_tiles() {
    gives_the_same_bits_in_tiles("avatars64", &[7, 16, 24, 33, 63]);
    gives_the_same_bits_in_tiles("avatars256", &[64, 100, 255]);
}

fn gives_the_same_bits_in_tiles(name: &str, sides: &[usize]) {
    let bundle = shipped(name);
    let mut network = Network::open(&bundle, &bundle.manifest.networks.decoder).unwrap();
    assert_eq!(network.engine(), Engine::Packed);
    let mut random = Random(6);
    let inputs: Vec<Vec<f32>> = (0..2).map(|_| values(&mut random, &network)).collect();
    let whole: Vec<_> = inputs.iter().map(|input| bits(&network, input)).collect();
    for &side in sides {
        network.cut(side).unwrap();
        for (input, whole) in inputs.iter().zip(&whole) {
            assert!(bits(&network, input) == *whole, "{name}, tiles of {side}");
        }
    }
}

#[test]
fn what_tiles_take_is_told_before_it_is_taken() {
    let bundle = shipped("avatars64");
    let mut network = Network::open(&bundle, &bundle.manifest.networks.decoder).unwrap();
    let input = values(&mut Random(7), &network);
    let mut needs = vec![];
    for side in [None, Some(64), Some(32), Some(16), Some(5)] {
        if let Some(side) = side {
            network.cut(side).unwrap();
        }
        let told = network.workspace_bytes().unwrap() + network.passing_bytes();
        let (_, grown) = growth(|| network.run_tiles(&input, &mut |_, _| {}).unwrap());
        // The lists of memory that runs have left.
        let list = 512;
        assert!((told..=told + list).contains(&(grown as u64)), "{side:?}: {grown} bytes, {told} told");
        // And again, in the memory that is left.
        let (_, grown) = growth(|| network.run_tiles(&input, &mut |_, _| {}).unwrap());
        assert_eq!(grown as u64, network.passing_bytes(), "{side:?}");
        needs.push(told);
    }
    // Scratch for Winograd's convolution is most of the rest.
    assert!(needs[2] > needs[3] && 3 * needs[3] < 2 * needs[0], "{needs:?}");
}

#[test]
fn activations_side_by_side_are_each_computed_as_far_as_a_tile_depends_on_them() {
    let dir = TempDir::new();
    let path = dir.path().join("network.onnx");
    let (entry, graph) = graphs::skip(96);
    fs::write(&path, graph.bytes()).unwrap();
    let mut network = Network::load(&path, &entry).unwrap();
    let input = values(&mut Random(9), &network);
    let (whole, all) = (bits(&network, &input), network.workspace_bytes().unwrap());
    network.cut(16).unwrap();
    assert!(bits(&network, &input) == whole);
    // Of 22 × 22 pixels at most, instead of 96 × 96.
    let tile = network.workspace_bytes().unwrap();
    assert!(8 * tile < all, "{tile} of {all}");
}

#[test]
fn what_is_not_local_is_not_cut_and_runs_on() {
    let bundle = shipped("avatars64");
    let load = |entry: &NetworkEntry| Network::load(bundle.path_of(&entry.file), entry).unwrap();
    let networks = &bundle.manifest.networks;
    for entry in [&networks.denoiser, &networks.conditioner] {
        let mut network = load(entry);
        let why = network.cut(8).unwrap_err();
        assert!(why.contains("depends on more") || why.contains("one input"), "{why}");
        network.warm_up().unwrap();
    }
    let path = bundle.path_of(&networks.decoder.file);
    let mut by_tract = Network::load_with_tract(path, &networks.decoder).unwrap();
    assert!(by_tract.cut(16).unwrap_err().contains("tract"));

    // What was cut and cannot be cut otherwise is whole again.
    let mut decoder = load(&networks.decoder);
    let input = values(&mut Random(8), &decoder);
    let whole = bits(&decoder, &input);
    decoder.cut(16).unwrap();
    assert!(decoder.cut(0).is_err());
    let mut windows = vec![];
    decoder.run_tiles(&input, &mut |window, _| windows.push(window)).unwrap();
    assert_eq!((windows.len(), bits(&decoder, &input)), (1, whole));
}
