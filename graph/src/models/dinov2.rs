//! DINOv2 (Oquab et al. 2023), under the names of transformers' `Dinov2Model`: a ViT whose residual branches are
//! scaled (LayerScale) and whose largest size has a gated MLP (SwiGLU).

use super::vit::parts::{
    Patches, activation, bounded, check_batch, class_and_patches, class_row, epsilon, heads, pixels,
    self_attention, wrong,
};
use super::vit::{PROJECTIONS, Size};
use crate::{Activation, Builder, Graph, GraphError, Mask, Tensor};
use serde::Deserialize;

/// transformers' `Dinov2Config`: fields that are absent have its defaults; those that do not matter here are passed
/// over.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct Config {
    /// `"dinov2"`.
    pub model_type: String,
    /// Width.
    pub hidden_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Heads of each attention.
    pub num_attention_heads: usize,
    /// Width of each layer's hidden layer over the model's.
    pub mlp_ratio: f64,
    /// Its nonlinearity, where it is not gated.
    pub hidden_act: String,
    /// Epsilon of every layer norm.
    pub layer_norm_eps: f32,
    /// Pixels of the pictures that the position table is for.
    pub image_size: Size,
    /// Pixels of a patch.
    pub patch_size: Size,
    /// Channels of a picture.
    pub num_channels: usize,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Whether the MLP is gated.
    pub use_swiglu_ffn: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            model_type: "dinov2".into(),
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            mlp_ratio: 4.0,
            hidden_act: "gelu".into(),
            layer_norm_eps: 1e-6,
            image_size: Size::Side(224),
            patch_size: Size::Side(14),
            num_channels: 3,
            qkv_bias: true,
            use_swiglu_ffn: false,
        }
    }
}

impl Config {
    /// Checks what the builder relies on, pictures aside.
    pub fn validate(&self) -> Result<(), GraphError> {
        let model = "dinov2";
        if self.model_type != model {
            return Err(wrong(model, "model_type", &self.model_type, "\"dinov2\""));
        }
        bounded(
            model,
            &[
                ("hidden_size", self.hidden_size, 1 << 16),
                ("num_hidden_layers", self.num_hidden_layers, 1 << 10),
                ("num_attention_heads", self.num_attention_heads, 1 << 16),
            ],
        )?;
        if !(self.mlp_ratio > 0.0 && self.mlp_ratio <= 64.0) || self.mlp_size() == 0 {
            return Err(wrong(model, "mlp_ratio", self.mlp_ratio, "a number above 0, at most 64"));
        }
        heads(model, self.hidden_size, self.num_attention_heads)?;
        epsilon(model, self.layer_norm_eps)?;
        activation(model, "hidden_act", &self.hidden_act).map(|_| ())
    }

    /// Width of a layer's hidden layer; gated, it is two thirds of that, rounded up to a multiple of 8.
    fn mlp_size(&self) -> usize {
        let size = (self.hidden_size as f64 * self.mlp_ratio) as usize;
        if self.use_swiglu_ffn { ((size as f64 * 2.0 / 3.0) as usize).next_multiple_of(8) } else { size }
    }
}

/// `pixel_values [B, C, H, W]` → `last_hidden_state [B, 1 + N, D]`, `pooler_output [B, D]` (its first row).
///
/// A picture of another size than the configuration's gets interpolated positions; what does not fill a patch at the
/// right and bottom is not seen. Slot `batch`: pictures, up to `batch`.
pub fn graph(config: &Config, batch: usize, image: [usize; 2]) -> Result<Graph, GraphError> {
    config.validate()?;
    check_batch("dinov2", batch)?;
    let cut = Patches::new("dinov2", config.num_channels, config.patch_size, config.image_size, image)?;
    let act = activation("dinov2", "hidden_act", &config.hidden_act)?;
    let width = config.hidden_size;
    let builder = Builder::new("dinov2");
    let g = &builder;
    let pixels = pixels(g, batch, config.num_channels, image);
    let mut x = g.scope("embeddings", || {
        let patches = pixels.conv2d("patch_embeddings.projection", width, cut.side, cut.side, [0; 4]);
        let rows = 1 + cut.table[0] * cut.table[1];
        let table = g.weight("position_embeddings", [1, rows, width]).reshape([rows, width]);
        class_and_patches(patches, g.weight("cls_token", [1, 1, width]), table, &cut)
    });
    for i in 0..config.num_hidden_layers {
        x = g.scope(format!("encoder.layer.{i}"), || {
            let normed = x.layer_norm("norm1", config.layer_norm_eps);
            let heads = config.num_attention_heads;
            let attended = self_attention(normed, &PROJECTIONS, heads, config.qkv_bias, Mask::None);
            let x = x + g.weight("layer_scale1.lambda1", [width]) * attended;
            let normed = x.layer_norm("norm2", config.layer_norm_eps);
            x + g.weight("layer_scale2.lambda1", [width]) * mlp(config, act, normed)
        });
    }
    let x = x.layer_norm("layernorm", config.layer_norm_eps);
    g.output("last_hidden_state", x);
    g.output("pooler_output", class_row(x));
    builder.finish()
}

/// `fc2(act(fc1(x)))`, or gated: `out(silu(a) * b)` with `[a, b] = in(x)`.
fn mlp<'g>(config: &Config, act: Activation, x: Tensor<'g>) -> Tensor<'g> {
    let (width, size) = (config.hidden_size, config.mlp_size());
    if config.use_swiglu_ffn {
        let [a, b] = x.linear("mlp.weights_in", 2 * size).split();
        return (a.act(Activation::Silu) * b).linear("mlp.weights_out", width);
    }
    x.linear("mlp.fc1", size).act(act).linear("mlp.fc2", width)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gated_mlp_has_the_published_width() {
        // facebook/dinov2-giant: 1536 wide, 4096 after the gate.
        let giant = Config { hidden_size: 1536, use_swiglu_ffn: true, ..Config::default() };
        assert_eq!(giant.mlp_size(), 4096);
        let odd = Config { hidden_size: 20, mlp_ratio: 3.0, use_swiglu_ffn: true, ..Config::default() };
        assert_eq!(odd.mlp_size(), 40);
    }

    #[test]
    fn a_picture_of_another_size_gets_its_own_number_of_patches() {
        let config = Config { image_size: Size::Side(518), num_hidden_layers: 1, ..Config::default() };
        let graph = graph(&config, 2, [224, 237]).unwrap();
        let (_, id) = &graph.outputs[0];
        assert_eq!(graph.shape(*id).to_string(), "[2~0, 257, 768]");
    }

    #[test]
    fn ratios_that_cannot_be_are_refused() {
        for mlp_ratio in [0.0, -1.0, f64::NAN, 1e9, 1e-9] {
            let config = Config { mlp_ratio, ..Config::default() };
            assert!(config.validate().unwrap_err().to_string().contains("mlp_ratio"), "{mlp_ratio}");
        }
    }
}
