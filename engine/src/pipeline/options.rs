//! What may be chosen before a model is opened.

use super::Selftok;
use super::parts::check_files;
use crate::model::{SearchPath, SelftokFiles, Sources};
use crate::{ComputeType, Device, Error};
use std::path::PathBuf;

/// How to open a model; made by [`Selftok::options`].
#[derive(Clone, Default)]
#[must_use = "nothing is opened before `open`"]
pub struct Options {
    sources: Sources,
    device: Option<Device>,
    batch: Option<usize>,
    decode_in: Option<ComputeType>,
    off: Vec<String>,
}

impl Options {
    /// A folder or checkpoint; where not set, `$SELFTOK_MODEL` and the usual places are searched.
    pub fn model(mut self, model: impl Into<PathBuf>) -> Self {
        self.sources.model = model.into();
        self
    }

    /// A second checkpoint: the renderer that belongs to the tokenizer that [`model`](Self::model) names, or the other way
    /// round; of a folder it replaces the one of its kind.
    pub fn other(mut self, checkpoint: impl Into<PathBuf>) -> Self {
        self.sources.other = Some(checkpoint.into());
        self
    }

    /// A `config.json` instead of the one found beside the model.
    pub fn config(mut self, config: impl Into<PathBuf>) -> Self {
        self.sources.config = Some(config.into());
        self
    }

    /// A diffusers autoencoder folder instead of `vae/` beside the model.
    pub fn vae(mut self, vae: impl Into<PathBuf>) -> Self {
        self.sources.vae = Some(vae.into());
        self
    }

    /// Where to run; [`Device::auto`] where not set.
    pub fn device(mut self, device: Device) -> Self {
        self.device = Some(device);
        self
    }

    /// How many pictures go through a network at once; 1 where not set. More pictures run in pieces.
    pub fn batch(mut self, batch: usize) -> Self {
        self.batch = Some(batch);
        self
    }

    /// What decoder, renderer and the autoencoder's decoder compute products in. Encoding stays in the device's
    /// own type (f32 by default), because tokens must match the original's.
    pub fn decode_in(mut self, compute: ComputeType) -> Self {
        self.decode_in = Some(compute);
        self
    }

    /// Turns compiler passes off, for finding faults: `fold`, `fuse.norm`, `place.inplace`, and so on. What
    /// `SELFTOK_OFF` names (separated by commas) is off too.
    pub fn without(mut self, passes: impl IntoIterator<Item = String>) -> Self {
        self.off.extend(passes);
        self
    }

    /// Opens the model and checks every tensor.
    ///
    /// # Errors
    /// If no model is found; if a file cannot be read, is not what it seems, or does not hold exactly the tensors
    /// that the model needs.
    pub fn open(self) -> Result<Selftok, Error> {
        let Options { mut sources, device, batch, decode_in, mut off } = self;
        let batch = batch.unwrap_or(1);
        if batch == 0 || batch > 4096 {
            return Err(Error::Batch { batch });
        }
        if sources.model.as_os_str().is_empty() {
            sources.model = SearchPath::of_process().find()?;
        }
        let files = SelftokFiles::open(&sources)?;
        check_files(&files)?;
        let device = device.map_or_else(Device::auto, Ok)?;
        let decoder_device = decode_in.map_or_else(|| device.clone(), |compute| device.with_compute(compute));
        if let Ok(names) = std::env::var("SELFTOK_OFF") {
            off.extend(names.split(',').map(str::trim).filter(|s| !s.is_empty()).map(String::from));
        }
        Ok(Selftok { files, device, decoder_device, batch, off, networks: Default::default() })
    }
}
