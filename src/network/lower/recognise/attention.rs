//! Self-attention: the eleven nodes from queries, keys and values to their mixture.

use tract_onnx::pb::NodeProto;

use super::super::attributes::Attributes;
use super::super::graph::Kind;
use super::{Answer, Form, Recogniser, Value, floats, is_last, sides, value};
use crate::network::ops::Shape;

/// How far attention has come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Stage {
    /// Queries, keys or values.
    Part(usize),
    /// Queries times a scale, `[heads, channels, tokens]`; the same `[heads, tokens, channels]`.
    Queries(f32),
    QueriesTransposed(f32),
    /// Scores of all keys for each query, their softmax, and that with keys before queries.
    Scores(f32),
    Weights(f32),
    WeightsTransposed(f32),
}

impl<'a> Recogniser<'a> {
    /// Queries, keys and values, `[1, C, tokens]` each.
    pub(super) fn split(
        &mut self,
        x: &Value<'a>,
        sizes: &Value,
        node: &NodeProto,
        mut attributes: Attributes,
    ) -> Answer<()> {
        let (Some((qkv, shape)), [1, channels, tokens]) = (self.active(x), &x.dims[..]) else {
            return Err("not of an activation".into());
        };
        let third = channels / 3;
        let is_ours = *channels == shape.channels && channels.is_multiple_of(3) && sides(sizes) == Some(vec![third; 3]);
        let ([_, _, _], true, Some(1)) = (&node.output[..], is_ours, attributes.int("axis")) else {
            return Err("not into queries, keys and values".into());
        };
        for (i, name) in node.output.iter().enumerate() {
            self.set(name, Form::Attending(qkv, Stage::Part(i)), vec![1, third, *tokens])?;
        }
        attributes.finish()
    }

    /// Scores of keys for queries, or the values by their weights: attention itself.
    pub(super) fn matmul(&mut self, a: &Value<'a>, b: &Value<'a>) -> Answer<Option<Value<'a>>> {
        let (Form::Attending(qkv, left), Form::Attending(same, right)) = (&a.form, &b.form) else { return Ok(None) };
        let ([heads, rows, inner], [others, depth, columns]) = (&a.dims[..], &b.dims[..]) else { return Ok(None) };
        if qkv != same || heads != others || inner != depth {
            return Ok(None);
        }
        let dims = [*heads, *rows, *columns];
        let scale = match (left, right) {
            (Stage::QueriesTransposed(scale), Stage::Part(1)) => {
                return Ok(value(Form::Attending(*qkv, Stage::Scores(*scale)), &dims));
            }
            (Stage::Part(2), Stage::WeightsTransposed(scale)) => *scale,
            _ => return Ok(None),
        };
        let shape = self.graph.shape(*qkv);
        let shape = Shape { channels: shape.channels / 3, ..shape };
        if heads.checked_mul(*rows) != Some(shape.channels) || *columns != shape.pixels() {
            return Ok(None);
        }
        let id = self.graph.add(Kind::Attention { heads: *heads, scale }, vec![*qkv], shape)?;
        Ok(value(Form::Active(id), &dims))
    }
}

/// The queries, times one number.
pub(super) fn scale<'a>(queries: &Value<'a>, by: &Value<'a>) -> Option<Value<'a>> {
    let (&Form::Attending(qkv, Stage::Part(0)), [scale]) = (&queries.form, &floats(by)?[..]) else { return None };
    let form = Form::Attending(qkv, Stage::Queries(*scale));
    (by.dims.len() <= 1).then(|| Value { form, dims: queries.dims.clone() })
}

/// Swaps the last two of three sides.
pub(super) fn transpose<'a>(x: &Value<'a>, attributes: &mut Attributes) -> Option<Value<'a>> {
    let (Form::Attending(qkv, stage), [heads, rows, columns]) = (&x.form, &x.dims[..]) else { return None };
    let stage = match stage {
        Stage::Queries(scale) => Stage::QueriesTransposed(*scale),
        Stage::Weights(scale) => Stage::WeightsTransposed(*scale),
        _ => return None,
    };
    let swaps = attributes.ints("perm")? == [0, 2, 1];
    swaps.then(|| Value { form: Form::Attending(*qkv, stage), dims: vec![*heads, *columns, *rows] })
}

/// The softmax over keys.
pub(super) fn softmax<'a>(x: &Value<'a>, attributes: &mut Attributes) -> Option<Value<'a>> {
    let Form::Attending(qkv, Stage::Scores(scale)) = x.form else { return None };
    let over_keys = is_last(attributes.int("axis"), 3);
    over_keys.then(|| Value { form: Form::Attending(qkv, Stage::Weights(scale)), dims: x.dims.clone() })
}
