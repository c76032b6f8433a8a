//! Reverse-mode differentiation over NHWC arrays.
//!
//! A [`Tape`] records each operation as it is computed; [`Tape::backward`] walks the record in reverse. The
//! same record is what the ONNX exporter translates, so the graph that ships is the graph that trained.

mod backward;
#[cfg(test)]
mod gradient_checks;
pub mod op;
mod params;

pub use op::{Op, Shape, len};
pub use params::{Init, Param, ParamSet};

use crate::backend::{self, Backend, Window};

/// Index of a node on its tape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NodeId(pub usize);

/// One recorded operation.
#[derive(Debug)]
pub struct Node<B: Backend> {
    /// What was computed.
    pub op: Op,
    /// From what.
    pub inputs: Vec<NodeId>,
    /// Shape of the value.
    pub shape: Shape,
    /// The value; parameters keep theirs in the [`ParamSet`].
    value: Option<B::Buffer>,
    grad: Option<B::Buffer>,
    /// What the backward pass needs beside inputs and output: statistics, attention weights.
    saved: Option<B::Buffer>,
}

/// A record of operations on one backend and one set of parameters.
///
/// Shapes are the caller's to get right: a mismatch is a defect of the network's definition and panics.
#[derive(Debug)]
pub struct Tape<'a, B: Backend> {
    backend: &'a B,
    params: &'a mut ParamSet<B>,
    /// The parameters get no gradients.
    frozen: bool,
    nodes: Vec<Node<B>>,
    dropping: Option<Dropping<'a, B>>,
    /// Masks of dropout so far.
    masks: u32,
}

/// What the masks of a step's dropout follow from, beside their order in the record.
#[derive(Debug)]
pub struct Dropping<'a, B: Backend> {
    /// The step's seed: see [`Backend::dropout`].
    pub seed: &'a B::Buffer,
    /// Samples of the batch before the first one of this record: processes that share a batch drop what one would.
    pub first_sample: usize,
}

impl<'a, B: Backend> Tape<'a, B> {
    /// An empty record.
    pub fn new(backend: &'a B, params: &'a mut ParamSet<B>) -> Self {
        Self { backend, params, frozen: false, nodes: Vec::new(), dropping: None, masks: 0 }
    }

    /// The same, whose parameters get no gradients: [`Self::backward`] leads to the inputs alone.
    pub fn frozen(self) -> Self {
        let mut tape = self;
        tape.frozen = true;
        tape
    }

    /// The same record, for training with dropout; without this nothing is dropped.
    pub fn dropping(self, dropping: Dropping<'a, B>) -> Self {
        let mut tape = self;
        tape.dropping = Some(dropping);
        tape
    }

    /// The recorded nodes in order.
    pub fn nodes(&self) -> &[Node<B>] {
        &self.nodes
    }

    /// The parameters.
    pub fn params(&self) -> &ParamSet<B> {
        self.params
    }

    /// Shape of a node.
    pub fn shape(&self, id: NodeId) -> Shape {
        self.nodes[id.0].shape
    }

    /// Host copy of a node's value.
    pub fn value(&self, id: NodeId) -> Vec<f32> {
        self.backend.download(self.buffer(id))
    }

    /// The sum of the squares of a node's values: see [`Backend::square_sum`].
    pub fn square_sum(&self, id: NodeId, out: &mut B::Buffer) {
        self.backend.square_sum(self.buffer(id), out);
    }

    /// Adds `weights` · (a node's value − `from`) to `to`: see [`Backend::add_difference`].
    pub fn add_difference(&self, weights: &B::Buffer, id: NodeId, from: &B::Buffer, to: &mut B::Buffer) {
        self.backend.add_difference(weights, self.buffer(id), from, to);
    }

    /// For each pixel of a node's value the nearest of `entries`: see [`Backend::nearest`].
    pub fn nearest(&self, id: NodeId, entries: &[f32]) -> Vec<u32> {
        let [.., channels] = self.shape(id);
        self.backend.nearest(channels, self.buffer(id), entries)
    }

    /// Host copy of a node's gradient after [`Self::backward`]; inputs keep theirs, other nodes do not.
    #[cfg(test)]
    pub fn grad(&self, id: NodeId) -> Option<Vec<f32>> {
        self.nodes[id.0].grad.as_ref().map(|g| self.backend.download(g))
    }

    /// A node's value where it lies.
    ///
    /// # Panics
    /// When [`Self::backward`] has passed it.
    pub fn buffer(&self, id: NodeId) -> &B::Buffer {
        let node = &self.nodes[id.0];
        match node.op {
            Op::Param { index } => &self.params.params[index].value,
            _ => node.value.as_ref().expect("a node's value is there until backward passes it"),
        }
    }

    /// The gradient of a named input after [`Self::backward`], taken from the tape.
    ///
    /// # Panics
    /// When there is none.
    pub fn take_grad(&mut self, id: NodeId) -> B::Buffer {
        self.nodes[id.0].grad.take().expect("named inputs keep their gradient")
    }

