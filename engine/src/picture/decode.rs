//! From the bytes of a picture file to RGB, without trusting them.
//!
//! The header is read first and judged by the limits; only then are pixels unpacked. What becomes of each colour mode
//! follows Pillow's `convert("RGB")`, for that is what a caller of the original would do.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};

use super::{Picture, PictureError, jpeg};

/// File name extensions of the formats that [`Picture::open`] reads.
pub const EXTENSIONS: [&str; 16] = [
    "bmp", "gif", "ico", "jfif", "jpe", "jpeg", "jpg", "pbm", "pgm", "png", "pnm", "ppm", "qoi", "tif",
    "tiff", "webp",
];

/// How large a picture may be, so that a small hostile file cannot ask for all the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest width or height in pixels.
    pub max_side: u32,
    /// Largest number of pixels. Decoding takes at most about 19 bytes for each (16 for a float image, 3 for the result).
    pub max_pixels: u64,
    /// Largest file in bytes.
    pub max_file_bytes: u64,
}

impl Default for Limits {
    /// 30,000 pixels a side, 178,956,970 in all (Pillow's own bound) and files of 1 GiB.
    fn default() -> Self {
        Self { max_side: 30_000, max_pixels: 178_956_970, max_file_bytes: 1 << 30 }
    }
}

pub(super) fn decode(bytes: &[u8], name: &str, limits: &Limits) -> Result<Picture, PictureError> {
    if bytes.len() as u64 > limits.max_file_bytes {
        return Err(PictureError::FileTooLarge { name: name.into(), max: limits.max_file_bytes });
    }
    let format = image::guess_format(bytes)
        .ok()
        .and_then(|format| Some((format, format_name(format)?)))
        .ok_or_else(|| PictureError::UnknownFormat { name: name.into() })?;
    let (format, format_name) = format;
    let damaged = |e: image::ImageError| {
        let (name, format, reason) = (name.to_string(), format_name, e.to_string());
        match e {
            image::ImageError::Unsupported(_) => PictureError::Unsupported { name, format, reason },
            image::ImageError::Limits(_) => PictureError::OverLimit { name, format, reason },
            _ => PictureError::Damaged { name, format, reason },
        }
    };
    if format == ImageFormat::Jpeg && !jpeg::is_complete(bytes) {
        let reason = "the file ends before its end-of-image marker".into();
        return Err(PictureError::Damaged { name: name.into(), format: format_name, reason });
    }

    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut decoder_limits = image::Limits::no_limits();
    // What a decoder may hold besides the pixels: tables, a line, a frame of an animation.
    decoder_limits.max_alloc = Some(limits.max_pixels.saturating_mul(16).saturating_add(64 << 20));
    reader.limits(decoder_limits.clone());
    let mut decoder = reader.into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    check_size(name, width, height, limits)?;
    decoder.set_limits(decoder_limits).map_err(damaged)?;
    let orientation = decoder.orientation().map_err(damaged)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    image.apply_orientation(orientation);
    let (width, height) = (image.width(), image.height());
    check_size(name, width, height, limits)?;
    Picture::from_rgb(width, height, to_rgb8(image))
}

fn check_size(name: &str, width: u32, height: u32, limits: &Limits) -> Result<(), PictureError> {
    if width == 0 || height == 0 {
        return Err(PictureError::Empty { name: name.into(), width, height });
    }
    let &Limits { max_side, max_pixels, .. } = limits;
    if width.max(height) > max_side || u64::from(width) * u64::from(height) > max_pixels {
        return Err(PictureError::TooLarge { name: name.into(), width, height, max_side, max_pixels });
    }
    Ok(())
}

/// The name people know, for the formats this build can decode.
fn format_name(format: ImageFormat) -> Option<&'static str> {
    Some(match format {
        ImageFormat::Bmp => "BMP",
        ImageFormat::Gif => "GIF",
        ImageFormat::Ico => "ICO",
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::Png => "PNG",
        ImageFormat::Pnm => "PNM",
        ImageFormat::Qoi => "QOI",
        ImageFormat::Tiff => "TIFF",
        ImageFormat::WebP => "WebP",
        _ => return None,
    })
}

