//! NCCL, where it is found: the GPUs of several processes average arrays among themselves. `unsafe` is allowed here for
//! its C interface.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::Arc;

use cudarc::driver::CudaStream;
use libloading::os::unix::{Library, Symbol};
use rissole::{Error, Result};

use super::libraries;
use super::memory::Buffer;
use crate::group::Group;

type Communicator = *mut c_void;

/// What processes find each other by.
#[repr(C)]
#[derive(Clone, Copy)]
struct UniqueId([c_char; 128]);

/// `ncclFloat32`.
const FLOAT32: c_int = 7;
/// `ncclAvg`, since NCCL 2.10.
const AVERAGE: c_int = 4;

/// The functions that are used. (cudarc has them too, but does not look for the library by the name that it is
/// installed under.)
#[derive(Debug)]
struct Functions {
    unique_id: Symbol<unsafe extern "C" fn(*mut UniqueId) -> c_int>,
    join: Symbol<unsafe extern "C" fn(*mut Communicator, c_int, UniqueId, c_int) -> c_int>,
    all_reduce: Symbol<AllReduce>,
    group_start: Symbol<unsafe extern "C" fn() -> c_int>,
    group_end: Symbol<unsafe extern "C" fn() -> c_int>,
    leave: Symbol<unsafe extern "C" fn(Communicator) -> c_int>,
    error: Symbol<unsafe extern "C" fn(c_int) -> *const c_char>,
}

/// From, to, elements, their type, the operation, the communicator, the stream.
type AllReduce =
    unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Communicator, *mut c_void) -> c_int;

impl Functions {
    fn find(library: &Library) -> Result<Self> {
        let missing = |e: libloading::Error| Error::Usage(format!("NCCL: {e}"));
        // SAFETY: the types are those of NCCL's header, which has kept them since 2.10.
        unsafe {
            Ok(Self {
                unique_id: library.get(b"ncclGetUniqueId\0").map_err(missing)?,
                join: library.get(b"ncclCommInitRank\0").map_err(missing)?,
                all_reduce: library.get(b"ncclAllReduce\0").map_err(missing)?,
                group_start: library.get(b"ncclGroupStart\0").map_err(missing)?,
                group_end: library.get(b"ncclGroupEnd\0").map_err(missing)?,
                leave: library.get(b"ncclCommDestroy\0").map_err(missing)?,
                error: library.get(b"ncclGetErrorString\0").map_err(missing)?,
            })
        }
    }

    /// An error for any code but success.
    fn check(&self, what: &str, code: c_int) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: the text is a constant of the library, which stays loaded.
        let text = unsafe { CStr::from_ptr((self.error)(code)) }.to_string_lossy();
        Err(Error::Usage(format!("NCCL: {what}: {text}")))
    }
}

/// This process's part of a communicator, on one stream. It is not destroyed but by [`Self::leave`]: that takes all
/// processes, of which one may be gone, and the others would wait for ever.
#[derive(Debug)]
pub struct Nccl {
    functions: Functions,
    communicator: Communicator,
    /// The work goes there.
    stream: Arc<CudaStream>,
}

/// Whether the library is there.
pub fn is_there() -> bool {
    libraries::load(libraries::NCCL)
        .inspect_err(|searched| log::warn!("no NCCL: gradients are averaged over TCP, by way of the host; {searched}"))
        .is_ok()
}

impl Nccl {
    /// Joins the processes of `group`, each with a GPU of its own; the context of this one's is the thread's. Waits for
    /// all.
    ///
    /// # Errors
    /// As [`Group::share_bytes`]; what NCCL says.
    pub fn join(stream: &Arc<CudaStream>, group: &Group) -> Result<Self> {
        let library =
            libraries::load(libraries::NCCL).map_err(|searched| Error::Usage(format!("no NCCL: {searched}")))?;
        let functions = Functions::find(library)?;
        let mut id = UniqueId([0; 128]);
        if group.leads() {
            // SAFETY: the identity is written where there is room for it.
            functions.check("its identity", unsafe { (functions.unique_id)(&mut id) })?;
        }
        let mut bytes = id.0.map(|c| c as u8);
        group.share_bytes(&mut bytes)?;
        id = UniqueId(bytes.map(|b| b as c_char));
        let mut communicator = std::ptr::null_mut();
        let (size, rank) = (group.size() as c_int, group.rank() as c_int);
        // SAFETY: the identity is the leader's; ranks are below the size and each joins once.
        let joined = unsafe { (functions.join)(&mut communicator, size, id, rank) };
        functions.check("joining (each process needs a GPU of its own: --device cuda:all)", joined)?;
        Ok(Self { functions, communicator, stream: stream.clone() })
    }

    /// Leaves the others, who do so too, when all work is done.
    ///
    /// # Errors
    /// What NCCL and the driver say.
    pub fn leave(self) -> Result<()> {
        self.stream.synchronize().map_err(|e| Error::Internal(format!("NCCL: {e}")))?;
        // SAFETY: it was joined, and is left once.
        self.functions.check("leaving", unsafe { (self.functions.leave)(self.communicator) })
    }

    /// Submits: each array, of floats, becomes its mean over the processes, which all give as many of the same lengths.
    ///
    /// # Errors
    /// What NCCL says.
    pub fn average(&self, arrays: &[&mut Buffer]) -> Result<()> {
        let functions = &self.functions;
        // SAFETY: it has no arguments.
        functions.check("a group", unsafe { (functions.group_start)() })?;
        let submitted = arrays.iter().filter(|array| !array.is_empty()).try_for_each(|array| {
            let (address, stream) = (array.address() as *mut c_void, self.stream.cu_stream().cast());
            // SAFETY: the array holds as many floats, and is its own result, as NCCL allows.
            functions.check("a mean", unsafe {
                (functions.all_reduce)(address, address, array.len(), FLOAT32, AVERAGE, self.communicator, stream)
            })
        });
        // A group that was begun is ended, whatever came of it: the next would be within it.
        // SAFETY: as above.
        let ended = functions.check("a group", unsafe { (functions.group_end)() });
        submitted.and(ended)
    }
}
