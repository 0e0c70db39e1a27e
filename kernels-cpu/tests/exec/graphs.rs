//! Small graphs, each about one kernel or one kind of addressing, on one thread and several.

use crate::support::{agree, device};
use selftok_graph::*;

const F32: f64 = 2e-5;

/// On one thread, and on three.
fn holds(graph: &Graph, table: &[&[(&str, u32)]]) {
    for threads in [1, 3] {
        agree(graph, &device(threads), table, 5, F32);
    }
}

#[test]
fn a_linear_layer_with_norm_activation_gate_and_residual() {
    let g = Builder::new("mlp");
    let x = g.input("x", [2, 5, 24], DType::F32, Stage::Step);
    let gate = g.input("gate", [2, 1, 24], DType::F32, Stage::Step);
    let h = x.layer_norm("norm", 1e-6).linear("fc1", 40).act(Activation::GeluTanh).linear("fc2", 24);
    g.output("y", x + gate * h);
    holds(&g.finish().unwrap(), &[&[]]);
}

#[test]
fn only_live_rows_of_a_part_filled_batch_are_computed() {
    let g = Builder::new("live");
    let batch = g.up_to("batch", 3, Stage::Request);
    let rows = g.between("rows", 7, Stage::Step);
    let x = g.input("x", [batch, 7.into(), 16.into()], DType::F32, Stage::Step).restrict(1, rows);
    let y = x.rms_norm("norm", 1e-5).linear("fc", 20).act(Activation::Silu);
    g.output("y", y);
    let graph = g.finish().unwrap();
    for (batch, lo, hi) in [(3, 0, 7), (2, 2, 5), (1, 3, 4), (3, 6, 7)] {
        holds(&graph, &[&[("batch", batch), ("rows.lo", lo), ("rows.hi", hi)]]);
    }
}
