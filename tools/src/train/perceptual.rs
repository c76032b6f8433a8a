//! Perceptual loss (Johnson et al. 2016): how far the features that a frozen network finds in a picture are from those
//! of the right one.

use std::path::PathBuf;

use rissole::{Error, Result};
use serde::{Deserialize, Serialize};

use super::together::Together;
use crate::backend::Backend;
use crate::model::frozen::Frozen;
use crate::tape::len;

/// Settings of the perceptual loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerceptualTraining {
    /// ONNX network of convolutions, ReLU, pools and concatenations; a relative path starts at the recipe's folder.
    pub network: PathBuf,
    /// Subtracted from every 8-bit value.
    pub offset: f32,
    /// What the difference is divided by.
    pub scale: f32,
    /// What is compared.
    pub layers: Vec<PerceptualLayer>,
    /// The recipe's folder.
    #[serde(skip)]
    pub home: PathBuf,
}

/// A tensor of the feature network, and how much it counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerceptualLayer {
    /// Its name in the file.
    pub tensor: String,
    /// Weight of its mean squared error, divided by the mean square of the right picture's features: the scale of a
    /// layer does not matter.
    pub weight: f32,
}

/// The loss.
#[derive(Debug)]
pub struct Perceptual<'a, B: Backend> {
    backend: &'a B,
    network: Frozen<B>,
    weights: Vec<f32>,
    /// Pixels in −1…1 to what the network takes: factor and summand.
    input: (f32, f32),
}

impl<'a, B: Backend> Perceptual<'a, B> {
    /// Reads the network.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Usage`] for settings out of bounds; as [`Frozen::read`].
    pub fn open(backend: &'a B, settings: &PerceptualTraining) -> Result<Self> {
        let path = settings.home.join(&settings.network);
        let fine = |weight: f32| weight.is_finite() && weight > 0.0;
        if settings.layers.is_empty() || !settings.layers.iter().all(|layer| fine(layer.weight)) {
            return Err(Error::Usage("perceptual.layers must be one or more, with weights above zero".into()));
        }
        if !settings.offset.is_finite() || !settings.scale.is_normal() {
            return Err(Error::Usage("perceptual.offset and scale must be finite, the scale not zero".into()));
        }
        let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
        let names: Vec<&str> = settings.layers.iter().map(|layer| layer.tensor.as_str()).collect();
        let network = Frozen::read(backend, &path, &bytes, &names)?;
        Ok(Self {
            backend,
            network,
            weights: settings.layers.iter().map(|layer| layer.weight).collect(),
            input: (127.5 / settings.scale, (127.5 - settings.offset) / settings.scale),
        })
    }

    /// Checks that pictures of `height × width` can be compared.
    ///
    /// # Errors
    /// As [`Frozen::check`].
    pub fn check(&self, height: usize, width: usize) -> Result<()> {
        self.network.check(height, width)
    }

