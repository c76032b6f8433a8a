//! The VQ-GAN's encoder and decoder (Esser et al. 2021), without normalisation: a tile of a picture decodes
//! to the same pixels as the whole picture does, margins apart.

use super::layers::{Conv, Maker, PlainResidual};
use crate::backend::Backend;
use crate::tape::{NodeId, Tape};

/// Sizes of the autoencoder.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VqganConfig {
    /// Channels of a latent cell.
    pub latent_channels: usize,
    /// Channels after each halving, fine to coarse; their number gives the downsampling 2ⁿ.
    pub widths: Vec<usize>,
    /// Residual blocks of each of those levels.
    pub residuals: Vec<usize>,
    /// Entries of the codebook.
    pub codebook_size: usize,
}

impl VqganConfig {
    /// Pixels along one side of a latent cell.
    pub fn downsampling(&self) -> usize {
        1 << self.widths.len()
    }
}

/// RGB in −1…1 → latent before quantization.
#[derive(Debug, Clone)]
pub struct Encoder {
    levels: Vec<(Conv, Vec<PlainResidual>)>,
    out: Conv,
}

impl Encoder {
    /// Creates the parameters.
    pub fn new<B: Backend>(m: &mut Maker<B>, config: &VqganConfig) -> Self {
        let mut inputs = 3;
        let mut levels = Vec::new();
        for (i, (&width, &residuals)) in config.widths.iter().zip(&config.residuals).enumerate() {
            let halve = Conv::new(m, &format!("encoder.level{i}.halve"), inputs, width, 3, 1.0).halving();
            let blocks =
                (0..residuals).map(|r| PlainResidual::new(m, &format!("encoder.level{i}.block{r}"), width)).collect();
            levels.push((halve, blocks));
            inputs = width;
        }
        Self { levels, out: Conv::new(m, "encoder.out", inputs, config.latent_channels, 3, 2.0) }
    }

    /// Records the network: image `[N,H,W,3]` → latent `[N,H/d,W/d,C]`.
    pub fn apply<B: Backend>(&self, t: &mut Tape<B>, image: NodeId) -> NodeId {
        let mut x = image;
        for (halve, blocks) in &self.levels {
            x = halve.apply(t, x);
            for block in blocks {
                x = block.apply(t, x);
            }
        }
        let x = t.silu(x);
        self.out.apply(t, x)
    }
}

/// Latent → RGB in −1…1. The last doubling is depth-to-space, so nothing wide runs at full resolution.
#[derive(Debug, Clone)]
pub struct Decoder {
    start: Conv,
    levels: Vec<(Vec<PlainResidual>, Option<Conv>)>,
    out: Conv,
}

impl Decoder {
    /// Creates the parameters.
    pub fn new<B: Backend>(m: &mut Maker<B>, config: &VqganConfig) -> Self {
        let coarsest = config.widths.last().copied().unwrap_or(3);
        let start = Conv::new(m, "decoder.start", config.latent_channels, coarsest, 3, 1.0);
        let mut levels = Vec::new();
        for (i, (&width, &residuals)) in config.widths.iter().zip(&config.residuals).enumerate().rev() {
            let blocks =
                (0..residuals).map(|r| PlainResidual::new(m, &format!("decoder.level{i}.block{r}"), width)).collect();
            let finer = i.checked_sub(1).map(|f| config.widths[f]);
            let grow = finer.map(|f| Conv::new(m, &format!("decoder.level{i}.grow"), width, f, 3, 2.0));
            levels.push((blocks, grow));
        }
        let finest = config.widths.first().copied().unwrap_or(3);
        Self { start, levels, out: Conv::new(m, "decoder.out", finest, 12, 3, 1.0) }
    }

    /// Records the network: latent `[N,h,w,C]` → the input of the last layer and the image `[N,d·h,d·w,3]`.
    pub fn apply<B: Backend>(&self, t: &mut Tape<B>, latent: NodeId) -> Decoded {
        let mut x = self.start.apply(t, latent);
        for (blocks, grow) in &self.levels {
            for block in blocks {
                x = block.apply(t, x);
            }
            if let Some(grow) = grow {
                let h = t.silu(x);
                let h = t.upsample(h);
                x = grow.apply(t, h);
            }
        }
        let x = t.silu(x);
        let last = self.out.apply(t, x);
        Decoded { last, image: t.depth_to_space(last) }
    }
}

/// What the decoder gives.
#[derive(Debug, Clone, Copy)]
pub struct Decoded {
    /// The last convolution, whose weight gradient balances the adversarial loss.
    pub last: NodeId,
    /// The picture.
    pub image: NodeId,
}
