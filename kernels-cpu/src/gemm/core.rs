//! The loops around the tiles: blocks of k, tiles down, panels across.

use super::grid::{Cut, Grid, MAX_B_BYTES, MAX_TILES_DOWN, part};
use super::weight::{Panels, RowsDType, Weight, WeightKind};
use super::{Epilogue, GemmError, Rows, check_sizes, kernels};
use crate::arch::gemm::{A_STRIDE, A_WORDS, Ahead, GemmKernels, TileOut};
use crate::arch::prefetch;
use crate::isa::Features;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Up to this many tiles down, a task packs all of A and streams B.
const FEW_TILES: usize = 2;

/// Where the rows of A come from: memory, or the taps of a convolution.
pub(crate) trait RowSource {
    /// Packs elements `k` of rows `m .. m + rows`, each [`A_STRIDE`] words after the last.
    ///
    /// # Safety
    /// The rows exist; `to` is writable for `rows` packed rows; the processor executes the kernels' set.
    unsafe fn pack(&self, kernels: &GemmKernels, m: usize, rows: usize, k: Range<usize>, to: *mut f32);

    /// Where the rows from `m` on begin, at element `k`, and how many bytes they are apart; for prefetching, so a guess
    /// that is right for most rows will do.
    fn ahead(&self, m: usize, k: usize) -> (*const u8, usize);
}

/// The sizes of a product and the blocking that follows from them.
pub(crate) struct Core {
    kernels: &'static GemmKernels,
    weight: WeightKind,
    k: usize,
    n: usize,
    panels: Panels,
    /// Blocks of k.
    blocks: usize,
    cut: Cut,
    scratch_words: usize,
    /// The grid of the latest run: see [`Core::grid`].
    memo: AtomicU64,
}

/// How a task divides its scratch, in words from its start.
struct Scratch {
    sums: usize,
    b: usize,
    staging: usize,
    end: usize,
}

impl Core {
    pub fn prepare(
        kernel: &'static str,
        max_rows: usize,
        (n, k): (usize, usize),
        weight: WeightKind,
        workers: usize,
        features: Features,
    ) -> Result<Core, GemmError> {
        check_sizes(kernel, &[("max_rows", max_rows), ("n", n), ("k", k)])?;
        check_sizes(kernel, &[("workers", workers)])?;
        let format = match weight {
            WeightKind::Packed(format) => format,
            WeightKind::Rows(dtype) => dtype.format(),
        };
        let kernels = kernels(format, features);
        let panels = Panels::new(kernels, n, k);
        let blocks = panels.units.div_ceil(A_WORDS / kernels.a_words);
        let block_bytes = panels.width * panels.units.div_ceil(blocks) * panels.words * 4;
        let max_panels = (MAX_B_BYTES / block_bytes).max(1);
        let cut = Cut { tile_rows: kernels.rows, panels: panels.count(), max_panels, workers };
        let mut core =
            Core { kernels, weight, k, n, panels, blocks, cut, scratch_words: 0, memo: AtomicU64::new(0) };
        let most_tiles = max_rows.div_ceil(kernels.rows).min(MAX_TILES_DOWN);
        let most_panels = max_panels.min(panels.count());
        core.scratch_words =
            (1..=most_tiles).map(|tiles| core.scratch(tiles, most_panels).end).max().unwrap_or(0);
        Ok(core)
    }

    pub fn scratch_bytes(&self) -> usize {
        self.scratch_words * 4
    }

    pub fn tasks(&self, rows: usize) -> usize {
        if rows == 0 { 0 } else { self.grid(rows).tasks() }
    }

