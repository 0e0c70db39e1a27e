//! A whole host program under mutation: every call of the driver that orders, moves or launches is made wrong once.
//!
//! The program is not changed and need not know. It runs on the stand-in libcuda, which lists what it could get wrong and makes
//! one mistake a run; several seeds let the streams move differently. What finds a mistake is a finding, a refused call, the
//! program's own check of its results (its exit code), a hang, or a note such as that of memory which was not freed. The
//! program must make the same calls at every run and end with exit code 0 and no finding when nothing is broken.

use super::Kind;
use super::campaign::{CampaignError, Depth};
use super::table::{NOT_RUN, Outcome, SURVIVOR, Table};
use crate::check::Checks;
use crate::stand_in::StandIn;
use serde_json::Value;
use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A program, and how its mutants are run.
#[derive(Clone, Debug)]
pub struct ProgramCampaign {
    /// The name in ids.
    pub name: String,
    /// The program and its arguments.
    pub program: Vec<OsString>,
    /// The stand-in libcuda.
    pub library: PathBuf,
    /// Seeds of the order in which streams move; each mutant is run under one after the other until it is found.
    pub seeds: Vec<u64>,
    /// More variables for the program.
    pub variables: Vec<(String, String)>,
    /// How long a run may take; none: twenty times what the unbroken program takes, and ten seconds at least.
    pub timeout: Option<Duration>,
    /// Worker threads; 0 takes the machine's cores.
    pub threads: usize,
    /// Run only the mutants whose id has this in it; empty for all.
    pub only: String,
    /// Run every n-th mutant only.
    pub every: usize,
    /// Whether what finds a mutant first is enough, or all that finds it is asked for.
    pub depth: Depth,
    /// No new mutant is begun after this long; those left are counted as not run.
    pub budget: Duration,
}

/// What one run left behind.
struct Run {
    /// How it ended; none when it was stopped for taking too long.
    status: Option<ExitStatus>,
    report: Value,
    /// What it wrote to stderr.
    said: String,
    took: Duration,
}

impl Run {
    fn list(&self, key: &str) -> Vec<Value> {
        self.report[key].as_array().cloned().unwrap_or_default()
    }
}

/// What found a mistake in one run.
struct Found {
    /// Kinds of findings, or the one thing that it was instead.
    detectors: Vec<String>,
    message: String,
    /// Whether the detectors are findings, of checks that can be turned off.
    findings: bool,
}

impl Found {
    fn other(detector: &str, message: String) -> Option<Found> {
        Some(Found { detectors: vec![detector.to_owned()], message, findings: false })
    }

    /// The checks that spoke, as `PTX_EMULATOR_CHECKS` names them.
    fn checks(&self) -> Vec<String> {
        let mut checks = Vec::new();
        for kind in self.detectors.iter().filter(|_| self.findings) {
            match kind.as_str() {
                "race" => checks.extend(["race", "lane-race"]),
                "uninitialised" => checks.extend(["uninitialised", "registers"]),
                "read-only" => checks.push("bounds"),
                kind => checks.extend(Checks::NAMES.into_iter().find(|name| *name == kind)),
            }
        }
        checks.into_iter().map(str::to_owned).collect()
    }
}

impl Run {
    /// What found the mistake, if something did. `known` are the notes of the unbroken program.
    fn found(&self, known: &[(String, String)]) -> Option<Found> {
        let last = || self.said.lines().last().unwrap_or("").to_owned();
        let Some(status) = self.status else {
            return Found::other("hang", format!("still running after {:?}", self.took));
        };
        if self.list("mutants").is_empty() && status.success() {
            // The program made other calls than the first time.
            return Found::other("not reached", String::new());
        }
        let findings = self.list("findings");
        if let Some(first) = findings.first() {
            let mut detectors: Vec<String> = Vec::new();
            for kind in findings.iter().map(|f| text(f, "kind")) {
                if !detectors.contains(&kind) {
                    detectors.push(kind);
                }
            }
            return Some(Found { detectors, message: text(first, "message"), findings: true });
        }
        if status.code().is_none() || self.said.contains("CUDA_ERROR_UNKNOWN") {
            return Found::other("crash", format!("{status}: {}", last()));
        }
        let note = self.list("notes").into_iter().find(|n| !known.contains(&note_key(n)));
        let refused = note.as_ref().filter(|n| n["status"].is_string());
        match (status.success(), refused, note.as_ref()) {
            (false, Some(note), _) => Found::other("refused", text(note, "message")),
            (false, None, _) => Found::other("wrong result", last()),
            (true, _, Some(note)) => Found::other("note", text(note, "message")),
            (true, ..) => None,
        }
    }
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or("?").to_owned()
}

/// A note without what differs from run to run: what it is about, and its status.
fn note_key(note: &Value) -> (String, String) {
    (text(note, "about"), text(note, "status"))
}

