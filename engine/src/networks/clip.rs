//! CLIP: a tower for pictures, one for texts, or a folder of both. There the inputs choose one tower, or compare
//! pictures with texts.

use super::vision::{Pictures, clip_pictures, named, published};
use super::{Architecture, Entry, Folder, NamedTensors, NetworkError, Runner, Values, check_weights};
use crate::Error;
use selftok_graph::Graph;
use selftok_graph::models::clip::{self, TextConfig};
use selftok_loader::{DTypeClass, Pattern, TensorSource, dialects};
use std::sync::Arc;

const SIGNATURE: &str = "input_ids [B, T], and where texts are padded attention_mask [B, T]";

struct Texts {
    config: TextConfig,
    weights: Arc<dyn TensorSource>,
    projection: bool,
}

struct Both {
    pictures: Pictures,
    texts: Texts,
    /// `exp(logit_scale)`: what cosines are multiplied by.
    scale: f32,
    signature: String,
}

/// Position numbers that older files hold, and the temperature of training.
fn ignored() -> [Pattern; 2] {
    ["*.embeddings.position_ids", "logit_scale"].map(Pattern::new)
}

fn texts(
    folder: &Folder<'_>,
    config: TextConfig,
    weights: Arc<dyn TensorSource>,
    projection: bool,
) -> Result<(Texts, Graph), Error> {
    let graph = clip::text(&config, projection, 1, 1, false).map_err(|error| named(folder, error.into()))?;
    Ok((Texts { config, weights, projection }, graph))
}

/// Opens the tower for pictures.
pub(super) fn open_vision(folder: &Folder<'_>) -> Result<Box<dyn Architecture>, Error> {
    let weights = published(folder, dialects::clip_tower("vision_model"))?;
    let projection = weights.info("visual_projection.weight").is_some();
    let (pictures, graph) = clip_pictures(folder, folder.config()?, weights.clone(), projection)?;
    check_weights(&*weights, &[graph], DTypeClass::Weight, &ignored())?;
    Ok(Box::new(pictures))
}

/// Opens the tower for texts.
pub(super) fn open_text(folder: &Folder<'_>) -> Result<Box<dyn Architecture>, Error> {
    let weights = published(folder, dialects::clip_tower("text_model"))?;
    let projection = weights.info("text_projection.weight").is_some();
    let (texts, graph) = texts(folder, folder.config()?, weights.clone(), projection)?;
    check_weights(&*weights, &[graph], DTypeClass::Weight, &ignored())?;
    Ok(Box::new(texts))
}

/// Opens a folder of both.
pub(super) fn open(folder: &Folder<'_>) -> Result<Box<dyn Architecture>, Error> {
    let weights = published(folder, Default::default())?;
    let (vision, text) = folder.config::<clip::Config>()?.towers();
    let (pictures, vision) = clip_pictures(folder, vision, weights.clone(), true)?;
    let (texts, text) = texts(folder, text, weights.clone(), true)?;
    check_weights(&*weights, &[vision, text], DTypeClass::Weight, &ignored())?;
    let scale = weights.to_f32("logit_scale")?.first().map_or(1.0, |scale| scale.exp());
    let signature = format!("{} or {SIGNATURE}, or both", pictures.signature());
    Ok(Box::new(Both { pictures, texts, scale, signature }))
}

impl Texts {
    fn ids<'a>(&self, inputs: &'a NamedTensors) -> Result<&'a [i64], Error> {
        Ok(inputs.i64("input_ids").ok_or_else(|| NetworkError::Value {
            name: "input_ids".into(),
            what: "holds floating-point numbers".into(),
            expected: "integers, best as I64".into(),
        })?)
    }

    /// How many ids of each text count; none where all do.
    fn lengths(&self, inputs: &NamedTensors) -> Result<Option<Vec<u32>>, Error> {
        let Some(mask) = inputs.get("attention_mask") else { return Ok(None) };
        let [_, length] = inputs.dims::<2>("input_ids", SIGNATURE)?;
        if inputs.get("input_ids").is_some_and(|ids| ids.shape != mask.shape) {
            let (name, found) = ("attention_mask".into(), mask.shape.clone());
            return Err(NetworkError::Shape { name, found, expected: format!("that of {SIGNATURE}") }.into());
        }
        let lengths = mask.values.ones(length).ok_or_else(|| NetworkError::Value {
            name: "attention_mask".into(),
            what: "hides ids before others that it does not hide".into(),
            expected: "ones, then zeros: texts are padded at their ends".into(),
        })?;
        Ok(lengths.iter().any(|&ones| ones as usize != length).then_some(lengths))
    }
}

impl Architecture for Texts {
    fn signature(&self) -> &str {
        SIGNATURE
    }

    fn inputs(&self) -> &[&'static str] {
        &["input_ids", "attention_mask"]
    }

    fn outputs(&self) -> &[&'static str] {
        &["last_hidden_state", "pooler_output", "text_embeds"]
    }

    fn entry(&self, inputs: &NamedTensors) -> Result<Entry, Error> {
        let [batch, length] = inputs.dims("input_ids", SIGNATURE)?;
        let padded = inputs.has("attention_mask");
        let graph = clip::text(&self.config, self.projection, batch, length, padded)?;
        Ok(Entry { graph, weights: self.weights.clone(), outputs: &[] })
    }

