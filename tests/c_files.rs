//! Models whose files the C program keeps: in its memory, or behind its callbacks, hostile ones among them.
#![allow(unsafe_code)]

#[path = "common/capi.rs"]
mod capi;
mod common;

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::{null, null_mut};

use capi::{error, image, initial, message};
use common::TempDir;
use rissole::budget::CountingAllocator;
use rissole::bundle::manifest::{Coherence, NeighbourSource};
use rissole::capi::fault::Status;
use rissole::capi::files::*;
use rissole::capi::generator::*;
use rissole::capi::image::PixelFormat;
use rissole::capi::memory::{Memory, rissole_memory_init, rissole_set_memory};
use rissole::capi::model::*;
use rissole::file_bytes::FileBytes;
use rissole::generator::{Generator as RustGenerator, Options as RustOptions, Query};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// The files of a bundle whose folder is gone, and what a callback does wrong.
struct Shelf {
    files: BTreeMap<String, FileBytes>,
    /// What the bundle draws from seed 7.
    expected: Vec<u8>,
    /// Most bytes that one read gives.
    portion: usize,
    fault: Fault,
}

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// Files end half way.
    Ends,
    /// Reads fail.
    Fails,
    /// Reads answer more than there was room for.
    Boasts,
    /// Every file is said to be larger than any memory.
    Swells,
}

impl Shelf {
    fn new() -> Self {
        let dir = TempDir::new();
        let coherence = Coherence { thumbnail: true, margin: 1, position_embedding: true, previous_block: false };
        let bundle = common::bundle(dir.path(), common::manifest(coherence, NeighbourSource::Database));
        let mut generator = RustGenerator::open(&bundle, &RustOptions::default()).unwrap();
        let expected = generator.generate(7, &Query::Random, &mut |_| Ok(())).unwrap().image.into_raw();
        let held = |entry: std::io::Result<std::fs::DirEntry>| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), FileBytes::hold(&entry.path()).unwrap())
        };
        let files = std::fs::read_dir(dir.path()).unwrap().map(held).collect();
        Self { files, expected, portion: 1000, fault: Fault::None }
    }

    fn reader(&self) -> FileReader {
        let user = std::ptr::from_ref(self).cast_mut().cast();
        let (file_size, file_read) = (Some(file_size as _), Some(file_read as _));
        FileReader { file_size, file_read, user, ..initial(rissole_file_reader_init) }
    }

    /// # Safety
    /// `user` and `name` are as [`Self::reader`] and the library give them.
    unsafe fn file<'a>(user: *mut c_void, name: *const c_char) -> (&'a Self, Option<&'a [u8]>) {
        let (shelf, name) = unsafe { (&*user.cast::<Self>(), CStr::from_ptr(name)) };
        (shelf, shelf.files.get(name.to_str().unwrap()).map(FileBytes::bytes))
    }
}

unsafe extern "C" fn file_size(name: *const c_char, user: *mut c_void) -> i64 {
    let (shelf, bytes) = unsafe { Shelf::file(user, name) };
    match (shelf.fault, bytes) {
        (_, None) => -1,
        (Fault::Swells, Some(bytes)) if bytes.len() > 4096 => i64::MAX,
        (_, Some(bytes)) => bytes.len() as i64,
    }
}

unsafe extern "C" fn file_read(
    name: *const c_char,
    offset: u64,
    buffer: *mut c_void,
    size: u64,
    user: *mut c_void,
) -> i64 {
    let (shelf, bytes) = unsafe { Shelf::file(user, name) };
    let mut rest = &bytes.unwrap()[offset as usize..];
    match shelf.fault {
        Fault::Fails => return -5,
        Fault::Boasts => return size as i64 + 1,
        Fault::Ends => rest = &rest[..rest.len() / 2],
        Fault::None | Fault::Swells => {}
    }
    let given = &rest[..rest.len().min(size as usize).min(shelf.portion)];
    unsafe { buffer.cast::<u8>().copy_from_nonoverlapping(given.as_ptr(), given.len()) };
    given.len() as i64
}

/// Draws seed 7 from `model`, and closes it.
fn drawn(model: *mut Model, ram_budget: u64) -> (Status, Vec<u8>) {
    let mut pixels = vec![0; 1 << 16];
    let mut generator = null_mut();
    unsafe {
        let options = Options { ram_budget, ..initial(rissole_options_init) };
        let status = rissole_generator_open(model, &options, &mut generator, null_mut());
        rissole_model_close(model);
        if status != Status::Ok {
            return (status, vec![]);
        }
        let request = Request { seed: 7, ..initial(rissole_request_init) };
        let mut image = image(&mut pixels, PixelFormat::Rgb8);
        let status = rissole_generate(generator, &request, &mut image, null_mut(), null_mut());
        rissole_generator_close(generator);
        pixels.truncate((image.width * image.height * 3) as usize);
        (status, pixels)
    }
}

fn opened_by(reader: &FileReader) -> (Status, *mut Model, String) {
    let mut model = null_mut();
    let mut error = error();
    let status = unsafe { rissole_model_open_reader(reader, &mut model, &mut error) };
    (status, model, message(&error))
}

