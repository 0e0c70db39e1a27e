//! Section 11: the one-step renderer. The decoder's trunk over a learned canvas in place of a noisy image: no time, no
//! noise, one pass. Its time is a constant, so every modulation is known when the model is bound; and its tokens do
//! not look at the canvas.

use super::Config;
use super::blocks::{Trace, batch_dim, join_nchw, unpatchify};
use super::decoder::{Conditioning, joint_transformer, time_embedding, token_stream};
use crate::{Builder, Graph, GraphError};

/// The time at which the canvas stands: that of pure noise.
const CANVAS_TIME: f32 = 1.0;

/// `tokens [B, K]` (i32), all of them → `rendered_latent [B, C, h, w]`, of the configuration's latent size.
///
/// `trace` adds `codes`, `hidden_states`, `context_in`, `x_in`, `t_emb`, `block{i}.x`, `block{i}.context`,
/// `final_layer`.
pub fn renderer(config: &Config, batch: usize, trace: bool) -> Result<Graph, GraphError> {
    config.validate()?;
    config.check_batch(batch)?;
    let side = config.latent_size / config.patch_size;
    let (patches, width) = (side * side, config.decoder.hidden_size);
    let builder = Builder::new("render");
    let g = &builder;
    let trace = Trace { g, on: trace };
    let batch = batch_dim(g, batch);
    let context = token_stream(g, config, batch, trace);
    g.scope("model", || {
        let mask_rows = if config.decoder.repeat { 1 } else { patches };
        let mask_token = g.weight("mask_token", [1, mask_rows, width]);
        let canvas = mask_token + g.weight("positional_embedding", [patches, width]);
        let c = time_embedding(g, config, g.constant([1], vec![CANVAS_TIME]));
        trace.output("t_emb", c);
        let y = joint_transformer(g, config, canvas, context, &Conditioning::rows(c), false, trace);
        g.output("rendered_latent", join_nchw(unpatchify(y, [side, side], config.patch_size)));
    });
    builder.finish()
}
