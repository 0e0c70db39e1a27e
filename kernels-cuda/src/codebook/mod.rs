//! Launch rule of the codebook argmax: how many slices of codes make the grid fill the GPU once.

use crate::arguments;
use crate::launch::dimension;
use crate::{DevicePointer, Entry, Family, GpuLimits, Launch, LaunchError};

/// The family. Its sums must be the reference's, bit for bit, so nothing is fused that the source does not fuse.
pub const FAMILY: Family = Family {
    name: "codebook",
    source: include_str!("kernel.cu"),
    fmad: false,
    entries: &[
        entry("codebook_partial_c16", 88, 11264),
        entry("codebook_partial_c32", 128, 19456),
        entry("codebook_partial_c64", 144, 34304),
        entry("codebook_merge", 40, 0),
    ],
};

const fn entry(name: &'static str, max_registers: u32, max_static_shared: u32) -> Entry {
    Entry { name, threads: 128, max_registers, max_static_shared, dynamic_shared: 0 }
}

arguments! {
    /// The arguments of the `codebook_partial` kernels.
    PartialArguments of "codebook_partial_" {
        /// `[rows, c]` f32, rows `x_stride` apart.
        x: DevicePointer,
        /// `[v, c]` f32, contiguous.
        codes: DevicePointer,
        /// `[slices, rows]` of 16 bytes, aligned to them.
        candidates: DevicePointer,
        /// Rows.
        rows: i32,
        /// Elements of a row and of a code.
        c: i32,
        /// Codes.
        v: i32,
        /// Elements between rows of `x`.
        x_stride: i64,
        /// Codes of a slice, as the launch rule says.
        slice_codes: i32,
        /// The least norm that a row is divided by.
        eps: f32,
    }
}

arguments! {
    /// The arguments of `codebook_merge`.
    MergeArguments of "codebook_merge" {
        /// What the other kernel wrote.
        candidates: DevicePointer,
        /// `[rows]` i32.
        index: DevicePointer,
        /// `[rows]` f32, the best score less the second best; may be null.
        margin: DevicePointer,
        /// Rows.
        rows: i32,
        /// Slices, as the launch rule says.
        slices: i32,
    }
}

/// Codes of a shared tile; a slice is a multiple of it.
const TILE: u64 = 64;

/// An instance: the widest code, the rows of a block.
const INSTANCES: [(u64, u64, &str); 3] =
    [(16, 64, "codebook_partial_c16"), (32, 64, "codebook_partial_c32"), (64, 32, "codebook_partial_c64")];

/// The nearest of `codes` codes to each of `rows` rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Rows.
    pub rows: u64,
    /// Codes.
    pub codes: u64,
    /// Elements of a row and of a code.
    pub width: u64,
}

/// Two launches, one after the other on one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launches {
    /// Writes a candidate for each row and slice.
    pub partial: Launch,
    /// Merges the candidates.
    pub merge: Launch,
    /// The argument `slice_codes` of the first.
    pub slice_codes: u32,
    /// The argument `slices` of the second.
    pub slices: u32,
    /// Bytes of candidates between the two.
    pub workspace_bytes: u64,
}

/// Chooses kernels, grids and slices. The kernels' arguments are in the head of `kernel.cu`.
///
/// # Errors
/// An empty or uncountable dimension, or codes wider than 64.
pub fn launch(shape: &Shape, limits: &GpuLimits) -> Result<Launches, LaunchError> {
    let most = i32::MAX as u64 - TILE;
    let rows = dimension(FAMILY.name, "rows", shape.rows, most)?;
    let codes = dimension(FAMILY.name, "codes", shape.codes, most)?;
    let width = dimension(FAMILY.name, "width", shape.width, 64)?;
    let &(_, block_rows, name) = INSTANCES.iter().find(|i| i.0 >= width).unwrap_or(&INSTANCES[2]);

    // One full wave: more slices than that repeat the set-up of a row, fewer leave SMs idle.
    let resident = FAMILY
        .entry(name)
        .map_or(1, |e| limits.occupancy(e.threads, e.max_registers, e.max_static_shared))
        .max(1);
    let row_tiles = rows.div_ceil(block_rows);
    let wanted = (u64::from(limits.sms * resident) / row_tiles).clamp(1, codes.div_ceil(TILE).min(65535));
    let slice_codes = codes.div_ceil(wanted).next_multiple_of(TILE);
    let slices = codes.div_ceil(slice_codes);

    let launch = |entry, grid| Launch { entry, grid, block: [128, 1, 1], shared_bytes: 0 };
    Ok(Launches {
        partial: launch(name, [row_tiles as u32, slices as u32, 1]),
        merge: launch("codebook_merge", [rows.div_ceil(128) as u32, 1, 1]),
        slice_codes: slice_codes as u32,
        slices: slices as u32,
        workspace_bytes: slices * rows * 16,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{A100, MODELLED_GPUS};

    #[test]
    fn selftoks_codebook_fills_one_wave() {
        let launches = launch(&Shape { rows: 512, codes: 32768, width: 16 }, &A100).unwrap();
        assert_eq!(launches.partial.entry, "codebook_partial_c16");
        let resident = 108 * u64::from(A100.occupancy(128, 88, 11264));
        assert!(
            launches.partial.blocks() <= resident && launches.partial.blocks() * 2 > resident,
            "{launches:?}"
        );
        assert_eq!(launches.workspace_bytes, u64::from(launches.slices) * 512 * 16);
    }

    #[test]
    fn slices_cover_all_codes_and_none_is_empty() {
        for gpu in MODELLED_GPUS {
            for rows in [1, 63, 64, 65, 5000, 1_000_000] {
                for codes in [1, 64, 65, 4096, 32768, 100_003] {
                    for width in [1, 16, 17, 64] {
                        let l = launch(&Shape { rows, codes, width }, gpu).unwrap();
                        let (slices, slice) = (u64::from(l.slices), u64::from(l.slice_codes));
                        assert!(slices * slice >= codes && (slices - 1) * slice < codes, "{l:?}");
                        assert_eq!(slice % TILE, 0);
                        assert_eq!(l.partial.grid[1], l.slices);
                    }
                }
            }
        }
    }

    #[test]
    fn wider_codes_are_refused() {
        let error = launch(&Shape { rows: 1, codes: 1, width: 65 }, &A100).unwrap_err();
        assert_eq!(error.to_string(), "codebook: width is 65; at most 64 is supported");
    }
}
