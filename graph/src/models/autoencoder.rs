//! Section 4: the autoencoder of Stable Diffusion 3 (diffusers' `AutoencoderKL`), between pictures and latents.
//!
//! Residual convolution blocks at halving resolutions, and in the middle one attention over all cells. The encoder
//! gives a mean and a variance; as the original does at inference, only the mean is used.

use crate::models::MAX_BATCH;
use crate::{Activation, Builder, DType, Graph, GraphError, Mask, Stage, Tensor};
use serde::Deserialize;

/// Epsilon of every group norm.
const EPS: f32 = 1e-6;

/// Bounds that keep every product of sizes within a usize.
const MAX_CHANNELS: usize = 1 << 14;
const MAX_SIDE: usize = 1 << 14;

/// Zeros on every side of a 3 x 3 convolution.
const SAME: [usize; 4] = [1; 4];

/// The `config.json` of a diffusers `vae` folder; fields that do not matter here are passed over.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Config {
    /// Nonlinearity; `"silu"`.
    #[serde(default = "silu")]
    pub act_fn: String,
    /// Channels of a picture.
    pub in_channels: usize,
    /// Channels of a decoded picture.
    pub out_channels: usize,
    /// Channels of each resolution, from the full one.
    pub block_out_channels: Vec<usize>,
    /// Kind of each encoder block; `"DownEncoderBlock2D"`.
    #[serde(default)]
    pub down_block_types: Vec<String>,
    /// Kind of each decoder block; `"UpDecoderBlock2D"`.
    #[serde(default)]
    pub up_block_types: Vec<String>,
    /// Residual blocks of each resolution of the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// Channels of the latent.
    pub latent_channels: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Whether the middle has attention.
    #[serde(default = "yes")]
    pub mid_block_add_attention: bool,
    /// Whether a 1 x 1 convolution follows the encoder.
    #[serde(default = "yes")]
    pub use_quant_conv: bool,
    /// Whether a 1 x 1 convolution precedes the decoder.
    #[serde(default = "yes")]
    pub use_post_quant_conv: bool,
    /// Factor that brings the latent to unit variance.
    pub scaling_factor: f32,
    /// Mean of the latent before scaling; 0 where absent.
    #[serde(default)]
    pub shift_factor: Option<f32>,
    /// Per-channel means, which some video models have; absent here.
    #[serde(default)]
    pub latents_mean: Option<Vec<f32>>,
    /// Per-channel deviations; absent here.
    #[serde(default)]
    pub latents_std: Option<Vec<f32>>,
}

fn silu() -> String {
    "silu".into()
}

