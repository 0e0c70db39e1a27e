//! Solvers over noise levels, whatever the network predicts.
//!
//! A sample at level `σ` is `x = α (x0 + (σ/α) ε)` for some scale `α`. Two forms of path cover diffusion and flow matching:
//! what differs is only how a network's answer gives the clean sample `x0` and the derivative.

use super::scheduler::{SchedulerConfig, SecondOrder};
use super::{Evaluation, Trajectory};

/// A point of the path: its time, and what an answer there means.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    /// What the network is told.
    pub time: f64,
    /// Factor on the network's input.
    pub input: f64,
    /// The variable in which derivatives are taken.
    pub sigma: f64,
    /// Derivative of the sample by `sigma`, over `(x, answer)`.
    pub slope: [f64; 2],
    /// The clean sample, over `(x, answer)`.
    pub clean: [f64; 2],
    /// Weights of the clean sample and of the noise in the sample.
    pub mix: [f64; 2],
}

/// The end of a path: the clean sample.
pub(super) const CLEAN: [f64; 2] = [1.0, 0.0];

/// First order along slopes, to `sigma` `end` at last.
pub(super) fn euler(points: &[Point], end: f64, noise_scale: f64) -> Trajectory {
    let evaluations = steps(points).map(|(p, to)| {
        let d = to.map_or(end, |to| to.sigma) - p.sigma;
        evaluation(p, [1.0 + d * p.slope[0], d * p.slope[1], 0.0], [0.0; 3])
    });
    Trajectory { noise_scale, evaluations: evaluations.collect() }
}

/// Heun's: a trial step, then the mean of both slopes; the last step, to the clean sample, is first order.
pub(super) fn heun(points: &[Point], noise_scale: f64) -> Trajectory {
    let mut evaluations = Vec::new();
    for (p, to) in steps(points) {
        let d = to.map_or(0.0, |to| to.sigma) - p.sigma;
        let half = [1.0 + d / 2.0 * p.slope[0], d / 2.0 * p.slope[1], 0.0];
        evaluations.push(evaluation(p, [1.0 + d * p.slope[0], d * p.slope[1], 0.0], half));
        if let Some(to) = to {
            evaluations.push(evaluation(to, [d / 2.0 * to.slope[0], d / 2.0 * to.slope[1], 1.0], [0.0; 3]));
        }
    }
    Trajectory { noise_scale, evaluations }
}

/// How DPM-Solver++ goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Multistep {
    /// Where it ends.
    end: [f64; 2],
    /// Whether every step is of first order.
    first_order: bool,
    /// Whether the last one is.
    last_is_first_order: bool,
    /// Form of the second order.
    form: SecondOrder,
}

impl Multistep {
    /// As the configuration says, to `end` in so many steps.
    pub fn of(config: &SchedulerConfig, end: [f64; 2], steps: usize) -> Multistep {
        Multistep {
            end,
            first_order: config.solver_order == 1,
            last_is_first_order: end[1] == 0.0 || config.last_is_first_order(steps),
            form: config.solver_type,
        }
    }
}

/// DPM-Solver++ 2M. `x' = (n'/n) x + (m' - n' m/n) D` for mixes `(m, n)`, where `D` is the clean sample extrapolated from this and
/// the one before (equation 9 of arXiv 2211.01095 and diffusers' `multistep_dpm_solver_second_order_update`).
pub(super) fn dpm_solver_pp_2m(points: &[Point], how: Multistep, noise_scale: f64) -> Trajectory {
    let lambda = |[m, n]: [f64; 2]| (m / n).ln();
    let mut evaluations = Vec::new();
    for (i, p) in points.iter().enumerate() {
        let to = points.get(i + 1).map_or(how.end, |to| to.mix);
        let ([m, n], [m2, n2]) = (p.mix, to);
        let keep = n2 / n;
        let gain = m2 - keep * m;
        let first_order = how.first_order || (i + 1 == points.len() && how.last_is_first_order);
        // How much of the difference from the clean sample before is added.
        let beyond = match i.checked_sub(1).and_then(|before| points.get(before)) {
            Some(before) if !first_order => {
                let (h, h0) = (lambda(to) - lambda(p.mix), lambda(p.mix) - lambda(before.mix));
                match how.form {
                    _ if !h0.is_finite() => 0.0,
                    SecondOrder::Midpoint => gain * h / h0 / 2.0,
                    SecondOrder::Heun => (m2 * h - gain) / h0,
                }
            }
            _ => 0.0,
        };
        let weight = gain + beyond;
        let next = [keep + weight * p.clean[0], weight * p.clean[1], -beyond];
        evaluations.push(evaluation(p, next, [p.clean[0], p.clean[1], 0.0]));
    }
    Trajectory { noise_scale, evaluations }
}

/// Adams and Bashforth's second order with steps of different lengths; the first step is first order.
pub(super) fn adams_bashforth_2(points: &[Point], noise_scale: f64) -> Trajectory {
    let mut evaluations = Vec::new();
    let mut before: Option<f64> = None;
    for (p, to) in steps(points) {
        let d = to.map_or(0.0, |to| to.sigma) - p.sigma;
        let over = before.map_or(0.0, |before| d / before / 2.0);
        let weight = d * (1.0 + over);
        let next = [1.0 + weight * p.slope[0], weight * p.slope[1], -d * over];
        evaluations.push(evaluation(p, next, [p.slope[0], p.slope[1], 0.0]));
        before = Some(d);
    }
    Trajectory { noise_scale, evaluations }
}

/// The slope at the middle of each step, found by a trial half step. `middle` gives the point between two levels.
pub(super) fn midpoint(points: &[Point], middle: impl Fn(f64) -> Point, noise_scale: f64) -> Trajectory {
    let mut evaluations = Vec::new();
    for (p, to) in steps(points) {
        let end = to.map_or(0.0, |to| to.sigma);
        let (d, m) = (end - p.sigma, middle((p.sigma + end) / 2.0));
        let half = [1.0 + d / 2.0 * p.slope[0], d / 2.0 * p.slope[1], 0.0];
        evaluations.push(evaluation(p, half, [1.0, 0.0, 0.0]));
        evaluations.push(evaluation(&m, [d * m.slope[0], d * m.slope[1], 1.0], [0.0; 3]));
    }
    Trajectory { noise_scale, evaluations }
}

fn steps(points: &[Point]) -> impl Iterator<Item = (&Point, Option<&Point>)> {
    points.iter().enumerate().map(|(i, p)| (p, points.get(i + 1)))
}

pub(super) fn evaluation(p: &Point, next: [f64; 3], remember: [f64; 3]) -> Evaluation {
    Evaluation { time: p.time, input: p.input, next, remember }
}
