//! Kernels in plain Rust, for whatever the baseline target vectorises to.

pub mod gemm;
pub mod math;
pub mod vector;
