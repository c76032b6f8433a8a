//! Every op, and a small U-Net of all of them: tract on the exported file against the tape's own forward pass.

use tract_onnx::prelude::*;

use super::{ExportSpec, Weights, quantize_dequantize, record_values, to_onnx_bytes};
use crate::backend::Window;
use crate::backend::cpu::Cpu;
use crate::random::Random;
use crate::tape::{Init, NodeId, ParamSet, Shape, Tape, op::len};

/// Largest error allowed, relative to the largest value: the two sum in different orders.
const TOLERANCE: f32 = 1e-4;

/// Inputs by name, in NHWC.
type Inputs<'a> = [(&'a str, Shape)];

/// Records `build` on random inputs and parameters, exports it, runs the file in tract and compares.
fn check_with(
    weights: Weights,
    inputs: &Inputs,
    params: &[Shape],
    build: impl Fn(&mut Tape<Cpu>, &[NodeId], &[NodeId]) -> NodeId,
) -> Vec<u8> {
    let cpu = Cpu::default();
    let mut random = Random::new(5);
    let mut set = ParamSet::default();
    for (i, &shape) in params.iter().enumerate() {
        let name = format!("layer{i}.weight");
        set.add(&cpu, name, shape, Init::FanIn { fan_in: shape[2].max(3), gain: 1.0 }, &mut random);
    }
    let values: Vec<Vec<f32>> = inputs.iter().map(|&(_, s)| normal(&mut random, len(s))).collect();

    let mut tape = Tape::new(&cpu, &mut set);
    let output = record(&mut tape, inputs, &values, params.len(), &build);
    let file = to_onnx_bytes(&tape, &cpu, ExportSpec { name: "test", output: (output, "y"), weights });
    drop(tape);

    if weights == Weights::Int8 {
        quantize_dequantize(&cpu, &mut set);
    }
    let mut tape = Tape::new(&cpu, &mut set);
    let output = record(&mut tape, inputs, &values, params.len(), &build);
    let (shape, expected) = (tape.shape(output), tape.value(output));
    let (dims, found) = run(&file, inputs, &values);
    let vector = shape[1] * shape[2] == 1 && dims.len() == 2;
    assert_eq!(dims, if vector { vec![1, shape[3]] } else { vec![1, shape[3], shape[1], shape[2]] });
    compare(&found, &to_nchw(&expected, shape));
    file
}

fn check(inputs: &Inputs, params: &[Shape], build: impl Fn(&mut Tape<Cpu>, &[NodeId], &[NodeId]) -> NodeId) -> Vec<u8> {
    check_with(Weights::F32, inputs, params, build)
}

fn record(
    tape: &mut Tape<Cpu>,
    inputs: &Inputs,
    values: &[Vec<f32>],
    params: usize,
    build: impl Fn(&mut Tape<Cpu>, &[NodeId], &[NodeId]) -> NodeId,
) -> NodeId {
    let ids: Vec<_> = inputs.iter().zip(values).map(|(&(name, s), v)| tape.input(name, s, v)).collect();
    let params: Vec<_> = (0..params).map(|i| tape.param(i)).collect();
    build(tape, &ids, &params)
}

/// Runs a file in tract on the inputs that it names.
fn run(file: &[u8], inputs: &Inputs, values: &[Vec<f32>]) -> (Vec<usize>, Vec<f32>) {
    let model = tract_onnx::onnx().model_for_read(&mut &file[..]).unwrap().into_optimized().unwrap();
    let names: Vec<String> = model.inputs.iter().map(|i| model.node(i.node).name.clone()).collect();
    let tensors = names
        .iter()
        .map(|name| {
            let i = inputs.iter().position(|(n, _)| n == name).unwrap();
            let shape @ [_, h, w, c] = inputs[i].1;
            let dims: &[usize] = if h * w == 1 { &[1, c] } else { &[1, c, h, w] };
            Tensor::from_shape(dims, &to_nchw(&values[i], shape)).unwrap().into_tvalue()
        })
        .collect();
    let outputs = model.into_runnable().unwrap().run(tensors).unwrap();
    let output = outputs[0].to_plain_array_view::<f32>().unwrap();
    (output.shape().to_vec(), output.iter().copied().collect())
}

fn to_nchw(x: &[f32], [_, h, w, c]: Shape) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    for (pixel, row) in x.chunks_exact(c).enumerate() {
        row.iter().enumerate().for_each(|(channel, &v)| out[channel * h * w + pixel] = v);
    }
    out
}

