//! The recorded network: nodes in order, each an op over earlier values, and the program that joins graphs
//! of one weight set.

use crate::{DType, Extent, Op, Shape, Slot, Stage};
use std::collections::BTreeMap;

/// A value of a [`Graph`]: index into [`Graph::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

impl ValueId {
    /// As an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One application of an op.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What.
    pub op: Op,
    /// Its operands, in the order that [`Op`] documents.
    pub inputs: Vec<ValueId>,
    /// Its results; none for [`Op::Assign`].
    pub outputs: Vec<ValueId>,
    /// Where it stands in the model: the builder's scope, dotted.
    pub scope: String,
    /// When it runs.
    pub stage: Stage,
}

/// What is known of a value before anything runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Name: of the weight, the input, the state; otherwise empty.
    pub name: String,
    /// Shape.
    pub shape: Shape,
    /// Element type.
    pub dtype: DType,
    /// When it is known.
    pub stage: Stage,
    /// The node that computes it: index into [`Graph::nodes`].
    pub node: usize,
}

/// A finished graph: valid by construction.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    /// The entry's name.
    pub name: String,
    /// Nodes; operands come before their users.
    pub nodes: Vec<Node>,
    /// Values.
    pub values: Vec<Value>,
    /// Named results.
    pub outputs: Vec<(String, ValueId)>,
    /// Slot names, in the order of the slot table.
    pub slots: Vec<String>,
    /// Live ranges.
    pub extents: Vec<Extent>,
}

impl Graph {
    /// The node that computes a value.
    pub fn producer(&self, value: ValueId) -> &Node {
        &self.nodes[self.values[value.index()].node]
    }

    /// A value's description.
    pub fn value(&self, value: ValueId) -> &Value {
        &self.values[value.index()]
    }

    /// A value's shape.
    pub fn shape(&self, value: ValueId) -> &Shape {
        &self.values[value.index()].shape
    }

    /// The slot of that name.
    pub fn slot(&self, name: &str) -> Option<Slot> {
        self.slots.iter().position(|slot| slot == name).map(|i| Slot(i as u32))
    }

    /// Every value made by `op`, with its name.
    fn named(&self, op: fn(&Op) -> bool) -> impl Iterator<Item = (ValueId, &Value)> {
        self.nodes.iter().filter(move |node| op(&node.op)).map(|node| {
            let id = node.outputs[0];
            (id, self.value(id))
        })
    }

    /// The inputs, in order of declaration.
    pub fn inputs(&self) -> impl Iterator<Item = (ValueId, &Value)> {
        self.named(|op| matches!(op, Op::Input))
    }

    /// The weights, in order of first use.
    pub fn weights(&self) -> impl Iterator<Item = (ValueId, &Value)> {
        self.named(|op| matches!(op, Op::Weight))
    }
}

/// Why a graph or program cannot be built.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum GraphError {
    /// Operand shapes do not fit the op.
    #[error("graph '{graph}', {scope}: {op}({operands}): {expected}")]
    Shape {
        /// Graph.
        graph: String,
        /// Place in the model.
        scope: String,
        /// Op.
        op: String,
        /// Operand names and shapes.
        operands: String,
        /// What would be right.
        expected: String,
    },
    /// One name stands for two different things.
    #[error("graph '{graph}': {what} '{name}' was declared as {first} and again as {second}")]
    Redeclared {
        /// Graph.
        graph: String,
        /// Kind of thing.
        what: &'static str,
        /// Name.
        name: String,
        /// First declaration.
        first: String,
        /// Second declaration.
        second: String,
    },
    /// A configuration asks for what cannot be.
    #[error("{model}: {field} = {value}: {expected}")]
    Config {
        /// Model.
        model: String,
        /// Field of the configuration.
        field: String,
        /// Its value.
        value: String,
        /// What would be right.
        expected: String,
    },
}

/// One weight set and one state with several entries: encode, velocity, render; prefill, decode.
///
/// States and weights are joined by name; slots too.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// Name, for printing.
    pub name: String,
    /// Entries, each a graph.
    pub entries: Vec<Graph>,
}

impl Program {
    /// Joins graphs, checking that what they name alike is alike.
    pub fn new(name: impl Into<String>, entries: Vec<Graph>) -> Result<Program, GraphError> {
        let name = name.into();
        let mut seen: BTreeMap<(&'static str, &str), String> = BTreeMap::new();
        for graph in &entries {
            for node in &graph.nodes {
                let what = match node.op {
                    Op::Weight => "weight",
                    Op::State => "state",
                    _ => continue,
                };
                let value = graph.value(node.outputs[0]);
                let sizes = format!("{} {:?}", value.dtype, value.shape.sizes());
                match seen.get(&(what, value.name.as_str())) {
                    Some(first) if *first != sizes => {
                        return Err(GraphError::Redeclared {
                            graph: name,
                            what,
                            name: value.name.clone(),
                            first: first.clone(),
                            second: sizes,
                        });
                    }
                    _ => {
                        seen.insert((what, &value.name), sizes);
                    }
                }
            }
        }
        Ok(Program { name, entries })
    }
}

impl From<Graph> for Program {
    fn from(graph: Graph) -> Self {
        Program { name: graph.name.clone(), entries: vec![graph] }
    }
}
