//! `selftok encode`: pictures to a token file.

use crate::args;
use crate::failure::Usage;
use crate::job::Job;
use crate::output::{self, count};
use crate::pictures;
use anyhow::Result;
use selftok::tokens::{Format, Order};
use selftok::{Part, Tokens, inputs};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Instant;

/// Runs the command.
///
/// Errors: see the engine's; nothing is written then.
pub fn run(common: &args::Common, args: args::Encode) -> Result<()> {
    if args.output.is_none() && !common.json {
        let what = "the tokens have nowhere to go; name a file with --output, such as -o tokens.npy, or print them with --json";
        return Err(Usage(what.into()).into());
    }
    let paths = inputs::expand(&args.images)?;
    if let Some(path) = &args.output {
        Format::of(path)?;
        output::check_file(path)?;
    }
    let job = Job::open(common)?;
    job.needs_encoding()?;
    let started = Instant::now();
    job.selftok.prepare(&[Part::ToLatent, Part::Encoder])?;
    let bound = started.elapsed();
    let started = Instant::now();
    let mut progress = job.progress("encoding", paths.len());
    let (mut ids, mut score, mut margin) = (Vec::new(), Vec::new(), Vec::new());
    for paths in paths.chunks(job.chunk()) {
        let pictures = pictures::open(paths, job.image_size())?;
        let mut callback = progress.part(paths.len());
        let encoded = job.selftok.encode_batch(&pictures, job.control(&mut callback)?)?;
        ids.extend_from_slice(encoded.tokens.ids());
        score.extend(encoded.score);
        margin.extend(encoded.margin);
    }
    drop(progress);
    let tokens = Tokens::new(ids, paths.len(), job.selftok.config().num_tokens)?;
    let encoded = started.elapsed();
    job.go_on()?;
    if let Some(path) = &args.output {
        tokens.save_as(path, args.order)?;
    }

    let total = job.elapsed();
    if common.json {
        let seconds = json!({
            "open": job.opened.as_secs_f64(), "bind": bound.as_secs_f64(),
            "encode": encoded.as_secs_f64(), "total": total.as_secs_f64()
        });
        return output::print_json(&json!({
            "output": args.output,
            "order": args.order.name(),
            "num_tokens": tokens.len(),
            "codebook_size": job.selftok.config().codebook_size,
            "pictures": rows(&paths, &tokens, &score, &margin, args.order),
            "device": job.selftok.device().to_string(),
            "seconds": seconds,
        }));
    }
    if let (Some(path), false) = (&args.output, common.quiet) {
        let pictures = count(tokens.batch(), "picture");
        output::print(&format!(
            "{}: {pictures}, {} tokens each of {} codes, {:.3} s (open {:.3}, bind {:.3}, encode {:.3})\n",
            path.display(),
            tokens.len(),
            job.selftok.config().codebook_size,
            total.as_secs_f64(),
            job.opened.as_secs_f64(),
            bound.as_secs_f64(),
            encoded.as_secs_f64(),
        ))?;
    }
    Ok(())
}

fn rows(paths: &[PathBuf], tokens: &Tokens, score: &[f32], margin: &[f32], order: Order) -> Vec<Value> {
    let k = tokens.len();
    let values = score.chunks_exact(k).zip(margin.chunks_exact(k));
    let rows = paths.iter().zip(tokens.pictures()).zip(values);
    rows.map(|((path, ids), (score, margin))| {
        let mut ids: Vec<u32> = ids.to_vec();
        let mut score: Vec<Value> = score.iter().copied().map(number).collect();
        let mut margin: Vec<Value> = margin.iter().copied().map(number).collect();
        if order == Order::Ar {
            ids.reverse();
            score.reverse();
            margin.reverse();
        }
        json!({ "file": path, "ids": ids, "scores": score, "margins": margin })
    })
    .collect()
}

/// An f32 with no more digits than it has: as an f64, 0.1 would print as 0.10000000149011612.
fn number(x: f32) -> Value {
    x.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_of_an_f32() {
        assert_eq!(number(0.1).to_string(), "0.1");
        assert_eq!(number(f32::NAN), Value::Null);
    }
}
