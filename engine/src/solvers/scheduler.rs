//! The `scheduler_config.json` of a diffusers pipeline: what it says of a noise schedule is honoured whatever solver is asked
//! for, and what a solver here cannot honour is refused by the field that asks for it.

use super::{NoiseSchedule, Solver, SolverError, Trajectory, flow};
use crate::Error;
use selftok_loader::Error as LoaderError;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Most bytes of a configuration; a list of trained betas would be some hundred KiB.
const MAX_BYTES: u64 = 16 << 20;

/// How betas go from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// Evenly.
    Linear,
    /// Their roots evenly, as in Stable Diffusion.
    ScaledLinear,
    /// So that the clean sample's share falls as a squared cosine (Nichol and Dhariwal, 2021); without first and last.
    #[serde(rename = "squaredcos_cap_v2")]
    SquaredCosine,
}

/// What the network answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// The noise.
    Epsilon,
    /// `α ε - σ x0` (Salimans and Ho, 2022).
    VPrediction,
    /// The clean sample.
    Sample,
    /// The direction of a straight path; for flow matching alone.
    FlowPrediction,
}

/// Which of the training times are visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spacing {
    /// Evenly from the first to the last.
    Linspace,
    /// Multiples of a whole step, from the first.
    Leading,
    /// Multiples of a step, from the last.
    Trailing,
}

/// How DPM-Solver++ takes a step of second order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecondOrder {
    /// By the slope in the middle.
    #[serde(alias = "bh1", alias = "bh2", alias = "logrho")]
    Midpoint,
    /// By the integral of the straight line through both.
    Heun,
}

/// How a shift follows from the size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeShift {
    /// Its logarithm grows with the number of patches.
    Exponential,
    /// It grows itself.
    Linear,
}

/// What kind of network is to be solved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// One that answers with what [`SchedulerConfig::prediction_type`] says.
    Noise,
    /// One that answers with the direction of flow matching, for samples of so many patches.
    Flow {
        /// Cells of the latent, in patches.
        patches: usize,
    },
}

/// A `scheduler_config.json`. Fields that are absent have diffusers' defaults.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct SchedulerConfig {
    /// The diffusers class.
    #[serde(rename = "_class_name")]
    pub class_name: Option<String>,
    /// Times of training.
    pub num_train_timesteps: usize,
    /// First beta.
    pub beta_start: f32,
    /// Last beta.
    pub beta_end: f32,
    /// Between them.
    pub beta_schedule: BetaSchedule,
    /// Whether betas are moved so that the last level is all noise.
    pub rescale_betas_zero_snr: bool,
    /// What the network answers with.
    pub prediction_type: Prediction,
    /// Times visited; where absent, leading for DDIM and linspace for others, as diffusers has it.
    pub timestep_spacing: Option<Spacing>,
    /// Added to leading times.
    pub steps_offset: usize,
    /// Whether DDIM ends without any noise, or at the noise of the first training time.
    pub set_alpha_to_one: bool,
    /// Where Euler and DPM-Solver++ end: `"zero"` or `"sigma_min"`.
    pub final_sigmas_type: String,
    /// Whether levels lie as Karras et al. (2022) place them.
    pub use_karras_sigmas: Option<bool>,
    /// Whether levels fall by the same factor at every step.
    pub use_exponential_sigmas: Option<bool>,
    /// Order of DPM-Solver++: 1 or 2.
    pub solver_order: usize,
    /// Form of its second order.
    pub solver_type: SecondOrder,
    /// Whether its last step is of first order when there are fewer than 15.
    pub lower_order_final: bool,
    /// Whether its last step always is.
    pub euler_at_final: bool,
    /// The least half logarithm of the signal-to-noise ratio that it visits; none where absent.
    pub lambda_min_clipped: Option<f64>,
    /// Of flow matching: how far levels move towards noise.
    pub shift: f64,
    /// Of flow matching: whether the shift depends on the size.
    pub use_dynamic_shifting: Option<bool>,
    /// How it does.
    pub time_shift_type: TimeShift,
    /// Patches at [`base_shift`](Self::base_shift).
    pub base_image_seq_len: f64,
    /// Patches at [`max_shift`](Self::max_shift).
    pub max_image_seq_len: f64,
    /// The shift, or its logarithm, of the lesser size.
    pub base_shift: f64,
    /// The shift, or its logarithm, of the greater size.
    pub max_shift: f64,
    /// Of flow matching: the last level to which all are stretched.
    pub shift_terminal: Option<f64>,
    /// Of flow matching: whether levels are those of DPM-Solver++, by [`flow_shift`](Self::flow_shift).
    pub use_flow_sigmas: Option<bool>,
    /// How far those move towards noise.
    pub flow_shift: f64,
    /// All else, of which some must be as a solver here has it.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        SchedulerConfig {
            class_name: None,
            num_train_timesteps: 1000,
            beta_start: 0.0001,
            beta_end: 0.02,
            beta_schedule: BetaSchedule::Linear,
            rescale_betas_zero_snr: false,
            prediction_type: Prediction::Epsilon,
            timestep_spacing: None,
            steps_offset: 0,
            set_alpha_to_one: true,
            final_sigmas_type: "zero".into(),
            use_karras_sigmas: None,
            use_exponential_sigmas: None,
            solver_order: 2,
            solver_type: SecondOrder::Midpoint,
            lower_order_final: true,
            euler_at_final: false,
            lambda_min_clipped: None,
            shift: 1.0,
            use_dynamic_shifting: None,
            time_shift_type: TimeShift::Exponential,
            base_image_seq_len: 256.0,
            max_image_seq_len: 4096.0,
            base_shift: 0.5,
            max_shift: 1.15,
            shift_terminal: None,
            use_flow_sigmas: None,
            flow_shift: 1.0,
            other: BTreeMap::new(),
        }
    }
}

