//! A diffusion network in a solver's loop, from noise to a sample.

use super::{Problem, SchedulerConfig, Solver, Trajectory};
use crate::networks::{Diffusion, Folder, NamedTensors, NetworkError, Values};
use crate::random::Generator;
use crate::{Device, Error, Executable, Input, RunOptions, Session};
use selftok_graph::models::diffusion::{self, MAX_GRID, Network, Options, Sizes};
use selftok_graph::{Program, compile};
use selftok_loader::read_json;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// How to sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleOptions {
    /// The solver.
    pub solver: Solver,
    /// Its steps, from 1.
    pub steps: usize,
    /// Classifier-free guidance `u + s (c - u)`: the factor `s`; none where 1.
    pub guidance: f64,
}

/// Other names by which diffusers' pipelines call what a sampler reads.
const ALIASES: [(&str, &str); 5] = [
    ("latents", "sample"),
    ("prompt_embeds", "encoder_hidden_states"),
    ("negative_prompt_embeds", "negative_encoder_hidden_states"),
    ("pooled_prompt_embeds", "pooled_projections"),
    ("negative_pooled_prompt_embeds", "negative_pooled_projections"),
];

/// Most numbers that are drawn as noise: 4 GiB.
const MAX_NOISE: usize = 1 << 30;

/// An open diffusion network with its noise schedule. Compiled for the shapes of the inputs at each change of them.
pub struct Sampler {
    files: Diffusion,
    scheduler: SchedulerConfig,
    device: Device,
    bound: Option<(Sizes, Options, Session)>,
}

impl Sampler {
    /// Opens a folder with `config.json` and weights, or a pipeline's folder with one in `unet` or `transformer`. The
    /// noise schedule is that of `scheduler_config.json` in the folder, or in `scheduler` in or beside it; without one,
    /// that of Stable Diffusion 1.5, of DiT, or of Stable Diffusion 3, whichever the network is like.
    ///
    /// # Errors
    /// If the network is none of diffusion, or its files cannot be read or contradict each other.
    pub fn open(path: impl AsRef<Path>, device: &Device) -> Result<Sampler, Error> {
        let path = path.as_ref();
        let inner = ["unet", "transformer"].map(|part| path.join(part));
        let inner = inner.iter().find(|folder| folder.join("config.json").exists());
        let path = match inner {
            Some(inner) if !path.join("config.json").exists() => inner,
            _ => path,
        };
        let config: serde_json::Value = read_json(&path.join("config.json"))?;
        let files = Diffusion::of_folder(&Folder { path, config: &config, device })?;
        let scheduler = match scheduler_of(path) {
            Some(file) => SchedulerConfig::open(&file)?,
            None => match &files.network {
                Network::Unet(_) => SchedulerConfig::stable_diffusion(),
                Network::Dit(_) => SchedulerConfig::default(),
                Network::Mmdit(_) => SchedulerConfig::stable_diffusion_3(),
            },
        };
        Ok(Sampler { files, scheduler, device: device.clone(), bound: None })
    }

    /// The noise schedule, to change.
    pub fn scheduler(&mut self) -> &mut SchedulerConfig {
        &mut self.scheduler
    }

