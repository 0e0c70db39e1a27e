//! Files appear whole or not at all.
//!
//! A token file or a picture that a crash, a full disk or a second process cut in half is worse than none: it looks
//! valid to whoever reads it next. So every writer of this crate writes beside the target, under a name nobody else
//! has, makes the bytes durable, and only then renames over the target, which the file system does in one step.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a file could not be written. The target is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The path ends in nothing that could name a file.
    #[error("{}: not a file name; give a path that ends in one, such as out.png", path.display())]
    NotAFile {
        /// The path as given.
        path: PathBuf,
    },
    /// The folder of the target is missing.
    #[error("{}: the folder {} does not exist; create it first", path.display(), folder.display())]
    NoFolder {
        /// The path as given.
        path: PathBuf,
        /// The missing folder.
        folder: PathBuf,
    },
    /// The disk, or the quota, is full.
    #[error("{}: no space left on the disk; nothing was changed, the part already written is removed", path.display())]
    DiskFull {
        /// The path as given.
        path: PathBuf,
    },
    /// The folder or file does not let us write.
    #[error("{}: no permission to write there ({source})", path.display())]
    NotWritable {
        /// The path as given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Anything else that the system reports.
    #[error("{}: could not be written: {source}", path.display())]
    Io {
        /// The path as given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl WriteError {
    fn from_io(path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::NotWritable { path, source }
            }
            _ => Self::Io { path, source },
        }
    }
}

/// Writes `bytes` to `path`, whole or not at all.
pub fn write(path: impl AsRef<Path>, bytes: &[u8]) -> Result<(), WriteError> {
    write_with(path, |out| out.write_all(bytes))
}

/// Lets `fill` write to `path`, whole or not at all: if `fill` or the disk fails, the target keeps its old content
/// and no temporary file stays behind.
///
/// A symbolic link is followed, the permissions of a file that is replaced are kept, and what is neither file nor
/// link (`/dev/stdout`, a named pipe) is written to directly, for renaming over it would destroy it.
pub fn write_with(
    path: impl AsRef<Path>,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), WriteError> {
    let path = path.as_ref();
    let fail = |source| WriteError::from_io(path, source);
    // The file behind a link is the one to replace; a path that does not exist yet is its own target.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let old = fs::metadata(&target).ok();
    if let Some(old) = &old {
        if old.is_dir() {
            return Err(WriteError::NotAFile { path: path.to_path_buf() });
        }
        if !old.is_file() {
            let mut out = BufWriter::new(OpenOptions::new().write(true).open(&target).map_err(fail)?);
            return fill(&mut out).and_then(|()| out.flush()).map_err(fail);
        }
    }
    let name = target.file_name().ok_or_else(|| WriteError::NotAFile { path: path.to_path_buf() })?;
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        return Err(WriteError::NoFolder { path: path.to_path_buf(), folder: folder.to_path_buf() });
    }

    let new_file = |path: &Path| OpenOptions::new().write(true).create_new(true).open(path);
    let (file, beside) = create_beside(folder, name, new_file).map_err(fail)?;
    let cleanup = RemoveOnDrop(Some(beside));
    let mut out = BufWriter::new(file);
    fill(&mut out).map_err(fail)?;
    let file = out.into_inner().map_err(|e| fail(e.into_error()))?;
    if let Some(old) = old {
        file.set_permissions(old.permissions()).map_err(fail)?;
    }
    file.sync_all().map_err(fail)?;
    drop(file);
    cleanup.rename(&target).map_err(fail)?;
    // The rename itself is durable once the folder is; systems that cannot open a folder have nothing to sync.
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// Makes something beside a target in `folder`, under a hidden name that no other thread or process uses: what `make`
/// gives, and the path. `make` must refuse a path that exists, as `create_new` and `create_dir` do.
///
/// # Errors
/// What `make` says.
pub fn create_beside<T>(
    folder: &Path,
    name: &OsStr,
    make: impl Fn(&Path) -> io::Result<T>,
) -> io::Result<(T, PathBuf)> {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    // A long target name must not push the temporary one over the file system's 255 bytes.
    let stem: String = name.to_string_lossy().chars().take(40).collect();
    loop {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let beside = folder.join(format!(".{stem}.{}-{serial}.tmp", std::process::id()));
        match make(&beside) {
            Ok(made) => return Ok((made, beside)),
            // Left by an earlier process of the same id: take the next number.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(e) => return Err(e),
        }
    }
}

struct RemoveOnDrop(Option<PathBuf>);

impl RemoveOnDrop {
    fn rename(mut self, target: &Path) -> io::Result<()> {
        if let Some(beside) = &self.0 {
            fs::rename(beside, target)?;
        }
        self.0 = None;
        Ok(())
    }
}

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        if let Some(beside) = self.0.take() {
            // The error that brought us here is the one worth telling.
            let _ = fs::remove_file(beside);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn writes_and_replaces_leaving_nothing_beside() {
        let dir = TempDir::new();
        let path = dir.path().join("a.bin");
        write(&path, b"first").unwrap();
        write(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(names(dir.path()), ["a.bin"]);
    }

    #[test]
    fn a_failing_writer_leaves_the_old_file_and_no_temporary() {
        let dir = TempDir::new();
        let path = dir.path().join("a.bin");
        write(&path, b"old").unwrap();
        let full = write_with(&path, |out| {
            out.write_all(b"half")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert!(matches!(full, Err(WriteError::DiskFull { .. })), "{full:?}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["a.bin"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_device_is_written_to_and_not_replaced() {
        write("/dev/null", b"gone").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
        let full = write("/dev/full", &[0; 1 << 16]);
        assert!(matches!(full, Err(WriteError::DiskFull { .. })), "{full:?}");
    }

    #[test]
    fn a_missing_folder_and_a_folder_as_target_are_named() {
        let dir = TempDir::new();
        let missing = write(dir.path().join("no/such/a.bin"), b"x").unwrap_err();
        assert!(missing.to_string().contains("does not exist; create it first"), "{missing}");
        let folder = write(dir.path(), b"x").unwrap_err();
        assert!(matches!(folder, WriteError::NotAFile { .. }), "{folder}");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_keeps_pointing_and_permissions_stay() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let dir = TempDir::new();
        let (file, link) = (dir.path().join("a.bin"), dir.path().join("link"));
        write(&file, b"old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        symlink(&file, &link).unwrap();
        write(&link, b"new").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }
}
