//! A causal transformer on disk: a folder as Hugging Face publishes it, or a GGUF file.

use super::complete::{Session, Sessions};
use super::rows::Rows;
use super::{ChatTemplate, GenerateError, Text, gguf};
use crate::weights::Adapter;
use crate::{Device, Error, Executable};
use selftok_graph::models::causal::{self, Config, Limits, Positions, gpt2, llama};
use selftok_graph::{Program, compile};
use selftok_loader::{DTypeClass, Expected, Pattern, TensorSource, Weights, check, dialects, read_json};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Tokens of a session where neither the caller nor the model asks for fewer: caches take memory.
const DEFAULT_CONTEXT: usize = 4096;
/// Caches for shorter contexts than this are not worth a plan of their own.
const LEAST_CONTEXT: usize = 64;
/// Up to here, numbers of sequences are rounded up to a power of two.
const LARGEST_ROUNDED: usize = 64;
/// Rows of a black-box run, whatever its length.
pub(super) const BLACK_BOX_ROWS: usize = 128;

/// An open causal transformer: configuration read, every tensor's name and shape checked, nothing else read yet.
pub struct CausalModel {
    path: PathBuf,
    config: Config,
    weights: Arc<Adapter>,
    gguf: Option<Arc<Weights>>,
    device: Device,
    /// One for each bucket of limits that was asked for; they share their packed weights.
    executables: Mutex<Vec<(Limits, Positions, Executable)>>,
}

impl CausalModel {
    /// Whether [`CausalModel::open`] knows an architecture by the `model_type` of a `config.json`.
    pub fn knows(model_type: &str) -> bool {
        matches!(model_type, "llama" | "mistral" | "qwen2" | "qwen3" | "gpt2")
    }

    /// Opens a folder (`config.json` and weights, or one GGUF file) or a GGUF file.
    ///
    /// # Errors
    /// If a file cannot be read, the architecture is not known, or the tensors are not those of the configuration.
    pub fn open(path: impl AsRef<Path>, device: &Device) -> Result<CausalModel, Error> {
        let path = path.as_ref();
        let json = path.join("config.json");
        if json.is_file() {
            let (config, weights) = hugging_face(path, &json)?;
            return CausalModel::checked(path, config, weights, None, device);
        }
        let file = Arc::new(Weights::open(path)?);
        if file.gguf().is_none() {
            let what = "a causal transformer is a folder with a config.json, or a GGUF file";
            return Err(selftok_loader::Error::unsupported(path, what).into());
        }
        let (config, weights) = gguf::open(path, &file)?;
        CausalModel::checked(path, config, weights, Some(file), device)
    }

