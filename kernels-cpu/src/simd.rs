//! What the kernels need of vectors beyond [`Lanes`], and the door through which they enter an instruction set.
//!
//! A kernel is written once, as a [`Program`]; [`launch`] picks the vector type and calls the kernel inside a function
//! compiled with the right `target_feature`s, into which the whole body is inlined. So everything generic over
//! [`Simd`] is `#[inline(always)]`: what stayed outside would be compiled for the baseline, right but slow.

use crate::arch::Lanes;
use crate::isa::{Features, Isa};

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
    /// Asks for the cache line at `p`, which may lie anywhere.
    fn prefetch(p: *const f32);
    /// Lanes 2i and 2i+1 exchanged.
    fn swap_pairs(self) -> Self;
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

/// `each_vector!(V, len, |i, n| body)` executes `body` for each whole vector of `0..len` with `n = LANES`, a constant, and
/// once more for the `n` elements left over; [`load`] and [`store`] take that number.
///
/// A macro and not a function of a closure: a closure cannot be `#[inline(always)]`, and a body that the compiler
/// leaves in one is compiled for the baseline, forty times slower.
macro_rules! each_vector {
    ($V:ty, $len:expr, |$i:ident, $n:ident| $body:expr) => {{
        let (len, lanes) = ($len, <$V as $crate::arch::Lanes>::LANES);
        let mut at = 0;
        while at + lanes <= len {
            let ($i, $n) = (at, <$V as $crate::arch::Lanes>::LANES);
            $body;
            at += lanes;
        }
        if at < len {
            let ($i, $n) = (at, len - at);
            $body;
        }
    }};
}
pub(crate) use each_vector;

/// `with_activation!(act, A => body)` executes `body` with `A` a constant, so that its loop holds one formula.
macro_rules! with_activation {
    ($act:expr, $A:ident => $body:expr) => {{
        macro_rules! body {
            ($value:ident) => {{
                const $A: selftok_graph::Activation = selftok_graph::Activation::$value;
                $body
            }};
        }
        match $act {
            selftok_graph::Activation::Identity => body!(Identity),
            selftok_graph::Activation::Silu => body!(Silu),
            selftok_graph::Activation::GeluTanh => body!(GeluTanh),
            selftok_graph::Activation::GeluErf => body!(GeluErf),
            selftok_graph::Activation::QuickGelu => body!(QuickGelu),
            selftok_graph::Activation::Relu => body!(Relu),
            selftok_graph::Activation::Tanh => body!(Tanh),
        }
    }};
}
pub(crate) use with_activation;

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
