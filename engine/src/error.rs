//! What can go wrong between a plan and its results.

use selftok_kernels_cpu::exec::{BindError, RunError};

/// An error of binding or running.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system does not give the threads.
    #[error("cannot start {threads} threads (0: as many as the machine has)")]
    Threads {
        /// Asked for.
        threads: usize,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A plan does not fit the device or the weights.
    #[error("plan '{plan}': {source}")]
    Bind {
        /// The plan.
        plan: String,
        /// Why.
        #[source]
        source: BindError,
    },
    /// A run did not happen, or stopped.
    #[error("plan '{plan}': {source}")]
    Run {
        /// The plan.
        plan: String,
        /// Why.
        #[source]
        source: RunError,
    },
    /// A name that the plan does not have.
    #[error("plan '{plan}' has no {kind} '{name}': expected one of {known:?}")]
    NoName {
        /// The plan.
        plan: String,
        /// `entry`, `input`, `output` or `slot`.
        kind: &'static str,
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The plan has several entries, so one must be named.
    #[error("plan '{plan}' has the entries {entries:?}: name one")]
    WhichEntry {
        /// The plan.
        plan: String,
        /// Its entries.
        entries: Vec<String>,
    },
    /// A handle that another executable gave, or a port that this entry does not have.
    #[error("plan '{plan}': entry '{entry}' has no {kind} '{name}'")]
    NotInEntry {
        /// The plan.
        plan: String,
        /// The entry.
        entry: String,
        /// `input` or `output`.
        kind: &'static str,
        /// The port.
        name: String,
    },
    /// A handle or slot table of another executable.
    #[error("plan '{plan}': a {kind} of another executable")]
    Foreign {
        /// The plan.
        plan: String,
        /// `entry`, `input`, `output`, `slot` or `slot table`.
        kind: &'static str,
    },
}

impl Error {
    /// Whether the run stopped because its cancel flag was set.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Error::Run { source: RunError::Cancelled { .. }, .. })
    }
}
