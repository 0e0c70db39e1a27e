//! Weights and configurations, memory-mapped: safetensors (single, sharded), PyTorch `.pth`, GGUF.
//!
//! Whoever packs weights wants one thing: *the rows a..b of the tensor X as f32*. Whatever the file format, the dtype
//! or the naming scheme, that is what [`TensorSource`] gives, without ever holding more than was asked for. Around
//! it:
//!
//! * [`Weights`]: files mapped and their headers checked; no lie of a header is believed.
//! * [`check`]: all differences from what a model needs, in one message.
//! * [`Dialect`]: tables that rename and rearrange while reading.
//! * [`selftok`] and [`Vae`]: the folders of a model, its configuration, and whether the parts belong together.
//!
//! ```no_run
//! use selftok_loader::{TensorSource, Weights};
//!
//! let weights = Weights::open("renderer_512_ckpt.pth")?; // or .safetensors, .gguf, an index of shards, a folder
//! let mut rows = vec![0.0; 64 * 1536];
//! weights.read_rows("model.final_layer.linear.weight", 0..64, &mut rows)?; // f32, whatever is stored
//! weights.release("model.final_layer.linear.weight"); // packed: its pages may go
//! # Ok::<(), selftok_loader::Error>(())
//! ```

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
pub mod selftok;
mod source;
mod vae;
mod weights;
mod write;
mod zip;

pub use check::{DTypeClass, Expected, Report, check, compare};
pub use dtype::DType;
pub use error::{Error, Result};
pub use gguf::{MetaArray, MetaValue, Metadata};
pub use names::{Dialect, Transform, View};
pub use pattern::{Captures, Pattern};
pub use source::{Generated, TensorInfo, TensorSource};
pub use vae::{Vae, VaeConfig};
pub use weights::{Tensor, Weights};
pub use write::write_safetensors_atomic;
