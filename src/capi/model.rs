//! Models: an opened bundle, shared between threads.

use std::ffi::{CString, c_char};
use std::mem::offset_of;

use super::fault::{ErrorInfo, Fault, Status, close, given, guard, place, text};
use super::grown::{self, Grown};
use crate::bundle::Bundle;
use crate::bundle::manifest::SamplerKind;

/// An opened bundle. Immutable: any number of threads may use it at once.
#[derive(Debug)]
pub struct Model {
    pub(super) bundle: Bundle,
    name: CString,
    licence: CString,
}

impl Model {
    /// The handle of a model of `bundle`.
    pub(super) fn handle(bundle: Bundle) -> Box<Self> {
        // The manifest has no NUL in its strings that matter: what follows one is left out.
        let string = |text: &str| CString::new(text.split('\0').next().unwrap_or_default()).unwrap_or_default();
        let (name, licence) = (string(&bundle.manifest.name), string(&bundle.manifest.licence));
        Box::new(Self { bundle, name, licence })
    }
}

/// What a model draws and how it does by default. rissole_model_info_init makes it ready to be filled in.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ModelInfo {
    /// sizeof(rissole_model_info).
    pub struct_size: u32,
    /// Width of the pictures in pixels.
    pub width: u32,
    /// Height of the pictures in pixels.
    pub height: u32,
    /// Rows of blocks.
    pub block_rows: u32,
    /// Columns of blocks.
    pub block_cols: u32,
    /// Positions that are drawn before the blocks: 0; 1, a thumbnail; more, a thumbnail and the blocks of coarser levels.
    pub thumbnail: u32,
    /// Most neighbours that can be asked for.
    pub neighbours: u32,
    /// Most sampling steps that can be asked for.
    pub max_steps: u32,
    /// Sampling steps by default.
    pub steps: u32,
    /// Sampler by default, a rissole_sampler.
    pub sampler: u32,
    /// 1 where pictures can be queries, else 0.
    pub has_encoder: u32,
    /// Values of a latent: latent_channels · latent_height · latent_width.
    pub latent_values: u32,
    /// Channels of a latent. The one at `c` in row `y` and column `x` has the value
    /// latent[(c · latent_height + y) · latent_width + x].
    pub latent_channels: u32,
    /// Rows of cells of a latent. `height` is a multiple of it, and it is one of `block_rows`.
    pub latent_height: u32,
    /// Columns of cells of a latent. `width` is a multiple of it, and it is one of `block_cols`.
    pub latent_width: u32,
}

// SAFETY: `repr(C)`, numbers only, the size first.
unsafe impl Grown for ModelInfo {
    const FIRST: usize = offset_of!(ModelInfo, latent_channels);
    fn initial() -> Self {
        Self {
            struct_size: size_of::<Self>() as u32,
            width: 0,
            height: 0,
            block_rows: 0,
            block_cols: 0,
            thumbnail: 0,
            neighbours: 0,
            max_steps: 0,
            steps: 0,
            sampler: 0,
            has_encoder: 0,
            latent_values: 0,
            latent_channels: 0,
            latent_height: 0,
            latent_width: 0,
        }
    }
}

/// Samplers.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampler {
    /// The model's own.
    Default = 0,
    /// Ancestral DDPM.
    Ddpm = 1,
    /// DDIM, deterministic.
    Ddim = 2,
    /// DPM-Solver++ 2M.
    Dpmpp2m = 3,
    /// Multistep consistency sampling, for a model tuned for it.
    Consistency = 4,
}

impl From<SamplerKind> for Sampler {
    fn from(kind: SamplerKind) -> Self {
        match kind {
            SamplerKind::Ddpm => Self::Ddpm,
            SamplerKind::Ddim => Self::Ddim,
            SamplerKind::DpmSolverPp2m => Self::Dpmpp2m,
            SamplerKind::Consistency => Self::Consistency,
        }
    }
}

