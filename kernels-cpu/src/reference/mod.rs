//! The judge: evaluates a graph op by op in f64, as plainly as the formulas allow.
//!
//! Every kernel and every compiler pass is compared with this, so it takes no short cuts: views copy, nothing is
//! fused, and rows outside a live extent are NaN, so that a kernel that reads one shows it. Stages are
//! kept: values of stage bind are computed once, in [`Interpreter::new`], those of stage request once a run, in
//! [`Interpreter::repeat`].

mod array;
mod attention;
mod dense;
mod interpreter;
mod lookup;
mod pointwise;
mod views;

pub use array::Array;
pub use attention::{Segment, attention, cache_append, cached_attention, rope};
pub use dense::{conv2d, linear, upsample2x};
pub use interpreter::{Evaluation, Interpreter, run};
pub use lookup::{codebook, embed, timestep_embed};
pub use pointwise::{binary, broadcast, combine, group_norm, modulate, norm, unary};
pub use views::{concat, permute, pick, restrict, slice};

use std::collections::BTreeMap;

/// Gives a weight by name, row-major in the graph's shape.
pub type Weights<'a> = dyn Fn(&str) -> Option<Vec<f32>> + 'a;

/// Values by name: inputs, outputs, states.
pub type Named = BTreeMap<String, Array>;

/// Slot values by name.
pub type Slots = BTreeMap<String, u32>;

/// Why a graph cannot be evaluated.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ReferenceError {
    /// Something that the graph names was not given.
    #[error("{graph}: no {what} '{name}' was given")]
    Missing {
        /// Graph.
        graph: String,
        /// Kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// It was given in another shape.
    #[error("{graph}: {what} '{name}' has {found}, the graph wants {expected:?}")]
    Shape {
        /// Graph.
        graph: String,
        /// Kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
        /// What was given.
        found: String,
        /// What the graph declares.
        expected: Vec<usize>,
    },
    /// A row that a slot or an id names is not there.
    #[error("{graph}, {scope}: {op} reads past its {rows} rows")]
    Range {
        /// Graph.
        graph: String,
        /// Place in the model.
        scope: String,
        /// Op.
        op: &'static str,
        /// Rows that are there.
        rows: usize,
    },
}
