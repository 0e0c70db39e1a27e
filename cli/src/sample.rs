//! `selftok sample`: a diffusion network from noise to samples, over safetensors files.

use crate::args::{self, Dtype};
use crate::failure::Usage;
use crate::job::{device, watch_signals};
use crate::output::{self, note};
use anyhow::Result;
use selftok::ComputeType;
use selftok::networks::NamedTensors;
use selftok::solvers::{SampleOptions, Sampler};
use serde_json::json;
use std::time::Instant;

/// Runs the command.
///
/// Errors: see the engine's; nothing is written then.
pub fn run(common: &args::Common, args: args::Sample) -> Result<()> {
    let started = Instant::now();
    for (given, option) in [
        (!common.model.is_empty(), "--model"),
        (common.config.is_some(), "--config"),
        (common.vae.is_some(), "--vae"),
    ] {
        if given {
            return Err(
                Usage(format!("{option} has no say in `sample`: the folder named is the model")).into()
            );
        }
    }
    output::check_file(&args.output)?;
    let cancel = watch_signals()?;
    let inputs = NamedTensors::open(&args.inputs)?;
    let mut device = device(common)?;
    if common.dtype == Dtype::Bf16 {
        device = device.with_compute(ComputeType::Bf16);
    }
    let mut sampler = Sampler::open(&args.network, &device)?;
    if let Some(shift) = args.shift {
        // What is asked for counts, and not what a size would give.
        (sampler.scheduler().shift, sampler.scheduler().use_dynamic_shifting) = (shift, None);
    }
    let accepted = sampler.accept(&inputs)?;
    if args.seed.is_none() && !accepted.has("sample") {
        let given = inputs.describe();
        let what = "hold no starting noise: add `sample`, or draw it with --seed";
        return Err(Usage(format!("the inputs ({given}) {what}")).into());
    }
    let known = sampler.inputs();
    // A misspelt condition would be sampled without; a recording's own results and notes are no matter.
    let unread: Vec<_> =
        inputs.iter().map(|(name, _)| name.as_str()).filter(|name| !sampler.reads(name)).collect();
    if !unread.is_empty() && !common.quiet {
        note(&format!("not read: {}; inputs are {}", unread.join(", "), known.join(", ")));
    }
    let inputs = match args.seed {
        Some(seed) => sampler.draw(&accepted, seed, args.size, args.count)?,
        None => accepted,
    };
    let opened = started.elapsed();
    let options = SampleOptions { solver: args.solver, steps: args.steps, guidance: args.cfg };
    let outputs = sampler.sample(&inputs, options, Some(&cancel), None)?;
    outputs.save(&args.output)?;

    let total = started.elapsed();
    if common.json {
        return output::print_json(&json!({
            "output": args.output,
            "shape": outputs.get("out").map(|out| out.shape.clone()),
            "solver": args.solver.name(),
            "steps": args.steps,
            "cfg": args.cfg,
            "seed": args.seed,
            "device": device.to_string(),
            "seconds": { "open": opened.as_secs_f64(), "total": total.as_secs_f64() },
        }));
    }
    if !common.quiet {
        let (tensors, path) = (outputs.describe(), args.output.display());
        output::print(&format!(
            "{tensors} → {path}: {} steps of {} in {:.3} s\n",
            args.steps,
            args.solver.name(),
            total.as_secs_f64()
        ))?;
    }
    Ok(())
}
