//! The command line of the Selftok runtime: parses, calls the engine, prints.

mod args;
mod complete;
mod decode;
mod encode;
mod failure;
mod inspect;
mod job;
mod output;
mod pictures;
mod progress;
mod recon;
mod run;
mod sample;
mod staging;
mod table;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args::Cli { common, command } = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(failure::report_usage(&error)),
    };
    let done = match command {
        args::Command::Encode(args) => encode::run(&common, args),
        args::Command::Decode(args) => decode::run(&common, args),
        args::Command::Recon(args) => recon::run(&common, args),
        args::Command::Complete(args) => complete::run(&common, args),
        args::Command::Inspect(args) => inspect::run(&common, args),
        args::Command::Run(args) => run::run(&common, args),
        args::Command::Sample(args) => sample::run(&common, args),
    };
    ExitCode::from(match done {
        Ok(()) => failure::DONE,
        Err(error) => failure::report(&error),
    })
}