    /// Names of the inputs that [`sample`](Self::sample) reads; each may also have the name that diffusers' pipelines give it
    /// (`latents`, `prompt_embeds`, `negative_prompt_embeds`, `pooled_prompt_embeds`, `negative_pooled_prompt_embeds`).
    pub fn inputs(&self) -> Vec<&'static str> {
        let mut names = vec!["sample"];
        if self.files.network.context_width().is_some() {
            names.extend(["encoder_hidden_states", "negative_encoder_hidden_states"]);
        }
        if self.files.network.pooled_width().is_some() {
            names.extend(["pooled_projections", "negative_pooled_projections"]);
        }
        if self.files.network.classes().is_some() {
            names.push("class_labels");
        }
        names
    }

    /// Whether an input of this name is read.
    pub fn reads(&self, name: &str) -> bool {
        let own = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, own)| own);
        self.inputs().contains(&own)
    }

    /// The inputs that [`sample`](Self::sample) reads, under the network's own names, and the others left out.
    ///
    /// # Errors
    /// If one is given under both of its names.
    pub fn accept(&self, inputs: &NamedTensors) -> Result<NamedTensors, Error> {
        let known = self.inputs();
        let mut accepted = NamedTensors::new();
        for (name, tensor) in inputs.iter() {
            let alias = ALIASES.iter().find(|(alias, _)| alias == name).map(|(_, own)| *own);
            let own = alias.unwrap_or(name);
            if alias.is_some() && inputs.has(own) {
                let (what, expected) = (format!("is given as '{own}' too"), "one of the two names".into());
                return Err(NetworkError::Value { name: name.clone(), what, expected }.into());
            }
            if known.contains(&own) {
                accepted.insert(own, &tensor.shape, tensor.values.clone())?;
            }
        }
        Ok(accepted)
    }

    /// The inputs with a `sample [B, C, h, w]` of standard noise: what `torch.manual_seed(seed)` and then `torch.randn` give on a
    /// CPU. `latent` is the configuration's `sample_size` where not given, and `B` as many rows as the conditions have.
    ///
    /// # Errors
    /// If the inputs hold noise already, or neither they nor the arguments say a possible size.
    pub fn draw(
        &self,
        inputs: &NamedTensors,
        seed: u64,
        latent: Option<[usize; 2]>,
        batch: Option<usize>,
    ) -> Result<NamedTensors, Error> {
        let mut inputs = self.accept(inputs)?;
        let network = &self.files.network;
        if inputs.has("sample") {
            let (name, what) = ("sample".into(), "is given".into());
            let expected = "none where the noise is drawn from a seed".into();
            return Err(NetworkError::Value { name, what, expected }.into());
        }
        let Some([h, w]) = latent.or(network.sample_size()) else {
            let (name, given) = ("sample".into(), inputs.describe());
            let expected = "a size, since config.json says no sample_size".into();
            return Err(NetworkError::Missing { name, given, expected }.into());
        };
        let rows = inputs.iter().filter_map(|(_, tensor)| tensor.shape.first().copied()).max();
        let batch = batch.or(rows).unwrap_or(1);
        // The network says which sizes can be.
        let (context, options) = (1, Options { guidance: false, history: false });
        diffusion::start(network, Sizes { batch, latent: [h, w], context }, options)?;
        let shape = [batch, network.in_channels(), h, w];
        let numel = shape.iter().try_fold(1usize, |numel, &size| numel.checked_mul(size));
        let Some(numel) = numel.filter(|&numel| numel <= MAX_NOISE) else {
            let expected = format!("at most {MAX_NOISE} numbers of noise");
            return Err(NetworkError::Shape { name: "sample".into(), found: shape.to_vec(), expected }.into());
        };
        let mut noise = vec![0.0; numel];
        Generator::new(seed).fill_normal(&mut noise);
        inputs.insert("sample", &shape, Values::F32(noise))?;
        Ok(inputs)
    }

    /// From `sample [B, C, h, w]`, standard noise, and the network's conditions (of `B` rows, or of one for all) to `out
    /// [B, C, h, w]`. With guidance the answer without the condition is for `negative_…` of the same shape, zeros where
    /// that is not given, or for the class that means none.
    ///
    /// # Errors
    /// If an input is missing or misshapen, the solver does not go with the network, or the run is cancelled.
    pub fn sample(
        &mut self,
        inputs: &NamedTensors,
        options: SampleOptions,
        cancel: Option<&AtomicBool>,
        progress: Option<&mut dyn FnMut(usize, usize)>,
    ) -> Result<NamedTensors, Error> {
        let SampleOptions { solver, steps, guidance } = options;
        let inputs = &self.accept(inputs)?;
        if !guidance.is_finite() {
            let (name, what) = ("guidance".into(), format!("is {guidance}"));
            return Err(NetworkError::Value { name, what, expected: "a finite number".into() }.into());
        }
        let guided = guidance != 1.0;
        let sizes = self.files.sizes(inputs)?;
        let trajectory = self.scheduler.trajectory(self.problem(sizes), solver, steps)?;
        let conditions = self.conditions(inputs, sizes.batch, guided)?;
        let noise = self.noise(inputs, sizes, &trajectory)?;
        let compiled = Options { guidance: guided, history: solver.has_history() };
        let session = self.session(sizes, compiled)?;
        let out = run(
            session,
            &Request {
                noise: &noise,
                conditions: &conditions,
                trajectory: &trajectory,
                guidance: guided.then_some(guidance),
                options: compiled,
            },
            cancel,
            progress,
        )?;
        let [h, w] = sizes.latent;
        let shape = [sizes.batch, self.files.network.in_channels(), h, w];
        NamedTensors::new().with("out", &shape, Values::F32(out))
    }

    fn problem(&self, sizes: Sizes) -> Problem {
        let network = &self.files.network;
        let [h, w] = sizes.latent.map(|side| side / network.side_step());
        if network.is_flow() { Problem::Flow { patches: h * w } } else { Problem::Noise }
    }

    fn noise(&self, inputs: &NamedTensors, sizes: Sizes, path: &Trajectory) -> Result<Vec<f32>, Error> {
        let [h, w] = sizes.latent;
        let channels = self.files.network.in_channels();
        let shape = vec![sizes.batch, channels, h, w];
        let found = inputs.get("sample").map(|tensor| tensor.shape.clone()).unwrap_or_default();
        match inputs.f32("sample") {
            Some(noise) if found == shape => {
                let scale = path.first_scale();
                Ok(noise.iter().map(|&x| (f64::from(x) * scale) as f32).collect())
            }
            _ => {
                let expected = format!("{shape:?} of floating-point numbers");
                Err(NetworkError::Shape { name: "sample".into(), found, expected }.into())
            }
        }
    }

    /// The network's conditions, without the condition first where guided.
    fn conditions(
        &self,
        inputs: &NamedTensors,
        batch: usize,
        guided: bool,
    ) -> Result<Vec<(&'static str, Numbers)>, Error> {
        let network = &self.files.network;
        let mut conditions = Vec::new();
        let f32s: [(&'static str, &'static str, Option<usize>); 2] = [
            ("encoder_hidden_states", "negative_encoder_hidden_states", network.context_width()),
            ("pooled_projections", "negative_pooled_projections", network.pooled_width()),
        ];
        for (name, negative, width) in f32s {
            let Some(width) = width else { continue };
            let given = rows(inputs, name, batch, width, None)?;
            let mut values = vec![];
            if guided {
                values = match inputs.has(negative) {
                    true => rows(inputs, negative, batch, width, Some(given.len()))?,
                    false => vec![0.0; given.len()],
                };
            }
            values.extend(given);
            conditions.push((name, Numbers::F32(values)));
        }
        if let Some(classes) = network.classes() {
            let expected = format!("class_labels [B] of 0 to {classes}");
            let [given] = inputs.dims("class_labels", &expected)?;
            let labels = inputs.i64("class_labels").unwrap_or_default();
            if given != labels.len() || (given != batch && given != 1) {
                let (name, found) = ("class_labels".into(), vec![given]);
                return Err(NetworkError::Shape { name, found, expected }.into());
            }
            let mut values = if guided { vec![classes as i32; batch] } else { vec![] };
            for i in 0..batch {
                let label = labels[if given == 1 { 0 } else { i }];
                match i32::try_from(label) {
                    Ok(label) if (0..=classes as i32).contains(&label) => values.push(label),
                    _ => {
                        let (name, what) = ("class_labels".into(), format!("{label} is out of range"));
                        return Err(NetworkError::Value { name, what, expected }.into());
                    }
                }
            }
            conditions.push(("class_labels", Numbers::I32(values)));
        }
        Ok(conditions)
    }

    fn session(&mut self, sizes: Sizes, options: Options) -> Result<&mut Session, Error> {
        let fits = matches!(&self.bound, Some((s, o, _)) if (*s, *o) == (sizes, options));
        if !fits {
            // Let go of the old one first: each holds a packed copy of the weights.
            self.bound = None;
            let network = &self.files.network;
            let entries =
                vec![diffusion::start(network, sizes, options)?, diffusion::step(network, sizes, options)?];
            let mut target = self.device.target();
            if let Ok(names) = std::env::var("SELFTOK_OFF") {
                target
                    .off
                    .extend(names.split(',').map(str::trim).filter(|s| !s.is_empty()).map(String::from));
            }
            let plan = compile(&Program::new("sampler", entries)?, &target)?;
            let executable = Executable::bind(plan, self.files.weights.clone(), &self.device)?;
            self.bound = Some((sizes, options, executable.session()));
        }
        // Just made where it was not there.
        Ok(&mut self.bound.as_mut().expect("a session").2)
    }
}

