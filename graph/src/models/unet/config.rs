//! The `config.json` of a diffusers `UNet2DConditionModel`. It has grown to describe many networks; what belongs to
//! others than Stable Diffusion 1 and 2 is refused by the field that asks for it.

use super::NAME;
use crate::GraphError;
use crate::models::diffusion::{PerLevel, wrong};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Bounds that keep every product of sizes within a usize.
const MAX_CHANNELS: usize = 1 << 14;
const MAX_LEVELS: usize = 10;
const MAX_DEPTH: usize = 64;

pub(super) const CROSS_DOWN: &str = "CrossAttnDownBlock2D";
pub(super) const CROSS_UP: &str = "CrossAttnUpBlock2D";
const CROSS_MID: &str = "UNetMidBlock2DCrossAttn";

/// The configuration. Fields that are absent have diffusers' defaults.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Side, or height and width, of the latents of training; any other will do.
    pub sample_size: Option<PerLevel>,
    /// Channels of the sample.
    pub in_channels: usize,
    /// Channels of the answer.
    pub out_channels: usize,
    /// Whether the sample is in [0, 1] and is brought to [-1, 1] first.
    pub center_input_sample: bool,
    /// Whether cosines come before sines in the embedding of time.
    pub flip_sin_to_cos: bool,
    /// Subtracted from the number of frequencies.
    pub freq_shift: f32,
    /// Kind of each block down: with or without cross-attention.
    pub down_block_types: Vec<String>,
    /// Kind of the middle; none where null.
    pub mid_block_type: Option<String>,
    /// Kind of each block up.
    pub up_block_types: Vec<String>,
    /// Channels of each resolution, from the full one.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of each resolution down; up there is one more.
    pub layers_per_block: PerLevel,
    /// 1: zeros on all sides before halving; 0: at the bottom and right only.
    pub downsample_padding: usize,
    /// Nonlinearity; `"silu"`.
    pub act_fn: String,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Epsilon of the residual blocks' group norms.
    pub norm_eps: f32,
    /// Width of the condition.
    pub cross_attention_dim: PerLevel,
    /// Blocks of each transformer.
    pub transformer_layers_per_block: PerLevel,
    /// Blocks of each transformer on the way up, where not those of the way down.
    pub reverse_transformer_layers_per_block: Option<Vec<usize>>,
    /// The *number* of heads: diffusers named it wrongly, and kept the name for the files that use it.
    pub attention_head_dim: PerLevel,
    /// Whether transformers begin and end with linear layers instead of 1 x 1 convolutions.
    pub use_linear_projection: bool,
    /// Width of the embedding of time; four times the first channels where absent.
    pub time_embedding_dim: Option<usize>,
    /// Side of the first convolution.
    pub conv_in_kernel: usize,
    /// Side of the last convolution.
    pub conv_out_kernel: usize,
    /// All else, of which some must be as it is in Stable Diffusion.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl Default for Config {
    fn default() -> Self {
        let blocks = |cross: &str, plain: &str| [cross, cross, cross, plain].map(String::from).to_vec();
        let mut up = blocks(CROSS_UP, "UpBlock2D");
        up.reverse();
        Config {
            sample_size: None,
            in_channels: 4,
            out_channels: 4,
            center_input_sample: false,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            down_block_types: blocks(CROSS_DOWN, "DownBlock2D"),
            mid_block_type: Some(CROSS_MID.into()),
            up_block_types: up,
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: PerLevel::All(2),
            downsample_padding: 1,
            act_fn: "silu".into(),
            norm_num_groups: 32,
            norm_eps: 1e-5,
            cross_attention_dim: PerLevel::All(1280),
            transformer_layers_per_block: PerLevel::All(1),
            reverse_transformer_layers_per_block: None,
            attention_head_dim: PerLevel::All(8),
            use_linear_projection: false,
            time_embedding_dim: None,
            conv_in_kernel: 3,
            conv_out_kernel: 3,
            other: BTreeMap::new(),
        }
    }
}

