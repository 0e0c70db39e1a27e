//! Llama (arXiv 2302.13971, 2407.21783) and its kin: Mistral, Qwen2 (biases on q, k, v), Qwen3 (RMS norm of each head
//! of q and k). Tensor names and configuration are those of Hugging Face Transformers.

use super::{MAX_CONTEXT, MAX_LAYERS, MAX_VOCABULARY, MAX_WIDTH, RopeScaling, Rows, in_range, rope, wrong};
use crate::models::vit::parts::activation;
use crate::{Activation, Builder, CachedHeads, GraphError, RopeStyle, Tensor};
use serde::Deserialize;

/// `config.json`. Fields that are absent have the reference's defaults; those that do not matter here are passed over.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct Config {
    /// `llama`, `mistral`, `qwen2` or `qwen3`.
    pub model_type: String,
    /// Number of ids.
    pub vocab_size: usize,
    /// Width.
    pub hidden_size: usize,
    /// Width of the gated MLP.
    pub intermediate_size: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; as many as query heads where absent.
    pub num_key_value_heads: Option<usize>,
    /// Elements of a head; `hidden_size / num_attention_heads` where absent, and 128 of Qwen3.
    pub head_dim: Option<usize>,
    /// Nonlinearity of the MLP's gate.
    pub hidden_act: String,
    /// Tokens that it was made for.
    pub max_position_embeddings: usize,
    /// Added to mean squares.
    pub rms_norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Scaling of the rotary frequencies.
    pub rope_scaling: Option<RopeScaling>,
    /// The same, with the base, as Transformers 5 writes it; `rope_scaling` comes first.
    pub rope_parameters: Option<RopeScaling>,
    /// Whether the head's weight is the embedding's.
    pub tie_word_embeddings: bool,
    /// Whether q, k, v and o have biases.
    pub attention_bias: bool,
    /// Whether the MLP has biases.
    pub mlp_bias: bool,
    /// How many ids a row sees, its own included; all before it where absent. Mistral's, and Qwen's where it is used.
    pub sliding_window: Option<usize>,
    /// Whether Qwen uses the window.
    pub use_sliding_window: bool,
    /// Qwen's first layer with a window, where `layer_types` does not say; 28 where absent.
    pub max_window_layers: Option<usize>,
    /// For each layer `full_attention` or `sliding_attention` (Qwen).
    pub layer_types: Option<Vec<String>>,
    /// First and last ids, where the configuration says them: one or several.
    pub eos_token_id: Option<Ids>,
    /// Id that begins a text.
    pub bos_token_id: Option<u32>,
}

/// One id or several.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged, expecting = "neither an id nor a list of ids")]
pub enum Ids {
    /// One.
    One(u32),
    /// Several.
    Many(Vec<u32>),
}

impl Ids {
    /// All of them.
    pub fn to_vec(&self) -> Vec<u32> {
        match self {
            Ids::One(id) => vec![*id],
            Ids::Many(ids) => ids.clone(),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            model_type: "llama".into(),
            vocab_size: 32000,
            hidden_size: 4096,
            intermediate_size: 11008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: None,
            head_dim: None,
            hidden_act: "silu".into(),
            max_position_embeddings: 2048,
            rms_norm_eps: 1e-6,
            rope_theta: 10000.0,
            rope_scaling: None,
            rope_parameters: None,
            tie_word_embeddings: false,
            attention_bias: false,
            mlp_bias: false,
            sliding_window: None,
            use_sliding_window: false,
            max_window_layers: None,
            layer_types: None,
            eos_token_id: None,
            bos_token_id: None,
        }
    }
}

/// What the kin differ in.
struct Traits {
    qkv_bias: bool,
    output_bias: bool,
    qk_norm: bool,
}

