//! `selftok recon`: pictures through tokens and back, every way the model can, judged and shown side by side.

use crate::args::{self, Diffusion, Mode};
use crate::decode::Decoder;
use crate::failure::Usage;
use crate::job::Job;
use crate::output;
use crate::pictures;
use crate::table::Table;
use anyhow::{Result, anyhow};
use selftok::metrics::{psnr, ssim};
use selftok::sheet::contact_sheet;
use selftok::{Picture, Tokens, inputs};
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Runs the command.
///
/// Errors: see the engine's; nothing is written then.
pub fn run(common: &args::Common, args: args::Recon) -> Result<()> {
    output::check_png(&args.output)?;
    let paths = inputs::expand(&args.images)?;
    output::check_file(&args.output)?;
    let job = Job::open(common)?;
    job.needs_encoding()?;
    let mut columns = columns(&job, &args.diffusion, &args.prefixes)?;
    check_sheet(&columns, paths.len(), job.image_size())?;

    let (mut originals, mut ids) = (Vec::new(), Vec::new());
    let started = Instant::now();
    let mut progress = job.progress("encoding", paths.len());
    for paths in paths.chunks(job.chunk()) {
        let pictures = pictures::open(paths, job.image_size())?;
        let mut callback = progress.part(paths.len());
        let encoded = job.selftok.encode_batch(&pictures, job.control(&mut callback)?)?;
        ids.extend_from_slice(encoded.tokens.ids());
        originals.extend(pictures);
    }
    drop(progress);
    let encode_time = started.elapsed();
    let tokens = Tokens::new(ids, paths.len(), job.selftok.config().num_tokens)?;
    for column in &mut columns {
        column.fill(&job, &tokens, &originals)?;
    }
    job.go_on()?;
    sheet(&originals, &columns)?.save_png(&args.output)?;

    let report = Report { paths, tokens, columns, encode_time, job };
    if common.json {
        return output::print_json(&report.json(&args));
    }
    if common.quiet { Ok(()) } else { output::print(&report.text(&args)) }
}

/// One way of decoding.
struct Column<'a> {
    /// Over the column.
    label: String,
    mode: Mode,
    diffusion: &'a Diffusion,
    prefix: Option<usize>,
    pictures: Vec<Picture>,
    /// PSNR in dB and SSIM of each picture.
    scores: Vec<(f64, f64)>,
    time: Duration,
}

/// The ways that the model has, prefixes last.
fn columns<'a>(job: &Job, diffusion: &'a Diffusion, prefixes: &[usize]) -> Result<Vec<Column<'a>>> {
    let column = |label, mode, prefix| Column {
        label,
        mode,
        diffusion,
        prefix,
        pictures: Vec::new(),
        scores: Vec::new(),
        time: Duration::ZERO,
    };
    let mut columns = Vec::new();
    if job.selftok.can_render() {
        columns.push(column("renderer".into(), Mode::Render, None));
    }
    if job.selftok.can_diffuse() {
        columns.push(column(format!("diffusion {}", diffusion.steps()), Mode::Diffuse, None));
        for &prefix in prefixes {
            let most = job.selftok.config().num_tokens;
            if prefix == 0 || prefix > most {
                return Err(Usage(format!("--prefixes {prefix}: choose between 1 and {most}")).into());
            }
            columns.push(column(format!("first {prefix}"), Mode::Diffuse, Some(prefix)));
        }
    } else if !prefixes.is_empty() || columns.is_empty() {
        job.needs_decoding(Mode::Diffuse)?;
    }
    Ok(columns)
}

impl Column<'_> {
    fn fill(&mut self, job: &Job, tokens: &Tokens, originals: &[Picture]) -> Result<()> {
        let started = Instant::now();
        let mut progress = job.progress(&self.label, tokens.batch());
        let mut decoder = Decoder::new(job, self.mode, self.diffusion, self.prefix);
        for ids in tokens.ids().chunks(job.chunk() * tokens.len()) {
            let tokens = Tokens::new(ids.to_vec(), ids.len() / tokens.len(), tokens.len())?;
            self.pictures.extend(decoder.pictures(&tokens, &mut progress)?);
        }
        self.time = started.elapsed();
        for (original, picture) in originals.iter().zip(&self.pictures) {
            self.scores.push((psnr(original, picture)?, ssim(original, picture)?));
        }
        Ok(())
    }

    /// Mean PSNR and SSIM.
    fn mean(&self) -> (f64, f64) {
        let n = self.scores.len() as f64;
        let sum = self.scores.iter().fold((0.0, 0.0), |sum, score| (sum.0 + score.0, sum.1 + score.1));
        (sum.0 / n, sum.1 / n)
    }
}

