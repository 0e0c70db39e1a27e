//! CUDA C++ kernels, one folder a family, and for each its launch rule.
//!
//! A folder holds `kernel.cu`, which opens with what bounds the kernel and how its registers and shared memory are
//! spent, and `mod.rs`, the launch rule: entry, grid, block and shared memory as a pure function of the shape and of a
//! GPU's limits. Both are plain text and arithmetic, so this crate builds and its tests pass without CUDA. The
//! compiled PTX is in `selftok-kernels-ptx`; the binary of this crate makes and checks it.
//!
//! No claim here is of a run on a GPU. What holds is: the PTX is executed in emulation, and the SASS is assembled for
//! sm_80, sm_89, sm_90a, sm_100 and sm_120.

mod arguments;
pub mod attention;
pub mod codebook;
#[cfg(feature = "cudarc")]
pub mod device;
mod family;
pub mod gemm;
mod launch;
pub mod layer_norm;
mod limits;

pub(crate) use arguments::arguments;
pub use arguments::{Argument, DevicePointer, KernelArguments, Parameter};
pub use family::{COMMON_HEADERS, Entry, FAMILIES, Family};
pub use launch::{Float, Launch, LaunchError};
pub use limits::{A100, GpuLimits, H100, MODELLED_GPUS, RTX_4090, RTX_5090};

/// Bytes of a KiB, in which tables of GPUs count.
const KIB: u32 = 1024;
