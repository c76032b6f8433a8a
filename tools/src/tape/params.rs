//! Trained tensors with their gradients, optimizer moments and moving average.

use super::op::{Shape, len};
use crate::backend::{AdamW, Backend, Trained};
use crate::random::Random;

/// One trained tensor.
#[derive(Debug)]
pub struct Param<B: Backend> {
    /// Name, unique in its set, `layer.tensor` by convention.
    pub name: String,
    /// Shape as the op that uses it says.
    pub shape: Shape,
    /// Current value.
    pub value: B::Buffer,
    /// Sum of the gradients of all backward passes since the last update.
    pub grad: B::Buffer,
    /// First moment of AdamW.
    pub first_moment: B::Buffer,
    /// Second moment of AdamW.
    pub second_moment: B::Buffer,
    /// Exponential moving average of the value.
    pub average: B::Buffer,
}

/// How a new tensor is filled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// One value everywhere.
    Constant(f32),
    /// Uniform in ±√(3 · gain / fan-in).
    FanIn {
        /// Values that one output sums.
        fan_in: usize,
        /// Variance kept, 1 for a linear layer.
        gain: f32,
    },
}

/// The trained tensors of one network, in order of creation.
#[derive(Debug)]
pub struct ParamSet<B: Backend> {
    /// The tensors.
    pub params: Vec<Param<B>>,
}

impl<B: Backend> Default for ParamSet<B> {
    fn default() -> Self {
        Self { params: Vec::new() }
    }
}

impl<B: Backend> ParamSet<B> {
    /// Adds a tensor and returns its index.
    pub fn add(&mut self, backend: &B, name: String, shape: Shape, init: Init, random: &mut Random) -> usize {
        let n = len(shape);
        let values: Vec<f32> = match init {
            Init::Constant(value) => vec![value; n],
            Init::FanIn { fan_in, gain } => {
                let bound = (3.0 * gain / fan_in as f32).sqrt();
                (0..n).map(|_| (2.0 * random.uniform() - 1.0) * bound).collect()
            }
        };
        self.params.push(Param {
            name,
            shape,
            value: backend.upload(&values),
            grad: backend.zeros(n),
            first_moment: backend.zeros(n),
            second_moment: backend.zeros(n),
            average: backend.upload(&values),
        });
        self.params.len() - 1
    }

    /// Adds a tensor that is never trained and so has no more than its value, and returns its index.
    pub fn add_fixed(&mut self, backend: &B, name: String, shape: Shape, values: &[f32]) -> usize {
        assert_eq!(values.len(), len(shape), "{name}");
        let [grad, first_moment, second_moment, average] = [(); 4].map(|()| backend.zeros(0));
        let value = backend.upload(values);
        self.params.push(Param { name, shape, value, grad, first_moment, second_moment, average });
        self.params.len() - 1
    }

    /// Number of trained values.
    pub fn count(&self) -> usize {
        self.params.iter().map(|p| len(p.shape)).sum()
    }

    /// All gradients.
    pub fn grads(&mut self) -> Vec<&mut B::Buffer> {
        self.params.iter_mut().map(|p| &mut p.grad).collect()
    }

    /// One AdamW update of every tensor at `pace` ([`Pace::words`](crate::backend::Pace::words)), after which gradients are
    /// zero. Weight decay falls on matrices only.
    pub fn update(&mut self, backend: &B, settings: &AdamW, pace: &B::Buffer) {
        let tensors = self.params.iter_mut().map(|p| Trained {
            grad: &mut p.grad,
            value: &mut p.value,
            first_moment: &mut p.first_moment,
            second_moment: &mut p.second_moment,
            average: &mut p.average,
            decays: p.shape[2] > 1,
        });
        backend.update(settings, pace, &mut tensors.collect::<Vec<_>>());
    }

    /// Starts from the values of the tensors that have the same name and shape in `other`, averages included.
    pub fn copy_from(&mut self, backend: &B, other: &Self) {
        for p in &mut self.params {
            if let Some(from) = other.params.iter().find(|o| o.name == p.name && o.shape == p.shape) {
                let values = backend.download(&from.value);
                p.value = backend.upload(&values);
                p.average = backend.upload(&values);
            }
        }
    }

    /// Exchanges values and moving averages, before and after a forward pass with the averaged weights.
    pub fn swap_averages(&mut self) {
        self.params.iter_mut().for_each(|p| std::mem::swap(&mut p.value, &mut p.average));
    }
}