impl Config {
    /// Key and value heads.
    pub fn kv_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// Elements of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or_else(|| match self.model_type.as_str() {
            "qwen3" => 128,
            _ => self.hidden_size / self.num_attention_heads.max(1),
        })
    }

    /// How the positions turn.
    fn rope(&self) -> RopeScaling {
        self.rope_scaling.as_ref().or(self.rope_parameters.as_ref()).cloned().unwrap_or_default()
    }

    /// The window of a layer, where it has one.
    pub(super) fn window(&self, layer: usize) -> Option<usize> {
        let used = match self.model_type.as_str() {
            "mistral" => true,
            "qwen2" | "qwen3" => {
                self.use_sliding_window
                    && match &self.layer_types {
                        Some(types) => types.get(layer).is_some_and(|kind| kind == "sliding_attention"),
                        None => layer >= self.max_window_layers.unwrap_or(28),
                    }
            }
            _ => false,
        };
        self.sliding_window.filter(|_| used)
    }

    fn traits(&self) -> Option<Traits> {
        let bias = self.attention_bias;
        Some(match self.model_type.as_str() {
            "llama" => Traits { qkv_bias: bias, output_bias: bias, qk_norm: false },
            "mistral" => Traits { qkv_bias: false, output_bias: false, qk_norm: false },
            "qwen2" => Traits { qkv_bias: true, output_bias: false, qk_norm: false },
            "qwen3" => Traits { qkv_bias: bias, output_bias: bias, qk_norm: true },
            _ => return None,
        })
    }

    /// Checks what the builder relies on.
    ///
    /// # Errors
    /// The first field that is wrong, and what would be right.
    pub fn validate(&self) -> Result<(), GraphError> {
        let model = self.model_type.as_str();
        if self.traits().is_none() {
            let expected = "\"llama\", \"mistral\", \"qwen2\" or \"qwen3\"";
            return Err(wrong("causal transformer", "model_type", model, expected));
        }
        in_range(
            model,
            &[
                ("vocab_size", self.vocab_size, MAX_VOCABULARY),
                ("hidden_size", self.hidden_size, MAX_WIDTH),
                ("intermediate_size", self.intermediate_size, MAX_WIDTH << 2),
                ("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS),
                ("num_attention_heads", self.num_attention_heads, MAX_WIDTH),
                ("num_key_value_heads", self.kv_heads(), MAX_WIDTH),
                ("max_position_embeddings", self.max_position_embeddings, MAX_CONTEXT),
            ],
        )?;
        let heads = self.num_attention_heads;
        if !heads.is_multiple_of(self.kv_heads()) {
            let expected = format!("a divisor of num_attention_heads {heads}");
            return Err(wrong(model, "num_key_value_heads", self.kv_heads(), expected));
        }
        if self.head_dim.is_none() && !self.hidden_size.is_multiple_of(heads) {
            let expected = format!("a multiple of num_attention_heads {heads}, or a head_dim");
            return Err(wrong(model, "hidden_size", self.hidden_size, expected));
        }
        let head_dim = self.head_dim();
        if head_dim == 0 || head_dim > 4096 || head_dim % 2 == 1 {
            return Err(wrong(model, "head_dim", head_dim, "an even number from 2 to 4096"));
        }
        activation(model, "hidden_act", &self.hidden_act)?;
        if !(self.rms_norm_eps >= 0.0 && self.rms_norm_eps.is_finite()) {
            return Err(wrong(model, "rms_norm_eps", self.rms_norm_eps, "a small positive number"));
        }
        if !(self.rope_theta > 1.0 && self.rope_theta.is_finite()) {
            return Err(wrong(model, "rope_theta", self.rope_theta, "a number above 1"));
        }
        if self.sliding_window == Some(0) {
            return Err(wrong(model, "sliding_window", 0, "at least 1, or null"));
        }
        if let Some(types) = &self.layer_types {
            let unknown = |kind: &&String| !matches!(kind.as_str(), "full_attention" | "sliding_attention");
            if let Some(kind) = types.iter().find(unknown) {
                let expected = "\"full_attention\" or \"sliding_attention\"";
                return Err(wrong(model, "layer_types", kind, expected));
            }
            if types.len() != self.num_hidden_layers {
                let expected = format!("one for each of num_hidden_layers {}", self.num_hidden_layers);
                return Err(wrong(model, "layer_types", format!("{} kinds", types.len()), expected));
            }
        }
        self.rope().validate(model, head_dim)
    }
}

/// Embedding, blocks, norm and head: `logits [Q, V]`.
pub(super) fn network<'g>(
    g: &'g Builder,
    config: &Config,
    rows: &Rows<'g>,
) -> Result<Tensor<'g>, GraphError> {
    let act = activation(&config.model_type, "hidden_act", &config.hidden_act)?;
    let (width, eps) = (config.hidden_size, config.rms_norm_eps);
    let embedding = g.scope("model", || g.weight("embed_tokens.weight", [config.vocab_size, width]));
    let turns = rotations(g, config, rows);
    let mut x = embedding.embed(rows.ids);
    g.scope("model", || {
        for layer in 0..config.num_hidden_layers {
            g.scope(format!("layers.{layer}"), || {
                let h = x.rms_norm("input_layernorm", eps);
                x = x + g.scope("self_attn", || attention(h, config, rows, turns, layer));
                let h = x.rms_norm("post_attention_layernorm", eps);
                x = x + g.scope("mlp", || mlp(h, config, act));
            });
        }
    });
    let last = g.scope("model", || rows.wanted(x).rms_norm("norm", eps));
    Ok(match config.tie_word_embeddings {
        true => last.linear_with(embedding, None),
        false => last.linear_no_bias("lm_head", config.vocab_size),
    })
}

/// Cosines and sines of each row's position, `[R, head_dim]`.
fn rotations<'g>(g: &'g Builder, config: &Config, rows: &Rows<'g>) -> Tensor<'g> {
    let (context, dim) = (rows.limits.context, config.head_dim());
    let scaling = config.rope();
    let theta = scaling.rope_theta.unwrap_or(config.rope_theta);
    let table = rope::table(context, dim, theta, &scaling, config.max_position_embeddings);
    g.constant([context, dim], table).embed(rows.angle)
}

