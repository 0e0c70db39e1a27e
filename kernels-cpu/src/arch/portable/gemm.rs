//! The matrix product in plain Rust: tiles of 6 rows by 8 columns, 12 of 16 SSE (or 32 NEON) registers of sums.

use super::math::Array;
use crate::arch::blocks::{self, A_BLOCK_WORDS, BLOCK, Q4_0, Q4_1, Q8_0};
use crate::arch::bytes::{self, A_BYTE_WORDS};
use crate::arch::entries::{block_tiles, dense_tiles, row_entries, tables, tiles};
use crate::arch::gemm::*;

unsafe fn transpose_words(
    from: *const u8,
    stride: usize,
    rows: usize,
    words: usize,
    to: *mut f32,
    width: usize,
) {
    // SAFETY: passed on from the caller.
    unsafe { transpose(from, stride, rows, words, to, width) }
}

unsafe fn widen_row_f16(from: *const u8, len: usize, to: *mut f32) {
    // SAFETY: passed on from the caller.
    unsafe { widen_f16(from, len, to) }
}

// No features to enter with: `inline` stands where the others have them.
dense_tiles!(#[inline] Array<4>: tile_f32 = F32, tile_widened = Bf16Widened, tile_f16_wide = F16Widened);
block_tiles!(#[inline] blocks, Array<4>: tile_q8_0 = Q8_0, tile_q4_0 = Q4_0, tile_q4_1 = Q4_1);
block_tiles!(#[inline] bytes, Array<4>: tile_q8_0_int8 = Q8_0, tile_q4_0_int8 = Q4_0, tile_q4_1_int8 = Q4_1);
row_entries!(#[inline] Array<4>);

tables!(lanes 4, rows 6: 1 2 3 4 5 6, block rows 2: 1 2);
