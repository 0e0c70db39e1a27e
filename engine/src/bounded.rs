//! Reading a file whole, but never more than a stated number of bytes.
//!
//! The length a file system reports is no bound (a pipe and `/dev/zero` report none), so the bound is put on the read.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The bytes of `path`, or `None` when there are more than `max`.
pub(crate) fn read(path: &Path, max: u64) -> io::Result<Option<Vec<u8>>> {
    let file = File::open(path)?;
    if file.metadata()?.len() > max {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= max).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_at_the_bound() {
        let dir = crate::testing::TempDir::new();
        let path = dir.path().join("four");
        std::fs::write(&path, b"four").unwrap();
        assert_eq!(read(&path, 4).unwrap().unwrap(), b"four");
        assert!(read(&path, 3).unwrap().is_none());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_endless_file_is_refused_without_reading_it_all() {
        assert!(read(Path::new("/dev/zero"), 1 << 16).unwrap().is_none());
    }
}
