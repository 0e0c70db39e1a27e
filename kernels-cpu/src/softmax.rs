//! Softmax over the last axis, for scores that are wanted as such (attention has its own inside).

use crate::RowMap;
use crate::arch::formulas;
use crate::isa::Features;
use crate::kernel::{Kernel, part, rows_per_task};
use crate::simd::{Program, Simd, each_vector, launch, load, store};

/// `y = exp(x - max) / sum(exp(x - max))` for each row.
#[derive(Clone, Copy, Debug)]
pub struct Softmax {
    /// Input rows of `width` contiguous elements.
    pub x: *const f32,
    /// Where input rows lie.
    pub x_map: RowMap,
    /// Result rows; may be the input rows exactly.
    pub y: *mut f32,
    /// Where result rows lie.
    pub y_map: RowMap,
    /// Number of rows.
    pub rows: usize,
    /// Elements of a row.
    pub width: usize,
}

impl Kernel for Softmax {
    fn tasks(&self) -> usize {
        self.rows.div_ceil(rows_per_task(self.width))
    }

    unsafe fn run(&self, features: Features, task: usize, _scratch: &mut [u8]) {
        // SAFETY: by contract.
        unsafe { launch(features, Task { args: self, task }) }
    }
}

struct Task<'a> {
    args: &'a Softmax,
    task: usize,
}

impl Program for Task<'_> {
    #[inline(always)]
    unsafe fn execute<V: Simd>(self) {
        let a = self.args;
        // SAFETY: by the contract of `Kernel::run`.
        unsafe {
            for m in part(self.task, rows_per_task(a.width), a.rows) {
                let (x, y) = (a.x.add(a.x_map.offset(m)), a.y.add(a.y_map.offset(m)));
                let (lanes, whole) = (V::LANES, a.width - a.width % V::LANES);
                let mut largest = V::new(f32::NEG_INFINITY);
                for i in (0..whole).step_by(lanes) {
                    largest = largest.max(V::load(x.add(i)));
                }
                let tail = (whole..a.width).map(|i| *x.add(i));
                let max = V::new(tail.fold(largest.largest(), f32::max));
                let (mut sums, mut tail) = (V::new(0.0), 0.0);
                each_vector!(V, a.width, |i, n| {
                    let e = formulas::exp(load::<V>(x.add(i), n).sub(max));
                    store(e, y.add(i), n);
                    if n == lanes {
                        sums = sums.add(e);
                    } else {
                        tail = (i..i + n).map(|i| *y.add(i)).sum();
                    }
                });
                let factor = V::new(1.0 / (sums.sum() + tail));
                each_vector!(V, a.width, |i, n| store(load::<V>(y.add(i), n).mul(factor), y.add(i), n));
            }
        }
    }
}