#[test]
fn a_model_in_memory_draws_the_same_picture() {
    let shelf = Shelf::new();
    let names: Vec<CString> = shelf.files.keys().map(|name| CString::new(name.as_str()).unwrap()).collect();
    let file = |(name, file): (&CString, &FileBytes)| MemoryFile {
        name: name.as_ptr(),
        data: file.bytes().as_ptr().cast(),
        size: file.bytes().len() as u64,
    };
    let files: Vec<MemoryFile> = names.iter().zip(shelf.files.values()).map(file).collect();
    let open = |files: &[MemoryFile], model: &mut *mut Model| unsafe {
        rissole_model_open_memory(files.as_ptr(), files.len() as u64, model, null_mut())
    };
    let mut model = null_mut();
    assert_eq!(open(&files, &mut model), Status::Ok);
    assert_eq!(unsafe { rissole_model_verify(model, null_mut()) }, Status::Ok);
    assert_eq!(drawn(model, 0), (Status::Ok, shelf.expected));

    // A file is missing, cut short, without data, misaligned; there are too many.
    assert_eq!(open(&files[1..], &mut model), Status::Bundle);
    for at in 0..files.len() {
        for (change, status) in [
            (MemoryFile { size: files[at].size - 1, ..files[at] }, Status::Bundle),
            (MemoryFile { data: null(), ..files[at] }, Status::Argument),
            (MemoryFile { name: null(), ..files[at] }, Status::Argument),
            (MemoryFile { data: files[at].data.wrapping_byte_add(8), size: 8, ..files[at] }, Status::Argument),
        ] {
            let mut files = files.clone();
            files[at] = change;
            assert_eq!(open(&files, &mut model), status, "{at}");
            assert!(model.is_null());
        }
    }
    let status = unsafe { rissole_model_open_memory(files.as_ptr(), u64::MAX, &mut model, null_mut()) };
    assert_eq!(status, Status::Argument);
    assert_eq!(unsafe { rissole_model_open_memory(null(), 1, &mut model, null_mut()) }, Status::Argument);
}

#[test]
fn a_model_behind_callbacks_draws_the_same_picture_and_counts_in_the_budget() {
    let mut shelf = Shelf::new();
    let (status, model, message) = opened_by(&shelf.reader());
    assert_eq!(status, Status::Ok, "{message}");
    assert_eq!(unsafe { rissole_model_verify(model, null_mut()) }, Status::Ok);
    assert_eq!(drawn(model, 64 << 20), (Status::Ok, shelf.expected.clone()));
    shelf.portion = 7;
    assert_eq!(drawn(opened_by(&shelf.reader()).1, 0), (Status::Ok, shelf.expected.clone()));
    // What is read takes heap: the shelf alone fills this budget.
    assert_eq!(drawn(opened_by(&shelf.reader()).1, 30_000).0, Status::Budget);
}

#[test]
fn memory_hooks_are_for_c_programs() {
    unsafe extern "C" fn alloc(_: usize, _: usize, _: *mut c_void) -> *mut c_void {
        null_mut()
    }
    unsafe extern "C" fn realloc(_: *mut c_void, _: usize, _: usize, _: usize, _: *mut c_void) -> *mut c_void {
        null_mut()
    }
    unsafe extern "C" fn free(_: *mut c_void, _: usize, _: usize, _: *mut c_void) {}
    let (alloc, realloc, free) = (Some(alloc as _), Some(realloc as _), Some(free as _));
    let memory = Memory { alloc, realloc, free, ..initial(rissole_memory_init) };
    for (bad, words) in [
        (memory, "Rust program"),
        (Memory { alloc: None, ..memory }, "NULL"),
        (Memory { realloc: None, ..memory }, "NULL"),
        (Memory { free: None, ..memory }, "NULL"),
        (Memory { reserved: 1, ..memory }, "reserved"),
        (Memory { struct_size: 4, ..memory }, "struct_size"),
        (Memory { struct_size: 5000, ..memory }, "struct_size"),
    ] {
        let mut error = error();
        assert_eq!(unsafe { rissole_set_memory(&bad, &mut error) }, Status::Argument);
        assert!(message(&error).contains(words), "{}", message(&error));
    }
}

#[test]
fn what_callbacks_do_wrong_is_an_error() {
    let mut shelf = Shelf::new();
    for (fault, words) in [(Fault::Ends, "manifest.json"), (Fault::Fails, "-5"), (Fault::Boasts, "read callback")] {
        shelf.fault = fault;
        let (status, model, message) = opened_by(&shelf.reader());
        assert!(model.is_null() && status == Status::Io && message.contains(words), "{status:?}: {message}");
    }
    shelf.fault = Fault::Swells;
    let (status, _, message) = opened_by(&shelf.reader());
    assert!(status == Status::Bundle && message.contains("the manifest says"), "{status:?}: {message}");
    shelf.fault = Fault::None;
    shelf.files.remove("manifest.json");
    let (status, _, message) = opened_by(&shelf.reader());
    assert!(status == Status::Bundle && message.contains("is missing"), "{status:?}: {message}");
    let reader = shelf.reader();
    for bad in [
        FileReader { file_size: None, ..reader },
        FileReader { file_read: None, ..reader },
        FileReader { struct_size: 8, ..reader },
        FileReader { reserved: 1, ..reader },
    ] {
        assert_eq!(opened_by(&bad).0, Status::Argument);
    }
}
