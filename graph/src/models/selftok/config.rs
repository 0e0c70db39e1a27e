//! The `config.json` of a Selftok folder: what tensor shapes alone do not say, and the sizes that they are checked
//! against.

use crate::GraphError;
use crate::models::MAX_BATCH;
use serde::Deserialize;

/// Number of stages of the token schedule, each 200 thousandths of time long.
const STAGES: usize = 5;

/// Sizes of encoder, quantiser, decoder and renderer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `"selftok"`.
    pub model_type: String,
    /// Side of the picture, in pixels.
    pub image_size: usize,
    /// Channels of the latent.
    pub latent_channels: usize,
    /// Side of the latent, in cells.
    pub latent_size: usize,
    /// Side of a patch, in cells.
    pub patch_size: usize,
    /// Tokens of a picture, `K`.
    pub num_tokens: usize,
    /// Tokens that become visible in each fifth of time; they add up to `num_tokens`. Only the diffusion decoder
    /// asks for it.
    #[serde(default)]
    pub tokens_per_stage: Option<Vec<usize>>,
    /// Number of codes, `V`.
    pub codebook_size: usize,
    /// Width of a code.
    pub code_dim: usize,
    /// The encoder.
    pub encoder: EncoderConfig,
    /// The decoder, and the renderer of the same trunk.
    pub decoder: DecoderConfig,
}

/// Sizes of the encoder.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderConfig {
    /// Width of the image stream.
    pub hidden_size: usize,
    /// Heads of the image stream.
    pub num_heads: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Width of the query stream.
    pub query_size: usize,
    /// Heads of the query stream.
    pub query_heads: usize,
    /// Side of the position table, in patches.
    pub pos_grid: usize,
    /// Width of a block's hidden layer over the stream's width.
    #[serde(default = "mlp_ratio")]
    pub mlp_ratio: usize,
}

/// Sizes of the decoder.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderConfig {
    /// Width of both streams.
    pub hidden_size: usize,
    /// Heads.
    pub num_heads: usize,
    /// Number of joint blocks.
    pub depth: usize,
    /// Side of the position table, in patches.
    pub pos_grid: usize,
    /// Width of a block's hidden layer over the stream's width.
    #[serde(default = "mlp_ratio")]
    pub mlp_ratio: usize,
    /// Whether the renderer's `mask_token` is one row that is repeated over the canvas (released), or a row for
    /// each patch.
    #[serde(default = "repeat")]
    pub repeat: bool,
}

fn mlp_ratio() -> usize {
    4
}

fn repeat() -> bool {
    true
}

impl Config {
    /// The released 256-pixel models, with 512 or 1024 tokens. The schedule of 1024 tokens was never published, so it
    /// is left open.
    pub fn released(num_tokens: usize) -> Config {
        Config {
            model_type: "selftok".into(),
            image_size: 256,
            latent_channels: 16,
            latent_size: 32,
            patch_size: 2,
            num_tokens,
            tokens_per_stage: (num_tokens == 512).then(|| vec![192, 184, 72, 48, 16]),
            codebook_size: 32768,
            code_dim: 16,
            encoder: EncoderConfig {
                hidden_size: 64,
                num_heads: 4,
                depth: 16,
                query_size: 512,
                query_heads: 8,
                pos_grid: 64,
                mlp_ratio: 4,
            },
            decoder: DecoderConfig {
                hidden_size: 1536,
                num_heads: 24,
                depth: 24,
                pos_grid: 192,
                mlp_ratio: 4,
                repeat: true,
            },
        }
    }

    /// Patches along one side of the picture.
    pub fn grid(&self) -> usize {
        self.latent_size / self.patch_size
    }

    /// Pixels along one side of a cell of the latent.
    pub fn downscale(&self) -> usize {
        self.image_size / self.latent_size
    }

