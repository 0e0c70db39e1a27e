//! The plan: what a device executes. Plain data, with every byte placed.
//!
//! It is the narrow waist of the runtime. Everything above it knows no device; everything below it knows no
//! model. A plan holds the weights it wants by name, the kernels that turn weights into constants once, and
//! for each entry the kernels of a request and of a step, whose operands are strided views into a few regions.

use crate::{DType, Extent, ExtentId, Kernel, Slot};

/// A region of memory that operands point into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// A weight: index into [`Plan::weights`].
    Weight(u32),
    /// Values of stage bind that requests and steps read; shared by all sessions.
    Constants,
    /// Memory that outlives a run.
    State,
    /// Values computed once a run.
    Request,
    /// Everything else; reused all the time.
    Scratch,
    /// What the caller gives: index into [`Entry::inputs`].
    Input(u32),
    /// What the caller gets: index into [`Entry::outputs`].
    Output(u32),
}

/// One axis of an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Axis {
    /// Size.
    pub size: usize,
    /// Elements from one row to the next; 0 repeats.
    pub stride: isize,
    /// Live range, where not the whole axis.
    pub extent: Option<ExtentId>,
}

/// A strided view into a region. Row `i` of an axis with a live range is at `i * stride`, live or not.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Operand {
    /// Region.
    pub place: Place,
    /// Element type.
    pub dtype: DType,
    /// First element, counted in elements from the region's start (inputs, outputs, weights: the tensor's).
    pub offset: usize,
    /// Axes, outermost first.
    pub axes: Vec<Axis>,
    /// Added to the offset at run time: slot value times elements.
    pub picks: Vec<(Slot, usize)>,
}

impl Operand {
    /// Elements from the first to one past the last, at maximum extents, without picks.
    pub fn span(&self) -> usize {
        if self.axes.iter().any(|axis| axis.size == 0) {
            return 0;
        }
        1 + self.axes.iter().map(|axis| (axis.size - 1) * axis.stride.unsigned_abs()).sum::<usize>()
    }

    /// Sizes of the axes.
    pub fn sizes(&self) -> Vec<usize> {
        self.axes.iter().map(|axis| axis.size).collect()
    }
}

/// One kernel launch.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// What.
    pub kernel: Kernel<Operand>,
    /// Where it stands in the model.
    pub scope: String,
    /// Floating-point operations at maximum extents.
    pub flop: u64,
    /// Bytes read and written at maximum extents.
    pub bytes: u64,
}

/// A weight that the plan wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightRef {
    /// The reference library's name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// The latest stage that reads it. Bind: let go once the constants are computed. Request: read once a run,
    /// before many steps. Step: read at every step, or by an entry that has no steps; worth packing.
    pub last_stage: crate::Stage,
}

/// An input or output of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Name.
    pub name: String,
    /// Axes, row-major over the maxima.
    pub axes: Vec<Axis>,
    /// Element type.
    pub dtype: DType,
}

/// A stored value: where it is and how long it lives. For printing and for tests of the placement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Where it is computed.
    pub scope: String,
    /// Region.
    pub place: Place,
    /// First byte.
    pub offset: usize,
    /// Bytes.
    pub bytes: usize,
    /// First and last step (inclusive) that touch it, counted over the entry's request, then step list.
    pub live: (usize, usize),
}

/// One entry of the program.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Name.
    pub name: String,
    /// What the caller gives.
    pub inputs: Vec<Port>,
    /// What the caller gets.
    pub outputs: Vec<Port>,
    /// Kernels run once.
    pub request: Vec<Step>,
    /// Kernels run at every iteration.
    pub step: Vec<Step>,
    /// Placed values.
    pub buffers: Vec<Buffer>,
    /// Bytes of scratch this entry needs as placed.
    pub scratch_bytes: usize,
    /// The largest sum of scratch values alive at once: no placement can need less.
    pub scratch_lower_bound: usize,
    /// Bytes of request values.
    pub request_bytes: usize,
}

/// A named piece of session memory that outlives a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRef {
    /// Name.
    pub name: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// First element in [`Place::State`].
    pub offset: usize,
}

/// A compiled program.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Name.
    pub name: String,
    /// Target it was compiled for.
    pub target: String,
    /// Slot names: the order of the slot table.
    pub slots: Vec<String>,
    /// Live ranges.
    pub extents: Vec<Extent>,
    /// Weights wanted.
    pub weights: Vec<WeightRef>,
    /// Numbers known when the graph was built: offset in [`Place::Constants`] and values.
    pub literals: Vec<(usize, Vec<f32>)>,
    /// Kernels that compute constants from weights, run once at bind. They use [`Place::Scratch`] too.
    pub bind: Vec<Step>,
    /// Bytes of scratch during bind.
    pub bind_scratch_bytes: usize,
    /// Bytes of [`Place::Constants`].
    pub constant_bytes: usize,
    /// States.
    pub states: Vec<StateRef>,
    /// Bytes of [`Place::State`].
    pub state_bytes: usize,
    /// Bytes of [`Place::Request`]: the largest of the entries.
    pub request_bytes: usize,
    /// Bytes of [`Place::Scratch`]: the largest of the entries.
    pub scratch_bytes: usize,
    /// Bytes of the device's own working space, the largest that a step asks for.
    pub workspace_bytes: usize,
    /// Entries.
    pub entries: Vec<Entry>,
}

impl Plan {
    /// The entry of that name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    /// The slot of that name.
    pub fn slot(&self, name: &str) -> Option<Slot> {
        self.slots.iter().position(|slot| slot == name).map(|i| Slot(i as u32))
    }

    /// Bytes of one session: states, request values, scratch and workspace.
    pub fn session_bytes(&self) -> usize {
        self.state_bytes + self.request_bytes + self.scratch_bytes + self.workspace_bytes
    }

    /// What no placement can go below: as [`session_bytes`](Self::session_bytes), with each entry's scratch
    /// at its largest live set.
    pub fn session_lower_bound(&self) -> usize {
        let scratch = self.entries.iter().map(|entry| entry.scratch_lower_bound).max().unwrap_or(0);
        self.state_bytes + self.request_bytes + scratch + self.workspace_bytes
    }
}

/// What a device tells the compiler: plain data, so that the plan places every byte and still knows no device.
#[derive(Clone)]
pub struct Target {
    /// Name, for printing.
    pub name: String,
    /// Alignment of every buffer, in bytes; a power of two.
    pub alignment: usize,
    /// Bytes of working space that a step needs besides its operands.
    pub workspace: std::sync::Arc<dyn Fn(&Step) -> usize + Send + Sync>,
    /// Passes and fusions turned off, by name: `fuse.linear`, `place.inplace`, `fold` …
    pub off: Vec<String>,
}

impl Target {
    /// A target without working space, with everything on: for tests and printing.
    pub fn generic() -> Target {
        Target { name: "generic".into(), alignment: 64, workspace: std::sync::Arc::new(|_| 0), off: vec![] }
    }

    /// Whether a pass or fusion is on. Turning off `fuse` turns off all of `fuse.*`.
    pub fn on(&self, pass: &str) -> bool {
        !self.off.iter().any(|off| {
            pass == off || pass.strip_prefix(off.as_str()).is_some_and(|rest| rest.starts_with('.'))
        })
    }
}
