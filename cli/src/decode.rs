//! `selftok decode`: token files to pictures.

use crate::args::{self, Mode};
use crate::failure::Usage;
use crate::job::Job;
use crate::output::{self, count};
use crate::staging::Staging;
use anyhow::{Context, Result};
use selftok::random::Generator;
use selftok::solvers::Solver;
use selftok::{Picture, Tokens};
use serde_json::json;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Runs the command.
///
/// Errors: see the engine's; nothing is written then.
pub fn run(common: &args::Common, args: args::Decode) -> Result<()> {
    let asks_diffusion = args.prefix.is_some()
        || args.diffusion.steps.is_some()
        || args.diffusion.solver.is_some()
        || args.diffusion.seed.is_some();
    if args.mode == Some(Mode::Render) && asks_diffusion {
        let what = "--steps, --solver, --seed and --prefix are for --mode diffuse; the renderer takes one step from all tokens";
        return Err(Usage(what.into()).into());
    }
    let files = load(&args.tokens, args.order)?;
    let names = names(&files);
    let mut out = Output::new(&args.output, names.len())?;
    let job = Job::open(common)?;
    let mut ids = Vec::new();
    for (path, tokens) in &files {
        let config = job.selftok.config();
        tokens.check(config.num_tokens, config.codebook_size).with_context(|| path.display().to_string())?;
        ids.extend_from_slice(tokens.ids());
    }
    let mode = args.mode.unwrap_or(match asks_diffusion || !job.selftok.can_render() {
        true => Mode::Diffuse,
        false => Mode::Render,
    });
    job.needs_decoding(mode)?;

    let started = Instant::now();
    let k = job.selftok.config().num_tokens;
    let mut decoder = Decoder::new(&job, mode, &args.diffusion, args.prefix);
    let mut progress = job.progress("decoding", names.len());
    for (ids, names) in ids.chunks(job.chunk() * k).zip(names.chunks(job.chunk())) {
        let tokens = Tokens::new(ids.to_vec(), names.len(), k)?;
        let pictures = decoder.pictures(&tokens, &mut progress)?;
        for (picture, name) in pictures.iter().zip(names) {
            out.write(name, picture)?;
        }
    }
    drop(progress);
    job.go_on()?;
    let files = out.finish()?;

    let (decoded, total) = (started.elapsed(), job.elapsed());
    if common.json {
        let diffusion = (mode == Mode::Diffuse).then(|| {
            json!({ "solver": args.diffusion.solver().name(), "steps": args.diffusion.steps(), "seed": args.diffusion.seed(), "prefix": args.prefix })
        });
        return output::print_json(&json!({
            "files": files,
            "mode": match mode { Mode::Render => "render", Mode::Diffuse => "diffuse" },
            "diffusion": diffusion,
            "device": job.selftok.device().to_string(),
            "seconds": {
                "open": job.opened.as_secs_f64(), "decode": decoded.as_secs_f64(), "total": total.as_secs_f64()
            },
        }));
    }
    if !common.quiet {
        let how = match (mode, args.prefix) {
            (Mode::Render, _) => "rendered in one step".into(),
            (Mode::Diffuse, None) => format!("diffused in {} steps", args.diffusion.steps()),
            (Mode::Diffuse, Some(n)) => {
                format!("diffused in {} steps from the first {n} tokens", args.diffusion.steps())
            }
        };
        output::print(&format!(
            "{}: {} {how}, {:.3} s (model opened in {:.3} s)\n",
            args.output.display(),
            count(files.len(), "picture"),
            total.as_secs_f64(),
            job.opened.as_secs_f64()
        ))?;
    }
    Ok(())
}

/// Decodes chunk after chunk as if all were one batch.
pub struct Decoder<'a> {
    job: &'a Job,
    mode: Mode,
    solver: Solver,
    steps: usize,
    prefix: Option<usize>,
    noise: Generator,
}

impl<'a> Decoder<'a> {
    /// A decoder that has decoded nothing yet.
    pub fn new(job: &'a Job, mode: Mode, diffusion: &args::Diffusion, prefix: Option<usize>) -> Self {
        let (solver, steps, noise) =
            (diffusion.solver(), diffusion.steps(), Generator::new(diffusion.seed()));
        Decoder { job, mode, solver, steps, prefix, noise }
    }

