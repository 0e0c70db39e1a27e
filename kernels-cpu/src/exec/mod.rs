//! Executing a plan on the CPU.
//!
//! * At **bind** ([`Executable::bind`]) each step is lowered to a hand-written kernel with its strides settled and its weight
//!   in final form, and the constants are computed. Whatever cannot be done in this layout is an error here, never a wrong
//!   number later.
//! * A **run** ([`Session::run`]) checks the slots, wakes the team once, and every worker walks the same list: it derives the
//!   arguments of a step from slots and regions on its own stack, claims tasks, and meets the others at a barrier.

mod check;
mod context;
mod device;
mod error;
mod executable;
mod kernels;
mod layout;
mod lower;
mod packings;
mod run;
mod session;
mod source;
mod store;
mod timing;
mod walk;

pub use device::{Activations, ComputeType, CpuDevice, CpuOptions};
pub use error::{BindError, RunError, SourceError};
pub use executable::{Executable, Footprint};
pub use packings::Packings;
pub use run::{Progress, RunOptions};
pub use session::{Input, Output, Session};
pub use source::{Mapped, WeightSource};
pub use timing::{Timing, TimingRow};
