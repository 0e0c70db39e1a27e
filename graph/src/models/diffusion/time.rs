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
    /// `exp(-ln(10000) j / (channels/2 - shift))`, rounded as the original rounds it.
    fn frequencies(self) -> Vec<f32> {
        let half = self.channels / 2;
        let exponent = |j: usize| -(10000f64.ln() as f32) * j as f32 / (half as f32 - self.shift);
        let mut freqs: Vec<f32> = (0..half).map(|j| f64::from(exponent(j)).exp() as f32).collect();
        for (_, _, places) in TORCH_ROUNDS.iter().filter(|(h, s, _)| (*h, *s) == (half, self.shift)) {
            for &(j, by) in *places {
                freqs[j] = f32::from_bits(freqs[j].to_bits().wrapping_add_signed(by));
            }
        }
        freqs
    }
}

/// Where torch's `exp` on a CPU does not give the nearest f32: number of frequencies, shift, and places with how many
/// units in the last place theirs differs. At time 999 one unit moves a phase by 6e-5, and an untrained network may make a
/// hundred times that of it. Other numbers of frequencies than these are rounded to the nearest.
const TORCH_ROUNDS: [(usize, f32, &[(usize, i32)]); 22] = [
    (24, 1.0, &[(8, -1)]),
    (32, 0.0, &[(3, 1)]),
    (32, 1.0, &[(24, -1), (26, -1)]),
    (40, 1.0, &[(14, -1)]),
    (64, 0.0, &[(6, 1), (53, 1)]),
    (80, 0.0, &[(1, 1), (21, 1)]),
    (80, 1.0, &[(48, 1)]),
    (96, 0.0, &[(9, 1)]),
    (96, 1.0, &[(4, -1)]),
    (128, 0.0, &[(12, 1), (106, 1)]),
    (128, 1.0, &[(4, -1)]),
    (144, 0.0, &[(40, 1), (61, 1), (125, 1)]),
    (144, 1.0, &[(25, 1), (52, 1), (108, -1)]),
    (160, 0.0, &[(2, 1), (15, 1), (42, 1)]),
    (192, 0.0, &[(18, 1), (103, 1), (109, -1), (159, 1)]),
    (192, 1.0, &[(59, 1), (150, -1)]),
    (224, 0.0, &[(21, 1)]),
    (224, 1.0, &[(34, 1), (79, -1), (208, 1)]),
    (256, 0.0, &[(24, 1), (212, 1)]),
    (256, 1.0, &[(47, 1), (74, -1), (141, 1)]),
    (320, 0.0, &[(4, 1), (27, -1), (30, 1), (84, 1), (243, -1), (265, 1), (291, -1)]),
    (320, 1.0, &[(104, -1), (116, 1), (170, 1), (195, -1), (209, 1), (267, -1)]),
];

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
    fn the_frequencies_are_those_shipped_to_the_last_bit() {
        let sinusoids = Sinusoids { channels: 256, cos_first: true, shift: 0.0 };
        assert_eq!(sinusoids.frequencies(), timestep::frequencies());
    }
}
