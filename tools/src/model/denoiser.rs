//! Conditioner and denoiser of one block (RISSOLE §4): the condition does not depend on the timestep, so the
//! conditioner is a network of its own, run once per block.

use rissole::BlockGrid;

use super::layers::{Conv, LayerNorm, Maker};
use super::unet::{Unet, UnetConfig};
use crate::backend::Backend;
use crate::backend::windows::noisy_channels;
use crate::tape::{NodeId, Tape};

/// What the two networks take, beside the sizes of the U-Net.
#[derive(Debug, Clone)]
pub struct DenoiserShape {
    /// The latent's blocks, with margin and coarser levels.
    pub grid: BlockGrid,
    /// Whether the margin goes through the U-Net and ends after it, or before.
    pub margin_through_unet: bool,
    /// Neighbours stacked on channels.
    pub neighbours: usize,
    /// Whether the network is told its position.
    pub position_embedding: bool,
    /// Whether the block drawn before is a further condition.
    pub previous_block: bool,
}

impl DenoiserShape {
    /// Channels of the noisy input.
    pub fn noisy_channels(&self) -> usize {
        noisy_channels(&self.grid)
    }
}

/// Inputs of the conditioner, each `[N,h,w,·]` at the window's size.
#[derive(Debug, Clone, Copy)]
pub struct Conditions<T> {
    /// `k·C` channels in rank order.
    pub neighbours: T,
    /// The next coarser level's region, where the grid has a thumbnail.
    pub thumbnail: Option<T>,
    /// The block drawn before, where the variant has it.
    pub previous: Option<T>,
}

/// Neighbours (and thumbnail, previous block) → condition.
#[derive(Debug, Clone)]
pub struct Conditioner {
    neighbours: Conv,
    thumbnail: Option<Conv>,
    previous: Option<Conv>,
    out: Conv,
}

impl Conditioner {
    /// Creates the parameters; `width` is the U-Net's first.
    pub fn new<B: Backend>(m: &mut Maker<B>, shape: &DenoiserShape, width: usize) -> Self {
        let c = shape.grid.block().channels;
        let mut side = |name: &str, wanted: bool| wanted.then(|| Conv::new(m, name, c, width, 3, 1.0));
        let thumbnail = side("conditioner.thumbnail", shape.grid.has_thumbnail());
        let previous = side("conditioner.previous", shape.previous_block);
        Self {
            neighbours: Conv::new(m, "conditioner.neighbours", shape.neighbours * c, width, 3, 1.0),
            thumbnail,
            previous,
            out: Conv::new(m, "conditioner.out", width, width, 3, 2.0),
        }
    }

    /// Records the network: → `[N,h,w,width]`.
    pub fn apply<B: Backend>(&self, t: &mut Tape<B>, inputs: Conditions<NodeId>) -> NodeId {
        let mut x = self.neighbours.apply(t, inputs.neighbours);
        for (conv, input) in [(&self.thumbnail, inputs.thumbnail), (&self.previous, inputs.previous)] {
            if let (Some(conv), Some(input)) = (conv, input) {
                let more = conv.apply(t, input);
                x = t.add(x, more);
            }
        }
        let x = t.silu(x);
        self.out.apply(t, x)
    }
}

/// Noisy window, timestep, position, condition → prediction for the block.
///
/// A margin is seen by the two convolutions before the U-Net and reaches it through them, while the U-Net works on the block
/// alone; or it goes through the U-Net and is dropped from the prediction, which for 2 cells around blocks of 8×8 takes twice
/// the arithmetic. Which is better depends on the pictures (docs/modes.md).
#[derive(Debug, Clone)]
pub struct Denoiser {
    stem: Conv,
    norm: LayerNorm,
    mix: Conv,
    time: (Conv, Conv),
    position: Option<Conv>,
    unet: Unet,
    out: Conv,
    embedding: usize,
    margin: usize,
    margin_through_unet: bool,
}

impl Denoiser {
    /// Cells beyond the block whose noisy values reach its own through the two convolutions before the U-Net: the largest
    /// margin that can end there.
    pub const MOST_MARGIN_BEFORE_UNET: usize = 2;

    /// Creates the parameters.
    pub fn new<B: Backend>(m: &mut Maker<B>, shape: &DenoiserShape, config: &UnetConfig) -> Self {
        let (width, e) = (config.widths[0], config.embedding);
        let window = shape.grid.window();
        Self {
            stem: Conv::new(m, "denoiser.stem", shape.noisy_channels(), width, 3, 1.0),
            norm: LayerNorm::new(m, "denoiser.norm", window.height, window.width, width),
            mix: Conv::new(m, "denoiser.mix", width, width, 3, 1.0),
            time: (Conv::new(m, "denoiser.time0", e, e, 1, 1.0), Conv::new(m, "denoiser.time1", e, e, 1, 1.0)),
            position: shape
                .position_embedding
                .then(|| Conv::new(m, "denoiser.position", shape.grid.positions(), e, 1, 1.0)),
            unet: Unet::new(m, config),
            out: Conv::new(m, "denoiser.out", width, window.channels, 3, 0.01),
            embedding: e,
            margin: shape.grid.margin(),
            margin_through_unet: shape.margin_through_unet,
        }
    }

    /// Records the network: `noisy [N,h,w,C(+1)]`, `timestep [N,1,1,1]`, `position [N,1,1,positions]` one-hot,
    /// `condition [N,h,w,width]` → prediction `[N,block height,block width,C]`.
    pub fn apply<B: Backend>(
        &self,
        t: &mut Tape<B>,
        noisy: NodeId,
        timestep: NodeId,
        position: Option<NodeId>,
        condition: NodeId,
    ) -> NodeId {
        let x = self.stem.apply(t, noisy);
        let x = t.add(x, condition);
        let x = self.norm.apply(t, x);
        let x = self.mix.apply(t, x);
        let x = if self.margin_through_unet { x } else { self.without_margin(t, x) };

        let e = t.sinusoid(timestep, self.embedding);
        let e = self.time.0.apply(t, e);
        let e = t.silu(e);
        let mut e = self.time.1.apply(t, e);
        if let (Some(conv), Some(position)) = (&self.position, position) {
            let place = conv.apply(t, position);
            e = t.add(e, place);
        }
        let e = t.silu(e);

        let x = self.unet.apply(t, x, e);
        let x = self.out.apply(t, x);
        if self.margin_through_unet { self.without_margin(t, x) } else { x }
    }

    fn without_margin<B: Backend>(&self, t: &mut Tape<B>, x: NodeId) -> NodeId {
        if self.margin == 0 { x } else { t.crop(x, self.margin) }
    }
}
