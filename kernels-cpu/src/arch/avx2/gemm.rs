//! The matrix product on AVX2: tiles of 6 rows by 16 columns.
//!
//! 12 of the 16 registers hold sums, two a row of B, one or two the broadcast of A.

use super::math::Ymm;
use crate::arch::Lanes;
use crate::arch::blocks::{self, A_BLOCK_WORDS, BLOCK, Q4_0, Q4_1, Q8_0};
use crate::arch::bytes::{self, A_BYTE_WORDS};
use crate::arch::gemm::*;
use std::arch::x86_64::*;

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile_f32<const MR: usize, const NV: usize, const AHEAD: bool>(
    a: *const f32,
    b: *const f32,
    u: usize,
    c: *mut f32,
    first: bool,
    ahead: Ahead,
) {
    // SAFETY: passed on from the caller.
    unsafe { tile::<Ymm, F32, MR, NV, AHEAD>(a, b, u, c, first, ahead) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile_widened<const MR: usize, const NV: usize, const AHEAD: bool>(
    a: *const f32,
    b: *const f32,
    u: usize,
    c: *mut f32,
    first: bool,
    ahead: Ahead,
) {
    // SAFETY: passed on from the caller.
    unsafe { tile::<Ymm, Bf16Widened, MR, NV, AHEAD>(a, b, u, c, first, ahead) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn finish_tile(tile: &TileOut<'_>) {
    // SAFETY: passed on from the caller.
    unsafe { finish::<Ymm>(tile) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn copy_row_f32(from: *const f32, len: usize, row: *mut f32, at: usize) {
    // SAFETY: passed on from the caller.
    unsafe { copy_f32(from, len, row, at) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn copy_row_rounded(from: *const f32, len: usize, row: *mut f32, at: usize) {
    // SAFETY: passed on from the caller.
    unsafe { copy_rounded(from, len, row, at) }
}

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
unsafe fn widen_row_f16(from: *const u8, len: usize, to: *mut f32) {
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

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile_q8_0<const MR: usize, const NV: usize, const AHEAD: bool>(
    a: *const f32,
    b: *const f32,
    u: usize,
    c: *mut f32,
    first: bool,
    _ahead: Ahead,
) {
    // SAFETY: passed on from the caller.
    unsafe { blocks::tile::<Ymm, Q8_0, MR, NV>(a, b, u, c, first) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile_q4_0<const MR: usize, const NV: usize, const AHEAD: bool>(
    a: *const f32,
    b: *const f32,
    u: usize,
    c: *mut f32,
    first: bool,
    _ahead: Ahead,
) {
    // SAFETY: passed on from the caller.
    unsafe { blocks::tile::<Ymm, Q4_0, MR, NV>(a, b, u, c, first) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile_q4_1<const MR: usize, const NV: usize, const AHEAD: bool>(
    a: *const f32,
    b: *const f32,
    u: usize,
    c: *mut f32,
    first: bool,
    _ahead: Ahead,
) {
    // SAFETY: passed on from the caller.
    unsafe { blocks::tile::<Ymm, Q4_1, MR, NV>(a, b, u, c, first) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn copy_row_blocks(from: *const f32, len: usize, row: *mut f32, at: usize) {
    // SAFETY: passed on from the caller.
    unsafe { blocks::copy_with_sums(from, len, row, at) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile_f16_wide<const MR: usize, const NV: usize, const AHEAD: bool>(
    a: *const f32,
    b: *const f32,
    u: usize,
    c: *mut f32,
    first: bool,
    ahead: Ahead,
) {
    // SAFETY: passed on from the caller.
    unsafe { tile::<Ymm, F16Widened, MR, NV, AHEAD>(a, b, u, c, first, ahead) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile_q8_0_int8<const MR: usize, const NV: usize, const AHEAD: bool>(
    a: *const f32,
    b: *const f32,
    u: usize,
    c: *mut f32,
    first: bool,
    _ahead: Ahead,
) {
    // SAFETY: passed on from the caller.
    unsafe { bytes::tile::<Ymm, Q8_0, MR, NV>(a, b, u, c, first) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile_q4_0_int8<const MR: usize, const NV: usize, const AHEAD: bool>(
    a: *const f32,
    b: *const f32,
    u: usize,
    c: *mut f32,
    first: bool,
    _ahead: Ahead,
) {
    // SAFETY: passed on from the caller.
    unsafe { bytes::tile::<Ymm, Q4_0, MR, NV>(a, b, u, c, first) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile_q4_1_int8<const MR: usize, const NV: usize, const AHEAD: bool>(
    a: *const f32,
    b: *const f32,
    u: usize,
    c: *mut f32,
    first: bool,
    _ahead: Ahead,
) {
    // SAFETY: passed on from the caller.
    unsafe { bytes::tile::<Ymm, Q4_1, MR, NV>(a, b, u, c, first) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn copy_row_bytes(from: *const f32, len: usize, row: *mut f32, at: usize) {
    // SAFETY: passed on from the caller.
    unsafe { bytes::copy_rounded_to_bytes::<Ymm>(from, len, row, at) }
}

macro_rules! tiles {
    ($f:ident, $ahead:literal: $($mr:literal)*) => { &[$([$f::<$mr, 1, $ahead> as Tile, $f::<$mr, 2, $ahead>]),*] };
}

/// f32 by f32.
pub static F32_KERNELS: GemmKernels = GemmKernels {
    rows: 6,
    lanes: 8,
    unit: 1,
    a_words: 1,
    b_words: 1,
    tiles: tiles!(tile_f32, true: 1 2 3 4 5 6),
    streams: tiles!(tile_f32, false: 1 2 3 4 5 6),
    copy_row: copy_row_f32,
    finish: finish_tile,
    transpose: transpose_words,
    widen_f16: widen_row_f16,
};

/// bf16 by bf16, widened.
pub static WIDENED_KERNELS: GemmKernels = GemmKernels {
    unit: 2,
    a_words: 2,
    tiles: tiles!(tile_widened, true: 1 2 3 4 5 6),
    streams: tiles!(tile_widened, false: 1 2 3 4 5 6),
    copy_row: copy_row_rounded,
    ..F32_KERNELS
};

/// f32 by bf16, widened; nothing is rounded.
pub static BF16_WIDE_KERNELS: GemmKernels = GemmKernels { copy_row: copy_row_f32, ..WIDENED_KERNELS };

/// f32 by f16, widened; nothing is rounded.
pub static F16_WIDE_KERNELS: GemmKernels = GemmKernels {
    tiles: tiles!(tile_f16_wide, true: 1 2 3 4 5 6),
    streams: tiles!(tile_f16_wide, false: 1 2 3 4 5 6),
    ..BF16_WIDE_KERNELS
};

/// f32 by blocks of Q8_0.
pub static Q8_0_KERNELS: GemmKernels = GemmKernels {
    rows: 2,
    unit: BLOCK,
    a_words: A_BLOCK_WORDS,
    copy_row: copy_row_blocks,
    b_words: 1 + 8,
    tiles: tiles!(tile_q8_0, false: 1 2),
    streams: tiles!(tile_q8_0, false: 1 2),
    ..F32_KERNELS
};

/// f32 by blocks of Q4_0.
pub static Q4_0_KERNELS: GemmKernels = GemmKernels {
    b_words: 1 + 4,
    tiles: tiles!(tile_q4_0, false: 1 2),
    streams: tiles!(tile_q4_0, false: 1 2),
    ..Q8_0_KERNELS
};

/// f32 by blocks of Q4_1.
pub static Q4_1_KERNELS: GemmKernels = GemmKernels {
    b_words: 1 + 4,
    tiles: tiles!(tile_q4_1, false: 1 2),
    streams: tiles!(tile_q4_1, false: 1 2),
    ..Q8_0_KERNELS
};

/// Bytes by blocks of Q8_0.
pub static Q8_0_INT8_KERNELS: GemmKernels = GemmKernels {
    a_words: A_BYTE_WORDS,
    copy_row: copy_row_bytes,
    tiles: tiles!(tile_q8_0_int8, false: 1 2),
    streams: tiles!(tile_q8_0_int8, false: 1 2),
    ..Q8_0_KERNELS
};

/// Bytes by blocks of Q4_0.
pub static Q4_0_INT8_KERNELS: GemmKernels = GemmKernels {
    a_words: A_BYTE_WORDS,
    copy_row: copy_row_bytes,
    tiles: tiles!(tile_q4_0_int8, false: 1 2),
    streams: tiles!(tile_q4_0_int8, false: 1 2),
    ..Q4_0_KERNELS
};

/// Bytes by blocks of Q4_1.
pub static Q4_1_INT8_KERNELS: GemmKernels = GemmKernels {
    a_words: A_BYTE_WORDS,
    copy_row: copy_row_bytes,
    tiles: tiles!(tile_q4_1_int8, false: 1 2),
    streams: tiles!(tile_q4_1_int8, false: 1 2),
    ..Q4_1_KERNELS
};
