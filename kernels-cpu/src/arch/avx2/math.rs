//! [`Lanes`] on `ymm` registers, and the elementary functions on them.

use super::super::blocks::BlockLanes;
use super::super::bytes::ByteLanes;
use super::super::{Lanes, formulas};
use std::arch::x86_64::*;

/// Eight f32 lanes.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Ymm(__m256);

impl Ymm {
    /// Wraps a register.
    ///
    /// # Safety
    /// The processor must execute AVX2 and FMA.
    #[inline(always)]
    pub unsafe fn from_raw(v: __m256) -> Ymm {
        Ymm(v)
    }

    /// The register itself.
    #[inline(always)]
    pub fn raw(self) -> __m256 {
        self.0
    }
}

/// One intrinsic on values whose existence shows that the processor has AVX2 and FMA.
macro_rules! op {
    ($e:expr) => {
        // SAFETY: a `Ymm` exists only where the processor executes AVX2 and FMA (see `arch::lanes`).
        Ymm(unsafe { $e })
    };
}

/// Ones in the lanes below `n`: a window into eight ones followed by eight zeros.
#[inline(always)]
fn mask(n: usize) -> __m256i {
    static WINDOW: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    assert!(n <= 8);
    // SAFETY: `8 - n .. 16 - n` lies inside the table; callers hold a `Ymm` or vouch for the instruction set.
    unsafe { _mm256_loadu_si256(WINDOW.as_ptr().add(8 - n).cast()) }
}

// SAFETY: the full forms move 8 elements, the masked forms the first `n`; masked-off lanes touch no memory.
unsafe impl Lanes for Ymm {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn new(x: f32) -> Self {
        op!(_mm256_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        op!(_mm256_loadu_ps(from))
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> Self {
        op!(_mm256_maskload_ps(from, mask(n)))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for the memory, the value for the instruction set.
        unsafe { _mm256_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, n: usize) {
        // SAFETY: the caller vouches for the memory, the value for the instruction set.
        unsafe { _mm256_maskstore_ps(to, mask(n), self.0) }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self {
        op!(_mm256_set1_ps(x))
    }
    #[inline(always)]
    fn add(self, o: Self) -> Self {
        op!(_mm256_add_ps(self.0, o.0))
    }
    #[inline(always)]
    fn sub(self, o: Self) -> Self {
        op!(_mm256_sub_ps(self.0, o.0))
    }
    #[inline(always)]
    fn mul(self, o: Self) -> Self {
        op!(_mm256_mul_ps(self.0, o.0))
    }
    #[inline(always)]
    fn div(self, o: Self) -> Self {
        op!(_mm256_div_ps(self.0, o.0))
    }
    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        op!(_mm256_fmadd_ps(self.0, b.0, c.0))
    }
    #[inline(always)]
    fn max(self, o: Self) -> Self {
        op!(_mm256_max_ps(self.0, o.0))
    }
    #[inline(always)]
    fn min(self, o: Self) -> Self {
        op!(_mm256_min_ps(self.0, o.0))
    }
    #[inline(always)]
    fn abs(self) -> Self {
        op!(_mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0))
    }
    #[inline(always)]
    fn copysign(self, sign: Self) -> Self {
        op!({
            let bit = _mm256_set1_ps(-0.0);
            _mm256_or_ps(_mm256_andnot_ps(bit, self.0), _mm256_and_ps(bit, sign.0))
        })
    }
    #[inline(always)]
    fn round(self) -> Self {
        op!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0))
    }
    #[inline(always)]
    fn ldexp(self, n: Self) -> Self {
        // In two halves, since 2^n itself may not be a normal f32.
        op!({
            let n = _mm256_cvtps_epi32(n.0);
            let (low, bias) = (_mm256_srai_epi32::<1>(n), _mm256_set1_epi32(127));
            let high = _mm256_sub_epi32(n, low);
            let pow2 = |e| _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(e, bias)));
            _mm256_mul_ps(_mm256_mul_ps(self.0, pow2(low)), pow2(high))
        })
    }
    #[inline(always)]
    fn select_lt(self, bound: Self, yes: Self, no: Self) -> Self {
        op!(_mm256_blendv_ps(no.0, yes.0, _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, bound.0)))
    }
    #[inline(always)]
    fn bf16_low(self) -> Self {
        op!(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256(self.0))))
    }
    #[inline(always)]
    fn bf16_high(self) -> Self {
        op!(_mm256_and_ps(self.0, _mm256_castsi256_ps(_mm256_set1_epi32(-65536))))
    }
}

