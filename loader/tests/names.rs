//! Name tables: every rearrangement, read whole and in pieces, against the same thing done plainly.

mod common;

use std::sync::Arc;

use common::*;
use selftok_loader::{DType, Dialect, TensorSource, Transform, View, Weights, dialects};

/// Tensors of these shapes, counting up from 0, 1000, 2000, …
fn counting(tensors: &[(&str, &[usize])]) -> Arc<dyn TensorSource> {
    let tensors = tensors.iter().enumerate().map(|(i, (name, shape))| {
        let n: usize = shape.iter().product();
        let bytes = (0..n).flat_map(|e| ((i * 1000 + e) as f32).to_le_bytes()).collect();
        (name.to_string(), DType::F32, shape.to_vec(), bytes)
    });
    Arc::new(Weights::from_tensors("file", tensors).unwrap())
}

/// The whole tensor, after checking that every piece of it reads alike.
fn whole(view: &View, name: &str) -> Vec<f32> {
    let all = view.to_f32(name).unwrap();
    for start in 0..all.len() {
        for end in start..=all.len() {
            let mut piece = vec![f32::NAN; end - start];
            view.read_f32(name, start, &mut piece).unwrap();
            assert_eq!(piece, all[start..end], "{name} {start}..{end}");
        }
    }
    all
}

