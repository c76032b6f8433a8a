//! Progress while a picture is drawn.

use std::ffi::{c_int, c_void};

use super::fault::{ErrorInfo, Fault, Status, given, guard};
use super::image::{Image, Target};
use crate::bundle::manifest::ImageSize;
use crate::generator as api;

/// What has happened.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgressKind {
    /// The picture is begun.
    Started = 0,
    /// The neighbours are known; not told where the model does not use its database.
    Retrieved = 1,
    /// Some blocks went one step further; `preview` is there.
    Step = 2,
    /// The block at `position` is finished; `preview` is there.
    Block = 3,
    /// All blocks are finished; the decoder begins.
    Decoding = 4,
}

/// The picture as it stands. It lives as long as the callback that was given it.
pub struct Preview {
    picture: *const api::Preview<'static>,
    size: ImageSize,
}

/// Progress of one picture. Fields may be added at the end.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// sizeof(rissole_progress) of the library.
    pub struct_size: u32,
    /// A rissole_progress_kind.
    pub kind: u32,
    /// Steps done, of all blocks together.
    pub done: u32,
    /// Steps in all.
    pub total: u32,
    /// For RISSOLE_PROGRESS_KIND_BLOCK: what was finished. With `thumbnail` of the rissole_model_info, thumbnail + b is
    /// block b. What comes before shows until blocks take its place: 0 is the thumbnail, which shows everywhere, others
    /// are blocks of coarser levels. Blocks are counted row by row: b lies in row b / block_cols and column b % block_cols
    /// of the blocks, each of which has latent_height / block_rows rows and latent_width / block_cols columns of cells, or
    /// height / block_rows rows and width / block_cols columns of pixels; nothing is left over.
    pub position: u32,
    /// Values at `latent`: 0 or as many as the rissole_model_info says.
    pub latent_values: u32,
    /// The whole latent as it stands, channel by channel, row by row, as rissole_model_info tells, or NULL; valid until the
    /// callback returns.
    pub latent: *const f32,
    /// The picture as it stands, or NULL; valid until the callback returns.
    pub preview: *const Preview,
}

/// Told of progress on the thread that draws. Answers 0 to go on, anything else to stop
/// (RISSOLE_STATUS_CANCELLED). It must not use the generator, rissole_generator_cancel apart, nor throw or longjmp.
pub type ProgressFn = Option<unsafe extern "C" fn(progress: *const Progress, user: *mut c_void) -> c_int>;

/// A callback and what it is given.
#[derive(Clone, Copy, Default)]
pub(super) struct Listener {
    pub callback: ProgressFn,
    pub user: Option<*mut c_void>,
}

impl Listener {
    /// Tells of `event`; false where the callback wants to stop. `done` and `total` are kept up to date.
    pub fn tell(&self, event: &api::Event<'_>, size: ImageSize, counts: &mut (u32, u32)) -> bool {
        let mut position = 0;
        let (kind, preview) = match event {
            api::Event::Started { steps_total } => {
                *counts = (0, *steps_total as u32);
                (ProgressKind::Started, None)
            }
            api::Event::Retrieved { .. } => (ProgressKind::Retrieved, None),
            api::Event::Step { done, total, preview } => {
                *counts = (*done as u32, *total as u32);
                (ProgressKind::Step, Some(*preview))
            }
            api::Event::Block { position: finished, preview } => {
                position = *finished as u32;
                (ProgressKind::Block, Some(*preview))
            }
            api::Event::Decoding => (ProgressKind::Decoding, None),
        };
        let Some(callback) = self.callback else { return true };
        let latent = preview.map_or(&[][..], api::Preview::latent);
        let shown = preview.map(|preview| Preview { picture: std::ptr::from_ref(preview).cast(), size });
        let progress = Progress {
            struct_size: size_of::<Progress>() as u32,
            kind: kind as u32,
            done: counts.0,
            total: counts.1,
            position,
            latent_values: latent.len() as u32,
            latent: if latent.is_empty() { std::ptr::null() } else { latent.as_ptr() },
            preview: shown.as_ref().map_or(std::ptr::null(), std::ptr::from_ref),
        };
        // SAFETY: the callback is the caller's; what it is given lives until it returns.
        unsafe { callback(&raw const progress, self.user.unwrap_or(std::ptr::null_mut())) == 0 }
    }
}

/// Decodes the picture as it stands into `image`; costs as much as the end of a picture does. Only within the callback that
/// was given `preview`, on its thread. RISSOLE_STATUS_BUDGET: the budget keeps the decoder out of memory while blocks are
/// drawn.
///
/// # Safety
/// `preview` is NULL or as given to the callback that calls; `image` as for rissole_generate.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rissole_preview_get_image(
    preview: *const Preview,
    image: *mut Image,
    error: *mut ErrorInfo,
) -> Status {
    // SAFETY: as the caller vouches; the preview lives while the callback runs.
    unsafe {
        guard(error, |call| {
            let preview = given(preview, "preview")?;
            let target = Target::new(image, preview.size)?;
            match given(preview.picture, "preview")?.picture()? {
                Some(picture) => {
                    call.check_memory()?;
                    target.put(&picture)
                }
                None => Err(Fault::budget("the budget keeps the decoder out of memory while blocks are drawn")),
            }
        })
    }
}
