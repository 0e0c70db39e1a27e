//! GGUF files: metadata, quantised blocks, and every lie that is refused.

mod common;

use std::sync::Arc;

use common::gguf::*;
use common::*;
use half::f16;
use selftok_loader::{DType, MetaValue, TensorSource, Weights, dialects};

/// One Q8_0 block: scale, then 32 signed bytes.
fn q8_0(scale: f32, first: i8) -> Vec<u8> {
    let quants = (0..32).map(|i| first.wrapping_add(i) as u8);
    f16::from_f32(scale).to_le_bytes().into_iter().chain(quants).collect()
}

#[test]
fn metadata_and_tensors_are_read() {
    let data = [
        &q8_0(0.5, -16)[..],
        &q8_0(2.0, 0),
        &[0; 28],
        &1.5f32.to_le_bytes(),
        &(-2.0f32).to_le_bytes(),
        &3.0f32.to_le_bytes(),
    ];
    let meta = [
        ("general.architecture", Meta::Str("llama")),
        ("llama.attention.head_count", Meta::U32(1)),
        ("llama.rope.freq_base", Meta::F32(500000.0)),
        ("tokenizer.ggml.tokens", Meta::Strs(&["<s>", "", "ünï"])),
        ("tokenizer.ggml.add_bos_token", Meta::Bool(1)),
        ("x.offset", Meta::I64(-3)),
        ("x.scores", Meta::Raw(9, [&6u32.to_le_bytes()[..], &2u64.to_le_bytes(), &[0; 8]].concat())),
    ];
    let tensors: [TensorRow; 2] =
        [("blk.0.attn_q.weight", &[32, 2], 8, 0), ("output_norm.weight", &[3], 0, 96)];
    for version in [2, 3] {
        let w = Weights::from_bytes("m.gguf", gguf(version, &meta, &tensors, &data.concat())).unwrap();
        let m = w.gguf().unwrap();
        assert_eq!(m.keys().next(), Some("general.architecture"));
        assert_eq!(m.str("general.architecture"), Some("llama"));
        assert_eq!(m.u64("llama.attention.head_count"), Some(1));
        assert_eq!(m.f64("llama.rope.freq_base"), Some(500000.0));
        assert_eq!(m.bool("tokenizer.ggml.add_bos_token"), Some(true));
        assert_eq!((m.get("x.offset"), m.u64("x.offset")), (Some(MetaValue::Signed(-3)), None));
        let tokens = m.array("tokenizer.ggml.tokens").unwrap();
        assert_eq!(tokens.iter().filter_map(|t| t.as_str()).collect::<Vec<_>>(), ["<s>", "", "ünï"]);
        assert_eq!(m.array("x.scores").unwrap().len(), 2);
        assert_eq!(m.get("nothing"), None);

        let q = w.tensor("blk.0.attn_q.weight").unwrap();
        assert_eq!((q.dtype, q.shape), (DType::Q8_0, &[2, 32][..]));
        let mut row = [0.0; 32];
        w.read_rows("blk.0.attn_q.weight", 1..2, &mut row).unwrap();
        assert_eq!(row, std::array::from_fn::<f32, 32, _>(|i| 2.0 * i as f32));
        w.read_f32("blk.0.attn_q.weight", 31, &mut row[..2]).unwrap();
        assert_eq!(row[..2], [7.5, 0.0]);
        assert_eq!(w.to_f32("output_norm.weight").unwrap(), [1.5, -2.0, 3.0]);

        // Through the table of names a quantised row stays its block, in its new place.
        let view = dialects::gguf("llama", 1, 1).apply(Arc::new(w)).unwrap();
        let mut blocks = [0; 68];
        view.read_rows_raw("model.layers.0.self_attn.q_proj.weight", 0..2, &mut blocks).unwrap();
        assert_eq!(blocks[..], data[..2].concat());
        assert_eq!(view.to_f32("model.norm.weight").unwrap()[0], 1.5);
    }
}

/// `data/reference.gguf` was written by the `gguf` package of llama.cpp (normal random numbers, quantised by it), and
/// `reference.f32` holds what it decodes them to, in this order.
#[test]
fn a_file_of_the_reference_package_decodes_bit_by_bit() {
    let data = repository("loader/tests/data");
    let weights = Weights::open(data.join("reference.gguf")).unwrap();
    let meta = weights.gguf().unwrap();
    assert_eq!(
        (meta.str("general.architecture"), meta.u64("llama.attention.head_count")),
        (Some("llama"), Some(4))
    );
    let reference = std::fs::read(data.join("reference.f32")).unwrap();
    let reference: Vec<f32> = reference.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let tensors = [
        ("q8", DType::Q8_0),
        ("q40", DType::Q4_0),
        ("q41", DType::Q4_1),
        ("f16", DType::F16),
        ("bf16", DType::BF16),
    ];
    assert_eq!(reference.len(), tensors.len() * 6 * 64);
    for ((name, dtype), want) in tensors.into_iter().zip(reference.chunks(6 * 64)) {
        assert_eq!(
            (weights.tensor(name).unwrap().dtype, weights.tensor(name).unwrap().shape),
            (dtype, &[6, 64][..])
        );
        assert_eq!(weights.to_f32(name).unwrap(), want, "{name}");
    }
}

