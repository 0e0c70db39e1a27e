//! Matrix product, convolution and nearest upsampling, by their definitions.

use super::array::{Array, dot, for_rows};

/// `x [.., K] · weight [N, K]^T + bias [N]`
pub fn linear(x: &Array, weight: &Array, bias: Option<&Array>) -> Array {
    let n = weight.shape[0];
    let mut shape = x.shape.clone();
    if let Some(last) = shape.last_mut() {
        *last = n;
    }
    let mut out = Array::filled(&shape, 0.0);
    for_rows(&mut out.data, n, x.data.len() * n, |row, out| {
        for (j, out) in out.iter_mut().enumerate() {
            *out = dot(x.row(row), weight.row(j)) + bias.map_or(0.0, |b| b.data[j]);
        }
    });
    out
}

/// Convolution of NHWC `x` with `weight [O, I, kh, kw]`; `padding` is top, bottom, left, right, of zeros.
pub fn conv2d(x: &Array, weight: &Array, bias: Option<&Array>, stride: usize, padding: [usize; 4]) -> Array {
    let [b, h, w, c] = dims(x);
    let [o, _, kh, kw] = dims(weight);
    let [top, bottom, left, right] = padding;
    let (oh, ow) = ((h + top + bottom - kh) / stride + 1, (w + left + right - kw) / stride + 1);
    let mut out = Array::filled(&[b, oh, ow, o], 0.0);
    let (taps, work) = (c * kh * kw, b * oh * ow * o * c * kh * kw);
    for_rows(&mut out.data, ow * o, work, |row, out| {
        let (image, oy) = (row / oh, row % oh);
        let mut patch = vec![0.0; taps];
        for (ox, out) in out.chunks_exact_mut(o).enumerate() {
            // The pixels under the kernel, in the weight's order (channel, dy, dx).
            for dy in 0..kh {
                for dx in 0..kw {
                    let (y, x_) =
                        ((oy * stride + dy).wrapping_sub(top), (ox * stride + dx).wrapping_sub(left));
                    for channel in 0..c {
                        patch[(channel * kh + dy) * kw + dx] = match y < h && x_ < w {
                            true => x.data[((image * h + y) * w + x_) * c + channel],
                            false => 0.0,
                        };
                    }
                }
            }
            for (j, out) in out.iter_mut().enumerate() {
                let kernel = &weight.data[j * taps..(j + 1) * taps];
                *out = dot(&patch, kernel) + bias.map_or(0.0, |b| b.data[j]);
            }
        }
    });
    out
}

/// Each pixel of NHWC twice in both directions.
pub fn upsample2x(x: &Array) -> Array {
    let [b, h, w, c] = dims(x);
    let mut out = Array::filled(&[b, 2 * h, 2 * w, c], 0.0);
    for (pixel, out) in out.data.chunks_exact_mut(c).enumerate() {
        let (image, y, x_) = (pixel / (4 * h * w), pixel / (2 * w) % (2 * h), pixel % (2 * w));
        out.copy_from_slice(x.row((image * h + y / 2) * w + x_ / 2));
    }
    out
}

/// The four sizes of an image or kernel.
fn dims(x: &Array) -> [usize; 4] {
    [x.shape[0], x.shape[1], x.shape[2], x.shape[3]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_is_rows_times_weight_rows_plus_bias() {
        let x = Array::new(&[2, 3], vec![1., 2., 3., 4., 5., 6.]);
        let w = Array::new(&[2, 3], vec![1., 0., -1., 2., 1., 0.]);
        let b = Array::new(&[2], vec![10., 20.]);
        assert_eq!(linear(&x, &w, Some(&b)).data, [8., 24., 8., 33.]);
        assert_eq!(linear(&x, &w, None).data, [-2., 4., -2., 13.]);
    }

    #[test]
    fn convolution_reads_channels_rows_and_columns_in_the_weights_order() {
        // Two channels, 2 x 2 kernel that picks channel 1 at (dy, dx) = (1, 0).
        let x = Array::new(&[1, 2, 2, 2], vec![1., 10., 2., 20., 3., 30., 4., 40.]);
        let mut w = Array::filled(&[1, 2, 2, 2], 0.0);
        w.data[4 + 2] = 1.0;
        let b = Array::new(&[1], vec![0.5]);
        assert_eq!(conv2d(&x, &w, Some(&b), 1, [0; 4]).data, [30.5]);
        // Padded at the bottom and right only, stride 2: what SD3's downsampling does.
        let all = Array::filled(&[1, 2, 3, 3], 1.0);
        assert_eq!(conv2d(&x, &all, None, 2, [0, 1, 0, 1]).data, [110.0]);
        // Padded all around: each output sees every pixel of the 2 x 2 image.
        assert_eq!(conv2d(&x, &all, None, 1, [1; 4]).data, [110.0; 4]);
    }

    #[test]
    fn upsampling_repeats_pixels() {
        let x = Array::new(&[1, 1, 2, 2], vec![1., 2., 3., 4.]);
        let y = upsample2x(&x);
        assert_eq!(y.shape, [1, 2, 4, 2]);
        assert_eq!(y.data, [1., 2., 1., 2., 3., 4., 3., 4., 1., 2., 1., 2., 3., 4., 3., 4.]);
    }
}
