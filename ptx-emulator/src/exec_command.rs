//! `ptx-emulator exec`: runs a program with the stand-in libcuda in front of any real one, and says what was found.
//!
//! The stand-in keeps a name of its own on disk, since a `libcuda.so` in a build folder would shadow a real driver.
//! Only here, in a folder that lives as long as the program, does it get the names that loaders look for. Every
//! process that the program starts writes a report of its own; they are gathered at the end.

use serde_json::{Map, Value, json};
use std::ffi::OsString;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Name of the library as cargo builds it.
const LIBRARY: &str = "libptx_emulator_cuda.so";

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
    /// Checks to turn off and on: -race,-shuffle or -all,bounds.
    #[arg(long, allow_hyphen_values = true)]
    checks: Option<String>,
    /// Writes findings, counters and notes as JSON.
    #[arg(long)]
    report: Option<PathBuf>,
    /// The stand-in library; by default it is looked for beside this program.
    #[arg(long)]
    library: Option<PathBuf>,
    /// The program and its arguments, after `--`.
    #[arg(last = true, required = true)]
    program: Vec<OsString>,
}

/// A folder that goes when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Folder, String> {
        let nanos = std::time::UNIX_EPOCH.elapsed().map_or(0, |t| t.subsec_nanos());
        let path = std::env::temp_dir().join(format!("ptx-emulator-{}-{nanos}", std::process::id()));
        // Only this user may write here: what lies in the folder is loaded as code.
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.map(|()| Folder(path.clone())).map_err(|e| format!("{}: {e}", path.display()))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs the program. Exit code: 3 when there are findings, else the program's (128 and the signal that killed it).
///
/// # Errors
/// A sentence when the library is missing or the program cannot be started.
pub fn exec(args: &Exec) -> Result<ExitCode, String> {
    let library = library(args.library.as_deref())?;
    let folder = Folder::new()?;
    for name in ["libcuda.so.1", "libcuda.so"] {
        let link = folder.0.join(name);
        std::os::unix::fs::symlink(&library, &link).map_err(|e| format!("{}: {e}", link.display()))?;
    }
    let mut path = folder.0.clone().into_os_string();
    if let Some(more) = std::env::var_os("LD_LIBRARY_PATH").filter(|p| !p.is_empty()) {
        path.push(":");
        path.push(more);
    }
    let (program, rest) = args.program.split_first().ok_or("no program given")?;
    let mut command = Command::new(program);
    command.args(rest).env("LD_LIBRARY_PATH", path);
    command.env("PTX_EMULATOR_REPORT", folder.0.join("report-%p.json"));
    let settings = [
        ("PTX_EMULATOR_GPU", &args.gpu),
        ("PTX_EMULATOR_DEVICES", &args.devices),
        ("PTX_EMULATOR_ORDER", &args.order),
        ("PTX_EMULATOR_SEED", &args.seed),
        ("PTX_EMULATOR_APPROX", &args.approx),
        ("PTX_EMULATOR_CHECKS", &args.checks),
    ];
    for (name, value) in settings {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    let status = command.status().map_err(|e| format!("{}: {e}", Path::new(program).display()))?;
    let report = gather(&folder.0);
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

/// The stand-in: as given, or beside this program, or in cargo's folder for dependencies.
fn library(given: Option<&Path>) -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|e| format!("cannot tell where this program is: {e}"))?;
    let beside = own.parent().unwrap_or(Path::new("."));
    let places = match given {
        Some(path) => vec![path.to_owned()],
        None => {
            vec![beside.join(LIBRARY), beside.join("deps").join(LIBRARY), beside.join("../lib").join(LIBRARY)]
        }
    };
    let found = places.iter().find_map(|p| p.canonicalize().ok());
    found.ok_or_else(|| {
        let looked: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
        format!("no stand-in at {} (cargo build -p ptx-emulator-cuda makes it)", looked.join(", "))
    })
}

/// The reports of all processes as one.
fn gather(folder: &Path) -> Value {
    let (mut findings, mut notes) = (Vec::new(), Vec::new());
    let (mut counters, mut device) = (Map::new(), Value::Null);
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> =
        entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "json")).collect();
    paths.sort();
    for path in paths {
        let report = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        let Some(mut report) = report else {
            notes.push(json!({ "about": "report", "message": format!("{} cannot be read", path.display()) }));
            continue;
        };
        device = report["device"].take();
        findings.extend(report["findings"].as_array().cloned().unwrap_or_default());
        notes.extend(report["notes"].as_array().cloned().unwrap_or_default());
        for (kernel, mine) in report["counters"].as_object().cloned().unwrap_or_default() {
            match counters.get_mut(&kernel) {
                Some(all) => add(all, &mine),
                None => {
                    counters.insert(kernel, mine);
                }
            }
        }
    }
    json!({ "device": device, "findings": findings, "counters": counters, "notes": notes })
}

/// Adds the counters of a kernel in one process to those in others.
fn add(all: &mut Value, one: &Value) {
    all["launches"] = json!(all["launches"].as_u64().unwrap_or(0) + one["launches"].as_u64().unwrap_or(0));
    let Some(lines) = all["lines"].as_array_mut() else { return };
    for line in one["lines"].as_array().into_iter().flatten() {
        let Some(known) = lines.iter_mut().find(|l| l["line"] == line["line"]) else {
            lines.push(line.clone());
            continue;
        };
        for (name, value) in line.as_object().into_iter().flatten().filter(|(name, _)| *name != "line") {
            known[name] = json!(known[name].as_u64().unwrap_or(0) + value.as_u64().unwrap_or(0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_of_several_processes_become_one() {
        let folder = Folder::new().unwrap();
        let report = |issues: u64| {
            json!({
                "device": "D", "findings": [{ "kind": "race" }], "notes": [],
                "counters": { "k": { "launches": 1, "lines": [{ "line": 3, "issues": issues }] } },
            })
        };
        std::fs::write(folder.0.join("report-1.json"), report(4).to_string()).unwrap();
        std::fs::write(folder.0.join("report-2.json"), report(6).to_string()).unwrap();
        std::fs::write(folder.0.join("report-3.json"), "{").unwrap();
        let all = gather(&folder.0);
        assert_eq!(all["findings"].as_array().unwrap().len(), 2);
        assert_eq!(all["counters"]["k"], json!({ "launches": 2, "lines": [{ "line": 3, "issues": 10 }] }));
        assert_eq!(all["notes"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn a_missing_library_is_named() {
        let error = library(Some(Path::new("/nowhere/lib.so"))).unwrap_err();
        assert!(error.contains("/nowhere/lib.so") && error.contains("cargo build"), "{error}");
    }
}
