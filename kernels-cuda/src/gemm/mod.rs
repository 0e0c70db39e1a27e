//! Launch rule of the tensor-core GEMM: which tile, by a model of how long the busiest SM works.

use crate::arguments;
use crate::launch::{dimension, multiple, room};
use crate::{DevicePointer, Entry, Family, Float, GpuLimits, KIB, Launch, LaunchError};

/// The family.
pub const FAMILY: Family = Family {
    name: "gemm",
    source: include_str!("kernel.cu"),
    fmad: true,
    entries: &[
        entry("gemm_bf16_f32_128x128x32", 240, 48),
        entry("gemm_bf16_bf16_128x128x32", 240, 48),
        entry("gemm_bf16_f32_64x64x32", 96, 32),
        entry("gemm_bf16_bf16_64x64x32", 96, 32),
    ],
};

const fn entry(name: &'static str, max_registers: u32, shared_kib: u32) -> Entry {
    Entry { name, threads: 128, max_registers, max_static_shared: 0, dynamic_shared: shared_kib * KIB }
}

arguments! {
    /// The arguments of every `gemm` kernel:
    /// `C = residual + gate[g] * act(A Wᵀ + bias)`, `g = (m / gate_div) % gate_rows`.
    Arguments of "gemm_" {
        /// `[m, k]` bf16, rows `lda` apart, 16-byte aligned.
        a: DevicePointer,
        /// `[n, k]` bf16, rows `ldw` apart, 16-byte aligned.
        w: DevicePointer,
        /// `[m, n]` of the output type, rows `ldc` apart.
        c: DevicePointer,
        /// `[n]` f32, or null for 0.
        bias: DevicePointer,
        /// `[gate_rows, n]` f32, or null for 1.
        gate: DevicePointer,
        /// `[m, n]` of the output type, or null for 0; may be `c`.
        residual: DevicePointer,
        /// Rows of A and C.
        m: i32,
        /// Rows of W, columns of C.
        n: i32,
        /// Columns of A and W.
        k: i32,
        /// Elements between rows of A, a multiple of 8.
        lda: i64,
        /// Elements between rows of W, a multiple of 8.
        ldw: i64,
        /// Elements between rows of C.
        ldc: i64,
        /// Elements between rows of the residual.
        ldr: i64,
        /// Elements between rows of the gate.
        ldg: i64,
        /// Neighbouring rows that share a row of the gate, at least 1.
        gate_div: i32,
        /// Rows of the gate, at least 1.
        gate_rows: i32,
        /// An [`Activation`] as a number.
        activation: i32,
    }
}

/// What is applied to a sum and its bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Activation {
    /// Nothing.
    None = 0,
    /// `x * sigmoid(x)`.
    Silu = 1,
    /// GELU by its tanh approximation.
    GeluTanh = 2,
    /// GELU by the error function.
    GeluErf = 3,
    /// `max(x, 0)`.
    Relu = 4,
    /// `x * sigmoid(1.702 x)`, CLIP's.
    QuickGelu = 5,
}

impl Activation {
    /// The function in f64: what a kernel's f32 is judged by.
    pub fn exact(self, x: f64) -> f64 {
        match self {
            Activation::None => x,
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::GeluTanh => {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
            }
            Activation::GeluErf => 0.5 * x * (1.0 + erf(x / 2.0_f64.sqrt())),
            Activation::Relu => x.max(0.0),
            Activation::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
        }
    }
}

/// The error function by its series, good to f64's cancellation for |x| < 4.5, and ±1 beyond.
fn erf(x: f64) -> f64 {
    if x.abs() >= 4.5 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

/// Outputs of a tile are `SIDE x SIDE`; a step along K is 32.
#[derive(Debug, Clone, Copy)]
struct Tile {
    side: u64,
    f32: &'static str,
    bf16: &'static str,
    /// Wavefronts of shared memory a step: 16-byte copies in, `ldmatrix` out.
    shared_clocks: u64,
}

const TILES: [Tile; 2] = [
    Tile {
        side: 128,
        f32: "gemm_bf16_f32_128x128x32",
        bf16: "gemm_bf16_bf16_128x128x32",
        shared_clocks: 384,
    },
    Tile { side: 64, f32: "gemm_bf16_f32_64x64x32", bf16: "gemm_bf16_bf16_64x64x32", shared_clocks: 192 },
];

/// A product `C[m, n] = A[m, k] W[n, k]ᵀ`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Rows of A and C.
    pub m: u64,
    /// Rows of W, columns of C.
    pub n: u64,
    /// Columns of A and W.
    pub k: u64,
    /// Elements between rows of A.
    pub lda: u64,
    /// Elements between rows of W.
    pub ldw: u64,
    /// Type of C and of the residual.
    pub output: Float,
}

