//! A plan bound to a device and its weights, with its names resolved to handles.

use crate::weights::Adapter;
use crate::{Device, Error, Session};
use selftok_graph::{Plan, Port};
use selftok_kernels_cpu::exec;
pub use selftok_kernels_cpu::exec::Footprint;
use selftok_loader::TensorSource;
use std::sync::Arc;

/// An entry of an executable's plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EntryId(pub(crate) u32);

/// An input, by name: valid in each entry that has one of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InputId(pub(crate) u32);

/// An output, by name: valid in each entry that has one of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OutputId(pub(crate) u32);

/// A number that the host sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotId(pub(crate) u32);

/// A plan ready to run. Immutable, `Send + Sync`, cheap to clone; any number of sessions share it.
#[derive(Clone)]
pub struct Executable {
    pub(crate) bound: exec::Executable,
    pub(crate) names: Arc<Names>,
}

/// Port names of all entries, and where each stands in each entry.
pub(crate) struct Names {
    pub inputs: PortNames,
    pub outputs: PortNames,
}

pub(crate) struct PortNames {
    pub names: Vec<String>,
    /// For each entry, for each name.
    index: Vec<Vec<Option<usize>>>,
}

impl PortNames {
    fn of<'a>(entries: impl Iterator<Item = &'a Vec<Port>> + Clone) -> PortNames {
        let mut names: Vec<String> = Vec::new();
        for port in entries.clone().flatten() {
            if !names.contains(&port.name) {
                names.push(port.name.clone());
            }
        }
        let find = |ports: &Vec<Port>| {
            names.iter().map(|name| ports.iter().position(|port| port.name == *name)).collect::<Vec<_>>()
        };
        PortNames { index: entries.map(find).collect(), names }
    }

    /// The port of an entry, where it has one of that name.
    pub fn port(&self, entry: EntryId, name: u32) -> Option<usize> {
        *self.index.get(entry.0 as usize)?.get(name as usize)?
    }
}

impl Executable {
    /// Binds a plan: packs its weights for the device and computes what depends on them alone.
    ///
    /// # Errors
    /// If a weight is missing, misshapen or cannot be read, or the plan does not fit the device.
    pub fn bind(
        plan: impl Into<Arc<Plan>>,
        weights: Arc<dyn TensorSource>,
        device: &Device,
    ) -> Result<Executable, Error> {
        Executable::bind_shared(plan.into(), Arc::new(Adapter::new(weights)), device)
    }

    /// Binds a plan to weights whose packed copies other plans share.
    pub(crate) fn bind_shared(
        plan: Arc<Plan>,
        weights: Arc<Adapter>,
        device: &Device,
    ) -> Result<Executable, Error> {
        let names = Names {
            inputs: PortNames::of(plan.entries.iter().map(|entry| &entry.inputs)),
            outputs: PortNames::of(plan.entries.iter().map(|entry| &entry.outputs)),
        };
        let Device::Cpu(cpu) = device;
        let bound = exec::Executable::bind(Arc::clone(&plan), weights, cpu)
            .map_err(|source| Error::Bind { plan: plan.name.clone(), source: Box::new(source) })?;
        Ok(Executable { bound, names: Arc::new(names) })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        self.bound.plan()
    }

    /// Memory held: weights, constants, and what each session takes.
    pub fn footprint(&self) -> Footprint {
        self.bound.footprint()
    }

    fn find<'a>(
        &self,
        kind: &'static str,
        name: &str,
        known: impl Iterator<Item = &'a String> + Clone,
    ) -> Result<u32, Error> {
        match known.clone().position(|known| known == name) {
            Some(index) => Ok(index as u32),
            None => Err(Error::NoName {
                plan: self.plan().name.clone(),
                kind,
                name: name.into(),
                known: known.cloned().collect(),
            }),
        }
    }

    /// The entry of that name.
    ///
    /// # Errors
    /// If there is none.
    pub fn entry(&self, name: &str) -> Result<EntryId, Error> {
        self.find("entry", name, self.plan().entries.iter().map(|entry| &entry.name)).map(EntryId)
    }

    /// The only entry.
    ///
    /// # Errors
    /// If there are several.
    pub fn only_entry(&self) -> Result<EntryId, Error> {
        match &self.plan().entries[..] {
            [_] => Ok(EntryId(0)),
            several => Err(Error::WhichEntry {
                plan: self.plan().name.clone(),
                entries: several.iter().map(|entry| entry.name.clone()).collect(),
            }),
        }
    }

    /// The input of that name, of whichever entries have it.
    ///
    /// # Errors
    /// If none has.
    pub fn input(&self, name: &str) -> Result<InputId, Error> {
        self.find("input", name, self.names.inputs.names.iter()).map(InputId)
    }

    /// The output of that name, of whichever entries have it.
    ///
    /// # Errors
    /// If none has.
    pub fn output(&self, name: &str) -> Result<OutputId, Error> {
        self.find("output", name, self.names.outputs.names.iter()).map(OutputId)
    }

    /// The slot of that name.
    ///
    /// # Errors
    /// If there is none.
    pub fn slot(&self, name: &str) -> Result<SlotId, Error> {
        self.find("slot", name, self.plan().slots.iter()).map(SlotId)
    }

    /// A table of slot values for so many iterations (at least one), all 0.
    pub fn slots(&self, iterations: usize) -> SlotTable {
        let (width, iterations) = (self.plan().slots.len(), iterations.max(1));
        SlotTable { values: vec![0; width * iterations], width, iterations }
    }

    /// A new session; its states are 0.
    pub fn session(&self) -> Session {
        Session::new(self)
    }
}

/// Slot values, a row an iteration. Made once and changed in place, it costs a run nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotTable {
    pub(crate) values: Vec<u32>,
    pub(crate) width: usize,
    pub(crate) iterations: usize,
}

impl SlotTable {
    /// Iterations.
    pub fn iterations(&self) -> usize {
        self.iterations
    }

    /// Sets a slot in every iteration.
    ///
    /// # Panics
    /// If the slot is of an executable with more slots.
    pub fn set(&mut self, slot: SlotId, value: u32) -> &mut SlotTable {
        for iteration in 0..self.iterations {
            self.set_at(iteration, slot, value);
        }
        self
    }

    /// Sets a slot in one iteration.
    ///
    /// # Panics
    /// If there is no such iteration, or the slot is of an executable with more slots.
    pub fn set_at(&mut self, iteration: usize, slot: SlotId, value: u32) -> &mut SlotTable {
        assert!(iteration < self.iterations, "iteration {iteration} of {}", self.iterations);
        assert!((slot.0 as usize) < self.width, "slot {} of {}", slot.0, self.width);
        self.values[iteration * self.width + slot.0 as usize] = value;
        self
    }
}
