//! The commands, and what can go wrong with them.

mod build;
mod nvrtc;
mod ptxas;
mod report;
mod sass;
mod toolchain;

use std::path::PathBuf;

/// What the tool is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Compile and write.
    Build,
    /// Compile and compare.
    Check,
    /// Print what kernels cost.
    Report,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The wheels are not where they are looked for.
    #[error("no CUDA toolchain: {missing} does not exist; run kernels-cuda/toolchain/install.sh")]
    NoToolchain {
        /// The first file that is missing.
        missing: PathBuf,
    },
    /// libnvrtc does not load, or lacks a function.
    #[error("{path}: {source}")]
    Library {
        /// The library.
        path: PathBuf,
        /// What the loader says.
        source: libloading::Error,
    },
    /// NVRTC refuses a kernel.
    #[error("{name}: NVRTC gave error {code}\n{log}")]
    Compile {
        /// The source file.
        name: String,
        /// The `nvrtcResult`.
        code: i32,
        /// The compiler's messages.
        log: String,
    },
    /// ptxas refuses a module.
    #[error("{name}: ptxas for {architecture} failed\n{log}")]
    Assemble {
        /// The PTX file.
        name: String,
        /// The architecture.
        architecture: String,
        /// The assembler's messages.
        log: String,
    },
    /// The compiler wrote something that the tool does not expect.
    #[error("{name}: {message}")]
    Unexpected {
        /// The file.
        name: String,
        /// What is odd.
        message: String,
    },
    /// Checked-in files that differ from what the sources give, and gates that fail.
    #[error("{}", .0.join("\n"))]
    Failed(Vec<String>),
    /// A file or process.
    #[error("{path}: {source}")]
    Io {
        /// The file or program.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

impl Error {
    fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// Runs one command.
pub fn run(command: Command) -> Result<(), Error> {
    let toolchain = toolchain::Toolchain::find()?;
    match command {
        Command::Build => build::build(&toolchain),
        Command::Check => build::check(&toolchain),
        Command::Report => report::report(&toolchain),
    }
}
