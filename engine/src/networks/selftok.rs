//! A Selftok folder as a black box: which of its networks runs, the names of the inputs say.
//!
//! `latent` is encoded; `tokens`, `x_t` and `t` give the diffusion decoder's velocity; `tokens` alone are rendered.
//! No autoencoder is needed, since all of it happens among latents.

use super::{Architecture, Entry, Folder, NamedTensors, NetworkError, Runner};
use crate::Error;
use crate::model::{SelftokFiles, Sources};
use crate::pipeline::check_files;
use crate::schedule::TokenSchedule;
use selftok_graph::models::selftok;
use std::ops::Range;

struct Selftok {
    files: SelftokFiles,
    signature: String,
}

/// Opens a Selftok folder or a released checkpoint, and checks every tensor.
pub(super) fn open(folder: &Folder<'_>) -> Result<Box<dyn Architecture>, Error> {
    let files = SelftokFiles::open(&Sources { model: folder.path.into(), ..Sources::default() })?;
    check_files(&files)?;
    let (k, c) = (files.config().num_tokens, files.config().latent_channels);
    let signature = format!(
        "latent [B, {c}, h, w] (to encode), or tokens [B, {k}], x_t [B, {c}, h, w] and t [B] (for the velocity), or \
         tokens [B, {k}] alone (to render)"
    );
    Ok(Box::new(Selftok { files, signature }))
}

/// Which network a run is for.
enum Job {
    Encode,
    Velocity,
    Render,
}

impl Selftok {
    fn job(&self, inputs: &NamedTensors) -> Result<Job, Error> {
        let given = ["latent", "tokens", "x_t", "t"].map(|name| inputs.has(name));
        match given {
            [true, false, false, false] => Ok(Job::Encode),
            [false, true, false, false] => Ok(Job::Render),
            [false, _, _, _] if given[1..].contains(&true) => Ok(Job::Velocity),
            [false, ..] => {
                let (name, given) = ("latent".into(), inputs.describe());
                Err(NetworkError::Missing { name, given, expected: self.signature.clone() }.into())
            }
            [true, ..] => {
                let name = ["tokens", "x_t", "t"].into_iter().find(|name| inputs.has(name)).unwrap_or("t");
                let expected = self.signature.clone();
                Err(NetworkError::Unexpected { name: name.into(), expected }.into())
            }
        }
    }

    /// Checks that every token is a code.
    fn check_tokens(&self, inputs: &NamedTensors) -> Result<(), Error> {
        let codes = self.files.config().codebook_size;
        let outside = |id: &&i64| usize::try_from(**id).map_or(true, |id| id >= codes);
        match inputs.i64("tokens").and_then(|tokens| tokens.iter().find(outside)) {
            Some(id) => {
                let (name, what) = ("tokens".into(), format!("{id} is no code"));
                Err(NetworkError::Value { name, what, expected: format!("ids from 0 to {}", codes - 1) }
                    .into())
            }
            None => Ok(()),
        }
    }

    /// The tokens that the patches of each row see at its time.
    fn visible(&self, inputs: &NamedTensors) -> Result<Vec<Range<usize>>, Error> {
        let schedule = TokenSchedule::new(self.files.tokens_per_stage()?)?;
        let times = inputs.get("t").map_or(vec![], |tensor| tensor.values.to_f32());
        let range = |&t: &f32| {
            if !(0.0..=1.0).contains(&t) {
                let (name, what) = ("t".into(), format!("{t} is no time"));
                return Err(NetworkError::Value { name, what, expected: "times from 0 to 1".into() }.into());
            }
            // Thousandths are truncated, as the original does.
            Ok(schedule.visible((t * 1000.0) as u32, self.files.config().num_tokens)?)
        };
        times.iter().map(range).collect()
    }
}

impl Architecture for Selftok {
    fn signature(&self) -> &str {
        &self.signature
    }

    fn inputs(&self) -> &[&'static str] {
        &["latent", "tokens", "x_t", "t"]
    }

    fn outputs(&self) -> &[&'static str] {
        &["hidden_states", "indices", "velocity", "rendered_latent"]
    }

    fn entry(&self, inputs: &NamedTensors) -> Result<Entry, Error> {
        let config = self.files.config();
        match self.job(inputs)? {
            Job::Encode => {
                let [batch, _, h, w] = inputs.dims("latent", &self.signature)?;
                let graph = selftok::encoder(config, batch, [h, w], false)?;
                let weights = self.files.encoder()?.weights.clone();
                Ok(Entry { graph, weights, outputs: &["hidden_states", "indices"] })
            }
            Job::Velocity => {
                let [batch, _, h, w] = inputs.dims("x_t", &self.signature)?;
                let graph = selftok::decoder::velocity(config, batch, [h, w], Default::default())?;
                Ok(Entry { graph, weights: self.files.diffusion()?.weights.clone(), outputs: &["velocity"] })
            }
            Job::Render => {
                let [batch, _] = inputs.dims("tokens", &self.signature)?;
                let graph = selftok::renderer(config, batch, false)?;
                let weights = self.files.renderer()?.weights.clone();
                Ok(Entry { graph, weights, outputs: &["rendered_latent"] })
            }
        }
    }

    fn slots(&self, inputs: &NamedTensors) -> Result<Vec<(&'static str, u32)>, Error> {
        let batch = inputs.iter().next().map_or(0, |(_, tensor)| tensor.shape.first().copied().unwrap_or(0));
        let mut slots = vec![("batch", batch as u32)];
        if let Job::Velocity = self.job(inputs)? {
            let visible = self.visible(inputs)?;
            let [first, ..] = &visible[..] else { return Ok(slots) };
            slots.extend([("visible.lo", first.start as u32), ("visible.hi", first.end as u32)]);
        }
        Ok(slots)
    }

    /// Rows whose times see different tokens take a run each.
    fn run(&self, inputs: &NamedTensors, runner: &Runner<'_>) -> Result<NamedTensors, Error> {
        self.check_tokens(inputs)?;
        let Job::Velocity = self.job(inputs)? else { return runner.run(inputs) };
        let [batch, ..] = inputs.dims::<4>("x_t", &self.signature)?;
        let [rows] = inputs.dims("t", &self.signature)?;
        let [ids, _] = inputs.dims("tokens", &self.signature)?;
        if rows != batch || ids != batch {
            let (name, found) = if rows != batch { ("t", vec![rows]) } else { ("tokens", vec![ids]) };
            let expected = format!("{batch} rows, as x_t has: {}", self.signature);
            return Err(NetworkError::Shape { name: name.into(), found, expected }.into());
        }
        let visible = self.visible(inputs)?;
        if visible.windows(2).all(|pair| pair[0] == pair[1]) {
            return runner.run(inputs);
        }
        let mut results = NamedTensors::new();
        for row in 0..batch {
            results.append(runner.run(&inputs.rows(row..row + 1))?);
        }
        Ok(results)
    }
}
