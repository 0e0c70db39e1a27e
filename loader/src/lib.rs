//! Weights and configurations, memory-mapped: safetensors (single, sharded), PyTorch `.pth`, GGUF.
//!
//! Whoever packs weights wants one thing: *the rows a..b of the tensor X as f32*. Whatever the file format, the dtype or the
//! naming scheme, that is what [`TensorSource`] gives, without ever holding more than was asked for. Around it:
//!
//! * [`Weights`]: files mapped and their headers checked; no lie of a header is believed.
//! * [`check`]: all differences from what a model needs, in one message.
//! * [`Dialect`]: tables that rename and rearrange while reading.

mod check;
mod convert;
pub mod dialects;
mod dtype;
mod error;
mod gguf;
mod mapped;
mod names;
mod open;
mod pattern;
mod pickle;
mod pth;
mod safetensors;
mod source;
mod weights;
mod write;
mod zip;

pub use check::{DTypeClass, Expected, Report, check, compare};
pub use dtype::DType;
pub use error::{Error, Result};
pub use gguf::{MetaArray, MetaValue, Metadata};
pub use names::{Dialect, Transform, View};
pub use open::{from_json, read_json};
pub use pattern::{Captures, Pattern};
pub use source::{Generated, TensorInfo, TensorSource};
pub use weights::{Tensor, Weights};
pub use write::write_safetensors_atomic;
