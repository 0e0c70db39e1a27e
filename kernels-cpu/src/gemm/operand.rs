//! How the rows of a product's operands lie in memory, and what happens to a finished sum.
//!
//! A batch of part-filled sequences is `[B, max_rows, C]` with fewer valid rows: the product runs over the valid rows
//! alone and finds each through a [`RowMap`]. Slices of wider rows need no more than a stride.

use selftok_graph::Activation;

/// Where each row of an operand begins, as row `m` of the product: `(m / inner) * outer_stride + (m % inner) *
/// inner_stride` elements from its start. A stride of 0 broadcasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowMap {
    /// Rows in a group; at least 1.
    pub inner: usize,
    /// Elements from one group to the next.
    pub outer_stride: usize,
    /// Elements from one row to the next within a group.
    pub inner_stride: usize,
}

impl RowMap {
    /// Rows at one constant stride.
    pub fn dense(stride: usize) -> RowMap {
        RowMap { inner: usize::MAX, outer_stride: 0, inner_stride: stride }
    }

    /// One row for all.
    pub fn broadcast() -> RowMap {
        RowMap::dense(0)
    }

    /// Elements from the operand's start to row `m`.
    #[inline(always)]
    pub fn offset(&self, m: usize) -> usize {
        (m / self.inner) * self.outer_stride + (m % self.inner) * self.inner_stride
    }

    /// The offsets of rows `m`, `m + 1`, …: one division, then additions.
    #[inline(always)]
    pub fn offsets_from(&self, m: usize) -> impl Iterator<Item = usize> + use<> {
        let map = *self;
        let (mut group, mut row) = (m / map.inner * map.outer_stride, m % map.inner);
        std::iter::repeat_with(move || {
            let at = group + row * map.inner_stride;
            row += 1;
            if row == map.inner {
                row = 0;
                group += map.outer_stride;
            }
            at
        })
    }
}

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
