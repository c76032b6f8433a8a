//! Layers: each owns the indices of its parameters and records itself on a tape.

use crate::backend::{Backend, Window};
use crate::random::Random;
use crate::tape::{Init, NodeId, ParamSet, Shape, Tape};

/// Creates parameters, with names, in one set.
#[derive(Debug)]
pub struct Maker<'a, B: Backend> {
    /// Device of the parameters.
    pub backend: &'a B,
    /// The set they are added to.
    pub set: &'a mut ParamSet<B>,
    /// Source of initial values.
    pub random: &'a mut Random,
}

impl<B: Backend> Maker<'_, B> {
    fn add(&mut self, name: &str, tensor: &str, shape: Shape, init: Init) -> usize {
        self.set.add(self.backend, format!("{name}.{tensor}"), shape, init, self.random)
    }
}

/// Convolution with bias; with kernel 1 a linear layer.
#[derive(Debug, Clone)]
pub struct Conv {
    weight: usize,
    bias: usize,
    window: Window,
}

impl Conv {
    /// `inputs → outputs` channels. `gain` is the variance the layer keeps at the start: 1 keeps the signal's,
    /// 0 starts silent.
    pub fn new<B: Backend>(
        m: &mut Maker<B>,
        name: &str,
        inputs: usize,
        outputs: usize,
        kernel: usize,
        gain: f32,
    ) -> Self {
        let rows = kernel * kernel * inputs;
        Self {
            weight: m.add(name, "weight", [1, 1, rows, outputs], Init::FanIn { fan_in: rows, gain }),
            bias: m.add(name, "bias", [1, 1, 1, outputs], Init::Constant(0.0)),
            window: Window::centred(kernel, 1),
        }
    }

    /// The same layer with stride 2.
    pub fn halving(self) -> Self {
        Self { window: Window { stride: 2, ..self.window }, ..self }
    }

    /// Records the layer.
    pub fn apply<B: Backend>(&self, t: &mut Tape<B>, x: NodeId) -> NodeId {
        let (weight, bias) = (t.param(self.weight), t.param(self.bias));
        t.conv(x, weight, bias, self.window)
    }
}

/// Group normalisation followed by SiLU or not.
#[derive(Debug, Clone)]
pub struct GroupNorm {
    scale: usize,
    shift: usize,
    groups: usize,
    silu: bool,
}

impl GroupNorm {
    /// Over `channels` in groups of at least 8 channels, at most 8 groups.
    pub fn new<B: Backend>(m: &mut Maker<B>, name: &str, channels: usize, silu: bool) -> Self {
        let groups = (1..=8).rev().find(|g| channels.is_multiple_of(*g) && channels / g >= 8).unwrap_or(1);
        Self {
            scale: m.add(name, "scale", [1, 1, 1, channels], Init::Constant(1.0)),
            shift: m.add(name, "shift", [1, 1, 1, channels], Init::Constant(0.0)),
            groups,
            silu,
        }
    }

    /// Records the layer.
    pub fn apply<B: Backend>(&self, t: &mut Tape<B>, x: NodeId) -> NodeId {
        let (scale, shift) = (t.param(self.scale), t.param(self.shift));
        t.group_norm(x, scale, shift, self.groups, self.silu)
    }
}

/// Layer normalisation over height, width and channels with an affine per element.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    scale: usize,
    shift: usize,
}

impl LayerNorm {
    /// Over `height × width × channels`.
    pub fn new<B: Backend>(m: &mut Maker<B>, name: &str, height: usize, width: usize, channels: usize) -> Self {
        let shape = [1, height, width, channels];
        Self {
            scale: m.add(name, "scale", shape, Init::Constant(1.0)),
            shift: m.add(name, "shift", shape, Init::Constant(0.0)),
        }
    }

    /// Records the layer.
    pub fn apply<B: Backend>(&self, t: &mut Tape<B>, x: NodeId) -> NodeId {
        let (scale, shift) = (t.param(self.scale), t.param(self.shift));
        t.layer_norm(x, scale, shift)
    }
}

