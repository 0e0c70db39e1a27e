//! One run after another over one piece of memory: states, request values, scratch and workspace.

use super::RunError;
use super::check::port_len;
use super::context::{Context, Slice};
use super::executable::Executable;
use super::run::{self, Lists, RunOptions, SlotRows, Workspace};
use super::store::floats_mut;
use super::timing::{Clock, Timing};
use crate::aligned::AlignedBuf;
use selftok_graph::{DType, Entry, Port, StateRef};

/// Numbers that the caller gives, used where they are.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// f32
    F32(&'a [f32]),
    /// i32
    I32(&'a [i32]),
}

/// Numbers that the caller gets, written where they are to be.
#[derive(Debug)]
pub enum Output<'a> {
    /// f32
    F32(&'a mut [f32]),
    /// i32
    I32(&'a mut [i32]),
}

impl<'a> From<&'a [f32]> for Input<'a> {
    fn from(values: &'a [f32]) -> Self {
        Input::F32(values)
    }
}

impl<'a> From<&'a [i32]> for Input<'a> {
    fn from(values: &'a [i32]) -> Self {
        Input::I32(values)
    }
}

impl<'a> From<&'a mut [f32]> for Output<'a> {
    fn from(values: &'a mut [f32]) -> Self {
        Output::F32(values)
    }
}

impl<'a> From<&'a mut [i32]> for Output<'a> {
    fn from(values: &'a mut [i32]) -> Self {
        Output::I32(values)
    }
}

impl Output<'_> {
    /// The same memory, lent for a shorter time.
    pub fn reborrow(&mut self) -> Output<'_> {
        match self {
            Output::F32(values) => Output::F32(values),
            Output::I32(values) => Output::I32(values),
        }
    }
}

impl Input<'_> {
    fn slice(&self) -> (DType, Slice) {
        match self {
            // Kernels only read inputs: `check` refuses a plan that writes one.
            Input::F32(x) => (DType::F32, Slice { ptr: x.as_ptr().cast_mut(), len: x.len() }),
            Input::I32(x) => (DType::I32, Slice { ptr: x.as_ptr().cast_mut().cast(), len: x.len() }),
        }
    }
}

impl Output<'_> {
    fn slice(&mut self) -> (DType, Slice) {
        match self {
            Output::F32(x) => (DType::F32, Slice { ptr: x.as_mut_ptr(), len: x.len() }),
            Output::I32(x) => (DType::I32, Slice { ptr: x.as_mut_ptr().cast(), len: x.len() }),
        }
    }
}

/// One piece of memory in which an executable runs. Its states outlive a run.
pub struct Session {
    executable: Executable,
    memory: AlignedBuf,
    inputs: Vec<Slice>,
    outputs: Vec<Slice>,
    /// One for each entry while timing is on.
    clocks: Vec<Clock>,
}

// SAFETY: the slices are rebuilt by every run and dead outside it; the rest is owned.
unsafe impl Send for Session {}

impl Session {
    pub(super) fn new(executable: Executable) -> Session {
        let plan = executable.plan();
        let most =
            |ports: fn(&selftok_graph::Entry) -> usize| plan.entries.iter().map(ports).max().unwrap_or(0);
        let inputs = Vec::with_capacity(most(|entry| entry.inputs.len()));
        let outputs = Vec::with_capacity(most(|entry| entry.outputs.len()));
        let memory = AlignedBuf::zeroed(executable.inner.session_bytes());
        let mut session = Session { executable, memory, inputs, outputs, clocks: vec![] };
        session.set_timing(std::env::var_os("SELFTOK_TIMING").is_some_and(|value| value != "0"));
        session
    }

    /// The executable.
    pub fn executable(&self) -> &Executable {
        &self.executable
    }

    /// Turns timing of steps on (from zero) or off. On from the start where `SELFTOK_TIMING=1`.
    pub fn set_timing(&mut self, on: bool) {
        let entries = self.executable.plan().entries.iter().filter(|_| on);
        self.clocks = entries.map(Clock::new).collect();
    }

    /// Time by kernel and scope since timing was turned on; empty where it is off.
    pub fn timing(&self) -> Timing {
        Timing::of(self.executable.plan().entries.iter().zip(&self.clocks))
    }