/// Fields that describe other networks, with the only value that is built here; null always is.
const FIXED: [(&str, Fixed); 24] = [
    ("_class_name", Fixed::Text("UNet2DConditionModel")),
    ("only_cross_attention", Fixed::False),
    ("mid_block_only_cross_attention", Fixed::False),
    ("mid_block_scale_factor", Fixed::One),
    ("resnet_out_scale_factor", Fixed::One),
    ("resnet_skip_time_act", Fixed::False),
    ("resnet_time_scale_shift", Fixed::Text("default")),
    ("encoder_hid_dim", Fixed::Null),
    ("encoder_hid_dim_type", Fixed::Null),
    ("num_attention_heads", Fixed::Null),
    ("dual_cross_attention", Fixed::False),
    ("class_embed_type", Fixed::Null),
    ("addition_embed_type", Fixed::Null),
    ("addition_time_embed_dim", Fixed::Null),
    ("num_class_embeds", Fixed::Null),
    ("time_embedding_type", Fixed::Text("positional")),
    ("time_embedding_act_fn", Fixed::Null),
    ("timestep_post_act", Fixed::Null),
    ("time_cond_proj_dim", Fixed::Null),
    ("projection_class_embeddings_input_dim", Fixed::Null),
    ("attention_type", Fixed::Text("default")),
    ("class_embeddings_concat", Fixed::False),
    ("cross_attention_norm", Fixed::Null),
    ("model_type", Fixed::Null),
];

enum Fixed {
    Null,
    False,
    One,
    Text(&'static str),
}

impl Config {
    /// Times that sides are halved, as a factor.
    pub(in crate::models) fn downsampling(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1)
    }

    /// Width of the condition.
    pub(in crate::models) fn context_width(&self) -> usize {
        self.cross_attention_dim.at(0)
    }

    pub(super) fn transformers_down(&self, level: usize) -> usize {
        self.transformer_layers_per_block.at(level)
    }

    /// Blocks of the transformers of the `up`-th block up, which is of level `last - up`.
    pub(super) fn transformers_up(&self, up: usize) -> usize {
        match &self.reverse_transformer_layers_per_block {
            Some(list) => list.get(up).copied().unwrap_or(0),
            None => self.transformers_down(self.block_out_channels.len() - 1 - up),
        }
    }

    /// Checks what the builder relies on.
    ///
    /// # Errors
    /// Names the field that is impossible or not supported.
    pub fn validate(&self) -> Result<(), GraphError> {
        for (field, fixed) in &FIXED {
            let value = self.other.get(*field).unwrap_or(&Value::Null);
            let (ok, expected) = match fixed {
                Fixed::Null => (false, "null".to_string()),
                Fixed::False => (*value == Value::Bool(false), "false".into()),
                Fixed::One => (value.as_f64() == Some(1.0), "1".into()),
                Fixed::Text(text) => (value.as_str() == Some(text), format!("\"{text}\"")),
            };
            if !ok && !value.is_null() {
                return Err(wrong(NAME, field, value, expected));
            }
        }
        if self.act_fn != "silu" && self.act_fn != "swish" {
            return Err(wrong(NAME, "act_fn", &self.act_fn, "\"silu\""));
        }
        let levels = self.block_out_channels.len();
        if levels == 0 || levels > MAX_LEVELS {
            let expected = format!("1 to {MAX_LEVELS} numbers");
            return Err(wrong(
                NAME,
                "block_out_channels",
                format!("{:?}", self.block_out_channels),
                expected,
            ));
        }
        for (field, types, kinds) in [
            ("down_block_types", &self.down_block_types, [CROSS_DOWN, "DownBlock2D"]),
            ("up_block_types", &self.up_block_types, [CROSS_UP, "UpBlock2D"]),
        ] {
            if types.len() != levels || types.iter().any(|t| !kinds.contains(&t.as_str())) {
                let expected = format!("{levels} of \"{}\" and \"{}\"", kinds[0], kinds[1]);
                return Err(wrong(NAME, field, format!("{types:?}"), expected));
            }
        }
        if self.mid_block_type.as_deref().is_some_and(|kind| kind != CROSS_MID) {
            let kind = self.mid_block_type.clone().unwrap_or_default();
            return Err(wrong(NAME, "mid_block_type", kind, format!("\"{CROSS_MID}\" or null")));
        }
        self.check_numbers(levels)
    }

