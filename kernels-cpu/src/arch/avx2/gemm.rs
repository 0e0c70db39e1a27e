//! The matrix product on AVX2: tiles of 6 rows by 16 columns.
//!
//! 12 of the 16 registers hold sums, two a row of B, one or two the broadcast of A.

use super::math::Ymm;
use crate::arch::Lanes;
use crate::arch::blocks::{self, A_BLOCK_WORDS, BLOCK, Q4_0, Q4_1, Q8_0};
use crate::arch::bytes::{self, A_BYTE_WORDS};
use crate::arch::entries::{block_tiles, dense_tiles, row_entries, tables, tiles};
use crate::arch::gemm::*;
use std::arch::x86_64::*;

/// Blocks of 8 rows by 8 words: pairs, then fours of rows are interleaved within each half of a register, then halves
/// are exchanged.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn transpose_words(
    from: *const u8,
    stride: usize,
    rows: usize,
    words: usize,
    to: *mut f32,
    width: usize,
) {
    for r in (0..width).step_by(8) {
        for w in (0..words).step_by(8) {
            let step = 8.min(words - w);
            // SAFETY: row `r + i < rows` is read in words `w .. w + step` and prefetched further on; `to` has `width`
            // columns, a multiple of 8, in each of `words` rows.
            unsafe {
                let load = |i: usize| {
                    let row = from.wrapping_add((r + i) * stride + w * 4).cast::<f32>();
                    crate::arch::prefetch(row.cast::<u8>().wrapping_add(TRANSPOSE_AHEAD));
                    match (r + i < rows, step) {
                        (false, _) => _mm256_setzero_ps(),
                        (true, 8) => _mm256_loadu_ps(row),
                        (true, _) => Ymm::load_first(row, step).raw(),
                    }
                };
                let mut fours = [_mm256_setzero_ps(); 8];
                for g in 0..2 {
                    let [a, b, c, d] = std::array::from_fn(|i| load(4 * g + i));
                    let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
                    fours[g] = _mm256_shuffle_ps::<0x44>(ab, cd);
                    fours[2 + g] = _mm256_shuffle_ps::<0xee>(ab, cd);
                    let (ab, cd) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
                    fours[4 + g] = _mm256_shuffle_ps::<0x44>(ab, cd);
                    fours[6 + g] = _mm256_shuffle_ps::<0xee>(ab, cd);
                }
                // `fours[2 j + g]` holds, in half h, word 4 h + j of rows 4 g .. 4 g + 4.
                for j in 0..4 {
                    let (a, b) = (fours[2 * j], fours[2 * j + 1]);
                    let halves = [_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b)];
                    for (h, words) in halves.into_iter().enumerate() {
                        if 4 * h + j < step {
                            _mm256_storeu_ps(to.add((w + 4 * h + j) * width + r), words);
                        }
                    }
                }
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::arch) unsafe fn widen_row_f16(from: *const u8, len: usize, to: *mut f32) {
    // SAFETY: the caller vouches for `len` elements on both sides; whole vectors of 8 end at or before `len`.
    unsafe {
        let mut i = 0;
        while i + 8 <= len {
            _mm256_storeu_ps(to.add(i), _mm256_cvtph_ps(_mm_loadu_si128(from.add(2 * i).cast())));
            i += 8;
        }
        widen_f16(from.add(2 * i), len - i, to.add(i));
    }
}

dense_tiles!(
    #[target_feature(enable = "avx2,fma,f16c")]
    Ymm: tile_f32 = F32, tile_widened = Bf16Widened, tile_f16_wide = F16Widened
);
block_tiles!(
    #[target_feature(enable = "avx2,fma,f16c")]
    blocks, Ymm: tile_q8_0 = Q8_0, tile_q4_0 = Q4_0, tile_q4_1 = Q4_1
);
block_tiles!(
    #[target_feature(enable = "avx2,fma,f16c")]
    bytes, Ymm: tile_q8_0_int8 = Q8_0, tile_q4_0_int8 = Q4_0, tile_q4_1_int8 = Q4_1
);
row_entries!(
    #[target_feature(enable = "avx2,fma,f16c")]
    Ymm
);

tables!(lanes 8, rows 6: 1 2 3 4 5 6, block rows 2: 1 2);
