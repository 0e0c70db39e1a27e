//! What a Selftok model is on disk: a folder of the project's own format, or one checkpoint as it was released.
//!
//! The original loads any file into any configuration in silence and fails late or never; here the shapes of a checkpoint are
//! read first ([`Description`]), held against the configuration (`config.json`) and against each other, and every
//! contradiction is an error that names both sides.

mod autoencoder;
mod describe;
mod files;
mod search;

pub use autoencoder::Vae;
pub use describe::{DecoderShape, Description, EncoderShape, Role};
pub use files::{Checkpoint, SelftokFiles, Sources};
pub use search::SearchPath;

use selftok_graph::models::selftok::Config;
use selftok_loader::{Error, Pattern, Result, read_json};
use std::path::Path;

/// Reads and validates the `config.json` of a Selftok folder.
///
/// Errors: it does not parse, has an unknown or missing field, or its numbers are impossible.
pub fn read_config(path: &Path) -> Result<Config> {
    let config: Config = read_json(path)?;
    config.validate().map_err(|error| Error::config(path, error.to_string()))?;
    Ok(config)
}

/// Tensors of a released checkpoint that inference never reads: the training schedule, the quantiser's statistics, and layers
/// that the released configurations construct but do not use.
pub fn unused() -> Vec<Pattern> {
    [
        "diffusion.*",
        "encoder.quantizer.continuous",
        "encoder.quantizer.steps",
        "encoder.quantizer.count",
        "encoder.quantizer._codebook.initted",
        "encoder.quantizer._codebook.tpc_initted",
        "encoder.quantizer._codebook.cluster_size",
        "encoder.quantizer._codebook.cluster_size_wo_react",
        "encoder.quantizer._codebook.embed_avg",
        "encoder.quantizer._codebook.timestep_p_over_c",
        "encoder.final_layer_norm.*",
        "encoder.final_layer_norm2.*",
        "model.y_embedder.*",
    ]
    .map(Pattern::new)
    .into()
}
