//! Section 4: the autoencoder of Stable Diffusion 3 (diffusers' `AutoencoderKL`), between pictures and latents.
//!
//! Residual convolution blocks at halving resolutions, and in the middle one attention over all cells. The encoder
//! gives a mean and a variance; as the original does at inference, only the mean is used.

mod config;

pub use config::Config;

use crate::{Activation, Builder, DType, Graph, GraphError, Mask, Stage, Tensor};
use config::check_sizes;

/// Epsilon of every group norm.
const EPS: f32 = 1e-6;

/// Zeros on every side of a 3 x 3 convolution.
const SAME: [usize; 4] = [1; 4];

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

/// `pixel_values [B, 3, H, W]` in [-1, 1] → `latent [B, C, H/f, W/f]`, which is `(mean - shift) * scale`.
///
/// `trace` adds `mean`, `enc.conv_in`, `enc.down{i}`, `enc.mid`, `enc.moments`.
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
    blocks.trace("mean", mean);
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
