//! How close two pictures are: PSNR and SSIM over eight-bit RGB.
//!
//! Both as the papers of this field report them. SSIM is that of Wang et al. (2004): 11x11 Gaussian window of standard
//! deviation 1.5, K1 = 0.01, K2 = 0.03, population covariance, only windows that lie within the picture, computed for
//! each channel and averaged. That is scikit-image's `structural_similarity(a, b, gaussian_weights=True, sigma=1.5,
//! use_sample_covariance=False, data_range=255, channel_axis=2)`.

use crate::picture::Picture;

/// Why two pictures cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetricError {
    /// They differ in size.
    #[error("cannot compare pictures of {}x{} and {}x{} pixels; bring both to one size", a.0, a.1, b.0, b.1)]
    SizeMismatch {
        /// Width and height of the first.
        a: (u32, u32),
        /// Width and height of the second.
        b: (u32, u32),
    },
    /// Too small for one window.
    #[error("SSIM needs {SIZE}x{SIZE} pixels at least; the pictures have {width}x{height}")]
    TooSmall {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
}

const SIZE: usize = 11;
const SIGMA: f64 = 1.5;

fn same_size(a: &Picture, b: &Picture) -> Result<(), MetricError> {
    let (a, b) = ((a.width(), a.height()), (b.width(), b.height()));
    if a == b { Ok(()) } else { Err(MetricError::SizeMismatch { a, b }) }
}

/// Peak signal-to-noise ratio in dB, `10 log10(255^2 / mse)` over all samples; infinite for equal pictures.
pub fn psnr(a: &Picture, b: &Picture) -> Result<f64, MetricError> {
    same_size(a, b)?;
    let sum: u64 = a.rgb().iter().zip(b.rgb()).map(|(&x, &y)| u64::from(x.abs_diff(y)).pow(2)).sum();
    let mse = sum as f64 / a.rgb().len() as f64;
    Ok(10.0 * (255.0 * 255.0 / mse).log10())
}

/// Structural similarity, at most 1: the definition is at the top of this file.
pub fn ssim(a: &Picture, b: &Picture) -> Result<f64, MetricError> {
    same_size(a, b)?;
    let (width, height) = (a.width() as usize, a.height() as usize);
    if width < SIZE || height < SIZE {
        return Err(MetricError::TooSmall { width: a.width(), height: a.height() });
    }
    let total: f64 = (0..3).map(|channel| channel_ssim(a.rgb(), b.rgb(), channel, width)).sum();
    Ok(total / (3 * (width - SIZE + 1) * (height - SIZE + 1)) as f64)
}

fn window() -> [f64; SIZE] {
    let mut window: [f64; SIZE] = std::array::from_fn(|i| {
        let x = i as f64 - (SIZE / 2) as f64;
        (-x * x / (2.0 * SIGMA * SIGMA)).exp()
    });
    let total: f64 = window.iter().sum();
    window.iter_mut().for_each(|w| *w /= total);
    window
}

/// The sum of SSIM over all windows of one channel. Rows of windowed moments are kept for eleven lines at a time, so
/// memory grows with the width alone.
fn channel_ssim(a: &[u8], b: &[u8], channel: usize, width: usize) -> f64 {
    let (c1, c2) = ((0.01f64 * 255.0).powi(2), (0.03f64 * 255.0).powi(2));
    let window = window();
    let columns = width - SIZE + 1;
    // For each line, the horizontally weighted means of x, y, xx, yy, xy.
    let mut lines = vec![vec![[0.0f64; 5]; columns]; SIZE];
    let mut moments = vec![[0.0f64; 5]; columns];
    let mut total = 0.0;
    for (row, (line_a, line_b)) in a.chunks_exact(3 * width).zip(b.chunks_exact(3 * width)).enumerate() {
        let sample = |line: &[u8], x: usize| f64::from(line[3 * x + channel]);
        for (start, out) in lines[row % SIZE].iter_mut().enumerate() {
            *out = [0.0; 5];
            for (i, w) in window.iter().enumerate() {
                let (x, y) = (sample(line_a, start + i), sample(line_b, start + i));
                for (sum, value) in out.iter_mut().zip([x, y, x * x, y * y, x * y]) {
                    *sum += w * value;
                }
            }
        }
        if row + 1 < SIZE {
            continue;
        }
        moments.fill([0.0; 5]);
        for (i, w) in window.iter().enumerate() {
            for (sums, values) in moments.iter_mut().zip(&lines[(row + 1 + i) % SIZE]) {
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum += w * value;
                }
            }
        }
        for &[x, y, xx, yy, xy] in &moments {
            let (var_x, var_y, cov) = (xx - x * x, yy - y * y, xy - x * y);
            total += (2.0 * x * y + c1) * (2.0 * cov + c2) / ((x * x + y * y + c1) * (var_x + var_y + c2));
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{golden, repository};

    fn open(path: std::path::PathBuf) -> Picture {
        Picture::open(path).unwrap()
    }

    #[test]
    fn scikit_image_agrees() {
        let mini = |name| open(repository("models/mini/pictures").join(name));
        let cases = [
            // a, b, PSNR, SSIM by scikit-image 0.26.0
            (
                open(golden("pipe_recon_fp32.png")),
                open(golden("pipe_renderer_fp32.png")),
                11.099197994528243,
                0.07507473516146636,
            ),
            (
                open(golden("pipe_recon_fp32.png")),
                open(golden("pipe_recon_bf16.png")),
                46.351786081311126,
                0.9994183027135458,
            ),
            (
                mini("noto-nine.png"),
                mini("noto-umbrella-with-rain-drops.png"),
                8.821497515293885,
                0.1955101222003509,
            ),
        ];
        for (a, b, expected_psnr, expected_ssim) in cases {
            let (psnr, ssim) = (psnr(&a, &b).unwrap(), ssim(&a, &b).unwrap());
            assert!((psnr - expected_psnr).abs() < 1e-9, "{psnr} {expected_psnr}");
            assert!((ssim - expected_ssim).abs() < 1e-9, "{ssim} {expected_ssim}");
        }
    }

    #[test]
    fn equal_pictures_are_perfect() {
        let picture = open(golden("pipe_input.png"));
        assert_eq!(psnr(&picture, &picture).unwrap(), f64::INFINITY);
        assert!((ssim(&picture, &picture).unwrap() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn one_window_is_enough_and_less_is_an_error() {
        let flat = |v, w, h| Picture::from_rgb(w, h, vec![v; (w * h * 3) as usize]).unwrap();
        // Flat pictures have no variance: only the luminance term is left.
        let expected = (2.0 * 10.0 * 20.0 + 6.5025) / (100.0 + 400.0 + 6.5025);
        assert!((ssim(&flat(10, 11, 11), &flat(20, 11, 11)).unwrap() - expected).abs() < 1e-9);
        assert!(matches!(ssim(&flat(1, 10, 11), &flat(1, 10, 11)), Err(MetricError::TooSmall { .. })));
    }

    #[test]
    fn sizes_must_agree() {
        let a = Picture::from_rgb(2, 1, vec![0; 6]).unwrap();
        let b = Picture::from_rgb(1, 2, vec![0; 6]).unwrap();
        let error = psnr(&a, &b).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot compare pictures of 2x1 and 1x2 pixels; bring both to one size"
        );
        assert!(ssim(&a, &b).is_err());
    }
}
