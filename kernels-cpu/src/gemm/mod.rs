//! The matrix product: one blocked core under [`Linear`] and [`Conv2d`](crate::conv::Conv2d).
//!
//! Budget, for AVX-512 and f32 (bf16 is the same with pairs in place of elements):
//! * registers: a tile of 14 x 32 sums (28), one row of B (2), one broadcast of A;
//! * L1 (48 KiB): a block of A, 14 rows by 512 words, 28 KiB, packed just before use and met with every panel of the
//!   task; B streams past it from L2 in order, 128 bytes in 14 cycles;
//! * L2 (1 MiB): the task's block of B, 512 words deep, up to 384 KiB, used by each tile down the task; and the partial
//!   sums, which are read and written once a block of k.
//!
//! A worker packs A for itself: at six panels a task that costs 2–3 %, and there is no barrier inside a product. Tasks
//! of one tile (few rows) pack A whole and read each panel of B to its end, so that B is streamed in memory order.

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
        (_, WeightFormat::F32) => &arch::portable::gemm::F32_KERNELS,
        (_, WeightFormat::Bf16) => &arch::portable::gemm::WIDENED_KERNELS,
    }
}
