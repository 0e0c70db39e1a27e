//! Packed rows into caches: each row of new keys or values goes to the place that its sequence and position name.

use crate::isa::Features;
use crate::kernel::{Kernel, part, rows_per_task};

/// `cache[sequence[m], position[m]] = value[m]`.
#[derive(Clone, Copy, Debug)]
pub struct CacheAppend {
    /// `[rows, width]`, rows contiguous.
    pub value: *const f32,
    /// Elements from one row of `value` to the next.
    pub value_stride: usize,
    /// `[rows]`; the caller has checked that each is a cache.
    pub sequence: *const i32,
    /// `[rows]`; the caller has checked that each is a row of a cache. No two rows name one place.
    pub position: *const i32,
    /// `[caches, length, width]`
    pub cache: *mut f32,
    /// Elements from one cache to the next.
    pub cache_stride: usize,
    /// Elements from one row of a cache to the next.
    pub row_stride: usize,
    /// Number of rows.
    pub rows: usize,
    /// Elements of a row.
    pub width: usize,
}

impl Kernel for CacheAppend {
    fn tasks(&self) -> usize {
        self.rows.div_ceil(rows_per_task(self.width))
    }

    unsafe fn run(&self, _features: Features, task: usize, _scratch: &mut [u8]) {
        for m in part(task, rows_per_task(self.width), self.rows) {
            // SAFETY: by contract; values and caches are different memory.
            unsafe {
                let (sequence, position) = (*self.sequence.add(m) as usize, *self.position.add(m) as usize);
                let to = self.cache.add(sequence * self.cache_stride + position * self.row_stride);
                std::ptr::copy_nonoverlapping(self.value.add(m * self.value_stride), to, self.width);
            }
        }
    }
}