    /// Adds to `grad` the gradient of the loss at `fake` (activations) against `real` (floats), both `[N,H,W,3]` in −1…1;
    /// `loss[0]` gets the loss.
    ///
    /// # Panics
    /// With pictures that [`Self::check`] does not let pass.
    pub fn add_grad(
        &mut self,
        fake: &B::Buffer,
        real: &B::Buffer,
        shape: [usize; 4],
        grad: &mut B::Buffer,
        loss: &mut B::Buffer,
        together: Together,
    ) -> Result<()> {
        let (backend, (factor, summand)) = (self.backend, self.input);
        let scaled = |picture: &B::Buffer| {
            let mut out = backend.alloc(len(shape));
            backend.affine(factor, summand, picture, &mut out);
            out
        };
        let mut right = backend.alloc(len(shape));
        backend.convert(real, &mut right);
        let (mut tape, network) = self.network.tape(backend);
        let [fake, real] =
            [("fake", fake), ("", &right)].map(|(name, picture)| tape.device_input(name, shape, scaled(picture)));
        backend.release(right);
        let found = network.apply(&mut tape, fake);
        let right = network.apply(&mut tape, real);
        backend.clear(loss);
        let mut squares = backend.alloc_floats(1);
        for ((&found, &right), &weight) in found.iter().zip(&right).zip(&self.weights) {
            tape.square_sum(right, &mut squares);
            together.average(backend, &mut [&mut squares])?;
            // No feature at all: nothing that an error could be measured by.
            let mut weights = backend.alloc_floats(shape[0]);
            backend.over_mean_square(weight, len(tape.shape(right)), &squares, &mut weights);
            let weights = tape.device_input("", [shape[0], 1, 1, 1], weights);
            let error = tape.seed_squared_error(found, right, weights);
            backend.accumulate(&error, loss);
            backend.release(error);
        }
        tape.backward();
        let (at_input, mut more) = (tape.take_grad(fake), backend.alloc(len(shape)));
        backend.affine(factor, 0.0, &at_input, &mut more);
        backend.accumulate(&more, grad);
        [squares, at_input, more].into_iter().for_each(|buffer| backend.release(buffer));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use tract_onnx::pb::GraphProto;

    use super::*;
    use crate::backend::cpu::Cpu;
    use crate::export::proto::{floats, ints, model, node, value_info};
    use crate::random::Random;

    const SHAPE: [usize; 4] = [2, 6, 5, 3];

    fn drawn(random: &mut Random) -> Vec<f32> {
        (0..SHAPE.iter().product()).map(|_| 2.0 * random.uniform() - 1.0).collect()
    }

    fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("rissole-perceptual-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// Settings for a network of two layers, which is written to `dir`.
    fn settings(dir: &std::path::Path, factor: f32) -> PerceptualTraining {
        let mut random = Random::new(9);
        let mut weight = |n: usize| (0..n).map(|_| factor * (random.uniform() - 0.4)).collect::<Vec<f32>>();
        let pads = || vec![ints("pads", &[1; 4])];
        let graph = GraphProto {
            initializer: vec![
                floats("a_w", &[4, 3, 3, 3], &weight(108)),
                floats("a_b", &[4], &weight(4)),
                floats("b_w", &[5, 4, 3, 3], &weight(180)),
            ],
            node: vec![
                node("Conv", &["x", "a_w", "a_b"], &["a"], pads()),
                node("Relu", &["a"], &["a_relu"], vec![]),
                node("Conv", &["a_relu", "b_w"], &["b"], pads()),
            ],
            input: vec![value_info("x", &[1, 3, 6, 5])],
            output: vec![value_info("b", &[1, 5, 6, 5])],
            ..GraphProto::default()
        };
        std::fs::write(dir.join("features.onnx"), model(graph).encode_to_vec()).unwrap();
        let layer = |tensor: &str, weight| PerceptualLayer { tensor: tensor.into(), weight };
        PerceptualTraining {
            network: "features.onnx".into(),
            offset: 100.0,
            scale: 50.0,
            layers: vec![layer("b", 0.7), layer("a_relu", 0.2)],
            home: dir.to_owned(),
        }
    }

    fn grad_of(loss: &mut Perceptual<Cpu>, fake: &Vec<f32>, real: &Vec<f32>) -> (Vec<f32>, f64) {
        let (mut grad, mut value) = (vec![0.0; fake.len()], vec![f32::NAN]);
        loss.add_grad(fake, real, SHAPE, &mut grad, &mut value, Together::alone()).unwrap();
        (grad, f64::from(value[0]))
    }

    #[test]
    fn the_gradient_is_that_of_finite_differences() {
        let dir = folder("gradient");
        let backend = Cpu::default();
        let mut loss = Perceptual::open(&backend, &settings(&dir, 1.0)).unwrap();
        loss.check(SHAPE[1], SHAPE[2]).unwrap();
        let mut random = Random::new(2);
        let (fake, real) = (drawn(&mut random), drawn(&mut random));
        let (grad, value) = grad_of(&mut loss, &fake, &real);
        assert!(value > 0.1, "{value}");
        assert_eq!(grad_of(&mut loss, &real, &real).1, 0.0);
        // Along a direction, since a single pixel's part is lost in the rounding.
        for _ in 0..8 {
            let direction = drawn(&mut random);
            let moved = |by: f32| fake.iter().zip(&direction).map(|(f, d)| f + by * d).collect::<Vec<f32>>();
            let step = 2e-3;
            let [above, below] = [step, -step].map(|by| grad_of(&mut loss, &moved(by), &real).1);
            let slope = (above - below) / f64::from(2.0 * step);
            let expected: f64 = grad.iter().zip(&direction).map(|(g, d)| f64::from(g * d)).sum();
            assert!((slope - expected).abs() < 0.02 * (1.0 + expected.abs()), "{slope} {expected}");
        }
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_scale_of_features_does_not_matter_and_what_is_amiss_is_told() {
        let dir = folder("settings");
        let backend = Cpu::default();
        let mut random = Random::new(2);
        let (fake, real) = (drawn(&mut random), drawn(&mut random));
        let value = |factor| {
            let mut settings = settings(&dir, factor);
            // With one layer the factor is common to all features.
            settings.layers.remove(0);
            grad_of(&mut Perceptual::open(&backend, &settings).unwrap(), &fake, &real).1
        };
        let (one, other) = (value(1.0), value(30.0));
        assert!((one / other - 1.0).abs() < 1e-4, "{one} {other}");

        let fine = settings(&dir, 1.0);
        let told = |settings: PerceptualTraining| Perceptual::open(&backend, &settings).unwrap_err().to_string();
        assert!(told(PerceptualTraining { network: "none.onnx".into(), ..fine.clone() }).contains("none.onnx"));
        assert!(told(PerceptualTraining { scale: 0.0, ..fine.clone() }).contains("scale"));
        assert!(told(PerceptualTraining { layers: vec![], ..fine.clone() }).contains("layers"));
        let layers = vec![PerceptualLayer { tensor: "c".into(), weight: 1.0 }];
        assert!(told(PerceptualTraining { layers, ..fine }).contains("no tensor c"));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
