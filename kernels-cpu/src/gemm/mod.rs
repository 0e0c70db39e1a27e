//! The matrix product: one blocked core under [`Linear`] and [`Conv2d`](crate::conv::Conv2d).
//!
//! Budget, for AVX-512 and f32 (bf16 is the same with pairs in place of elements):
//! * registers: a tile of 14 x 32 sums (28), one row of B (2), one broadcast of A;
//! * L1 (48 KiB): a block of A, 14 rows by 512 words, 28 KiB, packed just before use and met with every panel of the
//!   task; B streams past it from L2 in order, 128 bytes in 14 cycles;
//! * L2 (1 MiB): the task's block of B, 512 words deep, up to 512 KiB, used by each tile down the task; and the partial
//!   sums, which are read and written once a block of k. Where L2 is smaller, B comes from L3.
//!
//! A worker packs A for itself: at eight panels a task that costs 3-5 %, and there is no barrier inside a product.
//! Tasks of one or two tiles (few rows) pack A whole and read each panel of B to its end, so that B is streamed in
//! memory order.
//!
//! Tried on a Zen 5 core (GFLOP/s, `examples/gemm_peak.rs`; peak from registers 260-280 f32, 500-525 bf16):
//! * no software prefetch: 215 f32 and 343 bf16 at 1024 x 4096 x 4096, 177 at a 1x1 convolution of 64² x 512. A tile
//!   that asks for a line of the next tile's A each unit, and for C and the residual before it ends in them: 226, 462
//!   and 235;
//! * the same prefetch of B while B streams from memory for one row: 71 to 48 in bf16, it hinders the hardware's; so
//!   those tiles have none;
//! * 384 KiB of B a task: 1-3 % slower than 512 KiB;
//! * narrowing A to bf16 16 elements at a time: 350 at a 3x3 convolution of 256² x 128, 396 at 32;
//! * transposing unpacked B word by word: 11 GB/s of weights for one row, 16 with 16 x 16 blocks in registers, 20 with
//!   one strip of 16 rows read to its end before the next.

mod core;
mod grid;
mod linear;
mod operand;
#[cfg(test)]
pub(crate) mod tests;
mod weight;

pub(crate) use self::core::{Core, RowSource};
pub use linear::{Linear, LinearArgs, LinearSpec};
pub use operand::{Epilogue, RowMap, Rows};
pub use weight::{PackedMatrix, RowsDType, Weight, WeightFormat, WeightKind};

use crate::arch::{self, gemm::GemmKernels};
use crate::isa::{Features, Isa};

/// Why a product or convolution could not be prepared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GemmError {
    /// A size that must be at least 1 is 0.
    #[error("{kernel}: {size} is 0, expected at least 1")]
    Zero {
        /// The kernel.
        kernel: &'static str,
        /// The size's name.
        size: &'static str,
    },
    /// The sizes multiply to more than an address space.
    #[error("{kernel}: the sizes {sizes:?} overflow")]
    Overflow {
        /// The kernel.
        kernel: &'static str,
        /// The sizes.
        sizes: Vec<usize>,
    },
    /// A depth that is not a whole number of blocks.
    #[error("pack: a depth of {k} is not a whole number of blocks of {block}")]
    Blocks {
        /// The depth.
        k: usize,
        /// Elements of a block.
        block: usize,
    },
    /// The kernel is larger than the padded picture.
    #[error("conv2d: kernel {kernel:?} exceeds the padded input {input:?}")]
    KernelTooLarge {
        /// Kernel height and width.
        kernel: [usize; 2],
        /// Padded input height and width.
        input: [usize; 2],
    },
}

/// Refuses sizes of 0, and sizes whose product does not fit an address space with room for padding.
pub(crate) fn check_sizes(kernel: &'static str, sizes: &[(&'static str, usize)]) -> Result<(), GemmError> {
    if let Some(&(size, _)) = sizes.iter().find(|(_, value)| *value == 0) {
        return Err(GemmError::Zero { kernel, size });
    }
    let product = sizes.iter().try_fold(1usize, |product, (_, size)| product.checked_mul(*size));
    if product.is_none_or(|product| product >= 1 << 56) {
        return Err(GemmError::Overflow { kernel, sizes: sizes.iter().map(|(_, size)| *size).collect() });
    }
    Ok(())
}

