//! What a launch rule answers, and why it may refuse.

use crate::GpuLimits;

/// One kernel launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// The kernel's name in the PTX module of its family.
    pub entry: &'static str,
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y and z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory. Above 48 KiB the kernel needs
    /// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES` set first.
    pub shared_bytes: u32,
}

impl Launch {
    /// Blocks of the whole grid.
    pub fn blocks(&self) -> u64 {
        self.grid.iter().map(|&n| u64::from(n)).product()
    }
}

/// The element type of a kernel's input or output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Float {
    /// 32 bits.
    F32,
    /// The upper half of an f32.
    Bf16,
}

/// A shape that no kernel of the family takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// A dimension has no elements, so there is nothing to launch.
    #[error("{kernel}: {argument} is 0; a launch needs at least one")]
    Empty {
        /// The kernel family.
        kernel: &'static str,
        /// The argument's name.
        argument: &'static str,
    },
    /// A dimension is more than the kernel can index.
    #[error("{kernel}: {argument} is {value}; at most {most} is supported")]
    TooLarge {
        /// The kernel family.
        kernel: &'static str,
        /// The argument's name.
        argument: &'static str,
        /// Its value.
        value: u64,
        /// The largest that works.
        most: u64,
    },
    /// A dimension or stride that 16-byte copies cannot follow.
    #[error("{kernel}: {argument} is {value}; it must be a multiple of {multiple}")]
    Misaligned {
        /// The kernel family.
        kernel: &'static str,
        /// The argument's name.
        argument: &'static str,
        /// Its value.
        value: u64,
        /// What it must be a multiple of.
        multiple: u64,
    },
    /// No tile of the kernel fits a block's shared memory on this GPU.
    #[error("{kernel}: a block needs {needed} bytes of shared memory and {gpu} gives {given}")]
    NoRoom {
        /// The kernel family.
        kernel: &'static str,
        /// The GPU.
        gpu: &'static str,
        /// Bytes that the smallest tile needs.
        needed: u32,
        /// Bytes that a block can have.
        given: u32,
    },
}

/// Checks that a dimension is in `1..=most`.
pub(crate) fn dimension(
    kernel: &'static str,
    argument: &'static str,
    value: u64,
    most: u64,
) -> Result<u64, LaunchError> {
    match value {
        0 => Err(LaunchError::Empty { kernel, argument }),
        _ if value > most => Err(LaunchError::TooLarge { kernel, argument, value, most }),
        _ => Ok(value),
    }
}

/// Checks that a dimension or stride is a multiple.
pub(crate) fn multiple(
    kernel: &'static str,
    argument: &'static str,
    value: u64,
    multiple: u64,
) -> Result<(), LaunchError> {
    if value.is_multiple_of(multiple) {
        Ok(())
    } else {
        Err(LaunchError::Misaligned { kernel, argument, value, multiple })
    }
}

/// Checks that a block's shared memory fits.
pub(crate) fn room(kernel: &'static str, needed: u32, limits: &GpuLimits) -> Result<(), LaunchError> {
    if needed <= limits.shared_per_block {
        return Ok(());
    }
    Err(LaunchError::NoRoom { kernel, gpu: limits.name, needed, given: limits.shared_per_block })
}
