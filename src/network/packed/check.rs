//! Whether a program that comes from a file is one: shapes agree, and nothing reads or writes beyond its buffer.

use crate::bundle::manifest::{NetworkEntry, TensorEntry};
use crate::network::Network;
use crate::network::arena::Place;
use crate::network::ops::{Conv, LANES, Shape, View};
use crate::network::program::{Op, Program, Step};

type Checked = Result<(), String>;

/// Checks `program` against itself and the tensors of `entry`.
pub(super) fn check(program: &Program, entry: &NetworkEntry) -> Checked {
    for (i, step) in program.steps.iter().enumerate() {
        check_step(step, entry).map_err(|fault| format!("step {i} of its program: {fault}"))?;
    }
    check_place(&program.output)?;
    let [output] = &entry.outputs[..] else { return Err("its program has one output".into()) };
    holds(program.output.view.shape, output).then_some(()).ok_or("its program's output has another shape".into())
}

fn check_step(step: &Step, entry: &NetworkEntry) -> Checked {
    let out = &step.out;
    check_place(out)?;
    step.op.reads().try_for_each(check_place)?;
    ensure(step.writes_apart(), "it writes where it reads")?;
    check_op(&step.op, out.view.shape, entry)
}

/// The pixels lie in order within the buffer, before its zeros.
fn check_place(place: &Place) -> Checked {
    let View { shape: Shape { channels, height, width }, offset, pixel, row } = place.view;
    let end = || {
        let values = place.buffer.end.checked_sub(place.buffer.start)?.checked_sub(place.zeros)?;
        let rows = height.checked_sub(1)?.checked_mul(row)?;
        let columns = width.checked_sub(1)?.checked_mul(pixel)?;
        let end = offset.checked_add(rows)?.checked_add(columns)?.checked_add(channels)?;
        Some(end <= values)
    };
    let is_in_order = channels > 0 && pixel >= channels && width.checked_mul(pixel).is_some_and(|width| row >= width);
    let is_bounded = place.buffer.end <= Network::MAX_VALUES;
    ensure(is_bounded && is_in_order && end() == Some(true), "an activation does not lie in its buffer")
}

fn check_op(op: &Op, out: Shape, entry: &NetworkEntry) -> Checked {
    let shape = |place: &Place| place.view.shape;
    let fits = match op {
        Op::Input(i) => entry.inputs.get(*i).is_some_and(|input| holds(out, input)),
        Op::Conv { conv, x, vector, residual, .. } => {
            fits_weights(conv, shape(x), out)
                && x.zeros >= shape(x).channels
                && vector.as_ref().is_none_or(|vector| shape(vector).channels == out.channels)
                && residual.as_ref().is_none_or(|residual| shape(residual) == out)
        }
        Op::GroupNorm { norm, x } => {
            let divided = norm.groups > 0 && out.channels.is_multiple_of(norm.groups);
            divided && shape(x) == out && [&norm.scale, &norm.shift].iter().all(|values| values.len() == out.channels)
        }
        Op::LayerNorm { norm, x } => {
            shape(x) == out && [&norm.scale, &norm.shift].iter().all(|values| values.len() == out.len())
        }
        Op::Attention { attention, qkv } => {
            let divided = attention.heads > 0 && out.channels.is_multiple_of(attention.heads);
            divided && shape(qkv) == Shape { channels: 3 * out.channels, ..out }
        }
        Op::Silu { x } | Op::Copy { x } => shape(x) == out,
        Op::Add { a, b } => shape(a) == out && shape(b) == out,
        Op::AddVector { x, vector } => shape(x) == out && shape(vector).channels == out.channels,
        Op::DepthToSpace { block, x } => {
            let Shape { channels, height, width } = shape(x);
            let side = |side: usize| side.checked_mul(*block);
            let deep = block.checked_mul(*block).and_then(|area| area.checked_mul(out.channels));
            *block > 0 && [deep, side(height), side(width)] == [channels, out.height, out.width].map(Some)
        }
        Op::Sinusoid { rates, .. } => rates.len().checked_mul(2) == Some(out.channels) && out.pixels() == 1,
    };
    ensure(fits, "its shapes do not fit")
}

fn fits_weights(conv: &Conv, x: Shape, out: Shape) -> bool {
    let (kernel, geometry) = (conv.weights.kernel, conv.geometry);
    let affine = out.channels.checked_next_multiple_of(LANES);
    kernel.inputs == x.channels
        && kernel.size == geometry.size
        && kernel.size > 0
        && geometry.output(x, kernel.outputs) == Some(out)
        && kernel.packed() == Some(conv.weights.len())
        && conv.weights.are_sound()
        && conv.weights.affines().map(Some) == [affine; 2]
}

/// Whether the tensor has as many values.
fn holds(shape: Shape, tensor: &TensorEntry) -> bool {
    tensor.shape.iter().try_fold(1usize, |n, &side| n.checked_mul(side)) == Some(shape.len())
}

fn ensure(is_so: bool, fault: &str) -> Checked {
    if is_so { Ok(()) } else { Err(fault.to_owned()) }
}
