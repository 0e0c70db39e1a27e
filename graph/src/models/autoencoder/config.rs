//! The `config.json` of a diffusers `vae` folder, and what sizes may be.

use crate::GraphError;
use crate::models::MAX_BATCH;
use serde::Deserialize;

/// Bounds that keep every product of sizes within a usize.
const MAX_CHANNELS: usize = 1 << 14;
const MAX_SIDE: usize = 1 << 14;

/// The `config.json` of a diffusers `vae` folder. Fields that are absent have the defaults of `AutoencoderKL`; those
/// that do not matter here are passed over.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct Config {
    /// `"AutoencoderKL"`.
    #[serde(rename = "_class_name")]
    pub class_name: String,
    /// Nonlinearity; `"silu"`.
    pub act_fn: String,
    /// Channels of a picture.
    pub in_channels: usize,
    /// Channels of a decoded picture.
    pub out_channels: usize,
    /// Channels of each resolution, from the full one.
    pub block_out_channels: Vec<usize>,
    /// Kind of each encoder block; `"DownEncoderBlock2D"`.
    pub down_block_types: Vec<String>,
    /// Kind of each decoder block; `"UpDecoderBlock2D"`.
    pub up_block_types: Vec<String>,
    /// Residual blocks of each resolution of the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// Channels of the latent.
    pub latent_channels: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Whether the middle has attention.
    pub mid_block_add_attention: bool,
    /// Whether a 1 x 1 convolution follows the encoder.
    pub use_quant_conv: bool,
    /// Whether a 1 x 1 convolution precedes the decoder.
    pub use_post_quant_conv: bool,
    /// Factor that brings the latent to unit variance.
    pub scaling_factor: f32,
    /// Mean of the latent before scaling; 0 where absent.
    pub shift_factor: Option<f32>,
    /// Per-channel means, which some video models have; absent here.
    pub latents_mean: Option<Vec<f32>>,
    /// Per-channel deviations; absent here.
    pub latents_std: Option<Vec<f32>>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            class_name: CLASS.into(),
            act_fn: "silu".into(),
            in_channels: 3,
            out_channels: 3,
            block_out_channels: vec![64],
            down_block_types: vec!["DownEncoderBlock2D".into()],
            up_block_types: vec!["UpDecoderBlock2D".into()],
            layers_per_block: 1,
            latent_channels: 4,
            norm_num_groups: 32,
            mid_block_add_attention: true,
            use_quant_conv: true,
            use_post_quant_conv: true,
            scaling_factor: 0.18215,
            shift_factor: None,
            latents_mean: None,
            latents_std: None,
        }
    }
}

/// The diffusers class that this is.
const CLASS: &str = "AutoencoderKL";

fn wrong(field: &str, value: impl ToString, expected: impl Into<String>) -> GraphError {
    GraphError::Config {
        model: "autoencoder".into(),
        field: field.into(),
        value: value.to_string(),
        expected: expected.into(),
    }
}

impl Config {
    /// The autoencoder of Stable Diffusion 3, which the released Selftok models use.
    pub fn sd3() -> Config {
        Config {
            block_out_channels: vec![128, 256, 512, 512],
            down_block_types: vec!["DownEncoderBlock2D".into(); 4],
            up_block_types: vec!["UpDecoderBlock2D".into(); 4],
            layers_per_block: 2,
            latent_channels: 16,
            use_quant_conv: false,
            use_post_quant_conv: false,
            scaling_factor: 1.5305,
            shift_factor: Some(0.0609),
            ..Config::default()
        }
    }

    /// Pixels a side of one cell of the latent.
    pub fn downsampling(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1)
    }

    /// Checks what the builders rely on.
    pub fn validate(&self) -> Result<(), GraphError> {
        if self.class_name != CLASS {
            return Err(wrong("_class_name", &self.class_name, format!("\"{CLASS}\"")));
        }
        // Two names of one function.
        if self.act_fn != "silu" && self.act_fn != "swish" {
            return Err(wrong("act_fn", &self.act_fn, "\"silu\""));
        }
        let levels = self.block_out_channels.len();
        if levels == 0 || levels > 14 {
            return Err(wrong("block_out_channels", format!("{levels} numbers"), "1 to 14 numbers"));
        }
        for (field, value) in [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("layers_per_block", self.layers_per_block),
            ("latent_channels", self.latent_channels),
            ("norm_num_groups", self.norm_num_groups),
        ] {
            let most = if field == "layers_per_block" { 64 } else { MAX_CHANNELS };
            if value == 0 || value > most {
                return Err(wrong(field, value, format!("a number from 1 to {most}")));
            }
        }
        for &channels in &self.block_out_channels {
            if channels == 0 || channels > MAX_CHANNELS || !channels.is_multiple_of(self.norm_num_groups) {
                let expected = format!("a multiple of norm_num_groups {}", self.norm_num_groups);
                return Err(wrong("block_out_channels", channels, expected));
            }
        }
        for (field, types, kind) in [
            ("down_block_types", &self.down_block_types, "DownEncoderBlock2D"),
            ("up_block_types", &self.up_block_types, "UpDecoderBlock2D"),
        ] {
            if types.len() != levels || types.iter().any(|t| t != kind) {
                return Err(wrong(field, format!("{types:?}"), format!("{levels} times \"{kind}\"")));
            }
        }
        if !self.scaling_factor.is_finite() || self.scaling_factor == 0.0 {
            return Err(wrong("scaling_factor", self.scaling_factor, "a finite number other than 0"));
        }
        if self.shift_factor.is_some_and(|shift| !shift.is_finite()) {
            return Err(wrong("shift_factor", f32::NAN, "a finite number"));
        }
        for (field, value) in [("latents_mean", &self.latents_mean), ("latents_std", &self.latents_std)] {
            if value.is_some() {
                return Err(wrong(field, "given", "none: one factor scales all channels"));
            }
        }
        Ok(())
    }

    /// The latent's mean before scaling.
    pub fn shift(&self) -> f32 {
        self.shift_factor.unwrap_or(0.0)
    }
}

/// Checks sides given in `pixels` a cell, which must be multiples of `step`.
pub(super) fn check_sizes(
    batch: usize,
    field: &str,
    sides: [usize; 2],
    step: usize,
    pixels: usize,
) -> Result<(), GraphError> {
    if batch == 0 || batch > MAX_BATCH {
        return Err(wrong("batch", batch, format!("a number from 1 to {MAX_BATCH}")));
    }
    let most = MAX_SIDE / pixels;
    if sides.iter().any(|&side| side == 0 || side > most || !side.is_multiple_of(step)) {
        let expected = format!("sides that are multiples of {step}, at most {most}");
        return Err(wrong(field, format!("{} x {}", sides[0], sides[1]), expected));
    }
    Ok(())
}