enum Numbers {
    F32(Vec<f32>),
    I32(Vec<i32>),
}

/// What one run of the loop is of.
struct Request<'a> {
    noise: &'a [f32],
    conditions: &'a [(&'static str, Numbers)],
    trajectory: &'a Trajectory,
    guidance: Option<f64>,
    options: Options,
}

/// The loop: one run for each piece of the grid of times.
fn run(
    session: &mut Session,
    request: &Request<'_>,
    cancel: Option<&AtomicBool>,
    mut progress: Option<&mut dyn FnMut(usize, usize)>,
) -> Result<Vec<f32>, Error> {
    let Request { noise, conditions, trajectory, guidance, options } = *request;
    let exe = session.executable().clone();
    let (start, step) = (exe.entry("start")?, exe.entry("step")?);
    session.run_entry(
        start,
        &exe.slots(1),
        &[(exe.input("sample")?, noise.into())],
        &mut [],
        RunOptions::default(),
    )?;
    let (times, columns) = (trajectory.times(), options.columns());
    let coeffs = trajectory.coefficients(guidance, options.history);
    let mut out = vec![0.0; noise.len()];
    let whole = times.len();
    for first in (0..whole).step_by(MAX_GRID) {
        let piece = first..(first + MAX_GRID).min(whole);
        let mut slots = exe.slots(piece.len());
        slots.set(exe.slot("grid")?, piece.len() as u32);
        for i in 0..piece.len() {
            slots.set_at(i, exe.slot("step")?, i as u32);
        }
        let mut inputs: Vec<(_, Input<'_>)> = vec![
            (exe.input("timesteps")?, (&times[piece.clone()]).into()),
            (exe.input("coeffs")?, (&coeffs[columns * piece.start..columns * piece.end]).into()),
        ];
        for (name, numbers) in conditions {
            let data = match numbers {
                Numbers::F32(values) => Input::F32(values),
                Numbers::I32(values) => Input::I32(values),
            };
            inputs.push((exe.input(name)?, data));
        }
        let mut watch = |p: crate::Progress| {
            if let Some(progress) = &mut progress
                && !p.request
                && p.step + 1 >= p.steps
            {
                progress(first + p.iteration + 1, whole);
            }
        };
        let run = RunOptions { cancel, progress: Some(&mut watch) };
        session.run_entry(step, &slots, &inputs, &mut [(exe.output("out")?, (&mut out[..]).into())], run)?;
    }
    Ok(out)
}

