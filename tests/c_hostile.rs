//! The C interface and everything hostile: pointers, numbers, structs.
#![allow(unsafe_code)]

#[path = "common/capi.rs"]
mod capi;
mod common;

use std::ffi::{c_char, c_int, c_void};
use std::ptr::{null, null_mut};

use capi::{Opened, TURN, error, image, initial, message, options, request};
use rissole::budget::CountingAllocator;
use rissole::capi::fault::{ErrorInfo, Status};
use rissole::capi::files::*;
use rissole::capi::generator::*;
use rissole::capi::image::{Image, PixelFormat, rissole_image_bytes, rissole_image_init};
use rissole::capi::logging::rissole_set_log;
use rissole::capi::memory::{rissole_memory_init, rissole_set_memory};
use rissole::capi::model::*;
use rissole::capi::progress::{Progress, rissole_preview_get_image};
use rissole::capi::rissole_heap;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// A pointer that cannot be: it does not lie where a `T` may.
fn odd<T>(value: &mut T) -> *mut T {
    (&raw mut *value).wrapping_byte_add(1)
}

#[test]
fn every_pointer_may_be_null_or_misaligned() {
    let _turn = TURN.lock();
    let opened = Opened::new(|_| ());
    let Opened { model, generator, .. } = opened;
    let (bad_model, bad_generator) = (model.wrapping_byte_add(1), generator.wrapping_byte_add(1));
    let (mut no_model, mut no_generator, mut number) = (null_mut(), null_mut(), 0u64);
    let (mut odd_model, mut odd_generator) = (null_mut::<Model>(), null_mut::<Generator>());
    let (mut options, mut request) = (options(), request());
    let (mut info, mut report) = (initial(rissole_model_info_init), initial(rissole_report_init));
    let mut reader =
        FileReader { file_size: Some(no_size), file_read: Some(no_read), ..initial(rissole_file_reader_init) };
    let mut memory = initial(rissole_memory_init);
    let mut file = MemoryFile { name: c"x".as_ptr(), data: null(), size: 0 };
    let mut pixels = vec![0; opened.draw(0).1.len()];
    let mut good = image(&mut pixels, PixelFormat::Rgb8);
    let mut error = error();
    let e = &raw mut error;
    let path = c"x".as_ptr();
    unsafe {
        let statuses = [
            rissole_model_open(null(), &mut no_model, e),
            rissole_model_open(path, null_mut(), e),
            rissole_model_open(path, odd(&mut odd_model), e),
            rissole_model_open(c"\xff".as_ptr(), &mut no_model, e),
            rissole_model_open_memory(null(), 1, &mut no_model, e),
            rissole_model_open_memory(odd(&mut file), 1, &mut no_model, e),
            rissole_model_open_memory(&file, 1, null_mut(), e),
            rissole_model_open_memory(&file, 1, odd(&mut odd_model), e),
            rissole_model_open_reader(null(), &mut no_model, e),
            rissole_model_open_reader(odd(&mut reader), &mut no_model, e),
            rissole_model_open_reader(&reader, null_mut(), e),
            rissole_model_open_reader(&reader, odd(&mut odd_model), e),
            rissole_model_get_info(null(), &mut info, e),
            rissole_model_get_info(bad_model, &mut info, e),
            rissole_model_get_info(model, null_mut(), e),
            rissole_model_get_info(model, odd(&mut info), e),
            rissole_model_verify(null(), e),
            rissole_model_verify(bad_model, e),
            rissole_image_bytes(null(), 1, 0, &mut number, e),
            rissole_image_bytes(bad_model, 1, 0, &mut number, e),
            rissole_image_bytes(model, 1, 0, null_mut(), e),
            rissole_image_bytes(model, 1, 0, odd(&mut number), e),
            rissole_plan(null(), null(), &mut number, e),
            rissole_plan(bad_model, null(), &mut number, e),
            rissole_plan(model, odd(&mut options), &mut number, e),
            rissole_plan(model, null(), null_mut(), e),
            rissole_plan(model, null(), odd(&mut number), e),
            rissole_generator_open(null(), null(), &mut no_generator, e),
            rissole_generator_open(bad_model, null(), &mut no_generator, e),
            rissole_generator_open(model, odd(&mut options), &mut no_generator, e),
            rissole_generator_open(model, null(), null_mut(), e),
            rissole_generator_open(model, null(), odd(&mut odd_generator), e),
            rissole_generator_set_progress(null_mut(), None, null_mut(), e),
            rissole_generator_set_progress(bad_generator, None, null_mut(), e),
            rissole_generate(null_mut(), null(), &mut good, null_mut(), e),
            rissole_generate(bad_generator, null(), &mut good, null_mut(), e),
            rissole_generate(generator, odd(&mut request), &mut good, null_mut(), e),
            rissole_generate(generator, null(), null_mut(), null_mut(), e),
            rissole_generate(generator, null(), odd(&mut good), null_mut(), e),
            rissole_generate(generator, null(), &mut good, odd(&mut report), e),
            rissole_preview_get_image(null(), &mut good, e),
            rissole_preview_get_image(e.cast::<u8>().wrapping_add(1).cast(), &mut good, e),
            rissole_set_memory(null(), e),
            rissole_set_memory(odd(&mut memory), e),
        ];
        for (i, status) in statuses.iter().enumerate() {
            assert_eq!(*status, Status::Argument, "{i}");
        }
        assert!((*e).status == Status::Argument && message(&error).contains("misaligned"));
        // A misaligned error is not written to.
        let former = message(&error);
        assert_eq!(rissole_model_verify(model, odd(&mut error)), Status::Argument);
        assert_eq!(message(&error), former);
        assert!(no_model.is_null() && no_generator.is_null() && pixels.iter().all(|&byte| byte == 0));

        for none in [null_mut(), bad_model] {
            rissole_model_close(none);
            assert!(rissole_model_name(none).is_null() && rissole_model_licence(none).is_null());
        }
        for none in [null_mut(), bad_generator] {
            rissole_generator_close(none);
            rissole_generator_cancel(none);
        }
        for none in [null_mut(), odd(&mut number)] {
            rissole_heap(none, none);
        }
        rissole_set_log(5, None, null_mut());
    }
    assert_eq!(opened.draw(1).0, Status::Ok);
}

