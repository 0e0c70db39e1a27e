//! Generating with causal transformers: a model opened from a folder of Hugging Face's or a GGUF file, token by token
//! over caches, for one sequence or a batch of different lengths.
//!
//! ```no_run
//! use selftok::Device;
//! use selftok::generate::{CausalModel, Options, Prompt, Sessions};
//! # fn main() -> Result<(), selftok::Error> {
//! let model = CausalModel::open("SmolLM2-135M-Instruct.Q4_1.gguf", &Device::auto()?)?;
//! let text = model.text()?;
//! let ids = text.encode("The capital of France is")?;
//! let mut session = model.session(Sessions { sequences: 1, context: 256, ..Sessions::default() })?;
//! let done = session.complete(&[Prompt::new(&ids)], Options { max_new: 16, ..Options::default() })?;
//! println!("{}", text.decode(&done[0].ids)?);
//! # Ok(())
//! # }
//! ```

mod complete;
mod date;
mod error;
mod gguf;
mod model;
mod padded;
mod rows;
mod sampler;
mod template;
mod text;
mod vocabulary;

pub use complete::{Completion, Event, Finish, Guidance, Options, Prompt, Session, Sessions};
pub use error::GenerateError;
pub use model::CausalModel;
pub use padded::Padded;
pub use sampler::{Sampler, Sampling};
pub use template::{ChatTemplate, Message};
pub use text::{Text, TextStream};
