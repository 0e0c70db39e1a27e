//! Between pixels and the numbers a network computes with.
//!
//! In: `v / 127.5 - 1` in f32, the original's arithmetic. Out: clamp to `[-1, 1]`, to `[0, 1]`, times 255, plus a half,
//! truncated, all in f32. (The original does the way out in bf16, where only 193 levels survive; f32 keeps all 256.)

use super::{Picture, PictureError};

/// The value of a sample in `[-1, 1]`.
pub fn normalise(v: u8) -> f32 {
    f32::from(v) / 127.5 - 1.0
}

/// The nearest sample of a value; what lies outside of `[-1, 1]` is clamped, NaN gives 0.
pub fn quantise(x: f32) -> u8 {
    ((x.clamp(-1.0, 1.0) + 1.0) / 2.0 * 255.0 + 0.5) as u8
}

fn check(picture: &Picture, actual: usize) -> Result<(), PictureError> {
    let (width, height) = (picture.width, picture.height);
    if actual == picture.rgb.len() {
        return Ok(());
    }
    Err(PictureError::WrongLength { width, height, expected: picture.rgb.len() as u64, actual })
}

/// Writes the picture as `[height, width, 3]` in `[-1, 1]` into `out`, which must have just that length.
pub fn to_nhwc(picture: &Picture, out: &mut [f32]) -> Result<(), PictureError> {
    check(picture, out.len())?;
    let table: [f32; 256] = std::array::from_fn(|v| normalise(v as u8));
    for (x, &v) in out.iter_mut().zip(&picture.rgb) {
        *x = table[usize::from(v)];
    }
    Ok(())
}

/// Writes the picture as `[3, height, width]` in `[-1, 1]` into `out`, which must have just that length.
pub fn to_nchw(picture: &Picture, out: &mut [f32]) -> Result<(), PictureError> {
    check(picture, out.len())?;
    let table: [f32; 256] = std::array::from_fn(|v| normalise(v as u8));
    for (channel, plane) in out.chunks_exact_mut(picture.rgb.len() / 3).enumerate() {
        for (x, pixel) in plane.iter_mut().zip(picture.rgb.chunks_exact(3)) {
            *x = table[usize::from(pixel[channel])];
        }
    }
    Ok(())
}

/// A picture from `[height, width, 3]` values in `[-1, 1]`.
pub fn from_nhwc(values: &[f32], width: u32, height: u32) -> Result<Picture, PictureError> {
    Picture::from_rgb(width, height, values.iter().map(|&x| quantise(x)).collect())
}

/// A picture from `[3, height, width]` values in `[-1, 1]`.
pub fn from_nchw(values: &[f32], width: u32, height: u32) -> Result<Picture, PictureError> {
    let mut rgb = vec![0; values.len()];
    let pixels = values.len() / 3;
    if pixels > 0 {
        for (channel, plane) in values.chunks_exact(pixels).take(3).enumerate() {
            for (pixel, &x) in rgb.chunks_exact_mut(3).zip(plane) {
                pixel[channel] = quantise(x);
            }
        }
    }
    Picture::from_rgb(width, height, rgb)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{golden, tensor_bytes, tensor_f32};

    #[test]
    fn the_golden_tensor_is_met_exactly() {
        let io = golden("pipe.io.safetensors");
        let picture = Picture::from_rgb(64, 64, tensor_bytes(&io, "pre.cropped_u8")).unwrap();
        let expected = tensor_f32(&io, "pre.tensor");
        let mut planes = vec![0.0; expected.len()];
        to_nchw(&picture, &mut planes).unwrap();
        assert_eq!(planes, expected);
        let mut interleaved = vec![0.0; expected.len()];
        to_nhwc(&picture, &mut interleaved).unwrap();
        for (i, pixel) in interleaved.chunks_exact(3).enumerate() {
            assert_eq!(pixel, [planes[i], planes[4096 + i], planes[8192 + i]]);
        }
    }

    #[test]
    fn the_golden_f32_image_becomes_the_golden_pixels() {
        let io = golden("pipe.io.safetensors");
        for (image, pixels) in
            [("fp32.image", "fp32.image_u8"), ("fp32.renderer_image", "fp32.renderer_image_u8")]
        {
            // The stored image is in [0, 1] already.
            let values: Vec<f32> = tensor_f32(&io, image).iter().map(|x| x * 2.0 - 1.0).collect();
            let picture = from_nchw(&values, 64, 64).unwrap();
            assert_eq!(picture.rgb(), tensor_bytes(&io, pixels), "{image}");
        }
    }

    #[test]
    fn every_level_survives_the_round_trip() {
        assert!((0..=255).all(|v| quantise(normalise(v)) == v));
    }

    #[test]
    fn what_lies_outside_is_clamped() {
        assert_eq!(
            [-7.0, 7.0, f32::NEG_INFINITY, f32::INFINITY, f32::NAN].map(quantise),
            [0, 255, 0, 255, 0]
        );
    }

    #[test]
    fn lengths_that_do_not_fit_are_errors() {
        let picture = Picture::from_rgb(2, 1, vec![0; 6]).unwrap();
        assert!(to_nhwc(&picture, &mut [0.0; 5]).is_err());
        assert!(to_nchw(&picture, &mut [0.0; 7]).is_err());
        assert!(from_nchw(&[0.0; 4], 1, 1).is_err());
        assert!(from_nchw(&[], 1, 1).is_err());
        assert!(from_nhwc(&[0.0; 2], 1, 1).is_err());
    }
}