    /// The pictures of the next tokens.
    ///
    /// Errors: the engine's.
    pub fn pictures(
        &mut self,
        tokens: &Tokens,
        progress: &mut crate::progress::Progress,
    ) -> Result<Vec<Picture>> {
        let selftok = &self.job.selftok;
        let mut callback = progress.part(tokens.batch());
        let control = self.job.control(&mut callback)?;
        if self.mode == Mode::Render {
            return Ok(selftok.render_batch(tokens, control)?);
        }
        // Drawn here, picture by picture, so that the noise of a batch does not depend on how it is cut into chunks.
        let numel = selftok.config().latent_channels * selftok.config().latent_size.pow(2);
        let mut noise = vec![0.0; tokens.batch() * numel];
        noise.chunks_exact_mut(numel).for_each(|noise| self.noise.fill_normal(noise));
        let decode =
            selftok.decode(tokens).solver(self.solver).steps(self.steps).noise(&noise).control(control);
        let decode = match self.prefix {
            Some(prefix) => decode.prefix(prefix),
            None => decode,
        };
        Ok(decode.run()?)
    }
}

fn load(paths: &[PathBuf], order: Option<selftok::tokens::Order>) -> Result<Vec<(PathBuf, Tokens)>> {
    let load = |path: &PathBuf| match order {
        Some(order) => Tokens::load_as(path, order),
        None => Tokens::load(path),
    };
    Ok(paths
        .iter()
        .map(|path| Ok((path.clone(), load(path)?)))
        .collect::<Result<_, selftok::tokens::TokensError>>()?)
}

/// A file name for each picture: after its token file if that holds one picture, by number if there is one file, else both.
fn names(files: &[(PathBuf, Tokens)]) -> Vec<String> {
    let mut taken: HashSet<String> = HashSet::new();
    let mut names: Vec<String> = Vec::new();
    for (path, tokens) in files {
        let stem = path.file_stem().map_or("tokens".into(), |stem| stem.to_string_lossy().into_owned());
        for i in 0..tokens.batch() {
            let name = match (files.len(), tokens.batch()) {
                (_, 1) => stem.clone(),
                (1, _) => format!("{i:04}"),
                _ => format!("{stem}-{i:04}"),
            };
            // Two folders may hold files of one name.
            let free = |name: &String| !taken.contains(name);
            let name = Some(name.clone())
                .filter(free)
                .or_else(|| (2..).map(|n| format!("{name}-{n}")).find(free))
                .unwrap_or(name);
            taken.insert(name.clone());
            names.push(format!("{name}.png"));
        }
    }
    names
}

/// One `.png`, or a folder of them.
enum Output {
    /// Held until the end: once it is written, nothing can be taken back.
    File {
        path: PathBuf,
        picture: Option<Picture>,
    },
    Folder(Staging),
}

impl Output {
    fn new(path: &Path, pictures: usize) -> Result<Output> {
        if output::is_png(path) {
            if pictures > 1 {
                let what = format!("{}: one file for {pictures} pictures; name a folder", path.display());
                return Err(Usage(what).into());
            }
            output::check_file(path)?;
            return Ok(Output::File { path: path.to_owned(), picture: None });
        }
        let extension = path.extension().and_then(|e| e.to_str()).map(str::to_lowercase).unwrap_or_default();
        if !path.is_dir() && selftok::picture::EXTENSIONS.contains(&extension.as_str()) {
            output::check_png(path)?;
        }
        Ok(Output::Folder(Staging::new(path)?))
    }

    fn write(&mut self, name: &str, picture: &Picture) -> Result<()> {
        match self {
            Output::File { picture: held, .. } => *held = Some(picture.clone()),
            Output::Folder(staging) => picture.save_png(staging.file(name.to_owned())?)?,
        }
        Ok(())
    }

    fn finish(self) -> Result<Vec<PathBuf>> {
        match self {
            Output::File { path, picture } => {
                picture.context("there is no picture to write")?.save_png(&path)?;
                Ok(vec![path])
            }
            Output::Folder(staging) => staging.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, pictures: usize) -> (PathBuf, Tokens) {
        (path.into(), Tokens::new(vec![0; pictures], pictures, 1).unwrap())
    }

    #[test]
    fn pictures_are_called_after_their_files_and_never_alike() {
        assert_eq!(names(&[file("x/cat.npy", 1)]), ["cat.png"]);
        assert_eq!(names(&[file("cats.npy", 2)]), ["0000.png", "0001.png"]);
        assert_eq!(
            names(&[file("a/cat.npy", 1), file("b/cat.npy", 1), file("dogs.npy", 2)]),
            ["cat.png", "cat-2.png", "dogs-0000.png", "dogs-0001.png"]
        );
    }
}
