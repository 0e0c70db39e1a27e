//! What ViT, DINOv2 and CLIP share: how their configurations are read, and the sequence of a class token and patches.

pub(in crate::models) use super::positions::Resize;
use super::positions::interpolate;
use crate::models::MAX_BATCH;
use crate::{Activation, Builder, DType, Dim, GraphError, Mask, Stage, Tensor};
use serde::Deserialize;

/// A side of a picture or patch; transformers writes one number, or height and width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "neither a number of pixels nor [height, width]")]
pub enum Size {
    /// A square.
    Side(usize),
    /// Height and width.
    HeightWidth([usize; 2]),
}

impl Size {
    /// Height and width.
    pub fn height_width(self) -> [usize; 2] {
        match self {
            Size::Side(side) => [side; 2],
            Size::HeightWidth(sides) => sides,
        }
    }
}

/// An error of a configuration of `model`.
pub(in crate::models) fn wrong(
    model: &str,
    field: &str,
    value: impl ToString,
    expected: impl Into<String>,
) -> GraphError {
    GraphError::Config {
        model: model.into(),
        field: field.into(),
        value: value.to_string(),
        expected: expected.into(),
    }
}

/// The function that transformers knows under this name.
pub(in crate::models) fn activation(model: &str, field: &str, name: &str) -> Result<Activation, GraphError> {
    Ok(match name {
        "gelu" | "gelu_python" => Activation::GeluErf,
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_python_tanh" | "gelu_fast" | "gelu_accurate" => {
            Activation::GeluTanh
        }
        "quick_gelu" => Activation::QuickGelu,
        "relu" => Activation::Relu,
        "silu" | "swish" => Activation::Silu,
        "tanh" => Activation::Tanh,
        "linear" => Activation::Identity,
        _ => {
            let expected =
                "gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, quick_gelu, relu, silu, tanh or linear";
            return Err(wrong(model, field, name, expected));
        }
    })
}

/// Checks sizes against bounds that keep graphs small and products within a usize.
pub(in crate::models) fn bounded(model: &str, sizes: &[(&str, usize, usize)]) -> Result<(), GraphError> {
    match sizes.iter().find(|(_, value, most)| *value == 0 || value > most) {
        Some((field, value, most)) => Err(wrong(model, field, value, format!("a number from 1 to {most}"))),
        None => Ok(()),
    }
}

/// Checks that a width falls into heads.
pub(in crate::models) fn heads(model: &str, width: usize, heads: usize) -> Result<(), GraphError> {
    if width.is_multiple_of(heads) {
        return Ok(());
    }
    Err(wrong(model, "hidden_size", width, format!("a multiple of num_attention_heads {heads}")))
}

/// Checks an epsilon.
pub(in crate::models) fn epsilon(model: &str, eps: f32) -> Result<(), GraphError> {
    if eps.is_finite() && eps >= 0.0 {
        return Ok(());
    }
    Err(wrong(model, "layer_norm_eps", eps, "a small positive number"))
}

/// How pictures are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::models) struct Patches {
    /// Channels of a picture.
    pub channels: usize,
    /// Pixels along a side of a patch.
    pub side: usize,
    /// Rows and columns of the position table.
    pub table: [usize; 2],
    /// Rows and columns of this picture.
    pub grid: [usize; 2],
}

impl Patches {
    /// The cut of pictures of `image` pixels by a model trained on `trained` pixels; both height, width.
    pub fn new(
        model: &str,
        channels: usize,
        patch: Size,
        trained: Size,
        image: [usize; 2],
    ) -> Result<Patches, GraphError> {
        let [side, width] = patch.height_width();
        let trained = trained.height_width();
        if side != width {
            return Err(wrong(model, "patch_size", format!("[{side}, {width}]"), "a square"));
        }
        bounded(
            model,
            &[
                ("num_channels", channels, 1 << 10),
                ("patch_size", side, 1 << 10),
                ("image_size", trained[0], 1 << 14),
                ("image_size", trained[1], 1 << 14),
            ],
        )?;
        let grid = |sides: [usize; 2]| sides.map(|n| n / side);
        if grid(trained).contains(&0) {
            let sides = format!("{} x {}", trained[0], trained[1]);
            return Err(wrong(model, "image_size", sides, format!("at least one patch of {side}")));
        }
        if image.iter().any(|&n| n < side || n > 1 << 14) {
            let sides = format!("{} x {}", image[0], image[1]);
            let expected = format!("sides from one patch of {side} to {} pixels", 1 << 14);
            return Err(wrong(model, "pixel_values", sides, expected));
        }
        Ok(Patches { channels, side, table: grid(trained), grid: grid(image) })
    }

