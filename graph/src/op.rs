//! The closed set of operations, at the level at which papers speak.
//!
//! An op says *what*, never *how*: fusing, layout and placement are the compiler's. Operands are listed in
//! `Node::inputs`; the order is given at each variant. `?` marks an optional operand, whose
//! presence a flag in the op records.

/// A pointwise nonlinearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Activation {
    /// `x`
    #[default]
    Identity,
    /// `x * sigmoid(x)`
    Silu,
    /// `0.5x(1 + tanh(sqrt(2/pi)(x + 0.044715x^3)))`
    GeluTanh,
    /// `0.5x(1 + erf(x/sqrt(2)))`
    GeluErf,
    /// `x * sigmoid(1.702x)`, CLIP's
    QuickGelu,
    /// `max(x, 0)`
    Relu,
    /// Hyperbolic tangent.
    Tanh,
}

impl Activation {
    /// The function in f64: what every kernel is judged by.
    pub fn eval(self, x: f64) -> f64 {
        match self {
            Activation::Identity => x,
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::GeluTanh => {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
            }
            Activation::GeluErf => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
            Activation::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
            Activation::Tanh => x.tanh(),
            // Not `max`, which would turn NaN into 0.
            Activation::Relu => {
                if x < 0.0 {
                    0.0
                } else {
                    x
                }
            }
        }
    }
}

/// The error function, by its Maclaurin series near 0 and its continued fraction in the tails (Abramowitz
/// and Stegun 7.1.6, 7.1.14): good to about 1e-15.
pub fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a < 2.5 {
        let (mut term, mut sum, mut n) = (a, a, 0.0);
        while term.abs() > 1e-17 * sum.abs() {
            n += 1.0;
            term *= 2.0 * a * a / (2.0 * n + 1.0);
            sum += term;
        }
        (2.0 / std::f64::consts::PI.sqrt() * (-a * a).exp() * sum).copysign(x)
    } else {
        let mut f = 0.0;
        for k in (1..60).rev() {
            f = k as f64 / 2.0 / (a + f);
        }
        (1.0 - (-a * a).exp() / (std::f64::consts::PI.sqrt() * (a + f))).copysign(x)
    }
}

/// A binary pointwise function with broadcasting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Binary {
    /// `a + b`
    Add,
    /// `a - b`
    Sub,
    /// `a * b`
    Mul,
}

/// Which normalisation over the last axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NormKind {
    /// `(x - mean) / sqrt(var + eps)`, biased variance
    Layer,
    /// `x / sqrt(mean(x^2) + eps)`
    Rms,
}

/// Which keys a query may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mask {
    /// All of them.
    None,
    /// Query row `i` sees key rows `0..=offset + i`, where the offset is the slot's value (0 where none):
    /// the number of rows that stand in the cache before this run's.
    Causal {
        /// Slot of the offset.
        offset: Option<crate::Slot>,
    },
}

/// Rotary position embedding's pairing of elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RopeStyle {
    /// Elements `2i` and `2i+1` rotate together (GPT-J, GGUF's Llama).
    Interleaved,
    /// Elements `i` and `i + dim/2` rotate together (Hugging Face's Llama).
    Half,
}

