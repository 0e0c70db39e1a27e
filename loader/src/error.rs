//! One error type for the crate: every message names the file and the tensor or argument, says what is wrong and,
//! where there is one, what would be right.

use std::path::{Path, PathBuf};

use crate::check::Report;
use crate::dtype::DType;

/// Result of the crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong while opening, checking or reading weights and configurations.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file contradicts its own format: truncated, lying header, corrupt.
    #[error("{}: not a valid {format} file: {what}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Which format it was read as.
        format: &'static str,
        /// Which rule of the format is broken, and where.
        what: String,
    },
    /// The file may be valid, but this loader does not read it.
    #[error("{}: {what}", path.display())]
    Unsupported {
        /// File or folder.
        path: PathBuf,
        /// What it is, and what to use instead.
        what: String,
    },
    /// One tensor of the file is broken or of a kind that is not read.
    #[error("{}: tensor `{tensor}`: {what}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// Name of the tensor in the file.
        tensor: String,
        /// What is wrong with it.
        what: String,
    },
    /// A tensor that is asked for is not there.
    #[error("{}: no tensor `{tensor}`", path.display())]
    NoTensor {
        /// The file or collection.
        path: PathBuf,
        /// The name asked for.
        tensor: String,
    },
    /// A read outside a tensor.
    #[error("tensor `{tensor}`: elements {start}..{end} were asked for, it has {len}")]
    OutOfRange {
        /// The tensor.
        tensor: String,
        /// First element asked for.
        start: usize,
        /// One past the last element asked for.
        end: usize,
        /// Number of elements there are.
        len: usize,
    },
    /// A read of raw bytes that the source cannot give (generated, transposed or converted on the fly).
    #[error("tensor `{tensor}` ({dtype}): its stored bytes cannot be read row by row: {what}")]
    NoBytes {
        /// The tensor.
        tensor: String,
        /// Its dtype.
        dtype: DType,
        /// Why.
        what: String,
    },
    /// The tensors are not those that the model needs.
    #[error("{}: {report}", path.display())]
    Mismatch {
        /// The file or collection.
        path: PathBuf,
        /// All differences.
        report: Box<Report>,
    },
    /// A configuration file that does not parse or says something impossible.
    #[error("{}: {what}", path.display())]
    Config {
        /// The configuration file.
        path: PathBuf,
        /// What is wrong, with the values.
        what: String,
    },
    /// The files are fine, but they do not belong together or do not serve the job.
    #[error("{what}")]
    Pairing {
        /// What does not fit, and what to use instead.
        what: String,
    },
    /// No model was named and none of the usual places has one.
    #[error("{what}")]
    NoModel {
        /// The places that were looked at.
        what: String,
    },
    /// A name table that cannot be applied.
    #[error("name table: {what}")]
    Dialect {
        /// Which rule, and why.
        what: String,
    },
}

impl Error {
    /// [`Error::Io`] at a path.
    pub fn io(path: &Path, source: std::io::Error) -> Self {
        Error::Io { path: path.to_owned(), source }
    }

    pub(crate) fn corrupt(path: &Path, format: &'static str, what: impl Into<String>) -> Self {
        Error::Corrupt { path: path.to_owned(), format, what: what.into() }
    }

    /// [`Error::Unsupported`] at a path.
    pub fn unsupported(path: &Path, what: impl Into<String>) -> Self {
        Error::Unsupported { path: path.to_owned(), what: what.into() }
    }

    /// [`Error::Tensor`] of a file; the name is made safe to print.
    pub fn tensor(path: &Path, tensor: &str, what: impl Into<String>) -> Self {
        Error::Tensor { path: path.to_owned(), tensor: shorten(tensor), what: what.into() }
    }

    /// [`Error::Config`] at a path.
    pub fn config(path: &Path, what: impl Into<String>) -> Self {
        Error::Config { path: path.to_owned(), what: what.into() }
    }

    /// [`Error::Pairing`].
    pub fn pairing(what: impl Into<String>) -> Self {
        Error::Pairing { what: what.into() }
    }
}

/// A name out of an untrusted file, made safe to print: control characters escaped, at most 120 characters.
pub(crate) fn shorten(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars().take(120) {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    if name.chars().nth(120).is_some() {
        out.push('…');
    }
    out
}
