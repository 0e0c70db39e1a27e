//! `ptx-emulator exec`: runs a program with the stand-in libcuda in front of any real one, and says what was found.
//!
//! With `--mutate` the program is run many times, each time with one mistake in its calls of the driver.

use ptx_emulator::mutate::{Depth, Explained, ProgramCampaign};
use ptx_emulator::stand_in::{StandIn, find};
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Arguments of `ptx-emulator exec`.
#[derive(clap::Args)]
pub struct Exec {
    /// Modelled GPU: a100, rtx4090, h100 or rtx5090.
    #[arg(long)]
    gpu: Option<String>,
    /// Number of devices, 1 to 8.
    #[arg(long)]
    devices: Option<String>,
    /// Order of warps: forward, reverse or random:SEED.
    #[arg(long)]
    order: Option<String>,
    /// Seed of the order in which streams advance.
    #[arg(long)]
    seed: Option<String>,
    /// Error of approximate instructions: exact, below, above, random:SEED.
    #[arg(long)]
    approx: Option<String>,
    /// How tensor cores sum: sequential, pairwise, truncating.
    #[arg(long)]
    accumulation: Option<String>,
    /// Checks to turn off and on: -race,-shuffle or -all,bounds.
    #[arg(long, allow_hyphen_values = true)]
    checks: Option<String>,
    /// Writes findings, counters and notes as JSON.
    #[arg(long)]
    report: Option<PathBuf>,
    /// Makes one mistake after the other in the program's calls of the driver, and tells what finds each. Exit code: 0 all found or
    /// explained, 2 wrong usage, 3 survivors.
    #[arg(long)]
    mutate: bool,
    /// With --mutate: seeds under which each mistake is tried.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 1, 2], requires = "mutate")]
    seeds: Vec<u64>,
    /// With --mutate: the program's name in ids; by default that of its file.
    #[arg(long, requires = "mutate")]
    name: Option<String>,
    /// With --mutate: only mistakes whose id has this in it.
    #[arg(long, default_value = "", requires = "mutate")]
    only: String,
    /// With --mutate: one mistake in so many.
    #[arg(long, default_value_t = 1, requires = "mutate")]
    every: usize,
    /// With --mutate: tells all that finds a mistake, not only what finds it first, and what only one check finds.
    #[arg(long, requires = "mutate")]
    all: bool,
    /// With --mutate: begins no run after so many seconds.
    #[arg(long, default_value_t = 3600, requires = "mutate")]
    seconds: u64,
    /// With --mutate: seconds that a run may take; by default twenty times what the program takes.
    #[arg(long, requires = "mutate")]
    timeout: Option<u64>,
    /// With --mutate: a text that explains survivors, in lines such as "- `program:order:3`: why it changes nothing".
    #[arg(long, requires = "mutate")]
    explained: Option<PathBuf>,
    /// The stand-in library; by default it is looked for beside this program.
    #[arg(long)]
    library: Option<PathBuf>,
    /// The program and its arguments, after `--`.
    #[arg(last = true, required = true)]
    program: Vec<OsString>,
}

/// Runs the program. Exit code: 3 when there are findings, else the program's (128 and the signal that killed it).
///
/// # Errors
/// A sentence when the library is missing or the program cannot be started.
pub fn exec(args: &Exec) -> Result<ExitCode, String> {
    let library = find(args.library.as_deref())?;
    if args.mutate {
        return mutate(args, library);
    }
    let stand_in = StandIn::new(&library)?;
    let (program, rest) = args.program.split_first().ok_or("no program given")?;
    let mut command = stand_in.command(program);
    command.args(rest).envs(variables(args));
    let status = command.status().map_err(|e| format!("{}: {e}", Path::new(program).display()))?;
    let report = stand_in.report();
    if let Some(path) = &args.report {
        let text = serde_json::to_string_pretty(&report).map_err(|e| e.to_string())?;
        std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    let findings = report["findings"].as_array().cloned().unwrap_or_default();
    for f in &findings {
        let text = |key: &str| f[key].as_str().unwrap_or("?").to_owned();
        let line = f["line"].as_u64().filter(|l| *l > 0).map(|l| format!(" line {l}")).unwrap_or_default();
        eprintln!("{}: {}{line}: {}", text("kind"), text("kernel"), text("message"));
    }
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(if findings.is_empty() { ExitCode::from(code as u8) } else { ExitCode::from(3) })
}

/// What the options say, as the stand-in reads it.
fn variables(args: &Exec) -> Vec<(String, String)> {
    let settings = [
        ("PTX_EMULATOR_GPU", &args.gpu),
        ("PTX_EMULATOR_DEVICES", &args.devices),
        ("PTX_EMULATOR_ORDER", &args.order),
        ("PTX_EMULATOR_SEED", &args.seed),
        ("PTX_EMULATOR_APPROX", &args.approx),
        ("PTX_EMULATOR_ACCUMULATION", &args.accumulation),
        ("PTX_EMULATOR_CHECKS", &args.checks),
    ];
    settings.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?))).collect()
}

/// Runs every mutant of the program's calls.
fn mutate(args: &Exec, library: PathBuf) -> Result<ExitCode, String> {
    let program = args.program.first().map(Path::new).ok_or("no program given")?;
    let file = program.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let campaign = ProgramCampaign {
        name: args.name.clone().unwrap_or(file),
        program: args.program.clone(),
        library,
        seeds: args.seeds.clone(),
        variables: variables(args).into_iter().filter(|(name, _)| name != "PTX_EMULATOR_SEED").collect(),
        timeout: args.timeout.map(Duration::from_secs),
        threads: 0,
        only: args.only.clone(),
        every: args.every,
        depth: if args.all { Depth::All } else { Depth::First },
        budget: Duration::from_secs(args.seconds),
    };
    let table = campaign.run().map_err(|e| e.to_string())?;
    print!("{}", table.to_text());
    if args.all {
        print!("\n{}\n{}", table.all_to_text(), table.alone_to_text());
    }
    if let Some(path) = &args.report {
        std::fs::write(path, table.to_json()).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    let explained = match &args.explained {
        Some(path) => std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?,
        None => String::new(),
    };
    let missing = Explained::parse(&explained).missing(&table);
    missing.iter().for_each(|m| println!("survivor: {m}"));
    Ok(ExitCode::from(if missing.is_empty() { 0 } else { 3 }))
}
