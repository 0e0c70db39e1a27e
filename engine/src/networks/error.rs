//! What can be wrong with a network's folder or its named tensors.

use crate::atomic::WriteError;
use std::path::PathBuf;

/// An error of opening or running a network as a black box.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// The configuration names a network that is not built here.
    #[error("{}: {field} is {value:?}, which is not supported; supported are {known}", path.display())]
    Unknown {
        /// The configuration.
        path: PathBuf,
        /// The field that names the network.
        field: &'static str,
        /// What it says.
        value: String,
        /// What would do.
        known: String,
    },
    /// The configuration does not say what it is of.
    #[error("{}: neither `model_type` nor `_class_name` says what network this is; supported are {known}", path.display())]
    Unnamed {
        /// The configuration.
        path: PathBuf,
        /// What would do.
        known: String,
    },
    /// An input that the network needs was not given.
    #[error("input '{name}' is missing: given are {given}; expected {expected}")]
    Missing {
        /// The input.
        name: String,
        /// What was given, with shapes.
        given: String,
        /// The signature.
        expected: String,
    },
    /// An input that the network does not have.
    #[error("input '{name}' is not one of this network; expected {expected}")]
    Unexpected {
        /// The input.
        name: String,
        /// The signature.
        expected: String,
    },
    /// An input of another shape.
    #[error("input '{name}' has the shape {found:?}; expected {expected}")]
    Shape {
        /// The input.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// What would be right.
        expected: String,
    },
    /// An input whose numbers are of the wrong kind or out of range.
    #[error("input '{name}': {what}; expected {expected}")]
    Value {
        /// The input.
        name: String,
        /// What is wrong.
        what: String,
        /// What would be right.
        expected: String,
    },
    /// Values that do not fill a shape.
    #[error("tensor '{name}': {len} numbers do not fill the shape {shape:?}")]
    Fill {
        /// The tensor.
        name: String,
        /// The shape.
        shape: Vec<usize>,
        /// How many numbers there are.
        len: usize,
    },
    /// The results do not go into a safetensors file.
    #[error("{}: {source}", path.display())]
    Serialize {
        /// The file.
        path: PathBuf,
        /// Why; in a box, for it is far larger than every other reason.
        #[source]
        source: Box<safetensors::SafeTensorError>,
    },
    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}
