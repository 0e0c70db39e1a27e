//! Every kernel on the CPU: plain references, and fast twins for AVX-512, AVX2 and portable Rust, chosen at run time.

pub mod isa;
pub mod reference;

pub use isa::Isa;