/// The inner loops for weights of a format on a processor.
pub(crate) fn kernels(format: WeightFormat, features: Features) -> &'static GemmKernels {
    match (features.isa, format) {
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, WeightFormat::F32) => &arch::avx512::gemm::F32_KERNELS,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, WeightFormat::Bf16) if features.bf16 => &arch::avx512::gemm::BF16_KERNELS,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, WeightFormat::Bf16) => &arch::avx512::gemm::WIDENED_KERNELS,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, WeightFormat::F32) => &arch::avx2::gemm::F32_KERNELS,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, WeightFormat::Bf16) => &arch::avx2::gemm::WIDENED_KERNELS,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, WeightFormat::Q8_0) => &arch::avx512::gemm::Q8_0_KERNELS,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, WeightFormat::Q4_0) => &arch::avx512::gemm::Q4_0_KERNELS,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, WeightFormat::Q4_1) => &arch::avx512::gemm::Q4_1_KERNELS,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, WeightFormat::Q8_0) => &arch::avx2::gemm::Q8_0_KERNELS,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, WeightFormat::Q4_0) => &arch::avx2::gemm::Q4_0_KERNELS,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, WeightFormat::Q4_1) => &arch::avx2::gemm::Q4_1_KERNELS,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, WeightFormat::Bf16Wide) => &arch::avx512::gemm::BF16_WIDE_KERNELS,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, WeightFormat::F16Wide) => &arch::avx512::gemm::F16_WIDE_KERNELS,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, WeightFormat::Bf16Wide) => &arch::avx2::gemm::BF16_WIDE_KERNELS,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, WeightFormat::F16Wide) => &arch::avx2::gemm::F16_WIDE_KERNELS,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, WeightFormat::Q8_0Int8) if features.vnni => &arch::avx512::gemm::Q8_0_INT8_KERNELS,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, WeightFormat::Q4_0Int8) if features.vnni => &arch::avx512::gemm::Q4_0_INT8_KERNELS,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, WeightFormat::Q4_1Int8) if features.vnni => &arch::avx512::gemm::Q4_1_INT8_KERNELS,
        // Without VNNI the wider registers have no product of bytes that keeps signs.
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512 | Isa::Avx2, WeightFormat::Q8_0Int8) => &arch::avx2::gemm::Q8_0_INT8_KERNELS,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512 | Isa::Avx2, WeightFormat::Q4_0Int8) => &arch::avx2::gemm::Q4_0_INT8_KERNELS,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512 | Isa::Avx2, WeightFormat::Q4_1Int8) => &arch::avx2::gemm::Q4_1_INT8_KERNELS,
        (_, WeightFormat::F32) => &arch::portable::gemm::F32_KERNELS,
        (_, WeightFormat::Bf16) => &arch::portable::gemm::WIDENED_KERNELS,
        (_, WeightFormat::Q8_0) => &arch::portable::gemm::Q8_0_KERNELS,
        (_, WeightFormat::Q4_0) => &arch::portable::gemm::Q4_0_KERNELS,
        (_, WeightFormat::Q4_1) => &arch::portable::gemm::Q4_1_KERNELS,
        (_, WeightFormat::Bf16Wide) => &arch::portable::gemm::BF16_WIDE_KERNELS,
        (_, WeightFormat::F16Wide) => &arch::portable::gemm::F16_WIDE_KERNELS,
        (_, WeightFormat::Q8_0Int8) => &arch::portable::gemm::Q8_0_INT8_KERNELS,
        (_, WeightFormat::Q4_0Int8) => &arch::portable::gemm::Q4_0_INT8_KERNELS,
        (_, WeightFormat::Q4_1Int8) => &arch::portable::gemm::Q4_1_INT8_KERNELS,
    }
}
