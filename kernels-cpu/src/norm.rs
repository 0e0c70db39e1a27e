//! Layer norm and RMS norm over the last axis, with the affine part and the modulation of a diffusion transformer in the
//! same pass: `y = (norm(x) * weight + bias) * (1 + scale) + shift`.
//!
//! A row is read three times (mean, variance, result), twice from L1. The variance is taken about the mean
//! rather than as `E[x²] - E[x]²`, which loses all digits where the mean is large against the spread.

use selftok_graph::NormKind;

use crate::RowMap;
use crate::isa::Features;
use crate::kernel::{Kernel, part, rows_per_task};
use crate::simd::{Program, Simd, each_vector, launch, load, store};

/// Normalisation, affine and modulation of rows; each part may be left out.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// Which normalisation; None leaves the rows as they are (modulation alone).
    pub kind: Option<NormKind>,
    /// Input rows, `width` contiguous elements each.
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
    /// Added to the variance (layer) or mean square (RMS).
    pub eps: f32,
    /// Null (1), or `[width]`.
    pub weight: *const f32,
    /// Null (0), or `[width]`.
    pub bias: *const f32,
    /// Null (0), or rows of `width`.
    pub scale: *const f32,
    /// Where scale rows lie.
    pub scale_map: RowMap,
    /// Null (0), or rows of `width`.
    pub shift: *const f32,
    /// Where shift rows lie.
    pub shift_map: RowMap,
}

impl Kernel for Norm {
    fn tasks(&self) -> usize {
        self.rows.div_ceil(rows_per_task(self.width))
    }

    unsafe fn run(&self, features: Features, task: usize, _scratch: &mut [u8]) {
        // SAFETY: by contract.
        unsafe { launch(features, Task { args: self, task }) }
    }
}

struct Task<'a> {
    args: &'a Norm,
    task: usize,
}

/// Sum of `f(x)` over a row: four vectors of partial sums, so that neither latency nor rounding piles up. `f` is also
/// given the lanes that count; the others hold 0.
///
/// # Safety
/// The processor has the instruction set of `V`; `n` elements are readable.
#[inline(always)]
pub(crate) unsafe fn sum_row<V: Simd>(x: *const f32, n: usize, f: impl Fn(V) -> V) -> f32 {
    // SAFETY: by contract.
    unsafe {
        let zero = V::new(0.0);
        let mut sums = [zero; 4];
        let (lanes, mut i) = (V::LANES, 0);
        while i + 4 * lanes <= n {
            for (j, sum) in sums.iter_mut().enumerate() {
                *sum = sum.add(f(V::load(x.add(i + j * lanes))));
            }
            i += 4 * lanes;
        }
        while i + lanes <= n {
            sums[0] = sums[0].add(f(V::load(x.add(i))));
            i += lanes;
        }
        let mut total = sums[0].add(sums[1]).add(sums[2].add(sums[3])).sum();
        if i < n {
            // What `f` makes of the empty lanes must not count: let it through memory.
            let mut tail = [0.0f32; 16];
            f(V::load_first(x.add(i), n - i)).store(tail.as_mut_ptr());
            total += tail[..n - i].iter().sum::<f32>();
        }
        total
    }
}

impl Program for Task<'_> {
    #[inline(always)]
    unsafe fn execute<V: Simd>(self) {
        let a = self.args;
        // SAFETY: by the contract of `Kernel::run`.
        unsafe {
            for m in part(self.task, rows_per_task(a.width), a.rows) {
                let x = a.x.add(a.x_map.offset(m));
                let n = a.width as f32;
                let (mean, factor) = match a.kind {
                    None => (0.0, 1.0),
                    Some(NormKind::Rms) => {
                        let square = sum_row::<V>(x, a.width, |x| x.mul(x)) / n;
                        (0.0, 1.0 / (square + a.eps).sqrt())
                    }
                    Some(NormKind::Layer) => {
                        let mean = sum_row::<V>(x, a.width, |x| x) / n;
                        let about = V::new(mean);
                        let variance = sum_row::<V>(x, a.width, |x| {
                            let d = x.sub(about);
                            d.mul(d)
                        }) / n;
                        (mean, 1.0 / (variance + a.eps).sqrt())
                    }
                };
                let y = a.y.add(a.y_map.offset(m));
                // `wrapping_add`: a null pointer stays unused.
                let scale = a.scale.wrapping_add(a.scale_map.offset(m));
                let shift = a.shift.wrapping_add(a.shift_map.offset(m));
                let (mean, factor, one) = (V::new(mean), V::new(factor), V::new(1.0));
                each_vector::<V>(a.width, |i, n| {
                    let x: V = load(x.add(i), n);
                    let mut v = x.sub(mean).mul(factor);
                    if !a.weight.is_null() {
                        v = v.mul(load(a.weight.add(i), n));
                    }
                    if !a.bias.is_null() {
                        v = v.add(load(a.bias.add(i), n));
                    }
                    if !a.scale.is_null() {
                        v = v.mul(one.add(load(scale.add(i), n)));
                    }
                    if !a.shift.is_null() {
                        v = v.add(load(shift.add(i), n));
                    }
                    store(v, y.add(i), n);
                });
            }
        }
    }
}
