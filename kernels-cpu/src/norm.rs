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

/// Sum over a row of `x`, or of `(x - about)^2` where `SQUARED`: four vectors of partial sums, so that neither latency
/// nor rounding piles up.
///
/// # Safety
/// The processor has the instruction set of `V`; `n` elements are readable.
#[inline(always)]
pub(crate) unsafe fn sum_row<V: Simd, const SQUARED: bool>(x: *const f32, n: usize, about: f32) -> f32 {
    // SAFETY: by contract.
    unsafe {
        let (lanes, zero, center) = (V::LANES, V::new(0.0), V::new(about));
        let (mut sums, mut i) = ([zero; 4], 0);
        while i + 4 * lanes <= n {
            for (j, sum) in sums.iter_mut().enumerate() {
                *sum = add_term::<V, SQUARED>(*sum, V::load(x.add(i + j * lanes)), center);
            }
            i += 4 * lanes;
        }
        while i + lanes <= n {
            sums[0] = add_term::<V, SQUARED>(sums[0], V::load(x.add(i)), center);
            i += lanes;
        }
        let mut total = sums[0].add(sums[1]).add(sums[2].add(sums[3])).sum();
        for i in i..n {
            let x = *x.add(i);
            total += if SQUARED { (x - about) * (x - about) } else { x };
        }
        total
    }
}

#[inline(always)]
fn add_term<V: Simd, const SQUARED: bool>(sum: V, x: V, center: V) -> V {
    if SQUARED {
        let d = x.sub(center);
        d.mul_add(d, sum)
    } else {
        sum.add(x)
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
                        let square = sum_row::<V, true>(x, a.width, 0.0) / n;
                        (0.0, 1.0 / (square + a.eps).sqrt())
                    }
                    Some(NormKind::Layer) => {
                        let mean = sum_row::<V, false>(x, a.width, 0.0) / n;
                        let variance = sum_row::<V, true>(x, a.width, mean) / n;
                        (mean, 1.0 / (variance + a.eps).sqrt())
                    }
                };
                let y = a.y.add(a.y_map.offset(m));
                // `wrapping_add`: a null pointer stays unused.
                let scale = a.scale.wrapping_add(a.scale_map.offset(m));
                let shift = a.shift.wrapping_add(a.shift_map.offset(m));
                let (mean, factor, one) = (V::new(mean), V::new(factor), V::new(1.0));
                each_vector!(V, a.width, |i, n| {
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