unsafe extern "C" fn no_size(_: *const c_char, _: *mut c_void) -> i64 {
    -1
}

unsafe extern "C" fn no_read(_: *const c_char, _: u64, _: *mut c_void, _: u64, _: *mut c_void) -> i64 {
    -1
}

/// What `init` leaves of a struct of ones, given a size.
fn initialized<T>(init: unsafe extern "C" fn(*mut T, usize), size: usize) -> Vec<u8> {
    let mut room = [u64::MAX; 64];
    assert!(size_of::<T>() < size_of_val(&room));
    unsafe {
        init(null_mut(), size_of::<T>());
        init((&raw mut room).cast::<T>().wrapping_byte_add(1), size_of::<T>());
        assert!(room.iter().all(|&word| word == u64::MAX));
        init((&raw mut room).cast(), size);
        std::slice::from_raw_parts((&raw const room).cast::<u8>(), size_of_val(&room)).to_owned()
    }
}

fn every_size_is_respected<T>(init: unsafe extern "C" fn(*mut T, usize)) {
    let usual = size_of::<T>();
    for size in [0, 4, usual, usual + 8, 5000, usize::MAX] {
        let written = if size == usual || size == usual + 8 { size } else { 0 };
        let bytes = initialized(init, size);
        assert!(bytes[written..].iter().all(|&byte| byte == 0xff));
        assert!(written == 0 || bytes[..4] == (size as u32).to_ne_bytes());
        assert!(bytes[..written].iter().skip(usual).all(|&byte| byte == 0));
    }
}

#[test]
fn what_is_initialized_is_as_large_as_the_program_says() {
    every_size_is_respected(rissole_options_init);
    every_size_is_respected(rissole_request_init);
    every_size_is_respected(rissole_report_init);
    every_size_is_respected(rissole_image_init);
    every_size_is_respected(rissole_model_info_init);
    every_size_is_respected(rissole_memory_init);
    every_size_is_respected(rissole_file_reader_init);
    // The first version of the options ended before `guidance`.
    assert!(initialized(rissole_options_init, 32)[32..].iter().all(|&byte| byte == 0xff));
}

