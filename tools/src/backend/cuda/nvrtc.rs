//! NVRTC: CUDA C to machine code at run time. `unsafe` is allowed here for its C interface.
#![allow(unsafe_code)]

use std::ffi::CString;

use cudarc::nvrtc::{result, sys};
use rissole::{Error, Result};

use super::libraries;

/// Compiles `source` for compute capability `arch`, to the machine code of that device ("CUBIN").
///
/// # Errors
/// [`Error::Usage`] when NVRTC is not there or too old for the device; [`Error::Internal`] with the compiler's log
/// when the source is at fault.
pub fn compile(source: &str, arch: (u32, u32)) -> Result<Vec<u8>> {
    libraries::load(libraries::NVRTC)
        .map_err(|searched| Error::Usage(format!("no NVRTC to compile the CUDA kernels with: {searched}")))?;
    let source = CString::new(source).map_err(|e| Error::Internal(format!("CUDA kernels: {e}")))?;
    let program = Program::new(&source)?;
    // SAFETY: the program was created and lives until the end of this function.
    let compiled = unsafe { result::compile_program(program.0, &options(arch)) };
    if let Err(error) = compiled {
        let log = program.log();
        return Err(match error.0 {
            sys::nvrtcResult::NVRTC_ERROR_INVALID_OPTION => {
                Error::Usage(format!("this NVRTC does not know compute capability {}.{}: {log}", arch.0, arch.1))
            }
            _ => Error::Internal(format!("CUDA kernels do not compile ({error}): {log}")),
        });
    }
    program.cubin()
}

/// The options that kernels are compiled with; `tools/check/kernels.py` uses the same.
pub fn options(arch: (u32, u32)) -> [String; 2] {
    [format!("--gpu-architecture=sm_{}{}", arch.0, arch.1), "--std=c++17".to_owned()]
}

struct Program(sys::nvrtcProgram);

impl Program {
    fn new(source: &CString) -> Result<Self> {
        result::create_program(source, Some(c"rissole.cu"))
            .map(Self)
            .map_err(|e| Error::Internal(format!("NVRTC: {e}")))
    }

    fn log(&self) -> String {
        // SAFETY: the program lives.
        let bytes = unsafe { result::get_program_log(self.0) }.unwrap_or_default();
        let bytes: Vec<u8> = bytes.into_iter().map(|c| c as u8).take_while(|&c| c != 0).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn cubin(&self) -> Result<Vec<u8>> {
        let mut size = 0usize;
        // SAFETY: the program lives and was compiled; the buffer has the size NVRTC asks for.
        let image = unsafe {
            sys::nvrtcGetCUBINSize(self.0, &mut size).result().and_then(|()| {
                let mut image = vec![0u8; size];
                sys::nvrtcGetCUBIN(self.0, image.as_mut_ptr().cast()).result().map(|()| image)
            })
        };
        image.map_err(|e| Error::Internal(format!("NVRTC: {e}")))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: the program was created here and is destroyed once. A failure leaks it, which harms nothing.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cuda::program;

    #[test]
    fn the_kernels_compile_and_a_fault_of_the_source_is_told_with_its_line() {
        if libraries::load(libraries::NVRTC).is_err() {
            return println!("skipped: no NVRTC");
        }
        for bf16 in [false, true] {
            assert_eq!(compile(&program::source(bf16), (8, 0)).unwrap()[..4], *b"\x7fELF");
        }
        let error = compile("#line 1 \"some.cu\"\nfaulty", (8, 0)).unwrap_err().to_string();
        assert!(error.contains("some.cu(1)"), "{error}");
        let error = compile(&program::source(false), (1, 0)).unwrap_err().to_string();
        assert!(error.contains("compute capability 1.0"), "{error}");
    }
}
