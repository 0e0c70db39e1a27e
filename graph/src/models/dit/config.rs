//! The `config.json` of a diffusers `DiTTransformer2DModel`.

use super::NAME;
use crate::GraphError;
use crate::models::diffusion::wrong;
use serde::Deserialize;

/// The configuration. Fields that are absent have diffusers' defaults.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The diffusers class; older files call it `Transformer2DModel`.
    #[serde(rename = "_class_name")]
    pub class_name: Option<String>,
    /// Heads.
    pub num_attention_heads: usize,
    /// Width of a head.
    pub attention_head_dim: usize,
    /// Channels of the sample.
    pub in_channels: usize,
    /// Channels of the answer: twice as many where a variance is predicted; those of the sample where absent.
    pub out_channels: Option<usize>,
    /// Blocks.
    pub num_layers: usize,
    /// Whether queries, keys and values have a bias.
    pub attention_bias: bool,
    /// Side of the latents of training.
    pub sample_size: usize,
    /// Side of a patch.
    pub patch_size: usize,
    /// `"gelu-approximate"` or `"gelu"`.
    pub activation_fn: String,
    /// Classes.
    pub num_embeds_ada_norm: Option<usize>,
    /// `"ada_norm_zero"`.
    pub norm_type: String,
    /// Whether the second norm of a block has weights.
    pub norm_elementwise_affine: bool,
    /// Epsilon of the second norm of a block.
    pub norm_eps: f32,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            class_name: None,
            num_attention_heads: 16,
            attention_head_dim: 72,
            in_channels: 4,
            out_channels: None,
            num_layers: 28,
            attention_bias: true,
            sample_size: 32,
            patch_size: 2,
            activation_fn: "gelu-approximate".into(),
            num_embeds_ada_norm: Some(1000),
            norm_type: "ada_norm_zero".into(),
            norm_elementwise_affine: false,
            norm_eps: 1e-5,
        }
    }
}

impl Config {
    /// Width of the stream.
    pub(super) fn width(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }

    /// Channels of the answer.
    pub(in crate::models) fn out_channels(&self) -> usize {
        self.out_channels.unwrap_or(self.in_channels)
    }

    /// Checks what the builder relies on.
    ///
    /// # Errors
    /// Names the field that is impossible or not supported.
    pub fn validate(&self) -> Result<(), GraphError> {
        let known = ["DiTTransformer2DModel", "Transformer2DModel"];
        if let Some(class) = &self.class_name
            && !known.contains(&class.as_str())
        {
            return Err(wrong(NAME, "_class_name", class, format!("\"{}\"", known[0])));
        }
        for (field, value, most) in [
            ("num_attention_heads", self.num_attention_heads, 1024),
            ("attention_head_dim", self.attention_head_dim, 1024),
            ("in_channels", self.in_channels, 1024),
            ("out_channels", self.out_channels(), 1024),
            ("num_layers", self.num_layers, 1024),
            ("sample_size", self.sample_size, 1 << 12),
            ("patch_size", self.patch_size, 64),
        ] {
            if value == 0 || value > most {
                return Err(wrong(NAME, field, value, format!("a number from 1 to {most}")));
            }
        }
        if self.width() > 1 << 14 || !self.width().is_multiple_of(4) {
            let expected = "a multiple of 4 up to 16384, as num_attention_heads times attention_head_dim";
            return Err(wrong(NAME, "attention_head_dim", self.attention_head_dim, expected));
        }
        if !self.sample_size.is_multiple_of(self.patch_size) {
            let expected = format!("a multiple of patch_size {}", self.patch_size);
            return Err(wrong(NAME, "sample_size", self.sample_size, expected));
        }
        if !["gelu-approximate", "gelu"].contains(&self.activation_fn.as_str()) {
            let expected = "\"gelu-approximate\" or \"gelu\"";
            return Err(wrong(NAME, "activation_fn", &self.activation_fn, expected));
        }
        if self.norm_type != "ada_norm_zero" {
            return Err(wrong(NAME, "norm_type", &self.norm_type, "\"ada_norm_zero\""));
        }
        match self.num_embeds_ada_norm {
            Some(1..=1_000_000) => {}
            other => {
                return Err(wrong(NAME, "num_embeds_ada_norm", format!("{other:?}"), "a number of classes"));
            }
        }
        if !(self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            return Err(wrong(NAME, "norm_eps", self.norm_eps, "a small positive number"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_cannot_be_is_named() {
        assert_eq!(Config::default().validate(), Ok(()));
        let error =
            |json: &str| serde_json::from_str::<Config>(json).unwrap().validate().unwrap_err().to_string();
        assert_eq!(
            error(r#"{"norm_type": "ada_norm_single"}"#),
            "dit: norm_type = ada_norm_single: \"ada_norm_zero\""
        );
        assert!(error(r#"{"_class_name": "PixArtTransformer2DModel"}"#).contains("_class_name"));
        assert!(error(r#"{"num_embeds_ada_norm": null}"#).contains("a number of classes"));
    }
}
