//! A network packed: its program and its weights as the operators read them, in a container that is mapped. Nothing
//! is parsed but the program, and no weight is copied into the heap.
//!
//! ```text
//! container of kind `rspk`
//!   onnx 0   BLAKE3 of the ONNX file that this was made from, 32 bytes
//!   prog 0   the program, JSON
//!   wght 0   the arrays that the program names by ranges of bytes, each on a multiple of 64
//! ```

mod check;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytemuck::Pod;
use tract_onnx::prelude::{Framework, TractError};

use super::lower;
use super::ops::{Array, Visitor};
use super::program::Program;
use crate::bundle::manifest::NetworkEntry;
use crate::container::{self, Container, Resident, SectionId, source};
use crate::error::{Error, Result};

pub(super) const KIND: [u8; 4] = *b"rspk";
const ONNX: SectionId = SectionId(*b"onnx", 0);
const PROGRAM: SectionId = SectionId(*b"prog", 0);
const WEIGHTS: SectionId = SectionId(*b"wght", 0);
/// Arrays start on cache lines.
const ALIGN: usize = 64;
/// Longest program that is read, in bytes.
const MAX_PROGRAM: usize = 1 << 20;

/// The weights of a packed file, mapped.
#[derive(Debug)]
pub(in crate::network) struct Blob {
    container: Container,
    weights: Resident<u8>,
}

impl Blob {
    pub fn bytes(&self) -> &[u8] {
        self.container.view(&self.weights)
    }
}

/// Packs the ONNX file at `onnx`, whose tensors are those of `entry`, into a file at `packed`. Says why not where
/// the graph is not one for our operators.
pub(super) fn write(onnx: &Path, entry: &NetworkEntry, packed: &Path) -> Result<std::result::Result<(), String>> {
    let bytes = fs::read(onnx).map_err(|e| Error::io(onnx, e))?;
    let hash = blake3::hash(&bytes);
    let lowered = super::guard(onnx, || {
        let proto = tract_onnx::onnx().proto_model_for_read(&mut &bytes[..])?;
        super::check::check(&proto, entry).map_err(TractError::msg)?;
        Ok(lower::lower(&proto, entry))
    })?;
    let mut program = match lowered {
        Ok(program) => program,
        Err(why) => return Ok(Err(why)),
    };
    let mut packer = Packer::default();
    program.visit(&mut packer).map_err(Error::Internal)?;
    let text = serde_json::to_vec(&program).map_err(|e| Error::Internal(e.to_string()))?;
    let sections = vec![(ONNX, source(hash.as_bytes())), (PROGRAM, source(&text)), (WEIGHTS, source(&packer.bytes))];
    container::write(packed, KIND, sections).map(Ok)
}

/// The program in `container`, of kind [`KIND`], which must have been made from the ONNX file of hash `onnx`
/// (hexadecimal BLAKE3) and have the signature of `entry`. Its arrays stay in the file.
pub(super) fn read(container: Container, entry: &NetworkEntry, onnx: &str) -> Result<Program> {
    container.verify()?;
    let hash = container.resident(container.section_of::<u8>(ONNX, blake3::OUT_LEN as u64)?)?;
    let made_from = blake3::Hash::from_slice(container.view(&hash)).map_err(|e| container.fault(e.to_string()))?;
    if !made_from.to_hex().eq_ignore_ascii_case(onnx) {
        return Err(container.fault("was packed from another ONNX file"));
    }
    let text = container.section::<u8>(PROGRAM)?;
    if text.len() > MAX_PROGRAM as u64 {
        return Err(container.fault(format!("its program is longer than {MAX_PROGRAM} bytes")));
    }
    let text = container.resident(text)?;
    let mut program: Program =
        serde_json::from_slice(container.view(&text)).map_err(|e| container.fault(e.to_string()))?;
    // Read one by one, they have room for as many again.
    program.steps.shrink_to_fit();
    let weights = container.resident(container.section::<u8>(WEIGHTS)?)?;
    let blob = Arc::new(Blob { container, weights });
    let fault = |fault: String| blob.container.fault(fault);
    program.visit(&mut Binder(&blob)).map_err(fault)?;
    check::check(&program, entry).map_err(fault)?;
    program.measure().map_err(fault)?;
    Ok(program)
}

/// Moves arrays into a blob.
#[derive(Default)]
struct Packer {
    bytes: Vec<u8>,
}

impl Visitor for Packer {
    fn visit<T: Pod>(&mut self, array: &mut Array<T>) -> std::result::Result<(), String> {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN), 0);
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytemuck::cast_slice(array));
        *array = Array::Packed { bytes: start..self.bytes.len(), blob: None };
        Ok(())
    }
}

/// Binds arrays to the blob they lie in.
struct Binder<'a>(&'a Arc<Blob>);

impl Visitor for Binder<'_> {
    fn visit<T: Pod>(&mut self, array: &mut Array<T>) -> std::result::Result<(), String> {
        let Array::Packed { bytes, blob } = array else { return Err("an array is not packed".into()) };
        let values = self.0.bytes().get(bytes.clone()).map(bytemuck::try_cast_slice::<u8, T>);
        match values {
            Some(Ok(_)) => *blob = Some(self.0.clone()),
            _ => return Err(format!("an array lies at bytes {bytes:?} of its weights, where none can lie")),
        }
        Ok(())
    }
}
