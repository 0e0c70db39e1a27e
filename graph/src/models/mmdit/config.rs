//! The `config.json` of a diffusers `SD3Transformer2DModel`.

use super::NAME;
use crate::GraphError;
use crate::models::diffusion::wrong;
use serde::Deserialize;

/// The configuration. Fields that are absent have diffusers' defaults.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The diffusers class.
    #[serde(rename = "_class_name")]
    pub class_name: Option<String>,
    /// Side of the latents of training.
    pub sample_size: usize,
    /// Side of a patch.
    pub patch_size: usize,
    /// Channels of the sample.
    pub in_channels: usize,
    /// Channels of the answer; those of the sample where null.
    pub out_channels: Option<usize>,
    /// Joint blocks.
    pub num_layers: usize,
    /// Width of a head.
    pub attention_head_dim: usize,
    /// Heads.
    pub num_attention_heads: usize,
    /// Width of `encoder_hidden_states`.
    pub joint_attention_dim: usize,
    /// Width of the text stream, which must be that of the patches.
    pub caption_projection_dim: usize,
    /// Width of `pooled_projections`.
    pub pooled_projection_dim: usize,
    /// Side of the position table, of which a picture sees the centre.
    pub pos_embed_max_size: usize,
    /// Blocks with a second attention of the patches among themselves.
    pub dual_attention_layers: Vec<usize>,
    /// `"rms_norm"` or `"layer_norm"` for normalised queries and keys.
    pub qk_norm: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            class_name: None,
            sample_size: 128,
            patch_size: 2,
            in_channels: 16,
            out_channels: Some(16),
            num_layers: 18,
            attention_head_dim: 64,
            num_attention_heads: 18,
            joint_attention_dim: 4096,
            caption_projection_dim: 1152,
            pooled_projection_dim: 2048,
            pos_embed_max_size: 96,
            dual_attention_layers: vec![],
            qk_norm: None,
        }
    }
}

impl Config {
    /// Width of both streams.
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
        if let Some(class) = &self.class_name
            && class != "SD3Transformer2DModel"
        {
            return Err(wrong(NAME, "_class_name", class, "\"SD3Transformer2DModel\""));
        }
        for (field, value, most) in [
            ("sample_size", self.sample_size, 1 << 12),
            ("patch_size", self.patch_size, 64),
            ("in_channels", self.in_channels, 1024),
            ("out_channels", self.out_channels(), 1024),
            ("num_layers", self.num_layers, 1024),
            ("attention_head_dim", self.attention_head_dim, 1024),
            ("num_attention_heads", self.num_attention_heads, 1024),
            ("joint_attention_dim", self.joint_attention_dim, 1 << 16),
            ("pooled_projection_dim", self.pooled_projection_dim, 1 << 16),
            ("pos_embed_max_size", self.pos_embed_max_size, 1 << 12),
        ] {
            if value == 0 || value > most {
                return Err(wrong(NAME, field, value, format!("a number from 1 to {most}")));
            }
        }
        if self.width() > 1 << 14 {
            let expected = "at most 16384, as num_attention_heads times attention_head_dim";
            return Err(wrong(NAME, "attention_head_dim", self.attention_head_dim, expected));
        }
        if self.caption_projection_dim != self.width() {
            let expected = format!("num_attention_heads * attention_head_dim = {}", self.width());
            return Err(wrong(NAME, "caption_projection_dim", self.caption_projection_dim, expected));
        }
        if let Some(&layer) = self.dual_attention_layers.iter().find(|&&layer| layer >= self.num_layers) {
            let expected = format!("layers below num_layers {}", self.num_layers);
            return Err(wrong(NAME, "dual_attention_layers", layer, expected));
        }
        match self.qk_norm.as_deref() {
            None | Some("rms_norm" | "layer_norm") => Ok(()),
            Some(other) => Err(wrong(NAME, "qk_norm", other, "\"rms_norm\", \"layer_norm\" or null")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_cannot_be_is_named() {
        assert_eq!(Config::default().validate(), Ok(()));
        let error = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert_eq!(
            error(|c| c.caption_projection_dim = 64),
            "mmdit: caption_projection_dim = 64: num_attention_heads * attention_head_dim = 1152"
        );
        assert!(error(|c| c.qk_norm = Some("l2".into())).contains("qk_norm = l2"));
        assert!(error(|c| c.dual_attention_layers = vec![18]).contains("below num_layers 18"));
        assert!(error(|c| c.class_name = Some("FluxTransformer2DModel".into())).contains("_class_name"));
    }
}