/// 123 tensors put `{` where safetensors has it.
#[test]
fn a_count_that_looks_like_a_safetensors_header_deceives_nobody() {
    let names: Vec<String> = (0..123).map(|i| format!("t{i}")).collect();
    let rows: Vec<TensorRow> = names.iter().map(|n| (n.as_str(), &[0u64][..], 0, 0)).collect();
    assert_eq!(Weights::from_bytes("x", gguf(3, &[], &rows, &[])).unwrap().len(), 123);
}

#[test]
fn every_lie_is_refused_with_a_sentence() {
    let tensors = |rows: &[TensorRow], data: usize| refused(&gguf(3, &[], rows, &vec![0; data]));
    says(&refused(&gguf(1, &[], &[], &[])), &["version 1", "2 and 3"]);
    says(&refused(&gguf(3u32.swap_bytes(), &[], &[], &[])), &["big-endian"]);
    says(&refused(b"GGUF\x03\0"), &["truncated"]);
    let mut lie = gguf(3, &[], &[], &[]);
    lie[8..16].copy_from_slice(&(1u64 << 60).to_le_bytes());
    says(&refused(&lie), &["number of tensors", "1152921504606846976"]);
    lie[8..24].copy_from_slice(&[[0; 8], [0xff; 8]].concat());
    says(&refused(&lie), &["number of metadata keys", "18446744073709551615"]);

    let long = |n: u64| [&8u32.to_le_bytes()[..], &n.to_le_bytes()].concat();
    says(
        &refused(&gguf(3, &[("k", Meta::Raw(9, long(1 << 61)))], &[], &[])),
        &["`k`", "2305843009213693952 items"],
    );
    says(
        &refused(&gguf(3, &[("k", Meta::Raw(9, [9, 0, 0, 0].into()))], &[], &[])),
        &["`k`", "arrays of arrays"],
    );
    says(&refused(&gguf(3, &[("k", Meta::Raw(13, vec![]))], &[], &[])), &["`k`", "13 is not a type"]);
    says(&refused(&gguf(3, &[("k", Meta::Bool(2))], &[], &[])), &["`k`", "truth value"]);
    let broken = [&2u64.to_le_bytes()[..], &[0xff, 0xfe]].concat();
    says(&refused(&gguf(3, &[("k", Meta::Raw(8, broken))], &[], &[])), &["`k`", "not UTF-8"]);
    says(&refused(&gguf(3, &[("k", Meta::U32(1)), ("k", Meta::U32(1))], &[], &[])), &["`k`", "comes twice"]);
    says(
        &refused(&gguf(3, &[("general.alignment", Meta::U32(33))], &[], &[])),
        &["general.alignment", "power of two"],
    );

    says(&refused(&gguf(3, &[("split.count", Meta::U32(3))], &[], &[])), &["one of 3 pieces", "--merge"]);

    says(&tensors(&[("a", &[256], 12, 0)], 999), &["`a`", "Q4_K (12) is not supported", "Q8_0"]);
    says(&tensors(&[("a", &[256], 77, 0)], 999), &["77 (unknown)"]);
    says(&tensors(&[("a", &[33, 2], 8, 0)], 999), &["`a`", "rows of 33", "blocks of 32 of Q8_0"]);
    says(&tensors(&[("a", &[4], 0, 8)], 64), &["`a`", "offset 8", "alignment 32"]);
    says(&tensors(&[("a", &[4], 0, 32)], 40), &["`a`", "16 bytes at offset 32", "40 bytes of data"]);
    says(&tensors(&[("a", &[4], 0, u64::MAX - 31)], 40), &["`a`", "18446744073709551584", "leave the file"]);
    says(&tensors(&[("a", &[u64::MAX, u64::MAX], 0, 0)], 40), &["`a`", "impossibly large"]);
    says(&tensors(&[("a", &[1; 9], 0, 0)], 40), &["`a`", "9 dimensions"]);
    says(&tensors(&[("a", &[16], 0, 0), ("b", &[4], 0, 32)], 64), &["`b`", "overlap those of `a`"]);
    says(&tensors(&[("a", &[4], 0, 0), ("a", &[4], 0, 32)], 64), &["`a`", "comes twice"]);
}
