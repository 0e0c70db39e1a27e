//! Diffusion networks as diffusers publishes them, as black boxes and inside a sampler's loop.
//!
//! A solver's step is linear in what it knows: the sample `x`, the network's guided answer `u + s(c - u)`, and one value
//! that it remembers (a derivative, a sample, a prediction). So every solver, with guidance, is a table of coefficients
//! over `(x, u, c, history)`, the update is one kernel, and one plan serves all solvers. Scaling of the network's input
//! is linear too: the state holds the sample as the network wants it, and the table takes care of the rest.

mod network;
mod time;

pub use network::{Network, Sizes};
pub(crate) use time::{Conditioning, Sinusoids, Times};

use crate::models::MAX_BATCH;
use crate::models::patches::join_nchw;
use crate::{Builder, DType, Dim, Graph, GraphError, Stage, Tensor};
use network::Inputs;
use serde::Deserialize;

/// The most times that one run of [`step`] takes; a longer grid is run in parts.
pub const MAX_GRID: usize = 64;

/// Longest side of a latent, and longest conditioning sequence.
const MAX_SIDE: usize = 1 << 12;

/// What a sampler's step is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Options {
    /// Whether the network answers twice, without and with the condition.
    pub guidance: bool,
    /// Whether the solver remembers something from one step to the next.
    pub history: bool,
}

impl Options {
    /// Columns of the table of coefficients: for the sample, then (with a history) for the history, each over
    /// `x`, the answers and the history.
    pub fn columns(self) -> usize {
        self.terms() * if self.history { 2 } else { 1 }
    }

    /// Terms of one update.
    pub fn terms(self) -> usize {
        2 + usize::from(self.guidance) + usize::from(self.history)
    }
}

/// A field of a configuration that may be one number for all levels, or one for each.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum PerLevel {
    /// The same everywhere.
    All(usize),
    /// From the full resolution down.
    Each(Vec<usize>),
}

impl PerLevel {
    /// The number of level `i`.
    pub(crate) fn at(&self, i: usize) -> usize {
        match self {
            PerLevel::All(n) => *n,
            PerLevel::Each(list) => list.get(i).copied().unwrap_or(0),
        }
    }

    /// Whether it says a number for each of `levels`.
    pub(crate) fn covers(&self, levels: usize) -> bool {
        matches!(self, PerLevel::All(_)) || matches!(self, PerLevel::Each(list) if list.len() == levels)
    }
}

pub(crate) fn wrong(
    model: &str,
    field: &str,
    value: impl ToString,
    expected: impl Into<String>,
) -> GraphError {
    GraphError::Config {
        model: model.into(),
        field: field.into(),
        value: value.to_string(),
        expected: expected.into(),
    }
}

/// The network as a black box.
///
/// Inputs `sample [B, C, h, w]`, `timestep [B]` (f32) and the network's own conditions; output `out`.
///
/// # Errors
/// If the configuration is impossible or unsupported, or the sizes do not fit it.
pub fn forward(network: &Network, sizes: Sizes) -> Result<Graph, GraphError> {
    check(network, sizes)?;
    let builder = Builder::new("forward");
    let g = &builder;
    let [h, w] = sizes.latent;
    let nchw = [sizes.batch, network.in_channels(), h, w];
    let sample = g.input("sample", nchw, DType::F32, Stage::Request).permute(&[0, 2, 3, 1]);
    let times = Times::Each(g.input("timestep", [sizes.batch], DType::F32, Stage::Request));
    let inputs = Inputs::declare(g, network, sizes, sizes.batch);
    g.output("out", nchw_of(network.record(g, sample, times, &inputs)));
    builder.finish()
}

/// Starts a sample: `sample [B, C, h, w]` → state `x`; the history becomes 0.
///
/// # Errors
/// As [`forward`].
pub fn start(network: &Network, sizes: Sizes, options: Options) -> Result<Graph, GraphError> {
    check(network, sizes)?;
    let builder = Builder::new("start");
    let g = &builder;
    let [h, w] = sizes.latent;
    let nchw = [sizes.batch, network.in_channels(), h, w];
    let sample = g.input("sample", nchw, DType::F32, Stage::Request).permute(&[0, 2, 3, 1]);
    g.state("x", sample.shape()).assign(sample, None);
    if options.history {
        let zeros = vec![0.0; sample.shape().numel()];
        g.state("history", sample.shape()).assign(g.constant(sample.shape(), zeros), None);
    }
    builder.finish()
}

