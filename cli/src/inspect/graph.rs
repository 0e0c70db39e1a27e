//! A network as recorded, before the compiler: one row a node.

use crate::table::Table;
use selftok_graph::{Graph, Op};

/// The nodes of a graph, weights left out: they are named where they are read.
pub fn text(graph: &Graph) -> String {
    let mut table = Table::new("l", ["value", "op", "stage", "shape", "operands"]);
    let name = |id: selftok_graph::ValueId| match graph.value(id).name.as_str() {
        "" => format!("%{}", id.0),
        name => name.to_owned(),
    };
    for node in graph.nodes.iter().filter(|node| !matches!(node.op, Op::Weight)) {
        let joined =
            |values: &[selftok_graph::ValueId]| values.iter().map(|&v| name(v)).collect::<Vec<_>>().join(" ");
        let shapes: Vec<String> = node.outputs.iter().map(|&v| graph.shape(v).to_string()).collect();
        table.row([
            joined(&node.outputs),
            node.op.name().to_owned(),
            node.stage.to_string(),
            shapes.join(" "),
            joined(&node.inputs),
        ]);
    }
    let outputs: Vec<String> =
        graph.outputs.iter().map(|(output, value)| format!("{output} = {}", name(*value))).collect();
    format!("graph {}: {} nodes\n{table}outputs: {}\n", graph.name, graph.nodes.len(), outputs.join(", "))
}
