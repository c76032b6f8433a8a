//! Constant values of operators: weights, scales, shifts.

use std::ops::{Deref, Range};
use std::sync::Arc;

use bytemuck::Pod;
use serde::{Deserialize, Serialize};

use crate::network::packed::Blob;

/// Values of an operator, in the heap or in place in a packed file.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::network) enum Array<T> {
    /// Of its own. Not written: it is packed first.
    #[serde(skip)]
    Owned(Box<[T]>),
    /// Bytes of a blob.
    Packed {
        bytes: Range<usize>,
        /// Absent until the array is bound to its blob; it is empty as long.
        #[serde(skip)]
        blob: Option<Arc<Blob>>,
    },
}

/// Sees every array of a program, in an order that depends on the program alone.
pub(in crate::network) trait Visitor {
    /// Sees one.
    fn visit<T: Pod>(&mut self, array: &mut Array<T>) -> Result<(), String>;
}

impl<T: Pod> Deref for Array<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::Owned(values) => values,
            // Cannot fail: bound and alignment were checked when the array was bound.
            Self::Packed { bytes, blob: Some(blob) } => bytemuck::cast_slice(&blob.bytes()[bytes.clone()]),
            Self::Packed { blob: None, .. } => &[],
        }
    }
}

impl<T> From<Vec<T>> for Array<T> {
    fn from(values: Vec<T>) -> Self {
        Self::Owned(values.into())
    }
}

impl<T> From<Box<[T]>> for Array<T> {
    fn from(values: Box<[T]>) -> Self {
        Self::Owned(values)
    }
}
