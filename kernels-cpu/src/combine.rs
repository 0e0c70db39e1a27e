//! `sum_i coeffs[i] * x_i`: guidance and every solver's update are linear combinations whose coefficients change each
//! step, so they are read from memory and the plan stays the same.

use crate::isa::Features;
use crate::kernel::{Kernel, STREAM_TASK, part};
use crate::simd::{Program, Simd, each_vector, launch, load, store};

/// Most terms of a combination.
pub const MAX_TERMS: usize = 8;

/// `y = sum_i coeffs[i] * x_i` over dense arrays, summed in order.
#[derive(Clone, Copy, Debug)]
pub struct Combine {
    /// `[terms]`
    pub coeffs: *const f32,
    /// Operands `[len]`; the first `terms` count.
    pub x: [*const f32; MAX_TERMS],
    /// From 1 to [`MAX_TERMS`].
    pub terms: usize,
    /// Result `[len]`; may be any of the operands.
    pub y: *mut f32,
    /// Elements.
    pub len: usize,
}

impl Kernel for Combine {
    fn tasks(&self) -> usize {
        self.len.div_ceil(STREAM_TASK)
    }

    unsafe fn run(&self, features: Features, task: usize, _scratch: &mut [u8]) {
        // SAFETY: by contract.
        unsafe { launch(features, Task { args: self, task }) }
    }
}

struct Task<'a> {
    args: &'a Combine,
    task: usize,
}

impl Program for Task<'_> {
    #[inline(always)]
    unsafe fn execute<V: Simd>(self) {
        let a = self.args;
        let range = part(self.task, STREAM_TASK, a.len);
        // SAFETY: by the contract of `Kernel::run`.
        unsafe {
            each_vector!(V, range.len(), |i, n| {
                let at = range.start + i;
                let mut sum = V::new(*a.coeffs).mul(load(a.x[0].add(at), n));
                for (j, x) in a.x[..a.terms].iter().enumerate().skip(1) {
                    sum = V::new(*a.coeffs.add(j)).mul_add(load(x.add(at), n), sum);
                }
                store(sum, a.y.add(at), n);
            });
        }
    }
}
