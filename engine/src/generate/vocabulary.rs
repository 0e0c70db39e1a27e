//! The tokenizer that a GGUF file carries (`tokenizer.ggml.*`), written as the `tokenizer.json` that the `tokenizers`
//! library reads.
//!
//! Two kinds are known. `gpt2` is byte-level BPE with its merges; how text is cut before merging is named by
//! `tokenizer.ggml.pre`. `llama` is SentencePiece: its merges are found again from the vocabulary and its scores, as
//! Transformers' converter does.

use selftok_loader::Metadata;
use serde_json::{Value, json};
use std::collections::HashMap;

/// Kinds of token that `tokenizer.ggml.token_type` knows.
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// `tokenizer.json`, and the id to put before every text. The error says what is missing or not known.
pub(super) fn tokenizer_json(metadata: Metadata<'_>) -> Result<(Value, Option<u32>), String> {
    let list = |key: &str| metadata.array(key).ok_or_else(|| format!("`{key}` is missing"));
    let tokens: Vec<&str> =
        list("tokenizer.ggml.tokens")?.iter().map(|token| token.as_str().unwrap_or("")).collect();
    let types: Vec<i64> = match metadata.array("tokenizer.ggml.token_type") {
        Some(types) => types.iter().map(|t| t.as_f64().map_or(1, |t| t as i64)).collect(),
        None => vec![1; tokens.len()],
    };
    if types.len() != tokens.len() {
        return Err(format!("{} token types for {} tokens", types.len(), tokens.len()));
    }
    let kind = metadata.str("tokenizer.ggml.model").ok_or("`tokenizer.ggml.model` is missing")?;
    let mut json = match kind {
        "gpt2" => byte_level(metadata, &tokens)?,
        "llama" => sentence_piece(metadata, &tokens, &types)?,
        _ => return Err(format!("`tokenizer.ggml.model` is `{kind}`: `gpt2` and `llama` are known")),
    };
    let added = tokens
        .iter()
        .zip(&types)
        .enumerate()
        .filter(|(_, (_, kind))| matches!(**kind, UNKNOWN | CONTROL | USER_DEFINED));
    json["added_tokens"] = added
        .map(|(id, (token, kind))| {
            json!({ "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": *kind != USER_DEFINED })
        })
        .collect();
    // As llama.cpp has it where the file does not say.
    let begins = kind == "llama" || metadata.str("tokenizer.ggml.pre").is_some_and(is_llama3);
    let first = metadata.bool("tokenizer.ggml.add_bos_token").unwrap_or(begins);
    let id = metadata.u64("tokenizer.ggml.bos_token_id").and_then(|id| u32::try_from(id).ok());
    if let Some(id) = id.filter(|&id| id as usize >= tokens.len()) {
        return Err(format!("`tokenizer.ggml.bos_token_id` is {id}, there are {} tokens", tokens.len()));
    }
    Ok((json, id.filter(|_| first)))
}

fn ids(tokens: &[&str]) -> Value {
    tokens
        .iter()
        .enumerate()
        .map(|(id, token)| (token.to_string(), json!(id)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Whether text is cut as for Llama 3, whose texts begin with a token of their own.
fn is_llama3(pre: &str) -> bool {
    matches!(pre, "llama3" | "llama-v3" | "llama-bpe")
}

/// Byte-level BPE.
fn byte_level(metadata: Metadata<'_>, tokens: &[&str]) -> Result<Value, String> {
    let merges = metadata.array("tokenizer.ggml.merges").ok_or("`tokenizer.ggml.merges` is missing")?;
    let merges: Vec<Value> = merges.iter().map(|merge| json!(merge.as_str().unwrap_or(""))).collect();
    let pre = metadata.str("tokenizer.ggml.pre").unwrap_or("default");
    let bytes = |regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex });
    let split = |pattern: &str| json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false });
    let sequence = |parts: Vec<Value>| json!({ "type": "Sequence", "pretokenizers": parts });
    let words = |digits: &str| {
        split(&format!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ))
    };
    let pre_tokenizer = match pre {
        "default" | "gpt-2" | "gpt2" | "phi-2" | "mpt" | "olmo" => bytes(true),
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" => {
            sequence(vec![json!({ "type": "Digits", "individual_digits": true }), bytes(true)])
        }
        _ if is_llama3(pre) => sequence(vec![words(r"\p{N}{1,3}"), bytes(false)]),
        "qwen2" | "deepseek-r1-qwen" => sequence(vec![words(r"\p{N}"), bytes(false)]),
        _ => {
            return Err(format!(
                "`tokenizer.ggml.pre` is `{pre}`: `default`, `gpt-2`, `smollm`, `llama-bpe` and `qwen2` are known"
            ));
        }
    };
    // Qwen's text is composed before it is cut.
    let normalizer =
        if matches!(pre, "qwen2" | "deepseek-r1-qwen") { json!({ "type": "NFC" }) } else { Value::Null };
    Ok(json!({
        "version": "1.0", "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
        "post_processor": null, "decoder": bytes(true), "added_tokens": [],
        "model": { "type": "BPE", "vocab": ids(tokens), "merges": merges, "byte_fallback": false,
                   "fuse_unk": false, "ignore_merges": is_llama3(pre) }
    }))
}

/// SentencePiece BPE: pieces with scores, bytes for what is in no piece.
fn sentence_piece(metadata: Metadata<'_>, tokens: &[&str], types: &[i64]) -> Result<Value, String> {
    let scores = metadata.array("tokenizer.ggml.scores").ok_or("`tokenizer.ggml.scores` is missing")?;
    let scores: Vec<f64> = scores.iter().map(|score| score.as_f64().unwrap_or(0.0)).collect();
    if scores.len() != tokens.len() {
        return Err(format!("{} scores for {} tokens", scores.len(), tokens.len()));
    }
    let known: HashMap<&str, usize> = tokens.iter().enumerate().map(|(id, token)| (*token, id)).collect();
    // Every way to put a piece together; the better the piece, the earlier the merge.
    let mut merges: Vec<(f64, usize, usize, &str, &str)> = Vec::new();
    for (id, token) in tokens.iter().enumerate().filter(|(id, _)| types[*id] == 1) {
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(&l), Some(&r)) = (known.get(left), known.get(right)) {
                merges.push((scores[id], l, r, left, right));
            }
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let merges: Vec<Value> = merges.into_iter().map(|(_, _, _, left, right)| json!([left, right])).collect();
    let unknown = types.iter().position(|&kind| kind == UNKNOWN).map(|id| tokens[id]);
    let prefix = metadata.bool("tokenizer.ggml.add_space_prefix").unwrap_or(true);
    let mut normalizers = vec![];
    if prefix {
        normalizers.push(json!({ "type": "Prepend", "prepend": "▁" }));
    }
    normalizers.push(json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" }));
    let mut decoders = vec![
        json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if prefix {
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    Ok(json!({
        "version": "1.0", "normalizer": { "type": "Sequence", "normalizers": normalizers },
        "pre_tokenizer": null, "post_processor": null,
        "decoder": { "type": "Sequence", "decoders": decoders }, "added_tokens": [],
        "model": { "type": "BPE", "vocab": ids(tokens), "merges": merges, "unk_token": unknown,
                   "byte_fallback": true, "fuse_unk": true }
    }))
}