/// The rows of an input `[B or 1, .., width]`, for each of the batch.
fn rows(
    inputs: &NamedTensors,
    name: &'static str,
    batch: usize,
    width: usize,
    numel: Option<usize>,
) -> Result<Vec<f32>, Error> {
    let expected = format!("{name} [{batch} or 1, .., {width}]");
    let Some(tensor) = inputs.get(name) else {
        let given = inputs.describe();
        return Err(NetworkError::Missing { name: name.into(), given, expected }.into());
    };
    let wrong = || {
        Error::from(NetworkError::Shape {
            name: name.into(),
            found: tensor.shape.clone(),
            expected: expected.clone(),
        })
    };
    let values = inputs.f32(name).ok_or_else(wrong)?;
    let given = tensor.shape.first().copied().unwrap_or(0);
    if tensor.shape.len() < 2 || tensor.shape.last() != Some(&width) || (given != batch && given != 1) {
        return Err(wrong());
    }
    let all = values.repeat(if given == 1 { batch } else { 1 });
    if numel.is_some_and(|numel| numel != all.len()) { Err(wrong()) } else { Ok(all) }
}

fn scheduler_of(folder: &Path) -> Option<PathBuf> {
    let name = "scheduler_config.json";
    let places =
        [folder.join(name), folder.join("scheduler").join(name), folder.join("../scheduler").join(name)];
    places.into_iter().find(|path| path.exists())
}
