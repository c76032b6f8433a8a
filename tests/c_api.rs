//! The C interface, called as a C program would, on a tiny bundle: what works.
#![allow(unsafe_code)]

#[path = "common/capi.rs"]
mod capi;
mod common;

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{null, null_mut};
use std::sync::Mutex;

use capi::{Opened, TURN, image, initial, options, request};
use rissole::budget::{self, CountingAllocator};
use rissole::capi::fault::Status;
use rissole::capi::generator::*;
use rissole::capi::image::{Image, PixelFormat, rissole_image_bytes};
use rissole::capi::logging::rissole_set_log;
use rissole::capi::model::*;
use rissole::capi::progress::{Progress, ProgressKind, rissole_preview_get_image};
use rissole::capi::{ABI_VERSION, rissole_abi_version, rissole_heap, rissole_version};
use rissole::generator::{Generator as RustGenerator, Options as RustOptions, Query};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

#[test]
fn c_draws_the_pixels_that_rust_draws() {
    let _turn = TURN.lock();
    let opened = Opened::new(|_| ());
    let info = opened.info();
    let bundle = rissole::Bundle::open(opened.dir.path()).unwrap();
    let mut rust = RustGenerator::open(&bundle, &RustOptions::default()).unwrap();
    for seed in [1, 7] {
        let expected = rust.generate(seed, &Query::Random, &mut |_| Ok(())).unwrap();
        assert_eq!(opened.draw(seed), (Status::Ok, expected.image.as_raw().clone()));

        // With alpha, a stride, and a report; what lies between the rows stays, and there is no gap after the last.
        let stride = info.width as usize * 4 + 5;
        let mut bytes = 0;
        let rgba = PixelFormat::Rgba8 as u32;
        let status = unsafe { rissole_image_bytes(opened.model, rgba, stride as u64, &mut bytes, null_mut()) };
        assert_eq!((status, bytes as usize), (Status::Ok, stride * info.height as usize - 5));
        let mut pixels = vec![7; bytes as usize];
        let mut image = Image { stride: stride as u64, ..image(&mut pixels, PixelFormat::Rgba8) };
        let mut report = initial(rissole_report_init);
        let request = Request { seed, ..request() };
        let status = unsafe { rissole_generate(opened.generator, &request, &mut image, &mut report, null_mut()) };
        assert_eq!(status, Status::Ok);
        assert_eq!((image.width, image.height, image.stride), (info.width, info.height, stride as u64));
        for (y, row) in pixels.chunks(stride).enumerate() {
            let expected = expected.image.as_raw().chunks(info.width as usize * 3).nth(y).unwrap();
            let rgba: Vec<u8> = expected.chunks(3).flat_map(|rgb| [rgb[0], rgb[1], rgb[2], 255]).collect();
            assert_eq!(row[..rgba.len()], rgba);
            assert!(row[rgba.len()..].iter().all(|&byte| byte == 7));
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
fn guidance_is_the_model_s_unless_it_is_set_and_older_programs_have_no_room_for_it() {
    let _turn = TURN.lock();
    let usual = Opened::guided(Some(2.0), |_| ());
    let bundle = rissole::Bundle::open(usual.dir.path()).unwrap();
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
    /// Positions that were finished, and the latent then.
    blocks: Vec<(u32, Vec<f32>)>,
}

impl Watch {
    fn new(generator: *mut Generator) -> Self {
        Self { generator, kinds: vec![], stop_at: None, cancel_at: None, previews: 0, blocks: vec![] }
    }
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
            if progress.kind == ProgressKind::Block as u32 {
                watch.blocks.push((progress.position, latent.to_owned()));
            }
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
    let mut state = Watch::new(opened.generator);
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
        state.cancel_at = Some(kind as u32);
        let (status, pixels) = opened.draw(3);
        assert_eq!(status, Status::Cancelled, "{kind:?}");
        assert!(pixels.iter().all(|&byte| byte == 0), "nothing is written");
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
    let picture = opened.draw(5);
    let mut pixels = vec![0; picture.1.len()];
    assert_eq!(unsafe { rissole_plan(opened.model, null(), &mut needs, null_mut()) }, Status::Ok);
    budgeted.ram_budget = needs;
    assert_eq!(open(&budgeted, &mut generator), Status::Ok);
    for generator in [generator, opened.generator] {
        let mut draw = || {
            let mut image = image(&mut pixels, PixelFormat::Rgb8);
            let request = Request { seed: 5, ..request() };
            let status = unsafe { rissole_generate(generator, &request, &mut image, null_mut(), null_mut()) };
            assert_eq!(status, Status::Ok);
            assert_eq!(pixels, picture.1);
        };
        draw();
        let (mut before, mut after, mut peak) = (0, 0, 0);
        budget::reset_peak();
        unsafe { rissole_heap(&mut before, null_mut()) };
        (0..100).for_each(|_| draw());
        unsafe { rissole_heap(&mut after, &mut peak) };
        assert_eq!((before, budget::is_counting()), (after, true));
        // The other generator is there all the time, as it was when the plan was asked for.
        assert!(generator == opened.generator || peak <= needs, "{peak} bytes, planned were {needs}");
    }
    unsafe { rissole_generator_close(generator) };
}

#[test]
fn a_finished_block_is_found_in_the_latent() {
    let _turn = TURN.lock();
    finished_blocks_are_found(&Opened::new(|_| ()), 1);
    finished_blocks_are_found(&Opened::of(common::pyramid(), |_| ()), 7);
}

/// In the latent, where `before` positions are drawn before the blocks.
fn finished_blocks_are_found(opened: &Opened, before: u32) {
    let mut state = Watch::new(opened.generator);
    let user = (&raw mut state).cast();
    assert_eq!(unsafe { rissole_generator_set_progress(opened.generator, Some(watch), user, null_mut()) }, Status::Ok);
    assert_eq!(opened.draw(3).0, Status::Ok);
    let bundle = rissole::Bundle::open(opened.dir.path()).unwrap();
    let grid = bundle.manifest.block_grid().unwrap();
    let info = opened.info();
    let (height, width) = (info.latent_height as usize, info.latent_width as usize);
    let last = state.blocks.last().unwrap().1.clone();
    assert_eq!(last.len() as u32, info.latent_values);
    assert_eq!(info.latent_channels * info.latent_height * info.latent_width, info.latent_values);
    let all = before + info.block_rows * info.block_cols;
    assert_eq!(info.thumbnail, before);
    assert_eq!(state.blocks.iter().map(|(position, _)| *position).collect::<Vec<_>>(), (0..all).collect::<Vec<_>>());
    for (position, latent) in &state.blocks[before as usize..] {
        // As the header says it.
        let block = position - info.thumbnail;
        let (row, col) = ((block / info.block_cols) as usize, (block % info.block_cols) as usize);
        let (rows, cols) = (height / info.block_rows as usize, width / info.block_cols as usize);
        assert_eq!((row * rows, col * cols), grid.origin(block as usize));
        for c in 0..info.latent_channels as usize {
            for y in row * rows..(row + 1) * rows {
                let at = (c * height + y) * width + col * cols;
                assert_eq!(latent[at..at + cols], last[at..at + cols], "block {block}");
            }
        }
    }
}

unsafe extern "C" fn note(level: u32, message: *const c_char, user: *mut c_void) {
    let (told, message) = unsafe { (&*user.cast::<Mutex<Vec<(u32, String)>>>(), CStr::from_ptr(message)) };
    told.lock().unwrap().push((level, message.to_str().unwrap().to_owned()));
}

#[test]
fn the_log_is_told_up_to_its_level_and_silent_otherwise() {
    let _turn = TURN.lock();
    let told = Mutex::new(Vec::<(u32, String)>::new());
    let user = (&raw const told).cast_mut().cast();
    // A generator with a budget says, at level 3, how it will draw.
    let open = || drop(Opened::new(|options| options.ram_budget = 1 << 30));
    let take = || std::mem::take(&mut *told.lock().unwrap());
    open();
    unsafe { rissole_set_log(3, Some(note), user) };
    open();
    let lines = take();
    assert!(lines.iter().any(|(level, text)| *level == 3 && text.contains("1073741824 at most")), "{lines:?}");
    assert!(lines.iter().all(|(level, _)| (1..=3).contains(level)));
    unsafe { rissole_set_log(u32::MAX, Some(note), user) };
    open();
    assert!(take().len() >= lines.len());
    for (level, callback) in [(2, Some(note as _)), (0, Some(note as _)), (5, None)] {
        unsafe { rissole_set_log(level, callback, user) };
        open();
        assert_eq!(take(), [], "level {level}");
    }
    unsafe { rissole_set_log(0, None, null_mut()) };
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
