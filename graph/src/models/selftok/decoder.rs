//! Sections 7, 8 and 10: the diffusion decoder, SD3's joint transformer over tokens and patches.
//!
//! The network reaches the patches' velocity; two entries use it. [`velocity`] is the network as the paper writes
//! it, for a time that is known at every call. [`sample`] is the body of the sampler's loop: its times are
//! known when the run starts, so the whole time embedding and every modulation by time is one product over the
//! grid, and each step only picks its row.

use super::Config;
use super::blocks::{
    Trace, batch_dim, centre_crop, image_input, join_nchw, ln, mlp, patch_embed, position_modulation,
    sequence, unpatchify,
};
use super::config::wrong;
use super::quantizer::dequantize;
use crate::models::timestep::timestep_embedding;
use crate::{Activation, Builder, DType, Dim, Graph, GraphError, Mask, Slot, Stage, Tensor};

/// Time `t` in `[0, 1]` is embedded in thousandths.
pub(super) const TIME_SCALE: f32 = 1000.0;

/// The most times that one run of [`sample`] takes; a longer grid is run in parts.
const MAX_GRID: usize = 4096;

/// What a caller may choose of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether token rows attend to patches too. True for the released decoder; false for the renderer.
    pub context_see_xt: bool,
    /// Adds intermediate values as outputs: `codes`, `hidden_states`, `context_in`, `x_in`, `t_emb`, `block{i}.x`,
    /// `block{i}.context`, `final_layer`.
    pub trace: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { context_see_xt: true, trace: false }
    }
}

/// `tokens [B, K]` (i32), `x_t [B, C, h, w]`, `t [B]` → `velocity [B, C, h, w]`.
///
/// Slots: `batch`; `visible.lo`, `visible.hi`, the tokens that the patches see. Hidden ones are not computed.
pub fn velocity(
    config: &Config,
    batch: usize,
    latent: [usize; 2],
    options: Options,
) -> Result<Graph, GraphError> {
    config.validate()?;
    config.check_batch(batch)?;
    let grid = config.patch_grid(latent, config.decoder.pos_grid)?;
    let builder = Builder::new("velocity");
    let g = &builder;
    let trace = Trace { g, on: options.trace };
    let batch = batch_dim(g, batch);
    let context = token_stream(g, config, batch, trace);
    let visible = g.between("visible", config.num_tokens, Stage::Step);
    let [h, w] = latent.map(Dim::from);
    let x_t = image_input(g, "x_t", [batch, config.latent_channels.into(), h, w], Stage::Step);
    let t = g.input("t", [batch], DType::F32, Stage::Step);
    g.scope("model", || {
        let x = patches(g, config, x_t, grid);
        let c = time_embedding(g, config, t);
        trace.output("t_emb", c);
        let c = Conditioning::rows(c);
        let context = context.restrict(1, visible);
        let y = joint_transformer(g, config, x, context, &c, options.context_see_xt, trace);
        g.output("velocity", join_nchw(unpatchify(y, grid, config.patch_size)));
    });
    builder.finish()
}

/// Starts a picture: `noise [B, C, h, w]` → state `x`. Run once; [`sample`] then continues from the state, in as
/// many runs as its grid of times needs.
pub fn start(config: &Config, batch: usize, latent: [usize; 2]) -> Result<Graph, GraphError> {
    starter(config, batch, latent, false)
}

/// As [`start`], for [`sample_with_history`].
pub fn start_with_history(config: &Config, batch: usize, latent: [usize; 2]) -> Result<Graph, GraphError> {
    starter(config, batch, latent, true)
}

fn starter(config: &Config, batch: usize, latent: [usize; 2], history: bool) -> Result<Graph, GraphError> {
    config.validate()?;
    config.check_batch(batch)?;
    config.patch_grid(latent, config.decoder.pos_grid)?;
    let builder = Builder::new("start");
    let g = &builder;
    let batch = batch_dim(g, batch);
    let [h, w] = latent.map(Dim::from);
    let noise = image_input(g, "noise", [batch, config.latent_channels.into(), h, w], Stage::Request);
    g.state("x", noise.shape()).assign(noise, None);
    if history {
        // Not read before it is written, but a number that no coefficient of 0 turns into another.
        g.state("history", noise.shape()).assign(noise, None);
    }
    builder.finish()
}

/// One step of the sampler from the state `x [B, h, w, C]`: `x = coeffs[step, 0] * x + coeffs[step, 1] * velocity`.
///
/// Inputs `tokens [B, K]` (i32), and for up to `max_grid` steps `t [S]` and `coeffs [S, 2]`; output `latent
/// [B, C, h, w]`, the new `x`. Slots: `batch`; `grid`, the number of steps given; at every step `step`, the row to
/// take, and `visible.lo`, `visible.hi`.
pub fn sample(
    config: &Config,
    batch: usize,
    latent: [usize; 2],
    max_grid: usize,
    options: Options,
) -> Result<Graph, GraphError> {
    sampler(config, batch, latent, max_grid, options, false)
}