    fn push(&mut self, op: Op, inputs: &[NodeId], shape: Shape, value: Option<B::Buffer>) -> NodeId {
        self.nodes.push(Node { op, inputs: inputs.to_vec(), shape, value, grad: None, saved: None });
        NodeId(self.nodes.len() - 1)
    }

    /// Records an op whose value `compute` writes.
    fn record(
        &mut self,
        op: Op,
        inputs: &[NodeId],
        shape: Shape,
        compute: impl FnOnce(&Self, &mut B::Buffer),
    ) -> NodeId {
        let mut out = self.backend.alloc(len(shape));
        compute(self, &mut out);
        self.push(op, inputs, shape, Some(out))
    }

    /// Activations from outside.
    pub fn input(&mut self, name: &str, shape: Shape, values: &[f32]) -> NodeId {
        assert_eq!(values.len(), len(shape), "input {name}");
        let value = self.backend.upload_activations(values);
        self.device_input(name, shape, value)
    }

    /// A value that is on the device already.
    pub fn device_input(&mut self, name: &str, shape: Shape, value: B::Buffer) -> NodeId {
        self.push(Op::Input { name: name.to_owned() }, &[], shape, Some(value))
    }

    /// A parameter, by index.
    pub fn param(&mut self, index: usize) -> NodeId {
        let shape = self.params.params[index].shape;
        self.push(Op::Param { index }, &[], shape, None)
    }

    /// Convolution: see [`Op::Conv`].
    pub fn conv(&mut self, x: NodeId, weight: NodeId, bias: NodeId, window: Window) -> NodeId {
        let g = self.conv_geometry(x, weight, window);
        let (h, w) = g.out_size();
        self.record(Op::Conv { window }, &[x, weight, bias], [g.batch, h, w, g.outputs], |t, out| {
            t.backend.conv(&g, t.buffer(x), t.buffer(weight), t.buffer(bias), out);
        })
    }

    fn conv_geometry(&self, x: NodeId, weight: NodeId, window: Window) -> backend::Conv {
        let [batch, height, width, inputs] = self.shape(x);
        let [_, _, rows, outputs] = self.shape(weight);
        assert_eq!(rows, window.taps() * inputs, "weight rows of a convolution");
        backend::Conv { batch, height, width, inputs, outputs, window }
    }

    /// Group normalisation: see [`Op::GroupNorm`].
    pub fn group_norm(&mut self, x: NodeId, scale: NodeId, shift: NodeId, groups: usize, silu: bool) -> NodeId {
        let g = self.norm_geometry(x, groups, silu);
        let mut stats = self.backend.alloc_floats(2 * g.batch * groups);
        let id = self.record(Op::GroupNorm { groups, silu }, &[x, scale, shift], self.shape(x), |t, out| {
            t.backend.group_norm(&g, t.buffer(x), t.buffer(scale), t.buffer(shift), out, &mut stats);
        });
        self.nodes[id.0].saved = Some(stats);
        id
    }

    fn norm_geometry(&self, x: NodeId, groups: usize, silu: bool) -> backend::Norm {
        let [batch, height, width, channels] = self.shape(x);
        assert_eq!(channels % groups, 0, "groups divide channels");
        backend::Norm { batch, pixels: height * width, channels, groups, silu }
    }

    /// Layer normalisation: see [`Op::LayerNorm`].
    pub fn layer_norm(&mut self, x: NodeId, scale: NodeId, shift: NodeId) -> NodeId {
        let shape = self.shape(x);
        let mut stats = self.backend.alloc_floats(2 * shape[0]);
        let id = self.record(Op::LayerNorm, &[x, scale, shift], shape, |t, out| {
            let row = len(shape) / shape[0];
            t.backend.layer_norm(shape[0], row, t.buffer(x), t.buffer(scale), t.buffer(shift), out, &mut stats);
        });
        self.nodes[id.0].saved = Some(stats);
        id
    }

    /// x · sigmoid(x).
    pub fn silu(&mut self, x: NodeId) -> NodeId {
        self.record(Op::Silu, &[x], self.shape(x), |t, out| t.backend.silu(t.buffer(x), out))
    }

    /// x where positive, else `slope`·x.
    pub fn leaky_relu(&mut self, x: NodeId, slope: f32) -> NodeId {
        self.record(Op::LeakyRelu { slope }, &[x], self.shape(x), |t, out| {
            t.backend.leaky_relu(slope, t.buffer(x), out);
        })
    }

    /// Dropout of the share `rate`: see [`Self::dropping`]. The same node where nothing is dropped.
    pub fn dropout(&mut self, x: NodeId, rate: f32) -> NodeId {
        let shape = self.shape(x);
        let Some(dropping) = self.dropping.as_ref().filter(|_| rate > 0.0) else { return x };
        let first = (dropping.first_sample * (len(shape) / shape[0])) as u32;
        let mask = backend::Mask { rate, number: self.masks, first };
        self.masks += 1;
        self.record(Op::Dropout { mask }, &[x], shape, |t, out| t.drop_out(&mask, t.buffer(x), out))
    }

    fn drop_out(&self, mask: &backend::Mask, x: &B::Buffer, out: &mut B::Buffer) {
        let dropping = self.dropping.as_ref().expect("what is dropped in training has a seed");
        self.backend.dropout(mask, dropping.seed, x, out);
    }

