//! Solvers of diffusion: which times a network is asked at, and what becomes of its answers.
//!
//! Every solver here takes steps that are linear in what it knows, so each becomes a [`Trajectory`]: a row of numbers
//! for each evaluation of the network, computed in f64 and rounded once. The loop that runs them knows no solver, and
//! one compiled plan serves all. Times, noise levels and formulas are those of diffusers' schedulers.

mod flow;
mod noise;
mod sampler;
mod scheduler;
mod sigmas;

pub use noise::NoiseSchedule;
pub use sampler::{SampleOptions, Sampler};
pub use scheduler::{BetaSchedule, Prediction, Problem, SchedulerConfig, SecondOrder, Spacing, TimeShift};

use std::str::FromStr;

/// Most steps of a solver.
pub const MAX_STEPS: usize = 1000;

/// How to go from noise to a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Solver {
    /// Denoising diffusion implicit models (Song et al., 2021), without noise of its own. Noise-predicting networks only.
    Ddim,
    /// First order, one evaluation a step.
    Euler,
    /// Second order by a trial step: two evaluations a step, one at the last.
    Heun,
    /// DPM-Solver++ (Lu et al., 2022), multistep, second order in the logarithm of the signal-to-noise ratio: one
    /// evaluation a step.
    DpmSolverPp2M,
    /// Second order by a trial half step: two evaluations a step. Flow matching only.
    Midpoint,
    /// Second order by the answer before: Adams and Bashforth's, one evaluation a step. Flow matching only.
    AdamsBashforth2,
}

impl Solver {
    /// All of them, with the names by which they are chosen.
    pub const ALL: [(&'static str, Solver); 6] = [
        ("ddim", Solver::Ddim),
        ("euler", Solver::Euler),
        ("heun", Solver::Heun),
        ("dpmpp2m", Solver::DpmSolverPp2M),
        ("midpoint", Solver::Midpoint),
        ("ab2", Solver::AdamsBashforth2),
    ];

    /// The name by which it is chosen.
    pub fn name(self) -> &'static str {
        Solver::ALL.iter().find(|(_, solver)| *solver == self).map_or("", |(name, _)| name)
    }

    /// Whether it remembers something from one evaluation to the next.
    pub fn has_history(self) -> bool {
        !matches!(self, Solver::Ddim | Solver::Euler)
    }
}

impl FromStr for Solver {
    type Err = SolverError;

    fn from_str(name: &str) -> Result<Self, SolverError> {
        let known = || Solver::ALL.map(|(name, _)| name).join(", ");
        let found = Solver::ALL.iter().find(|(known, _)| *known == name).map(|(_, solver)| *solver);
        found.ok_or_else(|| SolverError::Unknown { name: name.into(), known: known() })
    }
}

/// Why a trajectory cannot be made.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SolverError {
    /// No solver has this name.
    #[error("solver '{name}': choose one of {known}")]
    Unknown {
        /// The name.
        name: String,
        /// The names there are.
        known: String,
    },
    /// No steps, or too many.
    #[error("{steps} solver steps: choose between 1 and {most}")]
    Steps {
        /// Asked for.
        steps: usize,
        /// The most there can be.
        most: usize,
    },
    /// A solver for another kind of network.
    #[error("solver '{}' does not solve {problem}: choose one of {known}", solver.name())]
    Unfit {
        /// The solver.
        solver: Solver,
        /// What the network predicts.
        problem: &'static str,
        /// Those that do.
        known: &'static str,
    },
    /// A field of a scheduler's configuration that is impossible or not supported.
    #[error("scheduler: {field} = {value}: expected {expected}")]
    Config {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What would be right.
        expected: String,
    },
}

/// One evaluation of the network and the update after it, over `(x, answer, history)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// What the network is told as the time.
    pub time: f64,
    /// What the network's input is of the sample: `input * x`.
    pub input: f64,
    /// Coefficients of the next sample.
    pub next: [f64; 3],
    /// Coefficients of what is remembered.
    pub remember: [f64; 3],
}

