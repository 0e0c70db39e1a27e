//! The program: runs one kernel of a PTX file on files and numbers given on the command line.

mod exec_command;
mod mutate_command;

use clap::{Parser, Subcommand};
use ptx_emulator::{
    Checks, CudaError, Device, Finding, FindingKind, Gpu, LaunchConfig, Module, Options, Order, Report,
};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "ptx-emulator", about = "Runs NVIDIA PTX on a CPU with memory, race and barrier checks")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a kernel. Exit code: 0 clean, 2 wrong usage, 3 findings.
    Run(Alone),
    /// Breaks a kernel and its launch in one place at a time and tells what finds it. Exit code: 0 all found or explained, 2 wrong
    /// usage, 3 survivors.
    Mutate(mutate_command::Mutate),
    /// Runs a program on the stand-in libcuda. Exit code: 3 findings, else the program's.
    Exec(exec_command::Exec),
}

#[derive(clap::Args)]
struct Alone {
    #[command(flatten)]
    run: Run,
    /// Turns a check off, by name; may be given several times.
    #[arg(long, value_name = "CHECK")]
    without: Vec<String>,
}

#[derive(clap::Args)]
struct Run {
    /// PTX text.
    file: PathBuf,
    /// Name of the kernel.
    #[arg(long)]
    kernel: String,
    /// Blocks: X or X,Y or X,Y,Z.
    #[arg(long, value_parser = triple)]
    grid: Triple,
    /// Threads of a block: X or X,Y or X,Y,Z.
    #[arg(long, value_parser = triple)]
    block: Triple,
    /// Blocks of a cluster: X or X,Y or X,Y,Z.
    #[arg(long, value_parser = triple, default_value = "1")]
    cluster: Triple,
    /// All blocks must fit on the GPU at once, as a grid barrier needs.
    #[arg(long)]
    cooperative: bool,
    /// Dynamic shared memory of a block, in bytes.
    #[arg(long, default_value_t = 0)]
    shared: u32,
    /// Modelled GPU: a100, rtx4090, h100 or rtx5090.
    #[arg(long, default_value = "a100")]
    gpu: String,
    /// Order of warps: forward, reverse or random:SEED.
    #[arg(long, default_value = "forward")]
    order: Order,
    /// Writes findings and counters as JSON.
    #[arg(long)]
    report: Option<PathBuf>,
    /// An argument, in order: buf:IN.bin, buf:IN.bin=OUT.bin, u32:7, i32:-1, u64:…, f32:1.5, f64:…, f16:….
    #[arg(long = "arg", allow_hyphen_values = true)]
    args: Vec<String>,
}

#[derive(Clone, Copy)]
struct Triple([u32; 3]);

fn triple(text: &str) -> Result<Triple, String> {
    let mut out = [1; 3];
    let parts: Vec<_> = text.split(',').collect();
    if parts.len() > 3 {
        return Err("at most three numbers: X,Y,Z".into());
    }
    for (slot, part) in out.iter_mut().zip(parts) {
        *slot = part.trim().parse().map_err(|e| format!("'{part}': {e}"))?;
    }
    Ok(Triple(out))
}

fn main() -> ExitCode {
    let code = |clean| if clean { ExitCode::SUCCESS } else { ExitCode::from(3) };
    let outcome = match Cli::parse().command {
        Command::Run(run) => execute(&run).map(code),
        Command::Mutate(mutate) => mutate_command::execute(&mutate).map(code),
        Command::Exec(exec) => exec_command::exec(&exec),
    };
    match outcome {
        Ok(code) => code,
        Err(message) => {
            eprintln!("ptx-emulator: {message}");
            ExitCode::from(2)
        }
    }
}

