//! The files of a Selftok model, opened and held against each other.
//!
//! Each part is optional as long as no job asks for it; asking for one that is not there is an error that says which file has it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use selftok_graph::models::selftok::Config;
use selftok_loader::{Error, Result, Weights};

use super::autoencoder::Vae;
use super::describe::{Description, Role};
use super::read_config;

/// Where the parts of a model are.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// A folder (`config.json`, `tokenizer.*`, `renderer.*`, `vae/`) or one checkpoint.
    pub model: PathBuf,
    /// A second checkpoint, of the other kind than `model`; of a folder it replaces the one of its kind.
    pub other: Option<PathBuf>,
    /// A configuration to use instead of the one found.
    pub config: Option<PathBuf>,
    /// A diffusers autoencoder folder to use instead of `vae/` beside the rest.
    pub vae: Option<PathBuf>,
}

/// An open checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    /// Its tensors.
    pub weights: Arc<Weights>,
    /// What their shapes say.
    pub description: Description,
}

/// An open Selftok model. Nothing but headers and configurations has been read.
#[derive(Debug)]
pub struct SelftokFiles {
    model: PathBuf,
    config: Config,
    tokenizer: Option<Checkpoint>,
    renderer: Option<Checkpoint>,
    vae: Option<Vae>,
}

impl SelftokFiles {
    /// Opens a model and checks that its parts belong together.
    ///
    /// Errors: a file that cannot be read, that is not what its name says, or that contradicts the configuration or another file.
    pub fn open(sources: &Sources) -> Result<Self> {
        let model = &sources.model;
        let meta = std::fs::metadata(model).map_err(|e| Error::io(model, e))?;
        let is_folder = meta.is_dir();
        let folder = if is_folder { model.as_path() } else { model.parent().unwrap_or(Path::new("")) };

        let (mut tokenizer, mut renderer) = (None, None);
        if is_folder {
            tokenizer = named(folder, Role::Tokenizer)?;
            renderer = named(folder, Role::Renderer)?;
            if tokenizer.is_none() && renderer.is_none() {
                let what = "not a Selftok folder: neither tokenizer.safetensors nor renderer.safetensors (or the released \
                            .pth files) is in it";
                return Err(Error::unsupported(folder, what));
            }
        } else {
            let checkpoint = checkpoint(model)?;
            match checkpoint.description.role {
                Role::Tokenizer => tokenizer = Some(checkpoint),
                Role::Renderer => renderer = Some(checkpoint),
            }
        }

        if let Some(path) = &sources.other {
            let other = checkpoint(path)?;
            let role = other.description.role;
            let place = match role {
                Role::Tokenizer => &mut tokenizer,
                Role::Renderer => &mut renderer,
            };
            if let (Some(first), false) = (&*place, is_folder) {
                let first = first.weights.path().display();
                let what = format!("{first} and {} are both a {role}; name one of each kind", path.display());
                return Err(Error::pairing(what));
            }
            *place = Some(other);
        }

        if let (Some(t), Some(r)) = (&tokenizer, &renderer) {
            for (what, a, b) in [
                ("tokens", t.description.num_tokens, r.description.num_tokens),
                ("codes", t.description.codebook_size, r.description.codebook_size),
                ("values a code", t.description.code_dim, r.description.code_dim),
            ] {
                if a != b {
                    let (t, r) = (t.weights.path().display(), r.weights.path().display());
                    return Err(Error::Pairing {
                        what: format!(
                            "{t} has {a} {what}, {r} has {b}: use a tokenizer and a renderer of one model"
                        ),
                    });
                }
            }
        }
        let config = config(sources, folder, is_folder, [&tokenizer, &renderer])?;
        let vae = match &sources.vae {
            Some(path) => Some(Vae::open(path)?),
            None => match folder.join("vae") {
                path if path.is_dir() => Some(Vae::open(&path)?),
                _ => None,
            },
        };
        if let Some(vae) = &vae {
            vae.serves(&config)?;
        }
        Ok(SelftokFiles { model: model.clone(), config, tokenizer, renderer, vae })
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The folder or file that was opened.
    pub fn path(&self) -> &Path {
        &self.model
    }

    /// The checkpoint that turns latents into tokens: the tokenizer, or a renderer file that holds the encoder too.
    ///
    /// Errors: neither is there.
    pub fn encoder(&self) -> Result<&Checkpoint> {
        let mut both = self.tokenizer.iter().chain(&self.renderer);
        both.find(|c| c.description.encoder.is_some()).ok_or_else(|| {
            self.lacks(
                "encoding needs an encoder",
                "tokenizer.safetensors (or tokenizer_512_ckpt.pth)",
                "the renderer here holds none",
            )
        })
    }

    /// The checkpoint that decodes by diffusion.
    ///
    /// Errors: there is only a renderer.
    pub fn diffusion(&self) -> Result<&Checkpoint> {
        self.tokenizer.as_ref().ok_or_else(|| {
            self.lacks(
                "decoding by diffusion needs a tokenizer checkpoint",
                "tokenizer.safetensors (or tokenizer_512_ckpt.pth)",
                "a one-step renderer (model.mask_token) cannot do it; rendering in one step can be done with what is here",
            )
        })
    }

    /// The checkpoint that renders in one step.
    ///
    /// Errors: there is only a tokenizer.
    pub fn renderer(&self) -> Result<&Checkpoint> {
        self.renderer.as_ref().ok_or_else(|| {
            self.lacks(
                "rendering in one step needs a renderer checkpoint",
                "renderer.safetensors (or renderer_512_ckpt.pth)",
                "a tokenizer cannot do it; decoding by diffusion can be done with what is here",
            )
        })
    }

    /// The autoencoder between pictures and latents.
    ///
    /// Errors: there is none.
    pub fn vae(&self) -> Result<&Vae> {
        self.vae.as_ref().ok_or_else(|| {
            self.lacks(
                "pictures need the autoencoder",
                "the folder vae/ (of stabilityai/stable-diffusion-3-medium-diffusers for the released files)",
                "it can also be named with --vae DIR",
            )
        })
    }

    /// Tokens per stage, for the diffusion decoder.
    ///
    /// Errors: they are not known, as for the released 1024-token files.
    pub fn tokens_per_stage(&self) -> Result<&[usize]> {
        self.config.tokens_per_stage.as_deref().ok_or_else(|| {
            Error::pairing(format!(
                "{}: decoding by diffusion needs tokens_per_stage, which was not published for {} tokens; write a config.json \
                 with five numbers that add up to {} and name it with --config, or render in one step",
                self.model.display(),
                self.config.num_tokens,
                self.config.num_tokens
            ))
        })
    }

    fn lacks(&self, needs: &str, file: &str, hint: &str) -> Error {
        Error::pairing(format!("{}: {needs}: {file} is not there; {hint}", self.model.display()))
    }
}

fn checkpoint(path: &Path) -> Result<Checkpoint> {
    let weights = Weights::open(path)?;
    let description = Description::of(&weights, path)?;
    Ok(Checkpoint { weights: Arc::new(weights), description })
}

/// True for the name of a checkpoint: `STEM….safetensors`, `.pth` and so on, but not one of several shards.
pub(super) fn is_checkpoint(name: &str, stem: &str) -> bool {
    const ENDINGS: [&str; 5] = [".safetensors", ".safetensors.index.json", ".pth", ".pt", ".bin"];
    name.starts_with(stem) && ENDINGS.iter().any(|e| name.ends_with(e)) && !name.contains("-of-")
}

/// The checkpoint of a folder whose name begins with `tokenizer` or `renderer`; it must be one.
fn named(folder: &Path, role: Role) -> Result<Option<Checkpoint>> {
    let stem = match role {
        Role::Tokenizer => "tokenizer",
        Role::Renderer => "renderer",
    };
    let mut found = Vec::new();
    for item in std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let name = item.map_err(|e| Error::io(folder, e))?.file_name();
        let Some(name) = name.to_str() else { continue };
        if is_checkpoint(name, stem) {
            found.push(name.to_owned());
        }
    }
    found.sort();
    let path = match &found[..] {
        [] => return Ok(None),
        [name] => folder.join(name),
        [a, b, ..] => {
            let what = format!(
                "it holds {} files for the {stem} ({a}, {b}): name the one that is meant",
                found.len()
            );
            return Err(Error::unsupported(folder, what));
        }
    };
    let checkpoint = checkpoint(&path)?;
    if checkpoint.description.role != role {
        let is = checkpoint.description.role;
        return Err(Error::unsupported(
            &path,
            format!("by its name a {stem}, but its tensors are those of a {is}"),
        ));
    }
    Ok(Some(checkpoint))
}

