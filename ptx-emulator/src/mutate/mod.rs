//! Mutation tests of kernels, their host code, and of the checks that are to find what is wrong with them.
//!
//! A check that never fires proves nothing. So a kernel that is right is broken on purpose, one place at a time: each
//! barrier, wait, fence, swizzle, bound, stride, shuffle mask and predicate of its PTX ([`ptx`]), and each buffer,
//! argument and launch of its host code ([`host`]). The tests are run on every such mutant under several settings of what
//! a GPU leaves open ([`campaign`]). A whole program is broken in its calls of the driver ([`program`]). A table says what
//! found each: a check, a wrong result, a hang, a refusal, or nothing ([`table`]). What nothing finds is equivalent to the original, and somebody has to say in writing why.

pub mod campaign;
pub mod host;
pub mod program;
pub mod ptx;
pub mod table;

pub use campaign::{Campaign, Case, Depth, Subject};
pub use host::{Change, HostMutant, Rig};
pub use program::ProgramCampaign;
pub use ptx::PtxMutant;
pub use table::{Explained, Outcome, Table};

use crate::counters::Report;
use crate::error::{LaunchError, MemoryError, ModuleError};
use serde::Serialize;
use std::fmt;

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A barrier of a block, a cluster or a warp is removed.
    Barrier,
    /// A wait for asynchronous work is removed, or lets one more group stay pending.
    Wait,
    /// A fence is removed.
    Fence,
    /// A commit of asynchronous work is removed.
    Commit,
    /// An exclusive or is replaced by its first operand.
    Swizzle,
    /// An integer comparison is off by one; a minimum or maximum, or the byte count of a copy, is dropped.
    Bound,
    /// A multiplier is off: a constant or a shift by a factor of two, a register replaced by 1.
    Stride,
    /// An added constant is doubled, or an address is moved by one access.
    Offset,
    /// A lane is missing from a mask, or an exchange is with another lane.
    Shuffle,
    /// A guard is dropped, a branch is never or always taken, a conjunction or selection keeps one side only.
    Predicate,
    /// Shared memory or a buffer is halved.
    Size,
    /// A buffer is freed before the launch that uses it.
    Lifetime,
    /// An argument of a launch is off.
    Argument,
    /// A launch is left out, or lacks its last blocks.
    Launch,
    /// An event record, a wait or a synchronisation of a program is left out.
    Order,
    /// A record, a copy, a launch or a free of a program is in another stream.
    Stream,
    /// A copy or fill of a program is left out or halved.
    Copy,
    /// A node of a graph does not wait for one before it.
    Dependency,
}

impl Kind {
    /// The kind of this name, of those that are made in the calls of a program.
    pub fn by_name(name: &str) -> Option<Kind> {
        use Kind::{Argument, Copy, Dependency, Launch, Lifetime, Order, Size, Stream};
        let all = [Argument, Copy, Dependency, Launch, Lifetime, Order, Size, Stream];
        all.into_iter().find(|k| k.name() == name)
    }

    /// The name in ids and tables.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Barrier => "barrier",
            Kind::Wait => "wait",
            Kind::Fence => "fence",
            Kind::Commit => "commit",
            Kind::Swizzle => "swizzle",
            Kind::Bound => "bound",
            Kind::Stride => "stride",
            Kind::Offset => "offset",
            Kind::Shuffle => "shuffle",
            Kind::Predicate => "predicate",
            Kind::Size => "size",
            Kind::Lifetime => "lifetime",
            Kind::Argument => "argument",
            Kind::Launch => "launch",
            Kind::Order => "order",
            Kind::Stream => "stream",
            Kind::Copy => "copy",
            Kind::Dependency => "dependency",
        }
    }
}

/// What found a mutant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caught {
    /// Findings: the checks that made them, see [`Finding::detector`](crate::Finding::detector), and the report.
    Findings(Vec<&'static str>, String),
    /// More instructions than a right run takes many times over.
    Hang,
    /// The module, the launch or a copy of the host was refused.
    Refused(String),
    /// The test's own comparison failed.
    WrongResult(String),
    /// The emulator itself panicked: a fault of the tool.
    Crash(String),
}

impl Caught {
    /// The findings of a report, if it has any.
    pub fn from_report(report: &Report) -> Option<Caught> {
        if report.findings.is_empty() {
            return None;
        }
        let mut checks = Vec::new();
        for f in &report.findings {
            if !checks.contains(&f.detector()) {
                checks.push(f.detector());
            }
        }
        Some(Caught::Findings(checks, report.to_text()))
    }

    /// The column of the table: the check that made the first finding, or what else it was.
    pub fn detector(&self) -> String {
        match self {
            Caught::Findings(checks, _) => checks[0].into(),
            Caught::Hang => "hang".into(),
            Caught::Refused(_) => "refused".into(),
            Caught::WrongResult(_) => "wrong result".into(),
            Caught::Crash(_) => "crash".into(),
        }
    }
}

impl fmt::Display for Caught {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Caught::Findings(_, text)
            | Caught::Refused(text)
            | Caught::WrongResult(text)
            | Caught::Crash(text) => f.write_str(text),
            Caught::Hang => f.write_str("more instructions than a right run takes many times over"),
        }
    }
}

impl From<ModuleError> for Caught {
    fn from(e: ModuleError) -> Caught {
        Caught::Refused(e.to_string())
    }
}

impl From<LaunchError> for Caught {
    fn from(e: LaunchError) -> Caught {
        Caught::Refused(e.to_string())
    }
}

impl From<MemoryError> for Caught {
    fn from(e: MemoryError) -> Caught {
        Caught::Refused(e.to_string())
    }
}
