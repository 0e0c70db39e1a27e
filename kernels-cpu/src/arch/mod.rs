//! The fast kernels, one folder an instruction set.
//!
//! What differs between the sets is a handful of vector operations ([`Lanes`]); whatever can be said in terms of
//! those is written once and compiled for each set inside a `#[target_feature]` function.

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
pub mod blocks;
pub mod bytes;
mod entries;
pub mod formulas;
pub mod gemm;
pub mod lanes;
pub mod portable;

pub use lanes::Lanes;

/// Asks for the cache line of `at` without waiting; any address will do, nothing is dereferenced.
#[inline(always)]
pub fn prefetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of the x86-64 baseline, and a prefetch never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast())
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}
