//! Every kernel, as the PTX that ships, executed in emulation against f64.
//!
//! Under each of three warp orders and three ways of erring in the approximate instructions and in tensor sums, with all of the emulator's
//! checks on, a kernel must leave no finding and be as close to the reference as rounding explains.

mod attention;
mod codebook;
mod emulated;
mod gemm;
mod layer_norm;
mod limits;
mod mutations;
mod support;
