//! What the kernel tests share: seeded numbers, aligned scratch, every instruction set, and the verdict on errors.
#![allow(dead_code)] // each test file uses its part

use selftok_kernels_cpu::Kernel;
use selftok_kernels_cpu::aligned::AlignedBuf;
use selftok_kernels_cpu::isa::{Features, Isa};

/// Every feature set that this machine can be lowered to.
pub fn all_features() -> Vec<Features> {
    Isa::available().into_iter().map(Features::lowered_to).collect()
}

/// `n` numbers in [-1, 1) from a seed (splitmix64).
pub fn random(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x2545_F491_4F6C_DD1D);
    (0..n)
        .map(|_| {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// Fails unless every element is within `bound(i)` of the reference.
pub fn assert_close(what: &str, got: &[f32], want: &[f64], bound: impl Fn(usize) -> f64) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(g) - w).abs();
        assert!(
            error <= bound(i),
            "{what}: element {i} is {g}, should be {w} (error {error:e}, bound {:e})",
            bound(i)
        );
    }
}

/// Does all tasks of a kernel, last first, since their order must not matter.
///
/// The kernel's pointers have to cover its shapes.
pub fn run_all(kernel: &impl Kernel, features: Features) {
    // Full of NaN, so that reading what nobody wrote shows.
    let mut scratch = AlignedBuf::zeroed(kernel.scratch_bytes());
    scratch.as_mut_slice().fill(0xFF);
    for task in (0..kernel.tasks()).rev() {
        // SAFETY: the tests build their pointers from vectors of the right sizes.
        unsafe { kernel.run(features, task, scratch.as_mut_slice()) }
    }
}
