//! Compiling, binding and running a network for the shapes that its inputs have.

use super::{Architecture, NamedTensors, NetworkError, Values};
use crate::{Device, Error, Executable, Input, Output, Session};
use selftok_graph::{DType, Port, Program, compile};
use std::sync::{Arc, Mutex, PoisonError};

/// Sets of shapes that stay bound. Each holds a packed copy of its weights.
const KEPT: usize = 4;

/// Names and shapes of a run's inputs.
type Key = Vec<(String, Vec<usize>)>;

/// The executables of the latest sets of shapes.
pub(super) struct Cache {
    device: Device,
    /// The latest last.
    bound: Mutex<Vec<(Key, Arc<Bound>)>>,
}

struct Bound {
    executable: Executable,
    session: Mutex<Session>,
    outputs: &'static [&'static str],
}

impl Cache {
    pub fn new(device: Device) -> Cache {
        Cache { device, bound: Mutex::default() }
    }

    fn get(&self, architecture: &dyn Architecture, inputs: &NamedTensors) -> Result<Arc<Bound>, Error> {
        let key: Key = inputs.iter().map(|(name, tensor)| (name.clone(), tensor.shape.clone())).collect();
        let mut list = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = match list.iter().position(|(known, _)| *known == key) {
            Some(found) => list.remove(found),
            None => {
                if list.len() == KEPT {
                    list.remove(0);
                }
                (key, Arc::new(bind(architecture, inputs, &self.device)?))
            }
        };
        let bound = Arc::clone(&entry.1);
        list.push(entry);
        Ok(bound)
    }
}

fn bind(architecture: &dyn Architecture, inputs: &NamedTensors, device: &Device) -> Result<Bound, Error> {
    let entry = architecture.entry(inputs)?;
    let mut target = device.target();
    if let Ok(names) = std::env::var("SELFTOK_OFF") {
        target.off.extend(names.split(',').map(str::trim).filter(|s| !s.is_empty()).map(String::from));
    }
    let plan = compile(&Program::from(entry.graph), &target)?;
    let executable = Executable::bind(plan, entry.weights, device)?;
    let session = Mutex::new(executable.session());
    Ok(Bound { executable, session, outputs: entry.outputs })
}

/// Runs an architecture's graphs.
pub struct Runner<'a> {
    pub(super) architecture: &'a dyn Architecture,
    pub(super) cache: &'a Cache,
}

/// Numbers as a port holds them.
enum Numbers {
    F32(Vec<f32>),
    I32(Vec<i32>),
}

impl Runner<'_> {
    /// The inputs that the network has, without recorded results. No input's name has a dot, so tensors with one are
    /// notes of whoever recorded them.
    pub(super) fn accept(&self, given: &NamedTensors) -> Result<NamedTensors, Error> {
        let mut accepted = NamedTensors::new();
        for (name, tensor) in given.iter() {
            if self.architecture.inputs().contains(&name.as_str()) {
                accepted.insert(name.clone(), &tensor.shape, tensor.values.clone())?;
            } else if !self.architecture.outputs().contains(&name.as_str()) && !name.contains('.') {
                let expected = self.architecture.signature().to_string();
                return Err(NetworkError::Unexpected { name: name.clone(), expected }.into());
            }
        }
        Ok(accepted)
    }

    /// One run of the graph that serves these inputs.
    ///
    /// # Errors
    /// If the inputs do not fit, or the run fails.
    pub fn run(&self, inputs: &NamedTensors) -> Result<NamedTensors, Error> {
        let bound = self.cache.get(self.architecture, inputs)?;
        let executable = &bound.executable;
        let plan = executable.plan();
        let ports = &plan.entries[0];
        let derived = self.architecture.derive(inputs)?;
        let mut slots = executable.slots(1);
        for (name, value) in self.architecture.slots(inputs)? {
            slots.set(executable.slot(name)?, value);
        }
        let given: Vec<Numbers> = ports
            .inputs
            .iter()
            .map(|port| self.numbers(port, inputs, &derived))
            .collect::<Result<_, Error>>()?;
        let given: Vec<_> = ports
            .inputs
            .iter()
            .zip(&given)
            .map(|(port, numbers)| {
                let data = match numbers {
                    Numbers::F32(values) => Input::F32(values),
                    Numbers::I32(values) => Input::I32(values),
                };
                Ok((executable.input(&port.name)?, data))
            })
            .collect::<Result<_, Error>>()?;
        let mut got: Vec<Numbers> = ports
            .outputs
            .iter()
            .map(|port| match (port.dtype, sizes(port).iter().product()) {
                (DType::F32, numel) => Numbers::F32(vec![0.0; numel]),
                (DType::I32, numel) => Numbers::I32(vec![0; numel]),
            })
            .collect();
        let mut outputs: Vec<_> = ports
            .outputs
            .iter()
            .zip(&mut got)
            .map(|(port, numbers)| {
                let data = match numbers {
                    Numbers::F32(values) => Output::F32(values),
                    Numbers::I32(values) => Output::I32(values),
                };
                Ok((executable.output(&port.name)?, data))
            })
            .collect::<Result<_, Error>>()?;
        let entry = executable.only_entry()?;
        let mut session = bound.session.lock().unwrap_or_else(PoisonError::into_inner);
        session.run_entry(entry, &slots, &given, &mut outputs, Default::default())?;
        drop(session);

        let mut results = NamedTensors::new();
        for (port, numbers) in ports.outputs.iter().zip(got) {
            if bound.outputs.is_empty() || bound.outputs.contains(&port.name.as_str()) {
                let values = match numbers {
                    Numbers::F32(values) => Values::F32(values),
                    Numbers::I32(values) => Values::I64(values.into_iter().map(i64::from).collect()),
                };
                results.insert(port.name.clone(), &sizes(port), values)?;
            }
        }
        Ok(results)
    }

    /// The numbers of one port, from what was given or derived.
    fn numbers(&self, port: &Port, inputs: &NamedTensors, derived: &NamedTensors) -> Result<Numbers, Error> {
        let (name, expected) = (port.name.clone(), sizes(port));
        let Some(tensor) = inputs.get(&name).or_else(|| derived.get(&name)) else {
            let (given, expected) = (inputs.describe(), self.architecture.signature().to_string());
            return Err(NetworkError::Missing { name, given, expected }.into());
        };
        if tensor.shape != expected {
            let found = tensor.shape.clone();
            let expected = format!("{expected:?}, as in {}", self.architecture.signature());
            return Err(NetworkError::Shape { name, found, expected }.into());
        }
        match (port.dtype, &tensor.values) {
            (DType::F32, Values::F32(values)) => Ok(Numbers::F32(values.clone())),
            (DType::F32, Values::I64(values)) => {
                Ok(Numbers::F32(values.iter().map(|&value| value as f32).collect()))
            }
            (DType::I32, Values::I64(values)) => {
                let narrow = |&value: &i64| {
                    i32::try_from(value).map_err(|_| NetworkError::Value {
                        name: name.clone(),
                        what: format!("{value} is out of range"),
                        expected: "ids of 32 bits".into(),
                    })
                };
                Ok(Numbers::I32(values.iter().map(narrow).collect::<Result<_, _>>()?))
            }
            (DType::I32, Values::F32(_)) => Err(NetworkError::Value {
                name,
                what: "holds floating-point numbers".into(),
                expected: "integers, best as I64".into(),
            }
            .into()),
        }
    }
}

fn sizes(port: &Port) -> Vec<usize> {
    port.axes.iter().map(|axis| axis.size).collect()
}
