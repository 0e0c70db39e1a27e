//! DINOv2 (Oquab et al. 2023), under the names of transformers' `Dinov2Model`: a ViT whose residual branches are
//! scaled (LayerScale) and whose largest size has a gated MLP (SwiGLU). With registers (Darcet et al. 2024) it has a few
//! more learnt tokens beside the class token, under the names of `Dinov2WithRegistersModel`.

use super::vit::parts::{
    Patches, Resize, activation, bounded, check_batch, class_and_patches, class_row, epsilon, heads, pixels,
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
    /// `"dinov2"` or `"dinov2_with_registers"`.
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
    /// Register tokens of a model that has them; 4 where absent.
    pub num_register_tokens: Option<usize>,
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
            num_register_tokens: None,
        }
    }
}

impl Config {
    /// Checks what the builder relies on, pictures aside.
    pub fn validate(&self) -> Result<(), GraphError> {
        let model = "dinov2";
        if self.model_type != model && !self.has_registers() {
            let expected = "\"dinov2\" or \"dinov2_with_registers\"";
            return Err(wrong(model, "model_type", &self.model_type, expected));
        }
        if self.registers() > 1 << 10 {
            return Err(wrong(model, "num_register_tokens", self.registers(), "at most 1024"));
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

    fn has_registers(&self) -> bool {
        self.model_type == "dinov2_with_registers"
    }

    /// Register tokens.
    fn registers(&self) -> usize {
        if self.has_registers() { self.num_register_tokens.unwrap_or(4) } else { 0 }
    }

    /// Width of a layer's hidden layer; gated, it is two thirds of that, rounded up to a multiple of 8.
    fn mlp_size(&self) -> usize {
        let size = (self.hidden_size as f64 * self.mlp_ratio) as usize;
        if self.use_swiglu_ffn { ((size as f64 * 2.0 / 3.0) as usize).next_multiple_of(8) } else { size }
    }
}

/// `pixel_values [B, C, H, W]` → `last_hidden_state [B, 1 + R + N, D]` (class token, `R` registers, patches),
/// `pooler_output [B, D]` (its first row), and with a classifier of so many `labels` over the class token and the mean of
/// the patches `logits [B, L]`. With a classifier all other names begin with `dinov2.` or `dinov2_with_registers.`.
///
/// A picture of another size than the configuration's gets interpolated positions; what does not fill a patch at the
/// right and bottom is not seen. Slot `batch`: pictures, up to `batch`.
pub fn graph(
    config: &Config,
    labels: Option<usize>,
    batch: usize,
    image: [usize; 2],
) -> Result<Graph, GraphError> {
    config.validate()?;
    check_batch("dinov2", batch)?;
    let cut = Patches::new("dinov2", config.num_channels, config.patch_size, config.image_size, image)?;
    let builder = Builder::new("dinov2");
    let g = &builder;
    let pixels = pixels(g, batch, config.num_channels, image);
    let prefix = if labels.is_some() { config.model_type.as_str() } else { "" };
    let x = g.scope(prefix, || {
        let mut x = g.scope("embeddings", || embeddings(config, pixels, &cut));
        for i in 0..config.num_hidden_layers {
            x = g.scope(format!("encoder.layer.{i}"), || layer(config, x))?;
        }
        Ok::<_, GraphError>(x.layer_norm("layernorm", config.layer_norm_eps))
    })?;
    let class = class_row(x);
    g.output("last_hidden_state", x);
    g.output("pooler_output", class);
    if let Some(labels) = labels {
        let patches = x.slice(1, 1 + config.registers(), cut.count());
        let mean = g.constant([1, cut.count()], vec![1.0 / cut.count() as f32; cut.count()]);
        let mean = patches.permute(&[0, 2, 1]).linear_with(mean, None).reshape(class.shape());
        g.output("logits", class.concat(1, &[mean]).linear("classifier", labels));
    }
    builder.finish()
}

/// `[class + position; registers; patches + positions]`; registers have no position.
fn embeddings<'g>(config: &Config, pixels: Tensor<'g>, cut: &Patches) -> Tensor<'g> {
    let (g, width) = (pixels.builder(), config.hidden_size);
    let patches = pixels.conv2d("patch_embeddings.projection", width, cut.side, cut.side, [0; 4]);
    let rows = 1 + cut.table[0] * cut.table[1];
    let table = g.weight("position_embeddings", [1, rows, width]).reshape([rows, width]);
    let class = g.weight("cls_token", [1, 1, width]);
    // The model with registers came later, and resizes its table with antialiasing.
    let resize = if config.has_registers() { Resize::Antialiased } else { Resize::Plain };
    let (class, patches) = class_and_patches(patches, class, table, cut, resize);
    if config.registers() == 0 {
        return class.concat(1, &[patches]);
    }
    let registers = g.weight("register_tokens", [1, config.registers(), width]).expand(class.shape().0[0]);
    class.concat(1, &[registers, patches])
}

/// `x + s1 * attention(norm(x))`, then `x + s2 * mlp(norm(x))`.
fn layer<'g>(config: &Config, x: Tensor<'g>) -> Result<Tensor<'g>, GraphError> {
    let (g, width) = (x.builder(), config.hidden_size);
    let act = activation("dinov2", "hidden_act", &config.hidden_act)?;
    let normed = x.layer_norm("norm1", config.layer_norm_eps);
    let heads = config.num_attention_heads;
    let attended = self_attention(normed, &PROJECTIONS, heads, config.qkv_bias, Mask::None);
    let x = x + g.weight("layer_scale1.lambda1", [width]) * attended;
    let normed = x.layer_norm("norm2", config.layer_norm_eps);
    Ok(x + g.weight("layer_scale2.lambda1", [width]) * mlp(config, act, normed))
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
        let graph = graph(&config, None, 2, [224, 237]).unwrap();
        let (_, id) = &graph.outputs[0];
        assert_eq!(graph.shape(*id).to_string(), "[2~0, 257, 768]");
    }

    #[test]
    fn registers_stand_between_the_class_token_and_the_patches() {
        let config = Config {
            model_type: "dinov2_with_registers".into(),
            num_hidden_layers: 1,
            num_register_tokens: Some(3),
            ..Config::default()
        };
        let graph = graph(&config, Some(10), 2, [28, 42]).unwrap();
        let shapes: Vec<_> =
            graph.outputs.iter().map(|(name, id)| format!("{name} {}", graph.shape(*id))).collect();
        assert_eq!(
            shapes,
            ["last_hidden_state [2~0, 10, 768]", "pooler_output [2~0, 768]", "logits [2~0, 10]"]
        );
        let names: Vec<_> = graph.weights().map(|(_, value)| value.name.as_str()).collect();
        assert!(names.contains(&"dinov2_with_registers.embeddings.register_tokens"), "{names:?}");
    }

    #[test]
    fn ratios_that_cannot_be_are_refused() {
        for mlp_ratio in [0.0, -1.0, f64::NAN, 1e9, 1e-9] {
            let config = Config { mlp_ratio, ..Config::default() };
            assert!(config.validate().unwrap_err().to_string().contains("mlp_ratio"), "{mlp_ratio}");
        }
    }
}