impl ProgramCampaign {
    /// Runs the program with nothing broken, then with each mistake.
    ///
    /// # Errors
    /// When the program cannot be started, or is not clean with nothing broken.
    pub fn run(&self) -> Result<Table, CampaignError> {
        let begun = Instant::now();
        let patience = self.timeout.unwrap_or(Duration::from_secs(600));
        let (mut listed, mut notes, mut longest) = (Vec::new(), Vec::new(), Duration::ZERO);
        let stand_in = StandIn::new(&self.library).map_err(CampaignError::Program)?;
        for (n, seed) in self.seeds.iter().enumerate() {
            let run = self.once(&stand_in, "list", *seed, patience, &[])?;
            let findings = run.list("findings");
            if !run.status.is_some_and(|s| s.success()) || !findings.is_empty() {
                let found: Vec<String> = findings.iter().map(|f| text(f, "message")).collect();
                return Err(CampaignError::Program(format!(
                    "with nothing broken, {} ends with {} and {} findings under seed {seed}: {}{}",
                    self.name,
                    run.status.map_or("a time-out".into(), |s| s.to_string()),
                    found.len(),
                    found.join("; "),
                    run.said.trim_end(),
                )));
            }
            if n == 0 {
                listed = run.list("mutants");
            }
            notes.extend(run.list("notes").iter().map(note_key));
            longest = longest.max(run.took);
        }
        let timeout = self.timeout.unwrap_or((longest * 20).max(Duration::from_secs(10)));
        let mut list = Vec::new();
        for mutant in &listed {
            let id = text(mutant, "id");
            let kind = id.split(':').next().and_then(Kind::by_name);
            let kind = kind.ok_or_else(|| CampaignError::Program(format!("the stand-in lists '{id}'")))?;
            list.push((id, kind, text(mutant, "change")));
        }
        list.retain(|(id, ..)| format!("{}:{id}", self.name).contains(&self.only));
        let list: Vec<_> = list.into_iter().step_by(self.every.max(1)).collect();

        let (next, outcomes, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Mutex::new(None));
        let work = || {
            let stand_in = match StandIn::new(&self.library) {
                Ok(stand_in) => stand_in,
                Err(e) => {
                    return *failed.lock().unwrap_or_else(|e| e.into_inner()) =
                        Some(CampaignError::Program(e));
                }
            };
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some((id, kind, change)) = list.get(at) else { return };
                let found = if begun.elapsed() > self.budget {
                    Ok(None)
                } else {
                    self.judge(&stand_in, id, timeout, &notes).map(Some)
                };
                match found {
                    Ok(found) => {
                        let outcome = self.outcome(id, *kind, change, found);
                        outcomes.lock().unwrap_or_else(|e| e.into_inner()).push((at, outcome));
                    }
                    Err(e) => return *failed.lock().unwrap_or_else(|e| e.into_inner()) = Some(e),
                }
            }
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if self.threads == 0 { cores } else { self.threads };
        std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
        if let Some(error) = failed.into_inner().unwrap_or_else(|e| e.into_inner()) {
            return Err(error);
        }
        let mut outcomes = outcomes.into_inner().unwrap_or_else(|e| e.into_inner());
        outcomes.sort_by_key(|o| o.0);
        Ok(Table { outcomes: outcomes.into_iter().map(|o| o.1).collect() })
    }

    /// `None` for one that was not run.
    fn outcome(&self, id: &str, kind: Kind, change: &str, found: Option<Vec<Found>>) -> Outcome {
        let none = if found.is_some() { SURVIVOR } else { NOT_RUN };
        let found = found.unwrap_or_default();
        let mut findings: Vec<String> = Vec::new();
        for name in found.iter().flat_map(|f| &f.detectors) {
            if !findings.contains(name) {
                findings.push(name.clone());
            }
        }
        Outcome {
            id: format!("{}:{id}", self.name),
            kind,
            line: None,
            change: change.to_owned(),
            detector: findings.first().map_or(none, String::as_str).to_owned(),
            findings,
            message: found.first().map_or(String::new(), |f| f.message.clone()),
        }
    }

    /// What finds a mistake: the first thing, or all things.
    fn judge(
        &self,
        stand_in: &StandIn,
        id: &str,
        timeout: Duration,
        known: &[(String, String)],
    ) -> Result<Vec<Found>, CampaignError> {
        let (mut all, mut off) = (Vec::new(), Vec::new());
        for seed in &self.seeds {
            loop {
                let run = self.once(stand_in, id, *seed, timeout, &off)?;
                let Some(found) = run.found(known) else { break };
                let spoke: Vec<String> = found.checks();
                all.push(found);
                if self.depth == Depth::First {
                    return Ok(all);
                }
                // Once more without the checks that spoke. A result that is wrong stays so.
                if spoke.is_empty() {
                    break;
                }
                off.extend(spoke);
            }
        }
        Ok(all)
    }

    fn once(
        &self,
        stand_in: &StandIn,
        mutate: &str,
        seed: u64,
        timeout: Duration,
        off: &[String],
    ) -> Result<Run, CampaignError> {
        let io = |e: std::io::Error| CampaignError::Program(format!("{}: {e}", self.name));
        stand_in.clear().map_err(io)?;
        let (program, arguments) =
            self.program.split_first().ok_or_else(|| CampaignError::Program("no program given".into()))?;
        let said = stand_in.folder().join("stderr");
        let mut command: Command = stand_in.command(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&said).map_err(io)?);
        command.env("PTX_EMULATOR_MUTATE", mutate).env("PTX_EMULATOR_SEED", seed.to_string());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        if !off.is_empty() {
            let named = |(name, _): &&(String, String)| name == "PTX_EMULATOR_CHECKS";
            let before = self.variables.iter().find(named).map(|(_, value)| value.clone());
            let words = before.into_iter().chain(off.iter().map(|check| format!("-{check}")));
            command.env("PTX_EMULATOR_CHECKS", words.collect::<Vec<_>>().join(","));
        }
        let begun = Instant::now();
        let mut child = command.spawn().map_err(io)?;
        let mut pause = Duration::from_millis(1);
        let status = loop {
            match child.try_wait().map_err(io)? {
                Some(status) => break Some(status),
                None if begun.elapsed() > timeout => {
                    child.kill().and_then(|()| child.wait()).map_err(io)?;
                    break None;
                }
                None => std::thread::sleep(pause),
            }
            pause = (pause * 2).min(Duration::from_millis(10));
        };
        let said = std::fs::read(&said).map_err(io)?;
        let said = String::from_utf8_lossy(&said).into_owned();
        Ok(Run { status, report: stand_in.report(), said, took: begun.elapsed() })
    }
}
