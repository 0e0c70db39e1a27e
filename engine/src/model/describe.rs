//! What the shapes of a Selftok checkpoint say: tokenizer or renderer, how many tokens, which widths.

use std::fmt;
use std::path::Path;

use selftok_graph::models::selftok::Config;
use selftok_loader::{Error, Result, TensorSource};

/// The two kinds of checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Encoder and diffusion decoder: it has `model.x_embedder`.
    Tokenizer,
    /// The one-step renderer: it has `model.mask_token`. The released files hold the encoder as well.
    Renderer,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Tokenizer => "tokenizer (encoder and diffusion decoder)",
            Role::Renderer => "one-step renderer",
        })
    }
}

/// What the shapes of a checkpoint say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Tokenizer or renderer.
    pub role: Role,
    /// Tokens of one picture (K).
    pub num_tokens: usize,
    /// Codes in the codebook.
    pub codebook_size: usize,
    /// Values of one code.
    pub code_dim: usize,
    /// Latent values in one patch: `latent_channels · patch_size²`.
    pub patch_values: usize,
    /// Channels of the latent and side of a patch, where a patch embedding is in the file.
    pub patch: Option<(usize, usize)>,
    /// The encoder, where it is in the file.
    pub encoder: Option<EncoderShape>,
    /// The trunk of decoder or renderer.
    pub decoder: DecoderShape,
    /// Patches of the renderer's learned canvas.
    pub canvas: Option<usize>,
}

/// The shape of the encoder; the numbers of heads are not in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncoderShape {
    /// Width of the image stream.
    pub hidden_size: usize,
    /// Width of the query stream.
    pub query_size: usize,
    /// Blocks.
    pub depth: usize,
    /// Side of the position table, in patches.
    pub pos_grid: usize,
}

/// The shape of the trunk; the number of heads is not in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecoderShape {
    /// Width of both streams.
    pub hidden_size: usize,
    /// Joint blocks.
    pub depth: usize,
    /// Side of the position table, in patches.
    pub pos_grid: usize,
}

impl Description {
    /// Reads the shapes (and nothing else) of a checkpoint. `path` is for messages.
    ///
    /// Errors: it is no Selftok checkpoint (and what it seems to be), a tensor that decides is missing or has an
    /// impossible shape, or two tensors contradict each other.
    pub fn of(source: &dyn TensorSource, path: &Path) -> Result<Self> {
        let has = |name: &str| source.info(name).is_some();
        let role = match (has("model.mask_token"), has("model.x_embedder.proj.weight")) {
            (true, false) => Role::Renderer,
            (false, true) => Role::Tokenizer,
            (true, true) => {
                return Err(Error::unsupported(
                    path,
                    "it holds both model.mask_token (a renderer) and model.x_embedder (a diffusion decoder): \
                     not a Selftok checkpoint as released",
                ));
            }
            (false, false) => return Err(Error::unsupported(path, stranger(&has))),
        };
        let shape = |name: &str, rank: usize| shape(source, path, name, rank);

        let context = shape("model.context_pos_embed", 3)?;
        let (num_tokens, hidden_size) = (context[1], context[2]);
        let codebook = shape("encoder.quantizer._codebook.embed", 3).map_err(|e| match e {
            Error::NoTensor { .. } => Error::unsupported(
                path,
                "it has no codebook (encoder.quantizer._codebook.embed); quantisers without one, such as FSQ, are not supported",
            ),
            e => e,
        })?;
        let (codebook_size, code_dim) = (codebook[1], codebook[2]);
        agree(
            path,
            "model.context_embedder.weight",
            &shape("model.context_embedder.weight", 2)?,
            &[hidden_size, code_dim],
        )?;
        let patch_values = shape("model.final_layer.linear.weight", 2)?[0];
        let decoder = DecoderShape {
            hidden_size,
            depth: depth(source, path, "model.joint_blocks.", ".x_block.attn.qkv.weight")?,
            pos_grid: side(path, "model.pos_embed", shape("model.pos_embed", 3)?[1])?,
        };

        let encoder = if has("encoder.query_tokens") {
            let queries = shape("encoder.query_tokens", 3)?;
            if queries[1] != num_tokens {
                let what = format!("{} tokens, but model.context_pos_embed has {num_tokens}", queries[1]);
                return Err(Error::tensor(path, "encoder.query_tokens", what));
            }
            let positions = shape("encoder.pos_embed", 3)?;
            agree(
                path,
                "encoder.quantizer.project_in.weight",
                &shape("encoder.quantizer.project_in.weight", 2)?,
                &[code_dim, queries[2]],
            )?;
            Some(EncoderShape {
                hidden_size: positions[2],
                query_size: queries[2],
                depth: depth(source, path, "encoder.blocks.", ".attn.qkv.weight")?,
                pos_grid: side(path, "encoder.pos_embed", positions[1])?,
            })
        } else {
            None
        };

        let mut patch = None;
        for name in ["model.x_embedder.proj.weight", "encoder.x_embedder.proj.weight"] {
            if !has(name) {
                continue;
            }
            let embed = shape(name, 4)?;
            let found = (embed[1], embed[2]);
            let values = embed[1].checked_mul(embed[2]).and_then(|n| n.checked_mul(embed[3]));
            if embed[2] != embed[3] || values != Some(patch_values) || patch.is_some_and(|p| p != found) {
                let what = format!(
                    "its shape {embed:?} does not agree with the {patch_values} values of a patch in \
                     model.final_layer.linear.weight"
                );
                return Err(Error::tensor(path, name, what));
            }
            patch = Some(found);
        }
        let canvas = match role {
            Role::Tokenizer => None,
            Role::Renderer => {
                let canvas = shape("model.positional_embedding", 2)?;
                agree(path, "model.positional_embedding", &canvas, &[canvas[0], hidden_size])?;
                side(path, "model.positional_embedding", canvas[0])?;
                Some(canvas[0])
            }
        };
        let description = Description {
            role,
            num_tokens,
            codebook_size,
            code_dim,
            patch_values,
            patch,
            encoder,
            decoder,
            canvas,
        };
        Ok(description)
    }

