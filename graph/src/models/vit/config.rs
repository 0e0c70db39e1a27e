//! The `config.json` of transformers' ViT, and what sizes may be.

use super::parts::{Size, activation, bounded, epsilon, heads, wrong};
use crate::GraphError;
use serde::Deserialize;

/// transformers' `ViTConfig`: fields that are absent have its defaults; those that do not matter here are passed over.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct Config {
    /// `"vit"`.
    pub model_type: String,
    /// Width.
    pub hidden_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Heads of each attention.
    pub num_attention_heads: usize,
    /// Width of each layer's hidden layer.
    pub intermediate_size: usize,
    /// Its nonlinearity.
    pub hidden_act: String,
    /// Epsilon of every layer norm.
    pub layer_norm_eps: f32,
    /// Pixels of the pictures that the position table is for.
    pub image_size: Size,
    /// Pixels of a patch.
    pub patch_size: Size,
    /// Channels of a picture.
    pub num_channels: usize,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Width of the pooler; the model's where absent.
    pub pooler_output_size: Option<usize>,
    /// The pooler's nonlinearity.
    pub pooler_act: String,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            model_type: "vit".into(),
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: "gelu".into(),
            layer_norm_eps: 1e-12,
            image_size: Size::Side(224),
            patch_size: Size::Side(16),
            num_channels: 3,
            qkv_bias: true,
            pooler_output_size: None,
            pooler_act: "tanh".into(),
        }
    }
}

impl Config {
    /// Checks what the builder relies on, pictures aside.
    pub fn validate(&self) -> Result<(), GraphError> {
        if self.model_type != "vit" {
            return Err(wrong("vit", "model_type", &self.model_type, "\"vit\""));
        }
        bounded(
            "vit",
            &[
                ("hidden_size", self.hidden_size, 1 << 16),
                ("num_hidden_layers", self.num_hidden_layers, 1 << 10),
                ("num_attention_heads", self.num_attention_heads, 1 << 16),
                ("intermediate_size", self.intermediate_size, 1 << 18),
                ("pooler_output_size", self.pooler_output_size.unwrap_or(1), 1 << 18),
            ],
        )?;
        heads("vit", self.hidden_size, self.num_attention_heads)?;
        epsilon("vit", self.layer_norm_eps)?;
        activation("vit", "pooler_act", &self.pooler_act)?;
        activation("vit", "hidden_act", &self.hidden_act).map(|_| ())
    }
}
