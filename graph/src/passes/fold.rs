//! Fold: each node is computed once, at its stage.
//!
//! The builder has derived each value's stage from what it depends on. Folding keeps those; turned off,
//! everything that is computed is computed at every step, which is what a runtime without stages would do.

use crate::{Graph, Op, Stage, Target};

/// The stage of every value.
pub fn stages(graph: &Graph, target: &Target) -> Vec<Stage> {
    let mut stages: Vec<Stage> = graph.values.iter().map(|value| value.stage).collect();
    if !target.on("fold") {
        for node in &graph.nodes {
            let source = matches!(node.op, Op::Input | Op::Weight | Op::Constant(_) | Op::State);
            for &output in node.outputs.iter().filter(|_| !source) {
                stages[output.index()] = Stage::Step;
            }
        }
    }
    stages
}
