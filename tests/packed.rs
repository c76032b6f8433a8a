//! Packed networks: the same bits as from the ONNX file, nothing in the heap, and no harm from a file that lies.

mod common;
#[path = "common/container.rs"]
mod container;

use std::fs;
use std::path::Path;

use common::counting::{Counting, growth};
use common::{Random, TempDir, graphs, onnx};
use container::edit_section;
use rissole::bundle::manifest::NetworkEntry;
use rissole::bundle::packed_name;
use rissole::network::{Engine, Network};
use rissole::{Bundle, Error};
use serde_json::Value;

#[global_allocator]
static COUNTING: Counting = Counting;

const ONNX: &str = "network.onnx";
const PACKED: &str = "network.packed";

/// A random network of our operators, its ONNX file and its packed file.
struct Packed {
    dir: TempDir,
    entry: NetworkEntry,
    hash: String,
}

impl Packed {
    fn new(seed: u64) -> Self {
        Self::of(graphs::random(seed))
    }

    fn of((entry, graph): (NetworkEntry, onnx::Graph)) -> Self {
        let dir = TempDir::new();
        let bytes = graph.bytes();
        let hash = blake3::hash(&bytes).to_hex().to_string();
        fs::write(dir.path().join(ONNX), bytes).unwrap();
        assert!(Network::pack(dir.path().join(ONNX), &entry, dir.path().join(PACKED)).unwrap());
        Self { dir, entry, hash }
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join(PACKED)
    }

    fn load(&self) -> rissole::Result<Network> {
        Network::load_packed(self.path(), &self.entry, &self.hash)
    }
}

/// The bits of what `network` gives for inputs that depend on `seed`.
fn bits(network: &Network, seed: u64) -> Vec<u32> {
    let mut random = Random(seed);
    let inputs: Vec<Vec<f32>> =
        network.input_lens().map(|len| (0..len).map(|_| 2.0 * random.symmetric()).collect()).collect();
    let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
    let mut out = vec![0.0; network.output_len()];
    network.run(&inputs, &mut out).unwrap();
    out.into_iter().map(f32::to_bits).collect()
}

#[test]
fn a_packed_network_gives_the_same_bits() {
    for seed in 0..60 {
        let packed = Packed::new(seed);
        let plain = Network::load(packed.dir.path().join(ONNX), &packed.entry).unwrap();
        let network = packed.load().unwrap();
        assert_eq!((plain.engine(), network.engine()), (Engine::Own, Engine::Packed));
        assert_eq!(bits(&network, seed), bits(&plain, seed), "graph {seed}");
    }
}

#[test]
fn the_weights_of_the_shipped_bundle_are_not_copied() {
    let bundle = Bundle::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/avatars64")).unwrap();
    for entry in bundle.manifest.networks.all() {
        let (packed, hash) = bundle.packed(entry).unwrap();
        let path = bundle.path_of(&packed.name);
        let (network, grown) = growth(|| Network::load_packed(&path, entry, hash).unwrap());
        let file = fs::metadata(&path).unwrap().len() as usize;
        assert!(grown < file / 8 + (64 << 10), "{}: {grown} bytes of a file of {file}", entry.file);
        let plain = Network::load(bundle.path_of(&entry.file), entry).unwrap();
        assert_eq!(bits(&network, 1), bits(&plain, 1), "{}", entry.file);
    }
}

/// A bundle of nothing but the network: enough to open it.
fn bundle_of(packed: &Packed) -> Bundle {
    let mut bundle = Bundle::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/avatars64")).unwrap();
    bundle.dir = packed.dir.path().to_owned();
    bundle.manifest.files = [ONNX, PACKED].map(|name| bundle.measure(name).unwrap()).into();
    bundle
}