/// One step of any solver from the states `x` and `history`, `[B, h, w, C]`:
/// `x, history = coeffs[step] · (x, u, c, history)`.
///
/// Inputs: for up to [`MAX_GRID`] steps `timesteps [S]` and `coeffs [S, columns]`, see [`Options::columns`]; the
/// network's conditions, with guidance `[2B, ..]`, first those for `u` (without the condition), then those for `c`.
/// Output `out [B, C, h, w]`, the new `x`. Slots: `grid`, the number of steps given; at every step `step`, its row.
///
/// # Errors
/// As [`forward`]; also if the network's answer is not of the sample's channels.
pub fn step(network: &Network, sizes: Sizes, options: Options) -> Result<Graph, GraphError> {
    check(network, sizes)?;
    let channels = network.in_channels();
    let builder = Builder::new("step");
    let g = &builder;
    let ([h, w], b) = (sizes.latent, sizes.batch);
    let grid = g.up_to("grid", MAX_GRID, Stage::Request);
    let step = g.slot("step");
    let times = Times::Grid(g.input("timesteps", [grid], DType::F32, Stage::Request), step);
    let columns: Dim = options.columns().into();
    let coeffs = g.input("coeffs", [grid, columns], DType::F32, Stage::Request).pick(0, step, Stage::Step);
    let answers = if options.guidance { 2 } else { 1 };
    let inputs = Inputs::declare(g, network, sizes, answers * b);
    let shape = [b, h, w, channels];
    let x = g.state("x", shape);
    let asked = if options.guidance { x.concat(0, &[x]) } else { x };
    let answer = network.record(g, asked, times, &inputs);
    // A network that predicts a variance too says it in further channels, which no solver here asks for.
    let last = answer.shape().rank() - 1;
    if answer.shape().last() < channels {
        return Err(wrong(network.name(), "out_channels", answer.shape().last(), "at least in_channels"));
    }
    let answer = answer.slice(last, 0, channels);
    // In the order in which the network answers, so that nothing is moved before the update.
    let mut split = answer.shape();
    split.0[0] = b.into();
    let mut known = vec![x.reshape(split.clone())];
    known.extend((0..answers).map(|i| answer.slice(0, i * b, b)));
    let history = options.history.then(|| g.state("history", shape));
    known.extend(history.map(|history| history.reshape(split)));
    let n = options.terms();
    let next = coeffs.slice(0, 0, n).combine(&known);
    if let Some(history) = history {
        let remembered = coeffs.slice(0, n, n).combine(&known);
        history.assign(remembered.reshape(history.shape()), None);
    }
    g.output("out", nchw_of(next));
    x.assign(next.reshape(x.shape()), None);
    builder.finish()
}

/// `[B, H, W, C]`, or that with both directions split into patches, as NCHW.
fn nchw_of(x: Tensor<'_>) -> Tensor<'_> {
    if x.shape().rank() == 6 { join_nchw(x) } else { x.permute(&[0, 3, 1, 2]) }
}

fn check(network: &Network, sizes: Sizes) -> Result<(), GraphError> {
    network.validate()?;
    let name = network.name();
    if sizes.batch == 0 || sizes.batch > MAX_BATCH {
        return Err(wrong(name, "batch", sizes.batch, format!("a number from 1 to {MAX_BATCH}")));
    }
    let (step, [h, w]) = (network.side_step(), sizes.latent);
    let side = |n: usize| n > 0 && n <= MAX_SIDE && n.is_multiple_of(step);
    if !side(h) || !side(w) {
        let expected = format!("sides that are multiples of {step}, at most {MAX_SIDE}");
        return Err(wrong(name, "sample", format!("{h} x {w}"), expected));
    }
    if network.context_width().is_some() && (sizes.context == 0 || sizes.context > MAX_SIDE) {
        let expected = format!("a sequence of 1 to {MAX_SIDE} rows");
        return Err(wrong(name, "encoder_hidden_states", sizes.context, expected));
    }
    network.check_sizes(sizes)
}
