//! The C interface, called as a C program would, on a tiny bundle: what works, and everything hostile.
#![allow(unsafe_code)]

mod common;

use std::ffi::{CStr, CString, c_int, c_void};
use std::ptr::{null, null_mut};
use std::sync::Mutex;

use common::TempDir;
use rissole::budget::{self, CountingAllocator};
use rissole::bundle::manifest::{Coherence, NeighbourSource};
use rissole::capi::fault::{ErrorInfo, MESSAGE_BYTES, Status};
use rissole::capi::generator::*;
use rissole::capi::image::{Image, PixelFormat};
use rissole::capi::logging::rissole_set_log;
use rissole::capi::model::*;
use rissole::capi::progress::{Progress, ProgressKind, rissole_preview_get_image};
use rissole::capi::{ABI_VERSION, rissole_abi_version, rissole_heap, rissole_version};
use rissole::generator::{Generator as RustGenerator, Options as RustOptions, Query};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// The heap is counted for the whole process: tests that look at it, or whose work would be seen, come one by one.
static TURN: Mutex<()> = Mutex::new(());

/// A model and a generator of it, as a C program holds them.
struct Opened {
    _dir: TempDir,
    model: *mut Model,
    generator: *mut Generator,
}

impl Opened {
    fn new(change: impl FnOnce(&mut Options)) -> Self {
        Self::guided(None, change)
    }

    /// Of a model with this guidance by default.
    fn guided(guidance: Option<f32>, change: impl FnOnce(&mut Options)) -> Self {
        let dir = TempDir::new();
        let coherence = Coherence { thumbnail: true, margin: 1, position_embedding: true, previous_block: false };
        let mut manifest = common::manifest(coherence, NeighbourSource::Database);
        manifest.retrieval.guidance = guidance;
        common::bundle(dir.path(), manifest);
        let (mut model, mut generator) = (null_mut(), null_mut());
        let mut options = options();
        change(&mut options);
        let path = CString::new(dir.path().to_str().unwrap()).unwrap();
        unsafe {
            assert_eq!(rissole_model_open(path.as_ptr(), &mut model, null_mut()), Status::Ok);
            assert_eq!(rissole_generator_open(model, &options, &mut generator, null_mut()), Status::Ok);
        }
        Self { _dir: dir, model, generator }
    }

    fn info(&self) -> ModelInfo {
        let mut info = unsafe { std::mem::zeroed::<ModelInfo>() };
        info.struct_size = size_of::<ModelInfo>() as u32;
        assert_eq!(unsafe { rissole_model_get_info(self.model, &mut info, null_mut()) }, Status::Ok);
        info
    }

