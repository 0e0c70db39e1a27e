//! Elementwise ops with broadcasting, and the normalisations.

use super::array::{Array, broadcast_strides, for_rows, walk};
use selftok_graph::{Activation, Binary, NormKind};

/// `x` stretched to `shape`.
pub fn broadcast(x: &Array, shape: &[usize]) -> Array {
    let mut data = Vec::with_capacity(shape.iter().product());
    walk(shape, &broadcast_strides(&x.shape, shape), |offset| data.push(x.data[offset]));
    Array { shape: shape.to_vec(), data }
}

/// A nonlinearity.
pub fn unary(x: &Array, activation: Activation) -> Array {
    Array { shape: x.shape.clone(), data: x.data.iter().map(|&v| activation.eval(v)).collect() }
}

/// `a ∘ b`, both stretched to `shape`.
pub fn binary(a: &Array, b: &Array, op: Binary, shape: &[usize]) -> Array {
    let (a, b) = (broadcast(a, shape), broadcast(b, shape));
    let apply = |(&a, &b): (&f64, &f64)| match op {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
    };
    Array { shape: shape.to_vec(), data: a.data.iter().zip(&b.data).map(apply).collect() }
}

/// `x * (1 + scale) + shift`, all stretched to `shape`.
pub fn modulate(x: &Array, shift: &Array, scale: &Array, shape: &[usize]) -> Array {
    let (mut x, shift, scale) = (broadcast(x, shape), broadcast(shift, shape), broadcast(scale, shape));
    for ((x, shift), scale) in x.data.iter_mut().zip(&shift.data).zip(&scale.data) {
        *x = *x * (1.0 + scale) + shift;
    }
    x
}

/// Layer or RMS normalisation over the last axis, then `weight` and `bias` where given.
pub fn norm(x: &Array, kind: NormKind, eps: f64, weight: Option<&Array>, bias: Option<&Array>) -> Array {
    let c = x.last();
    let mut out = x.clone();
    for_rows(&mut out.data, c, x.data.len(), |_, row| {
        let mean = match kind {
            NormKind::Layer => row.iter().sum::<f64>() / c as f64,
            NormKind::Rms => 0.0,
        };
        let square = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / c as f64;
        let factor = 1.0 / (square + eps).sqrt();
        for (i, v) in row.iter_mut().enumerate() {
            *v = (*v - mean) * factor * weight.map_or(1.0, |w| w.data[i]) + bias.map_or(0.0, |b| b.data[i]);
        }
    });
    out
}

/// Group normalisation of `x [B, .., C]`: mean and variance over all pixels and the channels of one group.
pub fn group_norm(x: &Array, groups: usize, eps: f64, weight: &Array, bias: &Array) -> Array {
    let c = x.last();
    let (image, width) = (x.data.len() / x.shape[0].max(1), c / groups);
    let mut out = x.clone();
    for_rows(&mut out.data, image, x.data.len(), |_, image| {
        let count = (image.len() / c * width) as f64;
        for group in 0..groups {
            let members = group * width..(group + 1) * width;
            let values = || image.chunks_exact(c).flat_map(|pixel| pixel[members.clone()].iter().copied());
            let mean = values().sum::<f64>() / count;
            let variance = values().map(|v| (v - mean) * (v - mean)).sum::<f64>() / count;
            let factor = 1.0 / (variance + eps).sqrt();
            for pixel in image.chunks_exact_mut(c) {
                for i in members.clone() {
                    pixel[i] = (pixel[i] - mean) * factor * weight.data[i] + bias.data[i];
                }
            }
        }
    });
    out
}

/// `sum_i coeffs[i] * xs[i]`
pub fn combine(coeffs: &Array, xs: &[&Array]) -> Array {
    let mut out = Array::filled(&xs[0].shape, 0.0);
    for (coeff, x) in coeffs.data.iter().zip(xs) {
        out.data.iter_mut().zip(&x.data).for_each(|(out, x)| *out += coeff * x);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: &[f64], b: &[f64]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12)
    }

    #[test]
    fn norms_follow_their_formulas() {
        let x = Array::new(&[1, 4], vec![1., 2., 3., 6.]);
        // mean 3, variance 3.5
        let s = 3.5f64.sqrt();
        assert!(close(&norm(&x, NormKind::Layer, 0.0, None, None).data, &[-2. / s, -1. / s, 0., 3. / s]));
        let (w, b) = (Array::new(&[4], vec![2.; 4]), Array::new(&[4], vec![1.; 4]));
        let r = 12.5f64.sqrt();
        let rms = norm(&x, NormKind::Rms, 0.0, Some(&w), Some(&b));
        assert!(close(&rms.data, &[2. / r + 1., 4. / r + 1., 6. / r + 1., 12. / r + 1.]));
    }

    #[test]
    fn group_norm_takes_its_statistics_over_pixels_and_the_groups_channels() {
        // Two pixels, four channels, two groups: {1, 3, 1, 3} and {10, 10, 14, 14}.
        let x = Array::new(&[1, 1, 2, 4], vec![1., 3., 10., 10., 1., 3., 14., 14.]);
        let (w, b) = (Array::filled(&[4], 1.0), Array::new(&[4], vec![0., 0., 0., 5.]));
        let y = group_norm(&x, 2, 0.0, &w, &b);
        assert!(close(&y.data, &[-1., 1., -1., 4., -1., 1., 1., 6.]));
    }

    #[test]
    fn modulation_and_sums_broadcast_from_the_end() {
        let x = Array::new(&[2, 1, 2], vec![1., 2., 3., 4.]);
        let row = Array::new(&[2], vec![10., 20.]);
        assert_eq!(modulate(&x, &row, &row, &[2, 1, 2]).data, [21., 62., 43., 104.]);
        let column = Array::new(&[2, 1], vec![1., 2.]);
        assert_eq!(binary(&x, &column, Binary::Mul, &[2, 2, 2]).data, [1., 2., 2., 4., 3., 4., 6., 8.]);
        let coeffs = Array::new(&[2], vec![2., -1.]);
        assert_eq!(combine(&coeffs, &[&x, &x]).data, x.data);
    }
}
