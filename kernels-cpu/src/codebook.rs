//! The quantiser: cosine scores of rows against a codebook and their argmax, without writing a score anywhere.
//!
//! 512 rows against 32768 codes of 16 make 64 MiB of scores; writing and searching them takes ten times as long as
//! computing them. Here a register tile of scores (8 rows x 32 codes) goes straight into three running vectors for
//! each row and column of the tile: best score, second best, and where the best was. Five operations a vector
//! of scores, beside 16 FMAs. Codes are packed when bound into blocks of 32 columns, each led by a row of starting
//! values, 0 for a code and -inf for padding, which then can never win.
//!
//! Scores are plain f32 sums over the dimensions in order, so that ids agree with a reference where it is not a tie.

use thiserror::Error;

use crate::RowMap;
use crate::aligned::AlignedBuf;
use crate::isa::Features;
use crate::kernel::{Kernel, part};
use crate::norm::sum_row;
use crate::scratch::{Scratch, floats_bytes};
use crate::simd::{Program, Simd, launch};

/// Columns of a packed block.
const BLOCK: usize = 32;
/// Blocks that stay in cache while a task's rows pass over them: 32 KiB of 16-dimensional codes.
const CHUNK: usize = 16;
/// Rows of a task: a multiple of every register tile's rows (8, 6, 4).
const TASK_ROWS: usize = 24;

/// A codebook packed for the search.
#[derive(Debug)]
pub struct Codebook {
    blocks: AlignedBuf,
    count: usize,
    dim: usize,
}

/// Why codes cannot be packed.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CodebookError {
    /// The slice does not have `count * dim` elements, or one of them is 0.
    #[error("a codebook of {count} codes x {dim} needs {count} * {dim} elements and at least one, got {got}")]
    Size {
        /// Codes.
        count: usize,
        /// Elements of a code.
        dim: usize,
        /// Elements given.
        got: usize,
    },
    /// Positions are kept as f32 lanes, exact up to 2^24.
    #[error("a codebook of {0} codes: at most 16777216 can be searched")]
    TooMany(usize),
}

impl Codebook {
    /// Packs `codes [count, dim]`, row-major.
    ///
    /// # Errors
    /// If the slice does not fit the shape, or there are more than 2^24 codes.
    pub fn pack(codes: &[f32], count: usize, dim: usize) -> Result<Codebook, CodebookError> {
        if count == 0 || dim == 0 || count.checked_mul(dim) != Some(codes.len()) {
            return Err(CodebookError::Size { count, dim, got: codes.len() });
        }
        if count > 1 << 24 {
            return Err(CodebookError::TooMany(count));
        }
        let mut blocks = AlignedBuf::zeroed(count.div_ceil(BLOCK) * (dim + 1) * BLOCK * 4);
        let packed: &mut [f32] = bytemuck::cast_slice_mut(blocks.as_mut_slice());
        let mut set = |block: usize, row: usize, column: usize, x: f32| {
            packed[(block * (dim + 1) + row) * BLOCK + column] = x;
        };
        for (i, code) in codes.chunks_exact(dim).enumerate() {
            for (d, &x) in code.iter().enumerate() {
                set(i / BLOCK, 1 + d, i % BLOCK, x);
            }
        }
        for i in count..count.next_multiple_of(BLOCK) {
            set(i / BLOCK, 0, i % BLOCK, f32::NEG_INFINITY);
        }
        Ok(Codebook { blocks, count, dim })
    }

    /// Number of codes.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Elements of a code.
    pub fn dim(&self) -> usize {
        self.dim
    }
}

/// For each row: scale to unit length (`x / max(|x|, 1e-12)`), then the code with the largest dot product, the
/// first of equals. A row with NaN gives id 0, score -inf and margin NaN.
#[derive(Clone, Copy, Debug)]
pub struct CodebookArgmax<'a> {
    /// The codes.
    pub codebook: &'a Codebook,
    /// Rows of `codebook.dim()` elements.
    pub x: *const f32,
    /// Where rows lie.
    pub x_map: RowMap,
    /// Number of rows.
    pub rows: usize,
    /// `[rows]`: the code.
    pub ids: *mut i32,
    /// Null, or `[rows]`: its score.
    pub scores: *mut f32,
    /// Null, or `[rows]`: score minus that of the second best; infinite with a single code.
    pub margins: *mut f32,
}

impl Kernel for CodebookArgmax<'_> {
    fn tasks(&self) -> usize {
        self.rows.div_ceil(TASK_ROWS)
    }

    fn scratch_bytes(&self) -> usize {
        floats_bytes(TASK_ROWS * self.codebook.dim) + 3 * floats_bytes(TASK_ROWS * BLOCK)
    }

    unsafe fn run(&self, features: Features, task: usize, scratch: &mut [u8]) {
        // SAFETY: by contract.
        unsafe { launch(features, Task { args: self, task, scratch }) }
    }
}

struct Task<'a> {
    args: &'a CodebookArgmax<'a>,
    task: usize,
    scratch: &'a mut [u8],
}

/// A task's memory: unit rows `[TASK_ROWS, dim]`, and for each row and tile column the running results.
struct Search<'a> {
    codebook: &'a Codebook,
    unit: *mut f32,
    best: *mut f32,
    second: *mut f32,
    place: *mut f32,
}

