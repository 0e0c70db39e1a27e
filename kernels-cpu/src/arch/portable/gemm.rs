//! The matrix product in plain Rust: tiles of 6 rows by 8 columns, 12 of 16 SSE (or 32 NEON) registers of sums.

use super::math::Array;
use crate::arch::blocks::{self, A_BLOCK_WORDS, BLOCK, Q4_0, Q4_1, Q8_0};
use crate::arch::bytes::{self, A_BYTE_WORDS};
use crate::arch::gemm::*;

unsafe fn tile_f32<const MR: usize, const NV: usize, const AHEAD: bool>(
    a: *const f32,
    b: *const f32,
    u: usize,
    c: *mut f32,
    first: bool,
    ahead: Ahead,
) {
    // SAFETY: passed on from the caller.
    unsafe { tile::<Array<4>, F32, MR, NV, AHEAD>(a, b, u, c, first, ahead) }
}

unsafe fn tile_widened<const MR: usize, const NV: usize, const AHEAD: bool>(
    a: *const f32,
    b: *const f32,
    u: usize,
    c: *mut f32,
    first: bool,
    ahead: Ahead,
) {
    // SAFETY: passed on from the caller.
    unsafe { tile::<Array<4>, Bf16Widened, MR, NV, AHEAD>(a, b, u, c, first, ahead) }
}

unsafe fn finish_tile(tile: &TileOut<'_>) {
    // SAFETY: passed on from the caller.
    unsafe { finish::<Array<4>>(tile) }
}

unsafe fn copy_row_f32(from: *const f32, len: usize, row: *mut f32, at: usize) {
    // SAFETY: passed on from the caller.
    unsafe { copy_f32(from, len, row, at) }
}

unsafe fn copy_row_rounded(from: *const f32, len: usize, row: *mut f32, at: usize) {
    // SAFETY: passed on from the caller.
    unsafe { copy_rounded(from, len, row, at) }
}

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

unsafe fn tile_q8_0<const MR: usize, const NV: usize, const AHEAD: bool>(
    a: *const f32,
    b: *const f32,
    u: usize,
    c: *mut f32,
    first: bool,
    _ahead: Ahead,
) {
    // SAFETY: passed on from the caller.
    unsafe { blocks::tile::<Array<4>, Q8_0, MR, NV>(a, b, u, c, first) }
}

unsafe fn tile_q4_0<const MR: usize, const NV: usize, const AHEAD: bool>(
    a: *const f32,
    b: *const f32,
    u: usize,
    c: *mut f32,
    first: bool,
    _ahead: Ahead,
) {
    // SAFETY: passed on from the caller.
    unsafe { blocks::tile::<Array<4>, Q4_0, MR, NV>(a, b, u, c, first) }
}

unsafe fn tile_q4_1<const MR: usize, const NV: usize, const AHEAD: bool>(
    a: *const f32,
    b: *const f32,
    u: usize,
    c: *mut f32,
    first: bool,
    _ahead: Ahead,
) {
    // SAFETY: passed on from the caller.
    unsafe { blocks::tile::<Array<4>, Q4_1, MR, NV>(a, b, u, c, first) }
}

unsafe fn copy_row_blocks(from: *const f32, len: usize, row: *mut f32, at: usize) {
    // SAFETY: passed on from the caller.
    unsafe { blocks::copy_with_sums(from, len, row, at) }
}

unsafe fn tile_f16_wide<const MR: usize, const NV: usize, const AHEAD: bool>(
    a: *const f32,
    b: *const f32,
    u: usize,
    c: *mut f32,
    first: bool,
    ahead: Ahead,
) {
    // SAFETY: passed on from the caller.
    unsafe { tile::<Array<4>, F16Widened, MR, NV, AHEAD>(a, b, u, c, first, ahead) }
}

unsafe fn tile_q8_0_int8<const MR: usize, const NV: usize, const AHEAD: bool>(
    a: *const f32,
    b: *const f32,
    u: usize,
    c: *mut f32,
    first: bool,
    _ahead: Ahead,
) {
    // SAFETY: passed on from the caller.
    unsafe { bytes::tile::<Array<4>, Q8_0, MR, NV>(a, b, u, c, first) }
}

unsafe fn tile_q4_0_int8<const MR: usize, const NV: usize, const AHEAD: bool>(
    a: *const f32,
    b: *const f32,
    u: usize,
    c: *mut f32,
    first: bool,
    _ahead: Ahead,
) {
    // SAFETY: passed on from the caller.
    unsafe { bytes::tile::<Array<4>, Q4_0, MR, NV>(a, b, u, c, first) }
}

unsafe fn tile_q4_1_int8<const MR: usize, const NV: usize, const AHEAD: bool>(
    a: *const f32,
    b: *const f32,
    u: usize,
    c: *mut f32,
    first: bool,
    _ahead: Ahead,
) {
    // SAFETY: passed on from the caller.
    unsafe { bytes::tile::<Array<4>, Q4_1, MR, NV>(a, b, u, c, first) }
}

unsafe fn copy_row_bytes(from: *const f32, len: usize, row: *mut f32, at: usize) {
    // SAFETY: passed on from the caller.
    unsafe { bytes::copy_rounded_to_bytes::<Array<4>>(from, len, row, at) }
}

macro_rules! tiles {
    ($f:ident, $ahead:literal: $($mr:literal)*) => { &[$([$f::<$mr, 1, $ahead> as Tile, $f::<$mr, 2, $ahead>]),*] };
}

/// f32 by f32.
pub static F32_KERNELS: GemmKernels = GemmKernels {
    rows: 6,
    lanes: 4,
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
