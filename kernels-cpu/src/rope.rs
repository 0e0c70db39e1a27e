//! Rotary position embedding of queries or keys, with the RMS norm per head that some models put before it.
//!
//! Both read and write the same row of heads, so doing them together saves a pass over q and k. Positions are
//! looked up in a table, so that scaled frequencies and two-dimensional grids are a matter of its contents.

use selftok_graph::RopeStyle;

use crate::attention::Strides;
use crate::isa::Features;
use crate::kernel::{Kernel, part, rows_per_task};
use crate::norm::sum_row;
use crate::simd::{Program, Simd, each_vector, launch, load, store};

/// RMS norm of each head by itself.
#[derive(Clone, Copy, Debug)]
pub struct HeadNorm {
    /// `[head_dim]`
    pub weight: *const f32,
    /// Added to the mean square.
    pub eps: f32,
}

/// Rotates pairs `(a, b)` of each head to `(a cos - b sin, b cos + a sin)`.
#[derive(Clone, Copy, Debug)]
pub struct Rope {
    /// Input `[B, rows, heads, head_dim]`.
    pub x: *const f32,
    /// Where inputs lie.
    pub x_strides: Strides,
    /// Result; may be `x` itself with the same strides.
    pub y: *mut f32,
    /// Where results lie.
    pub y_strides: Strides,
    /// Batch entries.
    pub batch: usize,
    /// Rows of each.
    pub rows: usize,
    /// Heads.
    pub heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Elements of a head that rotate, even; the rest is copied. 0: norm and copy alone, no table.
    pub rotary_dim: usize,
    /// Pairing.
    pub style: RopeStyle,
    /// `[positions, rotary_dim]`: `rotary_dim / 2` cosines, then as many sines.
    pub table: *const f32,
    /// Null, or the position of each row, `[B, rows]`.
    pub positions: *const u32,
    /// Position of row 0 where `positions` is null.
    pub position0: usize,
    /// Norm of each head before it rotates.
    pub norm: Option<HeadNorm>,
}

impl Rope {
    fn rows_per_task(&self) -> usize {
        rows_per_task(self.heads * self.head_dim)
    }
}

impl Kernel for Rope {
    fn tasks(&self) -> usize {
        (self.batch * self.rows).div_ceil(self.rows_per_task())
    }

    unsafe fn run(&self, features: Features, task: usize, _scratch: &mut [u8]) {
        // SAFETY: by contract.
        unsafe { launch(features, Task { args: self, task }) }
    }
}

struct Task<'a> {
    args: &'a Rope,
    task: usize,
}

impl Program for Task<'_> {
    #[inline(always)]
    unsafe fn execute<V: Simd>(self) {
        let a = self.args;
        // SAFETY: by the contract of `Kernel::run`.
        unsafe {
            for m in part(self.task, a.rows_per_task(), a.batch * a.rows) {
                let (b, row) = (m / a.rows, m % a.rows);
                let position =
                    if a.positions.is_null() { a.position0 + row } else { *a.positions.add(m) as usize };
                let cos = a.table.wrapping_add(position * a.rotary_dim);
                for h in 0..a.heads {
                    let at = |s: Strides| b * s.batch + row * s.row + h * s.head;
                    let mut x = a.x.add(at(a.x_strides));
                    let y = a.y.add(at(a.y_strides));
                    if let Some(norm) = a.norm {
                        let square = sum_row::<V>(x, a.head_dim, |x| x.mul(x)) / a.head_dim as f32;
                        let factor = V::new(1.0 / (square + norm.eps).sqrt());
                        each_vector::<V>(a.head_dim, |i, n| {
                            let v: V = load(x.add(i), n);
                            store(v.mul(factor).mul(load(norm.weight.add(i), n)), y.add(i), n);
                        });
                        x = y;
                    }
                    rotate::<V>(a, x, y, cos);
                }
            }
        }
    }
}

/// Rotates one head from `x` to `y`, which are the same or do not overlap.
///
/// # Safety
/// Both are valid for `head_dim` elements, `cos` for `rotary_dim`.
#[inline(always)]
unsafe fn rotate<V: Simd>(a: &Rope, x: *const f32, y: *mut f32, cos: *const f32) {
    let half = a.rotary_dim / 2;
    // SAFETY: by contract.
    unsafe {
        let sin = cos.wrapping_add(half);
        match a.style {
            RopeStyle::Half => each_vector::<V>(half, |i, n| {
                let (p, q): (V, V) = (load(x.add(i), n), load(x.add(i + half), n));
                let (c, s): (V, V) = (load(cos.add(i), n), load(sin.add(i), n));
                store(p.mul(c).sub(q.mul(s)), y.add(i), n);
                store(q.mul(c).add(p.mul(s)), y.add(i + half), n);
            }),
            RopeStyle::Interleaved => {
                for i in 0..half {
                    let (p, q) = (*x.add(2 * i), *x.add(2 * i + 1));
                    let (c, s) = (*cos.add(i), *sin.add(i));
                    *y.add(2 * i) = p * c - q * s;
                    *y.add(2 * i + 1) = q * c + p * s;
                }
            }
        }
        if !std::ptr::eq(x, y) {
            each_vector::<V>(a.head_dim - a.rotary_dim, |i, n| {
                let at = a.rotary_dim + i;
                store(load::<V>(x.add(at), n), y.add(at), n);
            });
        }
    }
}
