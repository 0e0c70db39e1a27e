//! The name tables that are known: GGUF's short names, what diffusers called attention before version 0.18, and what
//! transformers calls its modules since version 5.

use crate::names::{Dialect, Transform};

/// GGUF names of a causal transformer → those of Hugging Face (`model.layers.{i}.…`).
///
/// llama.cpp stores q and k of the architecture `llama` with its rows permuted (see [`Transform::Unpermute`]);
/// others, such as `qwen2` and `qwen3`, keep theirs. `heads` and `kv_heads` are `ARCH.attention.head_count` and
/// `…head_count_kv`.
pub fn gguf(architecture: &str, heads: usize, kv_heads: usize) -> Dialect {
    let order = |heads| match architecture {
        "llama" => Transform::Unpermute { heads },
        _ => Transform::Identity,
    };
    let mut table = Dialect::new()
        .rename("token_embd.weight", "model.embed_tokens.weight")
        .rename("output_norm.weight", "model.norm.weight")
        .rename("output.weight", "lm_head.weight");
    for end in ["weight", "bias"] {
        let from = |name: &str| format!("blk.{{i}}.{name}.{end}");
        let to = |name: &str| format!("model.layers.{{i}}.{name}.{end}");
        table = table.rule(&[&from("attn_q")], &to("self_attn.q_proj"), order(heads)).rule(
            &[&from("attn_k")],
            &to("self_attn.k_proj"),
            order(kv_heads),
        );
        for (gguf, hf) in [
            ("attn_v", "self_attn.v_proj"),
            ("attn_output", "self_attn.o_proj"),
            ("attn_q_norm", "self_attn.q_norm"),
            ("attn_k_norm", "self_attn.k_norm"),
            ("attn_norm", "input_layernorm"),
            ("ffn_norm", "post_attention_layernorm"),
            ("ffn_gate", "mlp.gate_proj"),
            ("ffn_up", "mlp.up_proj"),
            ("ffn_down", "mlp.down_proj"),
        ] {
            table = table.rename(&from(gguf), &to(hf));
        }
    }
    table
}

/// GGUF names of GPT-2 → those of Hugging Face (`transformer.h.{i}.…`), matrices `[out, in]`.
pub fn gguf_gpt2() -> Dialect {
    let mut table = Dialect::new().rename("output.weight", "lm_head.weight");
    for (gguf, hf) in [
        ("token_embd", "wte"),
        ("position_embd", "wpe"),
        ("output_norm", "ln_f"),
        ("blk.{i}.attn_norm", "h.{i}.ln_1"),
        ("blk.{i}.attn_qkv", "h.{i}.attn.c_attn"),
        ("blk.{i}.attn_output", "h.{i}.attn.c_proj"),
        ("blk.{i}.ffn_norm", "h.{i}.ln_2"),
        ("blk.{i}.ffn_up", "h.{i}.mlp.c_fc"),
        ("blk.{i}.ffn_down", "h.{i}.mlp.c_proj"),
    ] {
        for end in ["weight", "bias"] {
            table = table.rename(&format!("{gguf}.{end}"), &format!("transformer.{hf}.{end}"));
        }
    }
    table
}

/// GPT-2 as published: with or without the prefix `transformer.`, and with the matrices of its `Conv1D` layers, which are
/// stored `[in, out]`, turned to `[out, in]`.
pub fn gpt2() -> Dialect {
    let mut table = Dialect::new();
    for prefix in ["", "transformer."] {
        for name in ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"] {
            let (from, to) = (format!("{prefix}h.{{i}}.{name}"), format!("transformer.h.{{i}}.{name}"));
            table = table
                .rule(&[&format!("{from}.weight")], &format!("{to}.weight"), Transform::Transpose)
                .rename(&format!("{from}.bias"), &format!("{to}.bias"));
        }
    }
    for name in ["h.{i}.ln_1", "h.{i}.ln_2", "ln_f", "wte", "wpe"] {
        for end in ["weight", "bias"] {
            table = table.rename(&format!("{name}.{end}"), &format!("transformer.{name}.{end}"));
        }
    }
    table
}

/// ViT as published; transformers 5 has other names in memory, which a file may hold that was not saved by its own
/// `save_pretrained`.
pub fn vit() -> Dialect {
    let mut table = Dialect::new();
    for prefix in ["", "vit."] {
        let (from, to) = (format!("{prefix}layers.{{i}}"), format!("{prefix}encoder.layer.{{i}}"));
        table = encoder_attention(table, &from, &to);
        for (new, old) in [
            ("layernorm_before", "layernorm_before"),
            ("layernorm_after", "layernorm_after"),
            ("mlp.fc1", "intermediate.dense"),
            ("mlp.fc2", "output.dense"),
        ] {
            table = table.rename(&format!("{from}.{new}.*"), &format!("{to}.{old}.*"));
        }
    }
    table
}

/// DINOv2 as published, with or without registers; see [`vit`].
pub fn dinov2() -> Dialect {
    let mut table = Dialect::new();
    for prefix in ["", "dinov2.", "dinov2_with_registers."] {
        let layer = format!("{prefix}encoder.layer.{{i}}");
        table = encoder_attention(table, &layer, &layer);
        for end in ["weight", "bias"] {
            let name = |name: &str| format!("{layer}.mlp.{name}.{end}");
            let joined = Transform::Concat { axis: 0 };
            table = table
                .rule(&[&name("gate_proj"), &name("up_proj")], &name("weights_in"), joined)
                .rename(&name("down_proj"), &name("weights_out"));
        }
    }
    table
}

/// The projections of the attention of a layer, under their published names.
fn encoder_attention(table: Dialect, from: &str, to: &str) -> Dialect {
    [
        ("q_proj", "attention.query"),
        ("k_proj", "attention.key"),
        ("v_proj", "attention.value"),
        ("o_proj", "output.dense"),
    ]
    .into_iter()
    .fold(table, |table, (new, old)| {
        table.rename(&format!("{from}.attention.{new}.*"), &format!("{to}.attention.{old}.*"))
    })
}

/// One tower of CLIP saved without the name of the tower, as transformers 5 does: `prefix` is put before every name.
pub fn clip_tower(prefix: &str) -> Dialect {
    ["embeddings", "encoder", "pre_layrnorm", "post_layernorm", "final_layer_norm"]
        .into_iter()
        .fold(Dialect::new(), |table, part| table.rename(&format!("{part}.*"), &format!("{prefix}.{part}.*")))
}

/// Autoencoders saved by old versions of diffusers: `query`, `key`, `value`, `proj_attn` → `to_q`, `to_k`, `to_v`,
/// `to_out.0`.
pub fn old_diffusers_vae() -> Dialect {
    let pairs = [("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")];
    pairs.into_iter().fold(Dialect::new(), |table, (old, new)| {
        let at = |name: &str| format!("*.mid_block.attentions.{{i}}.{name}.*");
        table.rename(&at(old), &at(new))
    })
}
