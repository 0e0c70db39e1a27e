//! Products with weights that stay quantised in blocks of 32 (GGUF's Q8_0, Q4_0, Q4_1), written once on
//! [`BlockLanes`].
//!
//! A unit of k is a whole block. A column's block is a few words: first its scale and minimum (two halves in one word),
//! then its quants as the file has them, four bytes a word. So a panel is words as ever, a vector holds one word of 16
//! columns, and quants come out of it by shifting: on AVX-512 a nibble is the index of a table look-up, two
//! operations beside the multiply-add. Scales are applied once a block. A packed row of A carries, after each 32 elements,
//! their sum, which is what a block's minimum is multiplied by. Activations stay f32.

use super::Lanes;
use super::gemm::A_STRIDE;

/// Elements of a block.
pub const BLOCK: usize = 32;
/// Words of packed A in a block: its elements and their sum.
pub const A_BLOCK_WORDS: usize = BLOCK + 1;

/// Vectors whose lanes hold quants.
pub trait BlockLanes: Lanes {
    /// The low four bits of each lane as a number from 0 to 15.
    fn nibble(self) -> Self;
    /// The low four bits of each lane, less 8.
    fn centred_nibble(self) -> Self;
    /// The low eight bits of each lane as a signed number.
    fn byte(self) -> Self;
    /// The bits of each lane moved down by four.
    fn down4(self) -> Self;
    /// The bits of each lane moved down by eight.
    fn down8(self) -> Self;
    /// The low half of each lane, an IEEE half, as f32.
    fn half_low(self) -> Self;
    /// The high half of each lane, an IEEE half, as f32.
    fn half_high(self) -> Self;
}

/// How a block's quants become numbers.
pub trait BlockFormat<V: BlockLanes> {
    /// Words of quants.
    const WORDS: usize;
    /// Quants of a word.
    const PER_WORD: usize;
    /// Whether the block has a minimum.
    const MINIMUM: bool;
    /// Which element of the block the `n`-th quant of word `w` is.
    fn element(w: usize, n: usize) -> usize;
    /// The quant that stands lowest.
    fn value(words: V) -> V;
    /// The next one moved there.
    fn next(words: V) -> V;
}

/// Signed bytes.
pub struct Q8_0;
/// Nibbles from -8 to 7.
pub struct Q4_0;
/// Nibbles from 0 to 15, and a minimum.
pub struct Q4_1;

/// Byte `i` of 16 holds element `i` below and element `16 + i` above.
#[inline(always)]
fn nibble_element(w: usize, n: usize) -> usize {
    4 * w + n / 2 + 16 * (n % 2)
}

impl<V: BlockLanes> BlockFormat<V> for Q8_0 {
    const WORDS: usize = 8;
    const PER_WORD: usize = 4;
    const MINIMUM: bool = false;
    #[inline(always)]
    fn element(w: usize, n: usize) -> usize {
        4 * w + n
    }
    #[inline(always)]
    fn value(words: V) -> V {
        words.byte()
    }
    #[inline(always)]
    fn next(words: V) -> V {
        words.down8()
    }
}

impl<V: BlockLanes> BlockFormat<V> for Q4_0 {
    const WORDS: usize = 4;
    const PER_WORD: usize = 8;
    const MINIMUM: bool = false;
    #[inline(always)]
    fn element(w: usize, n: usize) -> usize {
        nibble_element(w, n)
    }
    #[inline(always)]
    fn value(words: V) -> V {
        words.centred_nibble()
    }
    #[inline(always)]
    fn next(words: V) -> V {
        words.down4()
    }
}

impl<V: BlockLanes> BlockFormat<V> for Q4_1 {
    const WORDS: usize = 4;
    const PER_WORD: usize = 8;
    const MINIMUM: bool = true;
    #[inline(always)]
    fn element(w: usize, n: usize) -> usize {
        nibble_element(w, n)
    }
    #[inline(always)]
    fn value(words: V) -> V {
        words.nibble()
    }
    #[inline(always)]
    fn next(words: V) -> V {
        words.down4()
    }
}

/// The body of a [`Tile`](super::gemm::Tile) over blocks: `MR` rows by `NV` vectors.
///
/// # Safety
/// `a` holds `MR` packed rows of `units` blocks, `b` `units` blocks of `NV` vectors of columns, `acc` `MR` rows of `NV`
/// vectors, initialised unless `first`; the processor executes the instruction set.
#[inline(always)]
pub unsafe fn tile<V: BlockLanes, F: BlockFormat<V>, const MR: usize, const NV: usize>(
    a: *const f32,
    b: *const f32,
    units: usize,
    acc: *mut f32,
    first: bool,
) {
    // Few rows have few sums under way: two chains for each hide a multiply-add's latency.
    let chains = if MR <= 2 { 2 } else { 1 };
    // SAFETY: every offset stays within the three extents that the caller vouches for.
    unsafe {
        let mut sum = [[V::new(0.0); NV]; MR];
        for u in 0..units {
            let block = b.add(u * (1 + F::WORDS) * NV * V::LANES);
            let a = a.add(u * A_BLOCK_WORDS);
            let mut part = [[[V::new(0.0); NV]; MR]; 2];
            for w in 0..F::WORDS {
                let mut words = [V::new(0.0); NV];
                for (j, words) in words.iter_mut().enumerate() {
                    *words = V::load(block.add(((1 + w) * NV + j) * V::LANES));
                }
                for n in 0..F::PER_WORD {
                    let mut quants = [V::new(0.0); NV];
                    for j in 0..NV {
                        quants[j] = F::value(words[j]);
                        words[j] = F::next(words[j]);
                    }
                    for (i, part) in part[n % chains].iter_mut().enumerate() {
                        let x = V::new(*a.add(i * A_STRIDE + F::element(w, n)));
                        for j in 0..NV {
                            part[j] = x.mul_add(quants[j], part[j]);
                        }
                    }
                }
            }
            for j in 0..NV {
                let head = V::load(block.add(j * V::LANES));
                let (scale, minimum) = (head.half_low(), head.half_high());
                for (i, sum) in sum.iter_mut().enumerate() {
                    let mut part_sum = part[0][i][j];
                    if chains == 2 {
                        part_sum = part_sum.add(part[1][i][j]);
                    }
                    sum[j] = scale.mul_add(part_sum, sum[j]);
                    if F::MINIMUM {
                        sum[j] = minimum.mul_add(V::new(*a.add(i * A_STRIDE + BLOCK)), sum[j]);
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

/// Copies blocks of a row of A, each with its sum behind it: a [`CopyRow`](super::gemm::CopyRow).
///
/// # Safety
/// `from` is readable for `len` elements, a whole number of blocks; `row` is writable for them and their sums.
#[inline(always)]
pub unsafe fn copy_with_sums(from: *const f32, len: usize, row: *mut f32, at: usize) {
    for block in 0..len / BLOCK {
        // SAFETY: the caller vouches for both.
        unsafe {
            let from = from.add(block * BLOCK);
            let to = row.add((at / BLOCK + block) * A_BLOCK_WORDS);
            let mut sums = [0.0f32; 8];
            for i in 0..BLOCK {
                let x = *from.add(i);
                *to.add(i) = x;
                sums[i % 8] += x;
            }
            *to.add(BLOCK) = sums.iter().sum();
        }
    }
}
