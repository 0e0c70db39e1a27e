//! Noise schedules: how much noise each training time had, and which times a solver visits, as diffusers' schedulers
//! say it. Betas are formed in f32 and their product in f64, rounded each time, as torch does: the last level is the
//! end of a product of a thousand.

use super::scheduler::{BetaSchedule, Prediction, SchedulerConfig, Spacing, refused};
use super::sigmas::{self, CLEAN, Multistep, Point, evaluation};
use super::{Solver, SolverError, Trajectory, check_steps, linspace};

/// The clean sample's share at the last time where it would be none and a solver divides by it.
const LEAST_SHARE: f64 = 1.0 / (1 << 24) as f64;

/// The levels of a schedule.
#[derive(Clone, Debug)]
pub struct NoiseSchedule {
    config: SchedulerConfig,
    /// The share of the clean sample's variance at each training time.
    alphas: Vec<f64>,
}

impl NoiseSchedule {
    /// The levels, as the scheduler of `solver`'s kind has them.
    ///
    /// # Errors
    /// If the betas are not between 0 and 1, or there are no times.
    pub fn new(config: &SchedulerConfig, solver: Solver) -> Result<NoiseSchedule, SolverError> {
        let (count, first, last) = (config.num_train_timesteps, config.beta_start, config.beta_end);
        if !(2..=1 << 16).contains(&count) {
            return Err(refused("num_train_timesteps", count.to_string(), "a number from 2 to 65536"));
        }
        if !(first > 0.0 && first <= last && last < 1.0) {
            let value = format!("{last} after beta_start {first}");
            return Err(refused("beta_end", value, "0 < beta_start <= beta_end < 1"));
        }
        if !["zero", "sigma_min"].contains(&config.final_sigmas_type.as_str()) {
            let value = config.final_sigmas_type.clone();
            return Err(refused("final_sigmas_type", value, "\"zero\" or \"sigma_min\""));
        }
        if config.steps_offset >= count {
            return Err(refused(
                "steps_offset",
                config.steps_offset.to_string(),
                "less than num_train_timesteps",
            ));
        }
        let betas = match config.beta_schedule {
            BetaSchedule::Linear => linspace(first, last, count),
            BetaSchedule::ScaledLinear => {
                let root = |beta: f32| f64::from(beta).sqrt() as f32;
                linspace(root(first), root(last), count).into_iter().map(|root| root * root).collect()
            }
            BetaSchedule::SquaredCosine => {
                let share = |i: usize| {
                    let t = i as f64 / count as f64;
                    ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2)
                };
                (0..count).map(|i| (1.0 - share(i + 1) / share(i)).min(0.999) as f32).collect()
            }
        };
        let mut alphas = shares(betas.into_iter().map(|beta| 1.0 - beta));
        if config.rescale_betas_zero_snr {
            alphas = without_signal(&alphas);
            // Only DDIM can do without the last time's share, and not if it divides by it.
            if solver != Solver::Ddim {
                alphas[count - 1] = LEAST_SHARE;
            } else if config.prediction_type == Prediction::Epsilon {
                let expected =
                    "\"v_prediction\" or \"sample\" with rescale_betas_zero_snr: noise alone tells nothing";
                return Err(refused("prediction_type", "epsilon".into(), expected));
            }
        }
        Ok(NoiseSchedule { config: config.clone(), alphas })
    }

    /// `σ/α` at a time of training.
    fn sigma_at(&self, i: usize) -> f64 {
        ((1.0 - self.alphas[i]) / self.alphas[i]).sqrt()
    }

    /// `σ/α` at any time, in between by interpolation.
    fn sigma(&self, time: f64) -> f64 {
        let below = (time.max(0.0) as usize).min(self.alphas.len() - 1);
        let above = (below + 1).min(self.alphas.len() - 1);
        let (part, at) = (time - below as f64, self.sigma_at(below));
        if part == 0.0 { at } else { at + part * (self.sigma_at(above) - at) }
    }

    /// The time of a level, in between by interpolation of logarithms.
    fn time(&self, sigma: f64) -> f64 {
        let last = self.alphas.len() - 2;
        let level = sigma.max(1e-10).ln();
        let low = (0..=last).rev().find(|&i| self.sigma_at(i).ln() <= level).unwrap_or(0);
        let [a, b] = [low, low + 1].map(|i| self.sigma_at(i).ln());
        low as f64 + ((level - a) / (b - a)).clamp(0.0, 1.0)
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
        let ends_in_noise = self.config.final_sigmas_type == "sigma_min";
        Ok(match solver {
            Solver::Ddim => self.ddim(&times, steps),
            Solver::Euler | Solver::Heun => {
                let levels = self.levels(&times, steps);
                let points: Vec<Point> = levels.map(|(time, sigma)| self.spread(time, sigma)).collect();
                let most = points.iter().map(|p| p.sigma).fold(0.0, f64::max);
                let scale = if spacing == Spacing::Leading { (most * most + 1.0).sqrt() } else { most };
                match solver {
                    Solver::Euler => {
                        sigmas::euler(&points, if ends_in_noise { self.sigma_at(0) } else { 0.0 }, scale)
                    }
                    _ => sigmas::heun(&points, scale),
                }
            }
            Solver::DpmSolverPp2M => {
                let levels = self.whole_levels(&times, steps);
                let points: Vec<Point> =
                    levels.map(|(time, sigma)| self.preserved(time, mix(sigma))).collect();
                let end = if ends_in_noise { mix(self.sigma_at(0)) } else { CLEAN };
                sigmas::dpm_solver_pp_2m(&points, Multistep::of(&self.config, end, points.len()), 1.0)
            }
            Solver::Midpoint | Solver::AdamsBashforth2 => {
                let (problem, known) = ("a network that predicts noise", "ddim, euler, heun, dpmpp2m");
                return Err(SolverError::Unfit { solver, problem, known });
            }
        })
    }

    /// Times and levels, curved where the configuration says so.
    fn levels(&self, times: &[f64], steps: usize) -> impl Iterator<Item = (f64, f64)> {
        let plain: Vec<f64> = times.iter().map(|&time| self.sigma(time)).collect();
        let ends = plain.first().zip(plain.last());
        match ends.and_then(|(&first, &last)| self.config.curved(first, last, steps)) {
            Some(curved) => curved.into_iter().map(|sigma| (self.time(sigma), sigma)).collect::<Vec<_>>(),
            None => times.iter().copied().zip(plain).collect(),
        }
        .into_iter()
    }

    /// As DPM-Solver++ has them: curves go over all levels of training, and times are whole numbers.
    fn whole_levels(&self, times: &[f64], steps: usize) -> impl Iterator<Item = (f64, f64)> {
        let (first, last) = (self.sigma_at(self.alphas.len() - 1), self.sigma_at(0));
        let near = self.config.use_karras_sigmas == Some(true)
            && self.config.beta_schedule != BetaSchedule::SquaredCosine;
        let whole = |time: f64| if near { time.round_ties_even() } else { time.trunc() };
        match self.config.curved(first, last, steps) {
            Some(curved) => {
                curved.into_iter().map(|sigma| (whole(self.time(sigma)), sigma)).collect::<Vec<_>>()
            }
            None => times.iter().map(|&time| (time, self.sigma(time))).collect(),
        }
        .into_iter()
    }

    /// How many of the training times DPM-Solver++ visits: those with enough of the clean sample.
    fn visited(&self) -> usize {
        let lambda = |share: f64| (share / (1.0 - share)).ln() / 2.0;
        let least = self.config.lambda_min_clipped.unwrap_or(f64::NEG_INFINITY);
        self.alphas.iter().filter(|&&share| lambda(share) >= least).count()
    }

    /// The times that a solver visits, falling. Euler and Heun visit times between those of training, the others
    /// do not; DPM-Solver++ counts the end among the times it spaces.
    fn times(&self, solver: Solver, spacing: Spacing, steps: usize) -> Vec<f64> {
        let count = self.alphas.len();
        let multistep = usize::from(solver == Solver::DpmSolverPp2M);
        let end = if multistep == 1 { self.visited() } else { count };
        let last = (count - 1) as f64;
        let mut times: Vec<f64> = match spacing {
            Spacing::Linspace => {
                let all = steps + multistep;
                let at = |i: usize| (end as f64 - 1.0) * i as f64 / (all.max(2) - 1) as f64;
                let between = matches!(solver, Solver::Euler | Solver::Heun);
                let round = |t: f64| if between { f64::from(t as f32) } else { t.round_ties_even() };
                (multistep..all).rev().map(|i| round(at(i))).collect()
            }
            Spacing::Leading => {
                let ratio = end / (steps + multistep);
                let at = |i: usize| (i * ratio + self.config.steps_offset) as f64;
                (multistep..steps + multistep).rev().map(at).collect()
            }
            Spacing::Trailing => {
                let ratio = count as f64 / steps as f64;
                let at = (0..steps).map(|i| end as f64 - i as f64 * ratio).filter(|&time| time > 0.0);
                at.map(|time| time.round_ties_even() - 1.0).collect()
            }
        };
        times.iter_mut().for_each(|time| *time = time.clamp(0.0, last));
        times
    }

    /// A point in the form `x = x0 + σ ε`, which the network sees divided by its deviation.
    fn spread(&self, time: f64, sigma: f64) -> Point {
        let input = 1.0 / (sigma * sigma + 1.0).sqrt();
        let clean = match self.config.prediction_type {
            Prediction::VPrediction => [input * input, -sigma * input],
            Prediction::Sample => [0.0, 1.0],
            _ => [1.0, -sigma],
        };
        let slope = [(1.0 - clean[0]) / sigma, -clean[1] / sigma];
        Point { time, input, sigma, slope, clean, mix: [1.0, sigma] }
    }

    /// A point in the form `x = α x0 + σ ε` with `α² + σ² = 1`; its solvers take no slopes.
    fn preserved(&self, time: f64, mix: [f64; 2]) -> Point {
        let [alpha, sigma] = mix;
        let clean = match self.config.prediction_type {
            Prediction::VPrediction => [alpha, -sigma],
            Prediction::Sample => [0.0, 1.0],
            _ => [1.0 / alpha, -sigma / alpha],
        };
        Point { time, input: 1.0, sigma, slope: [f64::NAN; 2], clean, mix }
    }

    /// `x' = α' x0 + σ' ε` from each time to the one a step before it, whether or not that is visited.
    fn ddim(&self, times: &[f64], steps: usize) -> Trajectory {
        let step = (self.alphas.len() / steps) as f64;
        let mix = |time: f64| {
            let share = self.alphas[(time as usize).min(self.alphas.len() - 1)];
            [share.sqrt(), (1.0 - share).sqrt()]
        };
        let evaluations = times.iter().map(|&time| {
            let p = self.preserved(time, mix(time));
            let [m2, n2] = match time - step {
                before if before >= 0.0 => mix(before),
                _ if self.config.set_alpha_to_one => CLEAN,
                _ => mix(0.0),
            };
            let keep = n2 / p.mix[1];
            let gain = m2 - keep * p.mix[0];
            evaluation(&p, [keep + gain * p.clean[0], gain * p.clean[1], 0.0], [0.0; 3])
        });
        Trajectory { noise_scale: 1.0, evaluations: evaluations.collect() }
    }
}

