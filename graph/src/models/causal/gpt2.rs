//! GPT-2 (Radford et al., 2019), with the tensor names and the configuration of Hugging Face Transformers. Its
//! `Conv1D` layers store weights as `[in, out]`; here they are `[out, in]`, which the loader's table turns.

use super::llama::Ids;
use super::{MAX_CONTEXT, MAX_LAYERS, MAX_VOCABULARY, MAX_WIDTH, Rows, in_range, wrong};
use crate::models::vit::parts::activation;
use crate::{Builder, CachedHeads, GraphError, Tensor};
use serde::Deserialize;

/// `config.json`. Fields that are absent have the reference's defaults; those that do not matter here are passed over.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct Config {
    /// `gpt2`.
    pub model_type: String,
    /// Number of ids.
    pub vocab_size: usize,
    /// Tokens that it was made for: rows of the position table.
    pub n_positions: usize,
    /// Width.
    pub n_embd: usize,
    /// Blocks.
    pub n_layer: usize,
    /// Heads.
    pub n_head: usize,
    /// Width of the MLP; `4 n_embd` where absent.
    pub n_inner: Option<usize>,
    /// Nonlinearity.
    pub activation_function: String,
    /// Added to variances.
    pub layer_norm_epsilon: f32,
    /// Whether scores are scaled by `head_dim^-1/2`.
    pub scale_attn_weights: bool,
    /// Whether scores are divided by the layer's number too.
    pub scale_attn_by_inverse_layer_idx: bool,
    /// Whether the head's weight is the embedding's.
    pub tie_word_embeddings: bool,
    /// Last ids, where the configuration says them.
    pub eos_token_id: Option<Ids>,
    /// Id that begins a text.
    pub bos_token_id: Option<u32>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            model_type: "gpt2".into(),
            vocab_size: 50257,
            n_positions: 1024,
            n_embd: 768,
            n_layer: 12,
            n_head: 12,
            n_inner: None,
            activation_function: "gelu_new".into(),
            layer_norm_epsilon: 1e-5,
            scale_attn_weights: true,
            scale_attn_by_inverse_layer_idx: false,
            tie_word_embeddings: true,
            eos_token_id: None,
            bos_token_id: None,
        }
    }
}

impl Config {
    fn inner(&self) -> usize {
        self.n_inner.unwrap_or(4 * self.n_embd)
    }

    /// Checks what the builder relies on.
    ///
    /// # Errors
    /// The first field that is wrong, and what would be right.
    pub fn validate(&self) -> Result<(), GraphError> {
        let model = "gpt2";
        if self.model_type != model {
            return Err(wrong(model, "model_type", &self.model_type, "\"gpt2\""));
        }
        in_range(
            model,
            &[
                ("vocab_size", self.vocab_size, MAX_VOCABULARY),
                ("n_positions", self.n_positions, MAX_CONTEXT),
                ("n_embd", self.n_embd, MAX_WIDTH),
                ("n_layer", self.n_layer, MAX_LAYERS),
                ("n_head", self.n_head, MAX_WIDTH),
                ("n_inner", self.inner(), MAX_WIDTH << 2),
            ],
        )?;
        if !self.n_embd.is_multiple_of(self.n_head) {
            return Err(wrong(model, "n_embd", self.n_embd, format!("a multiple of n_head {}", self.n_head)));
        }
        activation(model, "activation_function", &self.activation_function)?;
        if !(self.layer_norm_epsilon >= 0.0 && self.layer_norm_epsilon.is_finite()) {
            let value = self.layer_norm_epsilon;
            return Err(wrong(model, "layer_norm_epsilon", value, "a small positive number"));
        }
        Ok(())
    }

    /// Factor on the scores of a layer.
    fn scale(&self, layer: usize) -> f32 {
        let head_dim = (self.n_embd / self.n_head) as f64;
        let own = if self.scale_attn_weights { head_dim.powf(-0.5) } else { 1.0 };
        let number = if self.scale_attn_by_inverse_layer_idx { layer as f64 + 1.0 } else { 1.0 };
        (own / number) as f32
    }
}

/// Embeddings, blocks, norm and head: `logits [Q, V]`.
pub(super) fn network<'g>(
    g: &'g Builder,
    config: &Config,
    rows: &Rows<'g>,
) -> Result<Tensor<'g>, GraphError> {
    let (width, eps) = (config.n_embd, config.layer_norm_epsilon);
    let act = activation("gpt2", "activation_function", &config.activation_function)?;
    let mut embedding = None;
    let last = g.scope("transformer", || {
        let tokens = g.weight("wte.weight", [config.vocab_size, width]);
        embedding = Some(tokens);
        let positions = g.weight("wpe.weight", [config.n_positions, width]);
        let mut x = tokens.embed(rows.ids) + positions.embed(rows.angle);
        for layer in 0..config.n_layer {
            g.scope(format!("h.{layer}"), || {
                let qkv = x.layer_norm("ln_1", eps).linear("attn.c_attn", 3 * width).split();
                let (heads, scale) = (config.n_head, Some(config.scale(layer)));
                let heads = CachedHeads { heads, kv_heads: heads, scale, window: None };
                let attended = rows.attend(layer, qkv, heads);
                x = x + attended.linear("attn.c_proj", width);
                let h = x.layer_norm("ln_2", eps).linear("mlp.c_fc", config.inner()).act(act);
                x = x + h.linear("mlp.c_proj", width);
            });
        }
        rows.wanted(x).layer_norm("ln_f", eps)
    });
    Ok(match embedding.filter(|_| config.tie_word_embeddings) {
        Some(embedding) => last.linear_with(embedding, None),
        None => last.linear_no_bias("lm_head", config.vocab_size),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_that_cannot_be_is_refused_by_field() {
        let error = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert!(error(|c| c.n_head = 7).contains("n_embd = 768: a multiple of n_head 7"));
        assert!(error(|c| c.activation_function = "mish".into()).contains("activation_function = mish"));
    }

    #[test]
    fn scores_are_scaled_as_the_configuration_says() {
        let config = Config { scale_attn_by_inverse_layer_idx: true, ..Config::default() };
        assert_eq!([config.scale(0), config.scale(3)], [0.125, 0.03125]);
        assert_eq!(Config { scale_attn_weights: false, ..config }.scale(1), 0.5);
    }
}
