//! The inner loops of the matrix product, written once on [`Lanes`].
//!
//! A *tile* is up to `MR` rows by one or two vectors of columns; its sums live in registers while the loop runs over
//! k. The depth is counted in *units* of one 32-bit word of B a column: one f32, or a pair of bf16. A is packed
//! row by row, [`A_STRIDE`] words apart: rows are copied, not transposed, and each broadcast is one load with a
//! constant displacement. The stride is an odd number of cache lines, so that the rows of a tile spread over the L1
//! sets.

use super::Lanes;
use super::blocks::BlockLanes;
use crate::gemm::{Epilogue, RowMap, Rows};
use selftok_graph::Activation;

/// Words of one packed row of A: the greatest block of k.
pub const A_WORDS: usize = 512;
/// Words from one packed row of A to the next.
pub const A_STRIDE: usize = A_WORDS + 16;

/// Multiplies a packed block of A by a packed panel of B and sets (`first`) or adds to the tile `acc`
/// (rows of the panel's width, contiguous).
///
/// Meanwhile it may prefetch what `ahead` names.
pub type Tile =
    unsafe fn(a: *const f32, b: *const f32, units: usize, acc: *mut f32, first: bool, ahead: Ahead);

/// Memory that will be read soon: rows of `1 << shift` cache lines, `stride` bytes apart. A tile prefetches a line a
/// unit, since a burst of prefetches would fill the miss buffers and stall. Nothing is dereferenced.
#[derive(Clone, Copy, Debug)]
pub struct Ahead {
    /// The first byte.
    pub from: *const u8,
    /// Bytes from row to row.
    pub stride: usize,
    /// The logarithm of the lines of a row.
    pub shift: u32,
}

/// Writes `len` elements of a row of A in packed form, at element `at` of the packed row `row`.
pub type CopyRow = unsafe fn(from: *const f32, len: usize, row: *mut f32, at: usize);

