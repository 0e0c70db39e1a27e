//! [`Lanes`] on `zmm` registers, and the elementary functions on them.

use super::super::blocks::BlockLanes;
use super::super::bytes::ByteLanes;
use super::super::{Lanes, formulas};
use std::arch::x86_64::*;

/// Sixteen f32 lanes.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Zmm(__m512);

impl Zmm {
    /// Wraps a register.
    ///
    /// # Safety
    /// The processor must execute AVX-512 F, BW, DQ and VL.
    #[inline(always)]
    pub unsafe fn from_raw(v: __m512) -> Zmm {
        Zmm(v)
    }

    /// The register itself.
    #[inline(always)]
    pub fn raw(self) -> __m512 {
        self.0
    }
}

/// One intrinsic on values whose existence shows that the processor has AVX-512.
macro_rules! op {
    ($e:expr) => {
        // SAFETY: a `Zmm` exists only where the processor executes AVX-512 (see `arch::lanes`).
        Zmm(unsafe { $e })
    };
}

// SAFETY: the full forms move 16 elements, the masked forms the first `n`; masked-off lanes touch no memory.
unsafe impl Lanes for Zmm {
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn new(x: f32) -> Self {
        op!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        op!(_mm512_loadu_ps(from))
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> Self {
        op!(_mm512_maskz_loadu_ps(((1u32 << n) - 1) as __mmask16, from))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for the memory, the value for the instruction set.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, n: usize) {
        // SAFETY: the caller vouches for the memory, the value for the instruction set.
        unsafe { _mm512_mask_storeu_ps(to, ((1u32 << n) - 1) as __mmask16, self.0) }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self {
        op!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    fn add(self, o: Self) -> Self {
        op!(_mm512_add_ps(self.0, o.0))
    }
    #[inline(always)]
    fn sub(self, o: Self) -> Self {
        op!(_mm512_sub_ps(self.0, o.0))
    }
    #[inline(always)]
    fn mul(self, o: Self) -> Self {
        op!(_mm512_mul_ps(self.0, o.0))
    }
    #[inline(always)]
    fn div(self, o: Self) -> Self {
        op!(_mm512_div_ps(self.0, o.0))
    }
    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        op!(_mm512_fmadd_ps(self.0, b.0, c.0))
    }
    #[inline(always)]
    fn max(self, o: Self) -> Self {
        op!(_mm512_max_ps(self.0, o.0))
    }
    #[inline(always)]
    fn min(self, o: Self) -> Self {
        op!(_mm512_min_ps(self.0, o.0))
    }
    #[inline(always)]
    fn abs(self) -> Self {
        op!(_mm512_abs_ps(self.0))
    }
    #[inline(always)]
    fn copysign(self, sign: Self) -> Self {
        // Truth table 0xD8: bits of `sign` where the mask (third operand) is set, of `self` elsewhere.
        op!(_mm512_castsi512_ps(_mm512_ternarylogic_epi32::<0xD8>(
            _mm512_castps_si512(self.0),
            _mm512_castps_si512(sign.0),
            _mm512_set1_epi32(i32::MIN),
        )))
    }
    #[inline(always)]
    fn round(self) -> Self {
        op!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0))
    }
    #[inline(always)]
    fn ldexp(self, n: Self) -> Self {
        op!(_mm512_scalef_ps(self.0, n.0))
    }
    #[inline(always)]
    fn select_lt(self, bound: Self, yes: Self, no: Self) -> Self {
        op!(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, bound.0), no.0, yes.0))
    }
    #[inline(always)]
    fn bf16_low(self) -> Self {
        op!(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_castps_si512(self.0))))
    }
    #[inline(always)]
    fn bf16_high(self) -> Self {
        op!(_mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(self.0), _mm512_set1_epi32(-65536))))
    }
}

/// Sixteen numbers from `first` on, as the table of a look-up.
macro_rules! sixteen {
    ($first:expr) => {{
        const F: f32 = $first;
        _mm512_setr_ps(
            F,
            F + 1.0,
            F + 2.0,
            F + 3.0,
            F + 4.0,
            F + 5.0,
            F + 6.0,
            F + 7.0,
            F + 8.0,
            F + 9.0,
            F + 10.0,
            F + 11.0,
            F + 12.0,
            F + 13.0,
            F + 14.0,
            F + 15.0,
        )
    }};
}

impl BlockLanes for Zmm {
    // A look-up takes the low four bits of each lane and passes the rest over.
    #[inline(always)]
    fn nibble(self) -> Self {
        op!(_mm512_permutexvar_ps(_mm512_castps_si512(self.0), sixteen!(0.0)))
    }
    #[inline(always)]
    fn centred_nibble(self) -> Self {
        op!(_mm512_permutexvar_ps(_mm512_castps_si512(self.0), sixteen!(-8.0)))
    }
    #[inline(always)]
    fn byte(self) -> Self {
        op!({
            let high = _mm512_slli_epi32::<24>(_mm512_castps_si512(self.0));
            _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(high))
        })
    }
    #[inline(always)]
    fn down4(self) -> Self {
        op!(_mm512_castsi512_ps(_mm512_srli_epi32::<4>(_mm512_castps_si512(self.0))))
    }
    #[inline(always)]
    fn down8(self) -> Self {
        op!(_mm512_castsi512_ps(_mm512_srli_epi32::<8>(_mm512_castps_si512(self.0))))
    }
    #[inline(always)]
    fn half_low(self) -> Self {
        op!(_mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_castps_si512(self.0))))
    }
    #[inline(always)]
    fn half_high(self) -> Self {
        op!(_mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(_mm512_castps_si512(self.0)))))
    }
}

// The products need AVX512_VNNI as well: only functions that enable it call them.
impl ByteLanes for Zmm {
    const SIGNED_OFFSET: f32 = 128.0;
    #[inline(always)]
    fn low_nibbles(self) -> Self {
        op!(_mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(self.0), _mm512_set1_epi8(15))))
    }
    #[inline(always)]
    fn high_nibbles(self) -> Self {
        op!(_mm512_castsi512_ps(_mm512_srli_epi32::<4>(_mm512_castps_si512(self.0)))).low_nibbles()
    }
    #[inline(always)]
    fn dot_nibbles(self, a: Self, sum: Self) -> Self {
        op!(_mm512_castsi512_ps(_mm512_dpbusd_epi32(
            _mm512_castps_si512(sum.0),
            _mm512_castps_si512(self.0),
            _mm512_castps_si512(a.0),
        )))
    }
    #[inline(always)]
    fn dot_signed(self, a: Self, sum: Self) -> Self {
        // Turning the top bit of a signed byte over makes it unsigned, 128 higher.
        op!(_mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(self.0), _mm512_set1_epi8(-128))))
            .dot_nibbles(a, sum)
    }
    #[inline(always)]
    fn integers(self) -> Self {
        op!(_mm512_cvtepi32_ps(_mm512_castps_si512(self.0)))
    }
}

macro_rules! elementary {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// The processor must execute AVX-512 F, BW, DQ and VL.
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
        pub fn $name(x: __m512) -> __m512 {
            formulas::$name(Zmm(x)).0
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
