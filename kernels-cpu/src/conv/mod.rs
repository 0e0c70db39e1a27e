//! Two-dimensional convolution over NHWC as an implicit matrix product.
//!
//! Each output pixel is a row of A whose columns are its taps, `(ky, kx, channel)` with the channel innermost; the rows
//! are gathered straight into the packed block that the product would copy anyway, so no im2col buffer exists. Runs of
//! taps that are neighbours in memory are copied as one. The weight is packed in the order of the taps at bind.

mod taps;
#[cfg(test)]
mod tests;

use crate::gemm::{
    Core, Epilogue, GemmError, PackedMatrix, RowMap, Rows, Weight, WeightFormat, WeightKind, check_sizes,
};
use crate::isa::Features;
use selftok_graph::Activation;
use std::ops::Range;
use taps::{Geometry, Taps};

/// The shape of a convolution.
#[derive(Clone, Copy, Debug)]
pub struct ConvSpec {
    /// The greatest number of pictures.
    pub max_batch: usize,
    /// Height and width of the input as stored (before any upsampling).
    pub input: [usize; 2],
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Step in both directions.
    pub stride: usize,
    /// Zeros added at top, bottom, left, right.
    pub padding: [usize; 4],
    /// Read the input through nearest-neighbour upsampling by 2 in both directions: pixel `(y, x)` of the convolved
    /// picture is pixel `(y / 2, x / 2)` of the stored one.
    pub upsample: bool,
    /// The form of the packed weight.
    pub format: WeightFormat,
    /// The threads that will share the tasks.
    pub workers: usize,
}

/// A convolution ready to run: see [`Conv2d::prepare`].
pub struct Conv2d {
    core: Core,
    geometry: Geometry,
}

/// The operands of one run. All pointers are to f32; strides count elements.
#[derive(Clone, Copy)]
pub struct ConvArgs<'a> {
    /// Pictures that exist, at most `max_batch`.
    pub batch: usize,
    /// `[batch, H, W, in_channels]`, channels contiguous.
    pub x: *const f32,
    /// Elements from one picture to the next.
    pub image_stride: usize,
    /// Elements from one pixel to the next; more than `in_channels` for a slice. Rows follow one another.
    pub pixel_stride: usize,
    /// From [`pack_conv_weight`].
    pub weight: &'a PackedMatrix,
    /// `[out_channels]`
    pub bias: Option<*const f32>,
    /// The pointwise function.
    pub act: Activation,
    /// `[output pixels, out_channels]`, channels contiguous: row `(b * Ho + y) * Wo + x`.
    pub gate: Option<Rows<*const f32>>,
    /// As the gate; may be C itself, with the same rows.
    pub residual: Option<Rows<*const f32>>,
    /// As the gate.
    pub c: Rows<*mut f32>,
}

/// Packs a weight `[O, I, kh, kw]` (PyTorch's order) for [`Conv2d`]; `read(rows, buffer)` fills `buffer`,
/// `[rows, I * kh * kw]`, with those output channels.
///
/// # Errors
/// If a size is 0 or the sizes overflow.
pub fn pack_conv_weight(
    [o, i, kh, kw]: [usize; 4],
    format: WeightFormat,
    features: Features,
    mut read: impl FnMut(Range<usize>, &mut [f32]),
) -> Result<PackedMatrix, GemmError> {
    check_sizes(
        "pack",
        &[("out_channels", o), ("in_channels", i), ("kernel height", kh), ("kernel width", kw)],
    )?;
    let taps = kh * kw;
    let mut row = vec![0.0f32; i * taps];
    PackedMatrix::pack(o, i * taps, format, features, |rows, to| {
        read(rows, to);
        for to in to.chunks_exact_mut(i * taps) {
            row.copy_from_slice(to);
            for tap in 0..taps {
                for channel in 0..i {
                    to[tap * i + channel] = row[channel * taps + tap];
                }
            }
        }
    })
}

impl Conv2d {
    /// Fixes blocking and scratch.
    ///
    /// # Errors
    /// If a size is 0, the sizes overflow, or the kernel is larger than the padded input.
    pub fn prepare(spec: &ConvSpec, features: Features) -> Result<Conv2d, GemmError> {
        let geometry = Geometry::new(spec)?;
        let [height, width] = geometry.output;
        let [kh, kw] = spec.kernel;
        check_sizes("conv2d", &[("max_batch", spec.max_batch), ("height", height), ("width", width)])?;
        let rows = spec.max_batch * height * width;
        let shape = (spec.out_channels, spec.in_channels * kh * kw);
        let core =
            Core::prepare("conv2d", rows, shape, WeightKind::Packed(spec.format), spec.workers, features)?;
        Ok(Conv2d { core, geometry })
    }

    /// Height and width of the output.
    pub fn output(&self) -> [usize; 2] {
        self.geometry.output
    }

    /// Rows of a contiguous output `[batch, Ho, Wo, out_channels]` whose pixels are `pixel_stride` elements apart, and
    /// whose pictures are `image_stride` apart.
    pub fn output_rows(&self, image_stride: usize, pixel_stride: usize) -> RowMap {
        let [height, width] = self.geometry.output;
        RowMap { inner: height * width, outer_stride: image_stride, inner_stride: pixel_stride }
    }

    /// The number of tasks for a run of `batch` pictures.
    pub fn tasks(&self, batch: usize) -> usize {
        self.core.tasks(self.rows(batch))
    }

    /// Bytes of scratch that each worker needs, aligned to [`ALIGN`](crate::aligned::ALIGN).
    pub fn scratch_bytes(&self) -> usize {
        self.core.scratch_bytes()
    }

    /// Computes task `task`; distinct tasks write disjoint parts of C and may run at one time.
    ///
    /// # Safety
    /// Each operand is readable (C writable) over `batch` pictures and all channels, C overlaps no other operand except
    /// an equal residual, the weight was packed from the spec's shape and format for the same features,
    /// `batch <= max_batch` and `task < tasks(batch)`.
    pub unsafe fn run(&self, args: &ConvArgs<'_>, task: usize, scratch: &mut [u8]) {
        let ConvArgs { batch, x, image_stride, pixel_stride, weight, bias, act, gate, residual, c } = *args;
        let epilogue = Epilogue { bias, act, gate, residual, c };
        let taps = Taps { geometry: &self.geometry, x, image_stride, pixel_stride };
        // SAFETY: passed on from the caller.
        unsafe { self.core.run(&taps, Weight::Packed(weight), &epilogue, self.rows(batch), task, scratch) }
    }

    fn rows(&self, batch: usize) -> usize {
        batch * self.geometry.output[0] * self.geometry.output[1]
    }
}
