//! Softmax attention that never writes the score matrix (after FlashAttention, arXiv 2205.14135, on a CPU's caches).
//!
//! # Tiles and budgets
//!
//! A task owns up to 256 query rows of one key/value head (fewer where that leaves workers idle) and walks over the keys in tiles of 128. Queries that share
//! a key/value head (grouped queries) count as rows of the same task, so a tile of keys is read once for all.
//!
//! * **Packing.** A tile's keys are transposed to `[D, 128]`, so that a vector holds one dimension of 16 keys, and its values
//!   copied to `[128, D]`; rows that lie anywhere, in up to four segments, become one dense tile, padded with
//!   zeros to whole vectors. With D = 64 each is 32 KiB, and both products read them from L1/L2 at two vectors for
//!   every 16 FMAs (64 B a cycle would allow four times that). Transposing costs about half a cycle an element against
//!   `2 * 256 / 32 = 16` cycles of FMA that 256 rows spend on it; with 128 rows the whole was 3 % slower.
//! * **Registers.** `S = Q K^T` and `O += P V` are the same loop: 8 rows x 2 vectors = 16 accumulators on AVX-512
//!   (6 x 2 on AVX2), each step 8 broadcasts and 2 loads for 16 FMAs: under the two loads a cycle, and long
//!   enough to hide an FMA's latency of 4. 12 x 2 was no faster, 64 keys a tile 4 % slower, 256 keys no faster.
//! * **Softmax.** Eight rows of scores (4 KiB) stay in L1 between the two products. A probability is
//!   `2^((s - m) f)` with the factor `f = scale * log2(e)`: one polynomial of degree 6, no multiplication in the range
//!   reduction. It costs about 21 operations per 16 scores against `2 D` FMAs. The factor goes on the difference and
//!   not into the packed queries, which would save that multiplication: scores of 1,700, which untrained networks
//!   have, then come out four times less exact, for each query is rounded once more and their sums are too.
//!   The output is rescaled by `2^((m_old - m_new) f)` when it is loaded, which is free.
//!
//! With few rows (decoding), packing would cost more than it saves: keys are then read in place, row by row
//! as dot products, and memory bandwidth is the bound.

use crate::isa::Features;
use crate::kernel::Kernel;
use crate::scratch::{Scratch, floats_bytes};
use crate::simd::{Program, Simd, each_vector, launch, load, store};

/// Element distances of a `[batch, row, head, dim]` tensor whose last axis is contiguous.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strides {
    /// From one batch entry to the next; 0 repeats one for all.
    pub batch: usize,
    /// From one row (token) to the next.
    pub row: usize,
    /// From one head to the next.
    pub head: usize,
}

/// Keys and values that are read as if joined to those of the segments before.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Keys `[B, rows, kv_heads, head_dim]`.
    pub k: *const f32,
    /// Values, same shape.
    pub v: *const f32,
    /// Number of rows; a segment of 0 rows is skipped and may have null pointers.
    pub rows: usize,
    /// Where keys lie.
    pub k_strides: Strides,
    /// Where values lie.
    pub v_strides: Strides,
}

impl Segment {
    /// No rows.
    pub const EMPTY: Segment = Segment {
        k: std::ptr::null(),
        v: std::ptr::null(),
        rows: 0,
        k_strides: Strides { batch: 0, row: 0, head: 0 },
        v_strides: Strides { batch: 0, row: 0, head: 0 },
    };
}

/// Which keys of the joined segments a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// All of them.
    None,
    /// Query row `i` sees keys `0..=q_position0 + i`.
    Causal {
        /// Position of query row 0 among the keys.
        q_position0: usize,
    },
}

