//! How a command ends: its exit code, and the one sentence that says why it failed.

use std::io::{self, Write};

/// Done.
pub const DONE: u8 = 0;
/// Failed; the sentence on stderr says why.
pub const FAILED: u8 = 1;
/// Wrong usage, as the argument parser has it too.
pub const USAGE: u8 = 2;
/// Interrupted by a signal, as shells have it for SIGINT.
pub const INTERRUPTED: u8 = 130;

/// The user pressed Ctrl-C.
#[derive(Debug)]
pub struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted; nothing was written")
    }
}

impl std::error::Error for Interrupted {}

/// Arguments that parse but do not go together.
#[derive(Debug)]
pub struct Usage(pub String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Says on stderr why a command failed, and gives the exit code.
pub fn report(error: &anyhow::Error) -> u8 {
    let (code, label) = if interrupted(error) {
        (INTERRUPTED, "")
    } else if error.is::<Usage>() {
        (USAGE, "error: ")
    } else if reader_left(error) {
        // `selftok … | head`: the reader has what it wanted.
        return DONE;
    } else {
        (FAILED, "error: ")
    };
    let message = if code == INTERRUPTED { Interrupted.to_string() } else { sentence(error) };
    // Nobody is left to tell if stderr is closed.
    let _ = writeln!(io::stderr(), "selftok: {label}{message}");
    code
}

/// Prints the help that was asked for, or says on stderr what is wrong with the arguments; gives the exit code.
pub fn report_usage(error: &clap::Error) -> u8 {
    if error.use_stderr() {
        let _ = write!(io::stderr(), "selftok: {error}");
        USAGE
    } else {
        // A closed stdout is a reader that left.
        let _ = error.print();
        DONE
    }
}

fn interrupted(error: &anyhow::Error) -> bool {
    error.is::<Interrupted>()
        || error.downcast_ref::<selftok::Error>().is_some_and(selftok::Error::is_cancelled)
}

fn reader_left(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|e| e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe))
}

/// The chain of causes as one sentence. Many errors have their cause in their text already; it is not said twice.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    fn disk() -> io::Error {
        io::Error::other("the disk burns")
    }

    #[test]
    fn a_cause_is_said_once() {
        let error = Err::<(), _>(disk()).context("a.png").unwrap_err();
        assert_eq!(sentence(&error), "a.png: the disk burns");
        let error = Err::<(), _>(disk()).context("a.png: the disk burns today").unwrap_err();
        assert_eq!(sentence(&error), "a.png: the disk burns today");
    }

    #[test]
    fn each_kind_of_end_has_its_code() {
        assert_eq!(report(&disk().into()), FAILED);
        assert_eq!(report(&Usage("no".into()).into()), USAGE);
        assert_eq!(report(&Interrupted.into()), INTERRUPTED);
        assert_eq!(report(&io::Error::from(io::ErrorKind::BrokenPipe).into()), DONE);
    }
}
