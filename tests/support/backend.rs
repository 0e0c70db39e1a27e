//! What runs a program in a test: one trait, so that the same golden tests judge the reference interpreter and every
//! compiled engine.

use selftok::{CpuOptions, Device, Executable};
use selftok_graph::{DType, Plan, Port, Program};
use selftok_kernels_cpu::Isa;
use selftok_kernels_cpu::reference::{self, Interpreter, Named, Slots};
use selftok_loader::Generated;
use std::collections::HashMap;
use std::sync::Arc;

/// Something that runs programs.
pub trait Backend {
    /// For test output.
    fn name(&self) -> String;

    /// Binds a program to its weights, with state of its own.
    fn open<'p>(&self, program: &'p Program, weights: &reference::Weights<'_>) -> Box<dyn Session + 'p>;
}

/// A bound program and its state.
pub trait Session {
    /// One run of an entry: the request stage, then the step stage at every row of slot values. Gives the last
    /// iteration's outputs.
    fn run(&mut self, entry: &str, inputs: &Named, table: &[Slots]) -> Named;
}

/// The f64 interpreter.
pub struct Reference;

struct Interpreted<'p> {
    entries: Vec<(&'p str, Interpreter<'p>)>,
    states: Named,
}

impl Backend for Reference {
    fn name(&self) -> String {
        "reference".into()
    }

    fn open<'p>(&self, program: &'p Program, weights: &reference::Weights<'_>) -> Box<dyn Session + 'p> {
        let bind = |graph| Interpreter::new(graph, weights).unwrap_or_else(|error| panic!("{error}"));
        let entries = program.entries.iter().map(|graph| (graph.name.as_str(), bind(graph))).collect();
        Box::new(Interpreted { entries, states: Named::new() })
    }
}

impl Session for Interpreted<'_> {
    fn run(&mut self, entry: &str, inputs: &Named, table: &[Slots]) -> Named {
        let (_, interpreter) = self.entries.iter().find(|(name, _)| *name == entry).expect("a known entry");
        let last = interpreter.repeat(inputs, table, &mut self.states, &mut |_, _| ());
        last.unwrap_or_else(|error| panic!("{error}")).outputs()
    }
}

/// The compiled engine on the CPU.
pub struct Engine {
    options: CpuOptions,
    off: Vec<String>,
}

impl Engine {
    /// With these options and everything on.
    pub fn new(options: CpuOptions) -> Engine {
        Engine { options, off: vec![] }
    }

    /// A device of its own.
    pub fn device(&self) -> Device {
        Device::cpu(self.options).expect("threads")
    }

    /// Compiles for a device.
    pub fn compile(&self, program: &Program, device: &Device) -> Plan {
        let mut target = device.target();
        target.off = self.off.clone();
        selftok_graph::compile(program, &target).unwrap_or_else(|error| panic!("{}: {error}", program.name))
    }

    /// Without these passes, on two threads.
    pub fn without(passes: &[&str]) -> Engine {
        let options = CpuOptions { threads: 2, ..CpuOptions::default() };
        Engine { options, off: passes.iter().map(|pass| pass.to_string()).collect() }
    }
}

impl Backend for Engine {
    fn name(&self) -> String {
        let off =
            if self.off.is_empty() { String::new() } else { format!(" without {}", self.off.join(", ")) };
        format!("engine {:?}{off}", self.options)
    }

    fn open<'p>(&self, program: &'p Program, weights: &reference::Weights<'_>) -> Box<dyn Session + 'p> {
        let device = self.device();
        let plan = self.compile(program, &device);
        let mut stored = HashMap::new();
        for weight in &plan.weights {
            let values = weights(&weight.name).unwrap_or_else(|| panic!("no weight '{}'", weight.name));
            stored.insert(weight.name.clone(), values);
        }
        let shapes = plan.weights.iter().map(|weight| (weight.name.clone(), weight.shape.clone()));
        let source = Generated::new(shapes, move |name, start, out| {
            out.copy_from_slice(&stored[name][start..start + out.len()]);
        });
        let executable =
            Executable::bind(plan, Arc::new(source), &device).unwrap_or_else(|error| panic!("{error}"));
        Box::new(Compiled::new(&executable))
    }
}

