//! A file read a page at a time, through a cache of fixed size: for storage that may change or go away, where a memory
//! map would end the program (see [`crate::file_bytes`]) and the whole file is more than the memory.

use std::fmt::Debug;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::file_bytes;

/// What can be read at any place.
pub(crate) trait ReadAt: Debug + Send + Sync {
    /// Fills `out` with the bytes from `offset` on. Not called twice at once.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
}

/// A file that is read where it is asked for. Threads may share it.
#[derive(Debug)]
pub(crate) struct PagedFile {
    file: Box<dyn ReadAt>,
    len: u64,
    cache: Mutex<Cache>,
}

const PAGE: usize = 4096;
/// Readings longer than this pass the cache by.
const LONG: usize = 4 * PAGE;
/// Pages kept: 256 KiB.
const FRAMES: usize = 64;

/// Pages read last. A page has one frame that it can lie in, so nothing is searched for and nothing can be hostile to
/// it but slowness.
#[derive(Debug)]
struct Cache {
    pages: Vec<u8>,
    /// Which page lies in each frame.
    tags: Vec<Option<u64>>,
}

impl PagedFile {
    /// The regular file at `path`. Its length is that of now: where it gets shorter, reads fail.
    ///
    /// # Errors
    /// [`Error::File`] where there is no such regular file; [`Error::Io`], also where there is no memory for the cache.
    pub fn open(path: &Path) -> Result<Self> {
        let (file, len) = file_bytes::open(path)?;
        Self::of(Box::new(file), len).map_err(|e| Error::io(path, e))
    }

    /// `file`, which has `len` bytes.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`] where there is no memory for the cache.
    pub fn of(file: Box<dyn ReadAt>, len: u64) -> io::Result<Self> {
        let frames = len.div_ceil(PAGE as u64).min(FRAMES as u64) as usize;
        let mut pages = Vec::new();
        pages.try_reserve_exact(frames * PAGE).map_err(|_| io::Error::from(ErrorKind::OutOfMemory))?;
        pages.resize(frames * PAGE, 0);
        Ok(Self { file, len, cache: Mutex::new(Cache { pages, tags: vec![None; frames] }) })
    }

    /// Length in bytes when it was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Fills `out` with the bytes from `offset` on.
    ///
    /// # Errors
    /// [`ErrorKind::UnexpectedEof`] beyond the end; what the system says.
    pub fn read_at(&self, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(out.len() as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        // A panic elsewhere left no frame half filled that has a tag.
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        // Long readings go from end to end of something, and would only sweep the cache out.
        if out.len() > LONG {
            return self.file.read_at(offset, out);
        }
        while !out.is_empty() {
            let (page, within) = (offset / PAGE as u64, (offset % PAGE as u64) as usize);
            let bytes = &self.page(&mut cache, page)?[within..];
            let count = bytes.len().min(out.len());
            let (now, later) = std::mem::take(&mut out).split_at_mut(count);
            now.copy_from_slice(&bytes[..count]);
            (offset, out) = (offset + count as u64, later);
        }
        Ok(())
    }

    /// The bytes of page `page`, as many as the file has of it.
    fn page<'a>(&self, cache: &'a mut Cache, page: u64) -> io::Result<&'a [u8]> {
        // Fibonacci hashing (Knuth, vol. 3, 6.4): rows at a stride of many pages must not share one frame.
        let frame = ((page.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % cache.tags.len() as u64) as usize;
        let start = page * PAGE as u64;
        let length = (self.len - start).min(PAGE as u64) as usize;
        let bytes = &mut cache.pages[frame * PAGE..][..length];
        if cache.tags[frame] != Some(page) {
            cache.tags[frame] = None;
            self.file.read_at(start, bytes)?;
            cache.tags[frame] = Some(page);
        }
        Ok(bytes)
    }
}

impl ReadAt for File {
    #[cfg(unix)]
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, out, offset)
    }

    #[cfg(not(unix))]
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        use std::io::{Read, Seek, SeekFrom};
        let mut file = self;
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every range of a file of some pages, in an order that fills and empties frames, by two threads at once.
    #[test]
    fn any_range_is_what_the_file_has() {
        let path = std::env::temp_dir().join(format!("rissole-paged-{}", std::process::id()));
        let bytes: Vec<u8> = (0..100 * PAGE as u32 + 77).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let paged = PagedFile::open(&path).unwrap();
        assert_eq!(paged.len(), bytes.len() as u64);
        assert_eq!(paged.cache.lock().unwrap().pages.len(), FRAMES * PAGE, "no more than that is kept");
        let lengths =
            [0, 1, 4, 128, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE + 5, FRAMES * PAGE - 1, FRAMES * PAGE, bytes.len()];
        std::thread::scope(|scope| {
            for seed in [1u64, 2] {
                let (paged, bytes) = (&paged, &bytes);
                scope.spawn(move || {
                    let mut random = seed;
                    for i in 0..4000 {
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let length = lengths[i % lengths.len()];
                        let offset = (random >> 33) as usize % (bytes.len() - length + 1);
                        let mut out = vec![0; length];
                        paged.read_at(offset as u64, &mut out).unwrap();
                        assert!(out == bytes[offset..offset + length], "{offset} {length}");
                    }
                });
            }
        });
        for (offset, length) in
            [(bytes.len() as u64, 1), (bytes.len() as u64 + 1, 0), (u64::MAX, 2), (0, bytes.len() + 1)]
        {
            let refused = paged.read_at(offset, &mut vec![0; length]).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::UnexpectedEof);
        }

        // Cut short by someone else: an error, and what is left can still be read.
        File::options().write(true).open(&path).unwrap().set_len(PAGE as u64).unwrap();
        let mut out = [0; 64];
        assert!((0..100).any(|page| paged.read_at(page * PAGE as u64, &mut out).is_err()));
        paged.read_at(10, &mut out).unwrap();
        assert_eq!(out, bytes[10..74]);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn what_is_no_file_is_refused() {
        assert!(matches!(PagedFile::open(&std::env::temp_dir()), Err(Error::File { .. })));
        let path = std::env::temp_dir().join(format!("rissole-paged-empty-{}", std::process::id()));
        std::fs::write(&path, []).unwrap();
        let empty = PagedFile::open(&path).unwrap();
        empty.read_at(0, &mut []).unwrap();
        assert!(empty.read_at(0, &mut [0]).is_err());
        std::fs::remove_file(path).unwrap();
    }
}
