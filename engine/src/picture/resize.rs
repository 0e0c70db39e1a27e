//! Pillow's 8-bit bilinear resampler and the crop of the original's pre-processing, bit for bit.
//!
//! Pillow scales with a triangle filter as wide as the reduction (so it averages, which is what "antialias" means),
//! weights rounded to 22 bits, columns first with the intermediate rounded to `u8`, then rows. Tokens depend on the
//! last bit of a pixel, so all of that is kept: weights are made in f64 in Pillow's order of operations, everything
//! after is integer arithmetic, which has no order. What is not kept is work: only the pixels that survive the crop
//! are computed, so a picture of one by thirty thousand pixels costs no more than any other.
//!
//! The column pass is where the time goes (a photograph of 12 megapixels has 3000 rows of it). Weights are
//! non-negative and a sum stays below 2^31, so two channels share one 64-bit multiplication without touching.

use std::ops::Range;

use super::{Picture, PictureError};

/// Bits of a quantised weight; 8 for the value and 2 for the sum's head-room make 32.
const PRECISION: u32 = 32 - 8 - 2;
/// Half of a rounding step.
const HALF: u64 = 1 << (PRECISION - 1);

/// Where an output pixel reads, and with which weights.
struct Tap {
    first: usize,
    weights: Range<usize>,
}

/// The taps of the outputs `window` when `input` samples become `output`.
fn taps(input: usize, output: usize, window: Range<usize>) -> (Vec<Tap>, Vec<u32>) {
    let scale = input as f64 / output as f64;
    let filter_scale = scale.max(1.0);
    let inverse = 1.0 / filter_scale;
    let (mut taps, mut weights) = (Vec::with_capacity(window.len()), Vec::new());
    let mut exact = Vec::new();
    for o in window {
        let centre = (o as f64 + 0.5) * scale;
        // Both are non-negative before the cast or clamped by it, as in Pillow.
        let first = (centre - filter_scale + 0.5) as usize;
        let end = ((centre + filter_scale + 0.5) as usize).min(input);
        exact.clear();
        exact.extend((first..end).map(|x| {
            let distance = ((x - first) as f64 + first as f64 - centre + 0.5) * inverse;
            (1.0 - distance.abs()).max(0.0)
        }));
        let total: f64 = exact.iter().sum();
        let start = weights.len();
        weights.extend(exact.iter().map(|w| (0.5 + w / total * f64::from(1u32 << PRECISION)) as u32));
        taps.push(Tap { first, weights: start..weights.len() });
    }
    (taps, weights)
}

fn round(sum: u64) -> u8 {
    (sum >> PRECISION).min(255) as u8
}

/// Resizes to `width` x `height` exactly as Pillow's `resize((width, height), BILINEAR)` does an RGB image.
pub fn resize(picture: &Picture, width: u32, height: u32) -> Result<Picture, PictureError> {
    if width == 0 || height == 0 {
        return Err(PictureError::Empty { name: "resized picture".into(), width, height });
    }
    Ok(resample(picture, (width as usize, height as usize), 0..width as usize, 0..height as usize))
}

/// The window `columns` x `rows` of the picture resized to `(width, height)`.
fn resample(
    picture: &Picture,
    (width, height): (usize, usize),
    columns: Range<usize>,
    rows: Range<usize>,
) -> Picture {
    let (in_width, in_height) = (picture.width as usize, picture.height as usize);
    let (column_taps, column_weights) = taps(in_width, width, columns.clone());
    let (row_taps, row_weights) = taps(in_height, height, rows.clone());

    // Only the rows that the second pass reads.
    let first_row = row_taps.iter().map(|t| t.first).min().unwrap_or(0);
    let end_row = row_taps.iter().map(|t| t.first + t.weights.len()).max().unwrap_or(0);
    let stride = columns.len() * 3;
    let mut narrow = vec![0u8; (end_row - first_row) * stride];
    let first_column = column_taps.iter().map(|t| t.first).min().unwrap_or(0);
    let end_column = column_taps.iter().map(|t| t.first + t.weights.len()).max().unwrap_or(0);
    let mut red_blue = vec![0u64; end_column - first_column];
    let mut green = vec![0u32; end_column - first_column];
    for (y, out) in (first_row..end_row).zip(narrow.chunks_exact_mut(stride)) {
        let row = &picture.rgb[(y * in_width + first_column) * 3..(y * in_width + end_column) * 3];
        for ((pixel, rb), g) in row.chunks_exact(3).zip(&mut red_blue).zip(&mut green) {
            *rb = u64::from(pixel[0]) | u64::from(pixel[2]) << 32;
            *g = u32::from(pixel[1]);
        }
        for (tap, pixel) in column_taps.iter().zip(out.chunks_exact_mut(3)) {
            let weights = &column_weights[tap.weights.clone()];
            let at = tap.first - first_column;
            let (mut rb, mut g) = (HALF | HALF << 32, HALF as u32);
            for ((&w, &p), &q) in weights.iter().zip(&red_blue[at..]).zip(&green[at..]) {
                rb += p * u64::from(w);
                g += q * w;
            }
            pixel[0] = round(rb & 0xffff_ffff);
            pixel[1] = round(u64::from(g));
            pixel[2] = round(rb >> 32);
        }
    }

    let mut rgb = vec![0u8; rows.len() * stride];
    let mut sums = vec![0u32; stride];
    for (tap, out) in row_taps.iter().zip(rgb.chunks_exact_mut(stride)) {
        sums.fill(HALF as u32);
        let weights = &row_weights[tap.weights.clone()];
        for (&w, row) in weights.iter().zip(narrow[(tap.first - first_row) * stride..].chunks_exact(stride)) {
            for (sum, &v) in sums.iter_mut().zip(row) {
                *sum += u32::from(v) * w;
            }
        }
        for (value, &sum) in out.iter_mut().zip(&sums) {
            *value = round(u64::from(sum));
        }
    }
    Picture { width: columns.len() as u32, height: rows.len() as u32, rgb }
}

