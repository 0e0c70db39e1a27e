//! Compiles the kernels to PTX, checks that what is checked in is what the sources give, and reports what they cost.
//!
//! Fetches nothing. It looks for the pinned wheels that `toolchain/install.sh` installs, in `SELFTOK_CUDA_TOOLCHAIN` or
//! beside that script, and without them says aloud what was not checked.

#[cfg(feature = "cudarc")]
mod prove;
mod tool;

use std::process::ExitCode;

const USAGE: &str = "\
usage: selftok-kernels-cuda build | check [--require] | report | prove ...

  build    compile every kernel.cu and write kernels-ptx/generated
  check    compile again, compare bytes with what is checked in, assemble for every architecture, apply the gates
  report   what each kernel costs on each GPU: registers, shared memory, occupancy, modelled bounds of the main loop
  prove    run the kernels on the GPU that is there and judge them against f64 (built with --features cudarc)

exit code: 0 done, or skipped for want of a toolchain; 1 a difference or a failed gate; 2 usage; 3 skipped, with --require
environment: SELFTOK_CUDA_TOOLCHAIN  the folder that toolchain/install.sh filled";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (command, require) = match words[..] {
        ["prove", ref words @ ..] => return prove(words),
        ["build"] => (tool::Command::Build, true),
        ["check"] => (tool::Command::Check, false),
        ["check", "--require"] => (tool::Command::Check, true),
        ["report"] => (tool::Command::Report, true),
        ["--help" | "-h"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match tool::run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(tool::Error::NoToolchain { .. }) if !require => {
            eprintln!("SKIPPED: the PTX was NOT compared with its sources: no CUDA toolchain found.");
            eprintln!(
                "To check it, run kernels-cuda/toolchain/install.sh first; --require makes this an error."
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(if matches!(error, tool::Error::NoToolchain { .. }) { 3 } else { 1 })
        }
    }
}

#[cfg(feature = "cudarc")]
fn prove(words: &[&str]) -> ExitCode {
    prove::run(words)
}

#[cfg(not(feature = "cudarc"))]
fn prove(_words: &[&str]) -> ExitCode {
    eprintln!("error: this program was built without the CUDA driver's bindings: --features cudarc");
    ExitCode::from(2)
}
