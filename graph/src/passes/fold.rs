//! Fold: each node is computed once, at its stage.
//!
//! The builder has derived each value's stage from what it depends on. Folding keeps those; turned off, what is
//! computed is computed at every step, which is what a runtime without stages would do. Only what a state is
//! assigned at request stays there, for that is not an optimisation but when the state changes.

use crate::{Graph, Op, Stage, Target};

/// The stage of every value.
pub fn stages(graph: &Graph, target: &Target) -> Vec<Stage> {
    let mut stages: Vec<Stage> = graph.values.iter().map(|value| value.stage).collect();
    if target.on("fold") {
        return stages;
    }
    let mut before_steps = vec![false; graph.nodes.len()];
    for (index, node) in graph.nodes.iter().enumerate().rev() {
        before_steps[index] |= matches!(node.op, Op::Assign { .. }) && node.stage == Stage::Request;
        if before_steps[index] {
            for &input in node.inputs.iter().filter(|input| graph.value(**input).stage <= Stage::Request) {
                before_steps[graph.value(input).node] = true;
            }
        }
    }
    for (index, node) in graph.nodes.iter().enumerate() {
        let source = matches!(node.op, Op::Input | Op::Weight | Op::Constant(_) | Op::State);
        let stage = if before_steps[index] { Stage::Request } else { Stage::Step };
        for &output in node.outputs.iter().filter(|_| !source) {
            stages[output.index()] = stage;
        }
    }
    stages
}
