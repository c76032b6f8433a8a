//! Generators: what draws, one picture at a time.

use std::ffi::c_void;
use std::mem::offset_of;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};

use super::fault::{ErrorInfo, Fault, Outcome, Status, check_reserved, close, given, guard, place};
use super::grown::{self, Grown};
use super::image::{Image, Target, picture};
use super::model::{Model, Sampler};
use super::progress::{Listener, ProgressFn};
use crate::bundle::manifest::SamplerKind;
use crate::error::Error;
use crate::generator as api;

/// How to draw. rissole_options_init sets every field to what is usual.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// sizeof(rissole_options).
    pub struct_size: u32,
    /// Threads that draw: the caller's and, while a call draws or decodes, others with stacks of 1 MiB, which the budget
    /// counts; 0 or 1: the caller's alone. Each draws a block of its own; a block that is alone, as the thumbnail is, they
    /// draw together, and they decode together. The pixels do not depend on it.
    pub threads: u32,
    /// A rissole_sampler.
    pub sampler: u32,
    /// Sampling steps; 0: the model's.
    pub steps: u32,
    /// Neighbours; 0: the model's.
    pub neighbours: u32,
    /// Whether a queried picture may not be its own neighbour: 0 it may, 1 it may not, 2 as the model says.
    pub exclude_self: u32,
    /// Bytes that the library may allocate in this process; 0: no limit. What models and generators hold when this one is
    /// opened is counted, what another takes later is not foreseen: where several draw at once, leave room for the others.
    pub ram_budget: u64,
    /// How strongly the neighbours guide, at most 100; 1: as trained, which every model can; 0: the model's. All but 1
    /// takes twice as long.
    pub guidance: f32,
    /// Always 0.
    pub reserved: u32,
}

/// `exclude_self` as the model says.
const AS_THE_MODEL_SAYS: u32 = 2;

// SAFETY: `repr(C)`, numbers only, the size first.
unsafe impl Grown for Options {
    const FIRST: usize = offset_of!(Options, guidance);
    fn initial() -> Self {
        Self {
            struct_size: size_of::<Self>() as u32,
            threads: 1,
            sampler: Sampler::Default as u32,
            steps: 0,
            neighbours: 0,
            exclude_self: AS_THE_MODEL_SAYS,
            ram_budget: 0,
            guidance: 0.0,
            reserved: 0,
        }
    }
}

/// Whose neighbours guide the picture.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryKind {
    /// A picture of the database, chosen by the seed.
    Random = 0,
    /// The picture of the database with the number `id`.
    Id = 1,
    /// The caller's picture at `pixels`.
    Picture = 2,
}

/// What to draw. rissole_request_init sets every field to what is usual.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// sizeof(rissole_request).
    pub struct_size: u32,
    /// A rissole_query_kind.
    pub query: u32,
    /// The seed: the same seed, query and options give the same pixels.
    pub seed: u64,
    /// For RISSOLE_QUERY_KIND_ID.
    pub id: u32,
    /// For RISSOLE_QUERY_KIND_PICTURE: width, which must be the model's.
    pub width: u32,
    /// Height, likewise.
    pub height: u32,
    /// Always 0.
    pub reserved: u32,
    /// Bytes from row to row; 0: no gap.
    pub stride: u64,
    /// Red, green, blue of each pixel, 8 bits each.
    pub pixels: *const u8,
}

// SAFETY: `repr(C)`, numbers and a raw pointer, the size first.
unsafe impl Grown for Request {
    const FIRST: usize = size_of::<Request>();
    fn initial() -> Self {
        Self {
            struct_size: size_of::<Self>() as u32,
            query: QueryKind::Random as u32,
            seed: 0,
            id: 0,
            width: 0,
            height: 0,
            reserved: 0,
            stride: 0,
            pixels: std::ptr::null(),
        }
    }
}

/// `query_id` where the query was no picture of the database.
pub const NO_ID: u32 = u32::MAX;

