//! How a product is cut into tasks: a grid of row ranges by panel ranges.
//!
//! A task packs its own rows of A, so that tasks need nothing from one another, and reads its own panels of B. Few
//! large tasks waste the least on that; many small ones balance. The cut that a rough model of a core finds quickest is
//! taken: it knows the workers, so it serves 2 as it serves 64, and tall products as wide ones.

use std::ops::Range;

/// The greatest number of tiles down a task: bounds the partial sums.
pub(crate) const MAX_TILES_DOWN: usize = 40;
/// The greatest number of bytes of one block of B in a task: what stays in L2 beside the partial sums.
pub(crate) const MAX_B_BYTES: usize = 512 << 10;

/// What a task costs beside its work, in the unit of [`Cut::time`]: it is claimed, its product is finished, and B begins to
/// stream anew. Measured by decoding with SmolLM2 (rows of one) on two threads of a Zen 5: 190 tokens a second at 0, 228 at 6,
/// 290 from 12 to 48; one thread and products of many rows do not tell the difference.
const TASK: f64 = 24.0;

/// A grid of tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    /// Row ranges.
    pub down: usize,
    /// Panel ranges.
    pub across: usize,
}

/// What the model needs to know of a product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// Rows of a tile.
    pub tile_rows: usize,
    /// Panels of B.
    pub panels: usize,
    /// The most panels a task may have.
    pub max_panels: usize,
    /// Threads that share the tasks.
    pub workers: usize,
}

impl Cut {
    /// The best grid for `rows` rows.
    pub fn grid(&self, rows: usize) -> Grid {
        let tiles = rows.div_ceil(self.tile_rows);
        let least_across = self.panels.div_ceil(self.max_panels);
        let least_down = tiles.div_ceil(MAX_TILES_DOWN);
        let mut best = (f64::INFINITY, Grid { down: least_down, across: least_across });
        let mut across = least_across;
        loop {
            let mut down = least_down;
            loop {
                let time = self.time(rows, down, across);
                if time < best.0 {
                    best = (time, Grid { down, across });
                }
                // Past eight tasks a worker, more only cost.
                if down >= tiles || down * across >= 8 * self.workers {
                    break;
                }
                down = (down + 1 + down / 4).min(tiles);
            }
            if across >= self.panels || across >= 8 * self.workers {
                break;
            }
            across = (across + 1 + across / 4).min(self.panels);
        }
        best.1
    }

    /// Cycles a unit of k (on AVX-512) until the last worker is done: 14 a full tile, 2 a row of A packed,
    /// and 8 a panel of B fetched from L3 or memory; a tile of few rows is bound by the latency of its sums.
    fn time(&self, rows: usize, down: usize, across: usize) -> f64 {
        let task_rows = rows.div_ceil(down);
        let task_tiles = task_rows.div_ceil(self.tile_rows);
        let task_panels = self.panels.div_ceil(across);
        let tile = (task_rows as f64 / task_tiles as f64).max(4.0);
        let task = task_tiles as f64 * task_panels as f64 * tile
            + 0.25 * task_rows as f64
            + 8.0 * task_panels as f64
            + TASK;
        let rounds = (down * across).div_ceil(self.workers);
        // A quarter of a task is the usual wait for the last one; one worker waits for nobody.
        let wait = if self.workers > 1 { 0.25 } else { 0.0 };
        (rounds as f64 + wait) * task
    }
}

impl Grid {
    /// The number of tasks.
    pub fn tasks(&self) -> usize {
        self.down * self.across
    }

    /// The rows and panels of a task. Neighbouring numbers share panels, so workers read the same B at one time.
    pub fn ranges(&self, task: usize, rows: usize, panels: usize) -> (Range<usize>, Range<usize>) {
        let (i, j) = (task % self.down, task / self.down);
        (part(i, self.down, rows), part(j, self.across, panels))
    }
}

/// The `i`-th of `of` nearly equal parts of `0..total`.
pub(crate) fn part(i: usize, of: usize, total: usize) -> Range<usize> {
    i * total / of..(i + 1) * total / of
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_cover_the_product_once_and_stay_within_their_bounds() {
        for workers in [1, 2, 7, 64] {
            for panels in [1, 2, 24, 193] {
                for rows in [1, 5, 14, 15, 256, 1000, 5000] {
                    let cut = Cut { tile_rows: 14, panels, max_panels: 6, workers };
                    let grid = cut.grid(rows);
                    let mut seen = 0;
                    for task in 0..grid.tasks() {
                        let (r, p) = grid.ranges(task, rows, panels);
                        assert!(!r.is_empty() && !p.is_empty(), "{cut:?} {rows} {grid:?}");
                        assert!(
                            r.len().div_ceil(14) <= MAX_TILES_DOWN && p.len() <= 6,
                            "{cut:?} {rows} {grid:?}"
                        );
                        seen += r.len() * p.len();
                    }
                    assert_eq!(seen, rows * panels);
                }
            }
        }
    }

    #[test]
    fn one_row_is_cut_into_a_few_long_streams() {
        for (panels, k_panels) in [(18, 18), (48, 48), (1536, 96)] {
            let grid = Cut { tile_rows: 14, panels, max_panels: k_panels, workers: 2 }.grid(1);
            assert!((2..=16).contains(&grid.tasks()), "{panels} panels: {grid:?}");
            assert!(panels > 48 || grid.tasks() <= 4, "{panels} panels: {grid:?}");
        }
    }

    #[test]
    fn a_product_large_enough_leaves_hardly_a_worker_without_a_task() {
        for workers in [2, 16, 64] {
            for (rows, panels) in [(1024, 24), (256, 192), (8192, 2), (1, 384)] {
                let grid = Cut { tile_rows: 14, panels, max_panels: 6, workers }.grid(rows);
                assert!(
                    grid.tasks() >= workers - workers / 16,
                    "{workers} workers, {rows} rows, {panels} panels: {grid:?}"
                );
            }
        }
    }
}
