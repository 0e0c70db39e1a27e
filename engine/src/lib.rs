//! A low-latency runtime for Selftok: pictures to tokens and back, and the networks it is made of.

pub mod atomic;
mod bounded;
pub mod device;
pub mod error;
pub mod executable;
pub mod generate;
pub mod inputs;
pub mod metrics;
pub mod model;
pub mod networks;
pub mod picture;
pub mod pipeline;
pub mod random;
pub mod schedule;
pub mod session;
pub mod sheet;
pub mod solvers;
#[cfg(test)]
mod testing;
pub mod tokens;
mod weights;

pub use device::{Activations, ComputeType, CpuOptions, Device};
pub use error::Error;
pub use executable::{EntryId, Executable, InputId, OutputId, SlotId, SlotTable};
pub use picture::{Picture, PictureError};
pub use pipeline::{Control, Encoded, Part, Selftok};
pub use session::{Input, Output, Progress, RunOptions, Session};
pub use tokens::Tokens;