fn compare(found: &[f32], expected: &[f32]) {
    let largest = expected.iter().fold(0.0f32, |a, v| a.max(v.abs()));
    let error = found.iter().zip(expected).fold(0.0f32, |a, (f, e)| a.max((f - e).abs()));
    assert!(largest.is_finite() && largest > 0.0, "a test that shows nothing");
    assert!(found.len() == expected.len() && found.iter().all(|v| v.is_finite()), "{} values", found.len());
    assert!(error <= TOLERANCE * largest, "error {error} of {largest}");
}

fn normal(random: &mut Random, n: usize) -> Vec<f32> {
    let mut values = vec![0.0; n];
    random.fill_normal(&mut values);
    values
}

fn vector(n: usize) -> Shape {
    [1, 1, 1, n]
}

#[test]
fn convolution_3x3() {
    check(&[("x", [1, 5, 3, 7])], &[[1, 1, 63, 11], vector(11)], |t, x, p| {
        t.conv(x[0], p[0], p[1], Window::centred(3, 1))
    });
}

#[test]
fn convolution_with_stride_on_even_and_odd_sizes() {
    for (h, w) in [(4, 6), (5, 7), (4, 7), (5, 6), (1, 2)] {
        check(&[("x", [1, h, w, 3])], &[[1, 1, 27, 5], vector(5)], |t, x, p| {
            t.conv(x[0], p[0], p[1], Window::centred(3, 2))
        });
        check(&[("x", [1, h, w, 3])], &[[1, 1, 3, 5], vector(5)], |t, x, p| {
            t.conv(x[0], p[0], p[1], Window::centred(1, 2))
        });
    }
}

#[test]
fn pools_and_windows_that_are_not_centred() {
    let window = |sides, stride, before, after| Window { sides, stride, before, after };
    let params = [[1, 1, 3 * 6, 4], vector(4)];
    check(&[("x", [1, 6, 5, 3])], &params, |t, x, p| t.conv(x[0], p[0], p[1], window([3, 2], 2, [1, 0], [0, 1])));
    for mean in [false, true] {
        check(&[("x", [1, 6, 5, 3])], &[], |t, x, _| t.pool(x[0], Window::centred(3, 2), mean));
        check(&[("x", [1, 6, 5, 3])], &[], |t, x, _| t.pool(x[0], window([2, 3], 1, [0, 0], [0, 0]), mean));
    }
}

#[test]
fn convolution_1x1_of_a_map_and_of_a_vector() {
    let params = [[1, 1, 7, 5], vector(5)];
    check(&[("x", [1, 3, 5, 7])], &params, |t, x, p| t.conv(x[0], p[0], p[1], Window::centred(1, 1)));
    check(&[("x", vector(7))], &params, |t, x, p| t.conv(x[0], p[0], p[1], Window::centred(1, 1)));
}

#[test]
fn one_weight_as_a_matrix_and_as_a_kernel() {
    check(&[("x", [1, 3, 5, 7]), ("v", vector(7))], &[[1, 1, 7, 5], vector(5)], |t, x, p| {
        let map = t.conv(x[0], p[0], p[1], Window::centred(1, 1));
        let v = t.conv(x[1], p[0], p[1], Window::centred(1, 1));
        t.add_vector(map, v)
    });
}

#[test]
fn group_norm() {
    let params = [vector(12), vector(12)];
    for (groups, silu) in [(1, false), (3, true), (12, true)] {
        check(&[("x", [1, 5, 3, 12])], &params, |t, x, p| t.group_norm(x[0], p[0], p[1], groups, silu));
    }
}

#[test]
fn layer_norm() {
    let shape = [1, 3, 5, 7];
    check(&[("x", shape)], &[shape, shape], |t, x, p| t.layer_norm(x[0], p[0], p[1]));
}

#[test]
fn activations() {
    check(&[("x", [1, 3, 5, 7])], &[], |t, x, _| t.silu(x[0]));
    check(&[("x", [1, 3, 5, 7])], &[], |t, x, _| t.leaky_relu(x[0], 0.2));
    check(&[("x", vector(7))], &[], |t, x, _| t.silu(x[0]));
}

#[test]
fn sums() {
    check(&[("a", [1, 3, 5, 7]), ("b", [1, 3, 5, 7])], &[], |t, x, _| t.add(x[0], x[1]));
    check(&[("a", vector(7)), ("b", vector(7))], &[], |t, x, _| t.add(x[0], x[1]));
    check(&[("a", [1, 3, 5, 7]), ("v", vector(7))], &[], |t, x, _| t.add_vector(x[0], x[1]));
    // A value in two forms: as it came, and at rank 3.
    check(&[("a", [1, 3, 5, 7]), ("v", vector(7))], &[], |t, x, _| {
        let sum = t.add_vector(x[0], x[1]);
        let sum = t.add(x[0], sum);
        t.add(sum, sum)
    });
}

