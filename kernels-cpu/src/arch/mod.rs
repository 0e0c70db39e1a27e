//! The fast kernels, one folder an instruction set.
//!
//! What differs between the sets is a handful of vector operations ([`Lanes`]); whatever can be said in terms of
//! those is written once and compiled for each set inside a `#[target_feature]` function.

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
pub mod formulas;
pub mod gemm;
pub mod lanes;
pub mod portable;

pub use lanes::Lanes;
