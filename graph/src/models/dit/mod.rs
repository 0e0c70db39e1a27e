//! DiT (Peebles and Xie, 2023; diffusers' `DiTTransformer2DModel`): a transformer over patches that is told time and
//! class by modulating every norm.

mod config;
mod positions;

pub use config::Config;

use crate::models::diffusion::{Conditioning, Sinusoids, Times};
use crate::models::patches::{sequence, unpatchify};
use crate::{Activation, Builder, Mask, NormKind, Tensor};

/// The name in errors.
pub const NAME: &str = "dit";

/// Epsilon of the first norm of a block and of the last one, which is not the configuration's.
const EPS: f32 = 1e-6;

/// Sinusoids of time.
const SINUSOIDS: Sinusoids = Sinusoids { channels: 256, cos_first: true, shift: 1.0 };

/// `sample [B, H, W, C]`, `labels [B]` → `[B, h, p, w, p, C']`.
pub(super) fn record<'g>(
    g: &'g Builder,
    config: &Config,
    sample: Tensor<'g>,
    times: Times<'g>,
    labels: Tensor<'g>,
) -> Tensor<'g> {
    let (p, width, heads) = (config.patch_size, config.width(), config.num_attention_heads);
    let shape = sample.shape();
    let grid = [shape.0[1].size / p, shape.0[2].size / p];
    let table =
        g.constant([grid[0], grid[1], width], positions::sinusoids(grid, config.sample_size / p, width));
    let mut x = sequence(sample.conv2d("pos_embed.proj", width, p, p, [0; 4]) + table);
    // Every block has embeddings of its own; the last layer uses the first block's.
    let condition = |name: &str| -> Conditioning<'g> {
        g.scope(name, || {
            let time = times.embed(g, "timestep_embedder", SINUSOIDS, width);
            let classes = config.num_embeds_ada_norm.unwrap_or(0) + 1;
            let table = g.weight("class_embedder.embedding_table.weight", [classes, width]);
            times.condition(time, table.embed(labels))
        })
    };
    for i in 0..config.num_layers {
        g.scope(format!("transformer_blocks.{i}"), || {
            let c = condition("norm1.emb");
            let [shift, scale, gate, shift2, scale2, gate2] = c.modulation("norm1.linear");
            let n = x.norm(NormKind::Layer, EPS).modulate(shift, scale);
            x = x + gate * g.scope("attn1", || attention(config, n, heads));
            let n = if config.norm_elementwise_affine {
                x.layer_norm("norm3", config.norm_eps)
            } else {
                x.norm(NormKind::Layer, config.norm_eps)
            };
            x = x + gate2 * g.scope("ff.net", || feed_forward(config, n.modulate(shift2, scale2)));
        });
    }
    let c = condition("transformer_blocks.0.norm1.emb");
    let [shift, scale] = c.modulation("proj_out_1");
    let y = x.norm(NormKind::Layer, EPS).modulate(shift, scale);
    unpatchify(y.linear("proj_out_2", p * p * config.out_channels()), grid, p)
}

fn attention<'g>(config: &Config, n: Tensor<'g>, heads: usize) -> Tensor<'g> {
    let width = n.shape().last();
    let project = |name: &str| {
        if config.attention_bias { n.linear(name, width) } else { n.linear_no_bias(name, width) }
    };
    let (q, k, v) = (project("to_q"), project("to_k"), project("to_v"));
    q.attention(&[(k, v)], heads, heads, Mask::None).linear("to_out.0", width)
}

fn feed_forward<'g>(config: &Config, x: Tensor<'g>) -> Tensor<'g> {
    let width = x.shape().last();
    let activation = match config.activation_fn.as_str() {
        "gelu" => Activation::GeluErf,
        _ => Activation::GeluTanh,
    };
    x.linear("0.proj", 4 * width).act(activation).linear("2", width)
}