/// Carries a finished tile to C.
pub type Finish = unsafe fn(tile: &TileOut<'_>);

/// Transposes `rows` rows of `words` 32-bit words, `stride` bytes apart and unaligned, to `[words][width]`;
/// columns from `rows` on are zeroed.
pub type Transpose =
    unsafe fn(from: *const u8, stride: usize, rows: usize, words: usize, to: *mut f32, width: usize);

/// Converts `len` f16 at any alignment to f32.
pub type WidenF16 = unsafe fn(from: *const u8, len: usize, to: *mut f32);

/// How far along a row of B to prefetch while transposing, in bytes: sixteen rows are too many streams for the hardware.
pub const TRANSPOSE_AHEAD: usize = 512;

/// The inner loops of one instruction set for one kind of arithmetic.
pub struct GemmKernels {
    /// Greatest number of rows of a tile.
    pub rows: usize,
    /// Lanes of a vector; a panel of B is two vectors wide, the last one perhaps one.
    pub lanes: usize,
    /// Elements of k in a unit: 1 for f32, 2 for bf16 and f16, a block of quants.
    pub unit: usize,
    /// Words of packed A in a unit.
    pub a_words: usize,
    /// Words of a column of B in a unit.
    pub b_words: usize,
    /// `tiles[rows - 1][vectors - 1]`, prefetching.
    pub tiles: &'static [[Tile; 2]],
    /// The same for B that is streamed from memory: without prefetching, which would hinder the hardware's.
    pub streams: &'static [[Tile; 2]],
    /// Packs a piece of a row of A.
    pub copy_row: CopyRow,
    /// Finishes a tile.
    pub finish: Finish,
    /// Packs B.
    pub transpose: Transpose,
    /// Widens f16.
    pub widen_f16: WidenF16,
}

impl GemmKernels {
    /// Zeroes what is missing of the last unit of a packed row of `len` elements.
    ///
    /// # Safety
    /// `row` is a packed row of `len` elements.
    #[inline(always)]
    pub unsafe fn pad_row(&self, row: *mut f32, len: usize) {
        if len % self.unit == 1 {
            // SAFETY: an odd length leaves half a unit, which the row's stride has room for.
            unsafe {
                match self.a_words {
                    1 => row.cast::<u16>().add(len).write(0),
                    _ => row.add(len).write(0.0),
                }
            }
        }
    }
}

/// One unit of k: `acc + a · b`. In loops, not closures: a closure may stay a function of its own, without the caller's
/// instruction set.
pub trait Dot<V: Lanes> {
    /// Words of packed A in a unit.
    const A_WORDS: usize;
    /// Units that are added up one after another before they join the sum of those before.
    ///
    /// Each addition rounds at the size of what it adds to, so the error of one long chain grows with its length, that of
    /// short ones with the root of it. Shorter chains cost more: joining takes about as long as three units.
    const CHAIN: usize;
    /// Adds the product of one unit of a row of A (at `a`) with one unit of each column (`b`).
    ///
    /// # Safety
    /// `a` must be readable for [`Dot::A_WORDS`] words, and the processor must execute the instruction set.
    unsafe fn dot<const NV: usize>(a: *const f32, b: [V; NV], acc: [V; NV]) -> [V; NV];
}

/// f32 by f32.
pub struct F32;
/// bf16 pairs of B, widened while they are loaded, by f32 values of A (rounded to bf16 or not, as they were packed).
pub struct Bf16Widened;
/// f16 pairs of B, widened while they are loaded, by f32.
pub struct F16Widened;

impl<V: Lanes> Dot<V> for F32 {
    const A_WORDS: usize = 1;
    const CHAIN: usize = 32;
    #[inline(always)]
    unsafe fn dot<const NV: usize>(a: *const f32, b: [V; NV], acc: [V; NV]) -> [V; NV] {
        // SAFETY: the caller vouches for the word and the instruction set.
        let a = unsafe { V::new(*a) };
        let mut sum = acc;
        for j in 0..NV {
            sum[j] = a.mul_add(b[j], sum[j]);
        }
        sum
    }
}

impl<V: Lanes> Dot<V> for Bf16Widened {
    const A_WORDS: usize = 2;
    // The operands' own rounding is far above that of the sums.
    const CHAIN: usize = A_WORDS;
    #[inline(always)]
    unsafe fn dot<const NV: usize>(a: *const f32, b: [V; NV], acc: [V; NV]) -> [V; NV] {
        // SAFETY: the caller vouches for the two words and the instruction set.
        let (low, high) = unsafe { (V::new(*a), V::new(*a.add(1))) };
        let mut sum = acc;
        for j in 0..NV {
            sum[j] = high.mul_add(b[j].bf16_high(), low.mul_add(b[j].bf16_low(), sum[j]));
        }
        sum
    }
}

impl<V: BlockLanes> Dot<V> for F16Widened {
    const A_WORDS: usize = 2;
    // Pairs, so that a chain is as long as one of f32.
    const CHAIN: usize = 16;
    #[inline(always)]
    unsafe fn dot<const NV: usize>(a: *const f32, b: [V; NV], acc: [V; NV]) -> [V; NV] {
        // SAFETY: the caller vouches for the two words and the instruction set.
        let (low, high) = unsafe { (V::new(*a), V::new(*a.add(1))) };
        let mut sum = acc;
        for j in 0..NV {
            sum[j] = high.mul_add(b[j].half_high(), low.mul_add(b[j].half_low(), sum[j]));
        }
        sum
    }
}

/// The body of every [`Tile`]: `MR` rows by `NV` vectors.
///
/// # Safety
/// `a` holds `MR` packed rows of `units` units, `b` `units` rows of `NV` vectors, `acc` `MR` rows of `NV` vectors,
/// initialised unless `first`; the processor executes the instruction set.
#[inline(always)]
pub unsafe fn tile<V: Lanes, D: Dot<V>, const MR: usize, const NV: usize, const AHEAD: bool>(
    a: *const f32,
    b: *const f32,
    units: usize,
    acc: *mut f32,
    first: bool,
    ahead: Ahead,
) {
    // SAFETY: every offset stays within the three extents that the caller vouches for.
    unsafe {
        for from in (0..units).step_by(D::CHAIN) {
            let mut sum = [[V::new(0.0); NV]; MR];
            for u in from..units.min(from + D::CHAIN) {
                if AHEAD {
                    let line = (u >> ahead.shift) * ahead.stride + (u & ((1 << ahead.shift) - 1)) * 64;
                    super::prefetch(ahead.from.wrapping_add(line));
                }
                let mut columns = [V::new(0.0); NV];
                for (j, column) in columns.iter_mut().enumerate() {
                    *column = V::load(b.add((u * NV + j) * V::LANES));
                }
                for (i, sum) in sum.iter_mut().enumerate() {
                    *sum = D::dot(a.add(i * A_STRIDE + u * D::A_WORDS), columns, *sum);
                }
            }
            for (i, sum) in sum.iter().enumerate() {
                for (j, sum) in sum.iter().enumerate() {
                    let to = acc.add((i * NV + j) * V::LANES);
                    let sum = if first && from == 0 { *sum } else { sum.add(V::load(to)) };
                    sum.store(to);
                }
            }
        }
    }
}

/// A finished tile and its place in C.
pub struct TileOut<'a> {
    /// The sums, `rows` rows of `width`.
    pub acc: *const f32,
    /// Columns of the tile, a multiple of the lanes.
    pub width: usize,
    /// First row in C.
    pub m: usize,
    /// Rows that exist.
    pub rows: usize,
    /// First column in C.
    pub n: usize,
    /// Columns that exist, at most `width`.
    pub cols: usize,
    /// What to do with them.
    pub epilogue: &'a Epilogue,
}

