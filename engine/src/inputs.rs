//! What a user names, as a list of pictures: files, folders and patterns.
//!
//! A shell may have expanded a pattern or not, and a script may hand over a folder; all three end here. The order is
//! part of a result (noise of a batch is drawn in list order), so it is fixed: arguments as given, within a folder or
//! a pattern by name, and a file that is named twice comes once, at its first place.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::picture::EXTENSIONS;

/// Why the arguments name no list of pictures.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// Nothing was named.
    #[error("no picture was named; give files, folders or patterns such as 'photos/*.png'")]
    Nothing,
    /// There is no such file or folder.
    #[error("{}: no such file or folder", path.display())]
    NotFound {
        /// The argument.
        path: PathBuf,
    },
    /// The folder holds no picture.
    #[error("{}: no picture in this folder; accepted are files that end in {}", path.display(), EXTENSIONS.join(", "))]
    EmptyFolder {
        /// The folder.
        path: PathBuf,
    },
    /// The pattern fits no picture.
    #[error("{pattern}: fits no picture; accepted are files that end in {}", EXTENSIONS.join(", "))]
    NoMatch {
        /// The pattern.
        pattern: String,
    },
    /// The pattern is not one.
    #[error("{pattern}: not a valid pattern: {reason} (use *, ?, ** and [...])")]
    BadPattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A folder could not be listed.
    #[error("{}: cannot list: {source}", path.display())]
    Read {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The pictures that `arguments` name.
///
/// A file is taken as it is, whatever its extension. A folder gives the pictures directly in it, hidden ones aside, and a
/// pattern the pictures that fit it; there the extension decides what is a picture.
pub fn expand<P: AsRef<Path>>(arguments: impl IntoIterator<Item = P>) -> Result<Vec<PathBuf>, InputError> {
    let mut seen = HashSet::new();
    let mut list = Vec::new();
    let mut named = false;
    for argument in arguments {
        named = true;
        let found = expand_one(argument.as_ref())?;
        list.extend(found.into_iter().filter(|path| seen.insert(path.clone())));
    }
    if named { Ok(list) } else { Err(InputError::Nothing) }
}

fn expand_one(argument: &Path) -> Result<Vec<PathBuf>, InputError> {
    // A file whose name happens to hold a bracket is a file first.
    match fs::metadata(argument) {
        Ok(metadata) if metadata.is_dir() => return folder(argument),
        Ok(_) => return Ok(vec![argument.to_path_buf()]),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            return Err(InputError::Read { path: argument.into(), source: e });
        }
        Err(_) => {}
    }
    match argument.to_str() {
        Some(pattern) if pattern.contains(['*', '?', '[']) => matches(pattern),
        _ => Err(InputError::NotFound { path: argument.into() }),
    }
}

fn folder(path: &Path) -> Result<Vec<PathBuf>, InputError> {
    let fail = |source| InputError::Read { path: path.into(), source };
    let mut list = Vec::new();
    for entry in fs::read_dir(path).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if !hidden && is_picture(&entry.path()) {
            list.push(entry.path());
        }
    }
    if list.is_empty() {
        return Err(InputError::EmptyFolder { path: path.into() });
    }
    list.sort();
    Ok(list)
}

fn matches(pattern: &str) -> Result<Vec<PathBuf>, InputError> {
    let options = glob::MatchOptions { require_literal_leading_dot: true, ..glob::MatchOptions::new() };
    let paths = glob::glob_with(pattern, options)
        .map_err(|e| InputError::BadPattern { pattern: pattern.into(), reason: e.msg.into() })?;
    let mut list = Vec::new();
    for path in paths {
        let path = path.map_err(|e| InputError::Read { path: e.path().into(), source: e.into() })?;
        if is_picture(&path) {
            list.push(path);
        }
    }
    if list.is_empty() {
        return Err(InputError::NoMatch { pattern: pattern.into() });
    }
    list.sort();
    Ok(list)
}

fn is_picture(path: &Path) -> bool {
    let known = |extension: &std::ffi::OsStr| {
        extension.to_str().is_some_and(|e| EXTENSIONS.contains(&e.to_ascii_lowercase().as_str()))
    };
    path.extension().is_some_and(known) && path.is_file()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn pictures() -> TempDir {
        let dir = TempDir::new();
        fs::create_dir(dir.path().join("inner.png")).unwrap();
        for name in ["b.png", "a.JPG", "c.txt", ".hidden.png", "x[1].webp", "inner.png/deep.png"] {
            fs::write(dir.path().join(name), b"").unwrap();
        }
        dir
    }

    fn names(dir: &TempDir, list: &[PathBuf]) -> Vec<String> {
        list.iter().map(|p| p.strip_prefix(dir.path()).unwrap().display().to_string()).collect()
    }

    #[test]
    fn a_folder_gives_its_visible_pictures_by_name() {
        let dir = pictures();
        assert_eq!(names(&dir, &expand([dir.path()]).unwrap()), ["a.JPG", "b.png", "x[1].webp"]);
    }

    #[test]
    fn a_pattern_gives_the_pictures_that_fit() {
        let dir = pictures();
        let fit = |pattern: &str| expand([dir.path().join(pattern)]).map(|list| names(&dir, &list));
        assert_eq!(fit("*").unwrap(), ["a.JPG", "b.png", "x[1].webp"]);
        assert_eq!(fit("[ab].*").unwrap(), ["a.JPG", "b.png"]);
        assert_eq!(fit("**/*.png").unwrap(), ["b.png", "inner.png/deep.png"]);
        assert!(matches!(fit("*.gif"), Err(InputError::NoMatch { .. })));
        assert!(matches!(fit("***"), Err(InputError::BadPattern { .. })));
    }

    #[test]
    fn a_file_is_taken_as_it_is_and_once() {
        let dir = pictures();
        let arguments = ["x[1].webp", "c.txt", "*.webp", "b.png", "c.txt"].map(|name| dir.path().join(name));
        assert_eq!(names(&dir, &expand(arguments).unwrap()), ["x[1].webp", "c.txt", "b.png"]);
    }

    #[test]
    fn what_is_not_there_is_named() {
        let dir = TempDir::new();
        let error = expand([dir.path()]).unwrap_err().to_string();
        assert!(error.contains("no picture in this folder") && error.contains("png"), "{error}");
        let error = expand([dir.path().join("none.png")]).unwrap_err();
        assert!(matches!(error, InputError::NotFound { .. }), "{error}");
        assert!(matches!(expand::<&Path>([]), Err(InputError::Nothing)));
    }
}
