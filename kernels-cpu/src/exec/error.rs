//! What can be wrong with a plan, its weights, or a call: each error names the step, tensor, slot or argument and
//! says what would be right.

use crate::codebook::CodebookError;
use crate::gemm::GemmError;

/// An error of a [`WeightSource`](super::WeightSource), passed on as it is.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// Why a plan cannot be bound to this device and these weights.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The source has no such tensor.
    #[error("weight '{name}' {expected:?} is missing from {source_label}")]
    MissingWeight {
        /// The tensor.
        name: String,
        /// The shape that the plan wants.
        expected: Vec<usize>,
        /// The source.
        source_label: String,
    },
    /// The tensor has another shape.
    #[error("weight '{name}' of {source_label} is {found:?}, the plan wants {expected:?}")]
    WeightShape {
        /// The tensor.
        name: String,
        /// The shape that the plan wants.
        expected: Vec<usize>,
        /// The shape found.
        found: Vec<usize>,
        /// The source.
        source_label: String,
    },
    /// The source failed.
    #[error("weight '{name}' cannot be read: {source}")]
    ReadWeight {
        /// The tensor.
        name: String,
        /// Why.
        #[source]
        source: SourceError,
    },
    /// An operand lies in memory as no kernel of this device can take it; the compiler should have copied it.
    #[error("{step}: operand '{operand}': {reason}")]
    Layout {
        /// Scope and kernel.
        step: String,
        /// Role of the operand.
        operand: &'static str,
        /// What would be right.
        reason: String,
    },
    /// An operand leaves its region, or names one that is not there.
    #[error("{step}: operand '{operand}' ends at element {end} of {region}, which has {len}")]
    OutOfRegion {
        /// Scope and kernel.
        step: String,
        /// Role of the operand.
        operand: &'static str,
        /// Region.
        region: String,
        /// One past the last element reached.
        end: u128,
        /// Elements of the region.
        len: usize,
    },
    /// A slot or extent that the plan does not define, or an extent larger than its axis.
    #[error("{step}: {what}")]
    Inconsistent {
        /// Scope and kernel, or the part of the plan.
        step: String,
        /// What contradicts what.
        what: String,
    },
    /// A matrix product or convolution that cannot be prepared.
    #[error("{step}: {source}")]
    Gemm {
        /// Scope and kernel.
        step: String,
        /// Why.
        #[source]
        source: GemmError,
    },
    /// A codebook that cannot be packed.
    #[error("{step}: {source}")]
    Codebook {
        /// Scope and kernel.
        step: String,
        /// Why.
        #[source]
        source: CodebookError,
    },
    /// A kernel that computes constants failed.
    #[error("constants: {0}")]
    Constants(#[source] RunError),
}

/// Why a run did not happen, or stopped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// No entry of that number.
    #[error("entry {entry}: the plan has {entries}")]
    NoEntry {
        /// What was asked for.
        entry: usize,
        /// How many there are.
        entries: usize,
    },
    /// The slot table does not have one row of values an iteration, and at least one row.
    #[error(
        "{found} slot values for {iterations} iterations: expected {slots} an iteration, at least one iteration"
    )]
    SlotCount {
        /// Values given.
        found: usize,
        /// Iterations asked for.
        iterations: usize,
        /// Slots of the plan.
        slots: usize,
    },
    /// A slot's value would lead outside what it indexes.
    #[error("slot '{slot}' is {value} in iteration {iteration}: at most {max} ({reason})")]
    Slot {
        /// The slot.
        slot: String,
        /// Its value.
        value: u32,
        /// The greatest allowed, given the other slots.
        max: usize,
        /// Row of the slot table.
        iteration: usize,
        /// What it indexes.
        reason: String,
    },
    /// A live range begins after its end.
    #[error("extent '{extent}' is {lo}..{hi} in iteration {iteration}: expected a start not past the end")]
    Reversed {
        /// The extent.
        extent: String,
        /// First live row.
        lo: u32,
        /// One past the last.
        hi: u32,
        /// Row of the slot table.
        iteration: usize,
    },
    /// No port of that number.
    #[error("entry '{entry}': {kind} {index} of {ports}")]
    NoPort {
        /// The entry.
        entry: String,
        /// `input` or `output`.
        kind: &'static str,
        /// What was given.
        index: usize,
        /// How many the entry has.
        ports: usize,
    },
    /// A port without a slice.
    #[error("entry '{entry}': {kind} '{name}' is not given")]
    PortMissing {
        /// The entry.
        entry: String,
        /// `input` or `output`.
        kind: &'static str,
        /// The port.
        name: String,
    },
    /// Two slices for one port.
    #[error("{kind} '{name}' is given twice")]
    PortTwice {
        /// `input` or `output`.
        kind: &'static str,
        /// The port.
        name: String,
    },
    /// A slice is too short for the live rows, or longer than the port.
    #[error("{kind} '{name}' has {found} elements: expected {least}..={most} (live rows .. all rows)")]
    PortLength {
        /// `input` or `output`.
        kind: &'static str,
        /// The port.
        name: String,
        /// Elements given.
        found: usize,
        /// Elements up to the last live one.
        least: usize,
        /// Elements of the whole port.
        most: usize,
    },
    /// A slice of the wrong element type.
    #[error("{kind} '{name}' is {expected}, not {found}")]
    PortType {
        /// `input` or `output`.
        kind: &'static str,
        /// The port.
        name: String,
        /// Element type of the port.
        expected: selftok_graph::DType,
        /// Element type given.
        found: selftok_graph::DType,
    },
    /// An id that is no row of the table it indexes.
    #[error("{step}: id {id} at position {position}: expected 0..{rows}")]
    Id {
        /// Scope and kernel.
        step: String,
        /// The id.
        id: i32,
        /// Which of the live ids, in order.
        position: usize,
        /// Rows of the table.
        rows: usize,
    },
    /// The caller asked to stop.
    #[error("cancelled in iteration {iteration}")]
    Cancelled {
        /// The iteration that was not finished.
        iteration: usize,
    },
    /// No state of that name.
    #[error("there is no state '{name}': expected one of {known:?}")]
    NoState {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A slice that does not have the state's elements.
    #[error("state '{name}' has {expected} elements, the slice {found}")]
    StateLength {
        /// The state.
        name: String,
        /// Its elements.
        expected: usize,
        /// The slice's.
        found: usize,
    },
}
