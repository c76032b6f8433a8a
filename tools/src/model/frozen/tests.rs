//! The tape against tract on a network with every layer, and files that are not understood.

use tract_onnx::pb::GraphProto;
use tract_onnx::prelude::*;

use super::*;
use crate::backend::cpu::Cpu;
use crate::export::proto::{floats, int, ints, model, node, value_info};
use crate::random::Random;

const SIDE: usize = 19;

fn normal(random: &mut Random, n: usize) -> Vec<f32> {
    let mut values = vec![0.0; n];
    random.fill_normal(&mut values);
    values
}

/// Two branches and a third, as in Inception: odd windows, both pools, padded and not, a bias left out.
fn network() -> GraphProto {
    let mut random = Random::new(3);
    let mut weight = |name: &str, shape: [usize; 4]| {
        let values: Vec<f32> = normal(&mut random, shape.iter().product()).iter().map(|v| 0.3 * v).collect();
        floats(name, &shape, &values)
    };
    let window = |sides: [usize; 2], stride: usize, pads: [usize; 4]| {
        vec![ints("kernel_shape", &sides), ints("strides", &[stride; 2]), ints("pads", &pads)]
    };
    let initializer = vec![
        weight("stem_w", [6, 3, 3, 3]),
        weight("wide_w", [5, 6, 1, 7]),
        weight("tall_w", [4, 5, 7, 1]),
        weight("one_w", [3, 6, 1, 1]),
        weight("last_w", [8, 13, 5, 5]),
        floats("stem_b", &[6], &[0.1, -0.2, 0.3, 0.0, 0.5, -0.6]),
        floats("last_b", &[8], &[0.05; 8]),
    ];
    let nodes = vec![
        node("Conv", &["x", "stem_w", "stem_b"], &["stem_c"], window([3, 3], 2, [0; 4])),
        node("Relu", &["stem_c"], &["stem"], vec![]),
        node("Conv", &["stem", "wide_w"], &["wide"], window([1, 7], 1, [0, 3, 0, 3])),
        node("Conv", &["wide", "tall_w"], &["tall"], window([7, 1], 1, [3, 0, 3, 0])),
        node("AveragePool", &["stem"], &["mean"], window([3, 3], 1, [1; 4])),
        node("Conv", &["mean", "one_w"], &["one"], vec![]),
        node("Concat", &["tall", "one", "stem"], &["all"], vec![int("axis", 1)]),
        node("MaxPool", &["all"], &["pool"], window([3, 3], 2, [0; 4])),
        node("Conv", &["pool", "last_w", "last_b"], &["last"], window([5, 5], 1, [2; 4])),
        // Nothing that is asked for needs this one.
        node("Softmax", &["last"], &["unused"], vec![]),
    ];
    GraphProto {
        name: "features".into(),
        node: nodes,
        initializer,
        input: vec![value_info("x", &[1, 3, SIDE, SIDE])],
        output: vec![value_info("last", &[1, 8, 4, 4]), value_info("stem", &[1, 6, 9, 9])],
        ..GraphProto::default()
    }
}

fn read(graph: GraphProto, outputs: &[&str]) -> Result<Frozen<Cpu>> {
    Frozen::read(&Cpu::default(), Path::new("features.onnx"), &model(graph).encode_to_vec(), outputs)
}

/// `[H,W,C]` → `[C,H,W]`.
fn channels_first(x: &[f32], channels: usize) -> Vec<f32> {
    (0..channels).flat_map(|c| x.iter().skip(c).step_by(channels).copied()).collect()
}

#[test]
fn it_computes_what_tract_does() {
    let backend = Cpu::default();
    let picture = normal(&mut Random::new(8), SIDE * SIDE * 3);
    let mut frozen = read(network(), &["last", "stem"]).unwrap();
    frozen.check(SIDE, SIDE).unwrap();
    let (mut tape, network_of) = frozen.tape(&backend);
    let x = tape.input("x", [1, SIDE, SIDE, 3], &picture);
    let found = network_of.apply(&mut tape, x);

    let bytes = model(network()).encode_to_vec();
    let plan = onnx().model_for_read(&mut bytes.as_slice()).unwrap().into_optimized().unwrap().into_runnable().unwrap();
    let input = Tensor::from_shape(&[1, 3, SIDE, SIDE], &channels_first(&picture, 3)).unwrap();
    let expected = plan.run(tvec!(input.into())).unwrap();
    for (id, expected) in found.into_iter().zip(expected.iter()) {
        let found = channels_first(&tape.value(id), tape.shape(id)[3]);
        let expected = expected.try_as_plain_ram().unwrap();
        let expected = expected.as_slice::<f32>().unwrap();
        assert_eq!(found.len(), expected.len());
        assert!(found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-4), "{found:?} {expected:?}");
        assert!(expected.iter().any(|e| e.abs() > 0.1));
    }
    drop(tape);
    // Windows larger than what is left of a small picture.
    let told = frozen.check(4, 4).unwrap_err().to_string();
    assert!(told.contains("4×4") && told.contains("pool"), "{told}");
}

#[test]
fn what_is_not_understood_is_named() {
    let told = |change: &dyn Fn(&mut GraphProto), output: &str| {
        let mut graph = network();
        change(&mut graph);
        read(graph, &[output]).unwrap_err().to_string()
    };
    type Case<'a> = (&'a dyn Fn(&mut GraphProto), &'a str, &'a [&'a str]);
    let cases: [Case; 9] = [
        (&|_| {}, "elsewhere", &["features.onnx", "no tensor elsewhere"]),
        (&|_| {}, "unused", &["unused (Softmax)"]),
        (&|_| {}, "x", &["no tensor x"]),
        (&|g| g.initializer[0].raw_data.truncate(12), "stem", &["stem_w", "not as many values"]),
        (&|g| g.initializer[0].dims[0] = i64::MAX, "stem", &["stem_w"]),
        (&|g| g.node[0].attribute[2].ints = vec![3; 4], "stem", &["padded by a window"]),
        (&|g| g.node[0].attribute[1].ints = vec![0; 2], "stem", &["strides"]),
        (&|g| g.node.swap(0, 1), "stem", &["stem_c is not made before it"]),
        (&|g| g.node[0].attribute.push(int("group", 3)), "stem", &["in groups"]),
    ];
    for (change, output, parts) in cases {
        let text = told(change, output);
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    }
    let path = Path::new("features.onnx");
    assert!(Frozen::read(&Cpu::default(), path, b"no network", &["last"]).is_err());
}
