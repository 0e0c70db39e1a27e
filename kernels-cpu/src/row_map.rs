//! Where row `m` of a batch of part-filled sequences lies.

/// Address of row `m`: `(m / inner) * outer_stride + (m % inner) * inner_stride`, in elements.
///
/// A batch of sequences is `[B, max_rows, C]` of which only the first `inner` rows of each are filled; a stride of 0
/// repeats one row (a scale for a whole picture, a table shared by the batch).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowMap {
    /// Rows in a sequence, at least 1.
    pub inner: usize,
    /// Elements from one sequence to the next.
    pub outer_stride: usize,
    /// Elements from one row to the next.
    pub inner_stride: usize,
}

impl RowMap {
    /// Rows that follow one another `stride` elements apart.
    pub fn rows(stride: usize) -> RowMap {
        RowMap { inner: usize::MAX, outer_stride: 0, inner_stride: stride }
    }

    /// One row for all.
    pub fn broadcast() -> RowMap {
        RowMap::rows(0)
    }

    /// Elements from the first row to row `m`.
    #[inline(always)]
    pub fn offset(&self, m: usize) -> usize {
        if m < self.inner {
            m * self.inner_stride
        } else {
            (m / self.inner) * self.outer_stride + (m % self.inner) * self.inner_stride
        }
    }
}
