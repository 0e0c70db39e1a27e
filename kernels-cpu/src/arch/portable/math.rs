//! [`Lanes`] on a plain array, which the compiler maps to the baseline's registers, and the scalar functions.

use super::super::blocks::BlockLanes;
use super::super::bytes::ByteLanes;
use super::super::{Lanes, formulas};

/// `N` f32 lanes in an array.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Array<const N: usize>(pub [f32; N]);

impl<const N: usize> Array<N> {
    #[inline(always)]
    fn map(self, f: impl Fn(f32) -> f32) -> Self {
        Array(std::array::from_fn(|i| f(self.0[i])))
    }
    #[inline(always)]
    fn zip(self, o: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Array(std::array::from_fn(|i| f(self.0[i], o.0[i])))
    }
}

/// `a * b + c`, fused only where the target has the instruction: the library's software FMA is a call.
#[inline(always)]
fn mul_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) { a.mul_add(b, c) } else { a * b + c }
}

impl<const N: usize> BlockLanes for Array<N> {
    #[inline(always)]
    fn nibble(self) -> Self {
        self.map(|x| (x.to_bits() & 15) as f32)
    }
    #[inline(always)]
    fn centred_nibble(self) -> Self {
        self.map(|x| (x.to_bits() & 15) as f32 - 8.0)
    }
    #[inline(always)]
    fn byte(self) -> Self {
        self.map(|x| f32::from(x.to_bits() as i8))
    }
    #[inline(always)]
    fn down4(self) -> Self {
        self.map(|x| f32::from_bits(x.to_bits() >> 4))
    }
    #[inline(always)]
    fn down8(self) -> Self {
        self.map(|x| f32::from_bits(x.to_bits() >> 8))
    }
    #[inline(always)]
    fn half_low(self) -> Self {
        self.map(|x| half::f16::from_bits(x.to_bits() as u16).to_f32())
    }
    #[inline(always)]
    fn half_high(self) -> Self {
        self.map(|x| half::f16::from_bits((x.to_bits() >> 16) as u16).to_f32())
    }
}

impl<const N: usize> ByteLanes for Array<N> {
    const SIGNED_OFFSET: f32 = 0.0;
    #[inline(always)]
    fn low_nibbles(self) -> Self {
        self.map(|x| f32::from_bits(x.to_bits() & 0x0f0f_0f0f))
    }
    #[inline(always)]
    fn high_nibbles(self) -> Self {
        self.map(|x| f32::from_bits((x.to_bits() >> 4) & 0x0f0f_0f0f))
    }
    #[inline(always)]
    fn dot_nibbles(self, a: Self, sum: Self) -> Self {
        // Nibbles are signed bytes as well.
        self.dot_signed(a, sum)
    }
    #[inline(always)]
    fn dot_signed(self, a: Self, sum: Self) -> Self {
        Array(std::array::from_fn(|i| {
            let (w, a) = (self.0[i].to_bits().to_le_bytes(), a.0[i].to_bits().to_le_bytes());
            let products = w.into_iter().zip(a).map(|(w, a)| i32::from(w as i8) * i32::from(a as i8));
            let sum = sum.0[i].to_bits() as i32 + products.sum::<i32>();
            f32::from_bits(sum as u32)
        }))
    }
    #[inline(always)]
    fn integers(self) -> Self {
        self.map(|x| x.to_bits() as i32 as f32)
    }
}

// SAFETY: the full forms move N elements, the partial forms the first `n`.
unsafe impl<const N: usize> Lanes for Array<N> {
    const LANES: usize = N;

    #[inline(always)]
    unsafe fn new(x: f32) -> Self {
        Array([x; N])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for N readable elements.
        Array(unsafe { from.cast::<[f32; N]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> Self {
        // SAFETY: the caller vouches for `n` readable elements.
        Array(std::array::from_fn(|i| if i < n { unsafe { from.add(i).read_unaligned() } } else { 0.0 }))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for N writable elements.
        unsafe { to.cast::<[f32; N]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, n: usize) {
        for (i, x) in self.0.into_iter().enumerate().take(n) {
            // SAFETY: the caller vouches for `n` writable elements.
            unsafe { to.add(i).write_unaligned(x) }
        }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self {
        Array([x; N])
    }
    #[inline(always)]
    fn add(self, o: Self) -> Self {
        self.zip(o, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, o: Self) -> Self {
        self.zip(o, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, o: Self) -> Self {
        self.zip(o, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, o: Self) -> Self {
        self.zip(o, |a, b| a / b)
    }
    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        Array(std::array::from_fn(|i| mul_add(self.0[i], b.0[i], c.0[i])))
    }
    #[inline(always)]
    fn max(self, o: Self) -> Self {
        self.zip(o, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, o: Self) -> Self {
        self.zip(o, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn abs(self) -> Self {
        self.map(f32::abs)
    }
    #[inline(always)]
    fn copysign(self, sign: Self) -> Self {
        self.zip(sign, f32::copysign)
    }
    #[inline(always)]
    fn round(self) -> Self {
        // Adding 1.5 * 2^23 leaves no fraction bits, so the sum rounds to an integer, ties to even.
        const SHIFT: f32 = 12_582_912.0;
        self.map(|a| (a + SHIFT) - SHIFT)
    }
    #[inline(always)]
    fn ldexp(self, n: Self) -> Self {
        // In two halves, since 2^n itself may not be a normal f32.
        self.zip(n, |a, n| {
            let n = n as i32;
            let (low, high) = (n >> 1, n - (n >> 1));
            let pow2 = |e: i32| f32::from_bits(((e + 127) as u32) << 23);
            a * pow2(low) * pow2(high)
        })
    }
    #[inline(always)]
    fn select_lt(self, bound: Self, yes: Self, no: Self) -> Self {
        Array(std::array::from_fn(|i| if self.0[i] < bound.0[i] { yes.0[i] } else { no.0[i] }))
    }
    #[inline(always)]
    fn bf16_low(self) -> Self {
        self.map(|a| f32::from_bits(a.to_bits() << 16))
    }
    #[inline(always)]
    fn bf16_high(self) -> Self {
        self.map(|a| f32::from_bits(a.to_bits() & 0xffff_0000))
    }
}

macro_rules! elementary {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[inline]
        pub fn $name(x: f32) -> f32 {
            formulas::$name(Array([x])).0[0]
        }
    )*};
}

elementary! {
    /// `e^x`, to 2 ulp.
    exp;
    /// Hyperbolic tangent, to 2 ulp.
    tanh;
    /// Error function, to 2 ulp.
    erf;
    /// The logistic function, to 3 ulp.
    sigmoid;
}
