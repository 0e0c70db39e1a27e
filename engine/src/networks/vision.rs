//! ViT, DINOv2 and CLIP's pictures: `pixel_values` in, hidden states and embeddings out.

use super::{Architecture, Entry, Folder, NamedTensors, check_weights};
use crate::Error;
use selftok_graph::models::{clip, dinov2, vit};
use selftok_graph::{Graph, GraphError};
use selftok_loader::{DTypeClass, Dialect, Error as LoaderError, Pattern, TensorSource, Weights, dialects};
use std::sync::Arc;

/// Builds the graph of a batch of pictures of `[height, width]`.
type Build = Box<dyn Fn(usize, [usize; 2]) -> Result<Graph, GraphError> + Send + Sync>;

/// A network over pictures alone.
pub(super) struct Pictures {
    weights: Arc<dyn TensorSource>,
    channels: usize,
    signature: String,
    build: Build,
}

impl Pictures {
    /// Builds the graph of the smallest picture, whose weights are those of every other.
    fn smallest(&self, patch: vit::Size) -> Result<Graph, Error> {
        Ok((self.build)(1, patch.height_width())?)
    }

    fn new(weights: Arc<dyn TensorSource>, channels: usize, build: Build) -> Pictures {
        let signature = format!("pixel_values [B, {channels}, H, W]");
        Pictures { weights, channels, signature, build }
    }
}

/// Opens a ViT: the model, or the model with a classifier (whose names begin with `vit.`).
pub(super) fn open_vit(folder: &Folder<'_>) -> Result<Box<dyn Architecture>, Error> {
    let config: vit::Config = folder.config()?;
    let weights = published(folder, dialects::vit())?;
    let labels = weights.info("classifier.weight").map(|info| info.rows());
    let prefix = if labels.is_some() { "vit." } else { "" };
    let pooler = weights.info(&format!("{prefix}pooler.dense.weight")).is_some();
    let heads = vit::Heads { pooler, labels };
    let (channels, patch) = (config.num_channels, config.patch_size);
    let build = move |batch, image| vit::graph(&config, heads, batch, image);
    checked(folder, Pictures::new(weights, channels, Box::new(build)), patch)
}

/// Opens a DINOv2, with or without registers: the model, or the model with a classifier.
pub(super) fn open_dinov2(folder: &Folder<'_>) -> Result<Box<dyn Architecture>, Error> {
    let config: dinov2::Config = folder.config()?;
    let weights = published(folder, dialects::dinov2())?;
    let labels = weights.info("classifier.weight").map(|info| info.rows());
    let (channels, patch) = (config.num_channels, config.patch_size);
    let build = move |batch, image| dinov2::graph(&config, labels, batch, image);
    checked(folder, Pictures::new(weights, channels, Box::new(build)), patch)
}

/// A folder's weights under the names of the published files.
pub(super) fn published(folder: &Folder<'_>, names: Dialect) -> Result<Arc<dyn TensorSource>, Error> {
    Ok(Arc::new(names.apply(Arc::new(Weights::open(folder.path)?))?))
}

/// Holds the folder's tensors against those of the graph.
fn checked(
    folder: &Folder<'_>,
    pictures: Pictures,
    patch: vit::Size,
) -> Result<Box<dyn Architecture>, Error> {
    let graph = pictures.smallest(patch).map_err(|error| named(folder, error))?;
    // Of training alone.
    let ignore = ["embeddings.mask_token", "*.embeddings.mask_token"].map(Pattern::new);
    check_weights(&*pictures.weights, &[graph], DTypeClass::Weight, &ignore)?;
    Ok(Box::new(pictures))
}

/// CLIP's tower for pictures, with its graph for the check of weights.
pub(super) fn clip_pictures(
    folder: &Folder<'_>,
    config: clip::VisionConfig,
    weights: Arc<dyn TensorSource>,
    projection: bool,
) -> Result<(Pictures, Graph), Error> {
    let (channels, patch) = (config.num_channels, config.patch_size);
    let build = move |batch, image| clip::vision(&config, projection, batch, image);
    let pictures = Pictures::new(weights, channels, Box::new(build));
    let graph = pictures.smallest(patch).map_err(|error| named(folder, error))?;
    Ok((pictures, graph))
}

/// An error of a configuration, with the file that holds it.
pub(super) fn named(folder: &Folder<'_>, error: Error) -> Error {
    match error {
        Error::Graph(error) => LoaderError::config(&folder.config_path(), error.to_string()).into(),
        error => error,
    }
}

impl Architecture for Pictures {
    fn signature(&self) -> &str {
        &self.signature
    }

    fn inputs(&self) -> &[&'static str] {
        &["pixel_values"]
    }

    fn outputs(&self) -> &[&'static str] {
        &["last_hidden_state", "pooler_output", "image_embeds", "logits"]
    }

    fn entry(&self, inputs: &NamedTensors) -> Result<Entry, Error> {
        let [batch, channels, h, w] = inputs.dims("pixel_values", &self.signature)?;
        if channels != self.channels {
            let (found, expected) = (vec![batch, channels, h, w], self.signature.clone());
            return Err(super::NetworkError::Shape { name: "pixel_values".into(), found, expected }.into());
        }
        let graph = (self.build)(batch, [h, w])?;
        Ok(Entry { graph, weights: self.weights.clone(), outputs: &[] })
    }

    fn slots(&self, inputs: &NamedTensors) -> Result<Vec<(&'static str, u32)>, Error> {
        let [batch, ..] = inputs.dims::<4>("pixel_values", &self.signature)?;
        Ok(vec![("batch", batch as u32)])
    }
}
