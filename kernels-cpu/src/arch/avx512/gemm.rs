//! The matrix product on AVX-512: tiles of 14 rows by 32 columns.
//!
//! 28 of the 32 registers hold sums, two hold a row of B, one the broadcast of A. At two FMA and two loads a cycle
//! a unit of k costs 14 cycles of arithmetic and 8 of loads.

use super::math::Zmm;
use crate::arch::avx2::gemm::widen_row_f16;
use crate::arch::blocks::{self, A_BLOCK_WORDS, BLOCK, Q4_0, Q4_1, Q8_0};
use crate::arch::bytes::{self, A_BYTE_WORDS};
use crate::arch::entries::{block_tiles, dense_tiles, row_entries, tables, tiles};
use crate::arch::gemm::*;
use std::arch::x86_64::*;

/// `vdpbf16ps`: two bf16 products a lane, added to f32.
struct Bf16Native;

impl Dot<Zmm> for Bf16Native {
    const A_WORDS: usize = 1;
    const CHAIN: usize = A_WORDS;
    #[inline(always)]
    unsafe fn dot<const NV: usize>(a: *const f32, b: [Zmm; NV], acc: [Zmm; NV]) -> [Zmm; NV] {
        // SAFETY: the caller vouches for the word and the instruction set; both bf16 vectors are 512 plain bits.
        unsafe {
            let a: __m512bh = std::mem::transmute(_mm512_set1_epi32(a.cast::<i32>().read()));
            let mut sum = acc;
            for j in 0..NV {
                sum[j] = Zmm::from_raw(_mm512_dpbf16_ps(
                    acc[j].raw(),
                    a,
                    std::mem::transmute::<__m512, __m512bh>(b[j].raw()),
                ));
            }
            sum
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,avx512bf16")]
unsafe fn copy_row_bf16(from: *const f32, len: usize, row: *mut f32, at: usize) {
    // SAFETY: whole vectors end at or before `len`; after them, loads and stores are masked to `len` elements.
    unsafe {
        let to = row.cast::<i16>().add(at);
        let mut i = 0;
        while i + 32 <= len {
            let (low, high) = (_mm512_loadu_ps(from.add(i)), _mm512_loadu_ps(from.add(i + 16)));
            let narrow = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_si512(to.add(i).cast(), narrow);
            i += 32;
        }
        while i < len {
            let mask = if len - i >= 16 { 0xffff } else { (1u16 << (len - i)) - 1 };
            let narrow = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, from.add(i)));
            _mm256_mask_storeu_epi16(to.add(i), mask, std::mem::transmute::<__m256bh, __m256i>(narrow));
            i += 16;
        }
    }
}

/// Blocks of 16 rows by 16 words: pairs, then fours of rows are interleaved within each quarter of a register, then
/// quarters are exchanged.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn transpose_words(
    from: *const u8,
    stride: usize,
    rows: usize,
    words: usize,
    to: *mut f32,
    width: usize,
) {
    for r in (0..width).step_by(16) {
        for w in (0..words).step_by(16) {
            let step = 16.min(words - w);
            let mask = (0xffff_u32 >> (16 - step)) as __mmask16;
            // SAFETY: row `r + i < rows` is read in words `w .. w + step` and prefetched further on; `to` has `width`
            // columns, a multiple of 16, in each of `words` rows.
            unsafe {
                let load = |i: usize| match r + i < rows {
                    true => {
                        let row = from.add((r + i) * stride + w * 4);
                        crate::arch::prefetch(row.wrapping_add(TRANSPOSE_AHEAD));
                        _mm512_maskz_loadu_ps(mask, row.cast())
                    }
                    false => _mm512_setzero_ps(),
                };
                let mut fours = [_mm512_setzero_ps(); 16];
                for g in 0..4 {
                    let [a, b, c, d] = std::array::from_fn(|i| load(4 * g + i));
                    let pd = |x| _mm512_castps_pd(x);
                    let (ab, cd) = (pd(_mm512_unpacklo_ps(a, b)), pd(_mm512_unpacklo_ps(c, d)));
                    fours[g] = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
                    fours[4 + g] = _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd));
                    let (ab, cd) = (pd(_mm512_unpackhi_ps(a, b)), pd(_mm512_unpackhi_ps(c, d)));
                    fours[8 + g] = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
                    fours[12 + g] = _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd));
                }
                // `fours[4 j + g]` holds, in quarter q, word 4 q + j of rows 4 g .. 4 g + 4.
                for j in 0..4 {
                    let [a, b, c, d] = std::array::from_fn(|g| fours[4 * j + g]);
                    let (ab, cd) = (_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0x44>(c, d));
                    let (high_ab, high_cd) =
                        (_mm512_shuffle_f32x4::<0xee>(a, b), _mm512_shuffle_f32x4::<0xee>(c, d));
                    let quarters = [
                        _mm512_shuffle_f32x4::<0x88>(ab, cd),
                        _mm512_shuffle_f32x4::<0xdd>(ab, cd),
                        _mm512_shuffle_f32x4::<0x88>(high_ab, high_cd),
                        _mm512_shuffle_f32x4::<0xdd>(high_ab, high_cd),
                    ];
                    for (q, words) in quarters.into_iter().enumerate() {
                        if 4 * q + j < step {
                            _mm512_storeu_ps(to.add((w + 4 * q + j) * width + r), words);
                        }
                    }
                }
            }
        }
    }
}

dense_tiles!(
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    Zmm: tile_f32 = F32, tile_widened = Bf16Widened, tile_f16_wide = F16Widened
);
dense_tiles!(
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,avx512bf16")]
    Zmm: tile_bf16 = Bf16Native
);
block_tiles!(
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    blocks, Zmm: tile_q8_0 = Q8_0, tile_q4_0 = Q4_0, tile_q4_1 = Q4_1
);
block_tiles!(
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,avx512vnni")]
    bytes, Zmm: tile_q8_0_int8 = Q8_0, tile_q4_0_int8 = Q4_0, tile_q4_1_int8 = Q4_1
);
row_entries!(
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    Zmm
);

tables!(lanes 16, rows 14: 1 2 3 4 5 6 7 8 9 10 11 12 13 14, block rows 6: 1 2 3 4 5 6);

/// bf16 by bf16; needs AVX512_BF16.
pub static BF16_KERNELS: GemmKernels = GemmKernels {
    unit: 2,
    tiles: tiles!(tile_bf16, true: 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
    streams: tiles!(tile_bf16, false: 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
    copy_row: copy_row_bf16,
    ..F32_KERNELS
};
