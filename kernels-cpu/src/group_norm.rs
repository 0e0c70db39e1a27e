//! Group norm over NHWC pictures with an activation in the same pass, in two kernels with a barrier between.
//!
//! A group of an autoencoder spans up to 10^7 elements, so the statistics cannot be one task's and f32 sums would
//! not do. [`GroupNormStats`] splits a picture into at most 64 runs of pixels and sums values and squares of each
//! channel in f64 (exact products, error 1e-16 of the mean square, so `E[x²] - E[x]²` is safe); both passes
//! are bound by memory. [`GroupNormApply`] adds up the runs, in the same order whoever does it, so results do not
//! depend on the number of workers.

use selftok_graph::Activation;

use crate::arch::gemm::activate;
use crate::isa::Features;
use crate::kernel::{Kernel, part};
use crate::scratch::{Scratch, floats_bytes};
use crate::simd::{Program, Simd, each_vector, launch, load, store, with_activation};

/// Shape and place of a batch of NHWC pictures.
#[derive(Clone, Copy, Debug)]
pub struct Pictures {
    /// Pictures.
    pub batch: usize,
    /// Pixels of each, `H * W`.
    pub pixels: usize,
    /// Channels, contiguous.
    pub channels: usize,
    /// Groups of channels; divides `channels`.
    pub groups: usize,
}

impl Pictures {
    /// Elements that a run of pixels has at least.
    const RUN: usize = 32 * 1024;

    fn run_pixels(&self) -> usize {
        self.pixels.div_ceil(64).max(Self::RUN.div_ceil(self.channels.max(1)))
    }

    /// Runs of pixels that a picture is split into.
    fn runs(&self) -> usize {
        self.pixels.div_ceil(self.run_pixels())
    }

    /// Length of the buffer of partial sums, in f64.
    pub fn partial_sums(&self) -> usize {
        self.batch * self.runs() * self.groups * 2
    }
}

/// First pass: partial sums of each group over runs of pixels.
#[derive(Clone, Copy, Debug)]
pub struct GroupNormStats {
    /// Shape.
    pub shape: Pictures,
    /// Pictures.
    pub x: *const f32,
    /// Elements from picture to picture, and from pixel to pixel.
    pub x_strides: [usize; 2],
    /// [`Pictures::partial_sums`] f64: for each picture, run and group the sum and the sum of squares.
    pub partials: *mut f64,
}

/// Second pass: `y = act((x - mean) / sqrt(var + eps) * weight + bias)`.
#[derive(Clone, Copy, Debug)]
pub struct GroupNormApply {
    /// Shape, as in the first pass.
    pub shape: Pictures,
    /// Pictures.
    pub x: *const f32,
    /// Elements from picture to picture, and from pixel to pixel.
    pub x_strides: [usize; 2],
    /// Result; may be `x` itself with the same strides.
    pub y: *mut f32,
    /// Elements from picture to picture, and from pixel to pixel.
    pub y_strides: [usize; 2],
    /// `[channels]`
    pub weight: *const f32,
    /// `[channels]`
    pub bias: *const f32,
    /// Added to the variance.
    pub eps: f32,
    /// Applied last.
    pub act: Activation,
    /// What the first pass wrote.
    pub partials: *const f64,
}

/// Channels padded so that whole vectors may be written.
const fn padded(channels: usize) -> usize {
    channels.next_multiple_of(16)
}

impl Kernel for GroupNormStats {
    fn tasks(&self) -> usize {
        self.shape.batch * self.shape.runs()
    }

    fn scratch_bytes(&self) -> usize {
        2 * floats_bytes(2 * padded(self.shape.channels))
    }

    unsafe fn run(&self, features: Features, task: usize, scratch: &mut [u8]) {
        // SAFETY: by contract.
        unsafe { launch(features, Stats { args: self, task, scratch }) }
    }
}

impl Kernel for GroupNormApply {
    fn tasks(&self) -> usize {
        self.shape.batch * self.shape.runs()
    }

