//! How the rows of a product's operands lie in memory, and what happens to a finished sum.
//!
//! A batch of part-filled sequences is `[B, max_rows, C]` with fewer valid rows: the product runs over the valid rows
//! alone and finds each through a [`RowMap`]. Slices of wider rows need no more than a stride.

use crate::row_map::RowMap;
use selftok_graph::Activation;

/// An operand of the epilogue: rows of contiguous columns.
#[derive(Clone, Copy, Debug)]
pub struct Rows<P> {
    /// Its first element.
    pub ptr: P,
    /// Where its rows begin.
    pub map: RowMap,
}

/// `C = residual + gate * act(product + bias)`: what happens to a finished sum.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue {
    /// `[n]`
    pub bias: Option<*const f32>,
    /// The pointwise function.
    pub act: Activation,
    /// `[rows, n]`
    pub gate: Option<Rows<*const f32>>,
    /// `[rows, n]`; may be C itself.
    pub residual: Option<Rows<*const f32>>,
    /// `[rows, n]`
    pub c: Rows<*mut f32>,
}
