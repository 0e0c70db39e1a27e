//! The MMDiT of Stable Diffusion 3 (Esser et al., 2024; diffusers' `SD3Transformer2DModel`): text and patches are two
//! streams with weights of their own that attend to each other as one sequence. Also what 3.5 added: normalised
//! queries and keys, and a second attention of the patches among themselves.

mod config;

pub use config::Config;

use crate::models::diffusion::{Conditioning, Sinusoids, Times};
use crate::models::patches::{centre_crop, sequence, unpatchify};
use crate::{Activation, Builder, Mask, NormKind, Tensor};

/// The name in errors.
pub const NAME: &str = "mmdit";

/// Epsilon of every norm.
const EPS: f32 = 1e-6;

/// Sinusoids of time.
const SINUSOIDS: Sinusoids = Sinusoids { channels: 256, cos_first: true, shift: 0.0 };

/// `sample [B, H, W, C]`, `context [B, L, J]`, `pooled [B, P]` → `[B, h, p, w, p, C']`.
pub(super) fn record<'g>(
    g: &'g Builder,
    config: &Config,
    sample: Tensor<'g>,
    times: Times<'g>,
    context: Tensor<'g>,
    pooled: Tensor<'g>,
) -> Tensor<'g> {
    let (p, width, side) = (config.patch_size, config.width(), config.pos_embed_max_size);
    let shape = sample.shape();
    let grid = [shape.0[1].size / p, shape.0[2].size / p];
    let table = g.weight("pos_embed.pos_embed", [1, side * side, width]);
    let patches = sample.conv2d("pos_embed.proj", width, p, p, [0; 4]);
    let mut x = sequence(patches + centre_crop(table, side, grid));
    let c = g.scope("time_text_embed", || {
        let time = times.embed(g, "timestep_embedder", SINUSOIDS, width);
        let text = pooled.linear("text_embedder.linear_1", width).act(Activation::Silu);
        times.condition(time, text.linear("text_embedder.linear_2", width))
    });
    let mut context = context.linear("context_embedder", width);
    for i in 0..config.num_layers {
        g.scope(format!("transformer_blocks.{i}"), || {
            let last = i + 1 == config.num_layers;
            (x, context) = block(g, config, &c, x, context, last, config.dual_attention_layers.contains(&i));
        });
    }
    let [scale, shift] = c.modulation("norm_out.linear");
    let y = ln(x).modulate(shift, scale).linear("proj_out", p * p * config.out_channels());
    unpatchify(y, grid, p)
}

fn ln(x: Tensor<'_>) -> Tensor<'_> {
    x.norm(NormKind::Layer, EPS)
}

/// One joint block. In the last one the text is only read.
fn block<'g>(
    g: &'g Builder,
    config: &Config,
    c: &Conditioning<'g>,
    mut x: Tensor<'g>,
    mut context: Tensor<'g>,
    last: bool,
    dual: bool,
) -> (Tensor<'g>, Tensor<'g>) {
    let (width, heads) = (config.width(), config.num_attention_heads);
    // With a second attention there are three more modulations, after the six.
    let (six, second) = if dual {
        let [a, b, c, d, e, f, shift, scale, gate] = c.modulation("norm1.linear");
        ([a, b, c, d, e, f], Some([shift, scale, gate]))
    } else {
        (c.modulation("norm1.linear"), None)
    };
    let [shift, scale, gate, shift2, scale2, gate2] = six;
    let project = |n: Tensor<'g>, name: &str, norm: &str| {
        let y = n.linear(name, width);
        if norm.is_empty() { y } else { normalise(config, y, norm) }
    };
    let own =
        |n: Tensor<'g>| (project(n, "to_q", "norm_q"), project(n, "to_k", "norm_k"), project(n, "to_v", ""));

    let n = ln(x).modulate(shift, scale);
    let (q, k, v) = g.scope("attn", || own(n));
    let text = if last {
        let [scale, shift] = c.modulation("norm1_context.linear");
        let n = ln(context).modulate(shift, scale);
        g.scope("attn", || (project(n, "add_k_proj", "norm_added_k"), project(n, "add_v_proj", "")))
    } else {
        let [shift, scale, gate, shift2, scale2, gate2] = c.modulation("norm1_context.linear");
        let n = ln(context).modulate(shift, scale);
        let (attended, text) = g.scope("attn", || {
            let tq = project(n, "add_q_proj", "norm_added_q");
            let text = (project(n, "add_k_proj", "norm_added_k"), project(n, "add_v_proj", ""));
            let attended = tq.attention(&[(k, v), text], heads, heads, Mask::None);
            (attended.linear("to_add_out", width), text)
        });
        context = context + gate * attended;
        context = context + gate2 * mlp(ln(context).modulate(shift2, scale2), "ff_context.net");
        text
    };
    let second = second.map(|[shift, scale, gate]| {
        g.scope("attn2", || {
            let (q, k, v) = own(ln(x).modulate(shift, scale));
            (gate, q.attention(&[(k, v)], heads, heads, Mask::None).linear("to_out.0", width))
        })
    });
    let joint = q.attention(&[(k, v), text], heads, heads, Mask::None);
    x = x + gate * g.scope("attn", || joint.linear("to_out.0", width));
    if let Some((gate, attended)) = second {
        x = x + gate * attended;
    }
    x = x + gate2 * mlp(ln(x).modulate(shift2, scale2), "ff.net");
    (x, context)
}

/// Each head's queries or keys normalised on their own, where the configuration says so.
fn normalise<'g>(config: &Config, y: Tensor<'g>, name: &str) -> Tensor<'g> {
    let shape = y.shape();
    let heads = [shape.0[0], shape.0[1], config.num_attention_heads.into(), config.attention_head_dim.into()];
    match config.qk_norm.as_deref() {
        Some("rms_norm") => y.reshape(heads).rms_norm(name, EPS).reshape(shape),
        Some(_) => y.reshape(heads).layer_norm(name, EPS).reshape(shape),
        None => y,
    }
}

fn mlp<'g>(x: Tensor<'g>, name: &str) -> Tensor<'g> {
    let width = x.shape().last();
    let hidden = x.linear(&format!("{name}.0.proj"), 4 * width).act(Activation::GeluTanh);
    hidden.linear(&format!("{name}.2"), width)
}