/// How a picture came about. rissole_report_init makes it ready to be filled in.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Report {
    /// sizeof(rissole_report).
    pub struct_size: u32,
    /// The database picture that was the query, or RISSOLE_NO_ID.
    pub query_id: u32,
    /// Sampling steps.
    pub steps: u32,
    /// A rissole_sampler.
    pub sampler: u32,
    /// Seconds of opening files and loading networks, since the picture before.
    pub load_seconds: f64,
    /// Seconds of finding the neighbours.
    pub retrieve_seconds: f64,
    /// Seconds of denoising, the callback's included.
    pub denoise_seconds: f64,
    /// Seconds of decoding.
    pub decode_seconds: f64,
    /// Most bytes of heap at once since the program began; 0 where the library does not count.
    pub peak_heap: u64,
    /// Most bytes of the process in RAM at once, mapped files included; 0 where the system does not tell.
    pub peak_rss: u64,
    /// How strongly the neighbours guided; 1: as trained.
    pub guidance: f32,
    /// Always 0.
    pub reserved: u32,
}

// SAFETY: `repr(C)`, numbers only, the size first.
unsafe impl Grown for Report {
    const FIRST: usize = offset_of!(Report, guidance);
    fn initial() -> Self {
        Self {
            struct_size: size_of::<Self>() as u32,
            query_id: NO_ID,
            steps: 0,
            sampler: 0,
            load_seconds: 0.0,
            retrieve_seconds: 0.0,
            denoise_seconds: 0.0,
            decode_seconds: 0.0,
            peak_heap: 0,
            peak_rss: 0,
            guidance: 1.0,
            reserved: 0,
        }
    }
}

/// What draws. One thread at a time; a second one is answered RISSOLE_STATUS_BUSY.
pub struct Generator {
    cancelled: AtomicBool,
    work: Mutex<Work>,
}

struct Work {
    generator: api::Generator,
    listener: Listener,
}

impl Generator {
    fn work(&self) -> Outcome<MutexGuard<'_, Work>> {
        self.work.try_lock().map_err(|fault| match fault {
            TryLockError::WouldBlock => Fault::busy(),
            TryLockError::Poisoned(_) => Fault::internal("a picture before this one failed badly; close the generator"),
        })
    }
}

/// Sets all of `options`, which has `size` = sizeof(rissole_options) bytes, to what is usual: one thread, no budget, all else
/// as the model says. NULL is ignored. Any thread.
///
/// # Safety
/// `options` is NULL or points to `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rissole_options_init(options: *mut Options, size: usize) {
    // SAFETY: as the caller vouches.
    unsafe { grown::init(options, size) };
}

/// Sets all of `request`, which has `size` = sizeof(rissole_request) bytes, to what is usual: a picture of the database as
/// query, seed 0. NULL is ignored. Any thread.
///
/// # Safety
/// `request` is NULL or points to `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rissole_request_init(request: *mut Request, size: usize) {
    // SAFETY: as the caller vouches.
    unsafe { grown::init(request, size) };
}

/// Makes `report`, which has `size` = sizeof(rissole_report) bytes, ready to be filled in. NULL is ignored. Any thread.
///
/// # Safety
/// `report` is NULL or points to `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rissole_report_init(report: *mut Report, size: usize) {
    // SAFETY: as the caller vouches.
    unsafe { grown::init(report, size) };
}

/// The least `ram_budget` with which a generator with `options` can be opened now: bytes of heap that it needs, with
/// what the library holds already: one thread, the networks of one stage at a time, the picture decoded in small tiles where
/// the decoder allows. Loads the networks one by one to find out. `options` may be NULL for the usual ones. Any thread; what
/// others hold meanwhile is counted.
///
/// # Safety
/// `model` is NULL or open; `options` is NULL or has `struct_size` bytes; `needs` is NULL or points to a uint64_t;
/// `error` is NULL or points to a rissole_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rissole_plan(
    model: *const Model,
    options: *const Options,
    needs: *mut u64,
    error: *mut ErrorInfo,
) -> Status {
    // SAFETY: as the caller vouches, here and below.
    unsafe {
        guard(error, |call| {
            let needs = place(needs, 0, "needs")?;
            let plans = api::Generator::plans(&given(model, "model")?.bundle, &read_options(options)?)?;
            call.check_memory()?;
            *needs = plans.iter().map(api::Plan::needs).min().unwrap_or(0);
            Ok(())
        })
    }
}