/// What a `Shape` costs on one SM with one tile, in clocks: the waves of blocks, and a block's steps along K bounded by
/// tensor cores or shared memory. Modelled.
fn modelled_clocks(tile: &Tile, shape: &Shape, limits: &GpuLimits) -> u64 {
    let blocks = shape.m.div_ceil(tile.side) * shape.n.div_ceil(tile.side);
    let tensor_clocks = tile.side * tile.side * 32 / u64::from(limits.mma_per_clock);
    blocks.div_ceil(u64::from(limits.sms)) * shape.k.div_ceil(32) * tensor_clocks.max(tile.shared_clocks)
}

/// Chooses tile and grid. The kernel's arguments are in the head of `kernel.cu`.
///
/// # Errors
/// An empty or uncountable dimension; `lda` or `ldw` no multiple of 8 (16-byte copies); a GPU with too little shared
/// memory.
pub fn launch(shape: &Shape, limits: &GpuLimits) -> Result<Launch, LaunchError> {
    // Tiles beyond the end are still counted in i32.
    let most = i32::MAX as u64 - 128;
    dimension(FAMILY.name, "m", shape.m, most)?;
    dimension(FAMILY.name, "n", shape.n, most)?;
    dimension(FAMILY.name, "k", shape.k, most)?;
    multiple(FAMILY.name, "lda", shape.lda, 8)?;
    multiple(FAMILY.name, "ldw", shape.ldw, 8)?;
    // The first of equals: the large tile reads A and W from L2 half as often.
    let tile = TILES.iter().min_by_key(|t| modelled_clocks(t, shape, limits)).unwrap_or(&TILES[0]);
    let name = match shape.output {
        Float::F32 => tile.f32,
        Float::Bf16 => tile.bf16,
    };
    let shared_bytes = FAMILY.entry(name).map_or(0, |e| e.dynamic_shared);
    room(FAMILY.name, shared_bytes, limits)?;
    let blocks = shape.m.div_ceil(tile.side) * shape.n.div_ceil(tile.side);
    let blocks = dimension(FAMILY.name, "tiles", blocks, i32::MAX as u64)?;
    Ok(Launch { entry: name, grid: [blocks as u32, 1, 1], block: [128, 1, 1], shared_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{A100, MODELLED_GPUS, RTX_4090};

    fn shape(m: u64, n: u64, k: u64) -> Shape {
        Shape { m, n, k, lda: k.next_multiple_of(8), ldw: k.next_multiple_of(8), output: Float::F32 }
    }

    #[test]
    fn a_product_that_fills_the_gpu_takes_the_large_tile() {
        let launch = launch(&shape(4096, 6144, 1536), &A100).unwrap();
        assert_eq!(launch.entry, "gemm_bf16_f32_128x128x32");
        assert_eq!((launch.grid, launch.shared_bytes), ([32 * 48, 1, 1], 48 * KIB));
    }

    #[test]
    fn a_product_with_fewer_large_tiles_than_sms_takes_the_small_one() {
        let launch = launch(&shape(256, 1536, 1536), &A100).unwrap();
        assert_eq!((launch.entry, launch.grid), ("gemm_bf16_f32_64x64x32", [4 * 24, 1, 1]));
    }

    #[test]
    fn the_chosen_tile_is_never_the_slower_one_in_the_model() {
        for gpu in MODELLED_GPUS {
            for m in [1, 64, 65, 256, 768, 1000, 4096] {
                for n in [16, 512, 1536, 4608, 6144] {
                    let shape = shape(m, n, 1536);
                    let launch = launch(&shape, gpu).unwrap();
                    let clocks = TILES.map(|t| modelled_clocks(&t, &shape, gpu));
                    let chosen = usize::from(launch.entry == TILES[1].f32);
                    assert!(clocks[chosen] <= clocks[1 - chosen], "{m} {n} on {}", gpu.name);
                }
            }
        }
    }

    #[test]
    fn the_grid_covers_remainders() {
        let launch = launch(&shape(65, 129, 33), &RTX_4090).unwrap();
        let side = if launch.entry.ends_with("128x128x32") { 128 } else { 64 };
        assert_eq!(launch.blocks(), 65_u64.div_ceil(side) * 129_u64.div_ceil(side));
    }

    #[test]
    fn rows_that_16_byte_copies_cannot_follow_are_refused() {
        let mut odd = shape(64, 64, 30);
        odd.lda = 30;
        let error = launch(&odd, &A100).unwrap_err();
        assert_eq!(error.to_string(), "gemm: lda is 30; it must be a multiple of 8");
        assert!(matches!(launch(&shape(0, 64, 64), &A100), Err(LaunchError::Empty { argument: "m", .. })));
        let tiny = GpuLimits { shared_per_block: 16 * KIB, ..A100.clone() };
        assert!(matches!(launch(&shape(64, 64, 64), &tiny), Err(LaunchError::NoRoom { .. })));
    }
}
