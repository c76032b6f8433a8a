//! A small graph of every case, and what becomes of it.

use tract_onnx::pb::OperatorSetIdProto;
use tract_onnx::prelude::*;

use super::*;
use crate::export::proto::{int, ints, text};
use crate::random::Random;

/// A graph of maps of 8 channels and 6×6 pixels.
struct Maker {
    graph: GraphProto,
    random: Random,
}

impl Maker {
    fn new() -> Self {
        let input = vec![proto::value_info("x", &[1, 8, 6, 6])];
        Self { graph: GraphProto { input, ..GraphProto::default() }, random: Random::new(1) }
    }

    fn node(&mut self, op: &str, name: &str, inputs: &[&str], attributes: Vec<tract_onnx::pb::AttributeProto>) {
        self.graph.node.push(proto::node(op, inputs, &[name], attributes));
    }

    /// `i8` weights in as many parts.
    fn bytes(&mut self, name: &str, [outputs, inputs]: [usize; 2], parts: usize) {
        let names: Vec<String> = (0..parts).map(|i| format!("{name}_{i}")).collect();
        let rows = outputs / parts;
        for part in &names {
            let values: Vec<i8> = (0..rows * inputs * 9).map(|_| self.random.below(255) as u8 as i8).collect();
            let scales: Vec<f32> = (0..rows).map(|_| 1e-3 * (0.5 + self.random.uniform())).collect();
            let (q, scale) = (format!("{part}_int8"), format!("{part}_scale"));
            self.graph.initializer.push(proto::bytes(&q, &[rows, inputs, 3, 3], &values));
            self.graph.initializer.push(proto::floats(&scale, &[rows], &scales));
            let to = if parts == 1 { name } else { part };
            self.node("DequantizeLinear", to, &[&q, &scale], vec![int("axis", 0)]);
        }
        if parts > 1 {
            self.node("Concat", name, &names.iter().map(String::as_str).collect::<Vec<_>>(), vec![int("axis", 0)]);
        }
    }

    fn conv(&mut self, name: &str, x: &str, channels: [usize; 2], parts: usize) {
        let weights = format!("{name}_weights");
        self.bytes(&weights, channels, parts);
        self.conv_of(name, x, &weights);
    }

    fn conv_of(&mut self, name: &str, x: &str, weights: &str) {
        let window = vec![ints("kernel_shape", &[3; 2]), ints("strides", &[1; 2]), ints("pads", &[1; 4])];
        self.node("Conv", name, &[x, weights], window);
    }

    fn model(mut self, output: &str, shape: &[usize]) -> ModelProto {
        self.graph.output = vec![proto::value_info(output, shape)];
        proto::model(self.graph)
    }
}

/// Every case: first and last, shared, after a resize, in parts, in float, after a concatenation.
fn graph() -> ModelProto {
    let mut m = Maker::new();
    m.conv("first", "x", [8, 8], 1);
    m.node("Sigmoid", "shared", &["first"], vec![]);
    m.conv("one", "shared", [8, 8], 1);
    m.conv("two", "shared", [8, 8], 4);
    m.graph.initializer.push(proto::floats("floats", &[8, 8, 3, 3], &[0.01; 576]));
    m.conv_of("float", "shared", "floats");
    m.node("Concat", "both", &["one", "two"], vec![int("axis", 1)]);
    m.conv("concatenated", "both", [8, 16], 1);
    m.graph.initializer.push(proto::floats("scales", &[4], &[1.0, 1.0, 2.0, 2.0]));
    let nearest = || {
        let how = [("mode", "nearest"), ("coordinate_transformation_mode", "asymmetric"), ("nearest_mode", "floor")];
        how.map(|(name, value)| text(name, value)).to_vec()
    };
    m.node("Add", "sum", &["concatenated", "float"], vec![]);
    m.node("Resize", "large", &["sum", "", "scales"], nearest());
    m.conv("grown", "large", [8, 8], 1);
    m.node("Resize", "large_both", &["both", "", "scales"], nearest());
    m.conv("large_concatenated", "large_both", [8, 16], 1);
    m.node("Add", "all", &["grown", "large_concatenated"], vec![]);
    // A value with a name that an inserted one would take.
    m.node("Sigmoid", "large_quantized", &["all"], vec![]);
    m.conv("last", "large_quantized", [4, 8], 1);
    m.model("last", &[1, 4, 12, 12])
}

fn names(model: &ModelProto, places: &[Place]) -> Vec<(String, Vec<String>)> {
    let graph = model.graph.as_ref().unwrap();
    let name = |&i: &usize| graph.node[i].output[0].clone();
    places.iter().map(|place| (place.value.clone(), place.convolutions.iter().map(name).collect())).collect()
}

fn run(model: &ModelProto, x: &[f32]) -> Vec<f32> {
    let model = tract_onnx::onnx().model_for_proto_model(model).unwrap().into_optimized().unwrap();
    let x = Tensor::from_shape(&[1, 8, 6, 6], x).unwrap();
    let y = model.into_runnable().unwrap().run(tvec![x.into_tvalue()]).unwrap();
    y[0].to_plain_array_view::<f32>().unwrap().iter().copied().collect()
}

#[test]
fn inner_convolutions_of_bytes_are_chosen_and_others_stay_in_float() {
    let model = graph();
    let places = places(&model, 8).unwrap();
    let expected = [("shared", vec!["one", "two"]), ("large", vec!["grown"])];
    let expected = expected.map(|(value, nodes)| (value.to_owned(), nodes.into_iter().map(String::from).collect()));
    assert_eq!(names(&model, &places), expected);
    assert_eq!(convolutions(&model), 8);
}