/// Weights of the clean sample and of the noise at a level, their squares adding up to 1.
fn mix(sigma: f64) -> [f64; 2] {
    let alpha = 1.0 / (sigma * sigma + 1.0).sqrt();
    [alpha, sigma * alpha]
}

/// Products of all factors up to each, rounded each time.
fn shares(factors: impl Iterator<Item = f32>) -> Vec<f64> {
    let mut product = 1.0;
    let share = |factor: f32| {
        product *= f64::from(factor);
        f64::from(product as f32)
    };
    factors.map(share).collect()
}

/// Shares whose roots are moved so that the last is none and the first stays (Lin et al., 2024, algorithm 1).
fn without_signal(alphas: &[f64]) -> Vec<f64> {
    let roots: Vec<f32> = alphas.iter().map(|&share| share.sqrt() as f32).collect();
    let (first, last) = (roots[0], roots[roots.len() - 1]);
    let moved: Vec<f32> =
        roots.iter().map(|root| ((root - last) * (first / (first - last))).powi(2)).collect();
    // By way of betas, as the original.
    let factor = |i: usize| if i == 0 { moved[0] } else { moved[i] / moved[i - 1] };
    shares((0..moved.len()).map(|i| 1.0 - (1.0 - factor(i))))
}

#[cfg(test)]
mod tests {
    use super::super::Problem;
    use super::*;

