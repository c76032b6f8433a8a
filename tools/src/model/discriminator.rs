//! The patch discriminator of the VQ-GAN (Isola et al. 2017): one score for each patch of the picture.

use super::layers::{Conv, GroupNorm, Maker};
use crate::backend::Backend;
use crate::tape::{NodeId, Tape};

/// Slope of the leaky ReLU.
const SLOPE: f32 = 0.2;

/// Three halvings, then a score a patch.
#[derive(Debug, Clone)]
pub struct Discriminator {
    layers: Vec<(Conv, Option<GroupNorm>)>,
    out: Conv,
}

impl Discriminator {
    /// Creates the parameters; `width` is the first layer's.
    pub fn new<B: Backend>(m: &mut Maker<B>, width: usize) -> Self {
        let mut inputs = 3;
        let layers = (0..3)
            .map(|i| {
                let outputs = width << i;
                let conv = Conv::new(m, &format!("discriminator.layer{i}"), inputs, outputs, 3, 2.0).halving();
                // The first layer sees raw pixels and is not normalised.
                let norm = (i > 0).then(|| GroupNorm::new(m, &format!("discriminator.norm{i}"), outputs, false));
                inputs = outputs;
                (conv, norm)
            })
            .collect();
        Self { layers, out: Conv::new(m, "discriminator.out", inputs, 1, 3, 1.0) }
    }

    /// Records the network: image `[N,H,W,3]` → scores `[N,H/8,W/8,1]`.
    pub fn apply<B: Backend>(&self, t: &mut Tape<B>, image: NodeId) -> NodeId {
        let mut x = image;
        for (conv, norm) in &self.layers {
            x = conv.apply(t, x);
            if let Some(norm) = norm {
                x = norm.apply(t, x);
            }
            x = t.leaky_relu(x, SLOPE);
        }
        self.out.apply(t, x)
    }
}
