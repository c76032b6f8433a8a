//! Models whose files are no folder: in the program's memory, or read by its callbacks.

use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_void};
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::fault::{Call, ErrorInfo, Fault, Outcome, Status, check_pointer, check_reserved, guard, place, text};
use super::grown::{self, Grown};
use super::model::Model;
use crate::bundle::{Bundle, Files, Storage};
use crate::file_bytes::FileBytes;

/// Most files of a model in memory.
const MAX_FILES: u64 = 4096;

/// One file of a model in memory.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct MemoryFile {
    /// Its name in the bundle, like "manifest.json", UTF-8.
    pub name: *const c_char,
    /// Its bytes, starting on a multiple of 64.
    pub data: *const c_void,
    /// How many.
    pub size: u64,
}

/// Answers the size of the file `name` in bytes, or something negative where there is none. It must not throw or longjmp.
pub type FileSizeFn = Option<unsafe extern "C" fn(name: *const c_char, user: *mut c_void) -> i64>;

/// Reads up to `size` bytes from `offset` of the file `name` into `buffer`. Answers how many they were, 0 at the end
/// of the file, or something negative where it cannot be read (RISSOLE_STATUS_IO). It must not throw or longjmp.
pub type FileReadFn = Option<
    unsafe extern "C" fn(name: *const c_char, offset: u64, buffer: *mut c_void, size: u64, user: *mut c_void) -> i64,
>;

/// How a model's files are read. Both callbacks may be called on any thread that uses the model or one of its generators,
/// and on those that a generator with several threads has of its own; on several at once. They must use neither model nor
/// generator.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct FileReader {
    /// sizeof(rissole_file_reader).
    pub struct_size: u32,
    /// Always 0.
    pub reserved: u32,
    /// Tells sizes.
    pub file_size: FileSizeFn,
    /// Reads.
    pub file_read: FileReadFn,
    /// Given to both.
    pub user: *mut c_void,
}

// SAFETY: `repr(C)`, the size first; raw pointers and optional functions, for which NULL stands, may have any bytes
// as far as the caller's contract goes: a function is one of this type.
unsafe impl Grown for FileReader {
    const FIRST: usize = size_of::<FileReader>();
    fn initial() -> Self {
        let (struct_size, user) = (size_of::<Self>() as u32, std::ptr::null_mut());
        Self { struct_size, reserved: 0, file_size: None, file_read: None, user }
    }
}

/// Opens the bundle whose files are the `count` ones at `files`, as rissole_model_open does: manifest.json and all that it
/// names, which is every file of the bundle's folder but those for people (README.md, *.html, pictures); others may be among
/// them. The *.packed ones may be left out: networks are then copied into the heap. Files are used where they are and not
/// copied: in flash, in a mapping, in a section of the program. Their bytes must stay as they are until the model and all its
/// generators are closed; the array and the names may go. Any thread.
///
/// # Safety
/// `files` is NULL or points to `count` rissole_memory_file, whose names end with NUL and whose data has `size` bytes;
/// `model` is NULL or points to a pointer; `error` is NULL or points to a rissole_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rissole_model_open_memory(
    files: *const MemoryFile,
    count: u64,
    model: *mut *mut Model,
    error: *mut ErrorInfo,
) -> Status {
    // SAFETY: as the caller vouches, here and below.
    unsafe {
        guard(error, |call| {
            let model = place(model, std::ptr::null_mut(), "model")?;
            check_pointer(files, "files")?;
            if count > MAX_FILES {
                return Err(Fault::argument(format!("{count} files are too many")));
            }
            let listed = std::slice::from_raw_parts(files, count as usize);
            let lent = listed.iter().map(|file| lend(file)).collect::<Outcome<_>>()?;
            *model = open(call, "(memory)", Memory(lent))?;
            Ok(())
        })
    }
}

/// Empties `file_reader`, which has `size` = sizeof(rissole_file_reader) bytes. NULL is ignored. Any thread.
///
/// # Safety
/// `file_reader` is NULL or points to `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rissole_file_reader_init(file_reader: *mut FileReader, size: usize) {
    // SAFETY: as the caller vouches.
    unsafe { grown::init(file_reader, size) };
}

