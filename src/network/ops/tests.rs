//! Every operator on odd sizes: all instruction sets against each other bit for bit, and against naive sums in f64.
//! The bits are also those of every other processor: their checksums stand here.

use super::*;
use crate::isa::Isa;
use crate::network::team::{Scratch, Team};
use crate::threads::Threads;

/// Uniform in −1…1, from splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn values(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.next()).collect()
    }
}

fn shape(height: usize, width: usize, channels: usize) -> Shape {
    Shape { channels, height, width }
}

/// An activation of random values whose pixels lie `gap` values apart, with others between and zeros behind.
struct Loose {
    values: Vec<f32>,
    view: View,
}

impl Loose {
    fn new(random: &mut Random, shape: Shape, gap: usize) -> Self {
        let wide = Shape { channels: shape.channels + gap, ..shape };
        let mut values = random.values(wide.len());
        values.resize(wide.len() + wide.channels, 0.0);
        Self { values, view: View::whole(wide).channels(gap / 2, shape.channels) }
    }

    fn grid(&self) -> Grid<'_> {
        Grid { values: &self.values, view: self.view }
    }

    /// Value at a row, column and channel; 0 outside.
    fn at(&self, y: isize, x: isize, c: usize) -> f64 {
        let Shape { height, width, .. } = self.view.shape;
        let inside = (0..height as isize).contains(&y) && (0..width as isize).contains(&x);
        if inside { f64::from(self.grid().pixel(y as usize, x as usize)[c]) } else { 0.0 }
    }

    fn all(&self) -> Vec<f64> {
        values_of(self.view.shape, |y, x, c| self.at(y as isize, x as isize, c))
    }
}

fn values_of(shape: Shape, value: impl Fn(usize, usize, usize) -> f64) -> Vec<f64> {
    let (c, w) = (shape.channels, shape.width);
    (0..shape.len()).map(|i| value(i / c / w, i / c % w, i % c)).collect()
}

/// CRC-32 of the bits of all outputs so far.
#[derive(Default)]
struct Bits(crc32fast::Hasher);

impl Bits {
    fn add(&mut self, values: &[u32]) {
        values.iter().for_each(|bits| self.0.update(&bits.to_le_bytes()));
    }

    /// They must be those that x86-64 gave.
    fn assert_same_everywhere(self, checksum: u32) {
        let found = self.0.finalize();
        assert_eq!(found, checksum, "other bits than elsewhere: {found:#x}");
    }
}

/// Has `work` done by every instruction set and by teams of several sizes, into an output of `shape` whose pixels lie `gap`
/// values apart; all must give the same bits, near `expected`, and leave what lies between the pixels alone. Adds the bits
/// to `all_bits`.
fn check(
    all_bits: &mut Bits,
    shape: Shape,
    gap: usize,
    expected: &[f64],
    tolerance: f64,
    work: impl Fn(Isa, usize, GridMut),
) {
    let mut first: Option<Vec<u32>> = None;
    for (isa, members) in Isa::all().flat_map(|isa| [1, 2, 3, 7].map(|members| (isa, members))) {
        let wide = Shape { channels: shape.channels + gap, ..shape };
        let mut values = vec![7.5; wide.len()];
        let view = View::whole(wide).channels(gap / 2, shape.channels);
        work(isa, members, GridMut { values: &mut values, view });
        let out = Loose { values, view };
        for (i, (found, expected)) in out.all().iter().zip(expected).enumerate() {
            assert!((found - expected).abs() <= tolerance, "{isa:?} by {members}, value {i}: {found}, not {expected}");
        }
        let between = out.values.iter().enumerate().filter(|(i, _)| {
            let c = i % wide.channels;
            c < gap / 2 || c >= gap / 2 + shape.channels
        });
        assert!(between.into_iter().all(|(_, value)| *value == 7.5), "{isa:?} by {members} writes between the pixels");
        let bits: Vec<u32> = out.values.iter().map(|value| value.to_bits()).collect();
        assert!(*first.get_or_insert_with(|| bits.clone()) == bits, "{isa:?} by {members} gives other bits");
    }
    all_bits.add(&first.unwrap_or_default());
}

/// Does `work` by a team of so many.
fn by_team(scratch: Scratch, members: usize, work: impl FnOnce(&mut Team)) {
    let filled = |len| vec![f32::NAN; len].into_boxed_slice();
    let (mut common, mut each) = (filled(scratch.common), vec![filled(scratch.each); members]);
    work(&mut Team::new(&Threads::start(members.min(3)).unwrap(), &mut common, &mut each).keen());
}

