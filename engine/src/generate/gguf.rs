//! The configuration of a causal transformer from the metadata of a GGUF file.

use crate::Error;
use selftok_graph::models::causal::{Config, RopeScaling, gpt2, llama};
use selftok_loader::{Error as LoaderError, Metadata, TensorSource, Weights, dialects};
use std::path::Path;
use std::sync::Arc;

/// The configuration, and the tensors under Hugging Face's names.
pub(super) fn open(path: &Path, file: &Arc<Weights>) -> Result<(Config, Arc<dyn TensorSource>), Error> {
    let bad = |what: String| Error::from(LoaderError::config(path, what));
    let metadata = file.gguf().ok_or_else(|| bad("not a GGUF file".into()))?;
    let architecture = metadata.str("general.architecture").unwrap_or("");
    let keys = Keys { metadata, architecture };
    let (config, table) = match architecture {
        "llama" | "qwen2" | "qwen3" => {
            let config = llama(&keys, file).map_err(bad)?;
            config.validate().map_err(|error| bad(error.to_string()))?;
            let table = dialects::gguf(architecture, config.num_attention_heads, config.kv_heads());
            (Config::Llama(Box::new(config)), table)
        }
        "gpt2" => {
            let config = gpt2(&keys, file).map_err(bad)?;
            config.validate().map_err(|error| bad(error.to_string()))?;
            (Config::Gpt2(config), dialects::gguf_gpt2())
        }
        _ => {
            let known = "llama (Mistral too), qwen2, qwen3 and gpt2 are";
            return Err(bad(format!("general.architecture `{architecture}` is not known: {known}")));
        }
    };
    let weights = table.apply(Arc::clone(file) as Arc<dyn TensorSource>)?;
    Ok((config, Arc::new(weights)))
}

/// The metadata of one architecture, whose keys begin with its name.
struct Keys<'a> {
    metadata: Metadata<'a>,
    architecture: &'a str,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn number(&self, name: &str) -> Option<usize> {
        self.metadata.u64(&self.key(name)).and_then(|n| usize::try_from(n).ok())
    }

    fn required(&self, name: &str) -> Result<usize, String> {
        self.number(name).ok_or_else(|| format!("`{}` is missing or no number", self.key(name)))
    }

    fn epsilon(&self, name: &str) -> Result<f32, String> {
        let value = self.metadata.f64(&self.key(name));
        value.map(|x| x as f32).ok_or_else(|| format!("`{}` is missing or no number", self.key(name)))
    }
}

fn vocabulary(file: &Weights) -> Result<usize, String> {
    match file.get("token_embd.weight").map(|tensor| tensor.shape) {
        Some(&[vocabulary, _]) => Ok(vocabulary),
        _ => Err("`token_embd.weight` is missing or no matrix".into()),
    }
}

fn gpt2(keys: &Keys<'_>, file: &Weights) -> Result<gpt2::Config, String> {
    Ok(gpt2::Config {
        vocab_size: vocabulary(file)?,
        n_positions: keys.required("context_length")?,
        n_embd: keys.required("embedding_length")?,
        n_layer: keys.required("block_count")?,
        n_head: keys.required("attention.head_count")?,
        n_inner: keys.number("feed_forward_length"),
        layer_norm_epsilon: keys.epsilon("attention.layer_norm_epsilon")?,
        tie_word_embeddings: file.get("output.weight").is_none(),
        ..gpt2::Config::default()
    })
}

fn llama(keys: &Keys<'_>, file: &Weights) -> Result<llama::Config, String> {
    let Keys { metadata, architecture } = *keys;
    let key = |name: &str| keys.key(name);
    let number = |name: &str| keys.number(name);
    let required = |name: &str| keys.required(name);
    let heads = required("attention.head_count")?;
    let width = required("embedding_length")?;
    let vocab_size = vocabulary(file)?;
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
        head_dim: Some(each),
        max_position_embeddings: required("context_length")?,
        rms_norm_eps: keys.epsilon("attention.layer_norm_rms_epsilon")?,
        rope_theta: metadata.f64(&key("rope.freq_base")).unwrap_or(10000.0),
        rope_scaling: scaling(metadata, &key, file)?,
        tie_word_embeddings: file.get("output.weight").is_none(),
        attention_bias: file.get("blk.0.attn_q.bias").is_some(),
        mlp_bias: file.get("blk.0.ffn_gate.bias").is_some(),
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
