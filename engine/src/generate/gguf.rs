//! The configuration of a causal transformer from the metadata of a GGUF file.

use crate::Error;
use selftok_graph::models::causal::{Config, RopeScaling, llama};
use selftok_loader::{Error as LoaderError, Metadata, TensorSource, Weights, dialects};
use std::path::Path;
use std::sync::Arc;

/// The configuration, and the tensors under Hugging Face's names.
pub(super) fn open(path: &Path, file: &Arc<Weights>) -> Result<(Config, Arc<dyn TensorSource>), Error> {
    let bad = |what: String| Error::from(LoaderError::config(path, what));
    let metadata = file.gguf().ok_or_else(|| bad("not a GGUF file".into()))?;
    let architecture = metadata.str("general.architecture").unwrap_or("");
    if !matches!(architecture, "llama" | "qwen2" | "qwen3") {
        let what = format!("general.architecture `{architecture}` is not known: llama, qwen2 and qwen3 are");
        return Err(bad(what));
    }
    let config = config(metadata, architecture, file).map_err(bad)?;
    config.validate()?;
    let table = dialects::gguf(architecture, config.num_attention_heads, config.kv_heads());
    let weights = table.apply(Arc::clone(file) as Arc<dyn TensorSource>)?;
    Ok((Config::Llama(Box::new(config)), Arc::new(weights)))
}

fn config(metadata: Metadata<'_>, architecture: &str, file: &Weights) -> Result<llama::Config, String> {
    let key = |name: &str| format!("{architecture}.{name}");
    let number = |name: &str| metadata.u64(&key(name)).and_then(|n| usize::try_from(n).ok());
    let required =
        |name: &str| number(name).ok_or_else(|| format!("`{}` is missing or no number", key(name)));
    let heads = required("attention.head_count")?;
    let width = required("embedding_length")?;
    let vocab_size = match file.get("token_embd.weight").map(|tensor| tensor.shape) {
        Some(&[vocabulary, _]) => vocabulary,
        _ => return Err("`token_embd.weight` is missing or no matrix".into()),
    };
    let head_dim = number("attention.key_length");
    let each = head_dim.unwrap_or(width.checked_div(heads).unwrap_or(0));
    for (name, expected) in [("rope.dimension_count", each), ("attention.value_length", each)] {
        if let Some(found) = number(name).filter(|&found| found != expected) {
            return Err(format!(
                "`{}` is {found}: only {expected}, the size of a head, is supported",
                key(name)
            ));
        }
    }
    if let Some(experts) = number("expert_count").filter(|&n| n > 0) {
        return Err(format!("`{}` is {experts}: mixtures of experts are not supported", key("expert_count")));
    }
    Ok(llama::Config {
        model_type: architecture.into(),
        vocab_size,
        hidden_size: width,
        intermediate_size: required("feed_forward_length")?,
        num_hidden_layers: required("block_count")?,
        num_attention_heads: heads,
        num_key_value_heads: number("attention.head_count_kv"),
        head_dim,
        max_position_embeddings: required("context_length")?,
        rms_norm_eps: metadata
            .f64(&key("attention.layer_norm_rms_epsilon"))
            .ok_or_else(|| format!("`{}` is missing", key("attention.layer_norm_rms_epsilon")))?
            as f32,
        rope_theta: metadata.f64(&key("rope.freq_base")).unwrap_or(10000.0),
        rope_scaling: scaling(metadata, &key, file)?,
        tie_word_embeddings: file.get("output.weight").is_none(),
        ..llama::Config::default()
    })
}

/// The scaling of the rotary frequencies: by name, or by a factor for each frequency, which is how llama.cpp keeps Llama
/// 3's.
fn scaling(
    metadata: Metadata<'_>,
    key: &dyn Fn(&str) -> String,
    file: &Weights,
) -> Result<Option<RopeScaling>, String> {
    let mut scaling = RopeScaling {
        rope_type: metadata.str(&key("rope.scaling.type")).filter(|kind| *kind != "none").map(String::from),
        factor: metadata.f64(&key("rope.scaling.factor")),
        original_max_position_embeddings: metadata.f64(&key("rope.scaling.original_context_length")),
        ..RopeScaling::default()
    };
    if let Some(tensor) = file.get("rope_freqs.weight") {
        let mut factors = vec![0.0; tensor.numel()];
        tensor.to_f32_into(0..factors.len(), &mut factors).map_err(|e| e.to_string())?;
        scaling.frequency_factors = Some(factors);
    }
    let plain = scaling.rope_type.is_none() && scaling.frequency_factors.is_none();
    Ok((!plain).then_some(scaling))
}
