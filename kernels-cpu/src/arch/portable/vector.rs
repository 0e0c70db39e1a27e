//! [`Simd`] on four lanes in an array: one SSE or NEON register after the compiler has seen it.

use super::math::Array;
use crate::arch::Lanes;
use crate::simd::Simd;

impl Simd for Array<4> {
    const TILE_ROWS: usize = 4;

    #[inline(always)]
    unsafe fn transpose(src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize) {
        // SAFETY: both squares are valid, by contract.
        unsafe {
            let rows: [Self; 4] = std::array::from_fn(|r| Self::load(src.add(r * src_stride)));
            for c in 0..4 {
                Array(std::array::from_fn::<_, 4, _>(|r| rows[r].0[c])).store(dst.add(c * dst_stride));
            }
        }
    }
    #[inline(always)]
    unsafe fn accumulate_f64(self, sums: *mut f64, squares: *mut f64) {
        for i in 0..4 {
            let x = f64::from(self.0[i]);
            // SAFETY: four elements of each are valid, by contract.
            unsafe {
                *sums.add(i) += x;
                *squares.add(i) += x * x;
            }
        }
    }
    #[inline(always)]
    fn prefetch(_: *const f32) {}
    #[inline(always)]
    fn swap_pairs(self) -> Self {
        let [a, b, c, d] = self.0;
        Array([b, a, d, c])
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        (self.0[0] + self.0[2]) + (self.0[1] + self.0[3])
    }
    #[inline(always)]
    fn largest(self) -> f32 {
        self.0[1..].iter().fold(self.0[0], |m, &x| if x > m { x } else { m })
    }
}
