//! Lowering of the shipped networks, whole and damaged.

use std::path::Path;

use tract_onnx::onnx;
use tract_onnx::pb::{ModelProto, tensor_proto::DataType};
use tract_onnx::prelude::Framework;

use super::lower;
use crate::Bundle;
use crate::bundle::manifest::NetworkEntry;
use crate::network::program::{Op, Program, Workspace};
use crate::threads::Threads;

fn shipped() -> Bundle {
    Bundle::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/avatars64")).unwrap()
}

fn read(bundle: &Bundle, entry: &NetworkEntry) -> ModelProto {
    onnx().proto_model_for_path(bundle.path_of(&entry.file)).unwrap()
}

/// Random numbers below a bound, from splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((z ^ (z >> 29)) % n as u64) as usize
    }
}

fn run(program: &Program, entry: &NetworkEntry) {
    let inputs: Vec<Vec<f32>> = entry.inputs.iter().map(|input| vec![0.5; input.shape.iter().product()]).collect();
    let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
    let mut out = vec![0.0; entry.outputs[0].shape.iter().product()];
    program.run(&inputs, &mut out, &mut Workspace::for_one(program.arena, program.scratch), &Threads::alone());
}

#[test]
fn the_denoiser_becomes_few_steps_and_copies_nothing() {
    let bundle = shipped();
    let entry = &bundle.manifest.networks.denoiser;
    let model = read(&bundle, entry);
    let program = lower(&model, entry).unwrap();
    assert!(program.steps.len() * 4 < model.graph.unwrap().node.len(), "{}", program.steps.len());
    let kinds = |wanted: fn(&Op) -> bool| program.steps.iter().filter(|step| wanted(&step.op)).count();
    assert_eq!(kinds(|op| matches!(op, Op::Copy { .. } | Op::Add { .. } | Op::AddVector { .. } | Op::Silu { .. })), 0);
    assert_eq!(kinds(|op| matches!(op, Op::Attention { .. })), 1);
    let alive: usize = program.steps.iter().map(|step| step.out.view.shape.len()).sum();
    assert!(program.arena * 4 < alive, "an arena of {} for {alive} values", program.arena);
}

/// Damages one thing of `model`.
fn damage(model: &mut ModelProto, random: &mut Random) {
    let graph = model.graph.as_mut().unwrap();
    let names: Vec<String> = graph.node.iter().flat_map(|node| node.output.clone()).collect();
    let constants: Vec<String> = graph.initializer.iter().map(|tensor| tensor.name.clone()).collect();
    let number = [0, 1, 2, 3, 5, 48, -1, 1 << 20, i64::MAX, i64::MIN][random.below(10)];
    let (count, tensors) = (graph.node.len(), graph.initializer.len());
    let node = &mut graph.node[random.below(count)];
    match random.below(8) {
        0 | 1 => {
            let inputs = node.input.len();
            let other = if random.below(2) == 0 { &names } else { &constants };
            node.input[random.below(inputs)].clone_from(&other[random.below(other.len())]);
        }
        2 => node.input.reverse(),
        3 => drop(node.input.pop()),
        4 | 5 => {
            if let Some(attribute) = node.attribute.first_mut() {
                attribute.i = number;
                attribute.ints.iter_mut().take(1 + random.below(4)).for_each(|value| *value = number);
            }
        }
        6 => {
            let tensor = &mut graph.initializer[random.below(tensors)];
            let sides = tensor.dims.len();
            tensor.dims[random.below(sides)] = number;
        }
        _ => {
            let is_sides = |tensor: &&mut tract_onnx::pb::TensorProto| tensor.data_type == DataType::Int64 as i32;
            let mut sides: Vec<_> = graph.initializer.iter_mut().filter(is_sides).collect();
            let count = sides.len();
            if count > 0 {
                let raw = &mut sides[random.below(count)].raw_data;
                let at = random.below(raw.len() / 8) * 8;
                raw[at..at + 8].copy_from_slice(&number.to_le_bytes());
            }
        }
    }
}

#[test]
fn a_damaged_graph_is_refused_or_runs_within_its_buffers() {
    let bundle = shipped();
    let networks = &bundle.manifest.networks;
    let mut random = Random(4);
    let mut run_anyway = 0;
    for entry in [&networks.denoiser, &networks.decoder, &networks.conditioner] {
        let whole = read(&bundle, entry);
        for _ in 0..300 {
            let mut model = whole.clone();
            damage(&mut model, &mut random);
            if let Ok(program) = lower(&model, entry) {
                run(&program, entry);
                run_anyway += 1;
            }
        }
    }
    assert!((20..600).contains(&run_anyway), "{run_anyway}");
}
