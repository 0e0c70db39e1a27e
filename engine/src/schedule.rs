//! The diffusion sampler's time grid, and which tokens are visible at each time.
//!
//! Time runs from 1 (noise) to 0 (picture). The visible tokens follow from the *truncated* thousandths of the time, so
//! the last bit of a grid point can hide or show a token: the grid is therefore torch's `linspace` with its own
//! roundings, and the slopes of the token schedule are rounded to f32 as the original's are.

use std::ops::Range;

/// Largest number of sampler steps: one for each thousandth the token schedule knows.
pub const MAX_STEPS: usize = 1000;

/// Why a schedule could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Zero steps, or more than [`MAX_STEPS`].
    #[error("{steps} sampler steps; choose between 1 and {MAX_STEPS} (50 is usual)")]
    Steps {
        /// The number asked for.
        steps: usize,
    },
    /// The stages are not a partition of the tokens into equal times.
    #[error(
        "tokens_per_stage {stages:?}: give between 1 and 1000 stages that divide 1000, with a total of 1 to 65536 tokens"
    )]
    Stages {
        /// The stages asked for.
        stages: Vec<usize>,
    },
    /// The prefix is empty or longer than the picture's tokens.
    #[error("a prefix of {prefix} tokens; choose between 1 and {num_tokens}")]
    Prefix {
        /// The prefix asked for.
        prefix: usize,
        /// Tokens a picture has.
        num_tokens: usize,
    },
}

/// Times `t_0 = 1 > ... > t_steps = 0`, as `torch.linspace(1, 0, steps + 1)` rounds them.
#[derive(Debug, Clone, PartialEq)]
pub struct TimeGrid {
    times: Vec<f32>,
}

impl TimeGrid {
    /// The uniform grid of `steps` steps.
    pub fn new(steps: usize) -> Result<Self, ScheduleError> {
        if steps == 0 || steps > MAX_STEPS {
            return Err(ScheduleError::Steps { steps });
        }
        let step = -1.0 / steps as f32;
        // Torch counts the first half up from the start and the second half down from the end, each with one rounding.
        let half = steps.div_ceil(2);
        let time = |i: usize| {
            if i < half { step.mul_add(i as f32, 1.0) } else { -step * (steps - i) as f32 }
        };
        Ok(Self { times: (0..=steps).map(time).collect() })
    }

    /// Number of sampler steps.
    pub fn steps(&self) -> usize {
        self.times.len() - 1
    }

    /// All `steps + 1` times, from 1 down to 0.
    pub fn times(&self) -> &[f32] {
        &self.times
    }

    /// What the timestep embedding is given at each step: `1000 t`, rounded to f32. `steps` values.
    pub fn timesteps(&self) -> impl ExactSizeIterator<Item = f32> + '_ {
        self.times[..self.steps()].iter().map(|t| t * 1000.0)
    }

    /// The whole thousandths of the time at each step, truncated: what the token schedule is asked. `steps` values.
    pub fn taus(&self) -> impl ExactSizeIterator<Item = u32> + '_ {
        self.timesteps().map(|t| t as u32)
    }

    /// How far each Euler step goes: `x <- x - step_size * velocity`. `steps` values.
    pub fn step_sizes(&self) -> impl ExactSizeIterator<Item = f32> + '_ {
        self.times.windows(2).map(|pair| pair[0] - pair[1])
    }
}

/// How many tokens are visible at which time: equal stages of the thousand, each with its own number of tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenSchedule {
    stages: Vec<Stage>,
    stage_length: usize,
    num_tokens: usize,
}

#[derive(Debug, Clone, PartialEq)]
struct Stage {
    slope: f32,
    base: usize,
}

impl TokenSchedule {
    /// The schedule of `tokens_per_stage`, early (nearly clean) stages first: 192, 184, 72, 48, 16 for the released
    /// tokenizer, one stage of 512 for its renderer.
    pub fn new(tokens_per_stage: &[usize]) -> Result<Self, ScheduleError> {
        let count = tokens_per_stage.len();
        let total =
            tokens_per_stage.iter().try_fold(0usize, |sum, &n| sum.checked_add(n)).unwrap_or(usize::MAX);
        if count == 0 || 1000 % count != 0 || total == 0 || total > 1 << 16 {
            return Err(ScheduleError::Stages { stages: tokens_per_stage.to_vec() });
        }
        let stage_length = 1000 / count;
        let mut base = 0;
        let stage = |&n: &usize| {
            let stage = Stage { slope: (n as f64 / stage_length as f64) as f32, base };
            base += n;
            stage
        };
        Ok(Self { stages: tokens_per_stage.iter().map(stage).collect(), stage_length, num_tokens: total })
    }

    /// Tokens a picture has, `K`.
    pub fn num_tokens(&self) -> usize {
        self.num_tokens
    }

    /// The last visible token index at `tau` thousandths; what is above 1000 counts as 1000.
    pub fn last_visible(&self, tau: u32) -> usize {
        let tau = tau.min(1000) as usize;
        let at = (tau / self.stage_length).min(self.stages.len() - 1);
        let within = (tau - at * self.stage_length) as f32;
        let stage = &self.stages[at];
        ((stage.slope * within) as usize + stage.base).min(self.num_tokens - 1)
    }

