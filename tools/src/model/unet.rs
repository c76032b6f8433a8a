//! The U-Net of the block denoiser (RISSOLE §4; Ho et al. 2020): residual blocks with a time embedding,
//! stride-2 down, attention in the middle, nearest upsampling, skips by concatenation.

use super::layers::{AttentionBlock, Conv, GroupNorm, Maker, TimedResidual};
use crate::backend::Backend;
use crate::tape::{NodeId, Tape};

/// Widths and depth.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnetConfig {
    /// Channels of each level; each level but the last is followed by halving height and width.
    pub widths: Vec<usize>,
    /// Residual blocks of a level, going down; going up there are as many.
    pub residuals: usize,
    /// Size of the time embedding; even.
    pub embedding: usize,
    /// Share of the values before the second convolution of every residual block that are dropped in training (Ho et al.
    /// 2020, appendix B); absent: none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropout: f32,
}

/// For settings that are left out where they are off: what was made before they came has the same hash.
pub(crate) fn is_zero(rate: &f32) -> bool {
    *rate == 0.0
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
        let residual = |m: &mut Maker<B>, name: &str, inputs: usize, outputs: usize| {
            TimedResidual::new(m, name, inputs, outputs, config.embedding).dropping(config.dropout)
        };
        let mut levels = Vec::new();
        let mut width = config.widths[0];
        for (i, &w) in config.widths.iter().enumerate() {
            let next = config.widths.get(i + 1);
            let down = (0..config.residuals)
                .map(|r| {
                    let inputs = if r == 0 { width } else { w };
                    residual(m, &format!("level{i}.down{r}"), inputs, w)
                })
                .collect();
            let halve = next.map(|_| Conv::new(m, &format!("level{i}.halve"), w, w, 3, 1.0).halving());
            let grow = next.map(|&n| Conv::new(m, &format!("level{i}.grow"), n, w, 3, 1.0));
            let up = (0..config.residuals).map(|r| residual(m, &format!("level{i}.up{r}"), 2 * w, w)).collect();
            levels.push(Level { down, halve, grow, up });
            width = w;
        }
        let middle = (
            residual(m, "middle.in", width, width),
            AttentionBlock::new(m, "middle.attention", width),
            residual(m, "middle.out", width, width),
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
