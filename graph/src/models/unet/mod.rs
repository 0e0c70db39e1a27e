//! The UNet of Stable Diffusion 1 and 2 (Rombach et al., 2022; diffusers' `UNet2DConditionModel`): residual blocks at
//! halving resolutions, told the time by a bias, with transformer blocks that look at the condition, and skips from
//! each block of the way down to one of the way up.

mod config;
mod transformer;

pub use config::Config;

use crate::models::diffusion::{Sinusoids, Times};
use crate::{Activation, Builder, Stage, Tensor};
use transformer::transformer;

/// The name in errors.
pub const NAME: &str = "unet";

/// Zeros on every side of a 3 x 3 convolution.
const SAME: [usize; 4] = [1; 4];

/// What every block knows.
struct Unet<'a, 'g> {
    g: &'g Builder,
    config: &'a Config,
    times: Times<'g>,
    /// `silu(time embedding)`: `[B or S, T]`.
    time: Tensor<'g>,
    /// `[B, L, D]`
    context: Tensor<'g>,
}

/// `sample [B, h, w, C]`, `context [B, L, D]` → `[B, h, w, C']`.
pub(super) fn record<'g>(
    g: &'g Builder,
    config: &Config,
    sample: Tensor<'g>,
    times: Times<'g>,
    context: Tensor<'g>,
) -> Tensor<'g> {
    let widths = &config.block_out_channels;
    let sinusoids =
        Sinusoids { channels: widths[0], cos_first: config.flip_sin_to_cos, shift: config.freq_shift };
    let time_width = config.time_embedding_dim.unwrap_or(4 * widths[0]);
    let time = times.embed(g, "time_embedding", sinusoids, time_width).act(Activation::Silu);
    let unet = Unet { g, config, times, time, context };
    let last = widths.len() - 1;

    let mut x = if config.center_input_sample {
        sample * g.constant([1], vec![2.0]) - g.constant([1], vec![1.0])
    } else {
        sample
    };
    let pad = [(config.conv_in_kernel - 1) / 2; 4];
    x = x.conv2d("conv_in", widths[0], config.conv_in_kernel, 1, pad);
    let mut skips = vec![x];
    for (i, &channels) in widths.iter().enumerate() {
        g.scope(format!("down_blocks.{i}"), || {
            for j in 0..config.layers_per_block.at(i) {
                x = unet.resnet(x, &format!("resnets.{j}"), channels);
                if config.down_block_types[i] == config::CROSS_DOWN {
                    x = transformer(&unet, x, &format!("attentions.{j}"), i, config.transformers_down(i));
                }
                skips.push(x);
            }
            if i < last {
                // Without padding diffusers adds one row and column of zeros at the bottom and right.
                let pad = if config.downsample_padding == 0 { [0, 1, 0, 1] } else { SAME };
                x = x.conv2d("downsamplers.0.conv", channels, 3, 2, pad);
                skips.push(x);
            }
        });
    }
    if config.mid_block_type.is_some() {
        g.scope("mid_block", || {
            x = unet.resnet(x, "resnets.0", widths[last]);
            x = transformer(&unet, x, "attentions.0", last, config.transformers_down(last));
            x = unet.resnet(x, "resnets.1", widths[last]);
        });
    }
    for up in 0..=last {
        let (i, channels) = (last - up, widths[last - up]);
        g.scope(format!("up_blocks.{up}"), || {
            for j in 0..config.layers_per_block.at(i) + 1 {
                let skip = skips.pop().unwrap_or(x);
                x = unet.resnet(x.concat(3, &[skip]), &format!("resnets.{j}"), channels);
                if config.up_block_types[up] == config::CROSS_UP {
                    x = transformer(&unet, x, &format!("attentions.{j}"), i, config.transformers_up(up));
                }
            }
            if up < last {
                x = x.upsample2x().conv2d("upsamplers.0.conv", channels, 3, 1, SAME);
            }
        });
    }
    let x = unet.norm_silu(x, "conv_norm_out");
    let pad = [(config.conv_out_kernel - 1) / 2; 4];
    x.conv2d("conv_out", config.out_channels, config.conv_out_kernel, 1, pad)
}

impl<'g> Unet<'_, 'g> {
    fn norm_silu(&self, x: Tensor<'g>, name: &str) -> Tensor<'g> {
        x.group_norm(name, self.config.norm_num_groups, self.config.norm_eps).act(Activation::Silu)
    }

    /// `shortcut(x) + conv2(silu(gn2(conv1(silu(gn1(x))) + time)))`
    fn resnet(&self, x: Tensor<'g>, name: &str, channels: usize) -> Tensor<'g> {
        let g = self.g;
        g.scope(name, || {
            let h = self.norm_silu(x, "norm1");
            let time = self.time.linear("time_emb_proj", channels);
            let h = match self.times {
                Times::Each(_) => {
                    let time = time.reshape([time.shape().0[0], 1.into(), 1.into(), channels.into()]);
                    h.conv2d("conv1", channels, 3, 1, SAME) + time
                }
                // One time for all pictures: it goes into the convolution's own bias.
                Times::Grid(_, step) => {
                    let weight = g.weight("conv1.weight", [channels, x.shape().last(), 3, 3]);
                    let bias = time + g.weight("conv1.bias", [channels]);
                    h.conv2d_with(weight, Some(bias.pick(0, step, Stage::Step)), 1, SAME)
                }
            };
            let h = self.norm_silu(h, "norm2").conv2d("conv2", channels, 3, 1, SAME);
            let same = x.shape().last() == channels;
            let shortcut = if same { x } else { x.conv2d("conv_shortcut", channels, 1, 1, [0; 4]) };
            shortcut + h
        })
    }
}
