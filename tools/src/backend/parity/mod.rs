//! Every operation on two backends with the same random inputs of odd sizes: forward and backward, outputs
//! poisoned with NaN before.

use super::Backend;
use crate::random::Random;

/// Largest error of an operation in `f32`, as [`error`] measures it.
pub const TOLERANCE: f64 = 1e-4;

/// The same where activations are bf16; what goes in then is rounded to that before.
pub const BF16_TOLERANCE: f64 = 2e-2;

/// Two backends, and the largest error so far.
#[derive(Debug)]
pub struct Pair<'a, A, B> {
    reference: &'a A,
    candidate: &'a B,
    random: Random,
    /// Whether activations are rounded to bf16 before they go in.
    rounds: bool,
    worst: f64,
}

/// A named comparison.
pub type Check<A, B> = (&'static str, fn(&mut Pair<A, B>));

/// What goes into an operation.
enum Given {
    Activations(Vec<f32>),
    Floats(Vec<f32>),
}

fn act(values: Vec<f32>) -> Given {
    Given::Activations(values)
}

fn floats(values: Vec<f32>) -> Given {
    Given::Floats(values)
}

/// What an output holds before the operation.
enum Before {
    /// Activations of NaN: the operation must write all of it.
    Poison(usize),
    /// The same in floats.
    FloatPoison(usize),
    /// Random activations: the operation must add to them.
    Values(usize),
    /// The same in floats.
    FloatValues(usize),
}
use Before::{FloatPoison, FloatValues, Poison, Values};

/// Runs `check`; returns the largest error of any value, relative to the value and to the array's root mean square
/// together. A value that is not finite has an infinite error. With `rounds` activations are rounded to bf16 before they
/// go in, to both.
pub fn error<A: Backend, B: Backend>(reference: &A, candidate: &B, check: Check<A, B>, rounds: bool) -> f64 {
    let mut pair = Pair { reference, candidate, random: Random::new(7), rounds, worst: 0.0 };
    check.1(&mut pair);
    pair.worst
}

/// To the nearest bf16, of two equally near to the even one.
fn to_bf16(value: f32) -> f32 {
    let bits = value.to_bits();
    f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}

impl<A: Backend, B: Backend> Pair<'_, A, B> {
    fn normal(&mut self, n: usize) -> Vec<f32> {
        let mut values = vec![0.0; n];
        self.random.fill_normal(&mut values);
        values
    }

    /// The same as it goes in.
    fn rounded(&self, given: Given) -> Given {
        match given {
            Given::Activations(values) if self.rounds => act(values.into_iter().map(to_bf16).collect()),
            given => given,
        }
    }

    fn given(&self, given: Vec<Given>) -> Vec<Given> {
        given.into_iter().map(|given| self.rounded(given)).collect()
    }

    fn before(&mut self, outputs: &[Before]) -> Vec<Given> {
        let mut before = |output: &Before| match *output {
            Poison(n) => act(vec![f32::NAN; n]),
            FloatPoison(n) => floats(vec![f32::NAN; n]),
            Values(n) => {
                let values = act(self.normal(n));
                self.rounded(values)
            }
            FloatValues(n) => floats(self.normal(n)),
        };
        outputs.iter().map(&mut before).collect()
    }

    fn compare(&mut self, expected: &[Vec<f32>], got: &[Vec<f32>]) {
        for (expected, got) in expected.iter().zip(got) {
            let squares: f64 = expected.iter().map(|&e| f64::from(e).powi(2)).sum();
            let size = (squares / expected.len() as f64).sqrt().max(1e-9);
            for (&e, &g) in expected.iter().zip(got) {
                let (e, g) = (f64::from(e), f64::from(g));
                let error = (e - g).abs() / (e.abs() + size);
                self.worst = if error.is_finite() { self.worst.max(error) } else { f64::INFINITY };
            }
        }
    }
}

fn upload<B: Backend>(backend: &B, given: &Given) -> B::Buffer {
    match given {
        Given::Activations(values) => backend.upload_activations(values),
        Given::Floats(values) => backend.upload(values),
    }
}

/// Runs an operation on both backends.
macro_rules! compare {
    ($pair:expr, inputs $inputs:expr, outputs $outputs:expr, |$b:ident, [$($x:ident),*], [$($out:ident),*]| $run:expr) => {{
        let inputs: Vec<Given> = $inputs;
        let inputs = $pair.given(inputs);
        let before = $pair.before(&$outputs);
        let (reference, candidate) = ($pair.reference, $pair.candidate);
        let expected = compare!(reference, inputs, before, $b, [$($x),*], [$($out),*], $run);
        let got = compare!(candidate, inputs, before, $b, [$($x),*], [$($out),*], $run);
        $pair.compare(&expected, &got);
    }};
    ($backend:ident, $inputs:ident, $before:ident, $b:ident, [$($x:ident),*], [$($out:ident),*], $run:expr) => {{
        let $b = $backend;
        let inputs: Vec<_> = $inputs.iter().map(|given| upload($b, given)).collect();
        let mut outputs: Vec<_> = $before.iter().map(|given| upload($b, given)).collect();
        let [$($x),*] = &inputs[..] else { unreachable!("as many inputs as names") };
        let [$($out),*] = &mut outputs[..] else { unreachable!("as many outputs as names") };
        $run;
        let values: Vec<Vec<f32>> = outputs.iter().map(|out| $b.download(out)).collect();
        inputs.into_iter().chain(outputs).for_each(|buffer| $b.release(buffer));
        values
    }};
}

mod layers;
mod training;

/// All comparisons.
pub fn checks<A: Backend, B: Backend>() -> Vec<Check<A, B>> {
    vec![
        ("copies", layers::copies),
        ("pointwise", layers::pointwise),
        ("dropout", layers::dropout),
        ("sums", layers::sums),
        ("convolution", layers::convolution),
        ("convolution gradients", layers::convolution_gradients),
        ("group normalisation", layers::group_norm),
        ("group normalisation gradients", layers::group_norm_gradients),
        ("layer normalisation", layers::layer_norm),
        ("channels", layers::channels),
        ("pixels", layers::pixels),
        ("pools", layers::pools),
        ("attention", layers::attention),
        ("attention gradient", layers::attention_gradient),
        ("timestep embedding", layers::sinusoid),
        ("nearest entries", training::nearest),
        ("codebook", training::codebook),
        ("notes", training::notes),
        ("squared error", training::squared_error),
        ("errors of pictures", training::picture_errors),
        ("weights of losses", training::loss_weights),
        ("differences", training::differences),
        ("pictures", training::pictures),
        ("windows", training::windows),
        ("update", training::update),
    ]
}