    fn draw(&self, seed: u64) -> (Status, Vec<u8>) {
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

fn options() -> Options {
    let mut options = std::mem::MaybeUninit::uninit();
    unsafe {
        rissole_options_init(options.as_mut_ptr());
        options.assume_init()
    }
}

fn request() -> Request {
    let mut request = std::mem::MaybeUninit::uninit();
    unsafe {
        rissole_request_init(request.as_mut_ptr());
        request.assume_init()
    }
}

fn image(pixels: &mut [u8], format: PixelFormat) -> Image {
    let (bytes, pixels) = (pixels.len() as u64, pixels.as_mut_ptr());
    Image {
        struct_size: size_of::<Image>() as u32,
        format: format as u32,
        width: 0,
        height: 0,
        stride: 0,
        bytes,
        pixels,
    }
}

fn error() -> ErrorInfo {
    ErrorInfo { status: Status::Ok, reserved: 0, needs: 0, message: [1; MESSAGE_BYTES] }
}

fn message(error: &ErrorInfo) -> String {
    unsafe { CStr::from_ptr(error.message.as_ptr()) }.to_str().unwrap().to_owned()
}

#[test]
fn c_draws_the_pixels_that_rust_draws() {
    let _turn = TURN.lock();
    let opened = Opened::new(|_| ());
    let info = opened.info();
    let bundle = rissole::Bundle::open(opened._dir.path()).unwrap();
    let mut rust = RustGenerator::open(&bundle, &RustOptions::default()).unwrap();
    for seed in [1, 7] {
        let expected = rust.generate(seed, &Query::Random, &mut |_| Ok(())).unwrap();
        assert_eq!(opened.draw(seed), (Status::Ok, expected.image.as_raw().clone()));

        // With alpha, a stride, and a report; what lies between the rows stays.
        let stride = info.width as usize * 4 + 5;
        let mut pixels = vec![7; stride * info.height as usize];
        let mut image = Image { stride: stride as u64, ..image(&mut pixels, PixelFormat::Rgba8) };
        let mut report = unsafe { std::mem::zeroed::<Report>() };
        report.struct_size = size_of::<Report>() as u32;
        let request = Request { seed, ..request() };
        let status = unsafe { rissole_generate(opened.generator, &request, &mut image, &mut report, null_mut()) };
        assert_eq!(status, Status::Ok);
        assert_eq!((image.width, image.height), (info.width, info.height));
        for (y, row) in pixels.chunks(stride).enumerate() {
            let expected = expected.image.as_raw().chunks(info.width as usize * 3).nth(y).unwrap();
            let rgba: Vec<u8> = expected.chunks(3).flat_map(|rgb| [rgb[0], rgb[1], rgb[2], 255]).collect();
            assert_eq!((&row[..rgba.len()], &row[rgba.len()..]), (&rgba[..], &[7; 5][..]));
        }
        assert_eq!(Some(report.query_id), expected.report.query);
        assert!(report.steps == info.steps && report.denoise_seconds > 0.0 && report.peak_heap > 0);
    }
    let name = unsafe { CStr::from_ptr(rissole_model_name(opened.model)) };
    assert_eq!(name.to_str().unwrap(), bundle.manifest.name);
    assert_eq!(unsafe { rissole_model_verify(opened.model, null_mut()) }, Status::Ok);
    assert_eq!(rissole_abi_version(), ABI_VERSION);
    assert_eq!(unsafe { CStr::from_ptr(rissole_version()) }.to_str().unwrap(), env!("CARGO_PKG_VERSION"));
}

#[test]
fn every_pointer_may_be_null_or_misaligned() {
    let _turn = TURN.lock();
    let opened = Opened::new(|_| ());
    let (mut model, mut generator, mut needs) = (null_mut(), null_mut(), 0u64);
    let mut error = error();
    let odd = |p: usize| (p + 1) as *mut c_void;
    let e = &raw mut error;
    unsafe {
        let statuses = [
            rissole_model_open(null(), &mut model, e),
            rissole_model_open(c"x".as_ptr(), null_mut(), e),
            rissole_model_open(c"x".as_ptr(), odd(e as usize).cast(), e),
            rissole_model_open(c"\xff".as_ptr(), &mut model, e),
            rissole_model_get_info(null(), null_mut(), e),
            rissole_model_get_info(opened.model, null_mut(), e),
            rissole_model_get_info(opened.model, odd(e as usize).cast(), e),
            rissole_model_verify(null(), e),
            rissole_plan(null(), null(), &mut needs, e),
            rissole_plan(opened.model, null(), null_mut(), e),
            rissole_generator_open(null(), null(), &mut generator, e),
            rissole_generator_open(opened.model, null(), null_mut(), e),
            rissole_generator_open(opened.model, odd(e as usize).cast(), &mut generator, e),
            rissole_generator_set_progress(null_mut(), None, null_mut(), e),
            rissole_generate(null_mut(), null(), null_mut(), null_mut(), e),
            rissole_generate(opened.generator, null(), null_mut(), null_mut(), e),
            rissole_preview_get_image(null(), null_mut(), e),
        ];
        assert!(statuses.iter().all(|&status| status == Status::Argument), "{statuses:?}");
        assert!(error.status == Status::Argument && message(&error).contains("NULL"));
        // A misaligned error is not written to.
        assert_eq!(rissole_model_verify(opened.model, odd(e as usize).cast()), Status::Argument);
        assert!(model.is_null() && generator.is_null());
        rissole_model_close(null_mut());
        rissole_generator_close(null_mut());
        rissole_generator_cancel(null_mut());
        rissole_options_init(null_mut());
        rissole_request_init(null_mut());
        rissole_heap(null_mut(), null_mut());
        rissole_set_log(5, None, null_mut());
        assert!(rissole_model_name(null()).is_null() && rissole_model_licence(null()).is_null());
    }
    assert_eq!(opened.draw(1).0, Status::Ok);
}

#[test]
fn numbers_out_of_bounds_are_refused_with_a_reason() {
    let _turn = TURN.lock();
    let opened = Opened::new(|_| ());
    let mut e = error();
    let mut generator = null_mut();
    type Change = fn(&mut Options);
    let cases: [(Change, &str); 10] = [
        (|o| o.struct_size = 0, "initialized"),
        (|o| o.struct_size = u32::MAX, "initialized"),
        (|o| o.sampler = 5, "rissole_sampler"),
        (|o| o.exclude_self = 3, "exclude_self"),
        (|o| o.steps = u32::MAX, "steps"),
        (|o| o.guidance = 2.0, "not trained without neighbours"),
        (|o| o.guidance = f32::NAN, "guidance must be within"),
        (|o| o.reserved = 1, "reserved"),
        (|o| o.neighbours = u32::MAX, "neighbours"),
        (|o| o.ram_budget = 1, "budget is 1 bytes"),
    ];
    for (change, words) in cases {
        let mut options = options();
        change(&mut options);
        let status = unsafe { rissole_generator_open(opened.model, &options, &mut generator, &mut e) };
        assert!(status != Status::Ok && generator.is_null() && message(&e).contains(words), "{words}: {}", message(&e));
    }
    assert!(e.status == Status::Budget && e.needs > 1);

    let size = opened.draw(0).1.len();
    let mut pixels = vec![0; size];
    let good = image(&mut pixels, PixelFormat::Rgb8);
    let images = [
        Image { format: 0, ..good },
        Image { struct_size: 8, ..good },
        Image { stride: 1, ..good },
        Image { stride: u64::MAX, ..good },
        Image { bytes: size as u64 - 1, ..good },
        Image { pixels: null_mut(), ..good },
    ];
    for (i, mut image) in images.into_iter().enumerate() {
        let status = unsafe { rissole_generate(opened.generator, null(), &mut image, null_mut(), &mut e) };
        assert_eq!(status, if i < 4 { Status::Argument } else { Status::Buffer }, "{i}");
    }
    assert_eq!(e.needs, size as u64);
    assert!(pixels.iter().all(|&byte| byte == 0), "nothing is written when it fails");
    let requests = [
        Request { query: 3, ..request() },
        Request { query: 1, id: u32::MAX, ..request() },
        Request { query: 2, ..request() },
        Request { query: 2, width: 1, height: 1, pixels: pixels.as_ptr(), ..request() },
        Request { reserved: 1, ..request() },
    ];
    for (i, request) in requests.iter().enumerate() {
        let mut image = good;
        let status = unsafe { rissole_generate(opened.generator, request, &mut image, null_mut(), &mut e) };
        assert_eq!(status, Status::Argument, "{i}");
    }
    let mut model = null_mut();
    assert_eq!(unsafe { rissole_model_open(c"/nowhere/at/all".as_ptr(), &mut model, &mut e) }, Status::Bundle);
    assert!(message(&e).contains("/nowhere/at/all"));
    assert_eq!(opened.draw(0).0, Status::Ok);
}

#[test]
fn guidance_is_the_model_s_unless_it_is_set_and_older_programs_have_no_room_for_it() {
    let _turn = TURN.lock();
    let usual = Opened::guided(Some(2.0), |_| ());
    let bundle = rissole::Bundle::open(usual._dir.path()).unwrap();
    let expected = |guidance| {
        let options = RustOptions { guidance, ..RustOptions::default() };
        let drawn = RustGenerator::open(&bundle, &options).unwrap().generate(1, &Query::Random, &mut |_| Ok(()));
        drawn.unwrap().image.into_raw()
    };
    assert_eq!(usual.draw(1).1, expected(None));
    let older = Opened::guided(Some(2.0), |o| (o.struct_size, o.guidance, o.reserved) = (32, f32::NAN, 7));
    assert_eq!(older.draw(1).1, expected(None));
    for guidance in [1.0, 3.0] {
        assert_eq!(Opened::guided(Some(2.0), |o| o.guidance = guidance).draw(1).1, expected(Some(guidance)));
    }
    assert_ne!(expected(None), expected(Some(1.0)));

    for (struct_size, told) in [(64, 5.0), (size_of::<Report>() as u32, 2.0)] {
        let mut pixels = usual.draw(1).1;
        let mut image = image(&mut pixels, PixelFormat::Rgb8);
        let mut report = Report { struct_size, guidance: 5.0, ..unsafe { std::mem::zeroed() } };
        let status = unsafe { rissole_generate(usual.generator, &request(), &mut image, &mut report, null_mut()) };
        assert_eq!((status, report.guidance), (Status::Ok, told));
    }
}

/// What the callback of the tests notes and does.
struct Watch {
    generator: *mut Generator,
    kinds: Vec<u32>,
    stop_at: Option<u32>,
    cancel_at: Option<u32>,
    previews: usize,
}

unsafe extern "C" fn watch(progress: *const Progress, user: *mut c_void) -> c_int {
    let (progress, watch) = unsafe { (&*progress, &mut *user.cast::<Watch>()) };
    watch.kinds.push(progress.kind);
    let mut pixels = vec![0; 1 << 16];
    let mut picture = image(&mut pixels, PixelFormat::Rgb8);
    unsafe {
        // The generator is at work: using it from here is refused, not a deadlock.
        assert_eq!(rissole_generate(watch.generator, null(), &mut picture, null_mut(), null_mut()), Status::Busy);
        assert_eq!(rissole_generator_set_progress(watch.generator, None, null_mut(), null_mut()), Status::Busy);
        if progress.preview.is_null() {
            assert!(progress.latent.is_null() && progress.latent_values == 0);
        } else {
            assert_eq!(rissole_preview_get_image(progress.preview, &mut picture, null_mut()), Status::Ok);
            let latent = std::slice::from_raw_parts(progress.latent, progress.latent_values as usize);
            assert!(latent.iter().all(|value| value.is_finite()));
            watch.previews += 1;
        }
        if watch.cancel_at == Some(progress.kind) {
            rissole_generator_cancel(watch.generator);
        }
    }
    assert!(progress.done <= progress.total && progress.total > 0);
    c_int::from(watch.stop_at == Some(progress.kind))
}

#[test]
fn progress_is_told_in_order_and_can_stop() {
    let _turn = TURN.lock();
    let opened = Opened::new(|_| ());
    let picture = opened.draw(3);
    let mut state = Watch { generator: opened.generator, kinds: vec![], stop_at: None, cancel_at: None, previews: 0 };
    let user = (&raw mut state).cast();
    assert_eq!(unsafe { rissole_generator_set_progress(opened.generator, Some(watch), user, null_mut()) }, Status::Ok);
    assert_eq!(opened.draw(3), picture);
    let info = opened.info();
    let blocks = (info.block_rows * info.block_cols + info.thumbnail) as usize;
    let count = |kind: ProgressKind| state.kinds.iter().filter(|&&k| k == kind as u32).count();
    assert_eq!(state.kinds[..2], [ProgressKind::Started as u32, ProgressKind::Retrieved as u32]);
    assert_eq!((count(ProgressKind::Block), state.kinds.last()), (blocks, Some(&(ProgressKind::Decoding as u32))));
    assert_eq!(state.previews, count(ProgressKind::Step) + blocks);

    for kind in [ProgressKind::Started, ProgressKind::Step, ProgressKind::Decoding] {
        state.stop_at = Some(kind as u32);
        assert_eq!(opened.draw(3).0, Status::Cancelled, "{kind:?}");
        state.stop_at = None;
        state.cancel_at = (kind != ProgressKind::Decoding).then_some(kind as u32);
        assert_eq!(opened.draw(3).0 == Status::Cancelled, state.cancel_at.is_some(), "{kind:?}");
        state.cancel_at = None;
        assert_eq!(opened.draw(3), picture, "after {kind:?}");
    }
    unsafe {
        rissole_generator_set_progress(opened.generator, None, null_mut(), null_mut());
        rissole_generator_cancel(opened.generator);
    }
    assert_eq!(opened.draw(3).0, Status::Cancelled, "a cancellation waits for the next picture");
    assert_eq!(opened.draw(3), picture);
}

#[test]
fn the_plan_is_what_the_budget_must_allow_and_the_heap_stays_flat() {
    let _turn = TURN.lock();
    let opened = Opened::new(|_| ());
    let mut needs = 0;
    assert_eq!(unsafe { rissole_plan(opened.model, null(), &mut needs, null_mut()) }, Status::Ok);
    let mut generator = null_mut();
    let mut budgeted = Options { ram_budget: needs / 2, ..options() };
    let open = |options: &Options, generator: &mut *mut Generator| unsafe {
        rissole_generator_open(opened.model, options, generator, null_mut())
    };
    assert_eq!(open(&budgeted, &mut generator), Status::Budget);
    // What else the test allocates meanwhile is small beside the slack.
    budgeted.ram_budget = needs + 4096;
    assert_eq!(open(&budgeted, &mut generator), Status::Ok);
    unsafe { rissole_generator_close(generator) };

    let picture = opened.draw(5);
    let (mut before, mut after) = (0, 0);
    unsafe { rissole_heap(&mut before, null_mut()) };
    for _ in 0..100 {
        assert_eq!(opened.draw(5), picture);
    }
    unsafe { rissole_heap(&mut after, null_mut()) };
    assert_eq!((before, budget::is_counting()), (after, true));
}

#[test]
fn threads_share_a_model() {
    let _turn = TURN.lock();
    let opened = Opened::new(|o| o.threads = 2);
    let expected: Vec<_> = (0..4).map(|seed| opened.draw(seed)).collect();
    let model = opened.model as usize;
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut generator = null_mut();
                let status =
                    unsafe { rissole_generator_open(model as *const Model, null(), &mut generator, null_mut()) };
                assert_eq!(status, Status::Ok);
                for (seed, expected) in expected.iter().enumerate() {
                    let mut pixels = vec![0; expected.1.len()];
                    let mut image = image(&mut pixels, PixelFormat::Rgb8);
                    let request = Request { seed: seed as u64, ..request() };
                    let status = unsafe { rissole_generate(generator, &request, &mut image, null_mut(), null_mut()) };
                    assert_eq!((status, pixels), *expected);
                }
                unsafe { rissole_generator_close(generator) };
            });
        }
    });
}
