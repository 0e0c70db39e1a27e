//! Products with quantised blocks where the activations are rounded to signed bytes too: the named option, not the rule.
//!
//! Each 32 elements of a row of A become `step * q` with `q` in -127..=127 and `step` a 127th of the greatest magnitude,
//! as llama.cpp does. Four neighbouring bytes of a column stand in one word of a panel already (see
//! [`blocks`](super::blocks)), so one instruction multiplies them by four bytes of A and adds up: `vpdpbusd`, or two on
//! AVX2. It takes unsigned weights, so quants are multiplied as they are stored and what they stand too high,
//! [`ByteFormat::OFFSET`], is taken off once a block by the sum of A's bytes. Sums of a block are exact integers, below
//! 2^24, and so exact in f32; only scales round.

use super::Lanes;
use super::blocks::{BLOCK, BlockLanes, Q4_0, Q4_1, Q8_0};
use super::gemm::A_STRIDE;

/// Words of packed A in a block: its bytes, their step, and their sum.
pub const A_BYTE_WORDS: usize = BLOCK / 4 + 2;
const STEP: usize = BLOCK / 4;
const SUM: usize = STEP + 1;

/// Vectors whose lanes hold four bytes.
pub trait ByteLanes: BlockLanes {
    /// How much too high [`ByteLanes::dot_signed`] takes the weights.
    const SIGNED_OFFSET: f32;
    /// The low nibble of each byte.
    fn low_nibbles(self) -> Self;
    /// The high nibble of each byte.
    fn high_nibbles(self) -> Self;
    /// Adds to the integers `sum` the products of four bytes from 0 to 15 with four signed bytes of `a`.
    fn dot_nibbles(self, a: Self, sum: Self) -> Self;
    /// The same of four signed bytes, each taken [`ByteLanes::SIGNED_OFFSET`] too high.
    fn dot_signed(self, a: Self, sum: Self) -> Self;
    /// Integers as f32.
    fn integers(self) -> Self;
}

/// How the words of a block are multiplied.
pub trait ByteFormat<V: ByteLanes> {
    /// Words of quants.
    const WORDS: usize;
    /// Whether a word holds two fours of nibbles, the upper ones half a block further on.
    const NIBBLES: bool;
    /// Whether the block has a minimum.
    const MINIMUM: bool;
    /// How much too high quants are taken.
    const OFFSET: f32;
}

impl<V: ByteLanes> ByteFormat<V> for Q8_0 {
    const WORDS: usize = 8;
    const NIBBLES: bool = false;
    const MINIMUM: bool = false;
    const OFFSET: f32 = V::SIGNED_OFFSET;
}

impl<V: ByteLanes> ByteFormat<V> for Q4_0 {
    const WORDS: usize = 4;
    const NIBBLES: bool = true;
    const MINIMUM: bool = false;
    const OFFSET: f32 = 8.0;
}

impl<V: ByteLanes> ByteFormat<V> for Q4_1 {
    const WORDS: usize = 4;
    const NIBBLES: bool = true;
    const MINIMUM: bool = true;
    const OFFSET: f32 = 0.0;
}

