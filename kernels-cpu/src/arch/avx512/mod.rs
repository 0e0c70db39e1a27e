//! Kernels for AVX-512; every entry is a `#[target_feature]` function.

pub mod gemm;
pub mod math;
pub mod vector;
