//! What a node of the tape computes. Activations are `[N, H, W, C]` (NHWC); vectors are `[N, 1, 1, C]`.

use crate::backend::{Mask, Window};

/// Shape of a node: batch, height, width, channels.
pub type Shape = [usize; 4];

/// Values in a shape.
pub fn len(shape: Shape) -> usize {
    shape.iter().product()
}

/// An operation. The order of a node's inputs is given with each variant.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// A value from outside. No inputs.
    Input {
        /// Its name in an exported graph.
        name: String,
    },
    /// A trained tensor. No inputs.
    Param {
        /// Its index in the [`ParamSet`](super::ParamSet).
        index: usize,
    },
    /// Convolution with zeros around the map. Inputs: `x [N,H,W,I]`, weight `[1,1,taps·I,O]` (rows by kernel row,
    /// kernel column, input channel), bias `[1,1,1,O]`. Output: `[N,h,w,O]` for h×w places of the kernel.
    /// With a kernel of one pixel it is a linear layer.
    Conv {
        /// The kernel.
        window: Window,
    },
    /// The largest value of each window, or its mean over what of it lies in the map. Input `x [N,H,W,C]`. Output:
    /// `[N,h,w,C]` for h×w places of the window.
    Pool {
        /// What is pooled.
        window: Window,
        /// Whether to its mean.
        mean: bool,
    },
    /// Group normalisation (ε = 1e-5) over `H·W·(C/groups)` with affine, then SiLU where `silu`.
    /// Inputs: x, scale `[1,1,1,C]`, shift `[1,1,1,C]`.
    GroupNorm {
        /// Number of groups; divides C.
        groups: usize,
        /// Whether SiLU follows.
        silu: bool,
    },
    /// Layer normalisation (ε = 1e-5) over `H·W·C` with affine. Inputs: x, scale `[1,H,W,C]`, shift `[1,H,W,C]`.
    LayerNorm,
    /// x · sigmoid(x). Input: x.
    Silu,
    /// x where positive, else slope · x. Input: x.
    LeakyRelu {
        /// Slope below zero.
        slope: f32,
    },
    /// Dropout, in training alone. Input: x.
    Dropout {
        /// What is kept.
        mask: Mask,
    },
    /// Sum of two nodes of one shape.
    Add,
    /// Inputs `x [N,H,W,C]` and `v [N,1,1,C]`, added to every pixel.
    AddVector,
    /// Channels of the first input, then of the second.
    Concat,
    /// Nearest-neighbour upsampling by 2. Input: x.
    Upsample,
    /// `[N,H,W,4C]` → `[N,2H,2W,C]`; channel `(2i+j)·C + c` of a cell becomes channel c of its pixel (i, j)
    /// (ONNX DepthToSpace, mode DCR).
    DepthToSpace,
    /// Drops `margin` pixels on each side. Input: x.
    Crop {
        /// Pixels dropped on each side.
        margin: usize,
    },
    /// Scaled dot-product self-attention over the `H·W` tokens of each sample. Input `[N,H,W,3C]`: queries,
    /// keys, values, each `heads × C/heads`. Output `[N,H,W,C]`.
    Attention {
        /// Number of heads; divides C.
        heads: usize,
    },
    /// Timestep embedding (Vaswani et al. 2017): input `[N,1,1,1]` → `[N,1,1,dim]`, cosines then sines of
    /// t · 10000^(−i/(dim/2)), i = 0…dim/2−1. No gradient flows back.
    Sinusoid {
        /// Output size; even.
        dim: usize,
    },
    /// Forward: the value handed in, in place of the input. Backward: identity (straight-through estimator).
    StraightThrough,
}