    fn checked(
        path: &Path,
        config: Config,
        weights: Arc<dyn TensorSource>,
        gguf: Option<Arc<Weights>>,
        device: &Device,
    ) -> Result<CausalModel, Error> {
        let graph = config.forward(Limits { rows: 1, logits: 1, sequences: 1, context: 1 });
        let graph = graph.map_err(|error| {
            let folder = gguf.is_none().then(|| path.join("config.json"));
            selftok_loader::Error::config(folder.as_deref().unwrap_or(path), error.to_string())
        })?;
        let expected: Vec<Expected> = graph
            .weights()
            .map(|(_, value)| Expected {
                name: value.name.clone(),
                shape: value.shape.sizes(),
                dtype: DTypeClass::Weight,
            })
            .collect();
        // Buffers that old versions saved, and the head of a model whose embedding serves as one.
        let tied = ["lm_head.weight"].into_iter().filter(|name| !expected.iter().any(|e| e.name == *name));
        let buffers = ["*.rotary_emb.inv_freq", "*.attn.bias", "*.attn.masked_bias", "rope_freqs.weight"];
        let ignore: Vec<Pattern> = buffers.into_iter().chain(tied).map(Pattern::new).collect();
        check(&*weights, &expected, &ignore)?;
        Ok(CausalModel {
            path: path.into(),
            config,
            weights: Arc::new(Adapter::new(weights)),
            gguf,
            device: device.clone(),
            executables: Mutex::default(),
        })
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The folder or file that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its tokenizer.
    ///
    /// # Errors
    /// If it has none, or one that is not understood.
    pub fn text(&self) -> Result<Text, Error> {
        match self.gguf.as_deref().and_then(|file| file.gguf()) {
            Some(metadata) => Text::from_gguf(&self.path, metadata),
            None => Text::from_folder(&self.path),
        }
    }

    /// Its chat template.
    ///
    /// # Errors
    /// If it has none, or one that does not parse.
    pub fn chat_template(&self) -> Result<ChatTemplate, Error> {
        match self.gguf.as_deref().and_then(|file| file.gguf()) {
            Some(metadata) => ChatTemplate::from_gguf(&self.path, metadata),
            None => ChatTemplate::from_folder(&self.path),
        }
    }

    /// Ids that end a text, as the model's files say.
    pub fn stop_ids(&self) -> Vec<u32> {
        if let Some(metadata) = self.gguf.as_deref().and_then(|file| file.gguf()) {
            let keys = ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"];
            return keys.iter().filter_map(|key| u32::try_from(metadata.u64(key)?).ok()).collect();
        }
        #[derive(serde::Deserialize)]
        struct Generation {
            eos_token_id: Option<llama::Ids>,
        }
        let beside = read_json::<Generation>(&self.path.join("generation_config.json"));
        let own = match &self.config {
            Config::Llama(config) => config.eos_token_id.clone(),
            Config::Gpt2(config) => config.eos_token_id.clone(),
        };
        beside.ok().and_then(|g| g.eos_token_id).or(own).map_or(vec![], |ids| ids.to_vec())
    }

    /// A session for these limits. The first one packs the weights and compiles a plan, the costly step; later ones share
    /// both where their limits round up to the same (contexts and sequences to powers of two), else the weights alone. One
    /// session serves any number of completions of any length.
    ///
    /// # Errors
    /// If the limits are impossible, or the weights cannot be read.
    pub fn session(&self, sessions: Sessions) -> Result<Session, Error> {
        let most = self.config.max_positions();
        let context = if sessions.context == 0 { most.min(DEFAULT_CONTEXT) } else { sessions.context };
        let limits = Limits {
            rows: sessions.rows.max(sessions.sequences),
            logits: sessions.sequences,
            sequences: sessions.sequences,
            context,
        };
        let rows = self.rows(limits, Positions::AsCached)?;
        Ok(Session::new(rows, limits, self.config.vocab_size()))
    }

    /// How many plans were compiled so far, for sessions and black-box runs.
    pub fn plans(&self) -> usize {
        self.executables.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Memory that the weights of the compiled plans take beyond the file's map, in bytes; plans share what they pack, so
    /// this is that of the largest.
    pub fn weight_bytes(&self) -> usize {
        let executables = self.executables.lock().unwrap_or_else(PoisonError::into_inner);
        executables.iter().map(|(.., executable)| executable.footprint().weights).max().unwrap_or(0)
    }

    /// Packed rows over a plan that holds at least `limits`.
    pub(super) fn rows(&self, limits: Limits, positions: Positions) -> Result<Rows, Error> {
        limits.validate(&self.config)?;
        let sequences = limits.sequences.next_power_of_two();
        let bucket = Limits {
            rows: limits.rows,
            logits: limits.logits.next_power_of_two().min(limits.rows),
            sequences: if sequences <= LARGEST_ROUNDED { sequences } else { limits.sequences },
            context: limits.context.next_power_of_two().max(LEAST_CONTEXT).min(self.config.max_positions()),
        };
        // Held while one is compiled: who waits may want the same.
        let mut executables = self.executables.lock().unwrap_or_else(PoisonError::into_inner);
        let known = executables.iter().find(|(limits, how, _)| (*limits, *how) == (bucket, positions));
        let executable = match known {
            Some((.., executable)) => executable.clone(),
            None => {
                let program = Program::from(causal::forward(&self.config, bucket, positions)?);
                let plan = Arc::new(compile(&program, &self.device.target())?);
                let executable = Executable::bind_shared(plan, Arc::clone(&self.weights), &self.device)?;
                executables.push((bucket, positions, executable.clone()));
                executable
            }
        };
        drop(executables);
        Rows::new(&executable, bucket, self.config.vocab_size())
    }

    /// `input_ids [B, L]` → `logits [B, L, V]`, the network as a black box.
    ///
    /// # Errors
    /// If an id is out of range, or the length beyond the context.
    pub fn logits(&self, ids: &[i64], batch: usize) -> Result<Vec<f32>, Error> {
        let vocabulary = self.config.vocab_size();
        let length = self.check_ids(ids, batch)?;
        let chunk = BLACK_BOX_ROWS;
        let limits = Limits { rows: chunk, logits: chunk, sequences: batch, context: length };
        let mut logits = GenerateError::room(ids.len(), vocabulary)?;
        let mut rows = self.rows(limits, Positions::AsCached)?;
        for (first, part) in ids.chunks(chunk).enumerate() {
            for (i, &id) in part.iter().enumerate() {
                let row = first * chunk + i;
                rows.push(id as u32, row / length, row % length, true);
            }
            logits.extend_from_slice(rows.run(None)?);
        }
        Ok(logits)
    }
}

impl CausalModel {
    /// The length of the texts of a batch, whose ids are all in the vocabulary.
    pub(super) fn check_ids(&self, ids: &[i64], batch: usize) -> Result<usize, Error> {
        let (vocabulary, context) = (self.config.vocab_size(), self.config.max_positions());
        let length = ids.len().checked_div(batch).unwrap_or(0);
        if length == 0 || length * batch != ids.len() {
            return Err(Error::NotWhole { what: "input_ids", len: ids.len(), item: batch });
        }
        if length > context {
            return Err(GenerateError::TextTooLong { length, context }.into());
        }
        for (i, &id) in ids.iter().enumerate() {
            if usize::try_from(id).map_or(true, |id| id >= vocabulary) {
                return Err(GenerateError::Id { id, position: i % length, vocabulary }.into());
            }
        }
        Ok(length)
    }
}

/// The configuration and the tensors of a Hugging Face folder.
fn hugging_face(path: &Path, json: &Path) -> Result<(Config, Arc<dyn TensorSource>), Error> {
    #[derive(serde::Deserialize)]
    struct Kind {
        model_type: Option<String>,
    }
    let kind: Kind = read_json(json)?;
    let kind = kind.model_type.unwrap_or_default();
    if !CausalModel::knows(&kind) {
        let what = format!(
            "model_type `{kind}` is no causal transformer that is known: llama, mistral, qwen2, qwen3, gpt2 are"
        );
        return Err(selftok_loader::Error::config(json, what).into());
    }
    let config = match kind.as_str() {
        "gpt2" => Config::Gpt2(read_json::<gpt2::Config>(json)?),
        _ => Config::Llama(Box::new(read_json::<llama::Config>(json)?)),
    };
    let weights: Arc<dyn TensorSource> = Arc::new(Weights::open(path)?);
    let weights = match config {
        Config::Gpt2(_) => Arc::new(dialects::gpt2().apply(weights)?),
        Config::Llama(_) => weights,
    };
    Ok((config, weights))
}
