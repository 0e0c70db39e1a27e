//! The name tables that are known: GGUF's short names, and what diffusers called attention before version 0.18.

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

/// Autoencoders saved by old versions of diffusers: `query`, `key`, `value`, `proj_attn` → `to_q`, `to_k`, `to_v`,
/// `to_out.0`.
pub fn old_diffusers_vae() -> Dialect {
    let pairs = [("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")];
    pairs.into_iter().fold(Dialect::new(), |table, (old, new)| {
        let at = |name: &str| format!("*.mid_block.attentions.{{i}}.{name}.*");
        table.rename(&at(old), &at(new))
    })
}