impl ByteLanes for Ymm {
    const SIGNED_OFFSET: f32 = 0.0;
    #[inline(always)]
    fn low_nibbles(self) -> Self {
        op!(_mm256_castsi256_ps(_mm256_and_si256(_mm256_castps_si256(self.0), _mm256_set1_epi8(15))))
    }
    #[inline(always)]
    fn high_nibbles(self) -> Self {
        op!(_mm256_castsi256_ps(_mm256_srli_epi32::<4>(_mm256_castps_si256(self.0)))).low_nibbles()
    }
    #[inline(always)]
    fn dot_nibbles(self, a: Self, sum: Self) -> Self {
        op!({
            // Pairs of 15 * 127 stay far below 16 bits.
            let pairs = _mm256_maddubs_epi16(_mm256_castps_si256(self.0), _mm256_castps_si256(a.0));
            let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(sum.0), fours))
        })
    }
    #[inline(always)]
    fn dot_signed(self, a: Self, sum: Self) -> Self {
        op!({
            // The sign goes over to A, whose bytes are never -128: pairs reach 2 * 128 * 127, which 16 bits hold.
            let (w, a) = (_mm256_castps_si256(self.0), _mm256_castps_si256(a.0));
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w));
            let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(sum.0), fours))
        })
    }
    #[inline(always)]
    fn integers(self) -> Self {
        op!(_mm256_cvtepi32_ps(_mm256_castps_si256(self.0)))
    }
}

impl BlockLanes for Ymm {
    #[inline(always)]
    fn nibble(self) -> Self {
        op!(_mm256_cvtepi32_ps(_mm256_and_si256(_mm256_castps_si256(self.0), _mm256_set1_epi32(15))))
    }
    #[inline(always)]
    fn centred_nibble(self) -> Self {
        op!(_mm256_sub_ps(self.nibble().0, _mm256_set1_ps(8.0)))
    }
    #[inline(always)]
    fn byte(self) -> Self {
        op!({
            let high = _mm256_slli_epi32::<24>(_mm256_castps_si256(self.0));
            _mm256_cvtepi32_ps(_mm256_srai_epi32::<24>(high))
        })
    }
    #[inline(always)]
    fn down4(self) -> Self {
        op!(_mm256_castsi256_ps(_mm256_srli_epi32::<4>(_mm256_castps_si256(self.0))))
    }
    #[inline(always)]
    fn down8(self) -> Self {
        op!(_mm256_castsi256_ps(_mm256_srli_epi32::<8>(_mm256_castps_si256(self.0))))
    }
    #[inline(always)]
    fn half_low(self) -> Self {
        op!({
            let low = _mm256_and_si256(_mm256_castps_si256(self.0), _mm256_set1_epi32(0xffff));
            let halves = _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256::<1>(low));
            _mm256_cvtph_ps(halves)
        })
    }
    #[inline(always)]
    fn half_high(self) -> Self {
        op!(_mm256_castsi256_ps(_mm256_srli_epi32::<16>(_mm256_castps_si256(self.0)))).half_low()
    }
}

macro_rules! elementary {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// The processor must execute AVX2, FMA and F16C.
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        pub fn $name(x: __m256) -> __m256 {
            formulas::$name(Ymm(x)).0
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
