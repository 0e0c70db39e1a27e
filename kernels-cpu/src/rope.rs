//! Rotary position embedding of queries or keys, with the RMS norm per head that some models put before it.
//!
//! Both read and write the same row of heads, so doing them together saves a pass over q and k. Positions are
//! looked up in a table, so that scaled frequencies and two-dimensional grids are a matter of its contents.

use selftok_graph::RopeStyle;

use crate::attention::Strides;
use crate::isa::Features;
use crate::kernel::{Kernel, part, rows_per_task};
use crate::norm::sum_row;
use crate::scratch::{Scratch, floats_bytes};
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

    fn scratch_bytes(&self) -> usize {
        2 * floats_bytes(self.rotary_dim)
    }

    unsafe fn run(&self, features: Features, task: usize, scratch: &mut [u8]) {
        // SAFETY: by contract.
        unsafe { launch(features, Task { args: self, task, scratch }) }
    }
}

struct Task<'a> {
    args: &'a Rope,
    task: usize,
    scratch: &'a mut [u8],
}

impl Program for Task<'_> {
    #[inline(always)]
    unsafe fn execute<V: Simd>(self) {
        let a = self.args;
        let mut scratch = Scratch::new(self.scratch);
        // SAFETY: by the contract of `Kernel::run`; factors have `rotary_dim` elements each.
        unsafe {
            let (own, crossed) = (scratch.floats(a.rotary_dim), scratch.floats(a.rotary_dim));
            for m in part(self.task, a.rows_per_task(), a.batch * a.rows) {
                let (b, row) = (m / a.rows, m % a.rows);
                let position =
                    if a.positions.is_null() { a.position0 + row } else { *a.positions.add(m) as usize };
                let half = a.rotary_dim / 2;
                let cos = a.table.wrapping_add(position * a.rotary_dim);
                for i in 0..half {
                    let (c, s) = (*cos.add(i), *cos.add(half + i));
                    let (p, q) = match a.style {
                        RopeStyle::Half => (i, i + half),
                        RopeStyle::Interleaved => (2 * i, 2 * i + 1),
                    };
                    (*own.add(p), *own.add(q)) = (c, c);
                    (*crossed.add(p), *crossed.add(q)) = (-s, s);
                }
                for h in 0..a.heads {
                    let at = |s: Strides| b * s.batch + row * s.row + h * s.head;
                    let mut x = a.x.add(at(a.x_strides));
                    let y = a.y.add(at(a.y_strides));
                    if let Some(norm) = a.norm {
                        let square = sum_row::<V, true>(x, a.head_dim, 0.0) / a.head_dim as f32;
                        let factor = V::new(1.0 / (square + norm.eps).sqrt());
                        each_vector!(V, a.head_dim, |i, n| {
                            let v: V = load(x.add(i), n);
                            store(v.mul(factor).mul(load(norm.weight.add(i), n)), y.add(i), n);
                        });
                        x = y;
                    }
                    rotate::<V>(a, x, y, own, crossed);
                }
            }
        }
    }
}

/// Rotates one head from `x` to `y`, which are the same or do not overlap: each element times its `own` factor plus
/// its partner times the `crossed` one. The factors serve all heads of a row.
///
/// # Safety
/// `x` and `y` are valid for `head_dim` elements, the factors for `rotary_dim`.
#[inline(always)]
unsafe fn rotate<V: Simd>(a: &Rope, x: *const f32, y: *mut f32, own: *const f32, crossed: *const f32) {
    let half = a.rotary_dim / 2;
    // SAFETY: by contract.
    unsafe {
        match a.style {
            RopeStyle::Half => each_vector!(V, half, |i, n| {
                let j = i + half;
                let (p, q): (V, V) = (load(x.add(i), n), load(x.add(j), n));
                let first = q.mul(load(crossed.add(i), n));
                let second = p.mul(load(crossed.add(j), n));
                store(p.mul_add(load(own.add(i), n), first), y.add(i), n);
                store(q.mul_add(load(own.add(j), n), second), y.add(j), n);
            }),
            // A vector holds whole pairs.
            RopeStyle::Interleaved => each_vector!(V, a.rotary_dim, |i, n| {
                let p: V = load(x.add(i), n);
                let partner = p.swap_pairs().mul(load(crossed.add(i), n));
                store(p.mul_add(load(own.add(i), n), partner), y.add(i), n);
            }),
        }
        if !std::ptr::eq(x, y) {
            each_vector!(V, a.head_dim - a.rotary_dim, |i, n| {
                let at = a.rotary_dim + i;
                store(load::<V>(x.add(at), n), y.add(at), n);
            });
        }
    }
}