/// A pointwise function.
#[inline(always)]
pub fn activate<V: Lanes>(act: Activation, x: V) -> V {
    use super::formulas::{erf, sigmoid, tanh};
    let k = |c: f32| x.splat(c);
    match act {
        Activation::Identity => x,
        Activation::Silu => x.mul(sigmoid(x)),
        Activation::GeluTanh => {
            // 0.5 (1 + tanh u) = sigmoid(2u): one exponential and no cancellation.
            let cubic = x.mul(x).mul(x).mul_add(k(0.044715), x);
            x.mul(sigmoid(cubic.mul(k(2.0 * 0.797_884_6))))
        }
        Activation::GeluErf => {
            let half = x.mul(k(0.5));
            half.mul_add(erf(x.mul(k(std::f32::consts::FRAC_1_SQRT_2))), half)
        }
        Activation::QuickGelu => x.mul(sigmoid(x.mul(k(1.702)))),
        Activation::Relu => k(0.0).max(x),
        Activation::Tanh => tanh(x),
    }
}

/// The body of every [`Finish`]. The choice of function is made once a tile, so each loop holds one formula.
///
/// # Safety
/// The tile's extents lie within the memory of its operands; the processor executes the instruction set.
#[inline(always)]
pub unsafe fn finish<V: Lanes>(tile: &TileOut<'_>) {
    // SAFETY: passed on from the caller.
    unsafe {
        match tile.epilogue.act {
            Activation::Identity => finish_with::<V>(tile, Activation::Identity),
            Activation::Silu => finish_with::<V>(tile, Activation::Silu),
            Activation::GeluTanh => finish_with::<V>(tile, Activation::GeluTanh),
            Activation::GeluErf => finish_with::<V>(tile, Activation::GeluErf),
            Activation::QuickGelu => finish_with::<V>(tile, Activation::QuickGelu),
            Activation::Relu => finish_with::<V>(tile, Activation::Relu),
            Activation::Tanh => finish_with::<V>(tile, Activation::Tanh),
        }
    }
}

