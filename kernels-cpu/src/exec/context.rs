//! What a step sees while it runs: the base of each region, the slots, the device.
//!
//! Every worker has the same context and derives from it the same arguments, on its own stack: nothing is shared that
//! would have to be agreed upon, and nothing is allocated.

use super::RunError;
use super::layout::Base;
use crate::isa::Features;
use crate::kernel::Kernel;
use crate::pool::Worker;
use selftok_graph::{Extent, ExtentId};

/// A region of memory, resolved as far as bind can: weights are where they are, the rest comes with each run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Region {
    Constants,
    State,
    Request,
    Scratch,
    Input(u32),
    Output(u32),
    Fixed(Fixed),
}

/// A pointer to weights that the step itself keeps alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fixed(pub *const f32);

// SAFETY: it points to memory that nobody writes, so any thread may read it.
unsafe impl Send for Fixed {}
// SAFETY: as above.
unsafe impl Sync for Fixed {}

/// A slice of the caller: first byte and number of elements (of 4 bytes).
#[derive(Clone, Copy, Debug)]
pub(super) struct Slice {
    pub ptr: *mut f32,
    pub len: usize,
}

/// The state of a run as its steps see it.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub features: Features,
    pub extents: &'a [Extent],
    /// The slot values of this iteration.
    pub slots: &'a [u32],
    pub constants: *mut f32,
    pub state: *mut f32,
    pub request: *mut f32,
    pub scratch: *mut f32,
    /// Working space that the tasks of a step share.
    pub shared: *mut u8,
    pub inputs: &'a [Slice],
    pub outputs: &'a [Slice],
}

// SAFETY: the pointers lead to memory that belongs to the run as long as it lasts; steps write disjoint parts of it
// between barriers, which is the contract of `Run::run`.
unsafe impl Sync for Context<'_> {}

impl Context<'_> {
    /// The live range of an axis.
    pub fn range(&self, extent: ExtentId) -> std::ops::Range<usize> {
        self.extents[extent.0 as usize].range(self.slots)
    }

    /// The live size of an axis.
    pub fn live(&self, size: usize, extent: Option<ExtentId>) -> usize {
        extent.map_or(size, |extent| self.range(extent).len())
    }

    /// An operand's first live element. Within its region, as checked at bind and at the start of the run.
    pub fn at(&self, base: &Base) -> *mut f32 {
        let region = match base.region {
            Region::Constants => self.constants,
            Region::State => self.state,
            Region::Request => self.request,
            Region::Scratch => self.scratch,
            Region::Input(i) => self.inputs[i as usize].ptr,
            Region::Output(i) => self.outputs[i as usize].ptr,
            Region::Fixed(Fixed(ptr)) => ptr.cast_mut(),
        };
        let picks =
            base.picks.iter().map(|&(slot, elements)| self.slots[slot.0 as usize] as usize * elements);
        let starts = base.starts.iter().map(|&(extent, stride)| self.range(extent).start * stride);
        region.wrapping_add(base.offset + picks.sum::<usize>() + starts.sum::<usize>())
    }
}

/// Working space that a step needs besides its operands, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Need {
    /// For each worker.
    pub worker: usize,
    /// Once, for all.
    pub shared: usize,
}

impl Need {
    /// Bytes for a team of `threads`, every part on its own cache lines.
    pub fn total(self, threads: usize) -> usize {
        self.shared.next_multiple_of(64) + threads * self.worker.next_multiple_of(64)
    }
}

/// A step made ready at bind.
pub(super) trait Run: Send + Sync {
    /// Executes this worker's share. Every worker calls it with the same context, then all meet at a barrier.
    ///
    /// # Errors
    /// What the data are found to be wrong about; every worker finds the same.
    ///
    /// # Safety
    /// The regions of `cx` are as large as the plan says, inputs and outputs as long as the check of the run
    /// demands, `scratch` and `cx.shared` as large as the step needs, and no other step that touches the same memory runs.
    unsafe fn run(&self, cx: &Context<'_>, worker: &Worker<'_>, scratch: &mut [u8]) -> Result<(), RunError>;
}

/// Runs this worker's tasks of a kernel.
///
/// # Safety
/// As for [`Kernel::run`].
pub(super) unsafe fn launch<K: Kernel>(
    kernel: &K,
    cx: &Context<'_>,
    worker: &Worker<'_>,
    scratch: &mut [u8],
) {
    worker.for_each_task(kernel.tasks(), |task| {
        // SAFETY: by the caller; each task is claimed once.
        unsafe { kernel.run(cx.features, task, scratch) }
    });
}
