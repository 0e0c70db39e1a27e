//! Sinusoidal positions of patches, for any grid: sines and cosines of the column, then of the row, of positions that
//! are stretched so that every grid spans what the training grid did.

/// `[h, w, width]` for a grid of `h x w` patches where training had `base x base`.
pub(super) fn sinusoids(grid: [usize; 2], base: usize, width: usize) -> Vec<f32> {
    let quarter = width / 4;
    // Positions are formed in f32 and the rest in f64, as diffusers does.
    let position = |i: usize, of: usize| f64::from(i as f32 / (of as f64 / base as f64) as f32);
    let omega = |j: usize| 10000f64.powf(-(j as f64 / quarter as f64));
    let mut table = Vec::with_capacity(grid[0] * grid[1] * width);
    for row in 0..grid[0] {
        for column in 0..grid[1] {
            for at in [position(column, grid[1]), position(row, grid[0])] {
                table.extend((0..quarter).map(|j| (at * omega(j)).sin() as f32));
                table.extend((0..quarter).map(|j| (at * omega(j)).cos() as f32));
            }
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_come_before_rows_and_every_grid_spans_the_same() {
        let table = sinusoids([2, 4], 4, 8);
        assert_eq!(table.len(), 2 * 4 * 8);
        let at = |row: usize, column: usize| &table[(row * 4 + column) * 8..][..8];
        assert_eq!(at(0, 0), [0., 0., 1., 1., 0., 0., 1., 1.]);
        // Row 1 of 2 stands where row 2 of 4 would.
        assert_eq!(at(1, 0)[4], 2f64.sin() as f32);
        assert_eq!(at(0, 3)[0], 3f64.sin() as f32);
        assert_eq!(at(0, 3)[1], 0.03f64.sin() as f32);
    }
}
