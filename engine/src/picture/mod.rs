//! Pictures as the models see them: eight bits of red, green and blue.
//!
//! A token is decided by the last bit of a pixel, so what happens between the file and the first tensor is part of the
//! model: `decode` turns any file into RGB as the original does, [`resize`] repeats Pillow's integer resampler bit
//! for bit, and [`tensor`] holds the two maps between `u8` and `[-1, 1]`.

mod decode;
mod jpeg;
pub mod resize;
pub mod tensor;

use std::io;
use std::path::Path;

use image::ImageEncoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};

pub use decode::{EXTENSIONS, Limits};

use crate::atomic::{self, WriteError};

/// Why a picture could not be read or used.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// The file could not be opened or read.
    #[error("{name}: cannot read the file: {source}")]
    Read {
        /// The file.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// The file is larger than [`Limits::max_file_bytes`].
    #[error("{name}: the file has more than {max} bytes, the limit for one picture")]
    FileTooLarge {
        /// The file.
        name: String,
        /// The limit in bytes.
        max: u64,
    },
    /// No known format begins like this.
    #[error("{name}: not a picture in a format known here ({})", EXTENSIONS.join(", "))]
    UnknownFormat {
        /// The file.
        name: String,
    },
    /// The picture is wider, taller or larger in all than the limits allow.
    #[error("{name}: {width}x{height} pixels; the limits are {max_side} a side and {max_pixels} in all")]
    TooLarge {
        /// The file.
        name: String,
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Largest width or height allowed.
        max_side: u32,
        /// Largest number of pixels allowed.
        max_pixels: u64,
    },
    /// One side is zero.
    #[error("{name}: {width}x{height} pixels; a picture needs at least one pixel")]
    Empty {
        /// The file, or what the picture is for.
        name: String,
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// The file ends too early or is damaged.
    #[error("{name}: a damaged or incomplete {format} file: {reason}")]
    Damaged {
        /// The file.
        name: String,
        /// The format that the file claims.
        format: &'static str,
        /// What the decoder stumbled over.
        reason: String,
    },
    /// A variety of a known format that the decoder lacks, such as a palette TIFF.
    #[error("{name}: a kind of {format} file that is not supported here; convert it to PNG ({reason})")]
    Unsupported {
        /// The file.
        name: String,
        /// Its format.
        format: &'static str,
        /// What the decoder lacks.
        reason: String,
    },
    /// Decoding would take more memory than the limits allow.
    #[error("{name}: decoding this {format} file would take more memory than is allowed ({reason})")]
    OverLimit {
        /// The file.
        name: String,
        /// Its format.
        format: &'static str,
        /// Which limit.
        reason: String,
    },
    /// Pixels and dimensions do not fit together.
    #[error("{width}x{height} RGB pixels take {expected} bytes, but {actual} were given")]
    WrongLength {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// `width * height * 3`.
        expected: u64,
        /// The length given.
        actual: usize,
    },
}

/// An RGB picture of eight bits a channel, rows from the top, no padding.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Picture({}x{})", self.width, self.height)
    }
}

impl Picture {
    /// A picture of `width * height * 3` bytes, red first.
    pub fn from_rgb(width: u32, height: u32, rgb: Vec<u8>) -> Result<Self, PictureError> {
        if width == 0 || height == 0 {
            return Err(PictureError::Empty { name: "picture".into(), width, height });
        }
        let expected = u64::from(width).saturating_mul(u64::from(height)).saturating_mul(3);
        if rgb.len() as u64 != expected {
            return Err(PictureError::WrongLength { width, height, expected, actual: rgb.len() });
        }
        Ok(Self { width, height, rgb })
    }

    /// Opens a picture file within the default [`Limits`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, PictureError> {
        Self::open_within(path, &Limits::default())
    }

    /// Opens a picture file within `limits`.
    pub fn open_within(path: impl AsRef<Path>, limits: &Limits) -> Result<Self, PictureError> {
        let path = path.as_ref();
        let name = path.display().to_string();
        match crate::bounded::read(path, limits.max_file_bytes) {
            Ok(Some(bytes)) => decode::decode(&bytes, &name, limits),
            Ok(None) => Err(PictureError::FileTooLarge { name, max: limits.max_file_bytes }),
            Err(source) => Err(PictureError::Read { name, source }),
        }
    }

    /// Decodes a picture file that is already in memory; `name` is what errors call it.
    ///
    /// The format is told from the bytes. Every colour mode becomes RGB as Pillow's `convert("RGB")` does it: grey is
    /// repeated, palettes are looked up, alpha is dropped and not blended. Of 16-bit samples the high byte is taken.
    /// Lossless formats give Pillow's bytes; JPEG leaves decoders some freedom, and a sample may differ by up to 3.
    /// The orientation in the EXIF data is applied. Of an animation the first frame counts.
    pub fn decode(bytes: &[u8], name: &str) -> Result<Self, PictureError> {
        Self::decode_within(bytes, name, &Limits::default())
    }

    /// [`decode`](Self::decode) within `limits`.
    pub fn decode_within(bytes: &[u8], name: &str, limits: &Limits) -> Result<Self, PictureError> {
        decode::decode(bytes, name, limits)
    }

    /// Width in pixels, at least 1.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels, at least 1.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The pixels: `height * width * 3` bytes, rows from the top, red first.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// The pixels of a picture that is no longer needed.
    pub fn into_rgb(self) -> Vec<u8> {
        self.rgb
    }

    /// The picture as the bytes of a PNG file.
    pub fn to_png(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        PngEncoder::new_with_quality(&mut bytes, CompressionType::Default, FilterType::Adaptive)
            .write_image(&self.rgb, self.width, self.height, image::ExtendedColorType::Rgb8)
            .expect("encoding a picture of at least one pixel into memory");
        bytes
    }

    /// Saves the picture as PNG, whole or not at all.
    pub fn save_png(&self, path: impl AsRef<Path>) -> Result<(), WriteError> {
        // Not while encoding: the encoder hides what the disk says in an error of its own.
        atomic::write(path, &self.to_png())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TempDir, golden};

    #[test]
    fn a_saved_picture_comes_back_bit_for_bit() {
        let dir = TempDir::new();
        let path = dir.path().join("p.png");
        let picture = Picture::from_rgb(5, 3, (0..45).map(|i| (i * 37) as u8).collect()).unwrap();
        picture.save_png(&path).unwrap();
        assert_eq!(Picture::open(&path).unwrap(), picture);
        assert_eq!(std::fs::read(&path).unwrap(), picture.to_png());
    }

    #[test]
    fn pixels_must_fit_the_size() {
        assert!(matches!(
            Picture::from_rgb(2, 2, vec![0; 11]),
            Err(PictureError::WrongLength { expected: 12, .. })
        ));
        assert!(matches!(Picture::from_rgb(0, 2, vec![]), Err(PictureError::Empty { .. })));
        assert!(Picture::from_rgb(u32::MAX, u32::MAX, vec![]).is_err());
    }

    #[test]
    fn the_golden_picture_opens() {
        let picture = Picture::open(golden("pipe_input.png")).unwrap();
        assert_eq!((picture.width(), picture.height()), (90, 70));
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Picture::open("no/such/picture.png").unwrap_err();
        assert!(error.to_string().starts_with("no/such/picture.png: cannot read the file"), "{error}");
    }
}