#[test]
fn where_the_packed_file_is_damaged_or_of_another_network_the_onnx_file_is_used() {
    let packed = Packed::new(5);
    assert_eq!(packed_name(ONNX), PACKED);
    let bundle = bundle_of(&packed);
    let open = || Network::open(&bundle, &packed.entry).unwrap();
    let (engine, expected) = (open().engine(), bits(&open(), 3));
    assert_eq!(engine, Engine::Packed);
    let sound = fs::read(packed.path()).unwrap();
    let falls_back = |what: &str| {
        let network = open();
        assert_eq!(network.engine(), Engine::Own, "{what}");
        assert_eq!(bits(&network, 3), expected, "{what}");
    };
    for at in (0..sound.len()).step_by(97) {
        let mut damaged = sound.clone();
        damaged[at] ^= 1 << (at % 8);
        fs::write(packed.path(), damaged).unwrap();
        falls_back(&format!("byte {at}"));
    }
    for length in (0..sound.len()).step_by(1009) {
        fs::write(packed.path(), &sound[..length]).unwrap();
        falls_back(&format!("{length} bytes"));
    }
    fs::copy(Packed::new(6).path(), packed.path()).unwrap();
    falls_back("another network's");
    fs::remove_file(packed.path()).unwrap();
    falls_back("none");
}

/// Every number of a JSON value, by path.
fn numbers(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Number(_) => found.push(path.to_owned()),
        Value::Array(items) => items.iter().enumerate().for_each(|(i, v)| numbers(v, &format!("{path}/{i}"), found)),
        Value::Object(map) => map.iter().for_each(|(key, v)| numbers(v, &format!("{path}/{key}"), found)),
        _ => {}
    }
}

/// The smallest of some graphs in which there are integers.
fn smallest(graph: fn(u64) -> (NetworkEntry, onnx::Graph)) -> Packed {
    let weights =
        |(_, graph): &(_, onnx::Graph)| graph.proto.initializer.iter().map(|w| w.raw_data.len()).sum::<usize>();
    let is_rounded = |(_, graph): &(_, onnx::Graph)| graph.proto.node.iter().any(|n| n.op_type == "QuantizeLinear");
    Packed::of((0..40).map(graph).filter(is_rounded).min_by_key(weights).unwrap())
}

/// Each number of a program with right checksums replaced by others. What is loaded all the same must run, or give a
/// number that is none, in tiles too; nothing may panic within or take more memory than the network is worth.
#[test]
fn a_program_that_lies_is_refused_or_harmless() {
    lie_to(&smallest(graphs::random));
    let local = smallest(graphs::local);
    assert_eq!(local.load().unwrap().cut(5), Ok(()), "what is sound");
    lie_to(&local);
}

fn lie_to(packed: &Packed) {
    let (mut refused, mut harmless) = (0, 0);
    let sound = fs::read(packed.path()).unwrap();
    let mut text = vec![];
    edit_section(&packed.path(), b"prog", 0, |bytes| text = bytes.clone());
    let program: Value = serde_json::from_slice(&text).unwrap();
    let mut paths = vec![];
    numbers(&program, "", &mut paths);
    assert!(paths.len() > 300, "{}", paths.len());
    for path in paths {
        let old = program.pointer(&path).unwrap().as_u64();
        let near = old.map_or(vec![], |old| vec![old + 1, old.saturating_sub(1), old + 64]);
        for new in near.into_iter().chain([0, 1 << 20, u64::MAX]).filter(|new| Some(*new) != old) {
            let mut lie = program.clone();
            *lie.pointer_mut(&path).unwrap() = new.into();
            fs::write(packed.path(), &sound).unwrap();
            edit_section(&packed.path(), b"prog", 0, |bytes| *bytes = serde_json::to_vec(&lie).unwrap());
            let (result, grown) = growth(|| {
                let mut network = packed.load()?;
                network.warm_up()?;
                // Cut or whole.
                let _ = network.cut(5);
                network.warm_up()
            });
            assert!(grown < 8 << 20, "{path} = {new}: {grown} bytes");
            match result {
                Ok(()) => harmless += 1,
                Err(Error::File { fault, .. }) if !fault.contains("malformed") => refused += 1,
                Err(error) => panic!("{path} = {new}: {error}"),
            }
        }
    }
    assert!(refused > 4 * harmless, "{refused} refused, {harmless} harmless");
}

#[test]
#[ignore = "writes fuzz/packed.json and its corpus anew: after a change of format"]
fn make_the_fuzz_corpus() {
    let packed = smallest(graphs::random);
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    fs::create_dir_all(fuzz.join("corpus/packed")).unwrap();
    fs::copy(packed.path(), fuzz.join("corpus/packed").join(PACKED)).unwrap();
    fs::write(fuzz.join("packed.json"), serde_json::to_vec_pretty(&(&packed.entry, &packed.hash)).unwrap()).unwrap();
}
