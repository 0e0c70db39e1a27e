//! Running a program with the stand-in libcuda in front of any real one.
//!
//! The stand-in keeps a name of its own on disk, since a `libcuda.so` in a build folder would shadow a real driver. Only here, in
//! a folder that lives as long as a [`StandIn`], does it get the names that loaders look for. Every process that a program starts
//! writes a report of its own; they are gathered into one.

use serde_json::{Map, Value, json};
use std::ffi::OsStr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Name of the library as cargo builds it.
const LIBRARY: &str = "libptx_emulator_cuda.so";

/// A folder in which the stand-in has the names that loaders look for; it goes when this is dropped.
#[derive(Debug)]
pub struct StandIn(PathBuf);

impl StandIn {
    /// Links a library into a new folder.
    ///
    /// # Errors
    /// A sentence when there is no such library, or no folder can be made.
    pub fn new(library: &Path) -> Result<StandIn, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let library = library.canonicalize().map_err(|e| format!("{}: {e}", library.display()))?;
        let nanos = std::time::UNIX_EPOCH.elapsed().map_or(0, |t| t.subsec_nanos());
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ptx-emulator-{}-{number}-{nanos}", std::process::id());
        let path = std::env::temp_dir().join(name);
        // Only this user may write here: what lies in the folder is loaded as code.
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|e| format!("{}: {e}", path.display()))?;
        let stand_in = StandIn(path);
        for name in ["libcuda.so.1", "libcuda.so"] {
            let link = stand_in.0.join(name);
            std::os::unix::fs::symlink(&library, &link).map_err(|e| format!("{}: {e}", link.display()))?;
        }
        Ok(stand_in)
    }

    /// A program that will load the stand-in and leave a report here.
    pub fn command(&self, program: &OsStr) -> Command {
        let mut path = self.0.clone().into_os_string();
        if let Some(more) = std::env::var_os("LD_LIBRARY_PATH").filter(|p| !p.is_empty()) {
            path.push(":");
            path.push(more);
        }
        let mut command = Command::new(program);
        command.env("LD_LIBRARY_PATH", path);
        command.env("PTX_EMULATOR_REPORT", self.0.join("report-%p.json"));
        command
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// The reports of all processes that ran here, as one.
    pub fn report(&self) -> Value {
        gather(&self.0)
    }

    /// Forgets the reports so far.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn clear(&self) -> std::io::Result<()> {
        reports(&self.0).into_iter().try_for_each(std::fs::remove_file)
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Finds the library: as given, or beside this program, or in cargo's folder for dependencies.
///
/// # Errors
/// A sentence that names where it was looked for.
pub fn find(given: Option<&Path>) -> Result<PathBuf, String> {
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

/// The files of reports.
fn reports(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> =
        entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "json")).collect();
    paths.sort();
    paths
}

/// The reports of all processes as one.
fn gather(folder: &Path) -> Value {
    let (mut findings, mut notes, mut mutants) = (Vec::new(), Vec::new(), Vec::new());
    let (mut counters, mut device) = (Map::new(), Value::Null);
    for path in reports(folder) {
        let report = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        let Some(mut report) = report else {
            notes.push(json!({ "about": "report", "message": format!("{} cannot be read", path.display()) }));
            continue;
        };
        device = report["device"].take();
        findings.extend(report["findings"].as_array().cloned().unwrap_or_default());
        notes.extend(report["notes"].as_array().cloned().unwrap_or_default());
        mutants.extend(report["mutants"].as_array().cloned().unwrap_or_default());
        for (kernel, mine) in report["counters"].as_object().cloned().unwrap_or_default() {
            match counters.get_mut(&kernel) {
                Some(all) => add(all, &mine),
                None => {
                    counters.insert(kernel, mine);
                }
            }
        }
    }
    let mut all = json!({ "device": device, "findings": findings, "counters": counters, "notes": notes });
    if !mutants.is_empty() {
        all["mutants"] = Value::Array(mutants);
    }
    all
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

    /// An empty folder of this test's.
    fn tempfile_folder() -> PathBuf {
        let folder = std::env::temp_dir().join(format!("ptx-emulator-reports-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn reports_of_several_processes_become_one() {
        let folder = tempfile_folder();
        let report = |issues: u64| {
            json!({
                "device": "D", "findings": [{ "kind": "race" }], "notes": [],
                "counters": { "k": { "launches": 1, "lines": [{ "line": 3, "issues": issues }] } },
            })
        };
        std::fs::write(folder.join("report-1.json"), report(4).to_string()).unwrap();
        std::fs::write(folder.join("report-2.json"), report(6).to_string()).unwrap();
        std::fs::write(folder.join("report-3.json"), "{").unwrap();
        let all = gather(&folder);
        assert_eq!(all["findings"].as_array().unwrap().len(), 2);
        assert_eq!(all["counters"]["k"], json!({ "launches": 2, "lines": [{ "line": 3, "issues": 10 }] }));
        assert_eq!(all["notes"].as_array().unwrap().len(), 1);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_missing_library_is_named() {
        let error = find(Some(Path::new("/nowhere/lib.so"))).unwrap_err();
        assert!(error.contains("/nowhere/lib.so") && error.contains("cargo build"), "{error}");
    }
}
