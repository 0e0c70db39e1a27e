//! Runs of an executable over memory of its own.

use crate::Error;
use crate::executable::{EntryId, Executable, InputId, OutputId, PortNames, SlotTable};
use selftok_kernels_cpu::exec;
pub use selftok_kernels_cpu::exec::{Input, Output, Progress, RunOptions, Timing};

/// One allocation and one stream of work. States outlive a run; nothing is allocated while one runs.
pub struct Session {
    executable: Executable,
    bound: exec::Session,
}

impl Session {
    pub(crate) fn new(executable: &Executable) -> Session {
        Session { bound: executable.bound.session(), executable: executable.clone() }
    }

    /// The executable.
    pub fn executable(&self) -> &Executable {
        &self.executable
    }

    /// Runs the only entry of a plan without slots.
    ///
    /// # Errors
    /// As for [`Session::run_entry`]; also if the plan has several entries or slots.
    pub fn run(
        &mut self,
        inputs: &[(InputId, Input<'_>)],
        outputs: &mut [(OutputId, Output<'_>)],
    ) -> Result<(), Error> {
        let entry = self.executable.only_entry()?;
        self.launch(entry, &[], 1, inputs, outputs, RunOptions::default())
    }

    /// Runs an entry: what depends on the request once, with the first row of `slots`; then the step once for each row.
    ///
    /// Every input and output of the entry comes once, in any order. A slice reaches at least to the last live element, and at
    /// most over the whole shape; what is not live is left alone.
    ///
    /// # Errors
    /// If an argument does not fit (nothing has run then), an id names no row, or the run was cancelled.
    pub fn run_entry(
        &mut self,
        entry: EntryId,
        slots: &SlotTable,
        inputs: &[(InputId, Input<'_>)],
        outputs: &mut [(OutputId, Output<'_>)],
        options: RunOptions<'_>,
    ) -> Result<(), Error> {
        if slots.width != self.executable.plan().slots.len() {
            return Err(Error::Foreign { plan: self.executable.plan().name.clone(), kind: "slot table" });
        }
        self.launch(entry, &slots.values, slots.iterations, inputs, outputs, options)
    }

    fn launch(
        &mut self,
        entry: EntryId,
        slots: &[u32],
        iterations: usize,
        inputs: &[(InputId, Input<'_>)],
        outputs: &mut [(OutputId, Output<'_>)],
        options: RunOptions<'_>,
    ) -> Result<(), Error> {
        let names = &*self.executable.names;
        let missing = |kind, ports: &PortNames, name: u32| {
            let plan = self.executable.plan();
            match (plan.entries.get(entry.0 as usize), ports.names.get(name as usize)) {
                (Some(entry), Some(name)) => Error::NotInEntry {
                    plan: plan.name.clone(),
                    entry: entry.name.clone(),
                    kind,
                    name: name.clone(),
                },
                (None, _) => Error::Foreign { plan: plan.name.clone(), kind: "entry" },
                (_, None) => Error::Foreign { plan: plan.name.clone(), kind },
            }
        };
        for &(id, _) in inputs {
            names.inputs.port(entry, id.0).ok_or_else(|| missing("input", &names.inputs, id.0))?;
        }
        for (id, _) in &*outputs {
            names.outputs.port(entry, id.0).ok_or_else(|| missing("output", &names.outputs, id.0))?;
        }
        let inputs = inputs.iter().filter_map(|(id, data)| Some((names.inputs.port(entry, id.0)?, *data)));
        let outputs = outputs
            .iter_mut()
            .filter_map(|(id, data)| Some((names.outputs.port(entry, id.0)?, data.reborrow())));
        let result = self.bound.run(entry.0 as usize, slots, iterations, inputs, outputs, options);
        result.map_err(|source| Error::Run {
            plan: self.executable.plan().name.clone(),
            source: Box::new(source),
        })
    }

    fn named<T>(&self, result: Result<T, exec::RunError>) -> Result<T, Error> {
        result.map_err(|source| Error::Run {
            plan: self.executable.plan().name.clone(),
            source: Box::new(source),
        })
    }

    /// Copies a state out.
    ///
    /// # Errors
    /// If there is no such state, or the slice has another length.
    pub fn read_state(&mut self, name: &str, out: &mut [f32]) -> Result<(), Error> {
        let result = self.bound.read_state(name, out);
        self.named(result)
    }

    /// A state, to be changed in place.
    ///
    /// # Errors
    /// If there is no such state.
    pub fn state_mut(&mut self, name: &str) -> Result<&mut [f32], Error> {
        let plan = &self.executable;
        self.bound
            .state_mut(name)
            .map_err(|source| Error::Run { plan: plan.plan().name.clone(), source: Box::new(source) })
    }

    /// Sets a state.
    ///
    /// # Errors
    /// If there is no such state, or the slice has another length.
    pub fn write_state(&mut self, name: &str, values: &[f32]) -> Result<(), Error> {
        let result = self.bound.write_state(name, values);
        self.named(result)
    }

    /// Turns timing of steps on (from zero) or off. On from the start where `SELFTOK_TIMING=1`.
    pub fn set_timing(&mut self, on: bool) {
        self.bound.set_timing(on);
    }

    /// Time by kernel and scope since timing was turned on.
    pub fn timing(&self) -> Timing {
        self.bound.timing()
    }
}