fn labels<'a>(columns: &'a [Column<'_>]) -> Vec<&'a str> {
    std::iter::once("input").chain(columns.iter().map(|column| column.label.as_str())).collect()
}

/// Finds out before the work whether the sheet would become too large, by drawing an empty one.
fn check_sheet(columns: &[Column<'_>], rows: usize, size: u32) -> Result<()> {
    let blank = Picture::from_rgb(size, size, vec![0; 3 * (size * size) as usize])?;
    let labels = labels(columns);
    let row = vec![&blank; labels.len()];
    contact_sheet(&labels, &vec![row; rows])
        .map_err(|e| anyhow!("{}: {e}", crate::output::count(rows, "picture")))?;
    Ok(())
}

fn sheet(originals: &[Picture], columns: &[Column<'_>]) -> Result<Picture> {
    let row = |(i, original)| {
        std::iter::once(original).chain(columns.iter().map(|column| &column.pictures[i])).collect()
    };
    let rows: Vec<Vec<&Picture>> = originals.iter().enumerate().map(row).collect();
    Ok(contact_sheet(&labels(columns), &rows)?)
}

/// What there is to tell.
struct Report<'a> {
    paths: Vec<PathBuf>,
    tokens: Tokens,
    columns: Vec<Column<'a>>,
    encode_time: Duration,
    job: Job,
}

impl Report<'_> {
    fn text(&self, args: &args::Recon) -> String {
        let mut text = String::new();
        for (path, ids) in self.paths.iter().zip(self.tokens.pictures()) {
            let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
            text += &format!("{}: {}\n", path.display(), ids.join(" "));
        }
        let mut heading = vec!["picture".to_owned()];
        let mut times = vec!["seconds a picture".to_owned()];
        let mut means = vec!["mean".to_owned()];
        for column in &self.columns {
            heading.extend([format!("{}: PSNR", column.label), "SSIM".into()]);
            let (psnr, ssim) = column.mean();
            means.extend([format!("{psnr:.2} dB"), format!("{ssim:.4}")]);
            let seconds = column.time.as_secs_f64() / self.paths.len() as f64;
            times.extend([format!("{seconds:.3} s"), String::new()]);
        }
        let mut table = Table::new("lr", heading);
        for (i, path) in self.paths.iter().enumerate() {
            let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
            let scores = self.columns.iter().map(|column| column.scores[i]);
            let cells = scores.flat_map(|(psnr, ssim)| [format!("{psnr:.2} dB"), format!("{ssim:.4}")]);
            table.row(std::iter::once(name).chain(cells));
        }
        if self.paths.len() > 1 {
            table.row(means);
        }
        table.row(times);
        text += &format!(
            "\n{table}\n{}: written in {:.3} s (model opened in {:.3} s, encoded in {:.3} s)\n",
            args.output.display(),
            self.job.elapsed().as_secs_f64(),
            self.job.opened.as_secs_f64(),
            self.encode_time.as_secs_f64()
        );
        text
    }

    fn json(&self, args: &args::Recon) -> Value {
        let scores = |(psnr, ssim): (f64, f64)| json!({ "psnr": psnr, "ssim": ssim });
        let pictures: Vec<Value> = self
            .paths
            .iter()
            .zip(self.tokens.pictures())
            .enumerate()
            .map(|(i, (path, ids))| {
                let by_column: Map<String, Value> =
                    self.columns.iter().map(|c| (c.key(), scores(c.scores[i]))).collect();
                json!({ "file": path, "ids": ids, "scores": by_column })
            })
            .collect();
        let means: Map<String, Value> = self.columns.iter().map(|c| (c.key(), scores(c.mean()))).collect();
        let mut seconds: Map<String, Value> =
            self.columns.iter().map(|c| (c.key(), c.time.as_secs_f64().into())).collect();
        seconds.insert("open".into(), self.job.opened.as_secs_f64().into());
        seconds.insert("encode".into(), self.encode_time.as_secs_f64().into());
        seconds.insert("total".into(), self.job.elapsed().as_secs_f64().into());
        json!({
            "output": args.output,
            "steps": args.diffusion.steps(),
            "seed": args.diffusion.seed(),
            "pictures": pictures,
            "mean": means,
            "device": self.job.selftok.device().to_string(),
            "seconds": seconds,
        })
    }
}

impl Column<'_> {
    /// Its name for machines: `render`, `diffuse`, `prefix_16`.
    fn key(&self) -> String {
        match (self.mode, self.prefix) {
            (Mode::Render, _) => "render".into(),
            (Mode::Diffuse, None) => "diffuse".into(),
            (Mode::Diffuse, Some(n)) => format!("prefix_{n}"),
        }
    }
}
