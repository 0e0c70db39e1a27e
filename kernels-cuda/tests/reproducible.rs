//! The PTX that is checked in is what the sources give, byte for byte; and the tool says so when it could not look.

use std::process::Command;

fn tool() -> Command {
    Command::new(env!("CARGO_BIN_EXE_selftok-kernels-cuda"))
}

#[test]
#[ignore = "compiles every kernel and assembles it for five architectures: 12 s of one core"]
fn the_ptx_is_what_the_sources_give() {
    let output = tool().arg("check").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    // Seen with `--nocapture`, and in the log of a run that fails: whether this test compared anything.
    eprint!("{said}");
    assert!(output.status.success(), "{said}");
    let compared = String::from_utf8_lossy(&output.stdout).contains("no spills");
    assert!(compared || said.contains("SKIPPED"), "neither compared nor skipped: {said}");
}

#[test]
fn a_missing_toolchain_is_said_aloud_and_an_error_where_it_is_required() {
    let run = |words: &[&str]| tool().args(words).env("SELFTOK_CUDA_TOOLCHAIN", "/nowhere").output().unwrap();
    let skipped = run(&["check"]);
    assert!(skipped.status.success());
    assert!(String::from_utf8_lossy(&skipped.stderr).contains("SKIPPED: the PTX was NOT compared"));
    let required = run(&["check", "--require"]);
    assert_eq!(required.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&required.stderr).contains("/nowhere/nvidia"));
}

#[test]
fn unknown_commands_are_usage_errors() {
    for words in [&[][..], &["chekc"], &["check", "--requier"], &["build", "now"]] {
        let output = tool().args(words).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(String::from_utf8_lossy(&output.stderr).starts_with("usage:"));
    }
}