/// A whole run of a solver.
#[derive(Clone, Debug, PartialEq)]
pub struct Trajectory {
    /// The first sample is this times standard noise.
    pub noise_scale: f64,
    /// Evaluations, in order.
    pub evaluations: Vec<Evaluation>,
}

impl Trajectory {
    /// Times, as the network is told them.
    pub fn times(&self) -> Vec<f32> {
        self.evaluations.iter().map(|e| e.time as f32).collect()
    }

    /// Rows of coefficients over `(x, u, c, history)` for a state that holds the network's *input*, with guidance
    /// `u + guidance (c - u)` (or over `(x, answer, history)` without), then the same of what is remembered; a solver
    /// without `history` has neither the column nor the second half.
    pub fn coefficients(&self, guidance: Option<f64>, history: bool) -> Vec<f32> {
        let mut table = Vec::new();
        for (i, e) in self.evaluations.iter().enumerate() {
            // The sample is the input divided by its scale; the next input is the next sample times its own.
            let next_input = self.evaluations.get(i + 1).map_or(1.0, |next| next.input);
            let mut row = |[x, answer, remembered]: [f64; 3], scale: f64| {
                table.push((scale * x / e.input) as f32);
                match guidance {
                    Some(s) => {
                        table.extend([(scale * answer * (1.0 - s)) as f32, (scale * answer * s) as f32])
                    }
                    None => table.push((scale * answer) as f32),
                }
                if history {
                    table.push((scale * remembered) as f32);
                }
            };
            row(e.next, next_input);
            if history {
                row(e.remember, 1.0);
            }
        }
        table
    }

    /// The first state's factor on standard noise.
    pub fn first_scale(&self) -> f64 {
        self.noise_scale * self.evaluations.first().map_or(1.0, |e| e.input)
    }
}

/// The trajectory of a solver through these levels of a straight path and then to 0; the level is the time.
///
/// # Errors
/// If the solver is none for flow matching.
pub(crate) fn through(solver: Solver, levels: &[f64]) -> Result<Trajectory, SolverError> {
    flow::through(solver, levels, 1.0)
}

fn check_steps(steps: usize, most: usize) -> Result<(), SolverError> {
    if steps == 0 || steps > most { Err(SolverError::Steps { steps, most }) } else { Ok(()) }
}

/// Numbers as torch's `linspace` rounds them in f32: the first half counted up from the start, the second half down
/// from the end.
fn linspace(start: f32, end: f32, count: usize) -> Vec<f32> {
    let step = (end - start) / (count.max(2) - 1) as f32;
    let at = |i: usize| {
        if i < count / 2 { step.mul_add(i as f32, start) } else { end - step * (count - 1 - i) as f32 }
    };
    (0..count).map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_solver_is_found_by_its_name() {
        for (name, solver) in Solver::ALL {
            assert_eq!(name.parse::<Solver>(), Ok(solver));
            assert_eq!(solver.name(), name);
        }
        let error = "rk4".parse::<Solver>().unwrap_err().to_string();
        assert_eq!(error, "solver 'rk4': choose one of ddim, euler, heun, dpmpp2m, midpoint, ab2");
    }

    #[test]
    fn guidance_and_input_scale_go_into_the_coefficients() {
        let e = |input| Evaluation { time: 1.0, input, next: [1.0, -2.0, 4.0], remember: [0.0, 1.0, 0.0] };
        let trajectory = Trajectory { noise_scale: 3.0, evaluations: vec![e(0.5), e(0.25)] };
        assert_eq!(trajectory.first_scale(), 1.5);
        assert_eq!(
            trajectory.coefficients(Some(3.0), true),
            [0.5, 1.0, -1.5, 1.0, 0.0, -2.0, 3.0, 0.0, 4.0, 4.0, -6.0, 4.0, 0.0, -2.0, 3.0, 0.0]
        );
        assert_eq!(trajectory.coefficients(None, false), [0.5, -0.5, 4.0, -2.0]);
    }
}