/// A field, the solvers whose scheduler reads it, whether a value will do, and what would.
type Fixed = (&'static str, &'static [Solver], fn(&Value) -> bool, &'static str);

/// Fields that ask for what a solver here does not do, with the only value that it does; null always will. Schedulers that know
/// no such field do not look at it, so neither does the solver of their kind.
const FIXED: [Fixed; 12] = {
    use Solver::{Ddim, DpmSolverPp2M, Euler, Heun};
    const ALL: &[Solver] = &[Ddim, Euler, Heun, DpmSolverPp2M, Solver::Midpoint, Solver::AdamsBashforth2];
    const fn no(value: &Value) -> bool {
        matches!(value, Value::Bool(false))
    }
    [
        ("trained_betas", ALL, no, "null: betas come from their schedule"),
        ("use_beta_sigmas", ALL, no, "false: it is not supported"),
        ("invert_sigmas", ALL, no, "false: it is not supported"),
        ("stochastic_sampling", ALL, no, "false: it is not supported"),
        ("clip_sample", &[Ddim, Heun], no, "false: it is not linear"),
        ("thresholding", &[Ddim, DpmSolverPp2M], no, "false: it is not linear"),
        ("use_lu_lambdas", &[DpmSolverPp2M], no, "false: it is not supported"),
        ("algorithm_type", &[DpmSolverPp2M], |value| value == "dpmsolver++", "\"dpmsolver++\""),
        ("interpolation_type", &[Euler], |value| value == "linear", "\"linear\""),
        ("timestep_type", &[Euler], |value| value == "discrete", "\"discrete\""),
        ("sigma_min", &[Euler], no, "null: levels come from the betas"),
        ("sigma_max", &[Euler], no, "null: levels come from the betas"),
    ]
};

impl SchedulerConfig {
    /// That of Stable Diffusion 1.5.
    pub fn stable_diffusion() -> Self {
        SchedulerConfig {
            beta_start: 0.00085,
            beta_end: 0.012,
            beta_schedule: BetaSchedule::ScaledLinear,
            steps_offset: 1,
            set_alpha_to_one: false,
            ..SchedulerConfig::default()
        }
    }

    /// That of Stable Diffusion 3.
    pub fn stable_diffusion_3() -> Self {
        SchedulerConfig { shift: 3.0, ..SchedulerConfig::default() }
    }

    /// Reads a file. Python writes infinities into JSON, which knows none: outside of strings they are read as null.
    ///
    /// # Errors
    /// If it cannot be read, or a field is of the wrong type or has an unknown value.
    pub fn open(path: &Path) -> Result<SchedulerConfig, Error> {
        let size = std::fs::metadata(path).map_err(|error| LoaderError::io(path, error))?.len();
        if size > MAX_BYTES {
            let what = format!("not a scheduler's configuration: it is larger than {} MiB", MAX_BYTES >> 20);
            return Err(LoaderError::config(path, what).into());
        }
        let text = std::fs::read_to_string(path).map_err(|error| LoaderError::io(path, error))?;
        let config = serde_json::from_str(&without_infinities(&text));
        config.map_err(|error| LoaderError::config(path, error.to_string()).into())
    }

    /// The trajectory of a solver.
    ///
    /// # Errors
    /// If the configuration is impossible or not supported, or does not go with the network, the solver or the steps.
    pub fn trajectory(
        &self,
        problem: Problem,
        solver: Solver,
        steps: usize,
    ) -> Result<Trajectory, SolverError> {
        for (field, solvers, fits, expected) in FIXED {
            match self.other.get(field) {
                Some(value) if !value.is_null() && solvers.contains(&solver) && !fits(value) => {
                    return Err(refused(field, value.to_string(), expected));
                }
                _ => {}
            }
        }
        if self.use_karras_sigmas == Some(true) && self.use_exponential_sigmas == Some(true) {
            return Err(refused("use_exponential_sigmas", "true".into(), "false with use_karras_sigmas"));
        }
        // Its times are these levels' cut to whole numbers, and the first lies within 1e-6 of one.
        if self.use_exponential_sigmas == Some(true) && solver == Solver::DpmSolverPp2M {
            return Err(refused("use_exponential_sigmas", "true".into(), "false with dpmpp2m"));
        }
        if !(1..=2).contains(&self.solver_order) && solver == Solver::DpmSolverPp2M {
            return Err(refused("solver_order", self.solver_order.to_string(), "1 or 2"));
        }
        let class = self.class_name.as_deref().unwrap_or_default();
        let flows = class.starts_with("FlowMatch") || self.use_flow_sigmas == Some(true);
        match problem {
            Problem::Flow { .. } if !class.is_empty() && !flows => Err(refused(
                "_class_name",
                class.into(),
                "a scheduler of flow matching, which the network was trained by",
            )),
            Problem::Flow { patches } => flow::trajectory(self, solver, steps, patches),
            Problem::Noise if flows || self.prediction_type == Prediction::FlowPrediction => {
                let (field, value) = match flows {
                    true if !class.is_empty() => ("_class_name", class.to_string()),
                    true => ("use_flow_sigmas", "true".into()),
                    false => ("prediction_type", "flow_prediction".into()),
                };
                Err(refused(field, value, "a scheduler of noise levels, which the network was trained by"))
            }
            Problem::Noise => NoiseSchedule::new(self, solver)?.trajectory(solver, steps),
        }
    }

    /// Levels between the first and the last as the configuration curves them; none where it does not.
    pub(super) fn curved(&self, first: f64, last: f64, steps: usize) -> Option<Vec<f64>> {
        let part = |i: usize| i as f64 / (steps.max(2) - 1) as f64;
        if self.use_karras_sigmas == Some(true) {
            const RHO: f64 = 7.0;
            let [a, b] = [first, last].map(|sigma| sigma.powf(1.0 / RHO));
            return Some((0..steps).map(|i| (a + part(i) * (b - a)).powf(RHO)).collect());
        }
        if self.use_exponential_sigmas == Some(true) {
            let [a, b] = [first, last].map(f64::ln);
            return Some((0..steps).map(|i| (a + part(i) * (b - a)).exp()).collect());
        }
        None
    }

    /// Whether the last of so many steps of DPM-Solver++ is of first order.
    pub(super) fn last_is_first_order(&self, steps: usize) -> bool {
        self.euler_at_final || self.final_sigmas_type == "zero" || (self.lower_order_final && steps < 15)
    }
}

pub(super) fn refused(field: &'static str, value: String, expected: &str) -> SolverError {
    SolverError::Config { field, value, expected: expected.into() }
}

/// JSON with `NaN`, `Infinity` and `-Infinity` outside of strings made null.
fn without_infinities(text: &str) -> String {
    let (mut out, mut rest, mut inside) = (String::with_capacity(text.len()), text, false);
    while let Some(next) = rest.chars().next() {
        let word =
            ["-Infinity", "Infinity", "NaN"].into_iter().find(|word| !inside && rest.starts_with(word));
        let taken = match (word, next) {
            (Some(word), _) => {
                out.push_str("null");
                rest = &rest[word.len()..];
                continue;
            }
            // An escape and what it escapes.
            (None, '\\') => rest.char_indices().nth(2).map_or(rest.len(), |(at, _)| at),
            (None, _) => next.len_utf8(),
        };
        inside ^= next == '"';
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(json: &str, problem: Problem, solver: Solver) -> String {
        let config: SchedulerConfig = serde_json::from_str(json).unwrap();
        config.trajectory(problem, solver, 10).unwrap_err().to_string()
    }

    #[test]
    fn what_a_solver_cannot_honour_is_named_and_what_it_never_reads_is_not() {
        let noise = |json, solver| error(json, Problem::Noise, solver);
        assert_eq!(
            noise(r#"{"use_beta_sigmas": true}"#, Solver::Euler),
            "scheduler: use_beta_sigmas = true: expected false: it is not supported"
        );
        assert!(noise(r#"{"trained_betas": [0.1]}"#, Solver::Ddim).contains("trained_betas = [0.1]"));
        assert!(noise(r#"{"clip_sample": true}"#, Solver::Ddim).contains("clip_sample"));
        assert!(noise(r#"{"solver_order": 3}"#, Solver::DpmSolverPp2M).contains("solver_order = 3"));
        let exponential = r#"{"use_exponential_sigmas": true}"#;
        assert!(noise(exponential, Solver::DpmSolverPp2M).contains("false with dpmpp2m"));
        assert!(noise(r#"{"algorithm_type": "sde-dpmsolver++"}"#, Solver::DpmSolverPp2M).contains("sde-dpm"));
        let euler = r#"{"clip_sample": true, "algorithm_type": "dpmsolver", "solver_order": 3, "trained_betas": null}"#;
        let config: SchedulerConfig = serde_json::from_str(euler).unwrap();
        assert!(config.trajectory(Problem::Noise, Solver::Euler, 10).is_ok());
    }

    #[test]
    fn a_scheduler_of_another_kind_of_network_is_refused() {
        let flow = Problem::Flow { patches: 16 };
        assert!(
            error(r#"{"_class_name": "EulerDiscreteScheduler"}"#, flow, Solver::Euler)
                .contains("flow matching")
        );
        let noise = |json| error(json, Problem::Noise, Solver::Euler);
        assert!(noise(r#"{"_class_name": "FlowMatchEulerDiscreteScheduler"}"#).contains("of noise levels"));
        assert!(noise(r#"{"prediction_type": "flow_prediction"}"#).contains("flow_prediction"));
    }

    #[test]
    fn infinities_that_python_writes_are_null() {
        let text = r#"{"a": -Infinity, "b \" NaN": [NaN, Infinity], "c": "-Infinity\\"}"#;
        assert_eq!(without_infinities(text), r#"{"a": null, "b \" NaN": [null, null], "c": "-Infinity\\"}"#);
        assert_eq!(without_infinities("\"\\"), "\"\\");
    }
}
