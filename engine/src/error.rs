//! What can go wrong between a model's files and its results.

use selftok_kernels_cpu::exec::{BindError, RunError};

/// An error of opening, binding or running.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A model's files cannot be opened, or do not serve the job.
    #[error(transparent)]
    Model(#[from] selftok_loader::Error),
    /// A network cannot be built from its configuration.
    #[error(transparent)]
    Graph(Box<selftok_graph::GraphError>),
    /// A network cannot be compiled.
    #[error(transparent)]
    Compile(Box<selftok_graph::CompileError>),
    /// A picture cannot be read or made.
    #[error(transparent)]
    Picture(#[from] crate::PictureError),
    /// Tokens that are not the model's.
    #[error(transparent)]
    Tokens(#[from] crate::tokens::TokensError),
    /// A solver that does not go with a network, its noise schedule or the number of steps.
    #[error(transparent)]
    Solver(#[from] crate::solvers::SolverError),
    /// Steps or a prefix that are not possible.
    #[error(transparent)]
    Schedule(#[from] crate::schedule::ScheduleError),
    /// Text cannot be generated as asked.
    #[error(transparent)]
    Generate(#[from] crate::generate::GenerateError),
    /// A network that is not supported, or named tensors that are not its.
    #[error(transparent)]
    Network(#[from] crate::networks::NetworkError),
    /// A slice that is not a whole number of items.
    #[error("{what}: {len} numbers are not a whole number of items of {item}")]
    NotWhole {
        /// Which argument.
        what: &'static str,
        /// Its length.
        len: usize,
        /// Numbers of one item.
        item: usize,
    },
    /// A batch size that is not possible.
    #[error("a batch of {batch} pictures: choose between 1 and 4096")]
    Batch {
        /// Asked for.
        batch: usize,
    },
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
        source: Box<BindError>,
    },
    /// A run did not happen, or stopped.
    #[error("plan '{plan}': {source}")]
    Run {
        /// The plan.
        plan: String,
        /// Why.
        #[source]
        source: Box<RunError>,
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

impl From<selftok_graph::GraphError> for Error {
    fn from(error: selftok_graph::GraphError) -> Self {
        Error::Graph(Box::new(error))
    }
}

impl From<selftok_graph::CompileError> for Error {
    fn from(error: selftok_graph::CompileError) -> Self {
        Error::Compile(Box::new(error))
    }
}

impl Error {
    /// Whether the run stopped because its cancel flag was set.
    pub fn is_cancelled(&self) -> bool {
        match self {
            Error::Run { source, .. } => matches!(**source, RunError::Cancelled { .. }),
            Error::Generate(crate::generate::GenerateError::Cancelled) => true,
            _ => false,
        }
    }
}