/// What the callback of a preview was answered for images that cannot be.
unsafe extern "C" fn spoil(progress: *const Progress, user: *mut c_void) -> c_int {
    let (progress, statuses) = unsafe { (&*progress, &mut *user.cast::<Vec<Status>>()) };
    if !progress.preview.is_null() && statuses.is_empty() {
        let mut pixels = [0; 8];
        let mut small = image(&mut pixels, PixelFormat::Rgb8);
        let mut foreign = Image { format: 7, ..small };
        let mut nowhere = Image { pixels: null_mut(), bytes: u64::MAX, ..small };
        let images: [*mut Image; 5] = [null_mut(), odd(&mut foreign), &mut foreign, &mut small, &mut nowhere];
        for image in images {
            statuses.push(unsafe { rissole_preview_get_image(progress.preview, image, null_mut()) });
        }
        assert_eq!(pixels, [0; 8]);
    }
    0
}

#[test]
fn a_preview_goes_nowhere_but_into_an_image() {
    let _turn = TURN.lock();
    let opened = Opened::new(|_| ());
    let mut statuses = Vec::<Status>::new();
    unsafe { rissole_generator_set_progress(opened.generator, Some(spoil), (&raw mut statuses).cast(), null_mut()) };
    assert_eq!(opened.draw(1).0, Status::Ok);
    let [argument, buffer] = [Status::Argument, Status::Buffer];
    assert_eq!(statuses, [argument, argument, argument, buffer, buffer]);
}

/// Keeps what a preview was answered.
unsafe extern "C" fn look(progress: *const Progress, user: *mut c_void) -> c_int {
    let (progress, told) = unsafe { (&*progress, &mut *user.cast::<(Status, ErrorInfo)>()) };
    if !progress.preview.is_null() {
        let mut pixels = vec![0; 1 << 16];
        let mut image = image(&mut pixels, PixelFormat::Rgb8);
        told.0 = unsafe { rissole_preview_get_image(progress.preview, &mut image, &mut told.1) };
    }
    0
}

#[test]
fn a_budget_that_keeps_the_decoder_away_says_so() {
    let _turn = TURN.lock();
    let mut opened = Opened::new(|_| ());
    let mut told = (Status::Ok, error());
    let mut budgeted = options();
    unsafe {
        rissole_generator_close(opened.generator);
        let Opened { model, generator, .. } = &mut opened;
        assert_eq!(rissole_plan(*model, null(), &mut budgeted.ram_budget, null_mut()), Status::Ok);
        assert_eq!(rissole_generator_open(*model, &budgeted, generator, null_mut()), Status::Ok);
        rissole_generator_set_progress(*generator, Some(look), (&raw mut told).cast(), null_mut());
    }
    assert_eq!(opened.draw(1).0, Status::Ok);
    assert_eq!((told.0, told.1.needs), (Status::Budget, 0));
    assert!(message(&told.1).contains("keeps the decoder out of memory"), "{}", message(&told.1));
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
        // The plan is that of the options, whatever the budget.
        let mut needs = 7;
        let planned = unsafe { rissole_plan(opened.model, &options, &mut needs, null_mut()) };
        let wanted = if status == Status::Budget { (Status::Ok, true) } else { (status, false) };
        assert_eq!((planned, needs > 0), wanted, "{words}");
    }
    assert!(e.status == Status::Budget && e.needs > 1);
    for struct_size in [0, 44, 5000] {
        let mut info = ModelInfo { struct_size, ..initial(rissole_model_info_init) };
        assert_eq!(unsafe { rissole_model_get_info(opened.model, &mut info, &mut e) }, Status::Argument);
        assert_eq!(info.width, 0);
    }

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
    for (format, stride) in [(0, 0), (3, 0), (u32::MAX, 0), (1, 1), (2, u64::MAX)] {
        let mut bytes = 7;
        let status = unsafe { rissole_image_bytes(opened.model, format, stride, &mut bytes, &mut e) };
        assert_eq!((status, bytes), (Status::Argument, 0));
    }
    for struct_size in [0, 8, 5000] {
        let (mut image, mut report) = (good, Report { struct_size, ..initial(rissole_report_init) });
        let status = unsafe { rissole_generate(opened.generator, null(), &mut image, &mut report, &mut e) };
        assert_eq!(status, Status::Argument);
    }
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
