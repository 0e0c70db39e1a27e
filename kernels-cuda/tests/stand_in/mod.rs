//! Runs a program with the stand-in libcuda in front of any real one, and reads the report that it leaves.

use std::path::PathBuf;
use std::process::{Command, ExitStatus};

/// The stand-in as cargo built it for these tests: beside the test binary.
pub fn library() -> PathBuf {
    let exe = std::env::current_exe().expect("the path of the test");
    let deps = exe.parent().expect("a folder");
    let name = "libptx_emulator_cuda.so";
    let places = [deps.join(name), deps.join("..").join(name)];
    places.into_iter().find(|path| path.exists()).expect("cargo builds the stand-in before these tests")
}

/// A folder in which the stand-in has the name that loaders look for.
pub struct StandIn(PathBuf);

/// What a program left behind.
pub struct Ran {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub text: String,
    /// The report.
    pub report: serde_json::Value,
}

impl StandIn {
    /// A new folder.
    pub fn new() -> Self {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("stand-in-{}-{number}", std::process::id());
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        std::os::unix::fs::symlink(library(), folder.join("libcuda.so.1")).expect("a link");
        Self(folder)
    }

    /// Runs a program with these variables.
    pub fn run(&self, mut command: Command, variables: &[(&str, &str)]) -> Ran {
        let report = self.0.join("report.json");
        command.env("LD_LIBRARY_PATH", &self.0).env("PTX_EMULATOR_REPORT", &report);
        let output = command.envs(variables.iter().copied()).output().expect("the program starts");
        let text = [output.stdout, output.stderr].concat();
        let report = std::fs::read(&report).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Ran {
            status: output.status,
            text: String::from_utf8_lossy(&text).into_owned(),
            report: report.unwrap_or_default(),
        }
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