    fn check_numbers(&self, levels: usize) -> Result<(), GraphError> {
        for (field, list) in [
            ("layers_per_block", &self.layers_per_block),
            ("cross_attention_dim", &self.cross_attention_dim),
            ("transformer_layers_per_block", &self.transformer_layers_per_block),
            ("attention_head_dim", &self.attention_head_dim),
        ] {
            let most = if field == "cross_attention_dim" { MAX_CHANNELS } else { MAX_CHANNELS.min(1024) };
            let fits = |n: usize| n >= 1 && n <= most;
            if !list.covers(levels) || !(0..levels).all(|i| fits(list.at(i))) {
                let expected =
                    format!("a number from 1 to {most}, or one for each of the {levels} block_out_channels");
                return Err(wrong(NAME, field, format!("{list:?}"), expected));
            }
        }
        if (0..levels).any(|i| self.cross_attention_dim.at(i) != self.context_width()) {
            let value = format!("{:?}", self.cross_attention_dim);
            return Err(wrong(NAME, "cross_attention_dim", value, "one width for all levels"));
        }
        for (field, list) in [
            ("layers_per_block", &self.layers_per_block),
            ("transformer_layers_per_block", &self.transformer_layers_per_block),
        ] {
            if (0..levels).any(|i| list.at(i) > MAX_DEPTH) {
                return Err(wrong(NAME, field, format!("{list:?}"), format!("at most {MAX_DEPTH}")));
            }
        }
        if let Some(list) = &self.reverse_transformer_layers_per_block
            && (list.len() != levels || list.iter().any(|&n| n == 0 || n > MAX_DEPTH))
        {
            let expected = format!("{levels} numbers from 1 to {MAX_DEPTH}");
            return Err(wrong(NAME, "reverse_transformer_layers_per_block", format!("{list:?}"), expected));
        }
        for (field, value) in [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("norm_num_groups", self.norm_num_groups),
            ("time_embedding_dim", self.time_embedding_dim.unwrap_or(1)),
        ] {
            if value == 0 || value > MAX_CHANNELS {
                return Err(wrong(NAME, field, value, format!("a number from 1 to {MAX_CHANNELS}")));
            }
        }
        for (i, &channels) in self.block_out_channels.iter().enumerate() {
            let heads = self.attention_head_dim.at(i);
            let ok = channels > 0
                && channels <= MAX_CHANNELS
                && channels.is_multiple_of(self.norm_num_groups)
                && channels.is_multiple_of(heads);
            if !ok {
                let expected = format!(
                    "a multiple of norm_num_groups {} and of the {heads} heads (attention_head_dim)",
                    self.norm_num_groups
                );
                return Err(wrong(NAME, "block_out_channels", channels, expected));
            }
        }
        if !self.block_out_channels[0].is_multiple_of(2) {
            return Err(wrong(
                NAME,
                "block_out_channels",
                self.block_out_channels[0],
                "an even first number",
            ));
        }
        for (field, kernel) in
            [("conv_in_kernel", self.conv_in_kernel), ("conv_out_kernel", self.conv_out_kernel)]
        {
            if kernel.is_multiple_of(2) || kernel > 31 {
                return Err(wrong(NAME, field, kernel, "an odd number up to 31"));
            }
        }
        if self.downsample_padding > 1 {
            return Err(wrong(NAME, "downsample_padding", self.downsample_padding, "0 or 1"));
        }
        if !(self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            return Err(wrong(NAME, "norm_eps", self.norm_eps, "a small positive number"));
        }
        let half = (self.block_out_channels[0] / 2) as f32;
        if !(self.freq_shift >= 0.0 && self.freq_shift < half) {
            return Err(wrong(NAME, "freq_shift", self.freq_shift, format!("from 0 to below {half}")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_network_is_not_built_for_is_refused_by_name() {
        assert_eq!(Config::default().validate(), Ok(()));
        let error =
            |json: &str| serde_json::from_str::<Config>(json).unwrap().validate().unwrap_err().to_string();
        let sdxl = error(r#"{"addition_embed_type": "text_time"}"#);
        assert_eq!(sdxl, "unet: addition_embed_type = \"text_time\": null");
        assert!(error(r#"{"_class_name": "UNet2DModel"}"#).contains("\"UNet2DConditionModel\""));
        assert!(error(r#"{"attention_head_dim": 7}"#).contains("the 7 heads"));
        assert!(error(r#"{"layers_per_block": [1, 2]}"#).contains("each of the 4"));
        assert!(error(r#"{"down_block_types": ["AttnDownBlock2D"]}"#).contains("down_block_types"));
        assert!(error(r#"{"block_out_channels": []}"#).contains("block_out_channels"));
    }
}
