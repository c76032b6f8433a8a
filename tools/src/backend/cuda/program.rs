//! The kernels as one program: their source, their signatures, and the compiled code kept on disk.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rissole::atomic_file::write_atomically;
use rissole::{Error, Result};

use super::nvrtc;

/// The kernels, in the order they are compiled.
const FILES: [(&str, &str); 18] = [
    ("common.cu", include_str!("kernels/common.cu")),
    ("random.cu", include_str!("kernels/random.cu")),
    ("pointwise.cu", include_str!("kernels/pointwise.cu")),
    ("layout.cu", include_str!("kernels/layout.cu")),
    ("reduce.cu", include_str!("kernels/reduce.cu")),
    ("conv.cu", include_str!("kernels/conv.cu")),
    ("tensor.cu", include_str!("kernels/tensor.cu")),
    ("direct.cu", include_str!("kernels/direct.cu")),
    ("pool.cu", include_str!("kernels/pool.cu")),
    ("gemm.cu", include_str!("kernels/gemm.cu")),
    ("norm.cu", include_str!("kernels/norm.cu")),
    ("attention.cu", include_str!("kernels/attention.cu")),
    ("tensor_attention.cu", include_str!("kernels/tensor_attention.cu")),
    ("quantize.cu", include_str!("kernels/quantize.cu")),
    ("loss.cu", include_str!("kernels/loss.cu")),
    ("pictures.cu", include_str!("kernels/pictures.cu")),
    ("windows.cu", include_str!("kernels/windows.cu")),
    ("optimizer.cu", include_str!("kernels/optimizer.cu")),
];
/// What makes activations bf16.
const BF16: &str = "#define BF16_ACTIVATIONS\n";
/// The files that are for activations in bf16 alone.
const BF16_ALONE: [&str; 3] = ["tensor.cu", "direct.cu", "tensor_attention.cu"];
/// What begins a kernel's declaration.
const DECLARATION: &str = "extern \"C\" __global__ void ";
/// Bytes of the hash in front of a kept program.
const HASH_BYTES: usize = 32;

/// Type of a kernel's parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parameter {
    /// `unsigned`.
    Size,
    /// `float`.
    Float,
    /// `act*`.
    Activations,
    /// `float*`.
    Floats,
    /// Any other pointer.
    Pointer,
}

/// All files as one source, with activations in bf16 or else as floats.
pub fn source(bf16: bool) -> String {
    let files = FILES.iter().filter(|(name, _)| bf16 || !BF16_ALONE.contains(name));
    let files = files.map(|(name, text)| format!("#line 1 \"{name}\"\n{text}"));
    std::iter::once(if bf16 { BF16.to_owned() } else { String::new() }).chain(files).collect()
}

/// Every kernel's parameters, read from its declaration, so that a launch can be checked against it.
pub fn signatures(source: &str) -> HashMap<&str, Vec<Parameter>> {
    source
        .split(DECLARATION)
        .skip(1)
        .filter_map(|rest| {
            let (name, rest) = rest.split_once('(')?;
            let (parameters, _) = rest.split_once(')')?;
            Some((name, parameters.split(',').map(parameter).collect()))
        })
        .collect()
}

fn parameter(declaration: &str) -> Parameter {
    match () {
        () if declaration.contains("act*") => Parameter::Activations,
        () if declaration.contains("float*") => Parameter::Floats,
        () if declaration.contains('*') => Parameter::Pointer,
        () if declaration.trim_start().starts_with("float ") => Parameter::Float,
        () => Parameter::Size,
    }
}

/// Machine code of the kernels in `source` for a device of compute capability `arch`: from `cache` where a run with the same
/// source, device and driver left it, else compiled and left there.
///
/// # Errors
/// As [`nvrtc::compile`]. A cache that cannot be read or written costs time only.
pub fn machine_code(source: &str, arch: (u32, u32), driver: i32, cache: Option<&Path>) -> Result<Vec<u8>> {
    let key = blake3::hash(format!("{source}{:?}{driver}", nvrtc::options(arch)).as_bytes()).to_hex();
    let path = cache.map(|dir| dir.join(format!("{}-sm_{}{}.cubin", &key[..32], arch.0, arch.1)));
    if let Some(image) = path.as_deref().and_then(read) {
        return Ok(image);
    }
    log::info!("CUDA: compiling kernels");
    let image = nvrtc::compile(source, arch)?;
    if let Some(path) = &path
        && let Err(error) = write(path, &image)
    {
        log::warn!("the compiled CUDA kernels cannot be kept: {error}");
    }
    Ok(image)
}

/// A kept program, unless it is missing or damaged.
fn read(path: &Path) -> Option<Vec<u8>> {
    let bytes = std::fs::read(path).ok()?;
    let (hash, image) = bytes.split_first_chunk::<HASH_BYTES>()?;
    (blake3::hash(image).as_bytes() == hash).then(|| image.to_vec())
}

fn write(path: &Path, image: &[u8]) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
    write_atomically(path, |out| {
        out.write_all(blake3::hash(image).as_bytes())?;
        out.write_all(image)
    })
}

/// Where compiled kernels are kept unless the caller says otherwise: `$XDG_CACHE_HOME/rissole/kernels`, by default
/// `~/.cache/rissole/kernels`.
pub fn default_cache() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
    Some(base.join("rissole/kernels"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_read_from_the_source() {
        let source = source(false);
        let found = signatures(&source);
        assert_eq!(found.len(), source.matches(DECLARATION).count());
        use Parameter::{Activations, Float, Floats, Pointer, Size};
        assert_eq!(found["leaky_relu"], [Size, Float, Activations, Activations]);
        assert_eq!(found["layer_norm"], [Size, Activations, Floats, Floats, Activations, Floats]);
        assert_eq!(found["chunk_square_sums"], [Pointer, Pointer]);
    }

    #[test]
    fn a_kept_program_is_taken_only_whole() {
        let dir = std::env::temp_dir().join(format!("rissole-kernels-{}", std::process::id()));
        let path = dir.join("a.cubin");
        assert_eq!(read(&path), None);
        write(&path, b"machine code").unwrap();
        assert_eq!(read(&path).unwrap(), b"machine code");
        let mut bytes = std::fs::read(&path).unwrap();
        for damaged in [0, 10, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..damaged]).unwrap();
            assert_eq!(read(&path), None);
        }
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(read(&path), None);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