/// `out = softmax(scale * q k^T + mask) v`, head by head; a query that sees no key gives zeros.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Queries `[B, q_rows, heads, head_dim]`.
    pub q: *const f32,
    /// Where queries lie.
    pub q_strides: Strides,
    /// Result, same shape; must not overlap keys or values. It may be `q` itself.
    pub out: *mut f32,
    /// Where results lie.
    pub out_strides: Strides,
    /// Keys and values in order; [`Segment::EMPTY`] where unused.
    pub segments: [Segment; 4],
    /// Batch entries.
    pub batch: usize,
    /// Query rows of each.
    pub q_rows: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads: a divisor of `heads`; query head `h` uses `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Factor on the scores; positive.
    pub scale: f32,
    /// What is hidden.
    pub mask: Mask,
    /// Null, or for each batch entry how many keys of the joined segments count.
    pub kv_lens: *const u32,
    /// Workers that share the tasks: fewer get larger ones, since packing a tile of keys is then shared by more rows.
    pub workers: usize,
}

/// Rows up to which keys are read in place instead of packed.
const IN_PLACE_ROWS: usize = 8;

/// Most query rows of a task: what keeps its packed queries and outputs within a quarter of a 1 MiB L2.
fn max_block_rows(head_dim: usize) -> usize {
    match head_dim {
        0..=128 => 256,
        129..=256 => 128,
        _ => 64,
    }
}

/// Fewest: below, packing a tile of keys costs as much as using it.
const MIN_BLOCK_ROWS: usize = 32;
/// How many rows ahead keys read in place are asked for: 16 rows of 256 B cover a memory latency at 40 GB/s.
const PREFETCH_ROWS: usize = 16;
/// Keys of a tile.
const TILE_KEYS: usize = 128;
/// Lanes of the widest vector: head dimensions are padded to it.
const MAX_LANES: usize = 16;
/// Rows of the largest register tile.
const MAX_TILE_ROWS: usize = 8;

impl Kernel for Attention {
    fn tasks(&self) -> usize {
        self.batch * self.kv_heads * self.blocks()
    }

    fn scratch_bytes(&self) -> usize {
        let (rows, padded) = (max_block_rows(self.head_dim), self.head_dim.next_multiple_of(MAX_LANES));
        2 * floats_bytes(rows * padded)
            + 2 * floats_bytes(TILE_KEYS * padded)
            + floats_bytes(MAX_TILE_ROWS * TILE_KEYS)
            + 2 * floats_bytes(rows)
    }

    /// Also asks that `kv_heads` divides `heads`.
    unsafe fn run(&self, features: Features, task: usize, scratch: &mut [u8]) {
        // SAFETY: by contract.
        unsafe { launch(features, Task { args: self, task, scratch }) }
    }
}

impl Attention {
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    fn blocks(&self) -> usize {
        (self.q_rows * self.group()).div_ceil(self.block_rows())
    }

    /// Query rows of a task: as many as leave four tasks to each worker.
    fn block_rows(&self) -> usize {
        let mut rows = max_block_rows(self.head_dim);
        let heads = self.batch * self.kv_heads;
        while rows > MIN_BLOCK_ROWS && heads * (self.q_rows * self.group()).div_ceil(rows) < 4 * self.workers
        {
            rows /= 2;
        }
        rows
    }

    /// Keys that batch entry `b` has.
    ///
    /// # Safety
    /// `kv_lens` is null or valid for the batch.
    unsafe fn keys(&self, b: usize) -> usize {
        let all = self.segments.iter().map(|s| s.rows).sum();
        // SAFETY: by contract.
        if self.kv_lens.is_null() { all } else { all.min(unsafe { *self.kv_lens.add(b) } as usize) }
    }
}

struct Task<'a> {
    args: &'a Attention,
    task: usize,
    scratch: &'a mut [u8],
}

/// A task's place and memory.
///
/// Row `r` of a task's head is query row `r / group` of query head `r % group`, so that rows of one query
/// position stand together and a causal limit rises with `r`.
struct Block<'a> {
    args: &'a Attention,
    b: usize,
    kv_head: usize,
    row0: usize,
    rows: usize,
    keys: usize,
    padded: usize,
    q: *mut f32,
    o: *mut f32,
    kt: *mut f32,
    v: *mut f32,
    p: *mut f32,
    max: *mut f32,
    sum: *mut f32,
}

impl Program for Task<'_> {
    #[inline(always)]
    unsafe fn execute<V: Simd>(self) {
        let a = self.args;
        let (blocks, block_rows) = (a.blocks(), a.block_rows());
        let (bh, block) = (self.task / blocks, self.task % blocks);
        let row0 = block * block_rows;
        let rows = (a.q_rows * a.group() - row0).min(block_rows);
        let padded = a.head_dim.next_multiple_of(V::LANES);
        let mut s = Scratch::new(self.scratch);
        // SAFETY: the caller of `run` vouches for pointers and shapes; scratch arrays have the sizes that the steps use.
        unsafe {
            let b = bh / a.kv_heads;
            let block = Block {
                args: a,
                b,
                kv_head: bh % a.kv_heads,
                row0,
                rows,
                keys: a.keys(b),
                padded,
                q: s.floats(block_rows * padded),
                o: s.floats(block_rows * padded),
                kt: s.floats(TILE_KEYS * padded),
                v: s.floats(TILE_KEYS * padded),
                p: s.floats(MAX_TILE_ROWS * TILE_KEYS),
                max: s.floats(block_rows),
                sum: s.floats(block_rows),
            };
            block.start::<V>();
            if rows <= IN_PLACE_ROWS {
                block.in_place::<V>();
            } else {
                block.packed::<V>();
            }
            block.finish::<V>();
        }
    }
}

/// `c[r][j] += a[r, k] * b[k, j]` for `R` rows and `N` vectors; `a` and `b` are row-major with the strides given.
///
/// # Safety
/// `a` is readable for `R x depth`, `b` for `depth x N` vectors, the last of which has `last` lanes.
#[inline(always)]
unsafe fn tile<V: Simd, const R: usize, const N: usize>(
    a: *const f32,
    a_stride: usize,
    b: *const f32,
    b_stride: usize,
    depth: usize,
    last: usize,
    mut c: [[V; N]; R],
) -> [[V; N]; R] {
    // SAFETY: by contract.
    unsafe {
        for k in 0..depth {
            let row = b.add(k * b_stride);
            let bs: [V; N] = std::array::from_fn(|j| {
                if j + 1 == N { load(row.add(j * V::LANES), last) } else { V::load(row.add(j * V::LANES)) }
            });
            for (r, row) in c.iter_mut().enumerate() {
                let x = V::new(*a.add(r * a_stride + k));
                for (c, &b) in row.iter_mut().zip(&bs) {
                    *c = x.mul_add(b, *c);
                }
            }
        }
    }
    c
}

/// `2^x` for `x <= 0` to about 2 ulp; 0 from -150 on (Cephes `exp2f`'s polynomial on [-0.5, 0.5]).
#[inline(always)]
fn exp2<V: Simd>(x: V) -> V {
    let k = |c: f32| x.splat(c);
    let x = k(-200.0).max(x);
    let n = x.round();
    let r = x.sub(n);
    let p = k(1.535_336_2e-4).mul_add(r, k(1.339_887_4e-3));
    let p = p.mul_add(r, k(9.618_437e-3));
    let p = p.mul_add(r, k(5.550_332_5e-2));
    let p = p.mul_add(r, k(2.402_264_8e-1));
    let p = p.mul_add(r, k(std::f32::consts::LN_2));
    p.mul_add(r, k(1.0)).ldexp(n)
}

impl Block<'_> {
    /// Offset of task row `r` in a tensor of query rows.
    #[inline(always)]
    fn offset(&self, strides: Strides, r: usize) -> usize {
        let group = self.args.group();
        let (row, head) = ((self.row0 + r) / group, self.kv_head * group + (self.row0 + r) % group);
        self.b * strides.batch + row * strides.row + head * strides.head
    }

    /// How many keys task row `r` sees.
    #[inline(always)]
    fn visible(&self, r: usize) -> usize {
        match self.args.mask {
            Mask::None => self.keys,
            Mask::Causal { q_position0 } => {
                self.keys.min(q_position0 + (self.row0 + r) / self.args.group() + 1)
            }
        }
    }

    /// Packs the queries and clears the outputs and the running maxima and sums.
    #[inline(always)]
    unsafe fn start<V: Simd>(&self) {
        let a = self.args;
        // SAFETY: rows < block_rows, and the arrays have that many rows of `padded`.
        unsafe {
            for r in 0..self.rows {
                let from = a.q.add(self.offset(a.q_strides, r));
                each_vector!(V, a.head_dim, |i, n| {
                    let x: V = load(from.add(i), n);
                    x.store(self.q.add(r * self.padded + i));
                    V::new(0.0).store(self.o.add(r * self.padded + i));
                });
                *self.max.add(r) = f32::NEG_INFINITY;
                *self.sum.add(r) = 0.0;
            }
        }
    }

    /// Divides by the sums and writes the rows out.
    #[inline(always)]
    unsafe fn finish<V: Simd>(&self) {
        let a = self.args;
        // SAFETY: as in `start`; `out` is this task's to write.
        unsafe {
            for r in 0..self.rows {
                let sum = *self.sum.add(r);
                let factor = V::new(if sum == 0.0 { 0.0 } else { 1.0 / sum });
                let to = a.out.add(self.offset(a.out_strides, r));
                each_vector!(V, a.head_dim, |i, n| {
                    store(V::load(self.o.add(r * self.padded + i)).mul(factor), to.add(i), n);
                });
            }
        }
    }

    /// The pieces of segments that make up keys `from..to`: key, segment, first row in it, and rows.
    #[inline(always)]
    fn pieces(&self, from: usize, to: usize) -> impl Iterator<Item = (usize, &Segment, usize, usize)> {
        let mut first = 0;
        self.args.segments.iter().filter_map(move |segment| {
            let (low, high) = (from.max(first), to.min(first + segment.rows));
            let piece = (low < high).then(|| (low, segment, low - first, high - low));
            first += segment.rows;
            piece
        })
    }

    /// First key row and first value row of this task's head, at `row` of a segment.
    #[inline(always)]
    unsafe fn rows_of(&self, s: &Segment, row: usize) -> (*const f32, *const f32) {
        let at = |t: Strides| self.b * t.batch + row * t.row + self.kv_head * t.head;
        // SAFETY: `row` lies inside the segment, whose pointers are valid, by contract.
        unsafe { (s.k.add(at(s.k_strides)), s.v.add(at(s.v_strides))) }
    }

    /// Many rows: packs tile after tile and runs all rows over it.
    #[inline(always)]
    unsafe fn packed<V: Simd>(&self) {
        let end = self.visible(self.rows - 1);
        let mut key0 = 0;
        while key0 < end {
            let keys = (end - key0).min(TILE_KEYS);
            // SAFETY: `keys` fit a tile; row groups stay below `rows`.
            unsafe {
                self.pack::<V>(key0, keys);
                let mut r = 0;
                while r < self.rows {
                    let left = self.rows - r;
                    r += if V::TILE_ROWS == 8 && left >= 8 {
                        self.rows_over_tile::<V, 8>(r, key0, keys)
                    } else if V::TILE_ROWS == 6 && left >= 6 {
                        self.rows_over_tile::<V, 6>(r, key0, keys)
                    } else if left >= 4 {
                        self.rows_over_tile::<V, 4>(r, key0, keys)
                    } else if left >= 2 {
                        self.rows_over_tile::<V, 2>(r, key0, keys)
                    } else {
                        self.rows_over_tile::<V, 1>(r, key0, keys)
                    };
                }
            }
            key0 += keys;
        }
    }

    /// Transposes the keys and copies the values of `key0 .. key0 + keys`, zeros behind.
    #[inline(always)]
    unsafe fn pack<V: Simd>(&self, key0: usize, keys: usize) {
        let (dim, lanes) = (self.args.head_dim, V::LANES);
        // SAFETY: columns stay below TILE_KEYS, dimensions below `padded`, rows inside their segment.
        unsafe {
            for (key, segment, row, rows) in self.pieces(key0, key0 + keys) {
                let (k, v) = self.rows_of(segment, row);
                let (k_stride, v_stride) = (segment.k_strides.row, segment.v_strides.row);
                let column = key - key0;
                let (whole_rows, whole_dims) = (rows - rows % lanes, dim - dim % lanes);
                let mut j = 0;
                while j < whole_rows {
                    let mut d = 0;
                    while d < whole_dims {
                        V::transpose(
                            k.add(j * k_stride + d),
                            k_stride,
                            self.kt.add(d * TILE_KEYS + column + j),
                            TILE_KEYS,
                        );
                        d += lanes;
                    }
                    j += lanes;
                }
                for j in 0..rows {
                    for d in if j < whole_rows { whole_dims } else { 0 }..dim {
                        *self.kt.add(d * TILE_KEYS + column + j) = *k.add(j * k_stride + d);
                    }
                    each_vector!(V, dim, |d, n| {
                        let x: V = load(v.add(j * v_stride + d), n);
                        x.store(self.v.add((column + j) * self.padded + d));
                    });
                }
            }
            let padded_keys = keys.next_multiple_of(2 * lanes);
            for d in 0..dim {
                for j in keys..padded_keys {
                    *self.kt.add(d * TILE_KEYS + j) = 0.0;
                }
            }
        }
    }

    /// Rows `r .. r + R` over the packed tile; returns `R`.
    #[inline(always)]
    unsafe fn rows_over_tile<V: Simd, const R: usize>(&self, r: usize, key0: usize, keys: usize) -> usize {
        let (lanes, padded) = (V::LANES, self.padded);
        // Later rows see no less, so the last one says how far to go.
        let width = keys.min(self.visible(r + R - 1).saturating_sub(key0));
        if width == 0 {
            return R;
        }
        // SAFETY: R rows from `r` exist; `width` keys are packed, and zeros up to two vectors.
        unsafe {
            let zero = V::new(0.0);
            let q = self.q.add(r * padded);
            let mut j = 0;
            while j < width {
                let s: [[V; 2]; R] =
                    tile(q, padded, self.kt.add(j), TILE_KEYS, self.args.head_dim, lanes, [[zero; 2]; R]);
                for (i, row) in s.iter().enumerate() {
                    row[0].store(self.p.add(i * TILE_KEYS + j));
                    row[1].store(self.p.add(i * TILE_KEYS + j + lanes));
                }
                j += 2 * lanes;
            }
            let factors = self.softmax::<V, R>(r, key0, width);
            self.add_values::<V, R>(r, width, factors, self.v, padded, padded);
        }
        R
    }

    /// Turns `R` rows of scores in `p` into probabilities relative to the running maximum, updates maximum and
    /// sum, and returns the factors that the outputs so far have to be multiplied with.
    #[inline(always)]
    unsafe fn softmax<V: Simd, const R: usize>(&self, r: usize, key0: usize, width: usize) -> [f32; R] {
        let lanes = V::LANES;
        let exponent = (f64::from(self.args.scale) * std::f64::consts::LOG2_E) as f32;
        let mut factors = [1.0; R];
        // SAFETY: `width` is at most TILE_KEYS, a whole number of vectors.
        unsafe {
            for (i, factor) in factors.iter_mut().enumerate() {
                let p = self.p.add(i * TILE_KEYS);
                let seen = width.min(self.visible(r + i).saturating_sub(key0));
                for j in seen..width.next_multiple_of(lanes) {
                    *p.add(j) = f32::NEG_INFINITY;
                }
                let old = *self.max.add(r + i);
                let mut largest = V::new(old);
                for j in (0..width).step_by(lanes) {
                    largest = largest.max(V::load(p.add(j)));
                }
                let new = largest.largest();
                // Where nothing was seen yet, any finite reference gives 2^-inf = 0 without a NaN.
                let base = V::new(if new == f32::NEG_INFINITY { 0.0 } else { new });
                let mut sum = V::new(0.0);
                for j in (0..width).step_by(lanes) {
                    let x = exp2(V::load(p.add(j)).sub(base).mul(base.splat(exponent)));
                    sum = sum.add(x);
                    x.store(p.add(j));
                }
                if new > old {
                    *factor = if old == f32::NEG_INFINITY { 0.0 } else { ((old - new) * exponent).exp2() };
                    *self.max.add(r + i) = new;
                }
                let total = self.sum.add(r + i);
                *total = *total * *factor + sum.sum();
            }
        }
        factors
    }

    /// `o = o * factor + p v` for `R` rows over `keys` keys; the values have `dim` readable elements a row.
    #[inline(always)]
    unsafe fn add_values<V: Simd, const R: usize>(
        &self,
        r: usize,
        keys: usize,
        factors: [f32; R],
        v: *const f32,
        v_stride: usize,
        dim: usize,
    ) {
        let lanes = V::LANES;
        // SAFETY: rows of `o` are `padded` long, a whole number of vectors; values are read up to `dim`.
        unsafe {
            let mut d = 0;
            while d + 2 * lanes <= dim {
                let o = self.o.add(r * self.padded + d);
                let c = std::array::from_fn(|i| {
                    let f = V::new(factors[i]);
                    [0, lanes].map(|at| V::load(o.add(i * self.padded + at)).mul(f))
                });
                let c: [[V; 2]; R] = tile(self.p, TILE_KEYS, v.add(d), v_stride, keys, lanes, c);
                for (i, row) in c.iter().enumerate() {
                    row[0].store(o.add(i * self.padded));
                    row[1].store(o.add(i * self.padded + lanes));
                }
                d += 2 * lanes;
            }
            while d < dim {
                let o = self.o.add(r * self.padded + d);
                let c = std::array::from_fn(|i| [V::load(o.add(i * self.padded)).mul(V::new(factors[i]))]);
                let last = lanes.min(dim - d);
                let c: [[V; 1]; R] = tile(self.p, TILE_KEYS, v.add(d), v_stride, keys, last, c);
                for (i, row) in c.iter().enumerate() {
                    row[0].store(o.add(i * self.padded));
                }
                d += lanes;
            }
        }
    }

    /// Few rows: reads keys and values where they lie.
    #[inline(always)]
    unsafe fn in_place<V: Simd>(&self) {
        let end = self.visible(self.rows - 1);
        for (key, segment, row, rows) in self.pieces(0, end) {
            let mut at = 0;
            while at < rows {
                let keys = (rows - at).min(TILE_KEYS);
                // SAFETY: the rows lie inside the segment; row groups stay below `rows`.
                unsafe {
                    let (k, v) = self.rows_of(segment, row + at);
                    let mut r = 0;
                    while r < self.rows {
                        let left = self.rows - r;
                        r += if left >= 4 {
                            self.rows_over_keys::<V, 4>(r, key + at, keys, segment, k, v)
                        } else if left >= 2 {
                            self.rows_over_keys::<V, 2>(r, key + at, keys, segment, k, v)
                        } else {
                            self.rows_over_keys::<V, 1>(r, key + at, keys, segment, k, v)
                        };
                    }
                }
                at += keys;
            }
        }
    }

    /// Rows `r .. r + R` over keys in place; returns `R`.
    #[inline(always)]
    unsafe fn rows_over_keys<V: Simd, const R: usize>(
        &self,
        r: usize,
        key0: usize,
        keys: usize,
        segment: &Segment,
        k: *const f32,
        v: *const f32,
    ) -> usize {
        let width = keys.min(self.visible(r + R - 1).saturating_sub(key0));
        if width == 0 {
            return R;
        }
        let dim = self.args.head_dim;
        // SAFETY: `width` key rows are readable at `k` and `v`; packed queries are padded with zeros.
        unsafe {
            for j in 0..width {
                let row = k.add(j * segment.k_strides.row);
                // Rows of one head lie pages apart, where no hardware prefetcher follows: ask for keys some rows
                // ahead, and for the values that come right after.
                let ahead = row.wrapping_add(PREFETCH_ROWS * segment.k_strides.row);
                let value = v.wrapping_add(j * segment.v_strides.row);
                for line in (0..dim).step_by(16) {
                    V::prefetch(ahead.wrapping_add(line));
                    V::prefetch(value.wrapping_add(line));
                }
                let mut s = [V::new(0.0); R];
                each_vector!(V, dim, |d, n| {
                    let x: V = load(row.add(d), n);
                    for (i, s) in s.iter_mut().enumerate() {
                        *s = V::load(self.q.add((r + i) * self.padded + d)).mul_add(x, *s);
                    }
                });
                for (i, s) in s.iter().enumerate() {
                    *self.p.add(i * TILE_KEYS + j) = s.sum();
                }
            }
            let factors = self.softmax::<V, R>(r, key0, width);
            self.add_values::<V, R>(r, width, factors, v, segment.v_strides.row, dim);
        }
        R
    }
}
