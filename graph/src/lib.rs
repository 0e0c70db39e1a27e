//! Static graphs of networks and their compiler: shapes, ops, passes, and the plan, which is plain data.
#![forbid(unsafe_code)]

mod builder;
mod graph;
mod op;
mod shape;

pub use builder::{Builder, Tensor};
pub use graph::{Graph, GraphError, Node, Program, Value, ValueId};
pub use op::{Activation, Binary, Mask, NormKind, Op, RopeStyle, erf};
pub use shape::{DType, Dim, Extent, ExtentId, Shape, Slot, Stage};