#[inline(always)]
unsafe fn finish_with<V: Lanes>(tile: &TileOut<'_>, act: Activation) {
    let Epilogue { bias, gate, residual, c, .. } = *tile.epilogue;
    let mut gates =
        gate.unwrap_or(Rows { ptr: std::ptr::null(), map: RowMap::broadcast() }).map.offsets_from(tile.m);
    let mut residuals =
        residual.unwrap_or(Rows { ptr: std::ptr::null(), map: RowMap::broadcast() }).map.offsets_from(tile.m);
    let mut targets = c.map.offsets_from(tile.m);
    // SAFETY: columns `n .. n + cols` of rows `m .. m + rows` lie within each operand; the partial forms touch no
    // more. The residual is read before C is written in the same place, so the two may be one.
    unsafe {
        for i in 0..tile.rows {
            let (at_gate, at_residual, at_c) = (gates.next(), residuals.next(), targets.next());
            let (at_gate, at_residual) = (at_gate.unwrap_unchecked(), at_residual.unwrap_unchecked());
            let row_c = c.ptr.add(at_c.unwrap_unchecked() + tile.n);
            let mut j = 0;
            while j < tile.cols {
                let left = tile.cols - j;
                let load = |from: *const f32| match left >= V::LANES {
                    true => V::load(from),
                    false => V::load_first(from, left),
                };
                let mut x = V::load(tile.acc.add(i * tile.width + j));
                if let Some(bias) = bias {
                    x = x.add(load(bias.add(tile.n + j)));
                }
                x = activate(act, x);
                match (gate, residual) {
                    (None, None) => {}
                    (Some(gate), None) => x = x.mul(load(gate.ptr.add(at_gate + tile.n + j))),
                    (None, Some(residual)) => x = x.add(load(residual.ptr.add(at_residual + tile.n + j))),
                    (Some(gate), Some(residual)) => {
                        let gate = load(gate.ptr.add(at_gate + tile.n + j));
                        x = x.mul_add(gate, load(residual.ptr.add(at_residual + tile.n + j)));
                    }
                }
                match left >= V::LANES {
                    true => x.store(row_c.add(j)),
                    false => x.store_first(row_c.add(j), left),
                }
                j += V::LANES;
            }
        }
    }
}

/// Copies f32 as they are: a [`CopyRow`].
///
/// # Safety
/// `from` is readable and `row` writable for the elements named.
#[inline(always)]
pub unsafe fn copy_f32(from: *const f32, len: usize, row: *mut f32, at: usize) {
    // SAFETY: the caller vouches for both.
    unsafe { std::ptr::copy_nonoverlapping(from, row.add(at), len) }
}

/// The bits of `x` rounded to bf16 (nearest, ties to even), in the high half of the word.
#[inline(always)]
pub fn round_to_bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
    // Rounding could carry a NaN's payload into infinity: keep NaN, quiet.
    if x.is_nan() { (bits | 0x0040_0000) & 0xffff_0000 } else { rounded }
}

/// Copies f32 rounded to bf16 but kept in f32: a [`CopyRow`].
///
/// # Safety
/// `from` is readable and `row` writable for the elements named.
#[inline(always)]
pub unsafe fn copy_rounded(from: *const f32, len: usize, row: *mut f32, at: usize) {
    for i in 0..len {
        // SAFETY: the caller vouches for both.
        unsafe { *row.add(at + i) = f32::from_bits(round_to_bf16(from.add(i).read_unaligned())) }
    }
}

/// Converts f16 one by one: a [`WidenF16`].
///
/// # Safety
/// `from` is readable for `2 * len` bytes, `to` writable for `len` elements.
#[inline(always)]
pub unsafe fn widen_f16(from: *const u8, len: usize, to: *mut f32) {
    for i in 0..len {
        // SAFETY: the caller vouches for both.
        unsafe {
            let bits = from.add(2 * i).cast::<u16>().read_unaligned();
            *to.add(i) = half::f16::from_bits(bits).to_f32();
        }
    }
}

/// The body of every [`Transpose`], through a small block that stays in L1.
///
/// # Safety
/// `from` is readable for `rows` rows of `words` words, `to` writable for `words * width` words.
#[inline(always)]
pub unsafe fn transpose(
    from: *const u8,
    stride: usize,
    rows: usize,
    words: usize,
    to: *mut f32,
    width: usize,
) {
    const STEP: usize = 16;
    for w in (0..words).step_by(STEP) {
        let step = STEP.min(words - w);
        for r in 0..width {
            for i in 0..step {
                // SAFETY: `r < rows`, `w + i < words`, `r < width`: within what the caller vouches for.
                unsafe {
                    let word = match r < rows {
                        true => from.add(r * stride + (w + i) * 4).cast::<u32>().read_unaligned(),
                        false => 0,
                    };
                    *to.add((w + i) * width + r) = f32::from_bits(word);
                }
            }
        }
    }
}
