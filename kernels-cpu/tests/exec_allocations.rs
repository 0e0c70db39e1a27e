//! A run allocates nothing, from the second on. Alone in its file: the counting allocator serves the whole process.

#[path = "../../tests/support/allocations.rs"]
mod allocations;
#[path = "exec/support.rs"]
#[allow(dead_code)] // shared with the other tests of the executor
mod support;

use selftok_graph::*;
use selftok_kernels_cpu::exec::{Input, Output, RunOptions};

#[test]
fn a_run_allocates_nothing() {
    let g = Builder::new("block");
    let (rows, step) = (g.up_to("rows", 40, Stage::Step), g.slot("step"));
    let x = g.input("x", [2.into(), rows, 64.into()], DType::F32, Stage::Step);
    let t = g.input("t", [5, 64], DType::F32, Stage::Request).linear("ada", 128).pick(0, step, Stage::Step);
    let [shift, scale] = t.split();
    let [q, k, v] = x.norm(NormKind::Layer, 1e-6).modulate(shift, scale).linear("qkv", 192).split();
    let y = x + q.attention(&[(k, v)], 4, 4, Mask::None).linear("proj", 64).act(Activation::GeluTanh);
    g.output("y", y);
    let (ids, score, margin) = y.codebook(g.weight("codes", [100, 64]));
    g.output("ids", ids);
    g.output("score", score);
    g.output("margin", margin);
    let executable = support::executable(&g.finish().unwrap().into(), &support::device(3));
    let mut session = executable.session();
    session.set_timing(true);
    let (x, t) = (support::noises("x", 2 * 40 * 64), support::noises("t", 5 * 64));
    let (mut y, mut ids, mut score, mut margin) =
        (vec![0.0; 5120], vec![0; 80], vec![0.0; 80], vec![0.0; 80]);
    let mut run = |slots: &[u32]| {
        session
            .run(
                0,
                slots,
                slots.len() / 2,
                [(0, Input::F32(&x)), (1, Input::F32(&t))],
                [
                    (0, Output::F32(&mut y)),
                    (1, Output::I32(&mut ids)),
                    (2, Output::F32(&mut score)),
                    (3, Output::F32(&mut margin)),
                ],
                RunOptions::default(),
            )
            .unwrap();
    };
    run(&[40, 0]);
    let before = allocations::of_process();
    run(&[40, 1, 20, 2, 1, 4]);
    run(&[7, 3]);
    assert_eq!(allocations::of_process() - before, 0);
}