/// Residual block of a U-Net: norm, SiLU, conv, time embedding, norm, SiLU, dropout, conv, skip.
#[derive(Debug, Clone)]
pub struct TimedResidual {
    norm_in: GroupNorm,
    conv_in: Conv,
    time: Conv,
    norm_out: GroupNorm,
    dropout: f32,
    conv_out: Conv,
    skip: Option<Conv>,
}

impl TimedResidual {
    /// `inputs → outputs` channels; `embedding` is the size of the time embedding.
    pub fn new<B: Backend>(m: &mut Maker<B>, name: &str, inputs: usize, outputs: usize, embedding: usize) -> Self {
        Self {
            norm_in: GroupNorm::new(m, &format!("{name}.norm_in"), inputs, true),
            conv_in: Conv::new(m, &format!("{name}.conv_in"), inputs, outputs, 3, 1.0),
            time: Conv::new(m, &format!("{name}.time"), embedding, outputs, 1, 1.0),
            norm_out: GroupNorm::new(m, &format!("{name}.norm_out"), outputs, true),
            dropout: 0.0,
            conv_out: Conv::new(m, &format!("{name}.conv_out"), outputs, outputs, 3, 0.01),
            skip: (inputs != outputs).then(|| Conv::new(m, &format!("{name}.skip"), inputs, outputs, 1, 1.0)),
        }
    }

    /// The same block that drops the share `rate` in training.
    pub fn dropping(self, rate: f32) -> Self {
        Self { dropout: rate, ..self }
    }

    /// Records the block; `embedding` already went through SiLU.
    pub fn apply<B: Backend>(&self, t: &mut Tape<B>, x: NodeId, embedding: NodeId) -> NodeId {
        let h = self.norm_in.apply(t, x);
        let h = self.conv_in.apply(t, h);
        let time = self.time.apply(t, embedding);
        let h = t.add_vector(h, time);
        let h = self.norm_out.apply(t, h);
        let h = t.dropout(h, self.dropout);
        let h = self.conv_out.apply(t, h);
        let x = self.skip.as_ref().map_or(x, |skip| skip.apply(t, x));
        t.add(x, h)
    }
}

/// Residual block without normalisation, so that a tile of a picture does not depend on the rest of it:
/// SiLU, conv, SiLU, conv, skip.
#[derive(Debug, Clone)]
pub struct PlainResidual {
    conv_in: Conv,
    conv_out: Conv,
}

impl PlainResidual {
    /// Over `channels`.
    pub fn new<B: Backend>(m: &mut Maker<B>, name: &str, channels: usize) -> Self {
        Self {
            conv_in: Conv::new(m, &format!("{name}.conv_in"), channels, channels, 3, 2.0),
            conv_out: Conv::new(m, &format!("{name}.conv_out"), channels, channels, 3, 0.1),
        }
    }

    /// Records the block.
    pub fn apply<B: Backend>(&self, t: &mut Tape<B>, x: NodeId) -> NodeId {
        let h = t.silu(x);
        let h = self.conv_in.apply(t, h);
        let h = t.silu(h);
        let h = self.conv_out.apply(t, h);
        t.add(x, h)
    }
}

/// Self-attention with a skip.
#[derive(Debug, Clone)]
pub struct AttentionBlock {
    norm: GroupNorm,
    qkv: Conv,
    out: Conv,
    heads: usize,
}

impl AttentionBlock {
    /// Over `channels` in heads of 32 channels where that divides, else one head.
    pub fn new<B: Backend>(m: &mut Maker<B>, name: &str, channels: usize) -> Self {
        Self {
            norm: GroupNorm::new(m, &format!("{name}.norm"), channels, false),
            qkv: Conv::new(m, &format!("{name}.qkv"), channels, 3 * channels, 1, 1.0),
            out: Conv::new(m, &format!("{name}.out"), channels, channels, 1, 0.01),
            heads: if channels.is_multiple_of(32) { channels / 32 } else { 1 },
        }
    }

    /// Records the block.
    pub fn apply<B: Backend>(&self, t: &mut Tape<B>, x: NodeId) -> NodeId {
        let h = self.norm.apply(t, x);
        let h = self.qkv.apply(t, h);
        let h = t.attention(h, self.heads);
        let h = self.out.apply(t, h);
        t.add(x, h)
    }
}
