//! What a whole process did on the stand-in: findings and counters of all launches merged by kernel, misuse of the
//! driver API, and notes. Written as JSON when the process ends.

use crate::mutation::Mutant;
use crate::status::Status;
use ptx_emulator::{Checks, Counter, CudaError, Finding, FindingKind, Report};
use serde::Serialize;
use std::collections::BTreeMap;

/// Notes and findings of one kind kept; more are counted only.
const KEPT: usize = 1000;

/// A sentence about something that is not an error of a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Note {
    /// The entry point, or what else it is about.
    pub about: String,
    /// The result that the host got, if not success.
    pub status: Option<&'static str>,
    /// The sentence.
    pub message: String,
    /// How often.
    pub count: u64,
}

/// Counters of one kernel over all its launches.
#[derive(Clone, Debug, Default, Serialize)]
pub struct KernelCounters {
    /// Launches.
    pub launches: u64,
    /// By PTX line.
    pub lines: Vec<Counter>,
}

/// The report of a process.
#[derive(Debug, Default, Serialize)]
pub struct ProcessReport {
    /// Name of the device.
    pub device: String,
    /// What was found wrong: in kernels, and in how the host used the device.
    pub findings: Vec<Finding>,
    /// By kernel.
    pub counters: BTreeMap<String, KernelCounters>,
    /// Refused calls, unsupported calls, leaks, unfinished work.
    pub notes: Vec<Note>,
    /// The mistake that was made on purpose, or those that could be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mutants: Vec<Mutant>,
    /// The checks that are on: findings of others are dropped.
    #[serde(skip)]
    pub checks: Checks,
    /// Findings and notes that were left out because there were too many.
    pub left_out: u64,
}

impl ProcessReport {
    /// Takes over what a launch left behind.
    pub fn add_launch(&mut self, kernel: &str, report: Report) {
        for finding in report.findings {
            self.add_finding(finding);
        }
        let entry = self.counters.entry(kernel.to_owned()).or_default();
        entry.launches += 1;
        for counter in report.counters {
            // Counters come in the order of the text, so a kernel's lists are alike and sorted by line.
            match entry.lines.binary_search_by_key(&counter.line, |c| c.line) {
                Ok(at) => entry.lines[at].add(&counter),
                Err(at) => entry.lines.insert(at, counter),
            }
        }
    }

    /// Adds a finding; the same kind at the same line of the same kernel is counted once.
    pub fn add_finding(&mut self, finding: Finding) {
        let same = |f: &&mut Finding| {
            f.kind == finding.kind
                && f.kernel == finding.kernel
                && f.line == finding.line
                && (f.line > 0 || f.message == finding.message)
        };
        if let Some(known) = self.findings.iter_mut().find(same) {
            known.count += finding.count;
        } else if self.findings.len() < KEPT {
            self.findings.push(finding);
        } else {
            self.left_out += 1;
        }
    }

    /// A finding about the host's use of the device rather than about a line of a kernel.
    pub fn host_finding(&mut self, kind: FindingKind, about: &str, address: Option<u64>, message: String) {
        if !self.checks.wants(kind) {
            return;
        }
        self.add_finding(Finding {
            kind,
            kernel: about.to_owned(),
            line: 0,
            block: [0; 3],
            thread: [0; 3],
            address,
            message,
            count: 1,
            error: None::<CudaError>,
        });
    }

    /// Adds a note.
    pub fn note(&mut self, about: &str, status: Option<Status>, message: impl Into<String>) {
        let note = Note {
            about: about.to_owned(),
            status: status.map(Status::name),
            message: message.into(),
            count: 1,
        };
        let same =
            |n: &&mut Note| n.about == note.about && n.status == note.status && n.message == note.message;
        if let Some(known) = self.notes.iter_mut().find(same) {
            known.count += 1;
        } else if self.notes.len() < KEPT {
            self.notes.push(note);
        } else {
            self.left_out += 1;
        }
    }

    /// The report as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a report holds only numbers and strings")
    }

    /// Forgets everything but the device.
    pub fn clear(&mut self) {
        let (device, checks) = (std::mem::take(&mut self.device), self.checks.clone());
        *self = ProcessReport { device, checks, ..ProcessReport::default() };
    }
}
