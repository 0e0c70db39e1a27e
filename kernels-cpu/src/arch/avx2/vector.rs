//! [`Simd`] on `ymm` registers, and the entry into code compiled for AVX2.

use std::arch::x86_64::*;

use super::math::Ymm;
use crate::simd::{Program, Simd};

/// Executes a kernel compiled for AVX2, FMA and F16C.
///
/// # Safety
/// The processor has these, and the program's own conditions hold.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn enter<P: Program>(program: P) {
    // SAFETY: by contract.
    unsafe { program.execute::<Ymm>() }
}

impl Simd for Ymm {
    const TILE_ROWS: usize = 6;

    #[inline(always)]
    unsafe fn transpose(src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize) {
        // Pairs of rows, then pairs of pairs, then halves: 24 shuffles.
        // SAFETY: both squares are valid and the instruction set is there, by contract.
        unsafe {
            let r: [__m256; 8] = std::array::from_fn(|i| _mm256_loadu_ps(src.add(i * src_stride)));
            let mut t = r;
            for i in 0..4 {
                t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
            }
            let mut u = t;
            for i in 0..2 {
                let b = 4 * i;
                u[b] = _mm256_shuffle_ps::<0x44>(t[b], t[b + 2]);
                u[b + 1] = _mm256_shuffle_ps::<0xEE>(t[b], t[b + 2]);
                u[b + 2] = _mm256_shuffle_ps::<0x44>(t[b + 1], t[b + 3]);
                u[b + 3] = _mm256_shuffle_ps::<0xEE>(t[b + 1], t[b + 3]);
            }
            for i in 0..4 {
                _mm256_storeu_ps(dst.add(i * dst_stride), _mm256_permute2f128_ps::<0x20>(u[i], u[i + 4]));
                _mm256_storeu_ps(
                    dst.add((i + 4) * dst_stride),
                    _mm256_permute2f128_ps::<0x31>(u[i], u[i + 4]),
                );
            }
        }
    }
    #[inline(always)]
    unsafe fn accumulate_f64(self, sums: *mut f64, squares: *mut f64) {
        // SAFETY: eight elements of each are valid, by contract.
        unsafe {
            let halves = [_mm256_castps256_ps128(self.raw()), _mm256_extractf128_ps::<1>(self.raw())];
            for (i, half) in halves.into_iter().enumerate() {
                let x = _mm256_cvtps_pd(half);
                let (s, q) = (sums.add(4 * i), squares.add(4 * i));
                _mm256_storeu_pd(s, _mm256_add_pd(_mm256_loadu_pd(s), x));
                _mm256_storeu_pd(q, _mm256_fmadd_pd(x, x, _mm256_loadu_pd(q)));
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
        unsafe { Ymm::from_raw(_mm256_permute_ps::<0b10_11_00_01>(self.raw())) }
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: `self` exists, so the processor has AVX2.
        unsafe {
            let x = _mm_add_ps(_mm256_castps256_ps128(self.raw()), _mm256_extractf128_ps::<1>(self.raw()));
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps::<1>(x, x)))
        }
    }
    #[inline(always)]
    fn largest(self) -> f32 {
        // SAFETY: `self` exists, so the processor has AVX2.
        unsafe {
            let x = _mm_max_ps(_mm256_castps256_ps128(self.raw()), _mm256_extractf128_ps::<1>(self.raw()));
            let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps::<1>(x, x)))
        }
    }
}
