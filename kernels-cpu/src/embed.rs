//! Rows out of tables: token embeddings by id, and the sinusoidal embedding of time.

use crate::RowMap;
use crate::isa::Features;
use crate::kernel::{Kernel, part, rows_per_task};

/// `y[m] = table[ids[m]]`.
#[derive(Clone, Copy, Debug)]
pub struct Gather {
    /// `[V, width]`, rows contiguous and one after another.
    pub table: *const f32,
    /// `[rows]`; the caller has checked that each is in `0..V`.
    pub ids: *const i32,
    /// Result rows.
    pub y: *mut f32,
    /// Where result rows lie.
    pub y_map: RowMap,
    /// Number of ids.
    pub rows: usize,
    /// Elements of a row.
    pub width: usize,
}

impl Kernel for Gather {
    fn tasks(&self) -> usize {
        self.rows.div_ceil(rows_per_task(self.width))
    }

    unsafe fn run(&self, _features: Features, task: usize, _scratch: &mut [u8]) {
        for m in part(task, rows_per_task(self.width), self.rows) {
            // SAFETY: by contract; the table is read-only and so does not overlap the result.
            unsafe {
                let row = self.table.add(*self.ids.add(m) as usize * self.width);
                std::ptr::copy_nonoverlapping(row, self.y.add(self.y_map.offset(m)), self.width);
            }
        }
    }
}

/// `y[m] = [cos(t[m] * freqs), sin(t[m] * freqs)]`, or sines first.
///
/// The phase is an f32 product, as the reference's is: with an f64 phase the entries at t = 5000 differ by 4e-4 from
/// what the networks were trained with. Its cosine and sine are then taken in f64, exact to the last place at any size.
#[derive(Clone, Copy, Debug)]
pub struct TimestepEmbed {
    /// `[rows]`
    pub t: *const f32,
    /// `[freqs_len]`
    pub freqs: *const f32,
    /// Frequencies; half of a result row.
    pub freqs_len: usize,
    /// Result rows of `2 * freqs_len`.
    pub y: *mut f32,
    /// Where result rows lie.
    pub y_map: RowMap,
    /// Number of times.
    pub rows: usize,
    /// Sines before cosines.
    pub sin_first: bool,
}

impl Kernel for TimestepEmbed {
    fn tasks(&self) -> usize {
        // A sine costs about as much as 32 elements of a copy.
        self.rows.div_ceil(rows_per_task(64 * self.freqs_len))
    }

    unsafe fn run(&self, _features: Features, task: usize, _scratch: &mut [u8]) {
        for m in part(task, rows_per_task(64 * self.freqs_len), self.rows) {
            // SAFETY: by contract.
            unsafe {
                let y = self.y.add(self.y_map.offset(m));
                let (cos_at, sin_at) = if self.sin_first { (self.freqs_len, 0) } else { (0, self.freqs_len) };
                for j in 0..self.freqs_len {
                    let (sin, cos) = f64::from(*self.t.add(m) * *self.freqs.add(j)).sin_cos();
                    *y.add(cos_at + j) = cos as f32;
                    *y.add(sin_at + j) = sin as f32;
                }
            }
        }
    }
}
