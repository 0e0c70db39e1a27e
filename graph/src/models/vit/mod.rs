//! ViT (Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words"), under the names of transformers' `ViTModel`.

mod config;
pub(super) mod parts;
mod positions;

pub use config::Config;
pub use parts::Size;

use crate::{Builder, Graph, GraphError, Mask, Tensor};
use parts::{
    Patches, Projections, Resize, activation, check_batch, class_and_patches, class_row, pixels,
    self_attention,
};

/// Names of an attention's projections, which DINOv2 has too.
pub(super) const PROJECTIONS: Projections = Projections {
    q: "attention.attention.query",
    k: "attention.attention.key",
    v: "attention.attention.value",
    out: "attention.output.dense",
};

/// What stands on top of the encoder, which the configuration does not say and the weights do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heads {
    /// The pooler: `pooler_output`.
    pub pooler: bool,
    /// A classifier of so many labels over the class token: `logits`. Then all other names begin with `vit.`.
    pub labels: Option<usize>,
}

/// `pixel_values [B, C, H, W]` → `last_hidden_state [B, 1 + N, D]`, and what the heads give: `pooler_output [B, P]`,
/// `logits [B, L]`.
///
/// A picture of another size than the configuration's gets interpolated positions. Slot `batch`: pictures, up to
/// `batch`.
pub fn graph(config: &Config, heads: Heads, batch: usize, image: [usize; 2]) -> Result<Graph, GraphError> {
    config.validate()?;
    check_batch("vit", batch)?;
    let cut = Patches::new("vit", config.num_channels, config.patch_size, config.image_size, image)?;
    let pooled = activation("vit", "pooler_act", &config.pooler_act)?;
    let width = config.hidden_size;
    let builder = Builder::new("vit");
    let g = &builder;
    let pixels = pixels(g, batch, config.num_channels, image);
    let prefix = if heads.labels.is_some() { "vit" } else { "" };
    let x = g.scope(prefix, || {
        let mut x = g.scope("embeddings", || {
            let patches = pixels.conv2d("patch_embeddings.projection", width, cut.side, cut.side, [0; 4]);
            let rows = 1 + cut.table[0] * cut.table[1];
            let table = g.weight("position_embeddings", [1, rows, width]).reshape([rows, width]);
            let class = g.weight("cls_token", [1, 1, width]);
            let (class, patches) = class_and_patches(patches, class, table, &cut, Resize::Plain);
            class.concat(1, &[patches])
        });
        for i in 0..config.num_hidden_layers {
            x = g.scope(format!("encoder.layer.{i}"), || layer(config, x))?;
        }
        let x = x.layer_norm("layernorm", config.layer_norm_eps);
        g.output("last_hidden_state", x);
        if heads.pooler {
            let size = config.pooler_output_size.unwrap_or(width);
            g.output("pooler_output", class_row(x).linear("pooler.dense", size).act(pooled));
        }
        Ok::<_, GraphError>(x)
    })?;
    if let Some(labels) = heads.labels {
        g.output("logits", class_row(x).linear("classifier", labels));
    }
    builder.finish()
}

/// `x + attention(norm(x))`, then `x + mlp(norm(x))`.
fn layer<'g>(config: &Config, x: Tensor<'g>) -> Result<Tensor<'g>, GraphError> {
    let (heads, eps) = (config.num_attention_heads, config.layer_norm_eps);
    let act = activation("vit", "hidden_act", &config.hidden_act)?;
    let normed = x.layer_norm("layernorm_before", eps);
    let x = x + self_attention(normed, &PROJECTIONS, heads, config.qkv_bias, Mask::None);
    let hidden = x.layer_norm("layernorm_after", eps).linear("intermediate.dense", config.intermediate_size);
    Ok(x + hidden.act(act).linear("output.dense", config.hidden_size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_sizes_and_heads_change_shapes_alone() {
        let config = Config {
            hidden_size: 24,
            num_attention_heads: 3,
            num_hidden_layers: 1,
            intermediate_size: 40,
            patch_size: Size::Side(4),
            image_size: Size::HeightWidth([8, 12]),
            pooler_output_size: Some(5),
            ..Config::default()
        };
        let heads = Heads { pooler: true, labels: Some(7) };
        let graph = graph(&config, heads, 3, [20, 8]).unwrap();
        let shapes: Vec<_> =
            graph.outputs.iter().map(|(name, id)| format!("{name} {}", graph.shape(*id))).collect();
        assert_eq!(shapes, ["last_hidden_state [3~0, 11, 24]", "pooler_output [3~0, 5]", "logits [3~0, 7]"]);
        let names: Vec<_> = graph.weights().map(|(_, value)| value.name.as_str()).collect();
        assert!(names.contains(&"vit.encoder.layer.0.attention.attention.query.bias"), "{names:?}");
        assert!(names.contains(&"classifier.weight"), "{names:?}");
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let error = |change: fn(&mut Config), image| {
            let mut config = Config::default();
            change(&mut config);
            graph(&config, Heads::default(), 1, image).unwrap_err().to_string()
        };
        assert!(
            error(|c| c.num_attention_heads = 5, [224, 224]).contains("hidden_size = 768: a multiple of")
        );
        assert!(error(|c| c.hidden_act = "mish".into(), [224, 224]).contains("hidden_act = mish"));
        assert!(error(|c| c.model_type = "deit".into(), [224, 224]).contains("model_type = deit"));
        assert!(error(|_| (), [8, 224]).contains("pixel_values = 8 x 224"));
        assert!(error(|c| c.patch_size = Size::Side(0), [224, 224]).contains("patch_size = 0"));
    }
}