    fn scratch_bytes(&self) -> usize {
        2 * floats_bytes(padded(self.shape.channels))
    }

    unsafe fn run(&self, features: Features, task: usize, scratch: &mut [u8]) {
        // SAFETY: by contract.
        unsafe { launch(features, Apply { args: self, task, scratch }) }
    }
}

struct Stats<'a> {
    args: &'a GroupNormStats,
    task: usize,
    scratch: &'a mut [u8],
}

struct Apply<'a> {
    args: &'a GroupNormApply,
    task: usize,
    scratch: &'a mut [u8],
}

impl Program for Stats<'_> {
    #[inline(always)]
    unsafe fn execute<V: Simd>(self) {
        let (a, shape) = (self.args, self.args.shape);
        let (b, run) = (self.task / shape.runs(), self.task % shape.runs());
        let mut scratch = Scratch::new(self.scratch);
        // SAFETY: by the contract of `Kernel::run`; the sums have `padded(channels)` f64 each.
        unsafe {
            let sums = scratch.floats(2 * padded(shape.channels)).cast::<f64>();
            let squares = scratch.floats(2 * padded(shape.channels)).cast::<f64>();
            for c in 0..padded(shape.channels) {
                *sums.add(c) = 0.0;
                *squares.add(c) = 0.0;
            }
            for p in part(run, shape.run_pixels(), shape.pixels) {
                let x = a.x.add(b * a.x_strides[0] + p * a.x_strides[1]);
                each_vector!(V, shape.channels, |c, n| {
                    let x: V = load(x.add(c), n);
                    x.accumulate_f64(sums.add(c), squares.add(c));
                });
            }
            let of_group = shape.channels / shape.groups;
            for g in 0..shape.groups {
                let total = |of: *const f64| (0..of_group).map(|c| *of.add(g * of_group + c)).sum::<f64>();
                let to = a.partials.add((self.task * shape.groups + g) * 2);
                *to = total(sums);
                *to.add(1) = total(squares);
            }
        }
    }
}

impl Program for Apply<'_> {
    #[inline(always)]
    unsafe fn execute<V: Simd>(self) {
        let (a, shape) = (self.args, self.args.shape);
        let (b, run) = (self.task / shape.runs(), self.task % shape.runs());
        let mut scratch = Scratch::new(self.scratch);
        // SAFETY: by the contract of `Kernel::run`; factors and offsets have `padded(channels)` f32 each.
        unsafe {
            let factors = scratch.floats(padded(shape.channels));
            let offsets = scratch.floats(padded(shape.channels));
            let of_group = shape.channels / shape.groups;
            let count = (shape.pixels * of_group) as f64;
            for g in 0..shape.groups {
                let (mut sum, mut square) = (0.0, 0.0);
                for r in 0..shape.runs() {
                    let from = a.partials.add(((b * shape.runs() + r) * shape.groups + g) * 2);
                    sum += *from;
                    square += *from.add(1);
                }
                let mean = sum / count;
                let variance = (square / count - mean * mean).max(0.0);
                let factor = 1.0 / (variance + f64::from(a.eps)).sqrt();
                for c in g * of_group..(g + 1) * of_group {
                    let w = f64::from(*a.weight.add(c)) * factor;
                    *factors.add(c) = w as f32;
                    *offsets.add(c) = (f64::from(*a.bias.add(c)) - mean * w) as f32;
                }
            }
            with_activation!(a.act, ACT => for p in part(run, shape.run_pixels(), shape.pixels) {
                let x = a.x.add(b * a.x_strides[0] + p * a.x_strides[1]);
                let y = a.y.add(b * a.y_strides[0] + p * a.y_strides[1]);
                each_vector!(V, shape.channels, |c, n| {
                    let x: V = load(x.add(c), n);
                    let v = x.mul_add(load(factors.add(c), n), load(offsets.add(c), n));
                    store(activate(ACT, v), y.add(c), n);
                });
            });
        }
    }
}