/// A session of a bound executable, run by names.
pub struct Compiled {
    session: selftok::Session,
}

impl Compiled {
    /// A session of its own.
    pub fn new(executable: &Executable) -> Compiled {
        Compiled { session: executable.session() }
    }

    /// The session, for what names do not reach.
    pub fn session(&mut self) -> &mut selftok::Session {
        &mut self.session
    }
}

enum Numbers {
    F32(Vec<f32>),
    I32(Vec<i32>),
}

impl Session for Compiled {
    fn run(&mut self, entry: &str, inputs: &Named, table: &[Slots]) -> Named {
        let exe = self.session.executable().clone();
        let plan = exe.plan();
        let ports = plan.entry(entry).expect("a known entry");
        let mut slots = exe.slots(table.len());
        for (i, row) in table.iter().enumerate() {
            for (name, &value) in row.iter().filter(|(name, _)| plan.slot(name).is_some()) {
                slots.set_at(i, exe.slot(name).expect("a known slot"), value);
            }
        }
        let numbers = |dtype, data: &[f64]| match dtype {
            DType::F32 => Numbers::F32(data.iter().map(|&x| x as f32).collect()),
            DType::I32 => Numbers::I32(data.iter().map(|&x| x as i32).collect()),
        };
        let given: Vec<_> =
            ports.inputs.iter().map(|port| numbers(port.dtype, &inputs[&port.name].data)).collect();
        let given: Vec<_> = ports
            .inputs
            .iter()
            .zip(&given)
            .map(|(port, numbers)| {
                let data = match numbers {
                    Numbers::F32(values) => selftok::Input::F32(values),
                    Numbers::I32(values) => selftok::Input::I32(values),
                };
                (exe.input(&port.name).expect("a known input"), data)
            })
            .collect();
        let sizes = |port: &Port| port.axes.iter().map(|axis| axis.size).collect::<Vec<_>>();
        let mut got: Vec<_> = ports
            .outputs
            .iter()
            .map(|port| numbers(port.dtype, &vec![f64::NAN; sizes(port).iter().product()]))
            .collect();
        let mut outputs: Vec<_> = ports
            .outputs
            .iter()
            .zip(&mut got)
            .map(|(port, numbers)| {
                let data = match numbers {
                    Numbers::F32(values) => selftok::Output::F32(values),
                    Numbers::I32(values) => selftok::Output::I32(values),
                };
                (exe.output(&port.name).expect("a known output"), data)
            })
            .collect();
        let id = exe.entry(entry).expect("a known entry");
        self.session
            .run_entry(id, &slots, &given, &mut outputs, Default::default())
            .unwrap_or_else(|error| panic!("{error}"));
        let arrays = ports.outputs.iter().zip(got).map(|(port, numbers)| {
            let data = match numbers {
                Numbers::F32(values) => values.into_iter().map(f64::from).collect(),
                Numbers::I32(values) => values.into_iter().map(f64::from).collect(),
            };
            (port.name.clone(), reference::Array::new(&sizes(port), data))
        });
        arrays.collect()
    }
}

/// Every backend that this build has, for tests that run on all of them: the judge, and the engine at every
/// instruction set of this machine.
pub fn all() -> Vec<Box<dyn Backend>> {
    let mut backends: Vec<Box<dyn Backend>> = vec![Box::new(Reference)];
    backends.extend(engines());
    backends
}

/// The engine at every instruction set of this machine, each on one thread and on two.
pub fn engines() -> Vec<Box<dyn Backend>> {
    let options = Isa::available().into_iter().flat_map(|isa| {
        [1, 2].map(|threads| CpuOptions { threads, isa: Some(isa), ..CpuOptions::default() })
    });
    options.map(|options| Box::new(Engine::new(options)) as Box<dyn Backend>).collect()
}

/// Inputs by name.
pub fn inputs<const N: usize>(values: [(&str, reference::Array); N]) -> Named {
    values.map(|(name, array)| (name.to_string(), array)).into()
}

/// One row of slot values by name.
pub fn slots<const N: usize>(values: [(&str, usize); N]) -> Slots {
    values.map(|(name, value)| (name.to_string(), value as u32)).into()
}