/// Opens a generator of `model` and puts it into `*generator`, which becomes NULL on failure: loads the networks,
/// one by one under a budget. `options` may be NULL for the usual ones. Within `ram_budget` it takes the fastest way of
/// drawing that fits, all of which give the same pixels; RISSOLE_STATUS_BUDGET where none does: see rissole_plan. Close it
/// with rissole_generator_close. Any thread.
///
/// # Safety
/// `model` is NULL or open; `options` is NULL or has `struct_size` bytes; `generator` is NULL or points to a pointer;
/// `error` is NULL or points to a rissole_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rissole_generator_open(
    model: *const Model,
    options: *const Options,
    generator: *mut *mut Generator,
    error: *mut ErrorInfo,
) -> Status {
    // SAFETY: as the caller vouches, here and below.
    unsafe {
        guard(error, |call| {
            let to = place(generator, std::ptr::null_mut(), "generator")?;
            let opened = api::Generator::open(&given(model, "model")?.bundle, &read_options(options)?)?;
            let work = Mutex::new(Work { generator: opened, listener: Listener::default() });
            let opened = Box::new(Generator { cancelled: AtomicBool::new(false), work });
            call.check_memory()?;
            *to = Box::into_raw(opened);
            Ok(())
        })
    }
}

/// Closes a generator; NULL is ignored. Any thread, while no other uses it.
///
/// # Safety
/// `generator` is NULL or came from rissole_generator_open and was not closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rissole_generator_close(generator: *mut Generator) {
    // SAFETY: as the caller vouches.
    unsafe { close(generator) };
}

/// Has progress told to `callback`, with `user`; NULL: to nobody. On failure all stays as it was. One thread at a time.
///
/// # Safety
/// `generator` is NULL or open; `callback` may be called with `user` while a picture is drawn; `error` is NULL or
/// points to a rissole_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rissole_generator_set_progress(
    generator: *mut Generator,
    callback: ProgressFn,
    user: *mut c_void,
    error: *mut ErrorInfo,
) -> Status {
    // SAFETY: as the caller vouches.
    unsafe {
        guard(error, |_| {
            given(generator, "generator")?.work()?.listener = Listener { callback, user: Some(user) };
            Ok(())
        })
    }
}

/// Stops the picture that is being drawn at its next step, or once it is decoded; where none is being drawn any more, the
/// next one as it begins. That call answers RISSOLE_STATUS_CANCELLED. From any thread, and from a signal handler. NULL is
/// ignored.
///
/// # Safety
/// `generator` is NULL or open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rissole_generator_cancel(generator: *mut Generator) {
    // SAFETY: as the caller vouches.
    if !generator.is_null() && generator.is_aligned() {
        // SAFETY: as above; nothing of the lock is touched.
        unsafe { (*generator).cancelled.store(true, Ordering::Relaxed) };
    }
}

