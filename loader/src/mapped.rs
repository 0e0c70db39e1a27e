//! A file in memory: mapped, or owned bytes where there is no file. The only `unsafe` of the crate.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::error::{Error, Result};

enum Storage {
    Map(Mmap),
    Owned(Vec<u8>),
}

/// The bytes of one file and its path.
pub(crate) struct MappedFile {
    path: PathBuf,
    storage: Storage,
}

impl MappedFile {
    /// Maps a file read-only. Anything that is not a regular, non-empty file is refused.
    pub fn open(path: &Path) -> Result<Self> {
        // Asked before opening: opening a named pipe would wait for a writer.
        let meta = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
        if !meta.is_file() {
            return Err(Error::unsupported(path, "not a regular file"));
        }
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        if meta.len() == 0 {
            return Err(Error::unsupported(path, "the file is empty (an interrupted download?)"));
        }
        // SAFETY: the map is private to this value, read-only, and only ever seen as `&[u8]` through plain loads. The
        // invariant that no one truncates or rewrites the file meanwhile is the operator's, as for every program that
        // maps its weights; our own writer replaces files by rename and so never changes a mapped one.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
        Ok(MappedFile { path: path.to_owned(), storage: Storage::Map(map) })
    }

    /// Bytes that lie in memory already; `label` stands for the path in messages.
    pub fn owned(label: &Path, bytes: Vec<u8>) -> Self {
        MappedFile { path: label.to_owned(), storage: Storage::Owned(bytes) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn bytes(&self) -> &[u8] {
        match &self.storage {
            Storage::Map(map) => map,
            Storage::Owned(bytes) => bytes,
        }
    }

    /// Lets go of the pages of a range; they come back from the file when touched again. Advice: failure is harmless.
    pub fn dontneed(&self, range: &Range<usize>) {
        #[cfg(unix)]
        if let Storage::Map(map) = &self.storage
            && range.start < range.end
            && range.end <= map.len()
        {
            // SAFETY: MADV_DONTNEED on a read-only mapping of a file never loses data: the next load faults the same
            // bytes in again, so every `&[u8]` into the map stays valid. The range was checked to lie inside the map.
            let _ = unsafe {
                map.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    range.start,
                    range.end - range.start,
                )
            };
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}
