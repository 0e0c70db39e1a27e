//! Section 5: what encoder, decoder and renderer share: position tables, patches, positional modulation.

pub(super) use crate::models::patches::{centre_crop, join_nchw, sequence, unpatchify};
use crate::models::timestep::timestep_embedding;
use crate::{Activation, Builder, DType, Dim, NormKind, Stage, Tensor};

/// Epsilon of every layer norm.
pub(super) const EPS: f32 = 1e-6;

/// Section 5.1: token `k` stands at position `FIRST_POSITION + POSITION_STEP * k` of the time axis, behind the
/// thousand steps of time.
const FIRST_POSITION: f32 = 1000.0;
const POSITION_STEP: f32 = 8.0;

/// Names intermediate values as outputs, for tests that go stage by stage.
#[derive(Clone, Copy)]
pub(super) struct Trace<'g> {
    pub g: &'g Builder,
    pub on: bool,
}

impl<'g> Trace<'g> {
    pub fn output(self, name: impl AsRef<str>, value: Tensor<'g>) {
        if self.on {
            self.g.output(name.as_ref(), value);
        }
    }
}

/// The batch: live up to the number of pictures of a run, also where that can only be one.
pub(super) fn batch_dim(g: &Builder, batch: usize) -> Dim {
    g.up_to("batch", batch, Stage::Request)
}

/// An NCHW input, seen as NHWC.
pub(super) fn image_input<'g>(g: &'g Builder, name: &str, nchw: [Dim; 4], stage: Stage) -> Tensor<'g> {
    g.input(name, nchw, DType::F32, stage).permute(&[0, 2, 3, 1])
}

/// `LN(x)`: without weights.
pub(super) fn ln(x: Tensor<'_>) -> Tensor<'_> {
    x.norm(NormKind::Layer, EPS)
}

/// `fc2(gelu(fc1(x)))`
pub(super) fn mlp<'g>(x: Tensor<'g>, name: &str, ratio: usize) -> Tensor<'g> {
    let width = x.shape().last();
    let hidden = x.linear(&format!("{name}.fc1"), ratio * width).act(Activation::GeluTanh);
    hidden.linear(&format!("{name}.fc2"), width)
}

/// Section 5.3: `x [B, H, W, C]` cut into patches of `side`, each mapped to `width`: `[B, h, w, width]`.
pub(super) fn patch_embed<'g>(x: Tensor<'g>, side: usize, width: usize) -> Tensor<'g> {
    x.conv2d("x_embedder.proj", width, side, side, [0; 4])
}

/// Section 5.4: the six-way modulation of token streams by position, `[tokens, width]` each. It depends on weights
/// alone, so it is a table once the model is bound.
pub(super) fn position_modulation<'g>(g: &'g Builder, tokens: usize, width: usize) -> [Tensor<'g>; 6] {
    let positions = (0..tokens).map(|k| FIRST_POSITION + POSITION_STEP * k as f32).collect();
    let emb = g.scope("t_embedder", || timestep_embedding(g, g.constant([tokens], positions), width));
    emb.act(Activation::Silu).linear("adaLN_modulation.1", 6 * width).split()
}
