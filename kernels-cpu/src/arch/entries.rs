//! How an instruction set enters the shared bodies of the matrix product.
//!
//! A body is generic over vectors and inlined whole; what makes it code of one instruction set is the `target_feature` of
//! the function that holds it. Those functions and the tables that point to them are alike but for that attribute, the
//! vector and the height of a tile, so they are written once, here.

/// Tiles whose body is [`tile`](super::gemm::tile), each by its kind of product.
macro_rules! dense_tiles {
    (#[$features:meta] $vector:ty: $($name:ident = $of:ty),*) => { $(
        #[$features]
        unsafe fn $name<const MR: usize, const NV: usize, const AHEAD: bool>(
            a: *const f32,
            b: *const f32,
            u: usize,
            c: *mut f32,
            first: bool,
            ahead: Ahead,
        ) {
            // SAFETY: passed on from the caller.
            unsafe { tile::<$vector, $of, MR, NV, AHEAD>(a, b, u, c, first, ahead) }
        }
    )* };
}

/// Tiles over blocks of quantised weights, each by its format; the body is `tile` of the module named.
macro_rules! block_tiles {
    (#[$features:meta] $body:ident, $vector:ty: $($name:ident = $of:ty),*) => { $(
        #[$features]
        unsafe fn $name<const MR: usize, const NV: usize, const AHEAD: bool>(
            a: *const f32,
            b: *const f32,
            u: usize,
            c: *mut f32,
            first: bool,
            _ahead: Ahead,
        ) {
            // SAFETY: passed on from the caller.
            unsafe { $body::tile::<$vector, $of, MR, NV>(a, b, u, c, first) }
        }
    )* };
}

/// What finishes a tile, and what packs rows of A.
macro_rules! row_entries {
    (#[$features:meta] $vector:ty) => {
        #[$features]
        unsafe fn finish_tile(tile: &TileOut<'_>) {
            // SAFETY: passed on from the caller.
            unsafe { finish::<$vector>(tile) }
        }

        #[$features]
        unsafe fn copy_row_f32(from: *const f32, len: usize, row: *mut f32, at: usize) {
            // SAFETY: passed on from the caller.
            unsafe { copy_f32(from, len, row, at) }
        }

        #[$features]
        unsafe fn copy_row_rounded(from: *const f32, len: usize, row: *mut f32, at: usize) {
            // SAFETY: passed on from the caller.
            unsafe { copy_rounded(from, len, row, at) }
        }

        #[$features]
        unsafe fn copy_row_blocks(from: *const f32, len: usize, row: *mut f32, at: usize) {
            // SAFETY: passed on from the caller.
            unsafe { blocks::copy_with_sums(from, len, row, at) }
        }

        #[$features]
        unsafe fn copy_row_bytes(from: *const f32, len: usize, row: *mut f32, at: usize) {
            // SAFETY: passed on from the caller.
            unsafe { bytes::copy_rounded_to_bytes::<$vector>(from, len, row, at) }
        }
    };
}

/// A row of [`GemmKernels::tiles`](super::gemm::GemmKernels::tiles) for each height.
macro_rules! tiles {
    ($f:ident, $ahead:literal: $($mr:literal)*) => { &[$([$f::<$mr, 1, $ahead> as Tile, $f::<$mr, 2, $ahead>]),*] };
}

/// The tables of every instruction set: lanes of a vector, the heights of a tile, and those of a tile over blocks.
macro_rules! tables {
    (lanes $lanes:literal, rows $rows:literal: $($mr:literal)*, block rows $block_rows:literal: $($block:literal)*) => {
        /// f32 by f32.
        pub static F32_KERNELS: GemmKernels = GemmKernels {
            rows: $rows,
            lanes: $lanes,
            unit: 1,
            a_words: 1,
            b_words: 1,
            tiles: tiles!(tile_f32, true: $($mr)*),
            streams: tiles!(tile_f32, false: $($mr)*),
            copy_row: copy_row_f32,
            finish: finish_tile,
            transpose: transpose_words,
            widen_f16: widen_row_f16,
        };

        /// bf16 by bf16, widened.
        pub static WIDENED_KERNELS: GemmKernels = GemmKernels {
            unit: 2,
            a_words: 2,
            tiles: tiles!(tile_widened, true: $($mr)*),
            streams: tiles!(tile_widened, false: $($mr)*),
            copy_row: copy_row_rounded,
            ..F32_KERNELS
        };

        /// f32 by bf16, widened; nothing is rounded.
        pub static BF16_WIDE_KERNELS: GemmKernels = GemmKernels { copy_row: copy_row_f32, ..WIDENED_KERNELS };

        /// f32 by f16, widened; nothing is rounded.
        pub static F16_WIDE_KERNELS: GemmKernels = GemmKernels {
            tiles: tiles!(tile_f16_wide, true: $($mr)*),
            streams: tiles!(tile_f16_wide, false: $($mr)*),
            ..BF16_WIDE_KERNELS
        };

        /// f32 by blocks of Q8_0.
        pub static Q8_0_KERNELS: GemmKernels = GemmKernels {
            rows: $block_rows,
            unit: BLOCK,
            a_words: A_BLOCK_WORDS,
            copy_row: copy_row_blocks,
            b_words: 1 + 8,
            tiles: tiles!(tile_q8_0, false: $($block)*),
            streams: tiles!(tile_q8_0, false: $($block)*),
            ..F32_KERNELS
        };

        /// f32 by blocks of Q4_0.
        pub static Q4_0_KERNELS: GemmKernels = GemmKernels {
            b_words: 1 + 4,
            tiles: tiles!(tile_q4_0, false: $($block)*),
            streams: tiles!(tile_q4_0, false: $($block)*),
            ..Q8_0_KERNELS
        };

        /// f32 by blocks of Q4_1.
        pub static Q4_1_KERNELS: GemmKernels = GemmKernels {
            tiles: tiles!(tile_q4_1, false: $($block)*),
            streams: tiles!(tile_q4_1, false: $($block)*),
            ..Q4_0_KERNELS
        };

        /// Bytes by blocks of Q8_0.
        pub static Q8_0_INT8_KERNELS: GemmKernels = GemmKernels {
            a_words: A_BYTE_WORDS,
            copy_row: copy_row_bytes,
            tiles: tiles!(tile_q8_0_int8, false: $($block)*),
            streams: tiles!(tile_q8_0_int8, false: $($block)*),
            ..Q8_0_KERNELS
        };

        /// Bytes by blocks of Q4_0.
        pub static Q4_0_INT8_KERNELS: GemmKernels = GemmKernels {
            a_words: A_BYTE_WORDS,
            copy_row: copy_row_bytes,
            tiles: tiles!(tile_q4_0_int8, false: $($block)*),
            streams: tiles!(tile_q4_0_int8, false: $($block)*),
            ..Q4_0_KERNELS
        };

        /// Bytes by blocks of Q4_1.
        pub static Q4_1_INT8_KERNELS: GemmKernels = GemmKernels {
            a_words: A_BYTE_WORDS,
            copy_row: copy_row_bytes,
            tiles: tiles!(tile_q4_1_int8, false: $($block)*),
            streams: tiles!(tile_q4_1_int8, false: $($block)*),
            ..Q4_1_KERNELS
        };
    };
}

pub(super) use {block_tiles, dense_tiles, row_entries, tables, tiles};