    /// Patches of a picture.
    pub fn count(&self) -> usize {
        self.grid[0] * self.grid[1]
    }
}

/// Checks the number of items of a batch.
pub(in crate::models) fn check_batch(model: &str, batch: usize) -> Result<(), GraphError> {
    bounded(model, &[("batch", batch, MAX_BATCH)])
}

/// `pixel_values [B, C, H, W]`, seen as NHWC; the batch is live up to the slot `batch`.
pub(in crate::models) fn pixels<'g>(
    g: &'g Builder,
    batch: usize,
    channels: usize,
    image: [usize; 2],
) -> Tensor<'g> {
    let batch = g.up_to("batch", batch, Stage::Request);
    let [h, w] = image.map(Dim::from);
    g.input("pixel_values", [batch, channels.into(), h, w], DType::F32, Stage::Request).permute(&[0, 2, 3, 1])
}

/// `class + position [B, 1, D]` and `patches + positions [B, N, D]`, of `patches [B, h, w, D]`, `class [1, 1, D]` and
/// `table [1 + G, D]`. The table's patches are interpolated to the picture's; its first row is the class token's.
pub(in crate::models) fn class_and_patches<'g>(
    patches: Tensor<'g>,
    class: Tensor<'g>,
    table: Tensor<'g>,
    cut: &Patches,
    resize: Resize,
) -> (Tensor<'g>, Tensor<'g>) {
    let (shape, width) = (patches.shape().0, patches.shape().last());
    let rows = cut.table[0] * cut.table[1];
    let positions = interpolate(table.slice(0, 1, rows), cut.table, cut.grid, resize);
    let sequence = patches.reshape([shape[0], cut.count().into(), width.into()]) + positions;
    ((class + table.slice(0, 0, 1)).expand(shape[0]), sequence)
}

/// The class token's row of `[B, N, D]`: `[B, D]`.
pub(in crate::models) fn class_row(x: Tensor<'_>) -> Tensor<'_> {
    let shape = x.shape().0;
    x.slice(1, 0, 1).reshape([shape[0], shape[2]])
}

/// Names of an attention's four projections.
pub(in crate::models) struct Projections {
    pub q: &'static str,
    pub k: &'static str,
    pub v: &'static str,
    pub out: &'static str,
}

/// `out(softmax(q k^T / sqrt(d)) v)` within `x [B, N, D]`; `bias` is that of q, k and v. All rows may be seen, but for the
/// mask.
pub(in crate::models) fn self_attention<'g>(
    x: Tensor<'g>,
    names: &Projections,
    heads: usize,
    bias: bool,
    mask: Mask,
) -> Tensor<'g> {
    self_attention_among(x, names, heads, bias, mask, None)
}

/// The same where no row sees keys outside `visible`, an extent of `N`.
pub(in crate::models) fn self_attention_among<'g>(
    x: Tensor<'g>,
    names: &Projections,
    heads: usize,
    bias: bool,
    mask: Mask,
    visible: Option<Dim>,
) -> Tensor<'g> {
    let width = x.shape().last();
    let project = |name| if bias { x.linear(name, width) } else { x.linear_no_bias(name, width) };
    let seen = |x: Tensor<'g>| visible.map_or(x, |visible| x.restrict(1, visible));
    let (q, k, v) = (project(names.q), seen(project(names.k)), seen(project(names.v)));
    q.attention(&[(k, v)], heads, heads, mask).linear(names.out, width)
}