fn attention<'g>(
    x: Tensor<'g>,
    config: &Config,
    rows: &Rows<'g>,
    turns: Tensor<'g>,
    layer: usize,
) -> Tensor<'g> {
    let (heads, kv_heads, dim) = (config.num_attention_heads, config.kv_heads(), config.head_dim());
    let traits = config.traits().unwrap_or(Traits { qkv_bias: false, output_bias: false, qk_norm: false });
    let turned = |name: &str, heads: usize| {
        let mut y = project(x, &format!("{name}_proj"), heads * dim, traits.qkv_bias);
        if traits.qk_norm {
            let each = y.reshape([rows.limits.rows, heads, dim]);
            y = each.rms_norm(&format!("{name}_norm"), config.rms_norm_eps).reshape(y.shape());
        }
        // One batch of packed rows, each turned by its own row of the table.
        let turned = y.reshape([1, rows.limits.rows, heads * dim]).rope(turns, heads, RopeStyle::Half, None);
        turned.reshape(y.shape())
    };
    let (q, k) = (turned("q", heads), turned("k", kv_heads));
    let v = project(x, "v_proj", kv_heads * dim, traits.qkv_bias);
    let heads = CachedHeads { heads, kv_heads, scale: None, window: config.window(layer) };
    let attended = rows.attend(layer, [q, k, v], heads);
    project(attended, "o_proj", config.hidden_size, traits.output_bias)
}

/// `down(act(gate x) * up x)`
fn mlp<'g>(x: Tensor<'g>, config: &Config, act: Activation) -> Tensor<'g> {
    let (inner, bias) = (config.intermediate_size, config.mlp_bias);
    let gate = project(x, "gate_proj", inner, bias).act(act);
    project(gate * project(x, "up_proj", inner, bias), "down_proj", config.hidden_size, bias)
}

fn project<'g>(x: Tensor<'g>, name: &str, n: usize, bias: bool) -> Tensor<'g> {
    if bias { x.linear(name, n) } else { x.linear_no_bias(name, n) }
}

#[cfg(test)]
mod tests {
    use super::super::{Config as Causal, Limits};
    use super::*;

    fn error(change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config { hidden_size: 64, num_attention_heads: 4, ..Config::default() };
        change(&mut config);
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn a_configuration_that_cannot_be_is_refused_by_field() {
        assert!(error(|c| c.model_type = "bert".into()).contains("model_type = bert"));
        assert!(error(|c| c.num_key_value_heads = Some(3)).contains("num_key_value_heads = 3"));
        assert!(error(|c| c.hidden_size = 0).contains("hidden_size = 0"));
        assert!(error(|c| c.hidden_size = 66).contains("hidden_size = 66"));
        assert!(error(|c| c.head_dim = Some(7)).contains("head_dim = 7"));
        assert!(error(|c| c.hidden_act = "mish".into()).contains("hidden_act = mish"));
        assert!(error(|c| c.sliding_window = Some(0)).contains("sliding_window = 0"));
        assert!(error(|c| c.layer_types = Some(vec!["linear".into()])).contains("layer_types = linear"));
        assert!(error(|c| c.layer_types = Some(vec![])).contains("layer_types = 0 kinds"));
    }

    #[test]
    fn each_kin_has_its_own_windows() {
        let windows = |model_type: &str, change: fn(&mut Config)| {
            let (model_type, window) = (model_type.into(), Some(8));
            let mut config = Config { model_type, sliding_window: window, ..Config::default() };
            change(&mut config);
            [0, 27, 28].map(|layer| config.window(layer))
        };
        assert_eq!(windows("llama", |_| ()), [None; 3]);
        assert_eq!(windows("mistral", |_| ()), [Some(8); 3]);
        assert_eq!(windows("qwen2", |_| ()), [None; 3]);
        assert_eq!(windows("qwen2", |c| c.use_sliding_window = true), [None, None, Some(8)]);
        let first = |c: &mut Config| {
            c.use_sliding_window = true;
            c.layer_types = Some(vec!["sliding_attention".into()]);
        };
        assert_eq!(windows("qwen3", first), [Some(8), None, None]);
    }

    #[test]
    fn limits_stay_within_the_context() {
        let config = Causal::Llama(Box::new(Config { num_hidden_layers: 1, ..Config::default() }));
        let limits = Limits { rows: 4, logits: 1, sequences: 2, context: 16 };
        let graph = config.forward(limits).unwrap();
        assert_eq!(graph.shape(graph.outputs[0].1).to_string(), "[1~1, 32000]");
        let error = config.forward(Limits { context: 4096, ..limits }).unwrap_err().to_string();
        assert!(error.contains("context = 4096: a number from 1 to 2048"), "{error}");
    }
}
