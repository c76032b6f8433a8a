//! Finding NVIDIA's libraries on this machine, at run time: the driver, NVRTC, cublasLt, cuDNN, NCCL.
//!
//! A library found here stays loaded, and the loader gives the same one to whoever asks for it by name later;
//! that is how `cudarc` gets the ones that lie outside the loader's path. `unsafe` is allowed here because
//! loading a library runs its initialisers.
#![allow(unsafe_code)]

use std::path::{Path, PathBuf};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

/// The driver, which comes with the graphics card and not with the toolkit.
pub const DRIVER: &[&str] = &["libcuda.so.1", "libcuda.so"];
/// The run-time compiler.
pub const NVRTC: &[&str] = &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];
/// Matrix products.
pub const CUBLAS_LT: &[&str] = &["libcublasLt.so.13", "libcublasLt.so.12"];
/// Convolutions.
pub const CUDNN: &[&str] = &["libcudnn.so.9"];
/// Sums over the GPUs of several processes.
pub const NCCL: &[&str] = &["libnccl.so.2", "libnccl.so"];

/// Variables that name an installed toolkit.
const TOOLKIT_VARIABLES: [&str; 3] = ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT"];
/// Where toolkits and drivers lie when nothing names them: Linux, Jetson, WSL.
const USUAL_FOLDERS: [&str; 7] = [
    "/usr/local/cuda/lib64",
    "/usr/local/cuda-13/lib64",
    "/usr/local/cuda-12/lib64",
    "/opt/cuda/lib64",
    "/usr/lib/wsl/lib",
    "/usr/lib/aarch64-linux-gnu/nvidia",
    "/usr/lib/aarch64-linux-gnu/tegra",
];

/// Loads the first of `names` that this machine has, for the rest of the process. `name` order is preference.
///
/// # Errors
/// Where it was looked for, in words.
pub fn load(names: &[&str]) -> Result<&'static Library, String> {
    if let Some(library) = names.iter().find_map(|name| open(Path::new(name))) {
        return Ok(library);
    }
    let folders = folders();
    for folder in &folders {
        for path in names.iter().map(|name| folder.join(name)).filter(|path| path.exists()) {
            load_companions(folder, &path);
            if let Some(library) = open(&path) {
                log::debug!("CUDA: {}", path.display());
                return Ok(library);
            }
        }
    }
    let folders: Vec<_> = folders.iter().map(|f| f.display().to_string()).collect();
    Err(format!(
        "looked for {} on the loader's path (LD_LIBRARY_PATH, ldconfig) and in {}",
        names.join(", "),
        folders.join(", ")
    ))
}

/// NVRTC and cuDNN ask for others of their own folder, by their names alone.
fn load_companions(folder: &Path, library: &Path) {
    let begins = |path: &Path, prefix| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
    let companions = match () {
        () if begins(library, "libnvrtc.so") => "libnvrtc-builtins.so.",
        () if begins(library, "libcudnn.so") => "libcudnn_",
        () => return,
    };
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if begins(&path, companions) {
            open(&path);
        }
    }
}

/// The library, if it can be loaded; it stays so.
fn open(path: &Path) -> Option<&'static Library> {
    // SAFETY: the names are those of NVIDIA's libraries, whose initialisers have no preconditions.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }.ok()?;
    Some(Box::leak(Box::new(library)))
}

fn folders() -> Vec<PathBuf> {
    let named = TOOLKIT_VARIABLES.iter().filter_map(std::env::var_os).map(|home| PathBuf::from(home).join("lib64"));
    let mut folders: Vec<PathBuf> = named.chain(USUAL_FOLDERS.iter().map(PathBuf::from)).collect();
    folders.dedup();
    folders
}

#[cfg(test)]
mod tests {
    use super::load;

    #[test]
    fn a_library_that_is_not_there_is_named_with_the_places_it_was_looked_for() {
        let searched = load(&["librissole-has-no-such-library.so.7"]).unwrap_err();
        for part in ["librissole-has-no-such-library.so.7", "LD_LIBRARY_PATH", "/usr/local/cuda/lib64"] {
            assert!(searched.contains(part), "{searched}");
        }
    }
}