    fn times(solver: Solver, steps: usize, change: fn(&mut SchedulerConfig)) -> Vec<f32> {
        let mut config = SchedulerConfig::stable_diffusion();
        change(&mut config);
        config.trajectory(Problem::Noise, solver, steps).unwrap().times()
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
            for solver in [Solver::Ddim, Solver::Euler, Solver::Heun, Solver::DpmSolverPp2M] {
                let schedule = NoiseSchedule::new(&config, solver).unwrap();
                let trajectory = schedule.trajectory(solver, 10).unwrap();
                let time = trajectory.evaluations[0].time;
                let first = schedule.spread(time, schedule.sigma(time));
                // The network's input is `α x0 + σ ε` in either form.
                let input = first.input * (clean + first.sigma * noise);
                let (mut x, mut h) = (input / trajectory.evaluations[0].input, 0.0);
                for e in &trajectory.evaluations {
                    let [alpha, sigma] = mix(schedule.sigma(e.time));
                    let answer = match prediction {
                        Prediction::Epsilon => noise,
                        Prediction::VPrediction => alpha * noise - sigma * clean,
                        _ => clean,
                    };
                    let dot = |c: [f64; 3]| c[0] * x + c[1] * answer + c[2] * h;
                    (x, h) = (dot(e.next), dot(e.remember));
                }
                assert!((x - clean).abs() < 1e-9, "{solver:?} {prediction:?}: {x}");
            }
        }
    }

    #[test]
    fn what_cannot_be_is_named() {
        let error = |json: &str, solver| {
            let config: SchedulerConfig = serde_json::from_str(json).unwrap();
            config.trajectory(Problem::Noise, solver, 10).unwrap_err().to_string()
        };
        assert!(error(r#"{"beta_end": 2.0}"#, Solver::Euler).contains("beta_end"));
        assert!(error("{}", Solver::Midpoint).contains("'midpoint' does not solve"));
        assert!(error(r#"{"num_train_timesteps": 5}"#, Solver::Ddim).contains("between 1 and 4"));
        assert!(error(r#"{"rescale_betas_zero_snr": true}"#, Solver::Ddim).contains("v_prediction"));
    }
}