    /// Checks what every builder relies on.
    pub fn validate(&self) -> Result<(), GraphError> {
        if self.model_type != "selftok" {
            return Err(wrong("model_type", &self.model_type, "\"selftok\""));
        }
        let (e, d) = (&self.encoder, &self.decoder);
        // The bounds keep the graph small and every product of sizes within a usize.
        for (field, value, most) in [
            ("image_size", self.image_size, 1 << 16),
            ("latent_channels", self.latent_channels, 1 << 12),
            ("latent_size", self.latent_size, 1 << 12),
            ("patch_size", self.patch_size, 1 << 8),
            ("num_tokens", self.num_tokens, 1 << 16),
            ("codebook_size", self.codebook_size, 1 << 24),
            ("code_dim", self.code_dim, 1 << 12),
            ("encoder.hidden_size", e.hidden_size, 1 << 16),
            ("encoder.num_heads", e.num_heads, 1 << 16),
            ("encoder.depth", e.depth, 1 << 10),
            ("encoder.query_size", e.query_size, 1 << 16),
            ("encoder.query_heads", e.query_heads, 1 << 16),
            ("encoder.pos_grid", e.pos_grid, 1 << 12),
            ("encoder.mlp_ratio", e.mlp_ratio, 1 << 6),
            ("decoder.hidden_size", d.hidden_size, 1 << 16),
            ("decoder.num_heads", d.num_heads, 1 << 16),
            ("decoder.depth", d.depth, 1 << 10),
            ("decoder.pos_grid", d.pos_grid, 1 << 12),
            ("decoder.mlp_ratio", d.mlp_ratio, 1 << 6),
        ] {
            if value == 0 || value > most {
                return Err(wrong(field, value, format!("a number from 1 to {most}")));
            }
        }
        for (field, width, heads) in [
            ("encoder.hidden_size", e.hidden_size, e.num_heads),
            ("encoder.query_size", e.query_size, e.query_heads),
            ("decoder.hidden_size", d.hidden_size, d.num_heads),
        ] {
            if !width.is_multiple_of(heads) {
                return Err(wrong(field, width, format!("a multiple of its {heads} heads")));
            }
        }
        if !self.latent_size.is_multiple_of(self.patch_size) {
            let expected = format!("a multiple of patch_size {}", self.patch_size);
            return Err(wrong("latent_size", self.latent_size, expected));
        }
        if !self.image_size.is_multiple_of(self.latent_size) {
            let expected = format!("a multiple of latent_size {}", self.latent_size);
            return Err(wrong("image_size", self.image_size, expected));
        }
        for (field, grid) in [("encoder.pos_grid", e.pos_grid), ("decoder.pos_grid", d.pos_grid)] {
            if grid < self.grid() {
                return Err(wrong(field, grid, format!("at least the {} patches of a side", self.grid())));
            }
        }
        if let Some(stages) = &self.tokens_per_stage {
            let sum = stages.iter().try_fold(0usize, |sum, &n| sum.checked_add(n));
            if stages.len() != STAGES || sum != Some(self.num_tokens) {
                let expected = format!("{STAGES} numbers that add up to num_tokens {}", self.num_tokens);
                return Err(wrong("tokens_per_stage", format!("{stages:?}"), expected));
            }
        }
        Ok(())
    }

    /// Rows and columns of patches of a latent `[height, width]`, which a position table of side `pos_grid` holds.
    pub(super) fn patch_grid(&self, latent: [usize; 2], pos_grid: usize) -> Result<[usize; 2], GraphError> {
        let p = self.patch_size;
        if latent.iter().any(|&side| side == 0 || !side.is_multiple_of(p) || side / p > pos_grid) {
            let expected = format!("sides that are multiples of {p}, at most {} patches long", pos_grid);
            return Err(wrong("latent", format!("{} x {}", latent[0], latent[1]), expected));
        }
        Ok(latent.map(|side| side / p))
    }

    /// Checks the number of pictures of a batch.
    pub(super) fn check_batch(&self, batch: usize) -> Result<(), GraphError> {
        if batch == 0 || batch > MAX_BATCH {
            return Err(wrong("batch", batch, format!("a number from 1 to {MAX_BATCH}")));
        }
        Ok(())
    }
}

pub(super) fn wrong(field: &str, value: impl ToString, expected: impl Into<String>) -> GraphError {
    GraphError::Config {
        model: "selftok".into(),
        field: field.into(),
        value: value.to_string(),
        expected: expected.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_released_configurations_are_valid() {
        assert_eq!(Config::released(512).validate(), Ok(()));
        assert_eq!(Config::released(1024).validate(), Ok(()));
    }

    #[test]
    fn a_wrong_field_is_named_with_what_would_be_right() {
        let mut config = Config::released(512);
        config.decoder.num_heads = 25;
        let error = config.validate().unwrap_err().to_string();
        assert_eq!(error, "selftok: decoder.hidden_size = 1536: a multiple of its 25 heads");
        let mut config = Config::released(512);
        config.tokens_per_stage = Some(vec![512]);
        let error = config.validate().unwrap_err().to_string();
        assert_eq!(error, "selftok: tokens_per_stage = [512]: 5 numbers that add up to num_tokens 512");
        let mut config = Config::released(512);
        config.encoder.depth = 0;
        assert!(config.validate().is_err());
        let error = Config::released(512).patch_grid([32, 31], 64).unwrap_err().to_string();
        assert!(error.contains("32 x 31: sides that are multiples of 2"), "{error}");
    }
}