fn silu64(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

#[derive(Clone, Copy, PartialEq)]
enum Multiplied {
    Floats,
    Int8AsFloats,
    Integers,
}

#[derive(Clone, Copy)]
struct Case {
    input: Shape,
    outputs: usize,
    size: usize,
    stride: usize,
    upsample: bool,
    multiplied: Multiplied,
    extras: bool,
}

fn check_conv(bits: &mut Bits, case: Case) {
    let Case { input, outputs, size, stride, upsample, multiplied, extras } = case;
    let int8 = multiplied != Multiplied::Floats;
    let mut random = Random(outputs as u64 * 100 + input.len() as u64);
    let kernel = Kernel { outputs, inputs: input.channels, size };
    let row = kernel.row().unwrap();
    let bytes: Vec<u8> = (0..row * outputs).map(|_| ((random.next() * 127.0) as i8).cast_unsigned()).collect();
    let scales: Vec<f32> = (0..outputs).map(|_| 0.003 + 0.002 * random.next()).collect();
    let values: Vec<f32> = match int8 {
        true => (0..row * outputs).map(|i| f32::from(bytes[i].cast_signed()) * scales[i / row]).collect(),
        false => random.values(row * outputs).iter().map(|v| v * 0.4).collect(),
    };
    let bias = random.values(outputs);
    let rows: Vec<_> = bytes.chunks_exact(row).zip(&scales).map(|(bytes, &scale)| Quantized { bytes, scale }).collect();
    let mut weights =
        if int8 { Weights::quantized(kernel, &rows, &bias) } else { Weights::float(kernel, &values, &bias) };
    // Some values lie beyond. Where there are extras, integers are of more than 8 bits.
    let (scale, [least, most]) = if extras { (1.9 / 4096.0, [-1920, 2175]) } else { (1.9 / 256.0, [-120, 135]) };
    let is_rounded = multiplied == Multiplied::Integers && weights.round(Rounding::new(scale, [least, most]).unwrap());
    assert_eq!(is_rounded, multiplied == Multiplied::Integers);
    let rounded = |value: f64| {
        let integer = f64::from(value as f32 / scale).clamp(least.into(), most.into()).round_ties_even();
        if is_rounded { integer * f64::from(scale) } else { value }
    };
    let conv = Conv { weights, geometry: Geometry { size, stride, pad: size / 2, upsample }, silu: extras };

    let x = Loose::new(&mut random, input, 3);
    let output = conv.geometry.output(input, outputs).unwrap();
    let vector = random.values(outputs);
    let residual = Loose::new(&mut random, output, 5);
    let expected = values_of(output, |y, column, o| {
        let mut sum = f64::from(bias[o]);
        for (at, weight) in values[o * row..][..row].iter().enumerate() {
            let (i, dy, dx) = (at / size / size, at / size % size, at % size);
            let y = (y * stride + dy) as isize - (size / 2) as isize;
            let column = (column * stride + dx) as isize - (size / 2) as isize;
            let halved = |side: isize| if upsample { side.div_euclid(2) } else { side };
            sum += f64::from(*weight) * rounded(x.at(halved(y), halved(column), i));
        }
        if !extras {
            return sum;
        }
        silu64(sum + f64::from(vector[o]) + residual.at(y as isize, column as isize, o))
    });
    let scratch = conv.scratch(input, output, Corner::default()).unwrap();
    check(bits, output, 4, &expected, 2e-5, |isa, members, out| {
        let inputs = ConvInputs {
            x: x.grid(),
            vector: extras.then_some(&vector[..]),
            residual: extras.then_some(residual.grid()),
            corner: Corner::default(),
        };
        by_team(scratch, members, |team| conv.run(isa, inputs, out, team));
    });
}

#[test]
fn convolution() {
    let mut bits = Bits::default();
    for (input, outputs) in [
        (shape(5, 7, 3), 1),
        (shape(1, 1, 33), 50),
        (shape(6, 4, 16), 16),
        (shape(3, 9, 20), 37),
        (shape(17, 15, 18), 5),
    ] {
        for (size, stride) in [(1, 1), (3, 1), (3, 2), (5, 1), (2, 2)] {
            for multiplied in [Multiplied::Floats, Multiplied::Int8AsFloats] {
                let extras = multiplied == Multiplied::Int8AsFloats;
                let case = Case { input, outputs, size, stride, upsample: false, multiplied, extras };
                if input.height + 2 * (size / 2) >= size {
                    check_conv(&mut bits, case);
                }
            }
        }
    }
    bits.assert_same_everywhere(0xab6d_f908);
}

#[test]
fn convolution_of_integers() {
    let mut bits = Bits::default();
    for (input, outputs) in [(shape(5, 7, 3), 1), (shape(1, 1, 33), 50), (shape(6, 4, 16), 16), (shape(9, 11, 21), 37)]
    {
        for (size, stride, upsample) in [(1, 1, false), (3, 1, false), (3, 2, false), (5, 1, false), (3, 1, true)] {
            for extras in [false, true] {
                let multiplied = Multiplied::Integers;
                check_conv(&mut bits, Case { input, outputs, size, stride, upsample, multiplied, extras });
            }
        }
    }
    bits.assert_same_everywhere(0x9c8d_2f31);
}

#[test]
fn integers_are_exact() {
    // As many inputs as are taken, all of the largest: Winograd's sums and those of the products wrap around in no output.
    let kernel = Kernel { outputs: 3, inputs: 1827, size: 3 };
    let row = kernel.row().unwrap();
    let bytes = vec![(-128i8).cast_unsigned(); row];
    let rounding = Rounding::new(1.0, [0, 255]).unwrap();
    let rows = [Quantized { bytes: &bytes, scale: 1.0 }; 3];
    let mut weights = Weights::quantized(kernel, &rows, &[0.0; 3]);
    assert!(weights.round(rounding));
    let conv = Conv { weights, geometry: Geometry { size: 3, stride: 1, pad: 1, upsample: false }, silu: false };
    let input = shape(4, 4, kernel.inputs);
    let mut x = vec![1000.0; input.len()];
    x.resize(input.len() + kernel.inputs, 0.0);
    let (side, inner) = (shape(4, 4, 3), -(255.0 * 128.0 * row as f32));
    for isa in Isa::all() {
        let mut out = vec![0.0; side.len()];
        let scratch = conv.scratch(input, side, Corner::default()).unwrap();
        let x = Grid { values: &x, view: View::whole(input) };
        let inputs = ConvInputs { x, vector: None, residual: None, corner: Corner::default() };
        let whole = GridMut { values: &mut out, view: View::whole(side) };
        by_team(scratch, 1, |team| conv.run(isa, inputs, whole, team));
        let seen =
            |y: usize, x: usize| [y, x].iter().map(|side| if side % 3 == 0 { 2.0 } else { 3.0 }).product::<f32>();
        for (i, value) in out.iter().enumerate() {
            assert_eq!(*value, inner / 9.0 * seen(i / 12, i / 3 % 4), "{isa:?}, value {i}");
        }
    }
    let wide = Kernel { inputs: kernel.inputs + 1, ..kernel };
    let bytes = vec![0; wide.row().unwrap()];
    let mut weights = Weights::quantized(wide, &[Quantized { bytes: &bytes, scale: 1.0 }; 3], &[0.0; 3]);
    assert!(!weights.round(rounding));
    assert!(!Weights::float(kernel, &vec![0.0; 3 * row], &[0.0; 3]).round(rounding));
    let new = |scale, bounds| Rounding::new(scale, bounds).is_some();
    assert!(new(0.5, [-8191, 8191]) && !new(0.5, [-8192, 0]) && !new(0.5, [0, 8192]) && !new(0.5, [1, 0]));
    assert!(!new(0.0, [0, 255]) && !new(-1.0, [0, 255]) && !new(f32::NAN, [0, 255]) && !new(f32::INFINITY, [0, 255]));
}

#[test]
fn convolution_of_what_is_made_larger() {
    let mut bits = Bits::default();
    for (input, outputs) in [(shape(5, 3, 7), 19), (shape(1, 1, 5), 3), (shape(4, 6, 16), 32)] {
        for multiplied in [Multiplied::Floats, Multiplied::Int8AsFloats] {
            for extras in [false, true] {
                check_conv(&mut bits, Case { input, outputs, size: 3, stride: 1, upsample: true, multiplied, extras });
            }
        }
    }
    bits.assert_same_everywhere(0x522f_df73);
}

#[test]
fn a_convolution_that_does_not_fit_has_no_output() {
    let output = |size, stride, pad, upsample, shape| Geometry { size, stride, pad, upsample }.output(shape, 1);
    assert_eq!(output(3, 2, 1, false, shape(6, 5, 2)), Some(shape(3, 3, 1)));
    assert_eq!(output(3, 1, 1, true, shape(2, 5, 2)), Some(shape(4, 10, 1)));
    assert_eq!(output(5, 1, 0, false, shape(4, 9, 2)), None);
    assert_eq!(output(3, 0, 1, false, shape(4, 9, 2)), None);
    assert_eq!(output(3, 1, 0, true, shape(4, 9, 2)), None);
    assert_eq!(output(1, 1, usize::MAX, false, shape(4, 9, 2)), None);
    assert_eq!(output(3, 1, 1, true, shape(usize::MAX, 9, 2)), None);
}

#[test]
fn group_normalisation() {
    let mut bits = Bits::default();
    for (shape, groups) in [(shape(5, 3, 12), 3), (shape(1, 7, 33), 1), (shape(2, 2, 40), 5), (shape(3, 3, 7), 7)] {
        for silu in [false, true] {
            let mut random = Random(groups as u64);
            let x = Loose::new(&mut random, shape, 9);
            let norm = GroupNorm {
                groups,
                epsilon: 1e-3,
                scale: random.values(shape.channels).into(),
                shift: random.values(shape.channels).into(),
                silu,
            };
            let all = x.all();
            let per_group = shape.channels / groups;
            let group = |c: usize| {
                let members =
                    all.iter().enumerate().filter(move |(i, _)| i % shape.channels / per_group == c / per_group);
                members.map(|(_, value)| *value)
            };
            let expected = values_of(shape, |y, column, c| {
                let count = (shape.pixels() * per_group) as f64;
                let mean = group(c).sum::<f64>() / count;
                let variance = group(c).map(|v| (v - mean).powi(2)).sum::<f64>() / count;
                let normal = (x.at(y as isize, column as isize, c) - mean) / (variance + 1e-3).sqrt();
                let value = normal * f64::from(norm.scale[c]) + f64::from(norm.shift[c]);
                if silu { silu64(value) } else { value }
            });
            let scratch = Scratch { common: 2 * shape.channels, each: 0 };
            check(&mut bits, shape, 2, &expected, 5e-6, |isa, members, out| {
                by_team(scratch, members, |team| norm.run(isa, x.grid(), out, team));
            });
        }
    }
    bits.assert_same_everywhere(0x4a02_fb69);
}

#[test]
fn layer_normalisation() {
    let mut bits = Bits::default();
    for shape in [shape(3, 5, 7), shape(1, 1, 50), shape(2, 2, 32)] {
        let mut random = Random(shape.len() as u64);
        let x = Loose::new(&mut random, shape, 1);
        let norm = LayerNorm {
            epsilon: 1e-5,
            scale: random.values(shape.len()).into(),
            shift: random.values(shape.len()).into(),
        };
        let all = x.all();
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        let variance = all.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / all.len() as f64;
        let expected = values_of(shape, |y, column, c| {
            let i = (y * shape.width + column) * shape.channels + c;
            (all[i] - mean) / (variance + 1e-5).sqrt() * f64::from(norm.scale[i]) + f64::from(norm.shift[i])
        });
        let scratch = Scratch { common: 2 * shape.channels, each: 0 };
        check(&mut bits, shape, 6, &expected, 5e-6, |isa, members, out| {
            by_team(scratch, members, |team| norm.run(isa, x.grid(), out, team));
        });
    }
    bits.assert_same_everywhere(0xbaa3_ca41);
}

#[test]
fn attention() {
    let mut bits = Bits::default();
    for (shape, heads) in [(shape(3, 5, 21), 3), (shape(1, 1, 4), 1), (shape(4, 8, 64), 2)] {
        let mut random = Random(heads as u64);
        let qkv = Loose::new(&mut random, Shape { channels: 3 * shape.channels, ..shape }, 2);
        let attention = Attention { heads, scale: 2.5 };
        let size = shape.channels / heads;
        let at = |part: usize, token: usize, c: usize| {
            let (y, x) = ((token / shape.width) as isize, (token % shape.width) as isize);
            qkv.at(y, x, part * shape.channels + c)
        };
        let expected = values_of(shape, |y, x, c| {
            let head = c / size * size;
            let score = |token: usize| -> f64 {
                (head..head + size).map(|c| at(0, y * shape.width + x, c) * at(1, token, c)).sum::<f64>() * 2.5
            };
            let weights: Vec<f64> = (0..shape.pixels()).map(|token| score(token).exp()).collect();
            let mixed: f64 = weights.iter().enumerate().map(|(token, weight)| weight * at(2, token, c)).sum();
            mixed / weights.iter().sum::<f64>()
        });
        let scratch = Scratch { common: 0, each: attention.scratch(shape).unwrap() };
        check(&mut bits, shape, 3, &expected, 5e-5, |isa, members, out| {
            by_team(scratch, members, |team| attention.run(isa, qkv.grid(), out, team));
        });
    }
    bits.assert_same_everywhere(0xa668_ba1e);
}

#[test]
fn silu_everywhere() {
    let mut bits = Bits::default();
    let mut random = Random(5);
    for (shape, size) in [(shape(3, 5, 19), 1.0), (shape(9, 9, 16), 30.0), (shape(2, 3, 1), 1e4)] {
        let mut x = Loose::new(&mut random, shape, 1);
        x.values.iter_mut().for_each(|value| *value *= size);
        let expected = values_of(shape, |y, column, c| silu64(x.at(y as isize, column as isize, c)));
        check(&mut bits, shape, 2, &expected, 2e-7 * f64::from(size), |isa, _, out| silu(isa, x.grid(), out));
    }
    bits.assert_same_everywhere(0x527c_5b4d);
}

#[test]
fn the_exponential_is_close_at_every_size() {
    for i in -870_000..=880_000 {
        let x = i as f32 * 1e-4;
        let (found, expected) = (f64::from(lanes::exp(x)), f64::from(x).exp());
        assert!((found - expected).abs() <= 2.5e-7 * expected, "e^{x}: {found}, not {expected}");
    }
    assert_eq!(lanes::exp(0.0), 1.0);
    assert_eq!(lanes::exp(f32::INFINITY), lanes::exp(88.0));
    assert_eq!(lanes::exp(f32::NEG_INFINITY), lanes::exp(-87.0));
    assert!(lanes::exp(f32::NAN).is_nan());
    assert!(lanes::silu(f32::NAN).is_nan());
}

#[test]
fn sums_and_moves() {
    let mut bits = Bits::default();
    let shape = shape(4, 6, 12);
    let mut random = Random(6);
    let (a, b, vector) = (Loose::new(&mut random, shape, 2), Loose::new(&mut random, shape, 0), random.values(12));
    let at = |x: &Loose, y: usize, column: usize, c: usize| x.at(y as isize, column as isize, c);
    let sum = values_of(shape, |y, x, c| at(&a, y, x, c) + at(&b, y, x, c));
    check(&mut bits, shape, 1, &sum, 1e-7, |_, _, out| add(a.grid(), b.grid(), out));
    let sum = values_of(shape, |y, x, c| at(&a, y, x, c) + f64::from(vector[c]));
    check(&mut bits, shape, 1, &sum, 1e-7, |_, _, out| add_vector(a.grid(), &vector, out));
    check(&mut bits, shape, 1, &a.all(), 0.0, |_, _, out| copy(a.grid(), out));
    let larger = Shape { channels: 3, height: 8, width: 12 };
    let spread = values_of(larger, |y, x, c| at(&a, y / 2, x / 2, (y % 2 * 2 + x % 2) * 3 + c));
    check(&mut bits, larger, 1, &spread, 0.0, |_, _, out| depth_to_space(a.grid(), 2, out));
    let window = Grid { view: a.view.window(1, 2, 2, 3), ..a.grid() };
    let part = Shape { height: 2, width: 3, ..shape };
    check(&mut bits, part, 1, &values_of(part, |y, x, c| at(&a, y + 1, x + 2, c)), 0.0, |_, _, out| copy(window, out));

    let mut planes = vec![0.0; shape.len()];
    write_planes(a.grid(), &mut planes);
    assert_eq!(f64::from(planes[(5 * 4 + 3) * 6 + 2]), a.at(3, 2, 5));
    check(&mut bits, shape, 1, &a.all(), 0.0, |_, _, out| read_planes(&planes, out));
    bits.assert_same_everywhere(0xeaa9_c491);
}

#[test]
fn sinusoids() {
    let mut bits = Bits::default();
    let rates = [1.0, 0.01, 0.3];
    let angles = rates.map(|rate| f64::from(937.0f32 * rate));
    let expected: Vec<f64> = angles.iter().map(|a| a.cos()).chain(angles.iter().map(|a| a.sin())).collect();
    check(&mut bits, shape(1, 1, 6), 3, &expected, 1e-6, |_, _, out| sinusoid(937.0, &rates, out));
    bits.assert_same_everywhere(0xa1ba_af67);
}
