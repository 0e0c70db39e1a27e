//! `config.json` of a Selftok folder: what the shapes of the tensors alone do not say.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::open::read_json;

/// The configuration of a Selftok model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelftokConfig {
    /// Always `selftok`.
    pub model_type: String,
    /// Side of the square picture, in pixels.
    pub image_size: usize,
    /// Channels of the autoencoder's latent.
    pub latent_channels: usize,
    /// Side of the latent, in cells.
    pub latent_size: usize,
    /// Side of a patch, in latent cells.
    pub patch_size: usize,
    /// Tokens of one picture (K).
    pub num_tokens: usize,
    /// Tokens that become visible in each fifth of the time axis, from t = 0 on; they add up to `num_tokens`. `None` where
    /// it is not known (the released 1024-token files); only decoding by diffusion needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_stage: Option<Vec<usize>>,
    /// Codes in the codebook.
    pub codebook_size: usize,
    /// Values of one code.
    pub code_dim: usize,
    /// The encoder.
    pub encoder: EncoderConfig,
    /// The trunk that the diffusion decoder and the one-step renderer share.
    pub decoder: DecoderConfig,
}

/// The dual-stream encoder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderConfig {
    /// Width of the image stream.
    pub hidden_size: usize,
    /// Heads of the image stream.
    pub num_heads: usize,
    /// Blocks.
    pub depth: usize,
    /// Width of the query stream.
    pub query_size: usize,
    /// Heads of the query stream.
    pub query_heads: usize,
    /// Side of the position table, in patches.
    pub pos_grid: usize,
}

/// The MMDiT trunk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderConfig {
    /// Width of both streams.
    pub hidden_size: usize,
    /// Heads.
    pub num_heads: usize,
    /// Joint blocks.
    pub depth: usize,
    /// Side of the position table, in patches.
    pub pos_grid: usize,
}

impl SelftokConfig {
    /// Reads and validates a `config.json`.
    ///
    /// Errors: it does not parse, has an unknown or missing field, or its numbers are impossible.
    pub fn read(path: &Path) -> Result<Self> {
        let config: SelftokConfig = read_json(path)?;
        config.validate().map_err(|what| Error::config(path, what))?;
        Ok(config)
    }

    /// Patches along one side of the picture.
    pub fn grid(&self) -> usize {
        self.latent_size / self.patch_size
    }

    /// Pixels along one side of a latent cell.
    pub fn downscale(&self) -> usize {
        self.image_size / self.latent_size
    }

    /// Checks that the numbers are possible and agree with each other; the error says which do not.
    pub fn validate(&self) -> Result<(), String> {
        if self.model_type != "selftok" {
            return Err(format!("model_type is \"{}\", \"selftok\" is needed", self.model_type));
        }
        let (e, d) = (&self.encoder, &self.decoder);
        for (name, value) in [
            ("image_size", self.image_size),
            ("latent_channels", self.latent_channels),
            ("latent_size", self.latent_size),
            ("patch_size", self.patch_size),
            ("num_tokens", self.num_tokens),
            ("codebook_size", self.codebook_size),
            ("code_dim", self.code_dim),
            ("encoder.hidden_size", e.hidden_size),
            ("encoder.num_heads", e.num_heads),
            ("encoder.depth", e.depth),
            ("encoder.query_size", e.query_size),
            ("encoder.query_heads", e.query_heads),
            ("encoder.pos_grid", e.pos_grid),
            ("decoder.hidden_size", d.hidden_size),
            ("decoder.num_heads", d.num_heads),
            ("decoder.depth", d.depth),
            ("decoder.pos_grid", d.pos_grid),
        ] {
            // The upper bound keeps every later product of two of them far from overflow.
            if value == 0 || value > 1 << 24 {
                return Err(format!("{name} is {value}, it must be between 1 and {}", 1 << 24));
            }
        }
        for (name, value, divisor_name, divisor) in [
            ("image_size", self.image_size, "latent_size", self.latent_size),
            ("latent_size", self.latent_size, "patch_size", self.patch_size),
            ("encoder.hidden_size", e.hidden_size, "encoder.num_heads", e.num_heads),
            ("encoder.query_size", e.query_size, "encoder.query_heads", e.query_heads),
            ("decoder.hidden_size", d.hidden_size, "decoder.num_heads", d.num_heads),
        ] {
            if value % divisor != 0 {
                return Err(format!("{name} {value} is not a multiple of {divisor_name} {divisor}"));
            }
        }
        for (name, grid) in [("encoder", e.pos_grid), ("decoder", d.pos_grid)] {
            if grid < self.grid() {
                return Err(format!(
                    "{name}.pos_grid {grid} is smaller than the {} patches of a side",
                    self.grid()
                ));
            }
        }
        let Some(stages) = &self.tokens_per_stage else { return Ok(()) };
        let sum = stages.iter().try_fold(0usize, |sum, &n| sum.checked_add(n));
        if stages.len() != 5 || sum != Some(self.num_tokens) {
            return Err(format!(
                "tokens_per_stage {stages:?} must be five numbers that add up to num_tokens {}",
                self.num_tokens
            ));
        }
        Ok(())
    }
}
