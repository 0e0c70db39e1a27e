//! Every kernel on the CPU: plain references, and fast twins for AVX-512, AVX2 and portable Rust, chosen at run time.

pub mod aligned;
pub mod arch;
pub mod conv;
pub mod gemm;
pub mod isa;

pub use isa::Isa;
