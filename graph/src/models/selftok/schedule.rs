//! Sections 9 and 10: which tokens are visible at a time, and the times of the sampler. Host arithmetic in f32, rounding
//! for rounding that of the original, because a time that lands one unit lower shows one token less.

use super::config::{Config, STAGES, wrong};
use crate::GraphError;
use std::ops::Range;

/// Thousandths of time in one stage.
const STAGE_LENGTH: usize = 200;

/// Section 9: the token schedule `k(t)`.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenSchedule {
    tokens: usize,
    /// Tokens visible before each stage.
    base: [usize; STAGES],
    /// Tokens that become visible with each thousandth.
    slope: [f32; STAGES],
}

impl TokenSchedule {
    /// The schedule of a model. An error where its configuration leaves it open, as for the released 1024 tokens.
    pub fn new(config: &Config) -> Result<TokenSchedule, GraphError> {
        config.validate()?;
        let Some(stages) = &config.tokens_per_stage else {
            let expected = format!(
                "{STAGES} numbers that add up to num_tokens {}: the diffusion decoder needs them",
                config.num_tokens
            );
            return Err(wrong("tokens_per_stage", "absent", expected));
        };
        let (mut base, mut slope, mut before) = ([0; STAGES], [0.0; STAGES], 0);
        for (i, &n) in stages.iter().enumerate() {
            base[i] = before;
            slope[i] = (n as f64 / STAGE_LENGTH as f64) as f32;
            before += n;
        }
        Ok(TokenSchedule { tokens: config.num_tokens, base, slope })
    }

    /// `k(tau)`: the last visible token at `tau` thousandths of time.
    pub fn last_visible(&self, tau: usize) -> usize {
        let stage = (tau / STAGE_LENGTH).min(STAGES - 1);
        let inside = self.slope[stage] * (tau - stage * STAGE_LENGTH) as f32;
        (inside as usize + self.base[stage]).min(self.tokens - 1)
    }

    /// The visible tokens at time `t` in `[0, 1]`, where only the first `prefix` tokens in writing order (the last
    /// in index order, Section 17) are known: `[lo, hi)`, empty where none of those is visible.
    pub fn visible(&self, t: f32, prefix: usize) -> Range<usize> {
        let hi = self.last_visible((t.clamp(0.0, 1.0) * 1000.0) as usize) + 1;
        self.tokens.saturating_sub(prefix).min(hi)..hi
    }
}

/// Section 10: `steps + 1` times from 1 to 0, as `torch.linspace` rounds them.
pub fn time_grid(steps: usize) -> Vec<f32> {
    if steps == 0 {
        return vec![1.0];
    }
    let step = -1.0 / steps as f32;
    let half = steps.div_ceil(2);
    let at = |i: usize| {
        if i < half { step.mul_add(i as f32, 1.0) } else { -step * (steps - i) as f32 }
    };
    (0..=steps).map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_released_schedule_shows_everything_at_time_one_and_one_token_at_zero() {
        let schedule = TokenSchedule::new(&Config::released(512)).unwrap();
        assert_eq!(schedule.visible(1.0, 512), 0..512);
        assert_eq!(schedule.visible(0.0, 512), 0..1);
        assert_eq!(schedule.visible(1.0, 32), 480..512);
        assert!(schedule.visible(0.5, 32).is_empty());
        assert!(TokenSchedule::new(&Config::released(1024)).is_err());
    }

    #[test]
    fn fifty_steps_truncate_as_the_original_does() {
        // Section 10: these steps land just below a whole number of thousandths.
        let t = time_grid(50);
        for (i, tau) in
            [(27, 459), (30, 399), (32, 359), (35, 299), (40, 199), (41, 179), (45, 99), (17, 660)]
        {
            assert_eq!((t[i] * 1000.0) as usize, tau, "step {i}");
        }
        assert_eq!((t[0], t[50], t.len()), (1.0, 0.0, 51));
    }
}