/// Draws a picture into `image`. `request` may be NULL for the usual one, `report` for none. Nothing is written to
/// `image` unless all went well. One thread at a time.
///
/// # Safety
/// `generator` is NULL or open; `request`, `image`, `report` are NULL or have `struct_size` bytes; `image->pixels` has
/// `image->bytes` bytes; `request->pixels` has the rows that its numbers say; `error` is NULL or points to a
/// rissole_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rissole_generate(
    generator: *mut Generator,
    request: *const Request,
    image: *mut Image,
    report: *mut Report,
    error: *mut ErrorInfo,
) -> Status {
    // SAFETY: as the caller vouches, here and below.
    unsafe {
        guard(error, |call| {
            let handle = given(generator, "generator")?;
            let mut work = handle.work()?;
            let Work { generator, listener } = &mut *work;
            let size = generator.manifest().image;
            let target = Target::new(image, size)?;
            if !report.is_null() {
                grown::write(report, Report::initial(), "report")?;
            }
            let (seed, query) = read_request(request)?;
            let mut counts = (0, 0);
            let drawn = generator.generate(seed, query, &mut |event| {
                let wanted = !handle.cancelled.load(Ordering::Relaxed) && listener.tell(&event, size, &mut counts);
                let go_on = wanted && call.check_memory().is_ok();
                if go_on { Ok(()) } else { Err(Error::Interrupted) }
            });
            // Taken together with its answer, so that a cancellation stops this picture or the next, and is never lost.
            let cancelled = handle.cancelled.swap(false, Ordering::Relaxed);
            call.check_memory()?;
            let drawn = drawn?;
            if cancelled {
                return Err(Error::Interrupted.into());
            }
            target.put(&drawn.image)?;
            match report.is_null() {
                true => Ok(()),
                false => grown::write(report, Report::from(&drawn.report), "report"),
            }
        })
    }
}

impl From<&api::Report> for Report {
    fn from(report: &api::Report) -> Self {
        let times = report.times;
        Self {
            struct_size: size_of::<Self>() as u32,
            query_id: report.query.unwrap_or(NO_ID),
            steps: report.steps as u32,
            sampler: Sampler::from(report.sampler) as u32,
            load_seconds: times.load,
            retrieve_seconds: times.retrieve,
            denoise_seconds: times.denoise,
            decode_seconds: times.decode,
            peak_heap: report.peak_heap.unwrap_or(0),
            peak_rss: report.peak_rss.unwrap_or(0),
            guidance: report.guidance,
            reserved: 0,
        }
    }
}

/// # Safety
/// `options` is NULL or has `struct_size` bytes.
unsafe fn read_options(options: *const Options) -> Outcome<api::Options> {
    // SAFETY: as the caller vouches.
    let o = if options.is_null() { Options::initial() } else { unsafe { grown::read(options, "options")? } };
    let given = |n: u32| (n > 0).then_some(n as usize);
    check_reserved(o.reserved, "options")?;
    Ok(api::Options {
        neighbours: given(o.neighbours),
        steps: given(o.steps),
        sampler: match o.sampler {
            0 => None,
            1 => Some(SamplerKind::Ddpm),
            2 => Some(SamplerKind::Ddim),
            3 => Some(SamplerKind::DpmSolverPp2m),
            4 => Some(SamplerKind::Consistency),
            other => return Err(Fault::argument(format!("options.sampler {other} is no rissole_sampler"))),
        },
        guidance: (o.guidance != 0.0).then_some(o.guidance),
        threads: o.threads.max(1) as usize,
        ram_budget: (o.ram_budget > 0).then_some(o.ram_budget),
        exclude_self: match o.exclude_self {
            AS_THE_MODEL_SAYS => None,
            0 => Some(false),
            1 => Some(true),
            other => return Err(Fault::argument(format!("options.exclude_self {other} is not 0, 1 or 2"))),
        },
    })
}

/// # Safety
/// `request` is NULL or has `struct_size` bytes, and its `pixels` the rows that its numbers say.
unsafe fn read_request(request: *const Request) -> Outcome<(u64, api::Query)> {
    // SAFETY: as the caller vouches.
    let r = if request.is_null() { Request::initial() } else { unsafe { grown::read(request, "request")? } };
    check_reserved(r.reserved, "request")?;
    let query = match r.query {
        0 => api::Query::Random,
        1 => api::Query::Id(r.id),
        // SAFETY: as the caller vouches.
        2 => api::Query::Image(unsafe { picture(r.pixels, r.width, r.height, r.stride)? }),
        other => return Err(Fault::argument(format!("request.query {other} is no rissole_query_kind"))),
    };
    Ok((r.seed, query))
}