/// RGB of eight bits: alpha dropped, grey repeated, the high byte of 16-bit samples (as Pillow unpacks `RGB;16`).
fn to_rgb8(image: DynamicImage) -> Vec<u8> {
    let high = |v: u16| (v >> 8) as u8;
    match image {
        DynamicImage::ImageRgb8(image) => image.into_raw(),
        DynamicImage::ImageLuma8(image) => image.into_raw().into_iter().flat_map(|v| [v; 3]).collect(),
        DynamicImage::ImageLumaA8(image) => {
            image.into_raw().chunks_exact(2).flat_map(|p| [p[0]; 3]).collect()
        }
        DynamicImage::ImageRgba8(image) => drop_alpha(image.into_raw()),
        DynamicImage::ImageLuma16(image) => image.into_raw().into_iter().flat_map(|v| [high(v); 3]).collect(),
        DynamicImage::ImageLumaA16(image) => {
            image.into_raw().chunks_exact(2).flat_map(|p| [high(p[0]); 3]).collect()
        }
        DynamicImage::ImageRgb16(image) => image.into_raw().into_iter().map(high).collect(),
        DynamicImage::ImageRgba16(image) => {
            image.into_raw().chunks_exact(4).flat_map(|p| [high(p[0]), high(p[1]), high(p[2])]).collect()
        }
        // Float samples: [0, 1] to [0, 255], rounded; Pillow has no such mode.
        other => other.into_rgb8().into_raw(),
    }
}