    /// The configuration of a released file, which has none beside it: the shapes, and what is known of the family
    /// (`Enc-Qformer-Uni-XL/2` with 4 and 8 heads, heads of 64 in the trunk, pictures of 256 pixels, an autoencoder
    /// that divides by 8; the stages of the 512-token files).
    ///
    /// `None` if the shapes are not those of the released family: then a `config.json` must say it.
    pub fn released_config(&self) -> Option<Config> {
        let encoder = self.encoder.as_ref()?;
        let patch = self.patch?;
        let family = EncoderShape { hidden_size: 64, query_size: 512, depth: 16, pos_grid: 64 };
        let trunk = DecoderShape { hidden_size: 1536, depth: 24, pos_grid: 192 };
        let grid = 16;
        if *encoder != family
            || self.decoder != trunk
            || patch != (16, 2)
            || self.canvas.is_some_and(|c| c != grid * grid)
        {
            return None;
        }
        let released = Config::released(self.num_tokens);
        Some(Config { codebook_size: self.codebook_size, code_dim: self.code_dim, ..released })
    }

    /// All that a configuration says otherwise than the shapes, one sentence each, with both numbers.
    pub fn contradictions(&self, config: &Config) -> Vec<String> {
        let mut pairs = vec![
            ("num_tokens", config.num_tokens, self.num_tokens),
            ("codebook_size", config.codebook_size, self.codebook_size),
            ("code_dim", config.code_dim, self.code_dim),
            ("decoder.hidden_size", config.decoder.hidden_size, self.decoder.hidden_size),
            ("decoder.depth", config.decoder.depth, self.decoder.depth),
            ("decoder.pos_grid", config.decoder.pos_grid, self.decoder.pos_grid),
        ];
        if let Some(e) = &self.encoder {
            pairs.extend([
                ("encoder.hidden_size", config.encoder.hidden_size, e.hidden_size),
                ("encoder.depth", config.encoder.depth, e.depth),
                ("encoder.query_size", config.encoder.query_size, e.query_size),
                ("encoder.pos_grid", config.encoder.pos_grid, e.pos_grid),
            ]);
        }
        match self.patch {
            Some((channels, patch)) => pairs.extend([
                ("latent_channels", config.latent_channels, channels),
                ("patch_size", config.patch_size, patch),
            ]),
            None => pairs.push((
                "latent_channels · patch_size²",
                config.latent_channels.saturating_mul(config.patch_size).saturating_mul(config.patch_size),
                self.patch_values,
            )),
        }
        if let Some(canvas) = self.canvas {
            pairs.push(("patches of a picture", config.grid() * config.grid(), canvas));
        }
        let differing = pairs.into_iter().filter(|(_, says, found)| says != found);
        differing
            .map(|(name, says, found)| {
                format!("{name}: the configuration says {says}, the tensors say {found}")
            })
            .collect()
    }
}

/// What a file that is no Selftok checkpoint seems to be.
fn stranger(has: &dyn Fn(&str) -> bool) -> String {
    let seems = if has("encoder.conv_in.weight") || has("decoder.conv_in.weight") {
        "it seems to be an autoencoder: give its folder as the VAE"
    } else if has("transformer_blocks.0.attn.to_q.weight") || has("joint_blocks.0.x_block.attn.qkv.weight") {
        "it seems to be the SD3 transformer, which Selftok does not need"
    } else if has("encoder.query_tokens") {
        "it holds the encoder alone"
    } else {
        "use tokenizer_512_ckpt.pth or renderer_512_ckpt.pth as released, or a folder with config.json"
    };
    format!(
        "not a Selftok checkpoint (neither model.mask_token of a renderer nor model.x_embedder of a tokenizer is there); {seems}"
    )
}

fn shape(source: &dyn TensorSource, path: &Path, name: &str, rank: usize) -> Result<Vec<usize>> {
    let info = source.info(name).ok_or_else(|| Error::NoTensor { path: path.into(), tensor: name.into() })?;
    if info.shape.len() != rank || info.shape.contains(&0) {
        let what = format!("its shape {:?} should have {rank} dimensions, none of them zero", info.shape);
        return Err(Error::tensor(path, name, what));
    }
    Ok(info.shape)
}

fn agree(path: &Path, name: &str, found: &[usize], wanted: &[usize]) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    Err(Error::tensor(path, name, format!("its shape is {found:?}, the other tensors ask for {wanted:?}")))
}

/// Number of blocks: how many of `HEAD 0 TAIL`, `HEAD 1 TAIL`, … there are, without a gap.
fn depth(source: &dyn TensorSource, path: &Path, head: &str, tail: &str) -> Result<usize> {
    let number = |name: &str| name.strip_prefix(head)?.strip_suffix(tail)?.parse::<usize>().ok();
    let mut blocks: Vec<usize> = source.names().into_iter().filter_map(number).collect();
    blocks.sort_unstable();
    if let Some(gap) = (0..blocks.len().max(1)).find(|&i| blocks.get(i) != Some(&i)) {
        return Err(Error::NoTensor { path: path.into(), tensor: format!("{head}{gap}{tail}") });
    }
    Ok(blocks.len())
}

fn side(path: &Path, name: &str, cells: usize) -> Result<usize> {
    let side = cells.isqrt();
    if side * side == cells {
        return Ok(side);
    }
    Err(Error::tensor(path, name, format!("its {cells} positions are not those of a square grid")))
}