/// The body of a [`Tile`](super::gemm::Tile) over blocks and bytes: `MR` rows by `NV` vectors.
///
/// # Safety
/// `a` holds `MR` packed rows of `units` blocks, `b` `units` blocks of `NV` vectors of columns, `acc` `MR` rows of `NV`
/// vectors, initialised unless `first`; the processor executes the instruction set.
#[inline(always)]
pub unsafe fn tile<V: ByteLanes, F: ByteFormat<V>, const MR: usize, const NV: usize>(
    a: *const f32,
    b: *const f32,
    units: usize,
    acc: *mut f32,
    first: bool,
) {
    // SAFETY: every offset stays within the three extents that the caller vouches for.
    unsafe {
        let mut sum = [[V::new(0.0); NV]; MR];
        for u in 0..units {
            let block = b.add(u * (1 + F::WORDS) * NV * V::LANES);
            let a = a.add(u * A_BYTE_WORDS);
            // The bits of 0.0 are those of the integer 0.
            let mut part = [[V::new(0.0); NV]; MR];
            for w in 0..F::WORDS {
                for j in 0..NV {
                    let word = V::load(block.add(((1 + w) * NV + j) * V::LANES));
                    if F::NIBBLES {
                        let (low, high) = (word.low_nibbles(), word.high_nibbles());
                        for (i, part) in part.iter_mut().enumerate() {
                            let row = a.add(i * A_STRIDE + w);
                            part[j] = low.dot_nibbles(V::new(*row), part[j]);
                            part[j] = high.dot_nibbles(V::new(*row.add(F::WORDS)), part[j]);
                        }
                    } else {
                        for (i, part) in part.iter_mut().enumerate() {
                            part[j] = word.dot_signed(V::new(*a.add(i * A_STRIDE + w)), part[j]);
                        }
                    }
                }
            }
            for j in 0..NV {
                let head = V::load(block.add(j * V::LANES));
                let (scale, minimum) = (head.half_low(), head.half_high());
                for (i, sum) in sum.iter_mut().enumerate() {
                    let (step, total) = (*a.add(i * A_STRIDE + STEP), *a.add(i * A_STRIDE + SUM));
                    let mut whole = part[i][j].integers();
                    if F::OFFSET != 0.0 {
                        whole = whole.sub(V::new(F::OFFSET * total));
                    }
                    sum[j] = scale.mul(V::new(step)).mul_add(whole, sum[j]);
                    if F::MINIMUM {
                        sum[j] = minimum.mul_add(V::new(step * total), sum[j]);
                    }
                }
            }
        }
        for (i, sum) in sum.iter().enumerate() {
            for (j, sum) in sum.iter().enumerate() {
                let to = acc.add((i * NV + j) * V::LANES);
                let sum = if first { *sum } else { sum.add(V::load(to)) };
                sum.store(to);
            }
        }
    }
}

/// Rounds blocks of a row of A to bytes, each with its step and sum behind it: a [`CopyRow`](super::gemm::CopyRow). What is
/// not finite makes the block's step so, and with it every product.
///
/// # Safety
/// `from` is readable for `len` elements, a whole number of blocks; `row` is writable for them, their steps and sums; the
/// processor executes the instruction set.
#[inline(always)]
pub unsafe fn copy_rounded_to_bytes<V: Lanes>(from: *const f32, len: usize, row: *mut f32, at: usize) {
    let mut lanes = [0.0f32; BLOCK];
    for block in 0..len / BLOCK {
        // SAFETY: the caller vouches for both; `lanes` holds a block, a whole number of vectors.
        unsafe {
            let from = from.add(block * BLOCK);
            let to = row.add((at / BLOCK + block) * A_BYTE_WORDS);
            // NaN stays in a sum, where a maximum would pass it over.
            let (mut most, mut finite) = (V::new(0.0), V::new(0.0));
            for i in (0..BLOCK).step_by(V::LANES) {
                let x = V::load(from.add(i));
                most = most.max(x.abs());
                finite = x.mul_add(V::new(0.0), finite);
            }
            most.add(finite.abs()).store(lanes.as_mut_ptr());
            let mut half = V::LANES / 2;
            while half > 0 {
                for i in 0..half {
                    let (x, y) = (lanes[i], lanes[i + half]);
                    lanes[i] = if x > y || x.is_nan() { x } else { y };
                }
                half /= 2;
            }
            // Zeros, and what is too small to be divided by, become zeros.
            let (most, up) = (lanes[0], 127.0 / lanes[0]);
            let (step, up) = if up.is_finite() { (most / 127.0, up) } else { (most * 0.0, 0.0) };
            let up = V::new(up);
            for i in (0..BLOCK).step_by(V::LANES) {
                V::load(from.add(i)).mul(up).round().store(lanes.as_mut_ptr().add(i));
            }
            let bytes = to.cast::<i8>();
            let mut sum = 0;
            for (i, x) in lanes.iter().enumerate() {
                let q = *x as i32;
                sum += q;
                *bytes.add(i) = q as i8;
            }
            *to.add(STEP) = step;
            *to.add(SUM) = sum as f32;
        }
    }
}
