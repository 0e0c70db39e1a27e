//! Views, done by copying: the plainest meaning of slice, permute and concat.

use super::array::{Array, strides, walk};

/// `len` rows of dimension `dim` from `start`.
pub fn slice(x: &Array, dim: usize, start: usize, len: usize) -> Array {
    let mut shape = x.shape.clone();
    shape[dim] = len;
    let own = x.strides();
    let mut data = Vec::with_capacity(shape.iter().product());
    walk(&shape, &own, |offset| data.push(x.data[offset + start * own[dim]]));
    Array { shape, data }
}

/// Row `index` of dimension `dim`, which disappears.
pub fn pick(x: &Array, dim: usize, index: usize) -> Array {
    let mut row = slice(x, dim, index, 1);
    row.shape.remove(dim);
    row
}

/// Dimension `i` of the result is dimension `perm[i]` of `x`.
pub fn permute(x: &Array, perm: &[usize]) -> Array {
    let own = x.strides();
    let shape: Vec<usize> = perm.iter().map(|&i| x.shape[i]).collect();
    let order: Vec<usize> = perm.iter().map(|&i| own[i]).collect();
    let mut data = Vec::with_capacity(x.data.len());
    walk(&shape, &order, |offset| data.push(x.data[offset]));
    Array { shape, data }
}

/// Joined along `dim`.
pub fn concat(xs: &[&Array], dim: usize) -> Array {
    let mut shape = xs[0].shape.clone();
    shape[dim] = xs.iter().map(|x| x.shape[dim]).sum();
    let outer: usize = shape[..dim].iter().product();
    let mut data = Vec::with_capacity(shape.iter().product());
    for i in 0..outer {
        for x in xs {
            let part: usize = x.shape[dim..].iter().product();
            data.extend_from_slice(&x.data[i * part..(i + 1) * part]);
        }
    }
    Array { shape, data }
}

/// NaN at every element whose index along `dim` is outside `live`.
pub fn restrict(x: &mut Array, dim: usize, live: std::ops::Range<usize>) {
    let (size, inner) = (x.shape[dim], strides(&x.shape)[dim]);
    for (row, chunk) in x.data.chunks_exact_mut(inner.max(1)).enumerate() {
        if !live.contains(&(row % size)) {
            chunk.fill(f64::NAN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting(shape: &[usize]) -> Array {
        Array::new(shape, (0..shape.iter().product::<usize>()).map(|i| i as f64).collect())
    }

    #[test]
    fn views_select_the_elements_that_their_indices_name() {
        let x = counting(&[2, 3, 4]);
        assert_eq!(slice(&x, 1, 1, 2).data[..5], [4.0, 5.0, 6.0, 7.0, 8.0]);
        assert_eq!(pick(&x, 0, 1).data[0], 12.0);
        let p = permute(&x, &[2, 0, 1]);
        assert_eq!(p.shape, [4, 2, 3]);
        assert_eq!(p.data[..6], [0.0, 4.0, 8.0, 12.0, 16.0, 20.0]);
        let y = concat(&[&slice(&x, 2, 0, 1), &slice(&x, 2, 1, 3)], 2);
        assert_eq!(y, x);
    }

    #[test]
    fn rows_outside_the_live_range_become_nan() {
        let mut x = counting(&[2, 3, 2]);
        restrict(&mut x, 1, 1..2);
        let live: Vec<f64> = x.data.iter().copied().filter(|v| !v.is_nan()).collect();
        assert_eq!(live, [2.0, 3.0, 8.0, 9.0]);
    }
}
