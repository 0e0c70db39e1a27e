//! Launch rule of layer norm and RMS norm: a warp a row while a warp's registers hold the row, a block a row above.

use crate::arguments;
use crate::launch::dimension;
use crate::{DevicePointer, Entry, Family, Float, Launch, LaunchError};

/// The family.
pub const FAMILY: Family = Family {
    name: "layer_norm",
    source: include_str!("kernel.cu"),
    fmad: true,
    entries: &[
        entry("layer_norm_f32_f32_warp", 0),
        entry("layer_norm_f32_f32_block", 32),
        entry("layer_norm_f32_bf16_warp", 0),
        entry("layer_norm_f32_bf16_block", 32),
        entry("layer_norm_bf16_bf16_warp", 0),
        entry("layer_norm_bf16_bf16_block", 32),
        entry("layer_norm_bf16_f32_warp", 0),
        entry("layer_norm_bf16_f32_block", 32),
    ],
};

const fn entry(name: &'static str, max_static_shared: u32) -> Entry {
    Entry { name, threads: THREADS, max_registers: 64, max_static_shared, dynamic_shared: 0 }
}

const THREADS: u32 = 128;
/// Columns that the registers of one warp hold: 32 lanes, 4 groups of 4.
const WARP_COLUMNS: u64 = 512;

arguments! {
    /// The arguments of every `layer_norm` kernel:
    /// `y = (n(x) * weight + bias) * (1 + scale[m]) + shift[m]`, `m = (row / modulation_div) % modulation_rows`.
    Arguments of "layer_norm_" {
        /// `[rows, cols]` of the input type, rows `x_stride` apart.
        x: DevicePointer,
        /// `[rows, cols]` of the output type, rows `y_stride` apart; may be `x`.
        y: DevicePointer,
        /// `[cols]` f32, or null for 1.
        weight: DevicePointer,
        /// `[cols]` f32, or null for 0.
        bias: DevicePointer,
        /// `[modulation_rows, cols]` f32, or null for 0.
        scale: DevicePointer,
        /// `[modulation_rows, cols]` f32, or null for 0.
        shift: DevicePointer,
        /// Rows.
        rows: i32,
        /// Elements of a row.
        cols: i32,
        /// Elements between rows of `x`.
        x_stride: i64,
        /// Elements between rows of `y`.
        y_stride: i64,
        /// Neighbouring rows that share a row of modulation, at least 1.
        modulation_div: i32,
        /// Rows of modulation, at least 1.
        modulation_rows: i32,
        /// Elements between them.
        modulation_stride: i64,
        /// Added to the variance.
        eps: f32,
        /// 0: subtract the mean; 1: RMS norm.
        rms: i32,
    }
}

/// A batch of rows to normalise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Rows.
    pub rows: u64,
    /// Elements of a row.
    pub cols: u64,
    /// Type of the input.
    pub input: Float,
    /// Type of the output.
    pub output: Float,
}

/// Chooses kernel and grid. The kernel's arguments are in the head of `kernel.cu`.
///
/// # Errors
/// No rows or columns, or more than an `i32` counts.
pub fn launch(shape: &Shape) -> Result<Launch, LaunchError> {
    let most = i32::MAX as u64;
    let rows = dimension(FAMILY.name, "rows", shape.rows, most)?;
    let cols = dimension(FAMILY.name, "cols", shape.cols, most)?;
    let warp = cols <= WARP_COLUMNS;
    let entry = match (shape.input, shape.output, warp) {
        (Float::F32, Float::F32, true) => "layer_norm_f32_f32_warp",
        (Float::F32, Float::F32, false) => "layer_norm_f32_f32_block",
        (Float::F32, Float::Bf16, true) => "layer_norm_f32_bf16_warp",
        (Float::F32, Float::Bf16, false) => "layer_norm_f32_bf16_block",
        (Float::Bf16, Float::Bf16, true) => "layer_norm_bf16_bf16_warp",
        (Float::Bf16, Float::Bf16, false) => "layer_norm_bf16_bf16_block",
        (Float::Bf16, Float::F32, true) => "layer_norm_bf16_f32_warp",
        (Float::Bf16, Float::F32, false) => "layer_norm_bf16_f32_block",
    };
    let rows_per_block = if warp { u64::from(THREADS) / 32 } else { 1 };
    let grid = rows.div_ceil(rows_per_block) as u32;
    Ok(Launch { entry, grid: [grid, 1, 1], block: [THREADS, 1, 1], shared_bytes: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(rows: u64, cols: u64) -> Shape {
        Shape { rows, cols, input: Float::F32, output: Float::Bf16 }
    }

    #[test]
    fn narrow_rows_take_a_warp_and_wide_ones_a_block() {
        let narrow = launch(&shape(257, 512)).unwrap();
        assert_eq!((narrow.entry, narrow.grid), ("layer_norm_f32_bf16_warp", [65, 1, 1]));
        let wide = launch(&shape(257, 513)).unwrap();
        assert_eq!((wide.entry, wide.grid), ("layer_norm_f32_bf16_block", [257, 1, 1]));
    }

    #[test]
    fn an_empty_or_uncountable_shape_is_refused() {
        assert_eq!(
            launch(&shape(0, 16)).unwrap_err(),
            LaunchError::Empty { kernel: "layer_norm", argument: "rows" }
        );
        assert!(matches!(launch(&shape(1, 1 << 31)), Err(LaunchError::TooLarge { argument: "cols", .. })));
    }
}
