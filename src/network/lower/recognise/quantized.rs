//! What is stored, or computed, in 8 bits: pairs of `QuantizeLinear` and `DequantizeLinear`.

use super::{Attributes, Form, Kernels, Value, constants, floats, value};
use crate::network::ops::Rounding;

/// How values are rounded, in one way for all of a tensor.
pub(super) fn rounding(scale: &Value, zero: &Value) -> Option<Rounding> {
    let (Form::Constant(zero), [], [], [scale]) = (&zero.form, &scale.dims[..], &zero.dims[..], &floats(scale)?[..])
    else {
        return None;
    };
    Rounding::new(*scale, constants::byte(zero)?)
}

/// What was rounded, as real numbers again, in the way it was rounded.
pub(super) fn restore<'a>(x: &Value<'a>, scale: &Value<'a>, zero: &Value<'a>) -> Option<Value<'a>> {
    match x.form {
        Form::Rounded(map, how) if rounding(scale, zero)? == how => value(Form::Restored(map, how), &x.dims),
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
