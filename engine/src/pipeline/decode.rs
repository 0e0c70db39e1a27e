//! Decoding by diffusion: from noise to a picture in small steps, each seeing as many tokens as its noise calls for.

use super::parts::MAX_GRID;
use super::{Control, Counter, Part, Selftok};
use crate::random::Generator;
use crate::schedule::{TimeGrid, TokenSchedule};
use crate::solvers::{self, Solver};
use crate::{Error, Picture, Tokens};

/// A diffusion about to run; made by [`Selftok::decode`].
#[must_use = "nothing is decoded before `run`"]
pub struct Decode<'a, 'c> {
    selftok: &'a Selftok,
    tokens: &'a Tokens,
    solver: Solver,
    steps: usize,
    seed: u64,
    prefix: Option<usize>,
    noise: Option<&'a [f32]>,
    control: Control<'c>,
}

impl<'a> Decode<'a, 'static> {
    pub(super) fn new(selftok: &'a Selftok, tokens: &'a Tokens) -> Self {
        let control = Control::default();
        let solver = Solver::Euler;
        Decode { selftok, tokens, solver, steps: 50, seed: 0, prefix: None, noise: None, control }
    }
}

impl<'a, 'c> Decode<'a, 'c> {
    /// The solver; [`Solver::Euler`] where not set, which is the original's. Others come as near in fewer steps; DDIM is
    /// none of them.
    pub fn solver(mut self, solver: Solver) -> Self {
        self.solver = solver;
        self
    }

    /// Number of steps, from 1 to 1000; 50 where not set. Heun's and the midpoint solver evaluate the network twice a
    /// step.
    pub fn steps(mut self, steps: usize) -> Self {
        self.steps = steps;
        self
    }

    /// Seed of the noise, which is `torch.manual_seed`'s; 0 where not set. The noise of a batch is drawn in the
    /// order of the pictures, whatever the batch size of the model.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Decodes from the first `tokens` tokens in writing order alone (indices K-1 down to K-N).
    pub fn prefix(mut self, tokens: usize) -> Self {
        self.prefix = Some(tokens);
        self
    }

    /// Starts from this noise `[B, C, h, w]` instead of a seed's.
    pub fn noise(mut self, noise: &'a [f32]) -> Self {
        self.noise = Some(noise);
        self
    }

    /// Watches the job.
    pub fn control<'d>(self, control: Control<'d>) -> Decode<'a, 'd> {
        let Decode { selftok, tokens, solver, steps, seed, prefix, noise, control: _ } = self;
        Decode { selftok, tokens, solver, steps, seed, prefix, noise, control }
    }

    /// The pictures.
    ///
    /// # Errors
    /// If the model has no diffusion decoder, token schedule or autoencoder; if steps, prefix or tokens do not fit;
    /// or if cancelled.
    pub fn run(self) -> Result<Vec<Picture>, Error> {
        let selftok = self.selftok;
        // A diffusion is long: refuse before it what would fail after it.
        selftok.prepare(&[part(self.solver), Part::ToPixels])?;
        let (latents, mut counter) = self.sample(true)?;
        selftok.to_pictures(&latents, &mut counter)
    }

    /// The latents `[B, C, h, w]`.
    ///
    /// # Errors
    /// As [`run`](Self::run), but no autoencoder is needed.
    pub fn latents(self) -> Result<Vec<f32>, Error> {
        Ok(self.sample(false)?.0)
    }

    fn sample(self, pictures: bool) -> Result<(Vec<f32>, Counter<'c>), Error> {
        let Decode { selftok, tokens, solver, steps, seed, prefix, noise, control } = self;
        let config = selftok.config();
        let schedule = TokenSchedule::new(selftok.files.tokens_per_stage()?)?;
        let grid = TimeGrid::new(steps)?;
        let levels: Vec<f64> = grid.times()[..steps].iter().map(|&t| t.into()).collect();
        let trajectory = solvers::through(solver, &levels)?;
        let (times, history) = (trajectory.times(), solver.has_history());
        let visible = times
            .iter()
            .map(|t| schedule.visible((t * 1000.0) as u32, prefix.unwrap_or(config.num_tokens)))
            .collect::<Result<Vec<_>, _>>()?;
        let coeffs = trajectory.coefficients(None, history);
        let columns = coeffs.len() / times.len();
        let ids = selftok.ids(tokens)?;
        let numel = selftok.latent_numel();
        let mut latents = vec![0.0; tokens.batch() * numel];
        match noise {
            Some(noise) if noise.len() == latents.len() => latents.copy_from_slice(noise),
            Some(noise) => {
                return Err(Error::NotWhole { what: "noise", len: noise.len(), item: latents.len() });
            }
            None => {
                // Picture by picture: a batch in one draw would pair numbers across pictures.
                let mut generator = Generator::new(seed);
                latents.chunks_exact_mut(numel).for_each(|noise| generator.fill_normal(noise));
            }
        }
        let net = selftok.network(part(solver))?;
        let exe = net.executable();
        let (start, step) = (exe.entry("start")?, exe.entry("sample")?);
        let slot = |name| exe.slot(name);
        let (batch, lo, hi) = (slot("batch")?, slot("visible.lo")?, slot("visible.hi")?);
        let (grid_rows, row) = (slot("grid")?, slot("step")?);
        // A micro-batch is one run to start, one for each piece of the grid, and one of the autoencoder.
        let runs = times.len().div_ceil(MAX_GRID) + 1 + usize::from(pictures);
        let mut counter = Counter::new(control, runs * selftok.runs(tokens.batch()));
        let mut session = net.lock();
        let chunks = ids.chunks(selftok.batch * config.num_tokens);
        for (ids, latents) in chunks.zip(latents.chunks_mut(selftok.batch * numel)) {
            let pictures = (latents.len() / numel) as u32;
            let mut slots = exe.slots(1);
            slots.set(batch, pictures);
            session.run(start, &slots, &[("noise", (&*latents).into())], &mut [], &mut counter)?;
            for first in (0..times.len()).step_by(MAX_GRID) {
                let piece = first..(first + MAX_GRID).min(times.len());
                let mut slots = exe.slots(piece.len());
                slots.set(batch, pictures).set(grid_rows, piece.len() as u32);
                for (i, step) in piece.clone().enumerate() {
                    slots.set_at(i, row, i as u32);
                    slots.set_at(i, lo, visible[step].start as u32);
                    slots.set_at(i, hi, visible[step].end as u32);
                }
                let inputs = [
                    ("tokens", ids.into()),
                    ("t", (&times[piece.clone()]).into()),
                    ("coeffs", (&coeffs[columns * piece.start..columns * piece.end]).into()),
                ];
                session.run(
                    step,
                    &slots,
                    &inputs,
                    &mut [("latent", (&mut *latents).into())],
                    &mut counter,
                )?;
            }
        }
        Ok((latents, counter))
    }
}

/// The network that a solver runs.
fn part(solver: Solver) -> Part {
    if solver.has_history() { Part::DiffusionWithHistory } else { Part::Diffusion }
}