#[test]
fn one_pair_of_nodes_goes_before_the_first_that_reads_it_and_the_result_stays_near() {
    let before = graph();
    let mut after = before.clone();
    let ranges = [Range::new(0.0, 1.0, 8), Range::new(-12.0, 12.0, 8)];
    let places = places(&before, 8).unwrap();
    insert(&mut after, &places.iter().zip(ranges).collect::<Vec<_>>(), Nodes::Standard);
    let graph = after.graph.as_ref().unwrap();

    let inserted: Vec<usize> = (0..graph.node.len()).filter(|&i| graph.node[i].op_type == "QuantizeLinear").collect();
    assert_eq!(inserted.len(), 2);
    for (&i, (value, reader)) in inserted.iter().zip([("shared", "one"), ("large", "grown")]) {
        let [quantize, dequantize, conv] = &graph.node[i..i + 3] else { panic!("three nodes") };
        assert_eq!((quantize.input[0].as_str(), dequantize.op_type.as_str()), (value, "DequantizeLinear"));
        assert_eq!((&dequantize.input[0], &dequantize.input[1..]), (&quantize.output[0], &quantize.input[1..]));
        assert_eq!((conv.output[0].as_str(), &conv.input[0]), (reader, &dequantize.output[0]));
        assert!(quantize.attribute.is_empty() && dequantize.attribute.is_empty());
        let constant = |name: &String| graph.initializer.iter().find(|tensor| tensor.name == *name).unwrap();
        let [scale, zero] = [1, 2].map(|input| constant(&quantize.input[input]));
        assert!(scale.dims.is_empty() && zero.dims.is_empty() && zero.data_type == DataType::Uint8 as i32);
    }
    let two = graph.node.iter().find(|node| node.output[0] == "two").unwrap();
    assert_eq!(two.input[0], "shared_dequantized");
    assert_eq!(graph.node[inserted[1]].output[0], "large_quantized_2");
    let all = graph.node.iter().flat_map(|node| &node.output).chain(graph.initializer.iter().map(|t| &t.name));
    let all: Vec<_> = all.collect();
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    assert_eq!(super::places(&after, 8).unwrap_err(), "it is quantized already");

    let mut x = vec![0.0; 288];
    Random::new(3).fill_normal(&mut x);
    let (exact, near) = (run(&before, &x), run(&after, &x));
    let energy = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>();
    let noise = energy(&mut exact.iter().zip(&near).map(|(a, b)| a - b));
    let signal = energy(&mut exact.iter().copied());
    assert!(noise > 0.0 && noise < 1e-3 * signal, "{noise} of {signal}");
    // On reals it is the same, but where a difference of the last bit is rounded the other way.
    let mut on_reals = before.clone();
    insert(&mut on_reals, &places.iter().zip(ranges).collect::<Vec<_>>(), Nodes::OnReals);
    let apart = energy(&mut near.iter().zip(run(&on_reals, &x)).map(|(a, b)| a - b));
    assert!(apart < 0.1 * noise, "{apart} of {noise}");
}

#[test]
fn more_than_8_bits_are_clipped_and_make_a_file_of_a_later_operator_set() {
    let before = graph();
    let places = places(&before, 12).unwrap();
    assert!(places.iter().all(|place| place.bits == 12));
    let ranges = [Range::new(0.0, 1.0, 12), Range::new(-12.0, 12.0, 12)];
    let mut after = before.clone();
    insert(&mut after, &places.iter().zip(ranges).collect::<Vec<_>>(), Nodes::Standard);
    assert_eq!((after.opset_import[0].version, after.ir_version), (21, 10));
    let graph = after.graph.as_ref().unwrap();
    let clip = graph.node.iter().position(|node| node.op_type == "Clip").unwrap();
    let [clip, quantize, _, conv] = &graph.node[clip..clip + 4] else { panic!("four nodes") };
    assert_eq!((clip.input[0].as_str(), conv.output[0].as_str()), ("shared", "one"));
    assert_eq!(quantize.input[0], clip.output[0]);
    let zero = graph.initializer.iter().find(|tensor| tensor.name == quantize.input[2]).unwrap();
    assert_eq!((zero.data_type, zero.raw_data.len()), (DataType::Uint16 as i32, 2));
}

#[test]
fn sums_that_could_overflow_stay_in_float() {
    let chain = |channels: usize| {
        let mut m = Maker::new();
        m.conv("a", "x", [channels, 8], 1);
        m.conv("b", "a", [8, channels], 1);
        m.conv("c", "b", [8, 8], 1);
        places(&m.model("c", &[1, 8, 6, 6]), 12)
    };
    // 4·255·128·9·1827 is just below 2³¹.
    let bits = |channels: usize| chain(channels).unwrap()[0].bits;
    assert_eq!([113, 114, 227, 228, 1827].map(bits), [12, 11, 11, 10, 8]);
    assert!(chain(1828).unwrap_err().contains("no convolution of int8 weights"));
}

#[test]
fn a_graph_of_another_operator_set_is_refused() {
    let mut model = graph();
    model.opset_import = vec![OperatorSetIdProto { domain: String::new(), version: 12 }];
    assert!(places(&model, 8).unwrap_err().contains("operator set"));
}