    /// Runs an entry: its request list with the first row of `slots`, then its step list once for each row.
    ///
    /// `slots` holds `iterations` rows of one value a slot of the plan, in the plan's order. Inputs and outputs come as (index of
    /// the entry's port, slice), each port once, in any order. A slice reaches at least to the last live element, and at most over
    /// the whole port; elements that are not live are left alone. Allocates nothing.
    ///
    /// # Errors
    /// If an argument does not fit, before anything has run; or if an id has no row, or the run was cancelled: outputs and
    /// states are then partly written.
    pub fn run<'a>(
        &mut self,
        entry: usize,
        slots: &[u32],
        iterations: usize,
        inputs: impl IntoIterator<Item = (usize, Input<'a>)>,
        outputs: impl IntoIterator<Item = (usize, Output<'a>)>,
        options: RunOptions<'_>,
    ) -> Result<(), RunError> {
        let inner = &*self.executable.inner;
        let (Some(ready), Some(planned)) = (inner.entries.get(entry), inner.plan.entries.get(entry)) else {
            return Err(RunError::NoEntry { entry, entries: inner.entries.len() });
        };
        let width = inner.plan.slots.len();
        if iterations == 0 || iterations.checked_mul(width) != Some(slots.len()) {
            return Err(RunError::SlotCount { found: slots.len(), iterations, slots: width });
        }
        let inputs = inputs.into_iter().map(|(port, input)| (port, input.slice()));
        gather("input", planned, &planned.inputs, inputs, &mut self.inputs)?;
        let outputs = outputs.into_iter().map(|(port, mut output)| (port, output.slice()));
        gather("output", planned, &planned.outputs, outputs, &mut self.outputs)?;
        let rows = SlotRows { values: slots, width, count: iterations };
        for iteration in 0..iterations {
            let row = rows.row(iteration);
            ready.checks.row(&inner.plan, planned, iteration, row, &self.inputs, &self.outputs)?;
        }
        let memory = self.memory.as_mut_slice().as_mut_ptr();
        let [request, scratch, workspace, _] = inner.layout();
        let at = |offset| memory.wrapping_add(offset);
        let cx = Context {
            features: inner.device.features(),
            extents: &inner.plan.extents,
            slots: &[],
            constants: inner.constants.as_ptr().cast_mut().cast(),
            state: memory.cast(),
            request: at(request).cast(),
            scratch: at(scratch).cast(),
            shared: at(workspace),
            inputs: &self.inputs,
            outputs: &self.outputs,
        };
        let workspace = Workspace(at(workspace));
        let lists = Lists { request: &ready.request, step: &ready.step };
        let mut clock = self.clocks.get_mut(entry);
        if let Some(clock) = &mut clock {
            clock.start();
        }
        // SAFETY: every operand was found inside its region, at bind or just now for every row; constants are only read,
        // as `check::entry` saw; the memory is this session's, borrowed mutably, and the slices are the caller's, borrowed until
        // this function returns.
        unsafe { run::execute(&inner.device.pool, &lists, &cx, rows, workspace, options, clock) }
    }

    fn state(&self, name: &str, found: usize) -> Result<StateRef, RunError> {
        let states = &self.executable.plan().states;
        let Some(state) = states.iter().find(|state| state.name == name) else {
            let known = states.iter().map(|state| state.name.clone()).collect();
            return Err(RunError::NoState { name: name.into(), known });
        };
        match state.shape.iter().product() {
            expected if expected != found => {
                Err(RunError::StateLength { name: name.into(), expected, found })
            }
            _ => Ok(state.clone()),
        }
    }

    fn states(&mut self) -> &mut [f32] {
        let elements = self.executable.plan().state_bytes / 4;
        floats_mut(&mut self.memory, elements)
    }

    /// Copies a state out.
    ///
    /// # Errors
    /// If there is no such state or the slice has another length.
    pub fn read_state(&mut self, name: &str, out: &mut [f32]) -> Result<(), RunError> {
        let state = self.state(name, out.len())?;
        out.copy_from_slice(&self.states()[state.offset..state.offset + out.len()]);
        Ok(())
    }

    /// A state, to be changed in place.
    ///
    /// # Errors
    /// If there is no such state.
    pub fn state_mut(&mut self, name: &str) -> Result<&mut [f32], RunError> {
        let states = &self.executable.plan().states;
        let Some(state) = states.iter().find(|state| state.name == name) else {
            let known = states.iter().map(|state| state.name.clone()).collect();
            return Err(RunError::NoState { name: name.into(), known });
        };
        let elements = state.offset..state.offset + state.shape.iter().product::<usize>();
        Ok(&mut self.states()[elements])
    }

    /// Sets a state.
    ///
    /// # Errors
    /// If there is no such state or the slice has another length.
    pub fn write_state(&mut self, name: &str, values: &[f32]) -> Result<(), RunError> {
        let state = self.state(name, values.len())?;
        self.states()[state.offset..state.offset + values.len()].copy_from_slice(values);
        Ok(())
    }
}

/// Sorts the caller's slices by port, each of its port's type and not longer than the port; that they are long enough is
/// checked with the slots.
fn gather(
    kind: &'static str,
    entry: &Entry,
    ports: &[Port],
    given: impl Iterator<Item = (usize, (DType, Slice))>,
    slices: &mut Vec<Slice>,
) -> Result<(), RunError> {
    slices.clear();
    slices.resize(ports.len(), Slice { ptr: std::ptr::null_mut(), len: 0 });
    for (index, (found, slice)) in given {
        let Some(port) = ports.get(index) else {
            return Err(RunError::NoPort { entry: entry.name.clone(), kind, index, ports: ports.len() });
        };
        let name = || port.name.clone();
        if !slices[index].ptr.is_null() {
            return Err(RunError::PortTwice { kind, name: name() });
        }
        if found != port.dtype {
            return Err(RunError::PortType { kind, name: name(), expected: port.dtype, found });
        }
        let most = port_len(Some(port));
        if slice.len > most {
            return Err(RunError::PortLength { kind, name: name(), found: slice.len, least: 0, most });
        }
        slices[index] = slice;
    }
    match slices.iter().zip(ports).find(|(slice, _)| slice.ptr.is_null()) {
        Some((_, port)) => {
            Err(RunError::PortMissing { entry: entry.name.clone(), kind, name: port.name.clone() })
        }
        None => Ok(()),
    }
}
