//! CLIP (Radford et al. 2021): two towers that put pictures and texts into one space, under the names of
//! transformers' `CLIPVisionModelWithProjection` and `CLIPTextModelWithProjection`.

mod config;

pub use config::{Config, TextConfig, VisionConfig};

use super::vit::parts::{
    Patches, Projections, Resize, activation, check_batch, class_and_patches, class_row, pixels,
    self_attention_among, wrong,
};
use crate::{Builder, DType, Dim, Graph, GraphError, Mask, Stage, Tensor};
use config::Tower;

const PROJECTIONS: Projections = Projections {
    q: "self_attn.q_proj",
    k: "self_attn.k_proj",
    v: "self_attn.v_proj",
    out: "self_attn.out_proj",
};

/// `pixel_values [B, C, H, W]` → `last_hidden_state [B, 1 + N, D]`, `pooler_output [B, D]` (the class token, normed),
/// and where `projection` holds `image_embeds [B, P]`.
///
/// A picture of another size than the configuration's gets interpolated positions. Slot `batch`: pictures, up to
/// `batch`.
pub fn vision(
    config: &VisionConfig,
    projection: bool,
    batch: usize,
    image: [usize; 2],
) -> Result<Graph, GraphError> {
    let tower = config.tower();
    tower.validate()?;
    check_batch(tower.model, batch)?;
    let cut = Patches::new(tower.model, config.num_channels, config.patch_size, config.image_size, image)?;
    let builder = Builder::new(tower.model);
    let g = &builder;
    let pixels = pixels(g, batch, config.num_channels, image);
    let pooled = g.scope("vision_model", || {
        let x = g.scope("embeddings", || {
            let patches = pixels.conv2d_no_bias("patch_embedding", tower.width, cut.side, cut.side);
            let class = g.weight("class_embedding", [tower.width]).reshape([1, 1, tower.width]);
            let rows = 1 + cut.table[0] * cut.table[1];
            let table = g.weight("position_embedding.weight", [rows, tower.width]);
            let (class, patches) = class_and_patches(patches, class, table, &cut, Resize::Plain);
            class.concat(1, &[patches])
        });
        // The name is misspelt in every published file.
        let x = encoder(g, &tower, x.layer_norm("pre_layrnorm", tower.eps), Mask::None, None)?;
        g.output("last_hidden_state", x);
        let pooled = class_row(x).layer_norm("post_layernorm", tower.eps);
        g.output("pooler_output", pooled);
        Ok::<_, GraphError>(pooled)
    })?;
    if projection {
        g.output("image_embeds", pooled.linear_no_bias("visual_projection", tower.projection));
    }
    builder.finish()
}

/// `input_ids [B, T]`, `end [B]` → `last_hidden_state [B, T, D]`, `pooler_output [B, D]` (the row where the text ends),
/// and where `projection` holds `text_embeds [B, P]`.
///
/// `end` holds for each text `T * b + ` [`TextConfig::end`], its row among all. The batch is always full. Where texts are
/// `padded`, the slot `visible` says how many of their ids count: no row sees those behind.
pub fn text(
    config: &TextConfig,
    projection: bool,
    batch: usize,
    length: usize,
    padded: bool,
) -> Result<Graph, GraphError> {
    config.validate()?;
    let tower = config.tower();
    check_batch(tower.model, batch)?;
    if length == 0 || length > config.max_position_embeddings {
        let expected = format!("from 1 to max_position_embeddings {} ids", config.max_position_embeddings);
        return Err(wrong(tower.model, "input_ids", format!("{length} ids a text"), expected));
    }
    let builder = Builder::new(tower.model);
    let g = &builder;
    let ids = g.input("input_ids", [batch, length], DType::I32, Stage::Request);
    let end = g.input("end", [batch], DType::I32, Stage::Request);
    let visible = padded.then(|| g.up_to("visible", length, Stage::Request));
    let pooled = g.scope("text_model", || {
        let x = g.scope("embeddings", || {
            let tokens = g.weight("token_embedding.weight", [config.vocab_size, tower.width]).embed(ids);
            let rows = config.max_position_embeddings;
            tokens + g.weight("position_embedding.weight", [rows, tower.width]).slice(0, 0, length)
        });
        let x = encoder(g, &tower, x, Mask::Causal { offset: None }, visible)?;
        let x = x.layer_norm("final_layer_norm", tower.eps);
        g.output("last_hidden_state", x);
        let pooled = x.reshape([batch * length, tower.width]).embed(end);
        g.output("pooler_output", pooled);
        Ok::<_, GraphError>(pooled)
    })?;
    if projection {
        g.output("text_embeds", pooled.linear_no_bias("text_projection", tower.projection));
    }
    builder.finish()
}

/// Layers of `x + attention(norm(x))`, then `x + mlp(norm(x))`.
fn encoder<'g>(
    g: &'g Builder,
    tower: &Tower<'_>,
    mut x: Tensor<'g>,
    mask: Mask,
    visible: Option<Dim>,
) -> Result<Tensor<'g>, GraphError> {
    let act = activation(tower.model, "hidden_act", tower.act)?;
    for i in 0..tower.layers {
        x = g.scope(format!("encoder.layers.{i}"), || {
            let normed = x.layer_norm("layer_norm1", tower.eps);
            let x = x + self_attention_among(normed, &PROJECTIONS, tower.heads, true, mask, visible);
            let hidden = x.layer_norm("layer_norm2", tower.eps).linear("mlp.fc1", tower.hidden);
            x + hidden.act(act).linear("mlp.fc2", tower.width)
        });
    }
    Ok(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_longer_than_the_table_is_refused() {
        let error = text(&TextConfig::default(), true, 1, 78, false).unwrap_err().to_string();
        assert!(error.contains("input_ids = 78 ids a text: from 1 to max_position_embeddings 77"), "{error}");
    }

    #[test]
    fn a_projection_adds_its_output_alone() {
        let config = VisionConfig { num_hidden_layers: 1, ..VisionConfig::default() };
        let names = |projection| {
            let graph = vision(&config, projection, 1, [224, 224]).unwrap();
            graph.outputs.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(false), ["last_hidden_state", "pooler_output"]);
        assert_eq!(names(true), ["last_hidden_state", "pooler_output", "image_embeds"]);
    }
}
