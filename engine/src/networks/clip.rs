//! CLIP: a tower for pictures, one for texts, or a folder of both, of which the inputs choose one.

use super::vision::{Pictures, clip_pictures, named};
use super::{Architecture, Entry, Folder, NamedTensors, NetworkError, Values, check_weights};
use crate::Error;
use selftok_graph::Graph;
use selftok_graph::models::clip::{self, TextConfig};
use selftok_loader::{DTypeClass, Pattern, TensorSource, Weights};
use std::sync::Arc;

const SIGNATURE: &str = "input_ids [B, T]";

struct Texts {
    config: TextConfig,
    weights: Arc<Weights>,
    projection: bool,
}

struct Both {
    pictures: Pictures,
    texts: Texts,
    signature: String,
}

/// Position numbers that older files hold, and the temperature of training.
fn ignored() -> [Pattern; 2] {
    [Pattern::new("*.embeddings.position_ids"), Pattern::new("logit_scale")]
}

fn texts(folder: &Folder<'_>, config: TextConfig, weights: Arc<Weights>) -> Result<(Texts, Graph), Error> {
    let projection = weights.info("text_projection.weight").is_some();
    let graph = clip::text(&config, projection, 1, 1).map_err(|error| named(folder, error.into()))?;
    Ok((Texts { config, weights, projection }, graph))
}

/// Opens the tower for pictures.
pub(super) fn open_vision(folder: &Folder<'_>) -> Result<Box<dyn Architecture>, Error> {
    let weights = Arc::new(Weights::open(folder.path)?);
    let (pictures, graph) = clip_pictures(folder, folder.config()?, weights.clone())?;
    check_weights(&*weights, &[graph], DTypeClass::Weight, &ignored())?;
    Ok(Box::new(pictures))
}

/// Opens the tower for texts.
pub(super) fn open_text(folder: &Folder<'_>) -> Result<Box<dyn Architecture>, Error> {
    let weights = Arc::new(Weights::open(folder.path)?);
    let (texts, graph) = texts(folder, folder.config()?, weights.clone())?;
    check_weights(&*weights, &[graph], DTypeClass::Weight, &ignored())?;
    Ok(Box::new(texts))
}

/// Opens a folder of both.
pub(super) fn open(folder: &Folder<'_>) -> Result<Box<dyn Architecture>, Error> {
    let weights = Arc::new(Weights::open(folder.path)?);
    let (vision, text) = folder.config::<clip::Config>()?.towers();
    let (pictures, vision) = clip_pictures(folder, vision, weights.clone())?;
    let (texts, text) = texts(folder, text, weights.clone())?;
    check_weights(&*weights, &[vision, text], DTypeClass::Weight, &ignored())?;
    let signature = format!("{} or {SIGNATURE}, one at a time", pictures.signature());
    Ok(Box::new(Both { pictures, texts, signature }))
}

impl Texts {
    fn ids<'a>(&self, inputs: &'a NamedTensors) -> Result<&'a [i64], Error> {
        Ok(inputs.i64("input_ids").ok_or_else(|| NetworkError::Value {
            name: "input_ids".into(),
            what: "holds floating-point numbers".into(),
            expected: "integers, best as I64".into(),
        })?)
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
        let graph = clip::text(&self.config, self.projection, batch, length)?;
        Ok(Entry { graph, weights: self.weights.clone(), outputs: &[] })
    }

    fn slots(&self, _: &NamedTensors) -> Result<Vec<(&'static str, u32)>, Error> {
        Ok(vec![])
    }

    /// The row at which each text ends.
    fn derive(&self, inputs: &NamedTensors) -> Result<NamedTensors, Error> {
        let [batch, length] = inputs.dims("input_ids", SIGNATURE)?;
        let ids = self.ids(inputs)?;
        // Tokenizers give a mask of ones with a text that is not padded.
        if inputs.has("attention_mask")
            && !inputs.i64("attention_mask").is_some_and(|m| m.iter().all(|&m| m == 1))
        {
            let (name, what) = ("attention_mask".into(), "hides ids, which is not supported".into());
            let expected = "none, or ones alone: a text sees only what stands before it, so padding changes no embedding";
            return Err(NetworkError::Value { name, what, expected: expected.into() }.into());
        }
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
        let expected = || self.signature.clone();
        match (inputs.has("pixel_values"), inputs.has("input_ids")) {
            (true, false) => Ok(&self.pictures),
            (false, true) => Ok(&self.texts),
            (true, true) => {
                Err(NetworkError::Unexpected { name: "input_ids".into(), expected: expected() }.into())
            }
            (false, false) => {
                let (name, given) = ("pixel_values".into(), inputs.describe());
                Err(NetworkError::Missing { name, given, expected: expected() }.into())
            }
        }
    }
}

impl Architecture for Both {
    fn signature(&self) -> &str {
        &self.signature
    }

    fn inputs(&self) -> &[&'static str] {
        &["pixel_values", "input_ids", "attention_mask"]
    }

    fn outputs(&self) -> &[&'static str] {
        &["last_hidden_state", "pooler_output", "image_embeds", "text_embeds"]
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
}
