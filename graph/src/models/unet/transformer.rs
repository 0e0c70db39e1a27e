//! The transformer between residual blocks: each cell looks at all cells, then at the condition, then through a gated
//! feed-forward layer (diffusers' `Transformer2DModel` of `BasicTransformerBlock`s).

use super::Unet;
use crate::{Activation, Mask, Tensor};

/// Epsilon of the group norm, which is not the configuration's.
const GROUP_EPS: f32 = 1e-6;

/// Epsilon of the layer norms.
const EPS: f32 = 1e-5;

/// `x + proj_out(blocks(proj_in(gn(x))))` over `x [B, h, w, C]` at `level`, with `depth` blocks.
pub(super) fn transformer<'g>(
    unet: &Unet<'_, 'g>,
    x: Tensor<'g>,
    name: &str,
    level: usize,
    depth: usize,
) -> Tensor<'g> {
    let (g, config) = (unet.g, unet.config);
    g.scope(name, || {
        let shape = x.shape();
        let (cells, channels) = (shape.0[1].size * shape.0[2].size, shape.last());
        let rows = [shape.0[0], cells.into(), channels.into()];
        // A convolution of one pixel is a linear layer over cells.
        let project = |h: Tensor<'g>, name: &str| {
            if config.use_linear_projection {
                return h.linear(name, channels);
            }
            let weight = g.weight(&format!("{name}.weight"), [channels, channels, 1, 1]);
            let bias = g.weight(&format!("{name}.bias"), [channels]);
            h.linear_with(weight.reshape([channels, channels]), Some(bias))
        };
        let h = x.group_norm("norm", config.norm_num_groups, GROUP_EPS).reshape(rows);
        let mut h = project(h, "proj_in");
        for i in 0..depth {
            h = g.scope(format!("transformer_blocks.{i}"), || {
                block(unet, h, config.attention_head_dim.at(level))
            });
        }
        (x.reshape(rows) + project(h, "proj_out")).reshape(shape)
    })
}

fn block<'g>(unet: &Unet<'_, 'g>, mut h: Tensor<'g>, heads: usize) -> Tensor<'g> {
    let width = h.shape().last();
    let attend = |name: &str, from: Tensor<'g>, to: Tensor<'g>| {
        unet.g.scope(name, || {
            let q = from.linear_no_bias("to_q", width);
            let (k, v) = (to.linear_no_bias("to_k", width), to.linear_no_bias("to_v", width));
            q.attention(&[(k, v)], heads, heads, Mask::None).linear("to_out.0", width)
        })
    };
    let n = h.layer_norm("norm1", EPS);
    h = h + attend("attn1", n, n);
    h = h + attend("attn2", h.layer_norm("norm2", EPS), unet.context);
    h + geglu(unet, h.layer_norm("norm3", EPS))
}

/// `net.2(a * gelu(b))` with `a, b` the halves of `net.0.proj(x)` (Shazeer, 2020). The halves are two products, so that
/// the gating happens where the first is written.
fn geglu<'g>(unet: &Unet<'_, 'g>, x: Tensor<'g>) -> Tensor<'g> {
    let width = x.shape().last();
    let inner = 4 * width;
    unet.g.scope("ff.net", || {
        let weight = unet.g.weight("0.proj.weight", [2 * inner, width]);
        let bias = unet.g.weight("0.proj.bias", [2 * inner]);
        let half = |i: usize| {
            x.linear_with(weight.slice(0, i * inner, inner), Some(bias.slice(0, i * inner, inner)))
        };
        let gate = half(1).act(Activation::GeluErf);
        (gate * half(0)).linear("2", width)
    })
}
