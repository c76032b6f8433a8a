//! Constants of an ONNX graph.

use tract_onnx::pb::{TensorProto, tensor_proto::DataType};

use crate::network::ops::{Kernel, Quantized, Weights};

/// Sides of a constant; `None` where one is negative or their product overflows.
pub(super) fn dims(tensor: &TensorProto) -> Option<Vec<usize>> {
    let dims: Vec<usize> = tensor.dims.iter().map(|&d| usize::try_from(d).ok()).collect::<Option<_>>()?;
    dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).map(|_| dims)
}

/// The values of an `f32` constant, as many as its sides say.
pub(super) fn floats(tensor: &TensorProto) -> Option<Vec<f32>> {
    let len: usize = dims(tensor)?.iter().product();
    if tensor.data_type != DataType::Float as i32 {
        return None;
    }
    let raw = tensor.raw_data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let values: Vec<f32> = match tensor.float_data.is_empty() {
        true if tensor.raw_data.len().is_multiple_of(4) => raw.collect(),
        false if tensor.raw_data.is_empty() => tensor.float_data.clone(),
        _ => return None,
    };
    (values.len() == len).then_some(values)
}

/// The value of a `u8` or `u16` constant of rank 0, and the greatest of its type.
pub(super) fn unsigned(tensor: &TensorProto) -> Option<[u16; 2]> {
    let (bytes, most) = match tensor.data_type {
        kind if kind == DataType::Uint8 as i32 => (1, u8::MAX.into()),
        kind if kind == DataType::Uint16 as i32 => (2, u16::MAX),
        _ => return None,
    };
    let value = match (&tensor.raw_data[..], &tensor.int32_data[..]) {
        (&[low], []) if bytes == 1 => low.into(),
        (&[low, high], []) if bytes == 2 => u16::from_le_bytes([low, high]),
        ([], [value]) => u16::try_from(*value).ok()?,
        _ => return None,
    };
    (tensor.dims.is_empty() && value <= most).then_some([value, most])
}

/// The values of an `i64` constant of rank 1, none of them negative.
pub(super) fn sides(tensor: &TensorProto) -> Option<Vec<usize>> {
    let integers = integers(tensor)?;
    integers.into_iter().map(|i| usize::try_from(i).ok()).collect()
}

fn integers(tensor: &TensorProto) -> Option<Vec<i64>> {
    let [len] = dims(tensor)?[..] else { return None };
    if tensor.data_type != DataType::Int64 as i32 {
        return None;
    }
    let raw = tensor.raw_data.chunks_exact(8).filter_map(|b| Some(i64::from_le_bytes(b.try_into().ok()?)));
    let values: Vec<i64> = match tensor.int64_data.is_empty() {
        true if tensor.raw_data.len().is_multiple_of(8) => raw.collect(),
        false if tensor.raw_data.is_empty() => tensor.int64_data.clone(),
        _ => return None,
    };
    (values.len() == len).then_some(values)
}

/// Weights of a convolution `[outputs, …]`, as the file has them.
#[derive(Debug, Clone)]
pub(super) enum Kernels<'a> {
    /// Rows of `i8`, one for each output, in parts, with a scale for each.
    Int8(Vec<Quantized<'a>>),
    /// `f32`.
    Float(&'a TensorProto),
}

impl<'a> Kernels<'a> {
    /// An `i8` constant times one scale for each of its first side.
    pub fn dequantized(values: &'a TensorProto, scales: &TensorProto) -> Option<Self> {
        let (sides, scales) = (dims(values)?, floats(scales)?);
        let row: usize = sides.get(1..)?.iter().product();
        let is_int8 = values.data_type == DataType::Int8 as i32;
        let len = scales.len().checked_mul(row)?;
        if !is_int8 || row == 0 || sides[0] != scales.len() || values.raw_data.len() != len {
            return None;
        }
        let rows = values.raw_data.chunks_exact(row).zip(scales).map(|(bytes, scale)| Quantized { bytes, scale });
        Some(Self::Int8(rows.collect()))
    }

    /// Packs them; `None` where they are not as many as `kernel` says.
    pub fn pack(&self, kernel: Kernel, bias: &[f32]) -> Option<Weights> {
        kernel.packed()?;
        match self {
            Self::Int8(rows) => {
                let right =
                    rows.len() == kernel.outputs && rows.iter().all(|row| Some(row.bytes.len()) == kernel.row());
                right.then(|| Weights::quantized(kernel, rows, bias))
            }
            Self::Float(tensor) => {
                let values = floats(tensor)?;
                let len = kernel.row()?.checked_mul(kernel.outputs)?;
                (values.len() == len).then(|| Weights::float(kernel, &values, bias))
            }
        }
    }
}