/// The size to which `Resize(size)` brings a picture: the short side becomes `size`, the long one keeps the
/// proportion, truncated.
pub fn resized_size(width: u32, height: u32, size: u32) -> (u64, u64) {
    let long = |long: u32, short: u32| u64::from(size) * u64::from(long) / u64::from(short);
    if width <= height {
        (size.into(), long(height, width.max(1)))
    } else {
        (long(width, height.max(1)), size.into())
    }
}

/// Where `CenterCrop` begins: half of what is over, ties to the even number as Python's `round` has it.
fn crop_start(length: u64, size: u64) -> u64 {
    let over = length.saturating_sub(size);
    let half = over / 2;
    half + (over % 2) * (half % 2)
}

/// The picture a model of `size` x `size` pixels sees: `Resize(size)`, then `CenterCrop(size)`.
pub fn preprocess(picture: &Picture, size: u32) -> Result<Picture, PictureError> {
    if size == 0 {
        return Err(PictureError::Empty { name: "preprocessed picture".into(), width: size, height: size });
    }
    let (width, height) = resized_size(picture.width, picture.height, size);
    let window = |length| {
        let start = crop_start(length, size.into()) as usize;
        start..start + size as usize
    };
    if (width, height) == (picture.width.into(), picture.height.into()) && width == height {
        return Ok(picture.clone());
    }
    Ok(resample(picture, (width as usize, height as usize), window(width), window(height)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{golden, tensor_bytes};

    fn fnv1a(bytes: &[u8]) -> u64 {
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
    }

    /// The picture whose byte `i` is the high byte of an LCG: the same here and in the script that asked Pillow.
    fn noise(width: u32, height: u32) -> Picture {
        let mut state = width.wrapping_mul(2_654_435_761) ^ height;
        let rgb = (0..width * height * 3)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        Picture::from_rgb(width, height, rgb).unwrap()
    }

    #[test]
    fn the_golden_picture_resizes_and_crops_bit_for_bit() {
        let picture = Picture::open(golden("pipe_input.png")).unwrap();
        let io = golden("pipe.io.safetensors");
        assert_eq!(resized_size(90, 70, 64), (82, 64));
        assert_eq!(resize(&picture, 82, 64).unwrap().rgb(), tensor_bytes(&io, "pre.resized_u8"));
        assert_eq!(preprocess(&picture, 64).unwrap().rgb(), tensor_bytes(&io, "pre.cropped_u8"));
    }

    #[test]
    fn the_crop_starts_at_the_even_half() {
        let starts: Vec<u64> = (64..72).map(|length| crop_start(length, 64)).collect();
        assert_eq!(starts, [0, 0, 1, 2, 2, 2, 3, 4]);
    }

    #[test]
    fn a_very_long_picture_costs_only_its_crop() {
        let line = noise(1, 30_000);
        let cropped = preprocess(&line, 64).unwrap();
        assert_eq!((cropped.width(), cropped.height()), (64, 64));
    }

    #[test]
    #[ignore = "a measurement, not a check: prints the best of 15"]
    fn time_of_a_twelve_megapixel_photograph() {
        let photograph = noise(4000, 3000);
        let best = (0..15).map(|_| {
            let start = std::time::Instant::now();
            std::hint::black_box(preprocess(std::hint::black_box(&photograph), 256).unwrap());
            start.elapsed()
        });
        println!("4000x3000 to 256: {:?}", best.min().unwrap());
    }

    #[test]
    fn the_window_is_a_part_of_the_whole() {
        let picture = noise(50, 31);
        let whole = resize(&picture, 41, 23).unwrap();
        let part = resample(&picture, (41, 23), 7..20, 5..11);
        for (y, row) in part.rgb().chunks_exact(13 * 3).enumerate() {
            let at = ((y + 5) * 41 + 7) * 3;
            assert_eq!(row, &whole.rgb()[at..at + 39]);
        }
    }

    #[test]
    fn size_zero_is_an_error() {
        assert!(resize(&noise(2, 2), 0, 3).is_err());
        assert!(preprocess(&noise(2, 2), 0).is_err());
    }

    /// Made with Pillow 13.0.0 (`Image.resize(..., BILINEAR)` and `Image.crop`), FNV-1a of the cropped RGB bytes.
    const PILLOW: [(u32, u32, u32, u64); 13] = [
        (64, 64, 64, 0x2c0078b6aadcc223),
        (1, 1, 64, 0x39ffdc3f299d3325),
        (1, 37, 64, 0xdb3170e8a2938465),
        (3, 200, 32, 0x0069150de7cba1bc),
        (97, 61, 64, 0x16017a28002a09de),
        (63, 65, 64, 0x76b25e7442a18b13),
        (320, 240, 64, 0x9bd7b016b1e0a67d),
        (240, 323, 64, 0x7f397522e45d2b67),
        (500, 20, 64, 0x6e8ebb5e9f4fc279),
        (401, 399, 256, 0x79675a458edc2bba),
        (513, 257, 256, 0x68baf5128d4165c3),
        (100, 255, 256, 0x2773f5f31e208760),
        (31, 17, 5, 0x45dff5ff979011d8),
    ];

    #[test]
    fn pillow_agrees_on_every_size() {
        for (width, height, size, hash) in PILLOW {
            let cropped = preprocess(&noise(width, height), size).unwrap();
            assert_eq!(fnv1a(cropped.rgb()), hash, "{width}x{height} to {size}");
        }
    }
}
