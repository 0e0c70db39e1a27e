//! Pictures as input: many may be named, few are held, and each only at the size that the model sees.

use anyhow::Result;
use selftok::picture::resize::preprocess;
use selftok::{Picture, PictureError};
use std::path::PathBuf;

/// Opens pictures and brings them to the model's size at once, so that large photographs are let go one by one.
///
/// Errors: a file is no picture; the message has its path.
pub fn open(paths: &[PathBuf], size: u32) -> Result<Vec<Picture>, PictureError> {
    paths.iter().map(|path| preprocess(&Picture::open(path)?, size)).collect()
}
