//! What a launch did, by PTX line: the numbers from which a kernel's cost can be argued.

use crate::check::Finding;
use crate::error::CudaError;
use serde::Serialize;

/// Counters of one PTX instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counter {
    /// Line of the PTX text.
    pub line: u32,
    /// Warp instructions issued.
    pub issues: u64,
    /// Sum of active lanes.
    pub lanes: u64,
    /// Shared-memory wavefronts (passes over the 32 banks) that the addresses need.
    pub wavefronts: u64,
    /// The fewest wavefronts that could move as many distinct bytes.
    pub ideal_wavefronts: u64,
    /// 32-byte sectors of global memory touched.
    pub sectors: u64,
    /// The fewest sectors that could hold as many distinct bytes.
    pub ideal_sectors: u64,
}

impl Counter {
    /// Adds another worker's counts for the same instruction.
    pub fn add(&mut self, other: &Counter) {
        self.issues += other.issues;
        self.lanes += other.lanes;
        self.wavefronts += other.wavefronts;
        self.ideal_wavefronts += other.ideal_wavefronts;
        self.sectors += other.sectors;
        self.ideal_sectors += other.ideal_sectors;
    }
}

/// What a launch leaves behind.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Everything found wrong; empty when clean.
    pub findings: Vec<Finding>,
    /// One entry for each instruction that was issued, in the order of the text.
    pub counters: Vec<Counter>,
}

impl Report {
    /// The error with which a GPU would have stopped the kernel: of the first fatal finding.
    pub fn error(&self) -> Option<CudaError> {
        self.findings.iter().find_map(|f| f.error)
    }

    /// Warp instructions issued in all.
    pub fn issues(&self) -> u64 {
        self.counters.iter().map(|c| c.issues).sum()
    }

    /// The report as JSON: `{"findings": […], "counters": […]}`.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a report holds only numbers and strings")
    }

    /// The findings, a line each, for people.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for f in &self.findings {
            let kind = serde_json::to_value(f.kind).ok();
            let kind = kind.as_ref().and_then(|k| k.as_str()).unwrap_or("?").to_owned();
            text += &format!(
                "{kind}: {} line {}, block {:?}, thread {:?}{}: {}{}\n",
                f.kernel,
                f.line,
                f.block,
                f.thread,
                f.address.map(|a| format!(", address {a:#x}")).unwrap_or_default(),
                f.message,
                if f.count > 1 { format!(" ({} times)", f.count) } else { String::new() },
            );
        }
        text
    }
}