/// Opens the bundle whose files `reader` reads, as rissole_model_open does. Networks are read into the heap while they
/// are needed, and may be asked for again later; of database and index what a search looks at is read, through a cache of
/// 256 KiB each. A RAM budget counts all of it. Any thread.
///
/// # Safety
/// `reader` is NULL or has `struct_size` bytes, and its callbacks may be called until the model and all its generators
/// are closed; `model` is NULL or points to a pointer; `error` is NULL or points to a rissole_error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rissole_model_open_reader(
    reader: *const FileReader,
    model: *mut *mut Model,
    error: *mut ErrorInfo,
) -> Status {
    // SAFETY: as the caller vouches, here and below.
    unsafe {
        guard(error, |call| {
            let model = place(model, std::ptr::null_mut(), "model")?;
            let FileReader { struct_size: _, reserved, file_size, file_read, user } = grown::read(reader, "reader")?;
            check_reserved(reserved, "reader")?;
            let callbacks = file_size.zip(file_read).ok_or_else(|| Fault::argument("a callback is NULL"));
            let (size, read) = callbacks?;
            *model = open(call, "(reader)", Reader { size, read, user })?;
            Ok(())
        })
    }
}

fn open(call: Call, spoken_of_as: &str, files: impl Files + 'static) -> Outcome<*mut Model> {
    let model = Model::handle(Bundle::open_from(Path::new(spoken_of_as), Storage::Given(Arc::new(files)))?);
    call.check_memory()?;
    Ok(Box::into_raw(model))
}

/// # Safety
/// As for [`rissole_model_open_memory`].
unsafe fn lend(file: &MemoryFile) -> Outcome<(String, &'static [u8])> {
    // SAFETY: the name ends with NUL; the data has so many bytes, and lives as long as anything that uses them.
    let (name, bytes) = unsafe {
        let name = text(file.name, "a file's name")?;
        if file.data.is_null() || file.size > isize::MAX as u64 {
            return Err(Fault::argument(format!("{name} has no data or too much")));
        }
        (name, std::slice::from_raw_parts(file.data.cast::<u8>(), file.size as usize))
    };
    if FileBytes::lend(bytes).is_none() {
        return Err(Fault::argument(format!("{name} does not start on a multiple of {}", FileBytes::ALIGN)));
    }
    Ok((name.to_owned(), bytes))
}

#[derive(Debug)]
struct Memory(BTreeMap<String, &'static [u8]>);

impl Files for Memory {
    fn size(&self, name: &str) -> io::Result<u64> {
        Ok(self.get(name)?.len() as u64)
    }

    fn read_at(&self, name: &str, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = self.get(name)?.get(usize::try_from(offset).unwrap_or(usize::MAX)..);
        let bytes = bytes.and_then(|bytes| bytes.get(..out.len()));
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn in_memory(&self, name: &str) -> Option<FileBytes> {
        FileBytes::lend(self.0.get(name)?)
    }
}

impl Memory {
    fn get(&self, name: &str) -> io::Result<&'static [u8]> {
        self.0.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

#[derive(Debug)]
struct Reader {
    size: unsafe extern "C" fn(*const c_char, *mut c_void) -> i64,
    read: unsafe extern "C" fn(*const c_char, u64, *mut c_void, u64, *mut c_void) -> i64,
    user: *mut c_void,
}

// SAFETY: the pointer is only handed to the callbacks, which by contract may come from any thread, several at once.
unsafe impl Send for Reader {}
// SAFETY: likewise.
unsafe impl Sync for Reader {}

impl Files for Reader {
    fn size(&self, name: &str) -> io::Result<u64> {
        let name = CString::new(name)?;
        // SAFETY: the callback is the caller's; the name lives until it returns.
        let size = unsafe { (self.size)(name.as_ptr(), self.user) };
        u64::try_from(size).map_err(|_| io::ErrorKind::NotFound.into())
    }

    fn read_at(&self, name: &str, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let name = CString::new(name)?;
        let mut done = 0;
        while done < out.len() {
            let rest = &mut out[done..];
            let (buffer, room) = (rest.as_mut_ptr().cast(), rest.len() as u64);
            // SAFETY: the callback is the caller's; the name lives, and the buffer has room, until it returns.
            let read = unsafe { (self.read)(name.as_ptr(), offset + done as u64, buffer, room, self.user) };
            match usize::try_from(read) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) if read <= rest.len() => done += read,
                _ => return Err(io::Error::other(format!("the program's read callback answers {read}"))),
            }
        }
        Ok(())
    }
}
