//! The backward walk: one rule per [`Op`].

use super::op::len;
use super::{NodeId, Op, Tape};
use crate::backend::{Backend, Pool};

impl<B: Backend> Tape<'_, B> {
    /// [`Self::seed_with`] from the host.
    #[cfg(test)]
    pub fn seed(&mut self, id: NodeId, grad: &[f32]) {
        assert_eq!(grad.len(), len(self.shape(id)), "a gradient has its node's shape");
        let buffer = self.backend.upload_activations(grad);
        self.give(id, buffer);
    }

    /// Sets the gradient of `id` that [`Self::backward`] starts from; adds where there is one.
    pub fn seed_with(&mut self, id: NodeId, grad: B::Buffer) {
        self.give(id, grad);
    }

    /// Seeds the gradient of the mean over samples of weight · mean (value − target)² at `id`, where `target` has its
    /// shape and `weights` one value a sample. Returns that loss, one value, still on the device.
    pub fn seed_squared_error(&mut self, id: NodeId, target: NodeId, weights: NodeId) -> B::Buffer {
        let shape = self.shape(id);
        assert_eq!(self.shape(target), shape, "a target has its node's shape");
        assert_eq!(self.shape(weights), [shape[0], 1, 1, 1], "a sample has one weight");
        let (mut grad, mut loss) = (self.backend.alloc(len(shape)), self.backend.alloc_floats(1));
        let (value, target, weights) = (self.buffer(id), self.buffer(target), self.buffer(weights));
        self.backend.squared_error(value, target, weights, &mut grad, &mut loss);
        self.give(id, grad);
        loss
    }

    /// Propagates the seeded gradients to the parameters (added to theirs) and to the inputs. Values and
    /// gradients of other nodes are released on the way: a tape walks back once.
    pub fn backward(&mut self) {
        for i in (0..self.nodes.len()).rev() {
            if matches!(self.nodes[i].op, Op::Input { .. }) {
                continue;
            }
            if let Some(grad) = self.nodes[i].grad.take() {
                self.propagate(i, grad);
            }
            // Every consumer of this value came later on the tape and is done.
            let node = &mut self.nodes[i];
            [node.value.take(), node.saved.take()].into_iter().flatten().for_each(|b| self.backend.release(b));
        }
    }

    /// Whether a gradient arriving at `id` can reach anything that keeps it.
    fn wants_grad(&self, id: NodeId) -> bool {
        !matches!(&self.nodes[id.0].op, Op::Input { name } if name.is_empty())
    }

    /// Hands a gradient to a node, adding it to what is there.
    fn give(&mut self, id: NodeId, grad: B::Buffer) {
        if let Op::Param { index } = self.nodes[id.0].op {
            assert!(!self.frozen, "a parameter without a rule of its own");
            self.backend.accumulate(&grad, &mut self.params.params[index].grad);
            return self.backend.release(grad);
        }
        match &mut self.nodes[id.0].grad {
            Some(sum) => {
                self.backend.accumulate(&grad, sum);
                self.backend.release(grad);
            }
            slot => *slot = Some(grad),
        }
    }

    /// Computes the gradient of `id` with `rule` and hands it over.
    fn give_with(&mut self, id: NodeId, rule: impl FnOnce(&Self, &mut B::Buffer)) {
        if self.wants_grad(id) {
            let mut out = self.backend.alloc(len(self.shape(id)));
            rule(self, &mut out);
            self.give(id, out);
        }
    }

    fn param_index(&self, id: NodeId) -> usize {
        match self.nodes[id.0].op {
            Op::Param { index } => index,
            ref op => unreachable!("{op:?} stands where a parameter must"),
        }
    }

    /// Calls `rule` with the gradients of two parameters taken out of the set, or on a frozen tape with others.
    fn with_param_grads(&mut self, a: NodeId, b: NodeId, rule: impl FnOnce(&Self, &mut B::Buffer, &mut B::Buffer)) {
        if self.frozen {
            let mut unused = [a, b].map(|id| self.backend.zeros(len(self.shape(id))));
            let [grad_a, grad_b] = &mut unused;
            rule(self, grad_a, grad_b);
            return unused.into_iter().for_each(|buffer| self.backend.release(buffer));
        }
        let (a, b) = (self.param_index(a), self.param_index(b));
        let mut grads = [a, b].map(|i| std::mem::replace(&mut self.params.params[i].grad, self.backend.alloc(0)));
        let [grad_a, grad_b] = &mut grads;
        rule(self, grad_a, grad_b);
        for (i, grad) in [a, b].into_iter().zip(grads) {
            self.backend.release(std::mem::replace(&mut self.params.params[i].grad, grad));
        }
    }

    /// The gradient that `grad`, arriving at the convolution `id`, gives its weight.
    pub fn conv_weight_grad(&self, id: NodeId, grad: &B::Buffer) -> B::Buffer {
        let node = &self.nodes[id.0];
        let Op::Conv { window } = node.op else { unreachable!("{:?} is no convolution", node.op) };
        let (x, weight) = (node.inputs[0], node.inputs[1]);
        let g = self.conv_geometry(x, weight, window);
        let (mut dw, mut db) = (self.backend.zeros(len(self.shape(weight))), self.backend.zeros(g.outputs));
        self.backend.conv_grad_weight(&g, self.buffer(x), grad, &mut dw, &mut db);
        self.backend.release(db);
        dw
    }

    fn propagate(&mut self, i: usize, grad: B::Buffer) {
        let inputs = self.nodes[i].inputs.clone();
        let x = inputs.first().copied().unwrap_or(NodeId(i));
        match self.nodes[i].op.clone() {
            Op::Input { .. } | Op::Param { .. } => unreachable!("leaves have no rule"),
            Op::Conv { window } => {
                let (weight, bias) = (inputs[1], inputs[2]);
                let g = self.conv_geometry(x, weight, window);
                if !self.frozen {
                    self.with_param_grads(weight, bias, |t, dw, db| {
                        t.backend.conv_grad_weight(&g, t.buffer(x), &grad, dw, db);
                    });
                }
                self.give_with(x, |t, out| t.backend.conv_grad_input(&g, t.buffer(weight), &grad, out));
            }
            Op::GroupNorm { groups, silu } => {
                let (scale, shift) = (inputs[1], inputs[2]);
                let g = self.norm_geometry(x, groups, silu);
                let mut out = self.backend.alloc(len(self.shape(x)));
                self.with_param_grads(scale, shift, |t, ds, db| {
                    let (scale, shift) = (t.buffer(scale), t.buffer(shift));
                    t.backend.group_norm_grad(&g, t.buffer(x), scale, shift, t.saved(i), &grad, &mut out, ds, db);
                });
                self.give(x, out);
            }
            Op::LayerNorm => {
                let (scale, shift) = (inputs[1], inputs[2]);
                let shape = self.shape(x);
                let row = len(shape) / shape[0];
                let mut out = self.backend.alloc(len(shape));
                self.with_param_grads(scale, shift, |t, ds, db| {
                    let (x, scale) = (t.buffer(x), t.buffer(scale));
                    t.backend.layer_norm_grad(shape[0], row, x, scale, t.saved(i), &grad, &mut out, ds, db);
                });
                self.give(x, out);
            }
            Op::Silu => self.give_with(x, |t, out| t.backend.silu_grad(t.buffer(x), &grad, out)),
            Op::LeakyRelu { slope } => {
                self.give_with(x, |t, out| t.backend.leaky_relu_grad(slope, t.buffer(x), &grad, out));
            }
            Op::Dropout { mask } => self.give_with(x, |t, out| t.drop_out(&mask, &grad, out)),
            Op::Add => {
                self.give_with(x, |t, out| t.backend.copy(&grad, out));
                return self.give(inputs[1], grad);
            }
            Op::AddVector => {
                let [batch, _, _, channels] = self.shape(x);
                self.give_with(inputs[1], |t, out| t.backend.sum_pixels(batch, channels, &grad, out));
                return self.give(x, grad);
            }
            Op::Concat => {
                let [n, h, w, _] = self.shape(x);
                let mut parts = [x, inputs[1]].map(|p| self.backend.alloc(len(self.shape(p))));
                let [a, b] = &mut parts;
                self.backend.split(n * h * w, &grad, a, b);
                for (id, part) in [x, inputs[1]].into_iter().zip(parts) {
                    self.give(id, part);
                }
            }
            Op::Upsample => {
                let g = self.plane(x);
                self.give_with(x, |t, out| t.backend.upsample_grad(&g, &grad, out));
            }
            Op::DepthToSpace => {
                let g = self.plane(x);
                self.give_with(x, |t, out| t.backend.space_to_depth(&g, &grad, out));
            }
            Op::Crop { margin } => {
                let g = self.plane(x);
                self.give_with(x, |t, out| t.backend.crop_grad(&g, margin, &grad, out));
            }
            Op::Pool { window, mean } => {
                let g = Pool { plane: self.plane(x), window, mean };
                self.give_with(x, |t, out| t.backend.pool_grad(&g, t.buffer(x), &grad, out));
            }
            Op::Attention { heads } => {
                let g = self.attention_geometry(x, heads);
                self.give_with(x, |t, out| t.backend.attention_grad(&g, t.buffer(x), t.saved(i), &grad, out));
            }
            Op::Sinusoid { .. } => {}
            Op::StraightThrough => return self.give(x, grad),
        }
        self.backend.release(grad);
    }

    fn saved(&self, i: usize) -> &B::Buffer {
        self.nodes[i].saved.as_ref().expect("ops that save do so when recorded")
    }
}
