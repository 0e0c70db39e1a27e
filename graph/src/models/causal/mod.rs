//! Causal transformers: Llama 2 and 3, Mistral, Qwen2 and Qwen3, GPT-2.
//!
//! One graph serves prefill and decoding, any length and any batch of different lengths. The rows (tokens) of all
//! sequences are packed one after another without padding; each row says which sequence it belongs to and where in it
//! it stands. Its keys and values go into that sequence's cache, and it attends to that cache up to itself. So a
//! prompt is a run of many rows of one sequence, a step of decoding is one row of each, and both may share a run.

pub mod gpt2;
pub mod llama;
mod rope;

pub use rope::RopeScaling;

use crate::{Builder, CachedHeads, DType, Dim, Graph, GraphError, Stage, Tensor};

/// Bounds that keep every product of sizes within a usize.
const MAX_WIDTH: usize = 1 << 17;
const MAX_LAYERS: usize = 1 << 10;
const MAX_VOCABULARY: usize = 1 << 22;
const MAX_CONTEXT: usize = 1 << 24;

/// A causal transformer's configuration.
#[derive(Clone, Debug, PartialEq)]
pub enum Config {
    /// Llama and its kin.
    Llama(Box<llama::Config>),
    /// GPT-2.
    Gpt2(gpt2::Config),
}

impl Config {
    /// Number of ids.
    pub fn vocab_size(&self) -> usize {
        match self {
            Config::Llama(config) => config.vocab_size,
            Config::Gpt2(config) => config.vocab_size,
        }
    }

    /// Tokens that the network was made for.
    pub fn max_positions(&self) -> usize {
        match self {
            Config::Llama(config) => config.max_position_embeddings,
            Config::Gpt2(config) => config.n_positions,
        }
    }

    /// Whether a layer sees less than all that comes before a row.
    pub fn has_windows(&self) -> bool {
        match self {
            Config::Llama(config) => (0..config.num_hidden_layers).any(|i| config.window(i).is_some()),
            Config::Gpt2(_) => false,
        }
    }

    /// The network, ready to run on packed rows: see [`forward`].
    ///
    /// # Errors
    /// If the configuration or the limits are impossible.
    pub fn forward(&self, limits: Limits) -> Result<Graph, GraphError> {
        forward(self, limits, Positions::AsCached)
    }
}

/// What a graph is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rows of one run: a prompt that is longer runs in pieces.
    pub rows: usize,
    /// Rows of one run whose logits are wanted.
    pub logits: usize,
    /// Sequences that have a cache.
    pub sequences: usize,
    /// Tokens of a sequence.
    pub context: usize,
}

/// What tells a row where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Positions {
    /// `position`: it goes to that row of its cache, sees all up to it, and has that position in its text.
    AsCached,
    /// Three inputs: it goes to row `place [R]` of its cache, sees all up to row `position [R]`, and has the position
    /// `position_ids [R]` in its text, each below the context. So ids that others do not see stand behind those that they do.
    Given,
}

/// `input_ids [R]`, `sequence [R]`, `position [R]`, `logit_rows [Q]` (all i32) → `logits [Q, V]`.
///
/// Row `i` is token `position[i]` of sequence `sequence[i]`; rows before it in that sequence stand in its cache or come
/// before it in this run. `logit_rows` names the rows whose logits are wanted. Slots: `rows` and `logits`, the numbers of
/// each. States: `k.{layer}` and `v.{layer}`, `[sequences, context, kv_heads*head_dim]`.
///
/// # Errors
/// If the configuration or the limits are impossible.
pub fn forward(config: &Config, limits: Limits, positions: Positions) -> Result<Graph, GraphError> {
    match config {
        Config::Llama(config) => config.validate()?,
        Config::Gpt2(config) => config.validate()?,
    }
    limits.validate(config)?;
    let builder = Builder::new("forward");
    let g = &builder;
    let rows = Rows::new(g, limits, positions);
    let logits = match config {
        Config::Llama(config) => llama::network(g, config, &rows)?,
        Config::Gpt2(config) => gpt2::network(g, config, &rows)?,
    };
    g.output("logits", logits);
    builder.finish()
}

/// What is known of the packed rows of a run.
struct Rows<'g> {
    g: &'g Builder,
    limits: Limits,
    ids: Tensor<'g>,
    sequence: Tensor<'g>,
    position: Tensor<'g>,
    /// Where its keys and values go.
    place: Tensor<'g>,
    /// What turns it or is added to it: the position in the text.
    angle: Tensor<'g>,
    logit_rows: Tensor<'g>,
}

impl<'g> Rows<'g> {
    fn new(g: &'g Builder, limits: Limits, positions: Positions) -> Rows<'g> {
        let rows = g.up_to("rows", limits.rows, Stage::Step);
        let queries = g.up_to("logits", limits.logits, Stage::Step);
        let index = |name, dim: Dim| g.input(name, [dim], DType::I32, Stage::Step);
        let ids = index("input_ids", rows);
        let sequence = index("sequence", rows);
        let position = index("position", rows);
        let (place, angle) = match positions {
            Positions::AsCached => (position, position),
            Positions::Given => (index("place", rows), index("position_ids", rows)),
        };
        Rows { g, limits, ids, sequence, position, place, angle, logit_rows: index("logit_rows", queries) }
    }

    /// Appends keys and values of this run to the caches of `layer`, and attends over them.
    fn attend(&self, layer: usize, [q, k, v]: [Tensor<'g>; 3], heads: CachedHeads) -> Tensor<'g> {
        let places = (self.sequence, self.place);
        let cache = |name: &str, x: Tensor<'g>| {
            let shape = [self.limits.sequences, self.limits.context, x.shape().last()];
            let cache = self.g.state(&format!("{name}.{layer}"), shape);
            cache.cache_append(x, places);
            cache
        };
        q.cached_attention_with((cache("k", k), cache("v", v)), (self.sequence, self.position), heads)
    }

    /// The rows whose logits are wanted.
    fn wanted(&self, hidden: Tensor<'g>) -> Tensor<'g> {
        hidden.embed(self.logit_rows)
    }
}

impl Limits {
    /// Checks that the limits are within what the configuration was made for.
    ///
    /// # Errors
    /// The first that is not.
    pub fn validate(&self, config: &Config) -> Result<(), GraphError> {
        let most = config.max_positions();
        for (field, value, most) in [
            ("rows", self.rows, 1 << 16),
            ("logits", self.logits, self.rows),
            ("sequences", self.sequences, super::MAX_BATCH),
            ("context", self.context, most),
        ] {
            if value == 0 || value > most {
                return Err(wrong("limits", field, value, format!("a number from 1 to {most}")));
            }
        }
        Ok(())
    }
}

fn wrong(model: &str, field: &str, value: impl ToString, expected: impl Into<String>) -> GraphError {
    GraphError::Config {
        model: model.into(),
        field: field.into(),
        value: value.to_string(),
        expected: expected.into(),
    }
}

/// Checks that each number is at least 1 and within its bound.
fn in_range(model: &str, fields: &[(&str, usize, usize)]) -> Result<(), GraphError> {
    match fields.iter().find(|(_, value, most)| *value == 0 || value > most) {
        Some((field, value, most)) => Err(wrong(model, field, value, format!("a number from 1 to {most}"))),
        None => Ok(()),
    }
}
