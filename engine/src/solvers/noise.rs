//! Noise schedules: how much noise each training time had, and which times a solver visits, as diffusers' schedulers
//! say it. Betas are formed in f32 and their product in f64, rounded each time, as torch does: the last level is the
//! end of a product of a thousand.

use super::sigmas::{self, CLEAN, Point, evaluation};
use super::{Solver, SolverError, Trajectory, check_steps, flow, linspace};
use serde::Deserialize;

/// How betas go from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// Evenly.
    Linear,
    /// Their roots evenly, as in Stable Diffusion.
    ScaledLinear,
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

/// A `scheduler_config.json`. Fields that are absent have diffusers' defaults.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct SchedulerConfig {
    /// Times of training.
    pub num_train_timesteps: usize,
    /// First beta.
    pub beta_start: f32,
    /// Last beta.
    pub beta_end: f32,
    /// Between them.
    pub beta_schedule: BetaSchedule,
    /// What the network answers with.
    pub prediction_type: Prediction,
    /// Times visited; where absent, leading for DDIM and linspace for others, as diffusers has it.
    pub timestep_spacing: Option<Spacing>,
    /// Added to leading times.
    pub steps_offset: usize,
    /// Whether DDIM ends without any noise, or at the noise of the first training time.
    pub set_alpha_to_one: bool,
    /// Where DPM-Solver++ ends: `"zero"` or `"sigma_min"`.
    pub final_sigmas_type: String,
    /// Of flow matching: how far levels move towards noise.
    pub shift: f64,
    /// Not supported: levels in other places.
    pub use_karras_sigmas: Option<bool>,
    /// Not supported: a shift that depends on the size.
    pub use_dynamic_shifting: Option<bool>,
    /// Not supported: betas moved so that the last level is all noise.
    pub rescale_betas_zero_snr: Option<bool>,
    /// Not supported: clean samples cut to a range, which is not linear.
    pub clip_sample: Option<bool>,
    /// Not supported, likewise.
    pub thresholding: Option<bool>,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        SchedulerConfig {
            num_train_timesteps: 1000,
            beta_start: 0.0001,
            beta_end: 0.02,
            beta_schedule: BetaSchedule::Linear,
            prediction_type: Prediction::Epsilon,
            timestep_spacing: None,
            steps_offset: 0,
            set_alpha_to_one: true,
            final_sigmas_type: "zero".into(),
            shift: 1.0,
            use_karras_sigmas: None,
            use_dynamic_shifting: None,
            rescale_betas_zero_snr: None,
            clip_sample: None,
            thresholding: None,
        }
    }
}

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

    /// The trajectory of a solver for a network that predicts the direction of flow matching (`flow`), or else what
    /// [`prediction_type`](Self::prediction_type) says.
    ///
    /// # Errors
    /// If the configuration is impossible or not supported, or does not go with the solver and the steps.
    pub fn trajectory(&self, flow: bool, solver: Solver, steps: usize) -> Result<Trajectory, SolverError> {
        for (field, value) in [
            ("use_karras_sigmas", self.use_karras_sigmas),
            ("use_dynamic_shifting", self.use_dynamic_shifting),
            ("rescale_betas_zero_snr", self.rescale_betas_zero_snr),
            ("clip_sample", self.clip_sample),
            ("thresholding", self.thresholding),
        ] {
            if value == Some(true) {
                let (value, expected) = ("true".into(), "false: it is not supported".into());
                return Err(SolverError::Config { field, value, expected });
            }
        }
        if flow {
            return flow::trajectory(solver, steps, self.shift);
        }
        NoiseSchedule::new(self)?.trajectory(solver, steps)
    }
}

/// The levels of a schedule.
#[derive(Clone, Debug)]
pub struct NoiseSchedule {
    config: SchedulerConfig,
    /// The share of the clean sample's variance at each training time.
    alphas: Vec<f64>,
}

impl NoiseSchedule {
    /// The levels.
    ///
    /// # Errors
    /// If the betas are not between 0 and 1, or there are no times.
    pub fn new(config: &SchedulerConfig) -> Result<NoiseSchedule, SolverError> {
        let (count, first, last) = (config.num_train_timesteps, config.beta_start, config.beta_end);
        let fail = |field, value: String, expected: &str| {
            Err(SolverError::Config { field, value, expected: expected.into() })
        };
        if count < 2 || count > 1 << 16 {
            return fail("num_train_timesteps", count.to_string(), "a number from 2 to 65536");
        }
        if !(first > 0.0 && first <= last && last < 1.0) {
            return fail(
                "beta_end",
                format!("{last} after beta_start {first}"),
                "0 < beta_start <= beta_end < 1",
            );
        }
        if !["zero", "sigma_min"].contains(&config.final_sigmas_type.as_str()) {
            return fail("final_sigmas_type", config.final_sigmas_type.clone(), "\"zero\" or \"sigma_min\"");
        }
        if config.steps_offset >= count {
            return fail("steps_offset", config.steps_offset.to_string(), "less than num_train_timesteps");
        }
        let betas = match config.beta_schedule {
            BetaSchedule::Linear => linspace(first, last, count),
            BetaSchedule::ScaledLinear => {
                let root = |beta: f32| f64::from(beta).sqrt() as f32;
                linspace(root(first), root(last), count).into_iter().map(|root| root * root).collect()
            }
        };
        let mut product = 1.0;
        let level = |beta: f32| {
            product *= f64::from(1.0 - beta);
            f64::from(product as f32)
        };
        Ok(NoiseSchedule { config: config.clone(), alphas: betas.into_iter().map(level).collect() })
    }

