//! Static graphs of networks and their compiler: shapes, ops, passes, and the plan, which is plain data.
#![forbid(unsafe_code)]

mod op;
mod shape;

pub use op::{Activation, Binary, Mask, NormKind, Op, RopeStyle, erf};
pub use shape::{DType, Dim, Extent, ExtentId, Shape, Slot, Stage};