#[test]
fn rearrangements_give_what_they_say() {
    let source = counting(&[("h.0.qkv", &[6, 4]), ("h.0.k", &[2, 4]), ("conv", &[3, 2, 2])]);
    let view = Dialect::new()
        .rule(&["h.{i}.qkv"], "l.{i}.t", Transform::Transpose)
        .rule(&["h.{i}.qkv"], "l.{i}.k", Transform::Part { axis: 0, index: 1, of: 3 })
        .rule(&["h.{i}.qkv"], "l.{i}.columns", Transform::Slice { axis: 1, start: 1, len: 2 })
        .rule(&["h.{i}.qkv", "h.{i}.k"], "l.{i}.rows", Transform::Concat { axis: 0 })
        .rule(&["h.{i}.k", "h.{i}.k"], "l.{i}.wide", Transform::Concat { axis: 1 })
        .apply(source)
        .unwrap();
    let t: Vec<f32> = (0..24).map(|e| (e % 6 * 4 + e / 6) as f32).collect();
    assert_eq!((view.info("l.0.t").unwrap().shape, whole(&view, "l.0.t")), (vec![4, 6], t));
    assert_eq!(whole(&view, "l.0.k"), (8..16).map(|e| e as f32).collect::<Vec<_>>());
    assert_eq!(view.info("l.0.columns").unwrap().shape, [6, 2]);
    assert_eq!(whole(&view, "l.0.columns"), [1, 2, 5, 6, 9, 10, 13, 14, 17, 18, 21, 22].map(|e| e as f32));
    assert_eq!(view.info("l.0.rows").unwrap().shape, [8, 4]);
    assert_eq!(whole(&view, "l.0.rows")[20..28], [20., 21., 22., 23., 1000., 1001., 1002., 1003.]);
    assert_eq!(
        whole(&view, "l.0.wide")[..9],
        [1000., 1001., 1002., 1003., 1000., 1001., 1002., 1003., 1004.]
    );
    assert_eq!(whole(&view, "conv").len(), 12, "what no rule mentions keeps its name");
    assert_eq!(view.names(), ["l.0.t", "l.0.k", "l.0.columns", "l.0.rows", "l.0.wide", "conv"]);

    let mut raw = vec![0; 3 * 16];
    view.read_rows_raw("l.0.rows", 5..8, &mut raw).unwrap();
    let mut rows = [0f32; 12];
    view.read_rows("l.0.rows", 5..8, &mut rows).unwrap();
    assert_eq!(raw, rows.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
    says(
        &message(view.read_rows_raw("l.0.t", 0..1, &mut raw[..24])),
        &["l.0.t", "rearranges it within rows"],
    );
    says(&message(view.read_f32("l.0.t", 20, &mut rows)), &["l.0.t", "20..32", "it has 24"]);
}

#[test]
fn a_matrix_larger_than_a_tile_is_transposed_in_any_piece() {
    let (m, n) = (37, 530);
    let view =
        Dialect::new().rule(&["w"], "t", Transform::Transpose).apply(counting(&[("w", &[m, n])])).unwrap();
    let want: Vec<f32> = (0..n * m).map(|e| (e % m * n + e / m) as f32).collect();
    for (start, end) in
        [(0, n * m), (5, 6), (30, 45), (1000, 12000), (m * 256 - 3, m * 512 + 3), (n * m - 1, n * m), (7, 7)]
    {
        let mut piece = vec![f32::NAN; end - start];
        view.read_f32("t", start, &mut piece).unwrap();
        assert_eq!(piece, want[start..end], "{start}..{end}");
    }
}

/// The forward permutation, as llama.cpp's converter does it: reshape(heads, 2, head_dim/2, …).swapaxes(1, 2).
fn permute(rows: &[Vec<f32>], heads: usize) -> Vec<Vec<f32>> {
    let head_dim = rows.len() / heads;
    let mut out = Vec::new();
    for head in 0..heads {
        for j in 0..head_dim / 2 {
            for s in 0..2 {
                out.push(rows[head * head_dim + s * head_dim / 2 + j].clone());
            }
        }
    }
    out
}

#[test]
fn the_rows_of_llama_gguf_come_back_in_order() {
    let rows: Vec<Vec<f32>> = (0..12).map(|r| vec![r as f32, 100.0 + r as f32]).collect();
    let le = |rows: &[Vec<f32>]| rows.iter().flatten().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let source = Weights::from_tensors(
        "llama.gguf",
        [
            ("blk.0.attn_q.weight".into(), DType::F32, vec![12, 2], le(&permute(&rows, 3))),
            ("blk.0.attn_k.weight".into(), DType::F32, vec![4, 2], le(&permute(&rows[..4], 1))),
            ("blk.0.attn_v.weight".into(), DType::F32, vec![12, 2], le(&rows)),
            ("token_embd.weight".into(), DType::F32, vec![12, 2], le(&rows)),
        ],
    )
    .unwrap();
    let source = Arc::new(source);
    let view = dialects::gguf("llama", 3, 1).apply(source.clone()).unwrap();
    assert_eq!(whole(&view, "model.layers.0.self_attn.q_proj.weight"), rows.concat());
    assert_eq!(whole(&view, "model.layers.0.self_attn.k_proj.weight"), rows[..4].concat());
    assert_eq!(whole(&view, "model.layers.0.self_attn.v_proj.weight"), rows.concat());
    let mut raw = vec![0; 5 * 8];
    view.read_rows_raw("model.layers.0.self_attn.q_proj.weight", 3..8, &mut raw).unwrap();
    assert_eq!(raw, le(&rows[3..8]));
    assert_eq!(view.bytes("model.embed_tokens.weight").unwrap(), le(&rows));
    assert_eq!(view.bytes("model.layers.0.self_attn.q_proj.weight"), None);
    // Qwen keeps its rows as they are.
    let qwen = dialects::gguf("qwen3", 3, 1).apply(source).unwrap();
    assert_eq!(whole(&qwen, "model.layers.0.self_attn.q_proj.weight"), permute(&rows, 3).concat());
}

#[test]
fn a_table_that_does_not_fit_says_which_rule() {
    let apply = |d: Dialect| message(d.apply(counting(&[("a.0", &[4, 3]), ("a.1", &[5, 2]), ("b", &[6])])));
    let rule = |from: &[&str], to: &str, t: Transform| apply(Dialect::new().rule(from, to, t));
    says(&rule(&["a.{i}"], "x", Transform::Identity), &["two rules give `x`"]);
    says(&rule(&["a.0"], "b", Transform::Identity), &["two rules give `b`"]);
    says(&rule(&["b"], "x", Transform::Transpose), &["`x`", "[6] is not a matrix"]);
    says(&rule(&["a.0", "a.1"], "x", Transform::Concat { axis: 0 }), &["[4, 3]", "[5, 2]", "do not join"]);
    says(&rule(&["a.0", "c"], "x", Transform::Concat { axis: 0 }), &["file has no `c`"]);
    says(&rule(&["a.0", "b"], "x", Transform::Identity), &["takes one source"]);
    says(&rule(&["b"], "x.{i}", Transform::Identity), &["letter or star"]);
    says(&rule(&["b"], "x", Transform::Slice { axis: 0, start: 4, len: 3 }), &["leaves the 6"]);
    says(&rule(&["b"], "x", Transform::Part { axis: 0, index: 0, of: 4 }), &["4 equal pieces"]);
    says(&rule(&["b"], "x", Transform::Part { axis: 1, index: 0, of: 4 }), &["no axis 1"]);
    says(&rule(&["b"], "x", Transform::Unpermute { heads: 2 }), &["6 rows are not 2 heads of an even size"]);
}

#[test]
fn old_names_of_a_diffusers_autoencoder_become_the_new() {
    let old = counting(&[
        ("encoder.mid_block.attentions.0.query.weight", &[2, 2]),
        ("decoder.mid_block.attentions.0.proj_attn.bias", &[2]),
    ]);
    let view = dialects::old_diffusers_vae().apply(old).unwrap();
    let names =
        ["encoder.mid_block.attentions.0.to_q.weight", "decoder.mid_block.attentions.0.to_out.0.bias"];
    assert_eq!(view.names(), names);
}
