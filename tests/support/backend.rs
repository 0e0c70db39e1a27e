//! What runs a program in a test: one trait, so that the same golden tests judge the reference interpreter and every
//! compiled engine.

use selftok_graph::Program;
use selftok_kernels_cpu::reference::{self, Interpreter, Named, Slots};

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

/// Every backend that this build has, for tests that run on all of them.
pub fn all() -> Vec<Box<dyn Backend>> {
    vec![Box::new(Reference)]
}

/// Inputs by name.
pub fn inputs<const N: usize>(values: [(&str, reference::Array); N]) -> Named {
    values.map(|(name, array)| (name.to_string(), array)).into()
}

/// One row of slot values by name.
pub fn slots<const N: usize>(values: [(&str, usize); N]) -> Slots {
    values.map(|(name, value)| (name.to_string(), value as u32)).into()
}
