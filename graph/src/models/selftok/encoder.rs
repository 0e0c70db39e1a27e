//! Section 6: the encoder. Learned queries watch the image through a narrow stream of their own width; the image
//! never sees the queries.

use super::Config;
use super::blocks::{
    Trace, batch_dim, centre_crop, image_input, ln, mlp, patch_embed, position_modulation, sequence,
};
use super::quantizer::quantize;
use crate::{Builder, Graph, GraphError, Mask, Stage};

/// `latent [B, C, h, w]` → `hidden_states [B, K, query_size]` before quantisation, `indices [B, K]` (i32), `score` and
/// `margin [B, K]`: the cosine of the nearest code, and how much it exceeds the second.
///
/// `trace` adds `patch_embed`, `patch_embed_plus_pos`, `block{i}.x`, `block{i}.q`, `project_in`.
pub fn encoder(config: &Config, batch: usize, latent: [usize; 2], trace: bool) -> Result<Graph, GraphError> {
    config.validate()?;
    config.check_batch(batch)?;
    let e = &config.encoder;
    let grid = config.patch_grid(latent, e.pos_grid)?;
    let builder = Builder::new("encode");
    let g = &builder;
    let trace = Trace { g, on: trace };
    let batch = batch_dim(g, batch);
    let [h, w] = latent.map(Into::into);
    let latent = image_input(g, "latent", [batch, config.latent_channels.into(), h, w], Stage::Request);
    g.scope("encoder", || {
        let patches = patch_embed(latent, config.patch_size, e.hidden_size);
        trace.output("patch_embed", sequence(patches));
        let table = g.weight("pos_embed", [1, e.pos_grid * e.pos_grid, e.hidden_size]);
        let mut h = sequence(patches + centre_crop(table, e.pos_grid, grid));
        trace.output("patch_embed_plus_pos", h);
        let mut q = g.weight("query_tokens", [1, config.num_tokens, e.query_size]);
        for i in 0..e.depth {
            g.scope(format!("blocks.{i}"), || {
                let [shift1, scale1, gate1, shift2, scale2, gate2] =
                    position_modulation(g, config.num_tokens, e.query_size);
                // 1.
                let hn = ln(h);
                let qn = ln(q).modulate(shift1, scale1);
                // 3. Queries see the image, then each other.
                let [xk, xv] = hn.linear("attn.to_query_kv", 2 * e.query_size).split();
                let [qq, qk, qv] = qn.linear("attn.query_linear", 3 * e.query_size).split();
                let qo = qq.attention(&[(xk, xv), (qk, qv)], e.query_heads, e.query_heads, Mask::None);
                let qo = qo.linear("attn.query_proj", e.query_size);
                // 2., 4. The image after the last block is read by nobody.
                if i + 1 < e.depth {
                    let [a, b, c] = hn.linear("attn.qkv", 3 * e.hidden_size).split();
                    let ho = a.attention(&[(b, c)], e.num_heads, e.num_heads, Mask::None);
                    h = h + ho.linear("attn.proj", e.hidden_size);
                    h = h + mlp(ln(h), "mlp", e.mlp_ratio);
                    trace.output(format!("block{i}.x"), h);
                }
                // 5.
                q = q + gate1 * qo;
                q = q + gate2 * mlp(ln(q).modulate(shift2, scale2), "q_mlp", e.mlp_ratio);
                trace.output(format!("block{i}.q"), q);
            });
        }
        g.output("hidden_states", q);
        let (indices, score, margin) = quantize(g, config, q, trace);
        g.output("indices", indices);
        g.output("score", score);
        g.output("margin", margin);
    });
    builder.finish()
}