/// Runs the kernel; false when there are findings, of which a launch that is refused is one.
fn execute(Alone { run, without }: &Alone) -> Result<bool, String> {
    let gpu = Gpu::by_name(&run.gpu)
        .ok_or_else(|| format!("no GPU '{}': a100, rtx4090, h100, rtx5090", run.gpu))?;
    let mut checks = Checks::default();
    for name in without {
        if !checks.set(name, false) {
            return Err(format!("no check '{name}': there are {}", Checks::NAMES.join(", ")));
        }
    }
    let path = run.file.display();
    let text = std::fs::read(&run.file).map_err(|e| format!("{path}: {e}"))?;
    let text = String::from_utf8_lossy(&text);
    let device = Device::new(gpu, Options { order: run.order, checks, ..Options::default() });
    let parsed = Module::parse(&text).and_then(|module| Ok((device.load(&module)?, module)));
    let (loaded, module) = match parsed {
        Ok(both) => both,
        Err(e) => {
            let message = format!("{} ({})", e.message, e.code.name());
            refused(run, FindingKind::Module, e.line, message.clone(), e.code)?;
            return Err(format!("{path}: line {}: {message}", e.line));
        }
    };
    let kernel = module.kernel(&run.kernel).ok_or_else(|| {
        let known: Vec<_> = module.kernels().collect();
        format!("{path}: no kernel '{}'; there are: {}", run.kernel, known.join(", "))
    })?;
    if kernel.params.len() != run.args.len() {
        return Err(format!(
            "'{}' takes {} arguments, {} given (CUDA_ERROR_INVALID_VALUE)",
            run.kernel,
            kernel.params.len(),
            run.args.len()
        ));
    }
    let mut outputs = Vec::new();
    let mut bytes = Vec::new();
    for (param, arg) in kernel.params.iter().zip(&run.args) {
        let value = argument(&device, arg, &mut outputs)?;
        if value.len() != param.bytes as usize {
            return Err(format!(
                "{arg}: {} bytes; parameter '{}' has {}",
                value.len(),
                param.name,
                param.bytes
            ));
        }
        bytes.resize(param.offset as usize, 0);
        bytes.extend(value);
    }
    let config = LaunchConfig {
        grid: run.grid.0,
        block: run.block.0,
        cluster: run.cluster.0,
        shared_bytes: run.shared,
        cooperative: run.cooperative,
    };
    let report = match device.launch(&loaded, &run.kernel, &config, &bytes) {
        Ok(report) => report,
        Err(e) => {
            let message = format!("{} ({})", e.message, e.code.name());
            eprint!("{}", refused(run, FindingKind::Resource, 0, message, e.code)?);
            return Ok(false);
        }
    };
    for (address, len, path) in outputs {
        let mut out = vec![0; len];
        device.memory().read(address, &mut out).map_err(|e| e.to_string())?;
        write(&path, &out)?;
    }
    if let Some(path) = &run.report {
        write(path, report.to_json().as_bytes())?;
    }
    eprint!("{}", report.to_text());
    if let Some(error) = report.error() {
        eprintln!("the launch ends with {}", error.name());
    }
    Ok(report.findings.is_empty())
}

/// Writes the report of what was refused before it ran, and gives its text.
fn refused(
    run: &Run,
    kind: FindingKind,
    line: u32,
    message: String,
    error: CudaError,
) -> Result<String, String> {
    let finding = Finding {
        kind,
        kernel: run.kernel.clone(),
        line,
        block: [0; 3],
        thread: [0; 3],
        address: None,
        message,
        count: 1,
        error: Some(error),
    };
    let report = Report { findings: vec![finding], counters: Vec::new() };
    if let Some(path) = &run.report {
        write(path, report.to_json().as_bytes())?;
    }
    Ok(report.to_text())
}

/// Writes beside and renames, so that no half-written file is left.
fn write(path: &std::path::Path, bytes: &[u8]) -> Result<(), String> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".part");
    let result = std::fs::write(&beside, bytes).and_then(|()| std::fs::rename(&beside, path));
    result.map_err(|e| {
        let _ = std::fs::remove_file(&beside);
        format!("{}: {e}", path.display())
    })
}

/// The bytes of one argument.
fn argument(device: &Device, arg: &str, outputs: &mut Vec<(u64, usize, PathBuf)>) -> Result<Vec<u8>, String> {
    let (kind, value) = arg.split_once(':').ok_or_else(|| format!("'{arg}': expected KIND:VALUE"))?;
    let bad = |e: &dyn std::fmt::Display| format!("'{arg}': {e}");
    let integer = |bits: u32| -> Result<Vec<u8>, String> {
        let (digits, radix) = value.strip_prefix("0x").map_or((value, 10), |hex| (hex, 16));
        let n = i128::from_str_radix(digits, radix).map_err(|e| bad(&e))?;
        let (low, high) = if kind.starts_with('i') {
            (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
        } else {
            (0, (1i128 << bits) - 1)
        };
        if n < low || n > high {
            return Err(bad(&format!("not in {low}..={high}")));
        }
        Ok((n as u64).to_le_bytes()[..bits as usize / 8].to_vec())
    };
    Ok(match kind {
        "u8" | "i8" => integer(8)?,
        "u16" | "i16" => integer(16)?,
        "u32" | "i32" => integer(32)?,
        "u64" | "i64" => integer(64)?,
        "f32" => value.parse::<f32>().map_err(|e| bad(&e))?.to_le_bytes().to_vec(),
        "f64" => value.parse::<f64>().map_err(|e| bad(&e))?.to_le_bytes().to_vec(),
        "f16" => half::f16::from_f64(value.parse::<f64>().map_err(|e| bad(&e))?).to_le_bytes().to_vec(),
        "bf16" => half::bf16::from_f64(value.parse::<f64>().map_err(|e| bad(&e))?).to_le_bytes().to_vec(),
        "buf" => {
            let (input, output) = value.split_once('=').map_or((value, None), |(i, o)| (i, Some(o)));
            let data = std::fs::read(input).map_err(|e| format!("{input}: {e}"))?;
            let address = device.memory().alloc(data.len() as u64).map_err(|e| bad(&e))?;
            device.memory().write(address, &data).map_err(|e| bad(&e))?;
            if let Some(output) = output {
                outputs.push((address, data.len(), PathBuf::from(output)));
            }
            address.to_le_bytes().to_vec()
        }
        _ => return Err(format!("'{arg}': no kind '{kind}': buf, u32, i32, u64, i64, f32, f64, f16, bf16")),
    })
}
