//! A vector of f32 lanes: the vocabulary in which the kernels are written once for every instruction set.
//!
//! A value of a SIMD type is the proof that the processor executes its instruction set: values come only from the
//! `unsafe` constructors, so the arithmetic on them is safe. Everything is `#[inline(always)]`, since these bodies
//! must melt into the `#[target_feature]` function that calls them; called from elsewhere they are right but slow.

/// A vector of f32 lanes.
///
/// # Safety
/// Implementers promise that `load` and `store` touch exactly [`Lanes::LANES`] elements, and the `_first` forms
/// exactly the first `n`.
pub unsafe trait Lanes: Copy {
    /// The number of f32 lanes.
    const LANES: usize;

    /// All lanes equal to `x`.
    ///
    /// # Safety
    /// The processor must execute this type's instruction set.
    unsafe fn new(x: f32) -> Self;

    /// Reads `LANES` elements, at any alignment.
    ///
    /// # Safety
    /// The processor must execute this type's instruction set; `from` must be readable for `LANES` elements.
    unsafe fn load(from: *const f32) -> Self;

    /// Reads the first `n < LANES` elements and zeroes the rest; memory past them is not touched.
    ///
    /// # Safety
    /// As for [`Lanes::load`], with `n` elements readable.
    unsafe fn load_first(from: *const f32, n: usize) -> Self;

    /// Writes `LANES` elements, at any alignment.
    ///
    /// # Safety
    /// `to` must be writable for `LANES` elements.
    unsafe fn store(self, to: *mut f32);

    /// Writes the first `n < LANES` elements; memory past them is not touched.
    ///
    /// # Safety
    /// `to` must be writable for `n` elements.
    unsafe fn store_first(self, to: *mut f32, n: usize);

    /// All lanes equal to `x`; `self` only witnesses that the instruction set is there.
    fn splat(self, x: f32) -> Self;
    /// `self + o`.
    fn add(self, o: Self) -> Self;
    /// `self - o`.
    fn sub(self, o: Self) -> Self;
    /// `self * o`.
    fn mul(self, o: Self) -> Self;
    /// `self / o`.
    fn div(self, o: Self) -> Self;
    /// `self * b + c`, rounded once where the set has FMA.
    fn mul_add(self, b: Self, c: Self) -> Self;
    /// The greater of the two; `o` where either is NaN.
    fn max(self, o: Self) -> Self;
    /// The lesser of the two; `o` where either is NaN.
    fn min(self, o: Self) -> Self;
    /// Magnitude.
    fn abs(self) -> Self;
    /// The magnitude of `self` with the sign of `sign`.
    fn copysign(self, sign: Self) -> Self;
    /// Nearest integer, ties to even; for magnitudes below 2^22.
    fn round(self) -> Self;
    /// `self * 2^n` for integer-valued `n` in [-250, 250], gradual underflow and overflow included.
    fn ldexp(self, n: Self) -> Self;
    /// Lane by lane, `yes` where `self < bound`, else `no`.
    fn select_lt(self, bound: Self, yes: Self, no: Self) -> Self;
    /// The bit pattern of each lane shifted left by 16: the low bf16 of a pair, as f32.
    fn bf16_low(self) -> Self;
    /// The bit pattern of each lane with its low 16 bits cleared: the high bf16 of a pair, as f32.
    fn bf16_high(self) -> Self;
}
