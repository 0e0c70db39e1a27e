//! `mutate`: breaks a kernel and its launch in one place at a time and says what finds it.
//!
//! There is no reference here, so a result is wrong where it differs from that of the unbroken kernel under the same order of warps,
//! approximation and accumulation. Tests with a reference of their own use [`ptx_emulator::mutate`] as a library.

use crate::{Run, argument, write};
use ptx_emulator::mutate::{Campaign, Case, Caught, Depth, Explained, Rig, Subject};
use ptx_emulator::{
    Accumulation, Approximation, ApproximationMode, Checks, Gpu, LaunchConfig, Module, Options, Order,
};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

#[derive(clap::Args)]
pub struct Mutate {
    #[command(flatten)]
    run: Run,
    /// Turns a check off: bounds, freed, misaligned, uninitialised, registers, in-flight, race, barrier,
    /// shuffle or resource. May be given several times.
    #[arg(long)]
    without: Vec<String>,
    /// Leaves each mutant where the first check or result finds it, and does not ask what else would.
    #[arg(long)]
    first: bool,
    /// Runs only the mutants whose id has this in it.
    #[arg(long, default_value = "")]
    only: String,
    /// Runs one mutant in so many.
    #[arg(long, default_value_t = 1)]
    every: usize,
    /// Begins no mutant after so many seconds.
    #[arg(long, default_value_t = 3600)]
    seconds: u64,
    /// A text that explains survivors, in lines such as "- `kernel:bound:3`: why it is equivalent".
    #[arg(long)]
    explained: Option<PathBuf>,
}

fn settings() -> Vec<Options> {
    let setting = |order, mode, accumulation| Options {
        order,
        approximation: Approximation { mode, seed: 11 },
        accumulation,
        ..Options::default()
    };
    vec![
        setting(Order::Forward, ApproximationMode::Below, Accumulation::Sequential),
        setting(Order::Reverse, ApproximationMode::Above, Accumulation::Truncating),
        setting(Order::Random(5), ApproximationMode::Random, Accumulation::Pairwise),
    ]
}

/// Runs the campaign; false when a survivor is not explained.
pub fn execute(mutate: &Mutate) -> Result<bool, String> {
    let run = &mutate.run;
    let gpu = Gpu::by_name(&run.gpu).ok_or_else(|| format!("no GPU '{}'", run.gpu))?;
    let path = run.file.display();
    let text = std::fs::read_to_string(&run.file).map_err(|e| format!("{path}: {e}"))?;
    let module = Module::parse(&text).map_err(|e| format!("{path}: {e}"))?;
    let kernel = module.kernel(&run.kernel).ok_or_else(|| format!("{path}: no kernel '{}'", run.kernel))?;
    if kernel.params.len() != run.args.len() {
        return Err(format!(
            "'{}' takes {} arguments, {} given",
            run.kernel,
            kernel.params.len(),
            run.args.len()
        ));
    }
    let files: Vec<Option<Vec<u8>>> = run.args.iter().map(|a| buffer(a)).collect::<Result<_, _>>()?;
    let expected: Mutex<HashMap<String, Vec<Vec<u8>>>> = Mutex::default();
    let config = LaunchConfig {
        grid: run.grid.0,
        block: run.block.0,
        shared_bytes: run.shared,
        ..LaunchConfig::new(1, 1)
    };
    // Every argument is right: what is wrong with one is said before the first mutant.
    let probe = Rig::new(gpu.clone(), Options::default());
    for (arg, file) in run.args.iter().zip(&files) {
        if file.is_none() {
            argument(probe.device(), arg, &mut Vec::new())?;
        }
    }
    let test = |rig: &Arc<Rig>| {
        let (mut bytes, mut buffers) = (Vec::new(), Vec::new());
        for ((param, arg), file) in kernel.params.iter().zip(&run.args).zip(&files) {
            let value = match file {
                Some(data) => {
                    let at = rig.expect(rig.upload(data), arg);
                    buffers.push((at, data.len()));
                    at.to_le_bytes().to_vec()
                }
                None => argument(rig.device(), arg, &mut Vec::new()).expect("was tried before"),
            };
            bytes.resize(param.offset as usize, 0);
            bytes.extend(value);
        }
        let module = rig.module().unwrap_or(&module);
        rig.expect(rig.launch(module, &run.kernel, &config, &bytes), &run.kernel);
        let mut found = Vec::new();
        for (at, len) in buffers {
            let mut data = vec![0; len];
            rig.expect(rig.download(at, &mut data), "a buffer");
            found.push(data);
        }
        let o = rig.device().options();
        let setting = format!("{:?} {:?} {:?}", o.order, o.approximation, o.accumulation);
        let mut expected = expected.lock().unwrap_or_else(PoisonError::into_inner);
        let right = expected.entry(setting).or_insert_with(|| found.clone()) == &found;
        drop(expected);
        let differ = || Caught::WrongResult("the buffers differ from those of the unbroken kernel".into());
        rig.expect(right.then_some(()).ok_or_else(differ), "the result");
    };
    let cases = vec![Case { name: "run", run: Box::new(test) }];
    let subject = Subject { kernel: &run.kernel, ptx: &text, host_cases: 1, cases };
    let mut settings = settings();
    for check in &mutate.without {
        for s in &mut settings {
            if !s.checks.set_detector(check, false) {
                let names = Checks::NAMES.join(", ");
                return Err(format!("--without {check}: there is no such check; the checks are {names}"));
            }
        }
    }
    let campaign = Campaign {
        gpu,
        settings,
        threads: 0,
        only: mutate.only.clone(),
        every: mutate.every,
        depth: if mutate.first { Depth::First } else { Depth::All },
        budget: Duration::from_secs(mutate.seconds),
    };
    let table = campaign.run(&subject).map_err(|e| e.to_string())?;
    if table.outcomes.is_empty() {
        return Err(format!("--only {}: no mutant's id has this in it", mutate.only));
    }
    println!("found first by:\n\n{}", table.to_text());
    if !mutate.first {
        println!("found by (each would find it with all others off):\n\n{}", table.all_to_text());
        println!("found by one alone:\n\n{}", table.alone_to_text());
    }
    if let Some(report) = &run.report {
        write(report, table.to_json().as_bytes())?;
    }
    let explained = match &mutate.explained {
        Some(path) => std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?,
        None => String::new(),
    };
    let missing = Explained::parse(&explained).missing(&table);
    missing.iter().for_each(|m| println!("survivor: {m}"));
    Ok(missing.is_empty())
}

/// The bytes of a `buf:IN` or `buf:IN=OUT` argument; OUT is not written.
fn buffer(arg: &str) -> Result<Option<Vec<u8>>, String> {
    let Some(value) = arg.strip_prefix("buf:") else { return Ok(None) };
    let input = value.split_once('=').map_or(value, |(input, _)| input);
    std::fs::read(input).map(Some).map_err(|e| format!("{input}: {e}"))
}