    /// The grid for `rows` rows. The search for it takes microseconds, and every task of a run asks: the answer is kept,
    /// with its question, in one word, so that no order between threads matters.
    fn grid(&self, rows: usize) -> Grid {
        let known = self.memo.load(Ordering::Relaxed);
        if known >> 32 == rows as u64 {
            return Grid { down: (known >> 16) as usize & 0xffff, across: known as usize & 0xffff };
        }
        let grid = self.cut.grid(rows);
        if rows >> 32 == 0 && grid.down.max(grid.across) >> 16 == 0 {
            let word = (rows as u64) << 32 | (grid.down as u64) << 16 | grid.across as u64;
            self.memo.store(word, Ordering::Relaxed);
        }
        grid
    }

    fn scratch(&self, tiles: usize, panels: usize) -> Scratch {
        let GemmKernels { rows, .. } = *self.kernels;
        let block_units = self.panels.units.div_ceil(self.blocks);
        let few = tiles <= FEW_TILES;
        let a = rows * A_STRIDE * if few { self.blocks * tiles } else { 1 };
        let tile = rows * self.panels.width;
        let sums = a + tile
            * match few {
                true => tiles,
                false if self.blocks > 1 => tiles * panels,
                false => 1,
            };
        let b_panels = match self.weight {
            WeightKind::Packed(_) => 0,
            WeightKind::Rows(_) if few => 1,
            WeightKind::Rows(_) => panels,
        };
        let b = sums + b_panels * self.panels.width * block_units;
        let staging = match self.weight {
            WeightKind::Rows(RowsDType::F16) => self.panels.width * block_units,
            // The odd last element of each row, paired with zero.
            WeightKind::Rows(RowsDType::Bf16) => self.panels.width,
            _ => 0,
        };
        Scratch { sums: a, b: sums, staging: b, end: b + staging }
    }

    /// Computes one task of the product.
    ///
    /// # Safety
    /// Every operand covers `rows` rows and the product's columns; the weight is of the kind, shape and features that
    /// the product was prepared for; `task < tasks(rows)`; C overlaps no operand but an equal residual.
    pub unsafe fn run<S: RowSource>(
        &self,
        source: &S,
        weight: Weight<'_>,
        epilogue: &Epilogue,
        rows: usize,
        task: usize,
        scratch: &mut [u8],
    ) {
        let grid = self.grid(rows);
        let (rows, panels) = grid.ranges(task, rows, self.panels.count());
        let tiles = rows.len().div_ceil(self.kernels.rows);
        let layout = self.scratch(tiles, panels.len());
        assert!(scratch.len() >= layout.end * 4, "scratch of {} bytes is too small", scratch.len());
        let run = Run {
            core: self,
            weight,
            epilogue,
            a: scratch.as_mut_ptr().cast::<f32>(),
            layout,
            rows,
            tiles,
            panels,
        };
        debug_assert!(run.a.is_aligned());
        // SAFETY: passed on from the caller; the scratch was checked against the layout.
        unsafe { if tiles <= FEW_TILES { run.few_tiles(source) } else { run.many_tiles(source) } }
    }

    /// The units of block `block`.
    fn block(&self, block: usize) -> Range<usize> {
        part(block, self.blocks, self.panels.units)
    }

    /// The elements of k in units `units`.
    fn elements(&self, units: &Range<usize>) -> Range<usize> {
        units.start * self.kernels.unit..(units.end * self.kernels.unit).min(self.k)
    }
}

/// One task under way.
struct Run<'a> {
    core: &'a Core,
    weight: Weight<'a>,
    epilogue: &'a Epilogue,
    /// The start of the scratch.
    a: *mut f32,
    layout: Scratch,
    rows: Range<usize>,
    tiles: usize,
    panels: Range<usize>,
}

