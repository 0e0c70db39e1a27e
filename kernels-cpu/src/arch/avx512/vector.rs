//! [`Simd`] on `zmm` registers, and the entry into code compiled for AVX-512.

use std::arch::x86_64::*;

use super::math::Zmm;
use crate::simd::{Program, Simd};

/// Executes a kernel compiled for AVX-512 F, BW, DQ and VL.
///
/// # Safety
/// The processor has these, and the program's own conditions hold.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub unsafe fn enter<P: Program>(program: P) {
    // SAFETY: by contract.
    unsafe { program.execute::<Zmm>() }
}

impl Simd for Zmm {
    const TILE_ROWS: usize = 8;

    #[inline(always)]
    unsafe fn transpose(src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize) {
        // Pairs of rows, pairs of pairs, then quarters of registers twice: 64 shuffles for 256 elements.
        // SAFETY: both squares are valid and the instruction set is there, by contract.
        unsafe {
            let r: [__m512; 16] = std::array::from_fn(|i| _mm512_loadu_ps(src.add(i * src_stride)));
            let mut t = r;
            for i in 0..8 {
                t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
            }
            // u[4 g + c] holds, in quarter q, column 4 q + c of rows 4 g .. 4 g + 4.
            let mut u = t;
            for g in 0..4 {
                let b = 4 * g;
                u[b] = _mm512_shuffle_ps::<0x44>(t[b], t[b + 2]);
                u[b + 1] = _mm512_shuffle_ps::<0xEE>(t[b], t[b + 2]);
                u[b + 2] = _mm512_shuffle_ps::<0x44>(t[b + 1], t[b + 3]);
                u[b + 3] = _mm512_shuffle_ps::<0xEE>(t[b + 1], t[b + 3]);
            }
            for c in 0..4 {
                let low = _mm512_shuffle_f32x4::<0x88>(u[c], u[c + 4]);
                let low2 = _mm512_shuffle_f32x4::<0x88>(u[c + 8], u[c + 12]);
                let high = _mm512_shuffle_f32x4::<0xDD>(u[c], u[c + 4]);
                let high2 = _mm512_shuffle_f32x4::<0xDD>(u[c + 8], u[c + 12]);
                let columns = [
                    _mm512_shuffle_f32x4::<0x88>(low, low2),
                    _mm512_shuffle_f32x4::<0x88>(high, high2),
                    _mm512_shuffle_f32x4::<0xDD>(low, low2),
                    _mm512_shuffle_f32x4::<0xDD>(high, high2),
                ];
                for (q, column) in columns.into_iter().enumerate() {
                    _mm512_storeu_ps(dst.add((4 * q + c) * dst_stride), column);
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn accumulate_f64(self, sums: *mut f64, squares: *mut f64) {
        // SAFETY: sixteen elements of each are valid, by contract.
        unsafe {
            let halves = [_mm512_castps512_ps256(self.raw()), _mm512_extractf32x8_ps::<1>(self.raw())];
            for (i, half) in halves.into_iter().enumerate() {
                let x = _mm512_cvtps_pd(half);
                let (s, q) = (sums.add(8 * i), squares.add(8 * i));
                _mm512_storeu_pd(s, _mm512_add_pd(_mm512_loadu_pd(s), x));
                _mm512_storeu_pd(q, _mm512_fmadd_pd(x, x, _mm512_loadu_pd(q)));
            }
        }
    }
    #[inline(always)]
    fn prefetch(p: *const f32) {
        // SAFETY: a prefetch is SSE, which x86-64 always has, and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    fn swap_pairs(self) -> Self {
        // SAFETY: `self` exists, so the processor has the instruction set, and the new value may exist too.
        unsafe { Zmm::from_raw(_mm512_permute_ps::<0b10_11_00_01>(self.raw())) }
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: `self` exists, so the processor has AVX-512.
        unsafe { _mm512_reduce_add_ps(self.raw()) }
    }
    #[inline(always)]
    fn largest(self) -> f32 {
        // SAFETY: `self` exists, so the processor has AVX-512.
        unsafe { _mm512_reduce_max_ps(self.raw()) }
    }
}
