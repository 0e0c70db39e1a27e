//! How a network knows the time, in diffusers' form: sinusoids of the timestep, then two linear layers.
//!
//! A network is written once for two uses. As a black box each picture of the batch has its own time. In a sampler's
//! loop all times are known when the run starts and are the same for all pictures: then everything that depends on
//! time alone is one product over the whole grid, and a step only picks its row of the result.

use crate::{Activation, Builder, Slot, Stage, Tensor};

/// The times that a network is asked at.
#[derive(Clone, Copy)]
pub(crate) enum Times<'g> {
    /// One for each picture: `[B]`.
    Each(Tensor<'g>),
    /// A grid `[S]` and the slot of the step's row.
    Grid(Tensor<'g>, Slot),
}

impl<'g> Times<'g> {
    /// `linear_2(silu(linear_1(sinusoids)))` in the scope `name`: `[B or S, width]`.
    pub fn embed(self, g: &'g Builder, name: &str, sinusoids: Sinusoids, width: usize) -> Tensor<'g> {
        let (Times::Each(t) | Times::Grid(t, _)) = self;
        let freqs = g.constant([sinusoids.channels / 2], sinusoids.frequencies());
        let waves = t.timestep_embed(freqs, !sinusoids.cos_first);
        g.scope(name, || waves.linear("linear_1", width).act(Activation::Silu).linear("linear_2", width))
    }

    /// What depends on time, `[B or S, D]`, joined with what depends on the picture, `[B, D]`, as a source of
    /// modulations.
    pub fn condition(self, time: Tensor<'g>, picture: Tensor<'g>) -> Conditioning<'g> {
        let (c, step) = match self {
            Times::Each(_) => (time + picture, None),
            Times::Grid(_, step) => {
                let s = time.shape().0;
                (time.reshape([s[0], 1.into(), s[1]]) + picture, Some(step))
            }
        };
        Conditioning { emb: c.act(Activation::Silu), step }
    }
}

/// The sinusoids of a timestep, as diffusers' `Timesteps` makes them.
#[derive(Clone, Copy)]
pub(crate) struct Sinusoids {
    /// Cosines and sines together; even.
    pub channels: usize,
    /// Whether the cosines come first (`flip_sin_to_cos`).
    pub cos_first: bool,
    /// Subtracted from the number of frequencies in the exponent (`downscale_freq_shift`).
    pub shift: f32,
}

impl Sinusoids {
    /// `exp(-ln(10000) j / (channels/2 - shift))`, rounded as the original rounds it: at time 999 one unit in the last
    /// place moves a phase by 6e-5, and a network may make a hundred times that of it.
    fn frequencies(self) -> Vec<f32> {
        let half = self.channels / 2;
        let exponent = |j: usize| -(10000f64.ln() as f32) * j as f32 / (half as f32 - self.shift);
        (0..half).map(|j| exp(exponent(j))).collect()
    }
}

/// `exp(x)` for `-80 < x <= 0` with torch's roundings on a CPU, which are those of SLEEF's `expf_u10`: the argument
/// reduced by multiples of `ln 2` in two parts, then a polynomial.
fn exp(x: f32) -> f32 {
    const LN_2: [f32; 2] = [0.693_145_75, 1.428_606_8e-6];
    const POLYNOMIAL: [f32; 5] = [0.001_393_043_6, 0.008_333_361, 0.041_666_485, 0.166_666_67, 0.5];
    let q = (x * std::f32::consts::LOG2_E).round_ties_even();
    let s = q.mul_add(-LN_2[1], q.mul_add(-LN_2[0], x));
    let u = POLYNOMIAL.iter().fold(0.000_198_527_62f32, |u, &c| u.mul_add(s, c));
    (1.0 + (s * s).mul_add(u, s)) * q.exp2()
}

/// Where modulations come from.
#[derive(Clone, Copy)]
pub(crate) struct Conditioning<'g> {
    /// `silu(c)`: `[B, D]`, or `[S, B, D]` over a grid of times.
    emb: Tensor<'g>,
    step: Option<Slot>,
}

impl<'g> Conditioning<'g> {
    /// `N` parts of `linear(silu(c))`, each `[B, 1, D]`: ready to broadcast over `[B, N, D]`.
    pub fn modulation<const N: usize>(&self, name: &str) -> [Tensor<'g>; N] {
        let width = self.emb.shape().last();
        let m = self.emb.linear(name, N * width);
        let m = match self.step {
            Some(step) => m.pick(0, step, Stage::Step),
            None => m,
        };
        m.reshape([m.shape().0[0], 1.into(), (N * width).into()]).split()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::timestep;

    #[test]
    fn the_frequencies_are_torchs_to_the_last_bit() {
        let sinusoids = Sinusoids { channels: 256, cos_first: true, shift: 0.0 };
        assert_eq!(sinusoids.frequencies(), timestep::frequencies());
        // Where the nearest number is another: torch.exp(-ln(10000) * 4 / 127).
        let shifted = Sinusoids { shift: 1.0, ..sinusoids }.frequencies();
        let exact = (f64::from(-(10000f64.ln() as f32) * 4.0 / 127.0)).exp() as f32;
        assert_eq!(shifted[4].to_bits() + 1, exact.to_bits());
    }
}