    /// `σ/α` at any time, in between by interpolation.
    fn sigma(&self, time: f64) -> f64 {
        let at = |i: usize| ((1.0 - self.alphas[i]) / self.alphas[i]).sqrt();
        let below = (time.max(0.0) as usize).min(self.alphas.len() - 1);
        let above = (below + 1).min(self.alphas.len() - 1);
        let part = time - below as f64;
        if part == 0.0 { at(below) } else { at(below) + part * (at(above) - at(below)) }
    }

    /// The trajectory of a solver.
    ///
    /// # Errors
    /// If the solver is for flow matching alone, or there are no steps or more than times.
    pub fn trajectory(&self, solver: Solver, steps: usize) -> Result<Trajectory, SolverError> {
        check_steps(steps, self.alphas.len() - 1)?;
        let spacing = self.config.timestep_spacing.unwrap_or(match solver {
            Solver::Ddim => Spacing::Leading,
            _ => Spacing::Linspace,
        });
        let times = self.times(solver, spacing, steps);
        Ok(match solver {
            Solver::Ddim => self.ddim(&times, steps),
            Solver::Euler | Solver::Heun => {
                let points: Vec<Point> = times.iter().map(|&time| self.spread(time)).collect();
                let most = points.iter().map(|p| p.sigma).fold(0.0, f64::max);
                let scale = if spacing == Spacing::Leading { (most * most + 1.0).sqrt() } else { most };
                match solver {
                    Solver::Euler => sigmas::euler(&points, scale),
                    _ => sigmas::heun(&points, scale),
                }
            }
            Solver::DpmSolverPp2M => {
                let points: Vec<Point> = times.iter().map(|&time| self.preserved(time)).collect();
                let end =
                    if self.config.final_sigmas_type == "zero" { CLEAN } else { self.preserved(0.0).mix };
                sigmas::dpm_solver_pp_2m(&points, end, 1.0)
            }
            Solver::Midpoint | Solver::AdamsBashforth2 => {
                let (problem, known) = ("a network that predicts noise", "ddim, euler, heun, dpmpp2m");
                return Err(SolverError::Unfit { solver, problem, known });
            }
        })
    }

    /// The times that a solver visits, falling. Euler and Heun visit times between those of training, the others
    /// do not; DPM-Solver++ counts the end among the times it spaces.
    fn times(&self, solver: Solver, spacing: Spacing, steps: usize) -> Vec<f64> {
        let count = self.alphas.len();
        let multistep = usize::from(solver == Solver::DpmSolverPp2M);
        let last = (count - 1) as f64;
        let mut times: Vec<f64> = match spacing {
            Spacing::Linspace => {
                let all = steps + multistep;
                let at = |i: usize| last * i as f64 / (all.max(2) - 1) as f64;
                let between = matches!(solver, Solver::Euler | Solver::Heun);
                let round = |t: f64| if between { f64::from(t as f32) } else { t.round_ties_even() };
                (multistep..all).rev().map(|i| round(at(i))).collect()
            }
            Spacing::Leading => {
                let ratio = count / (steps + multistep);
                let at = |i: usize| (i * ratio + self.config.steps_offset) as f64;
                (multistep..steps + multistep).rev().map(at).collect()
            }
            Spacing::Trailing => {
                let ratio = count as f64 / steps as f64;
                (0..steps).map(|i| (count as f64 - i as f64 * ratio).round_ties_even() - 1.0).collect()
            }
        };
        times.iter_mut().for_each(|time| *time = time.clamp(0.0, last));
        times
    }

    /// A point in the form `x = x0 + σ ε`, which the network sees divided by its deviation.
    fn spread(&self, time: f64) -> Point {
        let sigma = self.sigma(time);
        let input = 1.0 / (sigma * sigma + 1.0).sqrt();
        let clean = match self.config.prediction_type {
            Prediction::Epsilon => [1.0, -sigma],
            Prediction::VPrediction => [input * input, -sigma * input],
            Prediction::Sample => [0.0, 1.0],
        };
        let slope = [(1.0 - clean[0]) / sigma, -clean[1] / sigma];
        Point { time, input, sigma, slope, clean, mix: [1.0, sigma] }
    }

