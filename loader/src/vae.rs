//! A diffusers autoencoder folder: `config.json` of an `AutoencoderKL`, and its weights.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Error, Result};
use crate::open::read_json;
use crate::selftok::SelftokConfig;
use crate::source::TensorSource;
use crate::weights::Weights;

/// The configuration of a diffusers `AutoencoderKL`; fields that are absent have that class's defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VaeConfig {
    /// Always `AutoencoderKL`.
    #[serde(rename = "_class_name")]
    pub class_name: String,
    /// Channels of the picture that is read.
    pub in_channels: usize,
    /// Channels of the picture that is written.
    pub out_channels: usize,
    /// Width of each level; all levels but the last halve the picture.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of a level in the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// Channels of the latent.
    pub latent_channels: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// The activation: `silu`.
    pub act_fn: String,
    /// Latents are stored as `(z − shift_factor) · scaling_factor`.
    pub scaling_factor: f64,
    /// See `scaling_factor`; `null` in the file is 0.
    #[serde(deserialize_with = "null_is_zero")]
    pub shift_factor: f64,
    /// A 1×1 convolution after the encoder.
    pub use_quant_conv: bool,
    /// A 1×1 convolution before the decoder.
    pub use_post_quant_conv: bool,
    /// Attention in the middle of encoder and decoder.
    pub mid_block_add_attention: bool,
    /// The kinds of level of the encoder: `DownEncoderBlock2D`.
    pub down_block_types: Vec<String>,
    /// The kinds of level of the decoder: `UpDecoderBlock2D`.
    pub up_block_types: Vec<String>,
    /// Means of the latent's channels; not supported.
    pub latents_mean: Option<Vec<f64>>,
    /// Deviations of the latent's channels; not supported.
    pub latents_std: Option<Vec<f64>>,
}

fn null_is_zero<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(0.0))
}

impl Default for VaeConfig {
    fn default() -> Self {
        VaeConfig {
            class_name: String::new(),
            in_channels: 3,
            out_channels: 3,
            block_out_channels: vec![64],
            layers_per_block: 1,
            latent_channels: 4,
            norm_num_groups: 32,
            act_fn: "silu".into(),
            scaling_factor: 0.18215,
            shift_factor: 0.0,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
            down_block_types: vec!["DownEncoderBlock2D".into()],
            up_block_types: vec!["UpDecoderBlock2D".into()],
            latents_mean: None,
            latents_std: None,
        }
    }
}

impl VaeConfig {
    /// Reads and validates the `config.json` of an autoencoder.
    ///
    /// Errors: it does not parse, is of another class, or asks for something that is not built here.
    pub fn read(path: &Path) -> Result<Self> {
        let config: VaeConfig = read_json(path)?;
        config.validate().map_err(|what| Error::config(path, what))?;
        Ok(config)
    }

