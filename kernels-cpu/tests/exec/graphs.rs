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
fn a_linear_layer_by_a_matrix_that_is_computed_or_given() {
    let g = Builder::new("computed");
    let known = g.constant([3, 8], (0..24).map(|i| (i * 5 % 7) as f32 - 3.0).collect());
    let table = g.weight("table", [5, 8]).linear_with(known, None); // at bind
    let x = g.input("x", [4, 8], DType::F32, Stage::Step);
    let other = g.input("other", [6, 8], DType::F32, Stage::Request);
    g.output("known", x.linear_with(known, None));
    g.output("given", x.linear_with(other, None));
    g.output("twice", x.linear_with(known, None).linear_with(table, None));
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

#[test]
fn joint_attention_over_segments_reads_slices_and_live_rows() {
    let g = Builder::new("joint");
    let batch = g.up_to("batch", 2, Stage::Request);
    let live = g.between("visible", 6, Stage::Step);
    let x = g.input("x", [batch, 5.into(), 24.into()], DType::F32, Stage::Step);
    let c = g.input("c", [batch, 6.into(), 24.into()], DType::F32, Stage::Step).restrict(1, live);
    let [q, k, v] = x.linear("qkv", 72).split();
    let [cq, ck, cv] = c.linear("c_qkv", 72).split();
    let segments = [(ck, cv), (k, v)];
    g.output("x_out", q.attention(&segments, 3, 3, Mask::None).linear("proj", 24) + x);
    g.output("c_out", cq.attention(&segments, 3, 3, Mask::None).linear("c_proj", 24));
    let graph = g.finish().unwrap();
    for (batch, lo, hi) in [(2, 0, 6), (1, 2, 5), (2, 5, 6)] {
        holds(&graph, &[&[("batch", batch), ("visible.lo", lo), ("visible.hi", hi)]]);
    }
}

/// A decoder layer with a cache: rows are written behind those that stand there, and queries see up to themselves.
fn cached() -> Graph {
    let g = Builder::new("cached");
    let (past, rows, keys) =
        (g.slot("past"), g.up_to("rows", 4, Stage::Step), g.up_to("keys", 12, Stage::Step));
    let (k_cache, v_cache) = (g.state("k", [1, 12, 16]), g.state("v", [1, 12, 16]));
    let table = g.input("table", [12, 8], DType::F32, Stage::Request);
    let ids = g.input("ids", [1, 4], DType::I32, Stage::Step).restrict(1, rows);
    let x = g.weight("wte", [5, 32]).embed(ids);
    let h = x.rms_norm("norm", 1e-5);
    let q = h.linear_no_bias("q", 32).rope(table, 4, RopeStyle::Half, Some(past));
    let k = h.linear_no_bias("k", 16).rope(table, 2, RopeStyle::Interleaved, Some(past));
    let v = h.linear_no_bias("v", 16);
    k_cache.assign(k, Some((1, past)));
    v_cache.assign(v, Some((1, past)));
    let segment = (k_cache.restrict(1, keys), v_cache.restrict(1, keys));
    let a = q.attention(&[segment], 4, 2, Mask::Causal { offset: Some(past) });
    let y = x + a.linear_no_bias("o", 32);
    g.output("logits", y.linear_with(g.weight("wte", [5, 32]), None));
    g.finish().unwrap()
}

#[test]
fn a_cache_grows_with_every_iteration_of_one_run() {
    holds(
        &cached(),
        &[
            &[("past", 0), ("rows", 4), ("keys", 4)],
            &[("past", 4), ("rows", 3), ("keys", 7)],
            &[("past", 7), ("rows", 1), ("keys", 8)],
            &[("past", 8), ("rows", 4), ("keys", 12)],
        ],
    );
}

#[test]
fn a_sampler_picks_rows_of_tables_and_updates_its_state_in_place() {
    let g = Builder::new("sampler");
    let batch = g.up_to("batch", 2, Stage::Request);
    let step = g.slot("step");
    let x = g.state("x", [batch, 4.into(), 8.into()]);
    let t = g.input("t", [6], DType::F32, Stage::Request);
    let freqs = g.constant([4], vec![1.0, 0.5, 0.25, 0.125]);
    let c = t.timestep_embed(freqs, false).linear("t_embedder", 8).act(Activation::Silu);
    let [shift, scale] = c.linear("ada", 16).pick(0, step, Stage::Step).split();
    let table = g.weight("pos", [4, 8]).linear("table", 8).act(Activation::GeluErf);
    let h = (x + table).norm(NormKind::Layer, 1e-6).modulate(shift, scale).linear("fc", 8);
    let coeffs = g.input("coeffs", [6, 2], DType::F32, Stage::Request).pick(0, step, Stage::Step);
    let next = coeffs.combine(&[x, h]);
    x.assign(next, None);
    g.output("latent", next);
    let graph = g.finish().unwrap();
    let row = |step| [("batch", 2), ("step", step)];
    holds(&graph, &[&row(0), &row(1), &row(5), &row(3)]);
    holds(&graph, &[&[("batch", 1), ("step", 4)]]);
}

#[test]
fn pictures_pass_convolutions_norms_upsampling_and_permutations() {
    let g = Builder::new("vae");
    let batch = g.up_to("batch", 2, Stage::Request);
    let x = g.input("x", [batch, 3.into(), 8.into(), 6.into()], DType::F32, Stage::Step);
    let h = x.permute(&[0, 2, 3, 1]).conv2d("conv_in", 8, 3, 1, [1; 4]);
    let r = h.group_norm("norm1", 4, 1e-6).act(Activation::Silu).conv2d("conv1", 8, 3, 1, [1; 4]) + h;
    let down = r.conv2d("down", 16, 3, 2, [0, 1, 0, 1]);
    let up = down.upsample2x().conv2d("up", 8, 3, 1, [1; 4]);
    let joined = r.concat(3, &[up]).group_norm("norm2", 2, 1e-5);
    g.output("y", joined.conv2d("conv_out", 5, 1, 1, [0; 4]).permute(&[0, 3, 1, 2]));
    g.output("twice", down.upsample2x());
    let graph = g.finish().unwrap();
    holds(&graph, &[&[("batch", 2)]]);
    holds(&graph, &[&[("batch", 1)]]);
}

#[test]
fn codes_are_found_in_weights_and_in_constants() {
    for computed in [false, true] {
        let g = Builder::new("quantizer");
        let batch = g.up_to("batch", 2, Stage::Request);
        let rows = g.up_to("rows", 9, Stage::Step);
        let x = g.input("x", [batch, 9.into(), 16.into()], DType::F32, Stage::Step).restrict(1, rows);
        let codes = g.weight("codes", [50, 16]);
        let codes = if computed { codes.act(Activation::Relu) } else { codes };
        let (ids, score, margin) = x.codebook(codes);
        g.output("ids", ids);
        g.output("score", score);
        g.output("margin", margin);
        g.output("found", codes.embed(ids));
        let graph = g.finish().unwrap();
        holds(&graph, &[&[("batch", 2), ("rows", 7)]]);
        holds(&graph, &[&[("batch", 1), ("rows", 9)]]);
    }
}

#[test]
fn pointwise_functions_broadcast_and_follow_any_strides() {
    let g = Builder::new("pointwise");
    let rows = g.between("rows", 4, Stage::Step);
    let x = g.input("x", [3, 4, 5], DType::F32, Stage::Step).restrict(1, rows);
    let a = g.input("a", [3, 1, 5], DType::F32, Stage::Step);
    let b = g.input("b", [1], DType::F32, Stage::Request);
    g.output("sum", (x + a).act(Activation::QuickGelu));
    g.output("product", (x * b - a).act(Activation::Relu));
    g.output("turned", (x * a).permute(&[2, 0, 1]));
    g.output("unary", x.act(Activation::GeluErf));
    let graph = g.finish().unwrap();
    holds(&graph, &[&[("rows.lo", 0), ("rows.hi", 4)]]);
    holds(&graph, &[&[("rows.lo", 1), ("rows.hi", 3)]]);
}

#[test]
fn products_in_bf16_are_as_good_as_bf16() {
    let g = Builder::new("bf16");
    let x = g.input("x", [7, 96], DType::F32, Stage::Step);
    g.output("y", x.linear("fc1", 200).act(Activation::Silu).linear("fc2", 96));
    let graph = g.finish().unwrap();
    let bf16 = device(2).with_compute(selftok_kernels_cpu::exec::ComputeType::Bf16);
    agree(&graph, &bf16, &[&[]], 1, 2e-2);
}

#[test]
fn a_request_is_computed_once_and_each_iteration_with_its_own_slots() {
    let g = Builder::new("request");
    let (rows, step) = (g.up_to("rows", 5, Stage::Request), g.slot("step"));
    let x = g.input("x", [rows, 8.into()], DType::F32, Stage::Request).linear("once", 12);
    let t = g.input("t", [3, 12], DType::F32, Stage::Request).pick(0, step, Stage::Step);
    let sum = g.state("sum", [5, 12]);
    let next = sum.restrict(0, rows) + x * t;
    sum.restrict(0, rows);
    sum.assign(next, None);
    g.output("y", next.linear("each", 4));
    let graph = g.finish().unwrap();
    holds(&graph, &[&[("rows", 5), ("step", 0)], &[("rows", 5), ("step", 2)], &[("rows", 5), ("step", 1)]]);
}