/// As [`sample`], for solvers that remember something from one evaluation to the next: `x, history = coeffs[step] · (x,
/// velocity, history)`, where `coeffs [S, 6]` holds three numbers for `x`, then three for the state `history`.
pub fn sample_with_history(
    config: &Config,
    batch: usize,
    latent: [usize; 2],
    max_grid: usize,
    options: Options,
) -> Result<Graph, GraphError> {
    sampler(config, batch, latent, max_grid, options, true)
}

fn sampler(
    config: &Config,
    batch: usize,
    latent: [usize; 2],
    max_grid: usize,
    options: Options,
    history: bool,
) -> Result<Graph, GraphError> {
    config.validate()?;
    config.check_batch(batch)?;
    if max_grid == 0 || max_grid > MAX_GRID {
        return Err(wrong("max_grid", max_grid, format!("a number from 1 to {MAX_GRID}")));
    }
    let grid = config.patch_grid(latent, config.decoder.pos_grid)?;
    let builder = Builder::new("sample");
    let g = &builder;
    let trace = Trace { g, on: options.trace };
    let batch = batch_dim(g, batch);
    let context = token_stream(g, config, batch, trace);
    let visible = g.between("visible", config.num_tokens, Stage::Step);
    let times = g.up_to("grid", max_grid, Stage::Request);
    let step = g.slot("step");
    let t = g.input("t", [times], DType::F32, Stage::Request);
    let columns: Dim = if history { 6 } else { 2 }.into();
    let coeffs = g.input("coeffs", [times, columns], DType::F32, Stage::Request).pick(0, step, Stage::Step);
    let [h, w] = latent.map(Dim::from);
    let state = g.state("x", [batch, h, w, config.latent_channels.into()]);
    g.scope("model", || {
        let x = patches(g, config, state, grid);
        let c = Conditioning::grid(time_embedding(g, config, t), step);
        let context = context.restrict(1, visible);
        let y = joint_transformer(g, config, x, context, &c, options.context_see_xt, trace);
        // The update in the patches' own order, so that neither side is moved before it.
        let velocity = unpatchify(y, grid, config.patch_size);
        let mut known = vec![state.reshape(velocity.shape()), velocity];
        let history = history.then(|| g.state("history", state.shape()));
        known.extend(history.map(|history| history.reshape(velocity.shape())));
        let next = coeffs.slice(0, 0, known.len()).combine(&known);
        if let Some(history) = history {
            let remembered = coeffs.slice(0, 3, 3).combine(&known);
            history.assign(remembered.reshape(history.shape()), None);
        }
        g.output("latent", join_nchw(next));
        state.assign(next.reshape(state.shape()), None);
    });
    builder.finish()
}

/// Section 7: `tokens` → `ctx0 [B, K, D]`. Outside any scope: the codes belong to the checkpoint's encoder.
pub(super) fn token_stream<'g>(g: &'g Builder, config: &Config, batch: Dim, trace: Trace<'g>) -> Tensor<'g> {
    let (k, width) = (config.num_tokens, config.decoder.hidden_size);
    let tokens = g.input("tokens", [batch, k.into()], DType::I32, Stage::Request);
    let cond = g.scope("encoder", || dequantize(g, config, tokens, trace));
    g.scope("model", || {
        let context = cond.linear("context_embedder", width) + g.weight("context_pos_embed", [1, k, width]);
        trace.output("context_in", context);
        context
    })
}

/// Section 8: `x = patch_embed(x_t) + crop(pos_embed)`, `[B, N, D]`.
fn patches<'g>(g: &'g Builder, config: &Config, x_t: Tensor<'g>, grid: [usize; 2]) -> Tensor<'g> {
    let d = &config.decoder;
    let table = g.weight("pos_embed", [1, d.pos_grid * d.pos_grid, d.hidden_size]);
    let x = patch_embed(x_t, config.patch_size, d.hidden_size);
    sequence(x + centre_crop(table, d.pos_grid, grid))
}

/// Section 8: `c = TE_global(1000 t)`, `[.., D]`.
pub(super) fn time_embedding<'g>(g: &'g Builder, config: &Config, t: Tensor<'g>) -> Tensor<'g> {
    let thousandths = t * g.constant([1], vec![TIME_SCALE]);
    g.scope("t_embedder", || timestep_embedding(g, thousandths, config.decoder.hidden_size))
}

/// Section 5.4: where modulations by time come from.
pub(super) struct Conditioning<'g> {
    /// `silu(c)`: `[B, D]` or `[S, D]`.
    emb: Tensor<'g>,
    /// The row of this step, where `emb` holds a grid of times.
    step: Option<Slot>,
}