/// The configuration: the one that is named, else the one of the folder, else what is known of the released family, else, for
/// a single file of another family, the one beside it. It must not contradict any checkpoint.
fn config(
    sources: &Sources,
    folder: &Path,
    is_folder: bool,
    checkpoints: [&Option<Checkpoint>; 2],
) -> Result<Config> {
    let checkpoints = checkpoints.into_iter().flatten();
    let beside = folder.join("config.json");
    let derived = checkpoints.clone().find_map(|c| c.description.released_config());
    let (path, config) = match (&sources.config, derived) {
        (Some(path), _) => (path.clone(), read_config(path)?),
        (None, _) if is_folder && beside.exists() => (beside.clone(), read_config(&beside)?),
        (None, Some(derived)) => (sources.model.clone(), derived),
        (None, None) if beside.exists() => (beside.clone(), read_config(&beside)?),
        (None, None) => {
            let what = "its shapes are not those of a released Selftok file, and the numbers of heads and the size of the picture \
                        are not in the tensors: a config.json must say them (beside it, or named with --config)";
            return Err(Error::unsupported(&sources.model, what));
        }
    };
    for c in checkpoints {
        let contradictions = c.description.contradictions(&config);
        if !contradictions.is_empty() {
            let what =
                format!("it contradicts {}: {}", c.weights.path().display(), contradictions.join("; "));
            return Err(Error::config(&path, what));
        }
    }
    Ok(config)
}