#[test]
fn concatenation() {
    check(&[("a", [1, 3, 5, 2]), ("b", [1, 3, 5, 7])], &[], |t, x, _| t.concat(x[0], x[1]));
    check(&[("a", vector(2)), ("b", vector(7))], &[], |t, x, _| t.concat(x[0], x[1]));
}

#[test]
fn rearrangements() {
    check(&[("x", [1, 3, 5, 7])], &[], |t, x, _| t.upsample(x[0]));
    check(&[("x", [1, 3, 5, 12])], &[], |t, x, _| t.depth_to_space(x[0]));
    check(&[("x", [1, 5, 7, 3])], &[], |t, x, _| t.crop(x[0], 2));
}

#[test]
fn attention() {
    for heads in [1, 2, 3] {
        check(&[("qkv", [1, 3, 5, 36])], &[], |t, x, _| t.attention(x[0], heads));
    }
}

#[test]
fn sinusoid() {
    check(&[("t", vector(1))], &[], |t, x, _| t.sinusoid(x[0], 10));
}

#[test]
fn a_straight_through_node_passes_its_input() {
    let cpu = Cpu::default();
    let mut set = ParamSet::default();
    let mut tape = Tape::new(&cpu, &mut set);
    let x = tape.input("x", [1, 1, 2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let rounded = tape.straight_through(x, vec![0.0; 4]);
    let spec = ExportSpec { name: "test", output: (rounded, "y"), weights: Weights::F32 };
    let file = to_onnx_bytes(&tape, &cpu, spec);
    let (dims, found) = run(&file, &[("x", [1, 1, 2, 2])], &[vec![1.0, 2.0, 3.0, 4.0]]);
    assert_eq!((&dims[..], &found[..]), (&[1, 2, 1, 2][..], &[1.0, 3.0, 2.0, 4.0][..]));
}

#[test]
fn nodes_that_the_output_does_not_need_are_left_out() {
    let file = check(&[("used", [1, 3, 5, 7]), ("unused", [1, 3, 5, 7])], &[], |t, x, _| {
        t.add(x[0], x[1]);
        t.silu(x[0])
    });
    let model = tract_onnx::onnx().proto_model_for_read(&mut &file[..]).unwrap();
    let graph = model.graph.unwrap();
    assert_eq!(graph.input.iter().map(|i| &i.name[..]).collect::<Vec<_>>(), ["used"]);
    assert_eq!(graph.node.iter().map(|n| &n.op_type[..]).collect::<Vec<_>>(), ["Sigmoid", "Mul"]);
}

#[test]
fn quantized_weights_equal_the_tape_on_rounded_ones() {
    let params = [[1, 1, 288, 40], vector(40)];
    let small =
        |w| check_with(w, &[("x", [1, 5, 3, 32])], &params, |t, x, p| t.conv(x[0], p[0], p[1], Window::centred(3, 1)));
    let (full, quarter) = (small(Weights::F32).len(), small(Weights::Int8).len());
    assert!(quarter < full / 3, "{quarter} bytes of {full}");
    check_with(Weights::Int8, &[("x", vector(100))], &[[1, 1, 100, 90], vector(90)], |t, x, p| {
        t.conv(x[0], p[0], p[1], Window::centred(1, 1))
    });
    check_with(Weights::Int8, &[("x", [1, 3, 3, 1024])], &[[1, 1, 9216, 1], vector(1)], |t, x, p| {
        t.conv(x[0], p[0], p[1], Window::centred(3, 1))
    });
}

#[test]
fn a_quantized_weight_of_more_than_4_mib_is_folded_all_the_same() {
    let file = check_with(Weights::Int8, &[("x", vector(1030))], &[[1, 1, 1030, 1100], vector(1100)], |t, x, p| {
        t.conv(x[0], p[0], p[1], Window::centred(1, 1))
    });
    let model = tract_onnx::onnx().model_for_read(&mut &file[..]).unwrap().into_optimized().unwrap();
    let ops: Vec<_> = model.nodes.iter().map(|n| n.op.name().to_string()).collect();
    assert!(ops.iter().all(|op| !op.contains("Cast") && !op.contains("Concat")), "{ops:?}");
}

/// A parameter list that grows as a network is described.
#[derive(Default)]
struct Shapes(Vec<Shape>);

impl Shapes {
    fn conv(&mut self, kernel: usize, inputs: usize, outputs: usize) -> usize {
        self.0.extend([[1, 1, kernel * kernel * inputs, outputs], vector(outputs)]);
        self.0.len() - 2
    }

    fn norm(&mut self, channels: usize) -> usize {
        self.0.extend([vector(channels); 2]);
        self.0.len() - 2
    }
}

/// A U-Net of two levels with everything the denoiser has: stem and condition, layer norm, timestep and position,
/// residuals, attention, skips, crop.
fn unet(weights: Weights, size: usize, width: usize, margin: usize) -> Vec<u8> {
    let mut s = Shapes::default();
    let (e, wide) = (2 * width, 2 * width);
    let stem = s.conv(3, 11, width);
    let affine = {
        s.0.extend([[1, size, size, width]; 2]);
        s.0.len() - 2
    };
    let (time, place) = (s.conv(1, e, e), s.conv(1, 5, e));
    let mut block = |inputs, outputs| {
        let ids = [s.norm(inputs), s.conv(3, inputs, outputs), s.conv(1, e, outputs), s.norm(outputs)];
        (ids, s.conv(3, outputs, outputs), s.conv(1, inputs, outputs))
    };
    let (down, middle, up) = (block(width, width), block(width, wide), block(wide, width));
    let halve = s.conv(3, width, width);
    let (norm, qkv, out) = (s.norm(wide), s.conv(1, wide, 3 * wide), s.conv(1, wide, wide));
    let grow = s.conv(3, wide, width);
    let (last_norm, last) = (s.norm(width), s.conv(3, width, 10));

    let inputs = [
        ("latent", [1, size, size, 11]),
        ("timestep", vector(1)),
        ("position", vector(5)),
        ("condition", [1, size, size, width]),
    ];
    check_with(weights, &inputs, &s.0, |t, x, p| {
        let conv = |t: &mut Tape<Cpu>, x, at: usize, kernel, stride| {
            t.conv(x, p[at], p[at + 1], Window::centred(kernel, stride))
        };
        let norm_silu = |t: &mut Tape<Cpu>, x, at: usize| t.group_norm(x, p[at], p[at + 1], 4, true);
        let angles = t.sinusoid(x[1], e);
        let time = conv(t, angles, time, 1, 1);
        let place = conv(t, x[2], place, 1, 1);
        let sum = t.add(time, place);
        let embedding = t.silu(sum);
        let residual = |t: &mut Tape<Cpu>, x, (ids, out, skip): ([usize; 4], usize, usize)| {
            let h = norm_silu(t, x, ids[0]);
            let h = conv(t, h, ids[1], 3, 1);
            let v = conv(t, embedding, ids[2], 1, 1);
            let h = t.add_vector(h, v);
            let h = norm_silu(t, h, ids[3]);
            let h = conv(t, h, out, 3, 1);
            let x = conv(t, x, skip, 1, 1);
            t.add(x, h)
        };
        let y = conv(t, x[0], stem, 3, 1);
        let y = t.add(y, x[3]);
        let y = t.layer_norm(y, p[affine], p[affine + 1]);
        let fine = residual(t, y, down);
        let y = conv(t, fine, halve, 3, 2);
        let y = residual(t, y, middle);
        let h = t.group_norm(y, p[norm], p[norm + 1], 4, false);
        let h = conv(t, h, qkv, 1, 1);
        let h = t.attention(h, 4);
        let h = conv(t, h, out, 1, 1);
        let y = t.add(y, h);
        let y = t.upsample(y);
        let y = conv(t, y, grow, 3, 1);
        let y = t.concat(y, fine);
        let y = residual(t, y, up);
        let y = norm_silu(t, y, last_norm);
        let y = conv(t, y, last, 3, 1);
        t.crop(y, margin)
    })
}

#[test]
fn a_small_unet() {
    unet(Weights::F32, 6, 16, 1);
}

#[test]
fn a_small_unet_with_quantized_weights() {
    unet(Weights::Int8, 6, 16, 1);
}

#[test]
fn recorded_values_are_those_of_the_network() {
    let folder = std::env::temp_dir().join(format!("rissole-values-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("net.onnx");
    std::fs::write(&path, unet(Weights::Int8, 6, 16, 1)).unwrap();
    record_values(&path, &folder, 3).unwrap();
    let read = |name: &str| -> Vec<f32> {
        let bytes = std::fs::read(folder.join(format!("net/{name}.f32"))).unwrap();
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let sizes = [("latent", 396), ("timestep", 1), ("position", 5), ("condition", 576), ("y", 160)];
    sizes.iter().for_each(|&(name, len)| assert_eq!(read(name).len(), len, "{name}"));
    assert!(read("y").iter().all(|v| v.is_finite()) && read("y").iter().any(|&v| v != 0.0));
    assert!((0.0..1000.0).contains(&read("timestep")[0]) && read("position").iter().sum::<f32>() == 1.0);
    let _ = std::fs::remove_dir_all(&folder);
}