    /// A point in the form `x = α x0 + σ ε` with `α² + σ² = 1`.
    fn preserved(&self, time: f64) -> Point {
        let spread = self.spread(time);
        let (alpha, sigma) = (spread.input, spread.sigma * spread.input);
        // The clean sample by the same answer, of a sample that is `alpha` times the other's.
        let clean = [spread.clean[0] / alpha, spread.clean[1]];
        Point { input: 1.0, clean, mix: [alpha, sigma], ..spread }
    }

    /// `x' = α' x0 + σ' ε` from each time to the one a step before it, whether or not that is visited.
    fn ddim(&self, times: &[f64], steps: usize) -> Trajectory {
        let step = (self.alphas.len() / steps) as f64;
        let evaluations = times.iter().map(|&time| {
            let p = self.preserved(time);
            let [m2, n2] = match time - step {
                before if before >= 0.0 => self.preserved(before).mix,
                _ if self.config.set_alpha_to_one => CLEAN,
                _ => self.preserved(0.0).mix,
            };
            let keep = n2 / p.mix[1];
            let gain = m2 - keep * p.mix[0];
            evaluation(&p, [keep + gain * p.clean[0], gain * p.clean[1], 0.0], [0.0; 3])
        });
        Trajectory { noise_scale: 1.0, evaluations: evaluations.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(solver: Solver, steps: usize, change: fn(&mut SchedulerConfig)) -> Vec<f32> {
        let mut config = SchedulerConfig::stable_diffusion();
        change(&mut config);
        config.trajectory(false, solver, steps).unwrap().times()
    }

    #[test]
    fn times_are_those_of_diffusers() {
        assert_eq!(times(Solver::Ddim, 8, |_| ()), [876., 751., 626., 501., 376., 251., 126., 1.]);
        assert_eq!(times(Solver::DpmSolverPp2M, 8, |_| ()), [999., 874., 749., 624., 500., 375., 250., 125.]);
        let euler = times(Solver::Euler, 8, |_| ());
        assert_eq!(euler[..2], [999.0, 856.285_7]);
        assert_eq!(times(Solver::Heun, 3, |_| ()), [999., 499.5, 499.5, 0., 0.]);
        let trailing = |c: &mut SchedulerConfig| c.timestep_spacing = Some(Spacing::Trailing);
        assert_eq!(times(Solver::Ddim, 4, trailing), [999., 749., 499., 249.]);
        let leading = |c: &mut SchedulerConfig| c.timestep_spacing = Some(Spacing::Leading);
        assert_eq!(times(Solver::DpmSolverPp2M, 4, leading), [801., 601., 401., 201.]);
    }

    /// A network that knows the noise leads every solver to the clean sample.
    #[test]
    fn true_answers_lead_to_the_clean_sample() {
        let (clean, noise) = (0.7, -1.3);
        for prediction in [Prediction::Epsilon, Prediction::VPrediction, Prediction::Sample] {
            let mut config = SchedulerConfig::stable_diffusion();
            (config.prediction_type, config.set_alpha_to_one) = (prediction, true);
            let schedule = NoiseSchedule::new(&config).unwrap();
            for solver in [Solver::Ddim, Solver::Euler, Solver::Heun, Solver::DpmSolverPp2M] {
                let trajectory = schedule.trajectory(solver, 10).unwrap();
                let first = schedule.spread(trajectory.evaluations[0].time);
                // The network's input is `α x0 + σ ε` in either form.
                let input = first.input * (clean + first.sigma * noise);
                let (mut x, mut h) = (input / trajectory.evaluations[0].input, 0.0);
                for e in &trajectory.evaluations {
                    let [alpha, sigma] = schedule.preserved(e.time).mix;
                    let answer = match prediction {
                        Prediction::Epsilon => noise,
                        Prediction::VPrediction => alpha * noise - sigma * clean,
                        Prediction::Sample => clean,
                    };
                    let dot = |c: [f64; 3]| c[0] * x + c[1] * answer + c[2] * h;
                    (x, h) = (dot(e.next), dot(e.remember));
                }
                assert!((x - clean).abs() < 1e-9, "{solver:?} {prediction:?}: {x}");
            }
        }
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let error = |json: &str, solver| {
            let config: SchedulerConfig = serde_json::from_str(json).unwrap();
            config.trajectory(false, solver, 10).unwrap_err().to_string()
        };
        let karras = error(r#"{"use_karras_sigmas": true}"#, Solver::Euler);
        assert_eq!(karras, "scheduler: use_karras_sigmas = true: expected false: it is not supported");
        assert!(error(r#"{"beta_end": 2.0}"#, Solver::Euler).contains("beta_end"));
        assert!(error("{}", Solver::Midpoint).contains("'midpoint' does not solve"));
        assert!(error(r#"{"num_train_timesteps": 5}"#, Solver::Ddim).contains("between 1 and 4"));
    }
}