impl Program for Task<'_> {
    #[inline(always)]
    unsafe fn execute<V: Simd>(self) {
        let (a, dim) = (self.args, self.args.codebook.dim);
        let mut s = Scratch::new(self.scratch);
        let rows = part(self.task, TASK_ROWS, a.rows);
        // SAFETY: by the contract of `Kernel::run`; scratch arrays have TASK_ROWS rows, whole register tiles.
        unsafe {
            let search = Search {
                codebook: a.codebook,
                unit: s.floats(TASK_ROWS * dim),
                best: s.floats(TASK_ROWS * BLOCK),
                second: s.floats(TASK_ROWS * BLOCK),
                place: s.floats(TASK_ROWS * BLOCK),
            };
            for r in 0..TASK_ROWS {
                if r < rows.len() {
                    let x = a.x.add(a.x_map.offset(rows.start + r));
                    let norm = sum_row::<V, true>(x, dim, 0.0).sqrt().max(1e-12);
                    for d in 0..dim {
                        *search.unit.add(r * dim + d) = *x.add(d) / norm;
                    }
                } else {
                    for d in 0..dim {
                        *search.unit.add(r * dim + d) = 0.0;
                    }
                }
            }
            for i in 0..TASK_ROWS * BLOCK {
                *search.best.add(i) = f32::NEG_INFINITY;
                *search.second.add(i) = f32::NEG_INFINITY;
                *search.place.add(i) = 0.0;
            }
            let blocks = a.codebook.count.div_ceil(BLOCK);
            let mut chunk = 0;
            while chunk < blocks {
                let end = (chunk + CHUNK).min(blocks);
                let mut r = 0;
                while r < rows.len() {
                    match V::TILE_ROWS {
                        8 => search.rows_over::<V, 8>(r, chunk, end),
                        6 => search.rows_over::<V, 6>(r, chunk, end),
                        _ => search.rows_over::<V, 4>(r, chunk, end),
                    }
                    r += V::TILE_ROWS;
                }
                chunk = end;
            }
            for r in 0..rows.len() {
                let (id, score, second) = search.winner(r, 2 * V::LANES);
                let m = rows.start + r;
                *a.ids.add(m) = id as i32; // at most 2^24
                if !a.scores.is_null() {
                    *a.scores.add(m) = score;
                }
                if !a.margins.is_null() {
                    *a.margins.add(m) = score - second;
                }
            }
        }
    }
}

impl Search<'_> {
    /// Rows `r .. r + R` over blocks `from .. to`.
    #[inline(always)]
    unsafe fn rows_over<V: Simd, const R: usize>(&self, r: usize, from: usize, to: usize) {
        let (dim, lanes) = (self.codebook.dim, V::LANES);
        let codes = self.codebook.blocks.as_ptr().cast::<f32>();
        // SAFETY: R rows from `r` are inside the task's arrays, blocks inside the packed codes.
        unsafe {
            let x = self.unit.add(r * dim);
            let at = |i: usize, j: usize| (r + i) * BLOCK + j * lanes;
            let read = |p: *const f32| -> [[V; 2]; R] {
                std::array::from_fn(|i| [V::load(p.add(at(i, 0))), V::load(p.add(at(i, 1)))])
            };
            let (mut best, mut second, mut place) = (read(self.best), read(self.second), read(self.place));
            for block in from..to {
                let mut column = 0;
                while column < BLOCK {
                    let tile = codes.add(block * (dim + 1) * BLOCK + column);
                    let start = [V::load(tile), V::load(tile.add(lanes))];
                    let mut s = [start; R];
                    for d in 0..dim {
                        let c = tile.add((d + 1) * BLOCK);
                        let c = [V::load(c), V::load(c.add(lanes))];
                        for (i, s) in s.iter_mut().enumerate() {
                            let x = V::new(*x.add(i * dim + d));
                            for j in 0..2 {
                                s[j] = x.mul_add(c[j], s[j]);
                            }
                        }
                    }
                    for j in 0..2 {
                        let here = V::new((block * BLOCK + column + j * lanes) as f32);
                        for i in 0..R {
                            let (s, old) = (s[i][j], best[i][j]);
                            // Strictly greater: the first of equals stays.
                            place[i][j] = old.select_lt(s, here, place[i][j]);
                            second[i][j] = old.min(s).max(second[i][j]);
                            best[i][j] = s.max(old);
                        }
                    }
                    column += 2 * lanes;
                }
            }
            for i in 0..R {
                for j in 0..2 {
                    best[i][j].store(self.best.add(at(i, j)));
                    second[i][j].store(self.second.add(at(i, j)));
                    place[i][j].store(self.place.add(at(i, j)));
                }
            }
        }
    }

    /// Over the `columns` running results of row `r`: the id, its score, and the second best score.
    #[inline(always)]
    unsafe fn winner(&self, r: usize, columns: usize) -> (u32, f32, f32) {
        let (mut id, mut best, mut second) = (u32::MAX, f32::NEG_INFINITY, f32::NEG_INFINITY);
        for j in 0..columns {
            // SAFETY: `r` and `j` are inside the task's arrays.
            let (score, runner_up, place) = unsafe {
                let at = r * BLOCK + j;
                (*self.best.add(at), *self.second.add(at), *self.place.add(at))
            };
            let lane_id = place as u32 + (j % (columns / 2)) as u32;
            second = second.max(runner_up);
            if score > best || (score == best && lane_id < id) {
                second = second.max(best);
                (best, id) = (score, lane_id);
            } else {
                second = second.max(score);
            }
        }
        (if best == f32::NEG_INFINITY { 0 } else { id }, best, second)
    }
}
