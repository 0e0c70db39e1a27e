//! The rows of a convolution's matrix: which input pixels an output pixel sees.

use super::ConvSpec;
use crate::arch::gemm::{A_STRIDE, GemmKernels};
use crate::gemm::{GemmError, RowSource, check_sizes};
use std::ops::Range;

/// The sizes that place a tap.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    /// Stored height and width.
    input: [usize; 2],
    /// Output height and width.
    pub output: [usize; 2],
    channels: usize,
    kernel: [usize; 2],
    stride: usize,
    /// Zeros above and to the left.
    before: [usize; 2],
    upsample: bool,
}

impl Geometry {
    pub fn new(spec: &ConvSpec) -> Result<Geometry, GemmError> {
        let [height, width] = spec.input;
        check_sizes("conv2d", &[("height", height), ("width", width), ("in_channels", spec.in_channels)])?;
        let [kh, kw] = spec.kernel;
        check_sizes("conv2d", &[("kernel height", kh), ("kernel width", kw), ("stride", spec.stride)])?;
        let [top, bottom, left, right] = spec.padding;
        let scale = if spec.upsample { 2 } else { 1 };
        let padded = |size: usize, before: usize, after: usize| {
            let padded = size.checked_mul(scale)?.checked_add(before)?.checked_add(after)?;
            (padded < 1 << 48).then_some(padded)
        };
        let (Some(tall), Some(wide)) = (padded(height, top, bottom), padded(width, left, right)) else {
            let sizes = vec![height, width, top, bottom, left, right];
            return Err(GemmError::Overflow { kernel: "conv2d", sizes });
        };
        if kh > tall || kw > wide {
            return Err(GemmError::KernelTooLarge { kernel: spec.kernel, input: [tall, wide] });
        }
        Ok(Geometry {
            input: spec.input,
            output: [(tall - kh) / spec.stride + 1, (wide - kw) / spec.stride + 1],
            channels: spec.in_channels,
            kernel: spec.kernel,
            stride: spec.stride,
            before: [top, left],
            upsample: spec.upsample,
        })
    }

    /// The stored coordinate that tap `tap` of output coordinate `out` reads along `axis`; `None` in the padding.
    #[inline(always)]
    fn source(&self, axis: usize, out: usize, tap: usize) -> Option<usize> {
        let at = (out * self.stride + tap).checked_sub(self.before[axis])? >> self.upsample as u32;
        (at < self.input[axis]).then_some(at)
    }
}

/// A picture seen as the rows of a matrix `[output pixels, kh * kw * channels]`.
pub(super) struct Taps<'a> {
    pub geometry: &'a Geometry,
    pub x: *const f32,
    pub image_stride: usize,
    pub pixel_stride: usize,
}

impl RowSource for Taps<'_> {
    #[inline]
    unsafe fn pack(&self, kernels: &GemmKernels, m: usize, rows: usize, k: Range<usize>, to: *mut f32) {
        let [height, width] = self.geometry.output;
        let (mut image, mut y, mut x) = (m / (height * width), m / width % height, m % width);
        for i in 0..rows {
            // SAFETY: the caller vouches for the pixel and for the room of row `i`.
            unsafe {
                let row = to.add(i * A_STRIDE);
                self.pack_pixel(kernels, image, y, x, k.clone(), row);
                kernels.pad_row(row, k.len());
            }
            x += 1;
            if x == width {
                (x, y) = (0, y + 1);
            }
            if y == height {
                (y, image) = (0, image + 1);
            }
        }
    }

    #[inline]
    fn ahead(&self, m: usize, k: usize) -> (*const u8, usize) {
        let geometry = self.geometry;
        let [height, width] = geometry.output;
        let (tap, channel) = (k / geometry.channels, k % geometry.channels);
        let stored = |axis: usize, out: usize, tap: usize| {
            (out * geometry.stride + tap).saturating_sub(geometry.before[axis]) >> geometry.upsample as u32
        };
        let y = stored(0, m / width % height, tap / geometry.kernel[1]);
        let x = stored(1, m % width, tap % geometry.kernel[1]);
        let at = m / (height * width) * self.image_stride
            + (y * geometry.input[1] + x) * self.pixel_stride
            + channel;
        (self.x.wrapping_add(at).cast(), self.pixel_stride * geometry.stride * 4)
    }
}

/// Enough zeros for any run of taps: a block of k.
static ZEROS: [f32; crate::arch::gemm::A_WORDS * 2] = [0.0; crate::arch::gemm::A_WORDS * 2];

impl Taps<'_> {
    /// Gathers elements `k` of the taps of one output pixel.
    ///
    /// # Safety
    /// As [`RowSource::pack`], for one row.
    #[inline(always)]
    unsafe fn pack_pixel(
        &self,
        kernels: &GemmKernels,
        image: usize,
        y: usize,
        x: usize,
        k: Range<usize>,
        row: *mut f32,
    ) {
        let geometry = self.geometry;
        let channels = geometry.channels;
        let kw = geometry.kernel[1];
        // Neighbouring taps are neighbours in memory if pixels touch and none is read twice.
        let joined = self.pixel_stride == channels && !geometry.upsample;
        let (tap, mut channel) = (k.start / channels, k.start % channels);
        let (mut ky, mut kx) = (tap / kw, tap % kw);
        let mut done = 0;
        while done < k.len() {
            let source = match (geometry.source(0, y, ky), geometry.source(1, x, kx)) {
                (Some(sy), Some(sx)) => Some((sy, sx)),
                _ => None,
            };
            let mut taps = 1;
            if let Some((_, sx)) = source
                && joined
            {
                taps = (kw - kx).min(geometry.input[1] - sx);
            }
            let len = (taps * channels - channel).min(k.len() - done);
            // SAFETY: the taps from `kx` on lie within their row of the picture; `len` stays within them and the block.
            unsafe {
                let from = match source {
                    Some((sy, sx)) => self.x.add(
                        image * self.image_stride
                            + (sy * geometry.input[1] + sx) * self.pixel_stride
                            + channel,
                    ),
                    None => ZEROS.as_ptr(),
                };
                (kernels.copy_row)(from, len, row, done);
            }
            done += len;
            channel = 0;
            kx += taps;
            if kx >= kw {
                (kx, ky) = (0, ky + 1);
            }
        }
    }
}