impl<'g> Conditioning<'g> {
    /// One time for each row of the batch: `c [B or 1, D]`.
    pub fn rows(c: Tensor<'g>) -> Conditioning<'g> {
        Conditioning { emb: c.act(Activation::Silu), step: None }
    }

    /// One time for all rows, picked at every step from a grid: `c [S, D]`.
    fn grid(c: Tensor<'g>, step: Slot) -> Conditioning<'g> {
        Conditioning { emb: c.act(Activation::Silu), step: Some(step) }
    }

    /// `N` parts, each of the stream's width and ready to broadcast over `[B, N, D]`.
    fn modulation<const N: usize>(&self, name: &str) -> [Tensor<'g>; N] {
        let width = N * self.emb.shape().last();
        let m = self.emb.linear(name, width);
        match self.step {
            Some(step) => m.pick(0, step, Stage::Step).split(),
            None => m.reshape([m.shape().0[0], 1.into(), width.into()]).split(),
        }
    }
}

/// Section 8: the joint blocks and the final layer, `x [B, N, D]` and `context [B, K, D]` → `[B, N, side*side*C]`.
/// In the scope `model`.
pub(super) fn joint_transformer<'g>(
    g: &'g Builder,
    config: &Config,
    mut x: Tensor<'g>,
    mut context: Tensor<'g>,
    c: &Conditioning<'g>,
    context_see_xt: bool,
    trace: Trace<'g>,
) -> Tensor<'g> {
    let d = &config.decoder;
    let (width, heads) = (d.hidden_size, d.num_heads);
    trace.output("x_in", x);
    for i in 0..d.depth {
        g.scope(format!("joint_blocks.{i}"), || {
            let [shift, scale, gate, shift2, scale2, gate2] =
                g.scope("x_block", || c.modulation("adaLN_modulation.1"));
            // 3. q, k, v of both streams; keys and values stand tokens first, then patches.
            let [q, k, v] =
                g.scope("x_block", || ln(x).modulate(shift, scale).linear("attn.qkv", 3 * width).split());
            let own = (k, v);
            // 1., 4. Tokens are modulated by their position, in the last block by time; there they are only read.
            let tokens = g.scope("context_block", || {
                let qkv = |shift, scale| -> [Tensor<'g>; 3] {
                    ln(context).modulate(shift, scale).linear("attn.qkv", 3 * width).split()
                };
                if i + 1 == d.depth {
                    let [shift, scale] = c.modulation("adaLN_modulation.1");
                    let [_, k, v] = qkv(shift, scale);
                    return (k, v);
                }
                let [shift, scale, gate, shift2, scale2, gate2] =
                    position_modulation(g, config.num_tokens, width);
                let [q, k, v] = qkv(shift, scale);
                let tokens = (k, v);
                let segments = if context_see_xt { &[tokens, own][..] } else { &[tokens][..] };
                let attended = q.attention(segments, heads, heads, Mask::None).linear("attn.proj", width);
                context = context + gate * attended;
                context = context + gate2 * mlp(ln(context).modulate(shift2, scale2), "mlp", d.mlp_ratio);
                trace.output(format!("block{i}.context"), context);
                tokens
            });
            // 4. Patches see everything that is visible.
            g.scope("x_block", || {
                let attended =
                    q.attention(&[tokens, own], heads, heads, Mask::None).linear("attn.proj", width);
                x = x + gate * attended;
                x = x + gate2 * mlp(ln(x).modulate(shift2, scale2), "mlp", d.mlp_ratio);
            });
            trace.output(format!("block{i}.x"), x);
        });
    }
    g.scope("final_layer", || {
        let [shift, scale] = c.modulation("adaLN_modulation.1");
        let outputs = config.patch_size * config.patch_size * config.latent_channels;
        let y = ln(x).modulate(shift, scale).linear("linear", outputs);
        trace.output("final_layer", y);
        y
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_size_is_special() {
        let mut config = Config::released(512);
        config.num_tokens = 7;
        config.tokens_per_stage = None;
        config.patch_size = 4;
        config.latent_channels = 3;
        config.decoder.hidden_size = 30;
        config.decoder.num_heads = 3;
        config.decoder.depth = 1;
        let graph = sample(&config, 5, [8, 20], 9, Options::default()).unwrap();
        let (name, id) = &graph.outputs[0];
        assert_eq!((name.as_str(), graph.shape(*id).to_string()), ("latent", "[5~0, 3, 8, 20]".into()));
        let last =
            graph.weights().find(|(_, value)| value.name == "model.final_layer.linear.weight").unwrap();
        assert_eq!(last.1.shape.sizes(), [4 * 4 * 3, 30]);
    }

    #[test]
    fn sizes_that_cannot_be_are_refused_by_name() {
        let config = Config::released(512);
        let error = |result: Result<Graph, GraphError>| result.unwrap_err().to_string();
        let options = Options::default();
        assert!(error(sample(&config, 1, [32, 32], 0, options)).contains("max_grid = 0"));
        assert!(error(velocity(&config, 0, [32, 32], options)).contains("batch = 0"));
        assert!(error(start(&config, 1, [32, 1000])).contains("latent = 32 x 1000"));
    }
}
