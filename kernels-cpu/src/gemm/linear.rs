//! The linear layer: `C = residual + gate * act(A W^T + bias)`.

use super::{Core, Epilogue, GemmError, RowMap, RowSource, Rows, Weight, WeightKind};
use crate::arch::gemm::{A_STRIDE, GemmKernels};
use crate::isa::Features;
use selftok_graph::Activation;
use std::ops::Range;

/// The shape of a linear layer.
#[derive(Clone, Copy, Debug)]
pub struct LinearSpec {
    /// The greatest number of rows of A.
    pub max_rows: usize,
    /// Output columns.
    pub n: usize,
    /// Depth.
    pub k: usize,
    /// How the weight `[n, k]` is found.
    pub weight: WeightKind,
    /// The threads that will share the tasks.
    pub workers: usize,
}

/// A linear layer ready to run: see [`Linear::prepare`].
pub struct Linear {
    core: Core,
}

/// The operands of one run. All pointers are to f32; strides count elements.
#[derive(Clone, Copy)]
pub struct LinearArgs<'a> {
    /// Rows that exist, at most `max_rows`.
    pub rows: usize,
    /// `[rows, k]`, columns contiguous.
    pub a: Rows<*const f32>,
    /// `[n, k]`
    pub weight: Weight<'a>,
    /// `[n]`
    pub bias: Option<*const f32>,
    /// The pointwise function.
    pub act: Activation,
    /// `[rows, n]`, columns contiguous.
    pub gate: Option<Rows<*const f32>>,
    /// `[rows, n]`, columns contiguous; may be C itself, with the same rows.
    pub residual: Option<Rows<*const f32>>,
    /// `[rows, n]`, columns contiguous.
    pub c: Rows<*mut f32>,
}

impl Linear {
    /// Fixes blocking and scratch.
    ///
    /// # Errors
    /// If a size is 0 or the sizes overflow.
    pub fn prepare(spec: &LinearSpec, features: Features) -> Result<Linear, GemmError> {
        let LinearSpec { max_rows, n, k, weight, workers } = *spec;
        Ok(Linear { core: Core::prepare("linear", max_rows, (n, k), weight, workers, features)? })
    }

    /// The number of tasks for a run of `rows` rows.
    pub fn tasks(&self, rows: usize) -> usize {
        self.core.tasks(rows)
    }

    /// Bytes of scratch that each worker needs, aligned to [`ALIGN`](crate::aligned::ALIGN).
    pub fn scratch_bytes(&self) -> usize {
        self.core.scratch_bytes()
    }

    /// Computes task `task`; distinct tasks write disjoint parts of C and may run at one time.
    ///
    /// # Safety
    /// Each operand is readable (C writable) over `rows` rows and all columns, C overlaps no other operand except an
    /// equal residual, the weight has the spec's kind and shape and was packed for the same features,
    /// `rows <= max_rows` and `task < tasks(rows)`.
    pub unsafe fn run(&self, args: &LinearArgs<'_>, task: usize, scratch: &mut [u8]) {
        let LinearArgs { rows, a, weight, bias, act, gate, residual, c } = *args;
        let epilogue = Epilogue { bias, act, gate, residual, c };
        // SAFETY: passed on from the caller.
        unsafe { self.core.run(&MemoryRows(a), weight, &epilogue, rows, task, scratch) }
    }
}

/// Rows of A as they lie in memory.
struct MemoryRows(Rows<*const f32>);

impl RowSource for MemoryRows {
    #[inline]
    unsafe fn pack(&self, kernels: &GemmKernels, m: usize, rows: usize, k: Range<usize>, to: *mut f32) {
        let map: RowMap = self.0.map;
        for (i, at) in map.offsets_from(m).take(rows).enumerate() {
            // SAFETY: the caller vouches for the rows and for the room; the copy and its padding stay in row `i`.
            unsafe {
                let row = to.add(i * A_STRIDE);
                (kernels.copy_row)(self.0.ptr.add(at + k.start), k.len(), row, 0);
                kernels.pad_row(row, k.len());
            }
        }
    }

    #[inline]
    fn ahead(&self, m: usize, k: usize) -> (*const u8, usize) {
        let map = self.0.map;
        (self.0.ptr.wrapping_add(map.offset(m) + k).cast(), map.inner_stride * 4)
    }
}