impl Run<'_> {
    /// Few rows: A is packed whole, and each panel of B read from end to end.
    ///
    /// # Safety
    /// As [`Core::run`].
    unsafe fn few_tiles<S: RowSource>(&self, source: &S) {
        let core = self.core;
        let kernels = core.kernels;
        let nothing = Ahead { from: std::ptr::null(), stride: 0, shift: 0 };
        // SAFETY: the layout gives A all blocks of all tiles, and each tile its sums; B is packed one block of one panel
        // at a time.
        unsafe {
            let a =
                |block: usize, tile: usize| self.a.add((block * self.tiles + tile) * kernels.rows * A_STRIDE);
            let sums = |tile: usize| self.a.add(self.layout.sums + tile * kernels.rows * core.panels.width);
            for block in 0..core.blocks {
                for tile in 0..self.tiles {
                    let rows = self.tile_rows(tile);
                    source.pack(
                        kernels,
                        rows.start,
                        rows.len(),
                        core.elements(&core.block(block)),
                        a(block, tile),
                    );
                }
            }
            for panel in self.panels.clone() {
                let vectors = core.panels.panel_width(panel) / kernels.lanes;
                for block in 0..core.blocks {
                    let units = core.block(block);
                    let b = match self.weight {
                        Weight::Packed(weight) => self.packed(weight, panel, &units),
                        Weight::Rows(from) => self.pack_b(from, panel, &units, self.a.add(self.layout.b)),
                    };
                    for tile in 0..self.tiles {
                        let stream = kernels.streams[self.tile_rows(tile).len() - 1][vectors - 1];
                        stream(a(block, tile), b, units.len(), sums(tile), block == 0, nothing);
                    }
                }
                for tile in 0..self.tiles {
                    let rows = self.tile_rows(tile);
                    self.finish(rows.start, rows.len(), panel, sums(tile));
                }
            }
        }
    }

    /// Block by block of k: each tile's rows are packed once a block and meet all panels while in L1.
    ///
    /// # Safety
    /// As [`Core::run`].
    unsafe fn many_tiles<S: RowSource>(&self, source: &S) {
        let core = self.core;
        let width = core.panels.width;
        // SAFETY: the layout gives A one block, sums for every tile if there is more than one block, and B one block of
        // every panel.
        unsafe {
            for block in 0..core.blocks {
                let units = core.block(block);
                let packed_b = self.a.add(self.layout.b);
                if let Weight::Rows(from) = self.weight {
                    for (i, panel) in self.panels.clone().enumerate() {
                        self.pack_b(from, panel, &units, packed_b.add(i * width * units.len()));
                    }
                }
                for tile in 0..self.tiles {
                    let Range { start: m, end } = self.tile_rows(tile);
                    let rows = end - m;
                    source.pack(core.kernels, m, rows, core.elements(&units), self.a);
                    let lines = core.elements(&units).len().div_ceil(16);
                    let rows_ahead = rows.div_ceil(self.panels.len());
                    for (i, panel) in self.panels.clone().enumerate() {
                        // The next tile's rows of A, spread over the panels of this one.
                        let (from, stride) = source.ahead(end + i * rows_ahead, core.elements(&units).start);
                        let ahead = Ahead { from, stride, shift: lines.next_power_of_two().ilog2() };
                        if block + 1 == core.blocks {
                            self.prefetch_c(m, rows, panel);
                        }
                        let b = match self.weight {
                            Weight::Packed(weight) => self.packed(weight, panel, &units),
                            Weight::Rows(_) => packed_b.add(i * width * units.len()),
                        };
                        let index = if core.blocks > 1 { tile * self.panels.len() + i } else { 0 };
                        let sums = self.a.add(self.layout.sums + index * core.kernels.rows * width);
                        self.tile(rows, panel)(self.a, b, units.len(), sums, block == 0, ahead);
                        if block + 1 == core.blocks {
                            self.finish(m, rows, panel, sums);
                        }
                    }
                }
            }
        }
    }

    /// The rows of a tile.
    fn tile_rows(&self, tile: usize) -> Range<usize> {
        let rows = part(tile, self.tiles, self.rows.len());
        self.rows.start + rows.start..self.rows.start + rows.end
    }

    fn tile(&self, rows: usize, panel: usize) -> crate::arch::gemm::Tile {
        let kernels = self.core.kernels;
        kernels.tiles[rows - 1][self.core.panels.panel_width(panel) / kernels.lanes - 1]
    }

    /// The first word of a block of a packed panel.
    ///
    /// # Safety
    /// The weight has the product's shape.
    unsafe fn packed(&self, weight: &super::PackedMatrix, panel: usize, units: &Range<usize>) -> *const f32 {
        debug_assert!(weight.n() == self.core.n && weight.k() == self.core.k);
        // SAFETY: the units lie within the panel.
        unsafe {
            weight
                .panel(panel)
                .add(units.start * self.core.panels.words * self.core.panels.panel_width(panel))
        }
    }

    /// Packs a block of a panel from rows in memory.
    ///
    /// # Safety
    /// `from` begins a weight of the product's shape and dtype; `to` has room for the block.
    unsafe fn pack_b(&self, from: *const u8, panel: usize, units: &Range<usize>, to: *mut f32) -> *const f32 {
        let core = self.core;
        let WeightKind::Rows(dtype) = core.weight else {
            unreachable!("a weight in rows, prepared as packed")
        };
        let width = core.panels.panel_width(panel);
        let first = panel * core.panels.width;
        let rows = width.min(core.n - first);
        let k = core.elements(units);
        let stride = core.k * dtype.bytes();
        // SAFETY: rows `first .. first + rows` and elements `k` lie within the weight. Of bf16 only whole pairs are read
        // as words; an odd last element is read alone.
        unsafe {
            let from = from.add(first * stride + k.start * dtype.bytes());
            let staging = self.a.add(self.layout.staging);
            let transpose = core.kernels.transpose;
            match dtype {
                RowsDType::F32 => transpose(from, stride, rows, k.len(), to, width),
                RowsDType::Bf16 => {
                    let pairs = k.len() / 2;
                    transpose(from, stride, rows, pairs, to, width);
                    if k.len() % 2 == 1 {
                        for r in 0..rows {
                            let last =
                                from.add(r * stride + (k.len() - 1) * 2).cast::<u16>().read_unaligned();
                            *staging.add(r) = f32::from_bits(last as u32);
                        }
                        transpose(staging.cast(), 4, rows, 1, to.add(pairs * width), width);
                    }
                }
                RowsDType::F16 => {
                    for r in 0..rows {
                        (core.kernels.widen_f16)(from.add(r * stride), k.len(), staging.add(r * k.len()));
                    }
                    transpose(staging.cast(), k.len() * 4, rows, k.len(), to, width);
                }
            }
        }
        to
    }

    /// Asks for the lines of C and of the residual that the tile will end in.
    fn prefetch_c(&self, m: usize, rows: usize, panel: usize) {
        let n = panel * self.core.panels.width;
        let last = self.core.panels.panel_width(panel).min(self.core.n - n) - 1;
        let c = self.epilogue.c;
        for operand in
            [Some(Rows { ptr: c.ptr.cast_const(), map: c.map }), self.epilogue.residual].into_iter().flatten()
        {
            for at in operand.map.offsets_from(m).take(rows) {
                let first = operand.ptr.wrapping_add(at + n);
                prefetch(first.cast());
                prefetch(first.wrapping_add(last / 2).cast());
                prefetch(first.wrapping_add(last).cast());
            }
        }
    }

    /// Carries a tile of sums to C.
    ///
    /// # Safety
    /// As [`Core::run`].
    unsafe fn finish(&self, m: usize, rows: usize, panel: usize, acc: *const f32) {
        let core = self.core;
        let n = panel * core.panels.width;
        let width = core.panels.panel_width(panel);
        let cols = width.min(core.n - n);
        let tile = TileOut { acc, width, m, rows, n, cols, epilogue: self.epilogue };
        // SAFETY: the tile lies within C and its operands.
        unsafe { (core.kernels.finish)(&tile) }
    }
}