/// Opens the bundle in the folder `path` (UTF-8) and puts it into `*model`, which becomes NULL on failure. Checks the
/// manifest, and presence and size of every file. Close it with rissole_model_close. Any thread.
///
/// The files are mapped until the model and all its generators are closed. Where someone else cuts one short meanwhile, or
/// its storage fails, the system ends the program (SIGBUS): replace files by renaming others over them. Models opened by
/// rissole_model_open_reader or rissole_model_open_memory map nothing.
///
/// # Safety
/// `path` is NULL or ends with NUL; `model` is NULL or points to a pointer; `error` is NULL or points to a
/// rissole_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rissole_model_open(
    path: *const c_char,
    model: *mut *mut Model,
    error: *mut ErrorInfo,
) -> Status {
    // SAFETY: as the caller vouches, here and below.
    unsafe {
        guard(error, |call| {
            let model = place(model, std::ptr::null_mut(), "model")?;
            let opened = Model::handle(Bundle::open(text(path, "path")?)?);
            call.check_memory()?;
            *model = Box::into_raw(opened);
            Ok(())
        })
    }
}

/// Closes a model; NULL is ignored. Its generators may live on. Any thread, while no other uses it.
///
/// # Safety
/// `model` is NULL or came from rissole_model_open, rissole_model_open_memory or rissole_model_open_reader, and was not
/// closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rissole_model_close(model: *mut Model) {
    // SAFETY: as the caller vouches.
    unsafe { close(model) };
}

/// Makes `model_info`, which has `size` = sizeof(rissole_model_info) bytes, ready to be filled in. NULL is ignored. Any
/// thread.
///
/// # Safety
/// `model_info` is NULL or points to `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rissole_model_info_init(model_info: *mut ModelInfo, size: usize) {
    // SAFETY: as the caller vouches.
    unsafe { grown::init(model_info, size) };
}

/// Fills in what the model draws. Any thread.
///
/// # Safety
/// `model` is NULL or open; `info` is NULL or has `struct_size` bytes; `error` is NULL or points to a rissole_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rissole_model_get_info(
    model: *const Model,
    info: *mut ModelInfo,
    error: *mut ErrorInfo,
) -> Status {
    // SAFETY: as the caller vouches, here and below.
    unsafe {
        guard(error, |_| {
            let m = &given(model, "model")?.bundle.manifest;
            let shape = m.latent.shape;
            let filled = ModelInfo {
                struct_size: size_of::<ModelInfo>() as u32,
                width: number(m.image.width)?,
                height: number(m.image.height)?,
                block_rows: number(m.grid.rows)?,
                block_cols: number(m.grid.cols)?,
                thumbnail: number(m.block_grid()?.position_of(0))?,
                neighbours: number(m.retrieval.neighbours)?,
                max_steps: number(m.diffusion.timesteps)?,
                steps: number(m.diffusion.steps)?,
                sampler: Sampler::from(m.diffusion.sampler) as u32,
                has_encoder: u32::from(m.networks.encoder.is_some()),
                latent_values: number(shape.len())?,
                latent_channels: number(shape.channels)?,
                latent_height: number(shape.height)?,
                latent_width: number(shape.width)?,
            };
            grown::write(info, filled, "info")
        })
    }
}

/// The model's name; valid until it is closed, NULL for NULL. Any thread.
///
/// # Safety
/// `model` is NULL or open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rissole_model_name(model: *const Model) -> *const c_char {
    // SAFETY: as the caller vouches.
    unsafe { given(model, "model") }.map_or(std::ptr::null(), |model| model.name.as_ptr())
}

/// The terms of the model's weights and database; valid until it is closed, NULL for NULL. Any thread.
///
/// # Safety
/// `model` is NULL or open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rissole_model_licence(model: *const Model) -> *const c_char {
    // SAFETY: as the caller vouches.
    unsafe { given(model, "model") }.map_or(std::ptr::null(), |model| model.licence.as_ptr())
}

/// Reads every file of the model and checks its hash: after a download, or when storage is in doubt. Any thread.
///
/// # Safety
/// `model` is NULL or open; `error` is NULL or points to a rissole_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rissole_model_verify(model: *const Model, error: *mut ErrorInfo) -> Status {
    // SAFETY: as the caller vouches.
    unsafe {
        guard(error, |call| {
            given(model, "model")?.bundle.verify()?;
            call.check_memory()
        })
    }
}

fn number(n: usize) -> Result<u32, Fault> {
    u32::try_from(n).map_err(|_| Fault::internal(format!("{n} is too large")))
}
