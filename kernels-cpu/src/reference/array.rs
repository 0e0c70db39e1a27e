//! The reference's only data structure: a dense row-major array of f64.
//!
//! Integers are held as f64 too, which is exact for every i32, so that one type serves all values. NaN marks
//! an element outside a live range: whatever reads it shows it.

use std::num::NonZero;

/// A dense row-major array.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Array {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Elements.
    pub data: Vec<f64>,
}

impl Array {
    /// An array of given elements.
    ///
    /// # Panics
    /// Where the elements do not fill the shape.
    pub fn new(shape: &[usize], data: Vec<f64>) -> Array {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "elements do not fill {shape:?}");
        Array { shape: shape.to_vec(), data }
    }

    /// From f32.
    pub fn from_f32(shape: &[usize], data: &[f32]) -> Array {
        Array::new(shape, data.iter().map(|&x| f64::from(x)).collect())
    }

    /// From i32.
    pub fn from_i32(shape: &[usize], data: &[i32]) -> Array {
        Array::new(shape, data.iter().map(|&x| f64::from(x)).collect())
    }

    /// Every element the same.
    pub fn filled(shape: &[usize], value: f64) -> Array {
        Array { shape: shape.to_vec(), data: vec![value; shape.iter().product()] }
    }

    /// Size of the last dimension; 1 for a scalar.
    pub fn last(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Number of rows along the last dimension.
    pub fn rows(&self) -> usize {
        self.data.len().checked_div(self.last()).unwrap_or(0)
    }

    /// Row `i` of the last dimension.
    pub fn row(&self, i: usize) -> &[f64] {
        &self.data[i * self.last()..(i + 1) * self.last()]
    }

    /// Row-major strides.
    pub fn strides(&self) -> Vec<usize> {
        strides(&self.shape)
    }
}

/// Row-major strides of a shape.
pub(super) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (0..shape.len().saturating_sub(1)).rev() {
        strides[i] = strides[i + 1] * shape[i + 1];
    }
    strides
}

/// Calls `f(offset)` for every index of `shape` in row-major order, with the offset that `strides` give it.
pub(super) fn walk(shape: &[usize], strides: &[usize], mut f: impl FnMut(usize)) {
    if shape.contains(&0) {
        return;
    }
    let mut index = vec![0; shape.len()];
    let mut offset = 0;
    loop {
        f(offset);
        let mut dim = shape.len();
        loop {
            if dim == 0 {
                return;
            }
            dim -= 1;
            index[dim] += 1;
            offset += strides[dim];
            if index[dim] < shape[dim] {
                break;
            }
            offset -= strides[dim] * shape[dim];
            index[dim] = 0;
        }
    }
}

/// Strides by which an array of `shape` is read as one of `wide`: 0 where it is stretched.
pub(super) fn broadcast_strides(shape: &[usize], wide: &[usize]) -> Vec<usize> {
    let lead = wide.len() - shape.len();
    let own = strides(shape);
    (0..wide.len()).map(|i| if i < lead || shape[i - lead] == 1 { 0 } else { own[i - lead] }).collect()
}

/// Fills `out` row by row, on all processors where the work (multiplications) is worth it.
pub(super) fn for_rows(out: &mut [f64], row: usize, work: usize, f: impl Fn(usize, &mut [f64]) + Sync) {
    if row == 0 {
        return;
    }
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let rows = out.len() / row;
    if work < 1 << 20 || threads == 1 || rows < 2 {
        out.chunks_exact_mut(row).enumerate().for_each(|(i, out)| f(i, out));
        return;
    }
    let each = rows.div_ceil(threads);
    std::thread::scope(|scope| {
        for (part, chunk) in out.chunks_mut(each * row).enumerate() {
            let f = &f;
            scope.spawn(move || {
                chunk.chunks_exact_mut(row).enumerate().for_each(|(i, out)| f(part * each + i, out));
            });
        }
    });
}

/// Dot product, in eight partial sums so that it vectorises.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f64 = a8.remainder().iter().zip(b8.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a8.zip(b8) {
        for i in 0..8 {
            sums[i] += x[i] * y[i];
        }
    }
    sums.iter().sum::<f64>() + tail
}
