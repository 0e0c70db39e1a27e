//! `selftok run`: any supported network as a black box over safetensors files.

use crate::args::{self, DeviceChoice, Dtype};
use crate::failure::Usage;
use crate::job::device;
use crate::output::{self, note};
use anyhow::Result;
use selftok::ComputeType;
use selftok::networks::{self, NamedTensors};
use serde_json::{Value, json};
use std::time::Instant;

/// Runs the command.
///
/// Errors: see the engine's; nothing is written then.
pub fn run(common: &args::Common, args: args::Run) -> Result<()> {
    let started = Instant::now();
    for (given, option) in [
        (!common.model.is_empty(), "--model"),
        (common.config.is_some(), "--config"),
        (common.vae.is_some(), "--vae"),
    ] {
        if given {
            return Err(Usage(format!("{option} has no say in `run`: the folder named is the model")).into());
        }
    }
    output::check_file(&args.output)?;
    let mut inputs = NamedTensors::open(&args.inputs)?;
    let mut device = device(common)?;
    if common.dtype == Dtype::Bf16 {
        device = device.with_compute(ComputeType::Bf16);
    }
    if common.device == DeviceChoice::Auto && !common.quiet {
        note(&format!("running on {device}: this build has no kernels for GPUs"));
    }
    let network = networks::open(&args.network, &device)?;
    let opened = started.elapsed();
    let notes: Vec<String> = network.notes(&inputs).into_iter().map(String::from).collect();
    for name in notes {
        if !common.quiet {
            let path = args.inputs.display();
            note(&format!(
                "{path}: '{name}' is neither an input nor a result of this network; it is passed over"
            ));
        }
        inputs = inputs.without(&name);
    }
    let outputs = network.run(&inputs)?;
    outputs.save(&args.output)?;

    let total = started.elapsed();
    if common.json {
        let shapes: serde_json::Map<String, Value> =
            outputs.iter().map(|(name, tensor)| (name.clone(), json!(tensor.shape))).collect();
        return output::print_json(&json!({
            "output": args.output,
            "tensors": shapes,
            "device": device.to_string(),
            "seconds": { "open": opened.as_secs_f64(), "total": total.as_secs_f64() },
        }));
    }
    if !common.quiet {
        let (tensors, path) = (outputs.describe(), args.output.display());
        output::print(&format!("{tensors} → {path} in {:.3} s\n", total.as_secs_f64()))?;
    }
    Ok(())
}