fn yes() -> bool {
    true
}

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
            act_fn: silu(),
            in_channels: 3,
            out_channels: 3,
            block_out_channels: vec![128, 256, 512, 512],
            down_block_types: vec!["DownEncoderBlock2D".into(); 4],
            up_block_types: vec!["UpDecoderBlock2D".into(); 4],
            layers_per_block: 2,
            latent_channels: 16,
            norm_num_groups: 32,
            mid_block_add_attention: true,
            use_quant_conv: false,
            use_post_quant_conv: false,
            scaling_factor: 1.5305,
            shift_factor: Some(0.0609),
            latents_mean: None,
            latents_std: None,
        }
    }

    /// Pixels a side of one cell of the latent.
    pub fn downsampling(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1)
    }

    /// Checks what the builders rely on.
    pub fn validate(&self) -> Result<(), GraphError> {
        if self.act_fn != "silu" {
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
            if !types.is_empty() && (types.len() != levels || types.iter().any(|t| t != kind)) {
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

    fn shift(&self) -> f32 {
        self.shift_factor.unwrap_or(0.0)
    }
}

/// What both directions share: the graph, the configuration, and whether intermediate values become outputs.
struct Blocks<'a, 'g> {
    g: &'g Builder,
    config: &'a Config,
    trace: bool,
}

impl<'g> Blocks<'_, 'g> {
    /// Names an intermediate value as an output, in NCHW.
    fn trace(&self, name: impl AsRef<str>, x: Tensor<'g>) {
        if self.trace {
            self.g.output(name.as_ref(), x.permute(&[0, 3, 1, 2]));
        }
    }

    fn norm_silu(&self, x: Tensor<'g>, name: &str) -> Tensor<'g> {
        x.group_norm(name, self.config.norm_num_groups, EPS).act(Activation::Silu)
    }

    /// `shortcut(x) + conv2(silu(gn2(conv1(silu(gn1(x))))))`
    fn resnet(&self, x: Tensor<'g>, name: &str, channels: usize) -> Tensor<'g> {
        self.g.scope(name, || {
            let h = self.norm_silu(x, "norm1").conv2d("conv1", channels, 3, 1, SAME);
            let h = self.norm_silu(h, "norm2").conv2d("conv2", channels, 3, 1, SAME);
            let same = x.shape().last() == channels;
            let shortcut = if same { x } else { x.conv2d("conv_shortcut", channels, 1, 1, [0; 4]) };
            shortcut + h
        })
    }

    /// One head over all cells, in the residual.
    fn attention(&self, x: Tensor<'g>, name: &str) -> Tensor<'g> {
        self.g.scope(name, || {
            let shape = x.shape();
            let (cells, channels) = (shape.0[1].size * shape.0[2].size, shape.last());
            let h = x.group_norm("group_norm", self.config.norm_num_groups, EPS);
            let h = h.reshape([shape.0[0], cells.into(), channels.into()]);
            let (q, k, v) =
                (h.linear("to_q", channels), h.linear("to_k", channels), h.linear("to_v", channels));
            let h = q.attention(&[(k, v)], 1, 1, Mask::None).linear("to_out.0", channels);
            x + h.reshape(shape)
        })
    }

    fn middle(&self, x: Tensor<'g>) -> Tensor<'g> {
        let channels = x.shape().last();
        self.g.scope("mid_block", || {
            let mut x = self.resnet(x, "resnets.0", channels);
            if self.config.mid_block_add_attention {
                x = self.attention(x, "attentions.0");
            }
            self.resnet(x, "resnets.1", channels)
        })
    }
}

/// Checks sides given in `pixels` a cell, which must be multiples of `step`.
fn check_sizes(
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

/// `pixel_values [B, 3, H, W]` in [-1, 1] → `latent [B, C, H/f, W/f]`, which is `(mean - shift) * scale`, and `mean`.
///
/// `trace` adds `enc.conv_in`, `enc.down{i}`, `enc.mid`, `enc.moments`.
pub fn encode(config: &Config, batch: usize, pixels: [usize; 2], trace: bool) -> Result<Graph, GraphError> {
    config.validate()?;
    check_sizes(batch, "pixel_values", pixels, config.downsampling(), 1)?;
    let builder = Builder::new("autoencoder.encode");
    let g = &builder;
    let blocks = Blocks { g, config, trace };
    let batch = g.up_to("batch", batch, Stage::Request);
    let [h, w] = pixels.map(Into::into);
    let pixels =
        g.input("pixel_values", [batch, config.in_channels.into(), h, w], DType::F32, Stage::Request);
    let mut x = pixels.permute(&[0, 2, 3, 1]);
    let moments = g.scope("encoder", || {
        let levels = config.block_out_channels.len();
        x = x.conv2d("conv_in", config.block_out_channels[0], 3, 1, SAME);
        blocks.trace("enc.conv_in", x);
        for (i, &channels) in config.block_out_channels.iter().enumerate() {
            g.scope(format!("down_blocks.{i}"), || {
                for j in 0..config.layers_per_block {
                    x = blocks.resnet(x, &format!("resnets.{j}"), channels);
                }
                if i + 1 < levels {
                    // One row and column of zeros at the bottom and right only.
                    x = x.conv2d("downsamplers.0.conv", channels, 3, 2, [0, 1, 0, 1]);
                }
            });
            blocks.trace(format!("enc.down{i}"), x);
        }
        x = blocks.middle(x);
        blocks.trace("enc.mid", x);
        blocks.norm_silu(x, "conv_norm_out").conv2d("conv_out", 2 * config.latent_channels, 3, 1, SAME)
    });
    let moments = match config.use_quant_conv {
        true => moments.conv2d("quant_conv", 2 * config.latent_channels, 1, 1, [0; 4]),
        false => moments,
    };
    blocks.trace("enc.moments", moments);
    let [mean, _log_variance] = moments.split();
    g.output("mean", mean.permute(&[0, 3, 1, 2]));
    let (shift, scale) =
        (g.constant([1], vec![config.shift()]), g.constant([1], vec![config.scaling_factor]));
    g.output("latent", ((mean - shift) * scale).permute(&[0, 3, 1, 2]));
    builder.finish()
}

/// `latent [B, C, h, w]` → `pixel_values [B, 3, h*f, w*f]`, about in [-1, 1], not clamped.
///
/// `trace` adds `dec.conv_in`, `dec.mid`, `dec.up{i}`.
pub fn decode(config: &Config, batch: usize, latent: [usize; 2], trace: bool) -> Result<Graph, GraphError> {
    config.validate()?;
    check_sizes(batch, "latent", latent, 1, config.downsampling())?;
    let builder = Builder::new("autoencoder.decode");
    let g = &builder;
    let blocks = Blocks { g, config, trace };
    let batch = g.up_to("batch", batch, Stage::Request);
    let [h, w] = latent.map(Into::into);
    let latent = g.input("latent", [batch, config.latent_channels.into(), h, w], DType::F32, Stage::Request);
    let (shift, scale) =
        (g.constant([1], vec![config.shift()]), g.constant([1], vec![1.0 / config.scaling_factor]));
    let mut x = latent.permute(&[0, 2, 3, 1]) * scale + shift;
    if config.use_post_quant_conv {
        x = x.conv2d("post_quant_conv", config.latent_channels, 1, 1, [0; 4]);
    }
    g.scope("decoder", || {
        let levels = config.block_out_channels.len();
        x = x.conv2d("conv_in", config.block_out_channels[levels - 1], 3, 1, SAME);
        blocks.trace("dec.conv_in", x);
        x = blocks.middle(x);
        blocks.trace("dec.mid", x);
        for (i, &channels) in config.block_out_channels.iter().rev().enumerate() {
            g.scope(format!("up_blocks.{i}"), || {
                for j in 0..config.layers_per_block + 1 {
                    x = blocks.resnet(x, &format!("resnets.{j}"), channels);
                }
                if i + 1 < levels {
                    x = x.upsample2x().conv2d("upsamplers.0.conv", channels, 3, 1, SAME);
                }
            });
            blocks.trace(format!("dec.up{i}"), x);
        }
        x = blocks.norm_silu(x, "conv_norm_out").conv2d("conv_out", config.out_channels, 3, 1, SAME);
    });
    g.output("pixel_values", x.permute(&[0, 3, 1, 2]));
    builder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_network_is_not_built_for_is_refused_by_name() {
        let refuse = |change: fn(&mut Config)| {
            let mut config = Config::sd3();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert_eq!(refuse(|c| c.act_fn = "relu".into()), "autoencoder: act_fn = relu: \"silu\"");
        assert!(refuse(|c| c.norm_num_groups = 48).contains("block_out_channels = 128: a multiple of"));
        assert!(refuse(|c| c.up_block_types[2] = "AttnUpDecoderBlock2D".into()).contains("up_block_types"));
        assert!(refuse(|c| c.scaling_factor = 0.0).contains("scaling_factor"));
        assert!(refuse(|c| c.latents_std = Some(vec![1.0])).contains("latents_std"));
        let error = encode(&Config::sd3(), 1, [256, 252], false).unwrap_err().to_string();
        assert!(error.contains("256 x 252: sides that are multiples of 8"), "{error}");
        let error = decode(&Config::sd3(), 1, [4096, 32], false).unwrap_err().to_string();
        assert!(error.contains("at most 2048"), "{error}");
    }
}