    /// a + b.
    pub fn add(&mut self, a: NodeId, b: NodeId) -> NodeId {
        assert_eq!(self.shape(a), self.shape(b), "summands have one shape");
        self.record(Op::Add, &[a, b], self.shape(a), |t, out| t.backend.add(t.buffer(a), t.buffer(b), out))
    }

    /// x + v at every pixel.
    pub fn add_vector(&mut self, x: NodeId, v: NodeId) -> NodeId {
        let [batch, _, _, channels] = self.shape(x);
        assert_eq!(self.shape(v), [batch, 1, 1, channels], "the vector has x's channels");
        self.record(Op::AddVector, &[x, v], self.shape(x), |t, out| {
            t.backend.add_vector(batch, channels, t.buffer(x), t.buffer(v), out);
        })
    }

    /// Channels of a, then of b.
    pub fn concat(&mut self, a: NodeId, b: NodeId) -> NodeId {
        let ([n, h, w, ca], [.., cb]) = (self.shape(a), self.shape(b));
        assert_eq!(self.shape(b), [n, h, w, cb], "concatenated maps have one size");
        self.record(Op::Concat, &[a, b], [n, h, w, ca + cb], |t, out| {
            t.backend.concat(n * h * w, t.buffer(a), t.buffer(b), out);
        })
    }

    /// Nearest upsampling by 2.
    pub fn upsample(&mut self, x: NodeId) -> NodeId {
        let [n, h, w, c] = self.shape(x);
        let g = self.plane(x);
        self.record(Op::Upsample, &[x], [n, 2 * h, 2 * w, c], |t, out| t.backend.upsample(&g, t.buffer(x), out))
    }

    /// Depth to space by 2: see [`Op::DepthToSpace`].
    pub fn depth_to_space(&mut self, x: NodeId) -> NodeId {
        let [n, h, w, c] = self.shape(x);
        assert_eq!(c % 4, 0, "depth to space takes 4C channels");
        let g = self.plane(x);
        self.record(Op::DepthToSpace, &[x], [n, 2 * h, 2 * w, c / 4], |t, out| {
            t.backend.depth_to_space(&g, t.buffer(x), out);
        })
    }

    /// Drops `margin` pixels on each side.
    pub fn crop(&mut self, x: NodeId, margin: usize) -> NodeId {
        let [n, h, w, c] = self.shape(x);
        let g = self.plane(x);
        self.record(Op::Crop { margin }, &[x], [n, h - 2 * margin, w - 2 * margin, c], |t, out| {
            t.backend.crop(&g, margin, t.buffer(x), out);
        })
    }

    /// Largest value or mean of each window: see [`Op::Pool`].
    pub fn pool(&mut self, x: NodeId, window: Window, mean: bool) -> NodeId {
        let g = backend::Pool { plane: self.plane(x), window, mean };
        let (h, w) = g.out_size();
        self.record(Op::Pool { window, mean }, &[x], [g.plane.batch, h, w, g.plane.channels], |t, out| {
            t.backend.pool(&g, t.buffer(x), out);
        })
    }

    fn plane(&self, x: NodeId) -> backend::Plane {
        let [batch, height, width, channels] = self.shape(x);
        backend::Plane { batch, height, width, channels }
    }

    /// Self-attention: see [`Op::Attention`].
    pub fn attention(&mut self, qkv: NodeId, heads: usize) -> NodeId {
        let [n, h, w, _] = self.shape(qkv);
        let g = self.attention_geometry(qkv, heads);
        let mut weights = self.backend.alloc(n * heads * g.tokens * g.tokens);
        let id = self.record(Op::Attention { heads }, &[qkv], [n, h, w, g.channels], |t, out| {
            t.backend.attention(&g, t.buffer(qkv), out, &mut weights);
        });
        self.nodes[id.0].saved = Some(weights);
        id
    }

    fn attention_geometry(&self, qkv: NodeId, heads: usize) -> backend::Attention {
        let [batch, h, w, c3] = self.shape(qkv);
        assert_eq!(c3 % (3 * heads), 0, "heads divide channels");
        backend::Attention { batch, tokens: h * w, channels: c3 / 3, heads }
    }

    /// Timestep embedding: see [`Op::Sinusoid`].
    pub fn sinusoid(&mut self, t: NodeId, dim: usize) -> NodeId {
        let [n, ..] = self.shape(t);
        self.record(Op::Sinusoid { dim }, &[t], [n, 1, 1, dim], |tape, out| {
            tape.backend.sinusoid(dim, tape.buffer(t), out);
        })
    }

    /// `value` in place of `x`, with x's gradient: see [`Op::StraightThrough`].
    pub fn straight_through(&mut self, x: NodeId, value: B::Buffer) -> NodeId {
        self.push(Op::StraightThrough, &[x], self.shape(x), Some(value))
    }
}

impl<B: Backend> Drop for Tape<'_, B> {
    fn drop(&mut self) {
        for node in self.nodes.drain(..) {
            [node.value, node.grad, node.saved].into_iter().flatten().for_each(|b| self.backend.release(b));
        }
    }
}
