//! What programs in C hold, on a tiny bundle.
#![allow(dead_code, unsafe_code)]

use std::ffi::{CStr, CString};
use std::ptr::null_mut;
use std::sync::Mutex;

use rissole::Manifest;
use rissole::bundle::manifest::{Coherence, NeighbourSource};
use rissole::capi::fault::{ErrorInfo, MESSAGE_BYTES, Status};
use rissole::capi::generator::*;
use rissole::capi::image::{Image, PixelFormat, rissole_image_init};
use rissole::capi::model::*;

use crate::common::{self, TempDir};

/// The heap is counted for the whole process: tests that look at it, or whose work would be seen, come one by one.
pub static TURN: Mutex<()> = Mutex::new(());

/// A model and a generator of it, as a C program holds them.
pub struct Opened {
    pub dir: TempDir,
    pub model: *mut Model,
    pub generator: *mut Generator,
}

impl Opened {
    pub fn new(change: impl FnOnce(&mut Options)) -> Self {
        Self::guided(None, change)
    }

    /// Of a model with this guidance by default.
    pub fn guided(guidance: Option<f32>, change: impl FnOnce(&mut Options)) -> Self {
        let coherence = Coherence { thumbnail: true, margin: 1, position_embedding: true, previous_block: false };
        let mut manifest = common::manifest(coherence, NeighbourSource::Database);
        manifest.retrieval.guidance = guidance;
        Self::of(manifest, change)
    }

    /// Of a bundle with this manifest.
    pub fn of(manifest: Manifest, change: impl FnOnce(&mut Options)) -> Self {
        let dir = TempDir::new();
        common::bundle(dir.path(), manifest);
        let (mut model, mut generator) = (null_mut(), null_mut());
        let mut options = options();
        change(&mut options);
        let path = CString::new(dir.path().to_str().unwrap()).unwrap();
        unsafe {
            assert_eq!(rissole_model_open(path.as_ptr(), &mut model, null_mut()), Status::Ok);
            assert_eq!(rissole_generator_open(model, &options, &mut generator, null_mut()), Status::Ok);
        }
        Self { dir, model, generator }
    }

    pub fn info(&self) -> ModelInfo {
        let mut info = initial(rissole_model_info_init);
        assert_eq!(unsafe { rissole_model_get_info(self.model, &mut info, null_mut()) }, Status::Ok);
        info
    }

    pub fn draw(&self, seed: u64) -> (Status, Vec<u8>) {
        let info = self.info();
        let mut pixels = vec![0; (info.width * info.height * 3) as usize];
        let mut image = image(&mut pixels, PixelFormat::Rgb8);
        let request = Request { seed, ..request() };
        let status = unsafe { rissole_generate(self.generator, &request, &mut image, null_mut(), null_mut()) };
        (status, pixels)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // The model first: its generators live on.
        unsafe {
            rissole_model_close(self.model);
            rissole_generator_close(self.generator);
        }
    }
}

/// What `init` makes of memory that nobody has written to.
pub fn initial<T>(init: unsafe extern "C" fn(*mut T, usize)) -> T {
    let mut value = std::mem::MaybeUninit::<T>::uninit();
    unsafe {
        init(value.as_mut_ptr(), size_of::<T>());
        value.assume_init()
    }
}

pub fn options() -> Options {
    initial(rissole_options_init)
}

pub fn request() -> Request {
    initial(rissole_request_init)
}

pub fn image(pixels: &mut [u8], format: PixelFormat) -> Image {
    let (format, bytes, pixels) = (format as u32, pixels.len() as u64, pixels.as_mut_ptr());
    Image { format, bytes, pixels, ..initial(rissole_image_init) }
}

pub fn error() -> ErrorInfo {
    ErrorInfo { status: Status::Ok, reserved: 0, needs: 0, message: [1; MESSAGE_BYTES] }
}

pub fn message(error: &ErrorInfo) -> String {
    unsafe { CStr::from_ptr(error.message.as_ptr()) }.to_str().unwrap().to_owned()
}
