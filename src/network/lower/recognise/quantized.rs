//! What is stored in 8 bits, or computed in integers: pairs of `QuantizeLinear` and `DequantizeLinear`.

use tract_onnx::pb::TensorProto;

use super::{Attributes, Form, Kernels, Value, constants, floats, value};
use crate::network::ops::Rounding;

/// How values of a tensor, which lie within `bounds`, are rounded, all in one way; and the constants that say so.
pub(super) fn rounding<'a>(
    bounds: [f32; 2],
    scale: &Value<'a>,
    zero: &Value<'a>,
) -> Option<(Rounding, [&'a TensorProto; 2])> {
    let (&Form::Constant(by), &Form::Constant(zero), [], []) =
        (&scale.form, &zero.form, &scale.dims[..], &zero.dims[..])
    else {
        return None;
    };
    let (&[scale], [offset, most]) = (&floats(scale)?[..], constants::unsigned(zero)?.map(f32::from)) else {
        return None;
    };
    let [least, most] = [bounds[0].max(-offset * scale), bounds[1].min((most - offset) * scale)];
    let integer = |bound: f32| {
        let integer = (bound / scale).round_ties_even();
        (integer.abs() <= f32::from(i16::MAX)).then_some(integer as i16)
    };
    Some((Rounding::new(scale, [integer(least)?, integer(most)?])?, [by, zero]))
}

/// The bounds that `Clip` keeps values within.
pub(super) fn bounds(least: &Value, most: &Value) -> Option<[f32; 2]> {
    match (&floats(least)?[..], &floats(most)?[..]) {
        (&[least], &[most]) if least <= most => Some([least, most]),
        _ => None,
    }
}

/// What was rounded, as real numbers again, by the same constants.
pub(super) fn restore<'a>(x: &Value<'a>, scale: &Value<'a>, zero: &Value<'a>) -> Option<Value<'a>> {
    match (&x.form, &scale.form, &zero.form) {
        (&Form::Rounded(map, rounding, by), &Form::Constant(scale), &Form::Constant(zero))
            if std::ptr::eq(by[0], scale) && std::ptr::eq(by[1], zero) =>
        {
            value(Form::Restored(map, rounding), &x.dims)
        }
        _ => None,
    }
}

/// Weights of 8 bits, one scale for each of their first side.
pub(super) fn dequantize<'a>(values: &Value<'a>, scales: &Value<'a>, attributes: &mut Attributes) -> Option<Value<'a>> {
    let (Form::Constant(values), Form::Constant(scales), Some(0)) =
        (&values.form, &scales.form, attributes.int("axis"))
    else {
        return None;
    };
    value(Form::Kernels(Kernels::dequantized(values, scales)?), &constants::dims(values)?)
}

/// Weights that were expanded in parts.
pub(super) fn joined<'a>(parts: &[Value<'a>]) -> Option<Value<'a>> {
    let mut rows = vec![];
    for part in parts {
        match &part.form {
            Form::Kernels(Kernels::Int8(more)) if part.dims[1..] == parts[0].dims[1..] => rows.extend(more),
            _ => return None,
        }
    }
    let mut dims = parts.first()?.dims.clone();
    dims[0] = rows.len();
    Some(Value { form: Form::Kernels(Kernels::Int8(rows)), dims })
}
