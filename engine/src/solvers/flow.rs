//! Flow matching: the path is the straight line `x = (1 - σ) x0 + σ ε`, and the network answers with its direction.

use super::scheduler::{SchedulerConfig, TimeShift, refused};
use super::sigmas::{self, CLEAN, Multistep, Point};
use super::{MAX_STEPS, Solver, SolverError, Trajectory, check_steps};

/// A point of the straight path at `sigma`; the network is told `time`.
fn point(sigma: f64, time: f64) -> Point {
    Point { time, input: 1.0, sigma, slope: [0.0, 1.0], clean: [1.0, -sigma], mix: [1.0 - sigma, sigma] }
}

/// `σ -> shift σ / (1 + (shift - 1) σ)`: towards noise where `shift` is above 1.
fn shifted(sigma: f64, shift: f64) -> f64 {
    shift * sigma / (1.0 + (shift - 1.0) * sigma)
}

/// The shift of a sample of so many patches: on the line through two known sizes, or its logarithm is.
fn dynamic_shift(config: &SchedulerConfig, patches: usize) -> Result<f64, SolverError> {
    let (low, high) = (config.base_image_seq_len, config.max_image_seq_len);
    let slope = (config.max_shift - config.base_shift) / (high - low);
    let mu = config.base_shift + slope * (patches as f64 - low);
    let shift = match config.time_shift_type {
        TimeShift::Exponential => mu.exp(),
        TimeShift::Linear => mu,
    };
    match shift.is_finite() && shift > 0.0 {
        true => Ok(shift),
        false => Err(refused("max_shift", config.max_shift.to_string(), "a shift above 0 for this size")),
    }
}

/// The levels of diffusers' `FlowMatchEulerDiscreteScheduler`: evenly spaced ones, shifted, stretched and curved as the
/// configuration says; and the factor from level to time.
fn levels(config: &SchedulerConfig, steps: usize, patches: usize) -> Result<Vec<Point>, SolverError> {
    check_steps(steps, MAX_STEPS)?;
    if !(2..=1 << 16).contains(&config.num_train_timesteps) {
        let value = config.num_train_timesteps.to_string();
        return Err(refused("num_train_timesteps", value, "a number from 2 to 65536"));
    }
    for (field, shift) in [("shift", config.shift), ("flow_shift", config.flow_shift)] {
        if !(shift.is_finite() && shift > 0.0) {
            return Err(refused(field, shift.to_string(), "a positive number"));
        }
    }
    let times = config.num_train_timesteps as f64;
    if config.use_flow_sigmas == Some(true) {
        // DPM-Solver++'s own spacing, and whole times.
        let sigma = |i: usize| shifted((1.0 - 1.0 / times) * i as f64 / steps as f64, config.flow_shift);
        let whole = |sigma: f64| point(sigma, (sigma * times).trunc());
        return Ok((1..=steps).rev().map(|i| whole(sigma(i))).collect());
    }
    // As the original: a fixed shift moves the last time of training, and then the levels between it and 1 once more.
    let dynamic = config.use_dynamic_shifting == Some(true);
    let shift = if dynamic { dynamic_shift(config, patches)? } else { config.shift };
    let last = if dynamic { 1.0 / times } else { shifted(1.0 / times, shift) };
    let at = |i: usize| 1.0 + (last - 1.0) * i as f64 / (steps.max(2) - 1) as f64;
    let mut levels: Vec<f64> = (0..steps).map(|i| shifted(at(i), shift)).collect();
    if let Some(terminal) = config.shift_terminal.filter(|&terminal| terminal != 0.0) {
        let scale = (1.0 - levels[steps - 1]) / (1.0 - terminal);
        if !(terminal > 0.0 && terminal < 1.0 && scale > 0.0) {
            let expected = "null, or a number between 0 and 1 with two steps or more";
            return Err(refused("shift_terminal", terminal.to_string(), expected));
        }
        levels.iter_mut().for_each(|sigma| *sigma = 1.0 - (1.0 - *sigma) / scale);
    }
    let levels = config.curved(levels[0], levels[steps - 1], steps).unwrap_or(levels);
    Ok(levels.into_iter().map(|sigma| point(sigma, times * sigma)).collect())
}

/// The trajectory of a solver over the levels that the configuration says, for a sample of so many patches.
///
/// # Errors
/// If the solver is none for flow matching, or the number of steps or the configuration cannot be.
pub(super) fn trajectory(
    config: &SchedulerConfig,
    solver: Solver,
    steps: usize,
    patches: usize,
) -> Result<Trajectory, SolverError> {
    solve(solver, &levels(config, steps, patches)?, config, config.num_train_timesteps as f64)
}

/// The trajectory of a solver through these levels and then to 0, with times `scale * σ`.
///
/// # Errors
/// If the solver is none for flow matching.
pub(super) fn through(solver: Solver, levels: &[f64], scale: f64) -> Result<Trajectory, SolverError> {
    let points: Vec<Point> = levels.iter().map(|&sigma| point(sigma, scale * sigma)).collect();
    solve(solver, &points, &SchedulerConfig::default(), scale)
}

fn solve(
    solver: Solver,
    points: &[Point],
    config: &SchedulerConfig,
    scale: f64,
) -> Result<Trajectory, SolverError> {
    Ok(match solver {
        Solver::Euler => sigmas::euler(points, 0.0, 1.0),
        Solver::Heun => sigmas::heun(points, 1.0),
        Solver::DpmSolverPp2M => {
            sigmas::dpm_solver_pp_2m(points, Multistep::of(config, CLEAN, points.len()), 1.0)
        }
        Solver::Midpoint => sigmas::midpoint(points, |sigma| point(sigma, scale * sigma), 1.0),
        Solver::AdamsBashforth2 => sigmas::adams_bashforth_2(points, 1.0),
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
    fn end(solver: Solver, steps: usize, f: impl Fn(f64) -> f64) -> f64 {
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
            assert!((end(*solver, 5, |_| 2.0) + 2.0).abs() < 1e-12, "{solver:?}");
        }
        // dx/dσ = 3σ², x(0) = -1.
        let error = |solver, steps| (end(solver, steps, |s| 3.0 * s * s) + 1.0).abs();
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
        let of = |solver, steps, shift| {
            trajectory(&SchedulerConfig { shift, ..SchedulerConfig::default() }, solver, steps, 16)
        };
        let error = of(Solver::Ddim, 8, 3.0).unwrap_err().to_string();
        assert!(error.contains("'ddim' does not solve flow matching"), "{error}");
        assert!(of(Solver::Euler, 0, 3.0).is_err());
        assert!(of(Solver::Euler, 8, f64::NAN).is_err());
    }
}
