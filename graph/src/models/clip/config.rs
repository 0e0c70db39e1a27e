//! The configurations of transformers' CLIP: one for each tower, and one for both.

use crate::GraphError;
use crate::models::vit::Size;
use crate::models::vit::parts::{activation, bounded, epsilon, heads, wrong};
use serde::Deserialize;

/// transformers' `CLIPVisionConfig`: fields that are absent have its defaults.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct VisionConfig {
    /// Width.
    pub hidden_size: usize,
    /// Width of each layer's hidden layer.
    pub intermediate_size: usize,
    /// Width of the embedding that pictures and texts share.
    pub projection_dim: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Heads of each attention.
    pub num_attention_heads: usize,
    /// Channels of a picture.
    pub num_channels: usize,
    /// Pixels of the pictures that the position table is for.
    pub image_size: Size,
    /// Pixels of a patch.
    pub patch_size: Size,
    /// Nonlinearity of each layer's hidden layer.
    pub hidden_act: String,
    /// Epsilon of every layer norm.
    pub layer_norm_eps: f32,
}

impl Default for VisionConfig {
    fn default() -> Self {
        VisionConfig {
            hidden_size: 768,
            intermediate_size: 3072,
            projection_dim: 512,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: Size::Side(224),
            patch_size: Size::Side(32),
            hidden_act: "quick_gelu".into(),
            layer_norm_eps: 1e-5,
        }
    }
}

/// transformers' `CLIPTextConfig`: fields that are absent have its defaults.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct TextConfig {
    /// Ids.
    pub vocab_size: usize,
    /// Width.
    pub hidden_size: usize,
    /// Width of each layer's hidden layer.
    pub intermediate_size: usize,
    /// Width of the embedding that pictures and texts share.
    pub projection_dim: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Heads of each attention.
    pub num_attention_heads: usize,
    /// Most ids of a text.
    pub max_position_embeddings: usize,
    /// Nonlinearity of each layer's hidden layer.
    pub hidden_act: String,
    /// Epsilon of every layer norm.
    pub layer_norm_eps: f32,
    /// The id that ends a text. The first released models have 2 here, which is wrong; see [`TextConfig::end`].
    pub eos_token_id: i64,
}

impl Default for TextConfig {
    fn default() -> Self {
        TextConfig {
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            projection_dim: 512,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: "quick_gelu".into(),
            layer_norm_eps: 1e-5,
            eos_token_id: 49407,
        }
    }
}

/// transformers' `CLIPConfig`: both towers.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The pictures' tower.
    pub vision_config: VisionConfig,
    /// The texts' tower.
    pub text_config: TextConfig,
    /// Width of the embedding that both share; 512 where absent. It is that of the whole, whatever the towers' own
    /// configurations say.
    pub projection_dim: Option<usize>,
}

impl Config {
    /// The two towers, with the width of the whole.
    pub fn towers(mut self) -> (VisionConfig, TextConfig) {
        let width = self.projection_dim.unwrap_or(512);
        self.vision_config.projection_dim = width;
        self.text_config.projection_dim = width;
        (self.vision_config, self.text_config)
    }
}

/// What both towers are made of.
pub(super) struct Tower<'a> {
    pub model: &'static str,
    pub width: usize,
    pub hidden: usize,
    pub projection: usize,
    pub layers: usize,
    pub heads: usize,
    pub act: &'a str,
    pub eps: f32,
}

impl Tower<'_> {
    pub fn validate(&self) -> Result<(), GraphError> {
        bounded(
            self.model,
            &[
                ("hidden_size", self.width, 1 << 16),
                ("intermediate_size", self.hidden, 1 << 18),
                ("projection_dim", self.projection, 1 << 16),
                ("num_hidden_layers", self.layers, 1 << 10),
                ("num_attention_heads", self.heads, 1 << 16),
            ],
        )?;
        heads(self.model, self.width, self.heads)?;
        epsilon(self.model, self.eps)?;
        activation(self.model, "hidden_act", self.act).map(|_| ())
    }
}

impl VisionConfig {
    pub(super) fn tower(&self) -> Tower<'_> {
        Tower {
            model: "clip_vision",
            width: self.hidden_size,
            hidden: self.intermediate_size,
            projection: self.projection_dim,
            layers: self.num_hidden_layers,
            heads: self.num_attention_heads,
            act: &self.hidden_act,
            eps: self.layer_norm_eps,
        }
    }
}

impl TextConfig {
    pub(super) fn tower(&self) -> Tower<'_> {
        Tower {
            model: "clip_text",
            width: self.hidden_size,
            hidden: self.intermediate_size,
            projection: self.projection_dim,
            layers: self.num_hidden_layers,
            heads: self.num_attention_heads,
            act: &self.hidden_act,
            eps: self.layer_norm_eps,
        }
    }

    /// Checks the sizes that only texts have.
    pub(super) fn validate(&self) -> Result<(), GraphError> {
        self.tower().validate()?;
        let (vocab, length) = (self.vocab_size, self.max_position_embeddings);
        bounded(
            "clip_text",
            &[("vocab_size", vocab, 1 << 24), ("max_position_embeddings", length, 1 << 20)],
        )?;
        if self.eos_token_id < 0 {
            return Err(wrong("clip_text", "eos_token_id", self.eos_token_id, "an id"));
        }
        Ok(())
    }

    /// Where a text ends, as transformers finds it: at the first `eos_token_id`, or at the start where there is none. A
    /// configuration with the id 2 is from before that id was corrected; there the highest id ends a text.
    pub fn end(&self, ids: &[i64]) -> usize {
        let end = if self.eos_token_id == 2 {
            let highest = ids.iter().max();
            ids.iter().position(|id| Some(id) == highest)
        } else {
            ids.iter().position(|&id| id == self.eos_token_id)
        };
        end.unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_ends_where_transformers_has_it() {
        let mut config = TextConfig::default();
        assert_eq!(config.end(&[49406, 5, 49407, 49407]), 2);
        assert_eq!(config.end(&[49406, 5, 6, 7]), 0);
        config.eos_token_id = 2;
        assert_eq!(config.end(&[9, 2, 30, 4, 30]), 2);
    }

    #[test]
    fn the_width_of_the_whole_is_that_of_both_towers() {
        let config = Config { projection_dim: Some(768), ..Config::default() };
        let (vision, text) = config.towers();
        assert_eq!((vision.projection_dim, text.projection_dim), (768, 768));
    }
}
