//! One network of a model: compiled and bound when first asked for, with a session of its own.

use super::Counter;
use crate::{Device, EntryId, Error, Executable, Input, Output, RunOptions, Session, SlotTable};
use selftok_graph::Plan;
use selftok_loader::TensorSource;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// A network that may not be bound yet.
#[derive(Default)]
pub(super) struct Network {
    bound: OnceLock<Bound>,
    /// So that two jobs do not bind it twice.
    binding: Mutex<()>,
}

impl Network {
    /// The bound network, binding it first where nobody has.
    pub fn get(&self, bind: impl FnOnce() -> Result<Bound, Error>) -> Result<&Bound, Error> {
        let _guard = self.binding.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bound) = self.bound.get() {
            return Ok(bound);
        }
        let bound = bind()?;
        Ok(self.bound.get_or_init(|| bound))
    }
}

/// A bound network and its session.
pub(super) struct Bound {
    session: Mutex<Session>,
    executable: Executable,
}

impl Bound {
    pub fn new(plan: Plan, weights: Arc<dyn TensorSource>, device: &Device) -> Result<Bound, Error> {
        let executable = Executable::bind(plan, weights, device)?;
        Ok(Bound { session: Mutex::new(executable.session()), executable })
    }

    /// Runs the only entry on `batch` pictures.
    pub fn run(
        &self,
        batch: usize,
        inputs: &[(&str, Input<'_>)],
        outputs: &mut [(&str, Output<'_>)],
        counter: &mut Counter<'_>,
    ) -> Result<(), Error> {
        let mut slots = self.executable.slots(1);
        slots.set(self.executable.slot("batch")?, batch as u32);
        let entry = self.executable.only_entry()?;
        self.lock().run(entry, &slots, inputs, outputs, counter)
    }

    /// Holds the session, and with it the state, over several runs.
    pub fn lock(&self) -> Locked<'_> {
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        Locked { session, executable: &self.executable }
    }

    pub fn executable(&self) -> &Executable {
        &self.executable
    }
}

/// A session that nobody else runs meanwhile.
pub(super) struct Locked<'a> {
    session: MutexGuard<'a, Session>,
    executable: &'a Executable,
}

impl Locked<'_> {
    /// Runs an entry with the slots given, counting its kernels.
    pub fn run(
        &mut self,
        entry: EntryId,
        slots: &SlotTable,
        inputs: &[(&str, Input<'_>)],
        outputs: &mut [(&str, Output<'_>)],
        counter: &mut Counter<'_>,
    ) -> Result<(), Error> {
        let executable = self.executable;
        let inputs: Vec<_> = inputs
            .iter()
            .map(|(name, data)| Ok((executable.input(name)?, *data)))
            .collect::<Result<_, Error>>()?;
        let mut outputs: Vec<_> = outputs
            .iter_mut()
            .map(|(name, data)| Ok((executable.output(name)?, data.reborrow())))
            .collect::<Result<_, Error>>()?;
        let cancel = counter.cancel();
        let mut progress = |progress| counter.step(progress);
        let options = RunOptions { cancel, progress: Some(&mut progress) };
        self.session.run_entry(entry, slots, &inputs, &mut outputs, options)?;
        counter.next();
        Ok(())
    }
}
