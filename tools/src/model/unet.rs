//! The U-Net of the block denoiser (RISSOLE §4; Ho et al. 2020): residual blocks with a time embedding,
//! stride-2 down, attention in the middle, nearest upsampling, skips by concatenation.

use super::layers::{AttentionBlock, Conv, GroupNorm, Maker, TimedResidual};
use crate::backend::Backend;
use crate::tape::{NodeId, Tape};

/// Widths and depth.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnetConfig {
    /// Channels of each level; each level but the last is followed by halving height and width.
    pub widths: Vec<usize>,
    /// Residual blocks of a level, going down; going up there are as many.
    pub residuals: usize,
    /// Size of the time embedding; even.
    pub embedding: usize,
}

/// One level, going down and up.
#[derive(Debug, Clone)]
struct Level {
    down: Vec<TimedResidual>,
    halve: Option<Conv>,
    grow: Option<Conv>,
    up: Vec<TimedResidual>,
}

/// The U-Net. Input and output have the first level's width.
#[derive(Debug, Clone)]
pub struct Unet {
    levels: Vec<Level>,
    middle: (TimedResidual, AttentionBlock, TimedResidual),
    norm: GroupNorm,
}

impl Unet {
    /// Creates the parameters.
    pub fn new<B: Backend>(m: &mut Maker<B>, config: &UnetConfig) -> Self {
        let e = config.embedding;
        let mut levels = Vec::new();
        let mut width = config.widths[0];
        for (i, &w) in config.widths.iter().enumerate() {
            let next = config.widths.get(i + 1);
            let down = (0..config.residuals)
                .map(|r| {
                    let inputs = if r == 0 { width } else { w };
                    TimedResidual::new(m, &format!("level{i}.down{r}"), inputs, w, e)
                })
                .collect();
            let halve = next.map(|_| Conv::new(m, &format!("level{i}.halve"), w, w, 3, 1.0).halving());
            let grow = next.map(|&n| Conv::new(m, &format!("level{i}.grow"), n, w, 3, 1.0));
            let up =
                (0..config.residuals).map(|r| TimedResidual::new(m, &format!("level{i}.up{r}"), 2 * w, w, e)).collect();
            levels.push(Level { down, halve, grow, up });
            width = w;
        }
        let middle = (
            TimedResidual::new(m, "middle.in", width, width, e),
            AttentionBlock::new(m, "middle.attention", width),
            TimedResidual::new(m, "middle.out", width, width, e),
        );
        let norm = GroupNorm::new(m, "norm", config.widths[0], true);
        Self { levels, middle, norm }
    }

    /// Records the network. Height and width must divide by 2 for every level but the last.
    pub fn apply<B: Backend>(&self, t: &mut Tape<B>, x: NodeId, embedding: NodeId) -> NodeId {
        let mut x = x;
        let mut skips = Vec::new();
        for level in &self.levels {
            for block in &level.down {
                x = block.apply(t, x, embedding);
                skips.push(x);
            }
            if let Some(halve) = &level.halve {
                x = halve.apply(t, x);
            }
        }
        x = self.middle.0.apply(t, x, embedding);
        x = self.middle.1.apply(t, x);
        x = self.middle.2.apply(t, x, embedding);
        for level in self.levels.iter().rev() {
            if let Some(grow) = &level.grow {
                let wide = t.upsample(x);
                x = grow.apply(t, wide);
            }
            for block in &level.up {
                let skip = skips.pop().expect("as many blocks up as down");
                let joined = t.concat(x, skip);
                x = block.apply(t, joined, embedding);
            }
        }
        self.norm.apply(t, x)
    }
}
