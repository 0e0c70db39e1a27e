//! The first page about a model: what it is, how large, and what it can do.

use crate::output::{bytes, grouped};
use anyhow::Result;
use selftok::Selftok;
use selftok_loader::Weights;
use serde_json::{Value, json};

/// One file or folder of weights.
struct Part {
    name: &'static str,
    path: String,
    parameters: usize,
    bytes: usize,
}

/// The first page.
pub struct Summary<'a> {
    selftok: &'a Selftok,
    parts: Vec<Part>,
}

impl<'a> Summary<'a> {
    /// Reads headers alone.
    ///
    /// Errors: none that opening did not meet before.
    pub fn of(selftok: &'a Selftok) -> Result<Self> {
        let files = selftok.files();
        let part = |name, weights: &Weights| Part {
            name,
            path: weights.path().display().to_string(),
            parameters: weights.iter().map(|t| t.numel()).sum(),
            bytes: weights.iter().map(|t| t.bytes.len()).sum(),
        };
        let mut parts = Vec::new();
        if let Ok(tokenizer) = files.diffusion() {
            parts.push(part("tokenizer", &tokenizer.weights));
        }
        if let Ok(renderer) = files.renderer() {
            parts.push(part("renderer", &renderer.weights));
        }
        if let Ok(vae) = files.vae() {
            parts.push(part("autoencoder", &vae.weights));
        }
        Ok(Summary { selftok, parts })
    }

    /// For machines.
    pub fn json(&self) -> Value {
        let config = self.selftok.config();
        let parts: Vec<Value> = self
            .parts
            .iter()
            .map(|p| json!({ "part": p.name, "path": p.path, "parameters": p.parameters, "bytes": p.bytes }))
            .collect();
        json!({
            "kind": "selftok",
            "path": self.selftok.files().path(),
            "num_tokens": config.num_tokens,
            "codebook_size": config.codebook_size,
            "code_dim": config.code_dim,
            "image_size": config.image_size,
            "latent": [config.latent_channels, config.latent_size, config.latent_size],
            "tokens_per_stage": config.tokens_per_stage,
            "parts": parts,
            "can_encode": self.selftok.can_encode(),
            "can_render": self.selftok.can_render(),
            "can_diffuse": self.selftok.can_diffuse(),
            "has_pictures": self.selftok.has_pictures(),
        })
    }
}

impl std::fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let c = self.selftok.config();
        let bits = (c.codebook_size as f64).log2() * c.num_tokens as f64;
        writeln!(f, "model        Selftok, {}", self.selftok.files().path().display())?;
        writeln!(
            f,
            "tokens       {} of {} codes with {} values: {bits:.0} bits a picture",
            c.num_tokens, c.codebook_size, c.code_dim
        )?;
        writeln!(f, "picture      {0} x {0} pixels", c.image_size)?;
        writeln!(
            f,
            "latent       {0} channels of {1} x {1}, patches of {2} x {2}",
            c.latent_channels, c.latent_size, c.patch_size
        )?;
        let e = &c.encoder;
        writeln!(
            f,
            "encoder      {} blocks, image width {} ({} heads), query width {} ({} heads)",
            e.depth, e.hidden_size, e.num_heads, e.query_size, e.query_heads
        )?;
        let d = &c.decoder;
        writeln!(
            f,
            "decoder      {} joint blocks, width {} ({} heads)",
            d.depth, d.hidden_size, d.num_heads
        )?;
        match &c.tokens_per_stage {
            Some(stages) => {
                writeln!(f, "stages       {stages:?} tokens become visible in each fifth of time")?
            }
            None => writeln!(f, "stages       unknown: no diffusion without them")?,
        }
        for part in &self.parts {
            writeln!(
                f,
                "{:<12} {} parameters, {}, {}",
                part.name,
                grouped(part.parameters),
                bytes(part.bytes),
                part.path
            )?;
        }
        let pictures = self.selftok.has_pictures();
        let can = |can: bool| if can && pictures { "yes" } else { "no" };
        writeln!(
            f,
            "can          encode: {}, render: {}, diffuse: {}{}",
            can(self.selftok.can_encode()),
            can(self.selftok.can_render()),
            can(self.selftok.can_diffuse()),
            if pictures { "" } else { " (there is no autoencoder: name one with --vae)" }
        )
    }
}
