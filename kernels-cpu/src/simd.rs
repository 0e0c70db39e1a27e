//! What the kernels need of vectors beyond [`Lanes`], and the door through which they enter an instruction set.
//!
//! A kernel is written once, as a [`Program`]; [`launch`] picks the vector type and calls the kernel inside a function
//! compiled with the right `target_feature`s, into which the whole body is inlined. So everything generic over
//! [`Simd`] is `#[inline(always)]`: what stayed outside would be compiled for the baseline, right but slow.

use crate::arch::{Lanes, formulas};
use crate::isa::{Features, Isa};
use selftok_graph::Activation;

/// A vector of f32 with the operations that cross lanes.
pub trait Simd: Lanes {
    /// Rows of a matrix-product tile, two vectors wide, that the registers hold.
    const TILE_ROWS: usize;

    /// `dst[c * dst_stride + r] = src[r * src_stride + c]` for a square of `LANES` rows and columns.
    ///
    /// # Safety
    /// The processor has the instruction set; the squares are readable and writable, and do not overlap.
    unsafe fn transpose(src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize);
    /// Adds the lanes to `sums[0..LANES]` and their squares to `squares[0..LANES]`, in f64.
    ///
    /// # Safety
    /// Both are readable and writable for `LANES` elements.
    unsafe fn accumulate_f64(self, sums: *mut f64, squares: *mut f64);
    /// The sum of the lanes.
    fn sum(self) -> f32;
    /// The largest lane.
    fn largest(self) -> f32;
}

/// A kernel's body, written for any vector type.
pub trait Program {
    /// Does the work. Implementations are `#[inline(always)]`.
    ///
    /// # Safety
    /// The processor has the instruction set of `V`, and whatever the kernel's own arguments ask for holds.
    unsafe fn execute<V: Simd>(self);
}

/// Executes `program` with the widest vectors of `features`.
///
/// # Safety
/// `features` tells the truth of this processor (which [`Features::detect`] and [`Features::lowered_to`] ensure), and
/// whatever the program's own arguments ask for holds.
#[inline]
pub unsafe fn launch<P: Program>(features: Features, program: P) {
    // SAFETY: the instruction set is there, by the caller's word; so are the program's own conditions.
    unsafe {
        match features.isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => crate::arch::avx512::vector::enter(program),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => crate::arch::avx2::vector::enter(program),
            _ => program.execute::<crate::arch::portable::math::Array<4>>(),
        }
    }
}

/// A nonlinearity applied to each lane.
///
/// # Safety
/// The processor has the instruction set of `V`.
#[inline(always)]
pub unsafe fn activate<V: Simd>(act: Activation, x: V) -> V {
    let k = |c: f32| x.splat(c);
    match act {
        Activation::Identity => x,
        Activation::Silu => x.mul(formulas::sigmoid(x)),
        Activation::QuickGelu => x.mul(formulas::sigmoid(x.mul(k(1.702)))),
        Activation::GeluTanh => {
            let inner = x.mul(x).mul(x).mul_add(k(0.044_715), x).mul(k(0.797_884_6));
            x.mul(k(0.5)).mul(k(1.0).add(formulas::tanh(inner)))
        }
        Activation::GeluErf => {
            x.mul(k(0.5)).mul(k(1.0).add(formulas::erf(x.mul(k(std::f32::consts::FRAC_1_SQRT_2)))))
        }
        // The operand order hands a NaN through.
        Activation::Relu => k(0.0).max(x),
    }
}

/// Calls `f(i, LANES)` for each whole vector of `0..n` and once more for the rest, so that a loop reads as one.
///
/// `f` is told how many lanes count; [`load`] and [`store`] take that number.
#[inline(always)]
pub fn each_vector<V: Simd>(n: usize, mut f: impl FnMut(usize, usize)) {
    let whole = n - n % V::LANES;
    let mut i = 0;
    while i < whole {
        f(i, V::LANES);
        i += V::LANES;
    }
    if i < n {
        f(i, n - i);
    }
}

/// The first `n` elements at `p` (all lanes where `n` is their number), zeros behind.
///
/// # Safety
/// The processor has the instruction set, and `n` elements are readable.
#[inline(always)]
pub unsafe fn load<V: Simd>(p: *const f32, n: usize) -> V {
    // SAFETY: by contract.
    unsafe { if n == V::LANES { V::load(p) } else { V::load_first(p, n) } }
}

/// Writes the first `n` lanes to `p`.
///
/// # Safety
/// `n` elements are writable.
#[inline(always)]
pub unsafe fn store<V: Simd>(x: V, p: *mut f32, n: usize) {
    // SAFETY: by contract.
    unsafe { if n == V::LANES { x.store(p) } else { x.store_first(p, n) } }
}