    /// The token indices that take part at `tau`, of a picture of which the first `prefix` tokens in writing order
    /// (indices `K-1` down to `K-prefix`) are known. Empty where none is left.
    pub fn visible(&self, tau: u32, prefix: usize) -> Result<Range<usize>, ScheduleError> {
        if prefix == 0 || prefix > self.num_tokens {
            return Err(ScheduleError::Prefix { prefix, num_tokens: self.num_tokens });
        }
        let low = self.num_tokens - prefix;
        Ok(low..(self.last_visible(tau) + 1).max(low))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::golden;
    use serde_json::Value;

    const RELEASED: [usize; 5] = [192, 184, 72, 48, 16];

    #[test]
    fn the_released_sampler_sees_these_tokens() {
        let grid = TimeGrid::new(50).unwrap();
        let schedule = TokenSchedule::new(&RELEASED).unwrap();
        let k: Vec<usize> = grid.taus().map(|tau| schedule.last_visible(tau)).collect();
        let expected = [
            511, 510, 508, 507, 505, 504, 502, 500, 499, 497, 496, 491, 486, 481, 476, 472, 467, 462, 457,
            452, 448, 440, 433, 426, 419, 412, 404, 397, 390, 383, 375, 357, 338, 320, 302, 283, 265, 247,
            228, 210, 191, 171, 153, 134, 115, 95, 76, 57, 38, 19,
        ];
        assert_eq!(k, expected);
        let taus: Vec<u32> = grid.taus().collect();
        assert_eq!([27, 30, 32, 35, 40, 41, 45].map(|i| taus[i]), [459, 399, 359, 299, 199, 179, 99]);
    }

    #[test]
    fn grids_and_schedules_equal_the_original() {
        let golden: Value =
            serde_json::from_slice(&std::fs::read(golden("schedules.json")).unwrap()).unwrap();
        for (name, case) in golden.as_object().unwrap() {
            let stages: Vec<usize> =
                case["k_per_stage"].as_str().unwrap().split(',').map(|n| n.parse().unwrap()).collect();
            let schedule = TokenSchedule::new(&stages).unwrap();
            assert_eq!(schedule.num_tokens() as u64, case["K"].as_u64().unwrap());
            for (tau, k) in case["k_of_integer_t_0_to_1000"].as_array().unwrap().iter().enumerate() {
                assert_eq!(
                    schedule.last_visible(tau as u32) as u64,
                    k.as_u64().unwrap(),
                    "{name}, tau {tau}"
                );
            }
            for steps in [10, 20, 25, 50, 100] {
                let grid = TimeGrid::new(steps).unwrap();
                let rows = case[format!("steps_{steps}")]["rows"].as_array().unwrap();
                assert_eq!(rows.len(), steps);
                let sizes = grid.step_sizes();
                for (((row, tau), timestep), size) in
                    rows.iter().zip(grid.taus()).zip(grid.timesteps()).zip(sizes)
                {
                    let number = |at: usize| row[at].as_f64().unwrap();
                    let i = number(0) as usize;
                    assert_eq!(grid.times()[i], number(1) as f32, "{name}, step {i} of {steps}");
                    assert_eq!(grid.times()[i + 1], number(2) as f32, "{name}, step {i} of {steps}");
                    assert_eq!(timestep, number(3) as f32, "{name}, step {i} of {steps}");
                    assert_eq!(f64::from(tau), number(4), "{name}, step {i} of {steps}");
                    assert_eq!(schedule.last_visible(tau) as f64, number(5), "{name}, step {i} of {steps}");
                    assert_eq!(size, number(1) as f32 - number(2) as f32);
                }
            }
        }
    }

    #[test]
    fn every_grid_falls_from_one_to_zero() {
        for steps in 1..=MAX_STEPS {
            let grid = TimeGrid::new(steps).unwrap();
            assert_eq!((grid.times()[0], grid.times()[steps]), (1.0, 0.0));
            assert!(grid.times()[steps].is_sign_positive());
            assert!(grid.step_sizes().all(|size| size > 0.0), "{steps}");
        }
        assert_eq!(TimeGrid::new(0), Err(ScheduleError::Steps { steps: 0 }));
        assert!(TimeGrid::new(MAX_STEPS + 1).is_err());
    }

    #[test]
    fn a_prefix_shows_its_tokens_and_no_others() {
        let schedule = TokenSchedule::new(&[24, 20, 10, 6, 4]).unwrap();
        assert_eq!(schedule.visible(1000, 64).unwrap(), 0..64);
        assert_eq!(schedule.visible(1000, 16).unwrap(), 48..64);
        assert_eq!(schedule.visible(0, 64).unwrap(), 0..1);
        // 200 thousandths: k = 24, and of the last sixteen none is visible.
        assert_eq!(schedule.visible(200, 16).unwrap(), 48..48);
        assert_eq!(schedule.visible(200, 40).unwrap(), 24..25);
        let error = schedule.visible(5, 65).unwrap_err();
        assert_eq!(error.to_string(), "a prefix of 65 tokens; choose between 1 and 64");
        assert!(schedule.visible(5, 0).is_err());
    }

    #[test]
    fn impossible_stages_are_errors() {
        for stages in [&[][..], &[0, 0], &[1, 2, 3], &[usize::MAX, 1]] {
            assert!(TokenSchedule::new(stages).is_err(), "{stages:?}");
        }
    }
}
