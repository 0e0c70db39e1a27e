//! What the executor sees of a kernel: a number of tasks, and a way to do one of them.

use crate::isa::Features;

/// A kernel bound to its operands. It has no threads of its own: the workers of a run claim its tasks.
///
/// Tasks write disjoint memory and may run concurrently and in any order; nothing is allocated.
pub trait Kernel {
    /// Number of tasks.
    fn tasks(&self) -> usize;

    /// Bytes of scratch, aligned to [`crate::aligned::ALIGN`], that a worker needs for one task.
    fn scratch_bytes(&self) -> usize {
        0
    }

    /// Does task `task < tasks()`.
    ///
    /// # Safety
    /// `features` is true of this processor, and every pointer of the kernel is valid for the shapes and strides beside it:
    /// inputs for reading, outputs for writing and touched by nobody else meanwhile.
    ///
    /// # Panics
    /// If `scratch` is smaller than [`Kernel::scratch_bytes`].
    unsafe fn run(&self, features: Features, task: usize, scratch: &mut [u8]);
}

/// Elements that make a task of a kernel which only streams: large against the cost of claiming it.
pub(crate) const STREAM_TASK: usize = 16 * 1024;

/// The part of `0..n` that task `task` of pieces of `piece` covers.
#[inline(always)]
pub(crate) fn part(task: usize, piece: usize, n: usize) -> std::ops::Range<usize> {
    let start = task * piece;
    start..(start + piece).min(n)
}

/// Rows of `width` elements that make a task.
#[inline(always)]
pub(crate) fn rows_per_task(width: usize) -> usize {
    (STREAM_TASK / width.max(1)).max(1)
}