    /// Pixels along one side of a latent cell.
    pub fn downscale(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1)
    }

    fn validate(&self) -> Result<(), String> {
        if self.class_name != "AutoencoderKL" {
            return Err(format!(
                "_class_name is \"{}\"; only \"AutoencoderKL\" is supported",
                self.class_name
            ));
        }
        let levels = self.block_out_channels.len();
        if levels == 0 || levels > 8 {
            return Err(format!("block_out_channels has {levels} levels, 1 to 8 are supported"));
        }
        for (name, types, supported) in [
            ("down_block_types", &self.down_block_types, "DownEncoderBlock2D"),
            ("up_block_types", &self.up_block_types, "UpDecoderBlock2D"),
        ] {
            if let Some(other) = types.iter().find(|t| *t != supported) {
                return Err(format!("{name} holds \"{other}\"; only \"{supported}\" is supported"));
            }
            if types.len() != levels {
                return Err(format!("{name} has {} levels, block_out_channels has {levels}", types.len()));
            }
        }
        if self.act_fn != "silu" && self.act_fn != "swish" {
            return Err(format!("act_fn is \"{}\"; only \"silu\" is supported", self.act_fn));
        }
        if self.latents_mean.is_some() || self.latents_std.is_some() {
            return Err("latents_mean and latents_std are not supported; they must be null".into());
        }
        let others = [
            self.in_channels,
            self.out_channels,
            self.layers_per_block,
            self.latent_channels,
            self.norm_num_groups,
        ];
        if let Some(n) = self.block_out_channels.iter().chain(&others).find(|n| **n == 0 || **n > 1 << 16) {
            return Err(format!(
                "a number of channels, layers or groups is {n}, it must be between 1 and 65536"
            ));
        }
        if let Some(n) = self.block_out_channels.iter().find(|n| *n % self.norm_num_groups != 0) {
            return Err(format!(
                "{n} channels are not a multiple of norm_num_groups {}",
                self.norm_num_groups
            ));
        }
        if !self.scaling_factor.is_finite() || self.scaling_factor == 0.0 || !self.shift_factor.is_finite() {
            return Err(format!(
                "scaling_factor {} or shift_factor {} is impossible",
                self.scaling_factor, self.shift_factor
            ));
        }
        Ok(())
    }
}

/// An open autoencoder.
#[derive(Debug)]
pub struct Vae {
    /// The folder.
    pub path: PathBuf,
    /// Its configuration.
    pub config: VaeConfig,
    /// Its tensors.
    pub weights: Weights,
}

impl Vae {
    /// Opens a diffusers autoencoder folder; the folder of a whole pipeline, with `vae/` in it, will do.
    ///
    /// Errors: `config.json` or the weights are missing, unsupported, or contradict each other.
    pub fn open(path: &Path) -> Result<Self> {
        let inner = path.join("vae");
        let folder = if inner.join("config.json").exists() { inner } else { path.to_owned() };
        let config_path = folder.join("config.json");
        let config = VaeConfig::read(&config_path)?;
        let weights = Weights::open(&folder)?;

        let widths = &config.block_out_channels;
        let (first, last) = (widths[0], widths[widths.len() - 1]);
        let needed = [
            ("encoder.conv_in.weight", [first, config.in_channels]),
            ("encoder.conv_out.weight", [2 * config.latent_channels, last]),
            ("decoder.conv_in.weight", [last, config.latent_channels]),
            ("decoder.conv_out.weight", [config.out_channels, first]),
        ];
        for (name, [out_channels, in_channels]) in needed {
            let found = weights.require(name)?.shape;
            let wanted = [out_channels, in_channels, 3, 3];
            if found != wanted {
                let what = format!("it asks for {name} of shape {wanted:?}, the file has {found:?}");
                return Err(Error::config(&config_path, what));
            }
        }
        Ok(Vae { path: folder, config, weights })
    }

    /// Checks that the latents of this autoencoder are those of a Selftok model.
    ///
    /// Errors: other channels or another scale; the message has both numbers.
    pub fn serves(&self, model: &SelftokConfig) -> Result<()> {
        let path = self.path.display();
        let hint =
            "the released files need the autoencoder of stabilityai/stable-diffusion-3-medium-diffusers";
        if self.config.latent_channels != model.latent_channels {
            return Err(Error::pairing(format!(
                "{path}: this autoencoder has latents of {} channels, the model needs {}; {hint}",
                self.config.latent_channels, model.latent_channels
            )));
        }
        if self.config.downscale() != model.downscale() {
            return Err(Error::pairing(format!(
                "{path}: this autoencoder divides a picture by {}, the model needs {}; {hint}",
                self.config.downscale(),
                model.downscale()
            )));
        }
        if self.config.in_channels != 3 || self.config.out_channels != 3 {
            return Err(Error::pairing(format!(
                "{path}: this autoencoder is not for pictures of 3 channels; {hint}"
            )));
        }
        Ok(())
    }
}
