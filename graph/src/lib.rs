//! Static graphs of networks and their compiler: shapes, ops, passes, and the plan, which is plain data.
#![forbid(unsafe_code)]

mod builder;
mod display;
mod graph;
mod kernel;
pub mod models;
mod op;
mod passes;
mod plan;
mod shape;

pub use builder::{Builder, CachedHeads, Tensor};
pub use graph::{Graph, GraphError, Node, Program, Value, ValueId};
pub use kernel::{Access, Kernel};
pub use op::{Activation, Binary, Mask, NormKind, Op, RopeStyle, erf};
pub use passes::{CompileError, compile};
pub use plan::{Axis, Buffer, Entry, Operand, Place, Plan, Port, StateRef, Step, Target, WeightRef};
pub use shape::{DType, Dim, Extent, ExtentId, Shape, Slot, Stage};
