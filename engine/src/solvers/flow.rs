//! Flow matching: the path is the straight line `x = (1 - σ) x0 + σ ε`, and the network answers with its direction.

use super::sigmas::{self, CLEAN, Point};
use super::{MAX_STEPS, Solver, SolverError, Trajectory, check_steps};

/// A point of the straight path at `sigma`; the network is told `time`.
fn point(sigma: f64, time: f64) -> Point {
    Point { time, input: 1.0, sigma, slope: [0.0, 1.0], clean: [1.0, -sigma], mix: [1.0 - sigma, sigma] }
}

/// The levels of diffusers' `FlowMatchEulerDiscreteScheduler`: evenly spaced times moved towards noise by
/// `σ -> shift σ / (1 + (shift - 1) σ)`.
///
/// # Errors
/// If there are no steps or too many, or the shift is not positive.
fn shifted(steps: usize, shift: f64) -> Result<Vec<f64>, SolverError> {
    check_steps(steps, MAX_STEPS)?;
    if !(shift.is_finite() && shift > 0.0) {
        let expected = "a positive number".into();
        return Err(SolverError::Config { field: "shift", value: shift.to_string(), expected });
    }
    let move_up = |sigma: f64| shift * sigma / (1.0 + (shift - 1.0) * sigma);
    // As the original: the last time of training is moved, and the levels between it and 1 once more.
    let (first, last) = (1.0, move_up(1.0 / TRAIN_STEPS));
    let at = |i: usize| first + (last - first) * i as f64 / (steps.max(2) - 1) as f64;
    Ok((0..steps).map(|i| move_up(at(i))).collect())
}

/// Times of training.
const TRAIN_STEPS: f64 = 1000.0;

/// The trajectory of a solver over shifted levels, with times in thousandths.
///
/// # Errors
/// If the solver is none for flow matching, or the number of steps or the shift cannot be.
pub(super) fn trajectory(solver: Solver, steps: usize, shift: f64) -> Result<Trajectory, SolverError> {
    through(solver, &shifted(steps, shift)?, TRAIN_STEPS)
}

/// The trajectory of a solver through these levels and then to 0, with times `scale * σ`.
///
/// # Errors
/// If the solver is none for flow matching.
pub(super) fn through(solver: Solver, levels: &[f64], scale: f64) -> Result<Trajectory, SolverError> {
    let at = |sigma: f64| point(sigma, scale * sigma);
    let points: Vec<Point> = levels.iter().map(|&sigma| at(sigma)).collect();
    Ok(match solver {
        Solver::Euler => sigmas::euler(&points, 1.0),
        Solver::Heun => sigmas::heun(&points, 1.0),
        Solver::DpmSolverPp2M => sigmas::dpm_solver_pp_2m(&points, CLEAN, 1.0),
        Solver::Midpoint => sigmas::midpoint(&points, at, 1.0),
        Solver::AdamsBashforth2 => sigmas::adams_bashforth_2(&points, 1.0),
        Solver::Ddim => {
            let known = "euler, heun, dpmpp2m, midpoint, ab2";
            return Err(SolverError::Unfit { solver, problem: "flow matching", known });
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answers of a field whose solution is known: `dx/dσ = f(σ)`.
    fn solve(solver: Solver, steps: usize, f: impl Fn(f64) -> f64) -> f64 {
        let levels: Vec<f64> = (0..steps).map(|i| 1.0 - i as f64 / steps as f64).collect();
        let (mut x, mut h) = (0.0, 0.0);
        for e in through(solver, &levels, 1.0).unwrap().evaluations {
            let known = [x, f(e.time), h];
            let dot =
                |c: [f64; 3]| c.iter().zip(known).map(|(c, v)| if *c == 0.0 { 0.0 } else { c * v }).sum();
            (x, h) = (dot(e.next), dot(e.remember));
        }
        x
    }

    #[test]
    fn a_straight_path_is_solved_exactly_by_all_and_a_bent_one_better_by_the_second_order() {
        for (_, solver) in &Solver::ALL[1..] {
            assert!((solve(*solver, 5, |_| 2.0) + 2.0).abs() < 1e-12, "{solver:?}");
        }
        // dx/dσ = 3σ², x(0) = -1.
        let error = |solver, steps| (solve(solver, steps, |s| 3.0 * s * s) + 1.0).abs();
        assert!(error(Solver::Euler, 20) > 0.05);
        assert!(error(Solver::Midpoint, 20) < 1e-3);
        assert!(error(Solver::AdamsBashforth2, 20) < error(Solver::Euler, 20) / 10.0);
        // Twice the steps, a quarter of the error.
        for solver in [Solver::Midpoint, Solver::AdamsBashforth2] {
            let ratio = error(solver, 40) / error(solver, 80);
            assert!((3.0..5.5).contains(&ratio), "{solver:?}: {ratio}");
        }
    }

    #[test]
    fn ddim_is_refused_with_what_would_do() {
        let error = trajectory(Solver::Ddim, 8, 3.0).unwrap_err().to_string();
        assert!(error.contains("'ddim' does not solve flow matching"), "{error}");
        assert!(trajectory(Solver::Euler, 0, 3.0).is_err());
        assert!(trajectory(Solver::Euler, 8, f64::NAN).is_err());
    }
}
