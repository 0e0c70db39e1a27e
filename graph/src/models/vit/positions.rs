//! Position tables for pictures of another size than the model was trained on.
//!
//! transformers resizes the table with PyTorch's bicubic `interpolate`, one of them with antialiasing. A resize is
//! linear and separable, so it is two matrix products with sparse constants; both depend on weights alone and are
//! computed when the model is bound.

use crate::Tensor;

/// The cubic convolution kernel's parameter in PyTorch (Keys 1981 recommends -0.5; OpenCV and PyTorch take this).
const A: f64 = -0.75;
/// And where PyTorch antialiases, which follows Pillow.
const ANTIALIASED_A: f64 = -0.5;

/// How a table is resized: `interpolate(mode="bicubic", align_corners=False, antialias=…)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::models) enum Resize {
    /// Four taps at every scale.
    Plain,
    /// Where the result is smaller, the kernel is as much wider.
    Antialiased,
}

/// `table [G_h * G_w, D]` over the grid `from` → `[h * w, D]` over the grid `to`.
pub(super) fn interpolate<'g>(
    table: Tensor<'g>,
    from: [usize; 2],
    to: [usize; 2],
    resize: Resize,
) -> Tensor<'g> {
    if from == to {
        return table;
    }
    let (g, width) = (table.builder(), table.shape().last());
    let matrix = |from, to| match resize {
        Resize::Plain => cubic(from, to),
        Resize::Antialiased => antialiased(from, to),
    };
    let resize = |x: Tensor<'g>, from, to| x.linear_with(g.constant([to, from], matrix(from, to)), None);
    let columns = table.reshape([from[0], from[1], width]).permute(&[1, 2, 0]);
    let rows = resize(columns, from[0], to[0]).permute(&[2, 1, 0]);
    resize(rows, from[1], to[1]).permute(&[0, 2, 1]).reshape([to[0] * to[1], width])
}

/// The matrix `[to, from]` of a bicubic resize along one axis, borders repeated.
fn cubic(from: usize, to: usize) -> Vec<f32> {
    let mut matrix = vec![0.0f64; to * from];
    for (i, row) in matrix.chunks_exact_mut(from).enumerate() {
        let at = (i as f64 + 0.5) * from as f64 / to as f64 - 0.5;
        let t = at - at.floor();
        for (tap, x) in [t + 1.0, t, 1.0 - t, 2.0 - t].into_iter().enumerate() {
            let source = (at.floor() as i64 - 1 + tap as i64).clamp(0, from as i64 - 1);
            row[source as usize] += kernel(A, x);
        }
    }
    matrix.into_iter().map(|weight| weight as f32).collect()
}

/// The same with antialiasing; taps beyond the border are left out, and the others made to sum to one.
fn antialiased(from: usize, to: usize) -> Vec<f32> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let mut matrix = vec![0.0f64; to * from];
    for (i, row) in matrix.chunks_exact_mut(from).enumerate() {
        let centre = (i as f64 + 0.5) * scale;
        let first = (centre - 2.0 * stretch + 0.5).max(0.0) as usize;
        let last = ((centre + 2.0 * stretch + 0.5) as usize).min(from);
        for (j, weight) in row.iter_mut().enumerate().take(last).skip(first) {
            *weight = kernel(ANTIALIASED_A, ((j as f64 + 0.5 - centre) / stretch).abs());
        }
        let sum: f64 = row.iter().sum();
        row.iter_mut().for_each(|weight| *weight /= sum);
    }
    matrix.into_iter().map(|weight| weight as f32).collect()
}

/// Keys' kernel at a distance.
fn kernel(a: f64, x: f64) -> f64 {
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_sums_to_one_and_the_same_size_is_the_identity() {
        for (from, to) in [(2, 3), (16, 37), (37, 16), (1, 4), (5, 1)] {
            for matrix in [cubic(from, to), antialiased(from, to)] {
                for row in matrix.chunks_exact(from) {
                    assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{from} to {to}: {row:?}");
                }
            }
        }
        assert_eq!(cubic(2, 2), [1.0, 0.0, 0.0, 1.0]);
        assert_eq!(antialiased(2, 2), [1.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn weights_are_those_of_pytorch() {
        // torch.nn.functional.interpolate(torch.eye(4)[:, None, None], size=(1, 6), mode="bicubic")[:, 0, 0].T, row 1:
        // the position is 0.5, whose weights are -3/32, 19/32, 19/32, -3/32, and the first tap is the border repeated.
        let row = &cubic(4, 6)[4..8];
        let expected = [-0.09375 + 0.59375, 0.59375, -0.09375, 0.0];
        assert!(row.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{row:?}");
    }
}
