//! Every kernel on the CPU: plain references, and fast twins for AVX-512, AVX2 and portable Rust, chosen at run time.

pub mod aligned;
pub mod arch;
pub mod attention;
pub mod cache;
pub mod codebook;
pub mod combine;
pub mod conv;
pub mod elementwise;
pub mod embed;
pub mod exec;
pub mod gemm;
pub mod group_norm;
pub mod isa;
pub mod kernel;
pub mod norm;
pub mod pool;
pub mod reference;
pub mod rope;
mod scratch;
pub mod simd;
pub mod softmax;
pub mod strided;

pub use gemm::RowMap;
pub use isa::Isa;
pub use kernel::Kernel;
