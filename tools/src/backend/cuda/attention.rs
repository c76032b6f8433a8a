//! Self-attention of few tokens, where it can be on tensor cores.

use super::super::Attention;
use super::memory::Buffer;
use super::profile::Cost;
use super::{Cuda, Operand, arguments};

/// Most tokens of a head that tensor cores are used for, as the kernel's tiles have.
const TILE_TOKENS: usize = 64;

impl Cuda {
    /// `weights` gets the softmax.
    pub(super) fn attend(&self, g: &Attention, qkv: &Buffer, out: &Buffer, weights: &Buffer) {
        let arguments = arguments![g.tokens, g.channels, g.heads, qkv, out, weights];
        if self.has_tiles(g) {
            return self.heads("tensor_attention", g, &arguments, cost(g, 2));
        }
        let scores = self.scratch(weights.len());
        self.heads("attention", g, &[&arguments[..], &arguments![scores]].concat(), cost(g, 2));
    }

    /// `out` gets the gradient of `qkv`.
    pub(super) fn attend_backward(&self, g: &Attention, qkv: &Buffer, weights: &Buffer, grad: &Buffer, out: &Buffer) {
        let arguments = arguments![g.tokens, g.channels, g.heads, qkv, weights, grad];
        if self.has_tiles(g) {
            return self.heads("tensor_attention_grad", g, &[&arguments[..], &arguments![out]].concat(), cost(g, 4));
        }
        let slopes = self.scratch(weights.len());
        self.heads("attention_grad", g, &[&arguments[..], &arguments![slopes, out]].concat(), cost(g, 4));
    }

    /// Whether tensor cores do it.
    fn has_tiles(&self, g: &Attention) -> bool {
        self.bf16 && g.tokens <= TILE_TOKENS
    }

    fn heads(&self, kernel: &str, g: &Attention, arguments: &[Operand], cost: Cost) {
        if g.batch > 0 {
            self.launch_counted(kernel, [g.batch * g.heads, 1, 1], arguments, cost);
        }
    }
}

/// Of so many products of tokens × tokens × channels.
fn cost(g: &Attention, products: u64) -> Cost {
    Cost { bytes: 0, operations: 2 * products * (g.batch * g.tokens * g.tokens * g.channels) as u64 }
}
