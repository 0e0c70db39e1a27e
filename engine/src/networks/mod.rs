//! Any supported network as a black box: a folder, named tensors in, named tensors out.
//!
//! The shapes of a run come from its inputs. For each set of shapes the network is compiled and bound when it is
//! first met; the latest few stay bound. A new kind of network is one row of [`REGISTRY`] and an [`Architecture`].

mod architecture;
mod autoencoder;
mod causal;
mod clip;
mod diffusion;
mod error;
mod notes;
mod runner;
mod selftok;
mod tensors;
mod vision;

pub use architecture::{Architecture, Entry};
pub(crate) use diffusion::Diffusion;
pub use error::NetworkError;
pub use runner::Runner;
pub use tensors::{NamedTensor, NamedTensors, Values};

use crate::{Device, Error};
use runner::Cache;
use selftok_graph::Graph;
use selftok_loader::{
    DTypeClass, Error as LoaderError, Expected, Pattern, TensorSource, check, from_json, read_json,
};
use std::path::{Path, PathBuf};

/// What a row of the registry opens.
pub struct Folder<'a> {
    /// The folder, or a file of weights that needs none.
    pub path: &'a Path,
    /// Its `config.json`; `Null` for a file alone.
    pub config: &'a serde_json::Value,
    /// Where it is to run.
    pub device: &'a Device,
}

impl Folder<'_> {
    /// The path of the configuration, for messages.
    pub fn config_path(&self) -> PathBuf {
        self.path.join("config.json")
    }

    /// The configuration as a network's own type.
    ///
    /// # Errors
    /// If a field is missing or of the wrong type.
    pub fn config<T: serde::de::DeserializeOwned>(&self) -> Result<T, Error> {
        Ok(from_json(&self.config_path(), self.config)?)
    }
}

/// Opens one kind of network.
pub type Open = fn(&Folder<'_>) -> Result<Box<dyn Architecture>, Error>;

/// The kinds of network, by what `model_type` (Hugging Face) or `_class_name` (diffusers) says.
pub const REGISTRY: &[(&str, Open)] = &[
    ("AutoencoderKL", autoencoder::open),
    ("DiTTransformer2DModel", diffusion::open_dit),
    ("SD3Transformer2DModel", diffusion::open_mmdit),
    ("UNet2DConditionModel", diffusion::open_unet),
    ("clip", clip::open),
    ("clip_text_model", clip::open_text),
    ("clip_vision_model", clip::open_vision),
    ("dinov2", vision::open_dinov2),
    ("dinov2_with_registers", vision::open_dinov2),
    ("gpt2", causal::open),
    ("llama", causal::open),
    ("mistral", causal::open),
    ("qwen2", causal::open),
    ("qwen3", causal::open),
    ("selftok", selftok::open),
    ("vit", vision::open_vit),
];

/// An open network on a device. `Send + Sync`; runs of one set of shapes follow one another.
pub struct Network {
    architecture: Box<dyn Architecture>,
    cache: Cache,
}

/// Opens a network: a folder with `config.json` and its weights, a released Selftok checkpoint, or a GGUF file or a folder of
/// one. Nothing is compiled yet.
///
/// # Errors
/// If the network is not of a supported kind, or its files cannot be read, are not what they seem, or contradict each
/// other.
pub fn open(path: impl AsRef<Path>, device: &Device) -> Result<Network, Error> {
    let path = path.as_ref();
    let is_file = std::fs::metadata(path).map_err(|e| LoaderError::io(path, e))?.is_file();
    let config_path = path.join("config.json");
    let is_gguf = |path: &Path| path.extension().is_some_and(|extension| extension == "gguf");
    let alone = Folder { path, config: &serde_json::Value::Null, device };
    let architecture = if is_file {
        if is_gguf(path) { causal::open(&alone)? } else { selftok::open(&alone)? }
    } else if !config_path.exists() && files_of(path)?.iter().any(|file| is_gguf(file)) {
        causal::open(&alone)?
    } else {
        let config: serde_json::Value = read_json(&config_path)?;
        let (field, value) = kind(&config, &config_path)?;
        let Some((_, open)) = REGISTRY.iter().find(|(name, _)| *name == value) else {
            return Err(NetworkError::Unknown { path: config_path, field, value, known: known() }.into());
        };
        open(&Folder { path, config: &config, device })?
    };
    Ok(Network { architecture, cache: Cache::new(device.clone()) })
}

fn files_of(folder: &Path) -> Result<Vec<PathBuf>, LoaderError> {
    let entries = std::fs::read_dir(folder).map_err(|e| LoaderError::io(folder, e))?;
    entries.map(|entry| Ok(entry.map_err(|e| LoaderError::io(folder, e))?.path())).collect()
}

/// The field that says what a configuration is of, and what it says.
fn kind(config: &serde_json::Value, path: &Path) -> Result<(&'static str, String), Error> {
    for field in ["model_type", "_class_name"] {
        if let Some(value) = config.get(field).and_then(serde_json::Value::as_str) {
            return Ok((field, value.to_string()));
        }
    }
    if let Some(class) = diffusion::class_of(config) {
        return Ok(("_class_name", class.to_string()));
    }
    Err(NetworkError::Unnamed { path: path.into(), known: known() }.into())
}

fn known() -> String {
    REGISTRY.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

impl Network {
    /// What it takes, as messages say it.
    pub fn signature(&self) -> &str {
        self.architecture.signature()
    }

    /// Names among these tensors that [`Network::run`] would refuse, though nothing of the network seems to be meant by them:
    /// what a recording holds beside inputs and results.
    pub fn notes<'a>(&self, tensors: &'a NamedTensors) -> Vec<&'a str> {
        let known = |name: &str| {
            self.architecture.inputs().contains(&name) || self.architecture.outputs().contains(&name)
        };
        let names = tensors.iter().map(|(name, _)| name.as_str());
        names.filter(|name| !known(name) && notes::is_note(name, self.architecture.inputs())).collect()
    }

    /// One run. Compiles first where inputs of these shapes were not met lately.
    ///
    /// A tensor that bears the name of a result is passed over, so that a recording of inputs and outputs can be run
    /// again as it is.
    ///
    /// # Errors
    /// If the inputs are not those of the network, which the message then names; or if the run fails.
    pub fn run(&self, inputs: &NamedTensors) -> Result<NamedTensors, Error> {
        let runner = Runner { architecture: &*self.architecture, cache: &self.cache };
        self.architecture.run(&runner.accept(inputs)?, &runner)
    }
}

/// Checks that a source holds exactly the weights of these graphs, in types of `class`, `ignore` aside.
///
/// # Errors
/// All that differs, in one message.
pub(crate) fn check_weights(
    source: &dyn TensorSource,
    graphs: &[Graph],
    class: DTypeClass,
    ignore: &[Pattern],
) -> Result<(), Error> {
    let mut expected: Vec<Expected> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for (_, value) in graphs.iter().flat_map(Graph::weights) {
        if seen.insert(&value.name) {
            let (name, shape) = (value.name.clone(), value.shape.sizes());
            expected.push(Expected { name, shape, dtype: class });
        }
    }
    Ok(check(source, &expected, ignore)?)
}
