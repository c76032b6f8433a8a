//! Writing a container.

use std::io::{self, Write};
use std::path::Path;

use super::{CRC, Entry, Header, MAGIC, MAJOR, MAX_SECTIONS, MINOR, PAGE, SectionId, ZEROS, header_length};
use crate::atomic_file::write_atomically;
use crate::error::{Error, Result};

/// Writes the bytes of one section. It is asked twice, for the checksum and for the file, and must write the same:
/// so a file of any size is written in little RAM.
pub type Source<'a> = Box<dyn Fn(&mut dyn Write) -> io::Result<()> + 'a>;

/// The source of bytes that are in RAM.
pub fn source<'a>(bytes: impl AsRef<[u8]> + 'a) -> Source<'a> {
    Box::new(move |out| out.write_all(bytes.as_ref()))
}

/// Writes a container of `kind` with `sections` to `path`, atomically (see [`write_atomically`]).
///
/// # Errors
/// [`Error::Io`] where a source or the system refuses; [`Error::Internal`] for two sections of one name, too many,
/// or a source that does not write the same twice.
pub fn write(path: impl AsRef<Path>, kind: [u8; 4], mut sections: Vec<(SectionId, Source<'_>)>) -> Result<()> {
    let path = path.as_ref();
    sections.sort_by_key(|(id, _)| *id);
    if sections.windows(2).any(|pair| pair[0].0 == pair[1].0) || sections.len() > MAX_SECTIONS as usize {
        return Err(Error::Internal("a container's sections must be distinct and not too many".into()));
    }
    let mut end = header_length(sections.len() as u32);
    let mut entries = Vec::with_capacity(sections.len());
    for (id, source) in &sections {
        let mut tally = Tally::new(io::sink());
        source(&mut tally).map_err(|e| Error::io(path, e))?;
        let (length, crc) = tally.finish();
        let offset = end.next_multiple_of(PAGE);
        entries.push(Entry { kind: id.0, index: id.1, offset, length, crc, reserved: 0 });
        end = offset + length;
    }
    let head = head(kind, &entries, end);
    let mut changed = false;
    write_atomically(path, |out| {
        out.write_all(&head)?;
        let mut written = head.len() as u64;
        for (entry, (_, source)) in entries.iter().zip(&sections) {
            out.write_all(&ZEROS[..(entry.offset - written) as usize])?;
            let mut tally = Tally::new(&mut *out);
            source(&mut tally)?;
            if tally.finish() != (entry.length, entry.crc) {
                changed = true;
                return Err(io::Error::other("a section changed while it was written"));
            }
            written = entry.offset + entry.length;
        }
        Ok(())
    })
    .map_err(|e| if changed { Error::Internal(e.to_string()) } else { e })
}

/// Passes on what is written, and knows its length and checksum.
struct Tally<W> {
    out: W,
    length: u64,
    crc: crc32fast::Hasher,
}

impl<W> Tally<W> {
    fn new(out: W) -> Self {
        Self { out, length: 0, crc: crc32fast::Hasher::new() }
    }

    fn finish(self) -> (u64, u32) {
        (self.length, self.crc.finalize())
    }
}

impl<W: Write> Write for Tally<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.length += written as u64;
        self.crc.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Header and section table of a file that is `total_length` bytes long.
fn head(kind: [u8; 4], entries: &[Entry], total_length: u64) -> Vec<u8> {
    let (major, minor, sections) = (MAJOR, MINOR, entries.len() as u32);
    let header = Header { magic: MAGIC, major, minor, kind, total_length, sections, crc: 0, reserved: [0; 32] };
    let mut head = bytemuck::bytes_of(&header).to_vec();
    head.extend_from_slice(bytemuck::cast_slice(entries));
    head.resize(header_length(sections) as usize, 0);
    let crc = crc32fast::hash(&head);
    head[CRC].copy_from_slice(&crc.to_le_bytes());
    head
}