/// RGBA to RGB within the same buffer.
fn drop_alpha(mut rgba: Vec<u8>) -> Vec<u8> {
    let pixels = rgba.len() / 4;
    for i in 1..pixels {
        rgba.copy_within(4 * i..4 * i + 3, 3 * i);
    }
    rgba.truncate(3 * pixels);
    rgba
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Damage;
    use image::{ExtendedColorType, ImageBuffer, Luma, LumaA, Rgb, Rgba};

    fn encode(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut out = Cursor::new(Vec::new());
        image.write_to(&mut out, format).unwrap();
        out.into_inner()
    }

    fn sample(width: u32, height: u32) -> DynamicImage {
        ImageBuffer::from_fn(width, height, |x, y| Rgb([(x * 9) as u8, (y * 7) as u8, (x * y) as u8])).into()
    }

    const FORMATS: [ImageFormat; 9] = [
        ImageFormat::Bmp,
        ImageFormat::Gif,
        ImageFormat::Ico,
        ImageFormat::Jpeg,
        ImageFormat::Png,
        ImageFormat::Pnm,
        ImageFormat::Qoi,
        ImageFormat::Tiff,
        ImageFormat::WebP,
    ];

    fn sample_file(format: ImageFormat) -> Vec<u8> {
        let rgb = sample(33, 21);
        // An icon holds RGBA only.
        encode(&if format == ImageFormat::Ico { rgb.to_rgba8().into() } else { rgb }, format)
    }

    #[test]
    fn every_format_is_told_from_its_bytes() {
        for format in FORMATS {
            let picture = Picture::decode(&sample_file(format), "sample").unwrap();
            assert_eq!((picture.width(), picture.height()), (33, 21), "{format:?}");
            if !matches!(format, ImageFormat::Jpeg | ImageFormat::Gif) {
                assert_eq!(picture.rgb(), sample(33, 21).as_bytes(), "{format:?}");
            }
        }
    }

    #[test]
    fn alpha_is_dropped_and_grey_repeated() {
        let rgba: DynamicImage = ImageBuffer::from_pixel(2, 1, Rgba([10u8, 20, 30, 0])).into();
        let grey: DynamicImage = ImageBuffer::from_pixel(2, 1, Luma([77u8])).into();
        let grey_alpha: DynamicImage = ImageBuffer::from_pixel(2, 1, LumaA([77u8, 3])).into();
        for (image, pixel) in [(rgba, [10, 20, 30]), (grey, [77; 3]), (grey_alpha, [77; 3])] {
            let picture = Picture::decode(&encode(&image, ImageFormat::Png), "p").unwrap();
            assert_eq!(picture.rgb(), [pixel, pixel].concat());
        }
    }

    #[test]
    fn palettes_bits_and_transparent_colours_read_as_in_pillow() {
        // Files that Pillow wrote, and the bytes of its `convert("RGB")`.
        #[rustfmt::skip]
        let cases = [
            ("a palette PNG with a transparent colour", &b"\x89\x50\x4e\x47\x0d\x0a\x1a\x0a\x00\x00\x00\x0d\x49\x48\x44\x52\x00\x00\x00\x03\x00\x00\x00\x02\x02\x03\x00\x00\x00\xe0\x1a\x8e\x89\x00\x00\x00\x0c\x50\x4c\x54\x45\xff\x00\x00\x00\xff\x00\x00\x00\xff\x09\x08\x07\xa2\xd2\x62\xc0\x00\x00\x00\x03\x74\x52\x4e\x53\xff\xff\x00\xd7\xca\x0d\x41\x00\x00\x00\x0c\x49\x44\x41\x54\x78\x9c\x63\x90\x60\x78\x02\x00\x01\x30\x00\xfd\x56\xcd\x1c\x73\x00\x00\x00\x00\x49\x45\x4e\x44\xae\x42\x60\x82"[..], &[255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 8, 7, 0, 0, 255, 0, 255, 0][..]),
            ("a palette GIF with a transparent colour", &b"\x47\x49\x46\x38\x39\x61\x03\x00\x02\x00\x81\x00\x00\xff\x00\x00\x00\xff\x00\x00\x00\xff\x09\x08\x07\x21\xf9\x04\x01\x00\x00\x02\x00\x2c\x00\x00\x00\x00\x03\x00\x02\x00\x00\x08\x09\x00\x01\x04\x10\x30\x40\x40\x80\x80\x00\x3b"[..], &[255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 8, 7, 0, 0, 255, 0, 255, 0][..]),
            ("a one-bit PNG", &b"\x89\x50\x4e\x47\x0d\x0a\x1a\x0a\x00\x00\x00\x0d\x49\x48\x44\x52\x00\x00\x00\x03\x00\x00\x00\x02\x01\x00\x00\x00\x00\xb5\x0f\x5b\xb7\x00\x00\x00\x0c\x49\x44\x41\x54\x78\x9c\x63\x58\xc0\xa0\x00\x00\x02\x04\x00\xc1\x34\xc3\x28\xa3\x00\x00\x00\x00\x49\x45\x4e\x44\xae\x42\x60\x82"[..], &[255, 255, 255, 0, 0, 0, 255, 255, 255, 0, 0, 0, 0, 0, 0, 255, 255, 255][..]),
            ("a fax TIFF", &b"\x49\x49\x2a\x00\x0e\x00\x00\x00\x04\x12\x8e\x00\x20\x02\x09\x00\x00\x01\x03\x00\x01\x00\x00\x00\x03\x00\x00\x00\x01\x01\x03\x00\x01\x00\x00\x00\x02\x00\x00\x00\x02\x01\x03\x00\x01\x00\x00\x00\x01\x00\x00\x00\x03\x01\x03\x00\x01\x00\x00\x00\x04\x00\x00\x00\x06\x01\x03\x00\x01\x00\x00\x00\x01\x00\x00\x00\x11\x01\x04\x00\x01\x00\x00\x00\x08\x00\x00\x00\x16\x01\x03\x00\x01\x00\x00\x00\x02\x00\x00\x00\x17\x01\x04\x00\x01\x00\x00\x00\x06\x00\x00\x00\x1c\x01\x03\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00"[..], &[255, 255, 255, 0, 0, 0, 255, 255, 255, 0, 0, 0, 0, 0, 0, 255, 255, 255][..]),
            ("a grey PNG with a transparent level", &b"\x89\x50\x4e\x47\x0d\x0a\x1a\x0a\x00\x00\x00\x0d\x49\x48\x44\x52\x00\x00\x00\x02\x00\x00\x00\x01\x08\x00\x00\x00\x00\xd1\x49\x20\x56\x00\x00\x00\x02\x74\x52\x4e\x53\x00\x3c\x59\xfc\xb1\xbf\x00\x00\x00\x0b\x49\x44\x41\x54\x78\x9c\x63\xe4\x32\x02\x00\x00\x4c\x00\x3e\x5b\xfe\x0f\x16\x00\x00\x00\x00\x49\x45\x4e\x44\xae\x42\x60\x82"[..], &[10, 10, 10, 60, 60, 60][..]),
        ];
        for (name, file, rgb) in cases {
            assert_eq!(Picture::decode(file, name).unwrap().rgb(), rgb, "{name}");
        }
    }

    #[test]
    fn of_sixteen_bits_the_high_byte_counts() {
        let grey: DynamicImage = ImageBuffer::from_pixel(1, 1, Luma([0x12ffu16])).into();
        let rgb: DynamicImage = ImageBuffer::from_pixel(1, 1, Rgb([0x12ffu16, 0x8000, 0xffff])).into();
        let rgba: DynamicImage = ImageBuffer::from_pixel(1, 1, Rgba([0x12ffu16, 0x8000, 0xffff, 0])).into();
        let read = |image| Picture::decode(&encode(&image, ImageFormat::Png), "p").unwrap().into_rgb();
        assert_eq!(read(grey), [0x12; 3]);
        assert_eq!(read(rgb), [0x12, 0x80, 0xff]);
        assert_eq!(read(rgba), [0x12, 0x80, 0xff]);
    }

    #[test]
    fn exif_orientation_turns_the_picture() {
        // Orientation 6: the camera was turned, show it rotated by 90 degrees clockwise.
        let exif = [
            &b"II*\0\x08\0\0\0\x01\0"[..],               // TIFF header, one entry
            &[0x12, 0x01, 3, 0, 1, 0, 0, 0, 6, 0, 0, 0], // tag 0x0112, short, one value: 6
            &[0, 0, 0, 0],
        ]
        .concat();
        let mut out = Vec::new();
        let mut encoder = image::codecs::png::PngEncoder::new(&mut out);
        image::ImageEncoder::set_exif_metadata(&mut encoder, exif).unwrap();
        image::ImageEncoder::write_image(encoder, &[1, 1, 1, 2, 2, 2], 2, 1, ExtendedColorType::Rgb8)
            .unwrap();
        let picture = Picture::decode(&out, "turned").unwrap();
        assert_eq!((picture.width(), picture.height()), (1, 2));
        assert_eq!(picture.rgb(), [1, 1, 1, 2, 2, 2]);
    }

    #[test]
    fn a_file_cut_short_is_an_error_in_every_format() {
        for format in FORMATS {
            let file = sample_file(format);
            for keep in [file.len() / 2, file.len() * 3 / 4] {
                let cut = Picture::decode(&file[..keep], "cut");
                assert!(
                    matches!(cut, Err(PictureError::Damaged { .. })),
                    "{format:?} of {keep} bytes: {cut:?}"
                );
            }
        }
    }

    #[test]
    fn limits_are_checked_before_pixels_are_unpacked() {
        let file = encode(&sample(64, 32), ImageFormat::Png);
        for limits in
            [Limits { max_side: 63, ..Limits::default() }, Limits { max_pixels: 2047, ..Limits::default() }]
        {
            let error = Picture::decode_within(&file, "big", &limits).unwrap_err();
            assert!(matches!(error, PictureError::TooLarge { width: 64, height: 32, .. }), "{error}");
        }
        // A header that claims 40,000 x 40,000 over a handful of bytes.
        let small = encode(&sample(1, 1), ImageFormat::Bmp);
        let lying =
            |side: i32| [&small[..18], &side.to_le_bytes(), &side.to_le_bytes(), &small[26..]].concat();
        assert!(matches!(Picture::decode(&lying(40_000), "bomb"), Err(PictureError::TooLarge { .. })));
        assert!(matches!(Picture::decode(&lying(30_000), "bomb"), Err(PictureError::TooLarge { .. })));
        assert!(Picture::decode(&lying(0), "empty").is_err());
    }

    #[test]
    fn text_is_not_a_picture() {
        let error = Picture::decode(b"hello, world", "notes.txt").unwrap_err();
        assert!(
            error.to_string().starts_with("notes.txt: not a picture in a format known here (bmp, gif"),
            "{error}"
        );
        assert!(Picture::decode(b"", "empty.png").is_err());
    }

    #[test]
    fn damaged_files_give_a_picture_or_an_error_and_never_panic() {
        let limits = Limits { max_pixels: 1 << 16, ..Limits::default() };
        let mut damage = Damage(7);
        for format in FORMATS {
            let file = sample_file(format);
            for _ in 0..400 {
                let _ = Picture::decode_within(&damage.mutate(&file), "damaged", &limits);
            }
        }
    }
}