/// One operation.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    // ---- sources: no operands ----
    /// A tensor that the caller gives at every run.
    Input,
    /// A named weight, in the reference library's layout.
    Weight,
    /// Numbers known when the graph is built.
    Constant(Vec<f32>),
    /// Memory that outlives a run: a latent, a cache. What was last [`Op::Assign`]ed, read where it stands
    /// in program order.
    State,

    // ---- views: no arithmetic, resolved to strided operands ----
    /// Same elements in order, another shape. Live dimensions stay as they are.
    Reshape,
    /// `len` rows of dimension `dim` from `start`.
    Slice {
        /// Dimension.
        dim: usize,
        /// First row.
        start: usize,
    },
    /// Row `slot` of dimension `dim`, which disappears.
    Pick {
        /// Dimension.
        dim: usize,
        /// Slot that holds the row's index.
        slot: crate::Slot,
    },
    /// Dimensions reordered: output dimension `i` is input dimension `perm[i]`.
    Permute(Vec<usize>),
    /// Marks a dimension as live in an extent only.
    Restrict,
    /// Operands joined along a dimension.
    Concat {
        /// Dimension.
        dim: usize,
    },

    // ---- arithmetic ----
    /// `x [.., K] · weight [N, K]^T + bias? [N]`
    Linear {
        /// Whether there is a bias.
        bias: bool,
    },
    /// Convolution over NHWC `x [B, H, W, I]` with `weight [O, I, kh, kw]`, `bias? [O]`.
    Conv2d {
        /// Step in both directions.
        stride: usize,
        /// Zeros added at top, bottom, left, right.
        padding: [usize; 4],
        /// Whether there is a bias.
        bias: bool,
    },
    /// Each pixel of NHWC twice in both directions.
    Upsample2x,
    /// Normalisation over the last axis: `x, weight? [C], bias? [C]`.
    Norm {
        /// Which.
        kind: NormKind,
        /// Added to the variance (or mean square).
        eps: f32,
        /// Whether there is a weight.
        weight: bool,
        /// Whether there is a bias.
        bias: bool,
    },
    /// Group normalisation of NHWC: `x, weight [C], bias [C]`.
    GroupNorm {
        /// Number of groups of channels.
        groups: usize,
        /// Added to the variance.
        eps: f32,
    },
    /// `x * (1 + scale) + shift`: `x, shift, scale`.
    Modulate,
    /// A nonlinearity.
    Unary(Activation),
    /// `a ∘ b`
    Binary(Binary),
    /// Softmax attention: `q [B, N, H*D]`, then pairs `k_i, v_i [B, M_i, KV*D]` read one after another as if
    /// joined. A batch of 1 is broadcast. Result `[B, N, H*D]`.
    Attention {
        /// Query heads `H`.
        heads: usize,
        /// Key and value heads `KV`, a divisor of `heads`.
        kv_heads: usize,
        /// Factor on the scores.
        scale: f32,
        /// What is hidden.
        mask: Mask,
    },
    /// Rotary embedding of `x [B, N, H*D]` by `table [P, R]` (`R/2` cosines, then `R/2` sines; `R <= D`
    /// elements of each head rotate), row `i` at position `offset + i`.
    Rope {
        /// Number of heads in the last axis.
        heads: usize,
        /// Pairing.
        style: RopeStyle,
        /// Slot of the first row's position; 0 where none.
        offset: Option<crate::Slot>,
    },
    /// Causal softmax attention of packed rows over caches: `q [R, H*D], k [S, L, KV*D], v [S, L, KV*D],
    /// sequence [R], position [R]`. Row `i` sees rows `0..=position[i]` of cache `sequence[i]`, or the last `window` of
    /// them, so that sequences of any lengths share a run without padding. Result `[R, H*D]`.
    CachedAttention {
        /// Query heads `H`.
        heads: usize,
        /// Key and value heads `KV`, a divisor of `heads`.
        kv_heads: usize,
        /// Factor on the scores.
        scale: f32,
        /// How many rows of the cache are seen, the row's own included; all where none.
        window: Option<usize>,
    },
    /// Rows of `table [V, C]` by `ids`: `[.., C]`.
    Embed,
    /// `t [..]` times `freqs [F]`: cosines, then sines: `[.., 2F]` (sines first where `sin_first`).
    TimestepEmbed {
        /// Sines before cosines.
        sin_first: bool,
    },
    /// Nearest code by cosine: rows of `x [.., C]` scaled to unit length, scores against `codes [V, C]`;
    /// results: ids (first on ties), best score, margin over the second best.
    Codebook,
    /// `sum_i coeffs[i] * x_i`: `coeffs [n], x_0, .., x_{n-1}` of one shape: guidance and solver updates.
    Combine,
    /// Writes packed rows into caches: `state [S, L, C], value [R, C], sequence [R], position [R]`; row `i` becomes row
    /// `position[i]` of cache `sequence[i]`. Has no result.
    CacheAppend,
    /// Writes `value` into `state` (operands `state, value`), at row `at` of dimension `dim` where given.
    /// Has no result.
    Assign {
        /// Dimension and slot of the first row written.
        at: Option<(usize, crate::Slot)>,
    },
}

impl Op {
    /// The op's name, as errors and tables print it.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Input => "input",
            Op::Weight => "weight",
            Op::Constant(_) => "constant",
            Op::State => "state",
            Op::Reshape => "reshape",
            Op::Slice { .. } => "slice",
            Op::Pick { .. } => "pick",
            Op::Permute(_) => "permute",
            Op::Restrict => "restrict",
            Op::Concat { .. } => "concat",
            Op::Linear { .. } => "linear",
            Op::Conv2d { .. } => "conv2d",
            Op::Upsample2x => "upsample2x",
            Op::Norm { .. } => "norm",
            Op::GroupNorm { .. } => "group_norm",
            Op::Modulate => "modulate",
            Op::Unary(_) => "unary",
            Op::Binary(_) => "binary",
            Op::Attention { .. } => "attention",
            Op::Rope { .. } => "rope",
            Op::CachedAttention { .. } => "cached_attention",
            Op::CacheAppend => "cache_append",
            Op::Embed => "embed",
            Op::TimestepEmbed { .. } => "timestep_embed",
            Op::Codebook => "codebook",
            Op::Combine => "combine",
            Op::Assign { .. } => "assign",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_agrees_with_tabulated_values() {
        for (x, y) in
            [(0.5, 0.520_499_877_813_046_5), (2.0, 0.995_322_265_018_952_7), (3.0, 0.999_977_909_503_001_4)]
        {
            assert!((erf(x) - y).abs() < 1e-14, "{x}");
            assert!((erf(-x) + y).abs() < 1e-14, "{x}");
        }
    }
}