    fn slots(&self, inputs: &NamedTensors) -> Result<Vec<(&'static str, u32)>, Error> {
        let Some(mask) = inputs.get("attention_mask") else { return Ok(vec![]) };
        let visible = mask.values.ones(mask.values.len()).map_or(0, |lengths| lengths[0]);
        Ok(vec![("visible", visible)])
    }

    /// Padded texts take a run each, since each has its own length.
    fn run(&self, inputs: &NamedTensors, runner: &Runner<'_>) -> Result<NamedTensors, Error> {
        let [batch, _] = inputs.dims::<2>("input_ids", SIGNATURE)?;
        if self.lengths(inputs)?.is_none() {
            return runner.run(&inputs.without("attention_mask"));
        }
        let mut results = NamedTensors::new();
        for row in 0..batch {
            results.append(runner.run(&inputs.rows(row..row + 1))?);
        }
        Ok(results)
    }

    /// The row at which each text ends.
    fn derive(&self, inputs: &NamedTensors) -> Result<NamedTensors, Error> {
        let [batch, length] = inputs.dims("input_ids", SIGNATURE)?;
        let ids = self.ids(inputs)?;
        let vocab = self.config.vocab_size;
        if let Some(id) = ids.iter().find(|&&id| usize::try_from(id).map_or(true, |id| id >= vocab)) {
            let (name, what) = ("input_ids".into(), format!("{id} is not in the vocabulary"));
            return Err(NetworkError::Value { name, what, expected: format!("ids below {vocab}") }.into());
        }
        let rows = ids.chunks_exact(length).enumerate();
        let ends = rows.map(|(i, ids)| (i * length + self.config.end(ids)) as i64).collect();
        NamedTensors::new().with("end", &[batch], Values::I64(ends))
    }
}

impl Both {
    fn tower(&self, inputs: &NamedTensors) -> Result<&dyn Architecture, Error> {
        if inputs.has("input_ids") {
            return Ok(&self.texts);
        }
        if inputs.has("attention_mask") {
            let (name, given) = ("input_ids".into(), inputs.describe());
            return Err(NetworkError::Missing { name, given, expected: self.signature.clone() }.into());
        }
        Ok(&self.pictures)
    }

    /// Cosines of every picture with every text, times the scale: embeddings of length 1 and both tables of logits, as
    /// transformers' `CLIPModel` gives them.
    fn compare(&self, pictures: &NamedTensors, texts: &NamedTensors) -> Result<NamedTensors, Error> {
        let (images, width) = unit_rows(pictures, "image_embeds");
        let (texts, _) = unit_rows(texts, "text_embeds");
        let (rows, columns) = (images.len() / width, texts.len() / width);
        let mut table = Vec::with_capacity(rows * columns);
        for image in images.chunks_exact(width) {
            for text in texts.chunks_exact(width) {
                let cosine: f32 = image.iter().zip(text).map(|(a, b)| a * b).sum();
                table.push(cosine * self.scale);
            }
        }
        let turned = (0..rows * columns).map(|i| table[i % rows * columns + i / rows]).collect();
        NamedTensors::new()
            .with("logits_per_image", &[rows, columns], Values::F32(table))?
            .with("logits_per_text", &[columns, rows], Values::F32(turned))?
            .with("image_embeds", &[rows, width], Values::F32(images))?
            .with("text_embeds", &[columns, width], Values::F32(texts))
    }
}

/// The rows of a matrix at length 1, and their width.
fn unit_rows(tensors: &NamedTensors, name: &str) -> (Vec<f32>, usize) {
    let width = tensors.get(name).map_or(1, |tensor| tensor.shape[1].max(1));
    let mut rows = tensors.f32(name).unwrap_or_default().to_vec();
    for row in rows.chunks_exact_mut(width) {
        let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter_mut().for_each(|x| *x /= length);
    }
    (rows, width)
}

impl Architecture for Both {
    fn signature(&self) -> &str {
        &self.signature
    }

    fn inputs(&self) -> &[&'static str] {
        &["pixel_values", "input_ids", "attention_mask"]
    }

    fn outputs(&self) -> &[&'static str] {
        &[
            "last_hidden_state",
            "pooler_output",
            "image_embeds",
            "text_embeds",
            "logits_per_image",
            "logits_per_text",
        ]
    }

    fn entry(&self, inputs: &NamedTensors) -> Result<Entry, Error> {
        self.tower(inputs)?.entry(inputs)
    }

    fn slots(&self, inputs: &NamedTensors) -> Result<Vec<(&'static str, u32)>, Error> {
        self.tower(inputs)?.slots(inputs)
    }

    fn derive(&self, inputs: &NamedTensors) -> Result<NamedTensors, Error> {
        self.tower(inputs)?.derive(inputs)
    }

    fn run(&self, inputs: &NamedTensors, runner: &Runner<'_>) -> Result<NamedTensors, Error> {
        if !(inputs.has("pixel_values") && inputs.has("input_ids")) {
            return self.tower(inputs)?.run(inputs, runner);
        }
        let texts = self.texts.run(&inputs.without("pixel_values"), runner)?;
        let pictures = runner.run(&inputs.without("input_ids").without("attention_mask"))?;
        self.compare(&pictures, &texts)
    }
}
