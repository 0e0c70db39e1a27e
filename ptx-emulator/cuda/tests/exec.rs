//! `ptx-emulator exec`: the stand-in put in front of a program that is not changed, and the exit code it ends with.

mod support;

use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;
use std::path::PathBuf;
use std::process::{Command, Output};
use support::{PTX, library, read_report};

/// Set where this test is the program that `exec` runs: how many elements its output has.
const PROGRAM: &str = "PTX_EMULATOR_TEST_PROGRAM";

/// The program `ptx-emulator`, which cargo does not build for this package's tests.
fn exec_binary() -> PathBuf {
    static BUILT: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    BUILT
        .get_or_init(|| {
            let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
            let output = Command::new(cargo)
                .args(["build", "--quiet", "--offline", "-p", "ptx-emulator", "--message-format=json"])
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .output()
                .expect("cargo starts");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let lines = String::from_utf8_lossy(&output.stdout).into_owned();
            let artifacts = lines.lines().filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok());
            let found = artifacts.filter_map(|a| a["executable"].as_str().map(PathBuf::from)).next_back();
            found.expect("the package has a program")
        })
        .clone()
}

fn exec(options: &[&str], elements: &str, program: &[&str]) -> Output {
    let mut command = Command::new(exec_binary());
    command.arg("exec").arg("--library").arg(library()).args(options).arg("--").args(program);
    command.env(PROGRAM, elements).output().expect("the program starts")
}

fn this() -> String {
    std::env::current_exe().expect("a path").to_str().expect("UTF-8").to_owned()
}

/// Not a test of its own: the program that the others run. Without the variable it does nothing.
#[test]
fn program() {
    let Ok(elements) = std::env::var(PROGRAM) else { return };
    let context = CudaContext::new(0).unwrap();
    println!("{}", context.name().unwrap());
    let stream = context.default_stream();
    let f = context.load_module(Ptx::from_src(PTX)).unwrap().load_function("add_one").unwrap();
    let input = stream.clone_htod(&[1u32; 64]).unwrap();
    let mut out = stream.alloc_zeros::<u32>(elements.parse().unwrap()).unwrap();
    let mut launch = stream.launch_builder(&f);
    launch.arg(&mut out).arg(&input).arg(&64u32);
    // SAFETY: the emulator stops what is out of bounds.
    unsafe { launch.launch(LaunchConfig::for_num_elems(64)) }.unwrap();
    let _ = stream.synchronize();
    std::process::exit(if elements == "65" { 9 } else { 0 });
}

#[test]
fn a_clean_program_keeps_its_exit_code_and_runs_on_the_gpu_asked_for() {
    let program = [this(), "program".into(), "--exact".into(), "--nocapture".into()];
    let program: Vec<&str> = program.iter().map(String::as_str).collect();
    let ran = exec(&["--gpu", "h100"], "64", &program);
    assert_eq!(ran.status.code(), Some(0), "{}", String::from_utf8_lossy(&ran.stderr));
    assert!(String::from_utf8_lossy(&ran.stdout).contains("Emulated NVIDIA H100"));
    assert_eq!(exec(&[], "65", &program).status.code(), Some(9));
}

#[test]
fn findings_end_in_exit_code_3_and_are_told() {
    let report = tempfile::NamedTempFile::new().unwrap();
    let (program, path) = (this(), report.path().to_str().unwrap().to_owned());
    let ran = exec(&["--report", &path], "60", &[&program, "program", "--exact", "--nocapture"]);
    assert_eq!(ran.status.code(), Some(3));
    let told = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(told.contains("bounds: add_one line"), "{told}");
    let report = read_report(report.path());
    assert_eq!(report["findings"][0]["kind"], "bounds");
    assert_eq!(report["counters"]["add_one"]["launches"], 1);
}

#[test]
fn wrong_usage_ends_in_exit_code_2() {
    assert_eq!(exec(&[], "64", &["/nowhere/program"]).status.code(), Some(2));
    assert_eq!(exec(&["--bogus"], "64", &["true"]).status.code(), Some(2));
}

/// Mistakes in a program's calls are made one by one. This program looks at no result, so that some are found by no one.
#[test]
fn every_mistake_in_the_calls_of_a_program_is_made_and_told() {
    let report = tempfile::NamedTempFile::new().unwrap();
    let (program, path) = (this(), report.path().to_str().unwrap().to_owned());
    let words = [program.as_str(), "program", "--exact", "--nocapture"];
    let options = ["--mutate", "--name", "p", "--seeds", "1,2", "--report", &path];
    let ran = exec(&options, "64", &words);
    let (told, said) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert_eq!(ran.status.code(), Some(3), "{told}{said}");
    assert!(told.contains("| broken | mutants |") && told.contains("survivor: p:"), "{told}");
    let table = read_report(report.path());
    let outcomes = table["outcomes"].as_array().unwrap();
    let of = |kind: &str| -> Vec<&str> {
        let those = outcomes.iter().filter(|o| o["kind"] == kind);
        those.map(|o| o["detector"].as_str().unwrap()).collect()
    };
    // Two buffers: half of either is out of bounds; freed before a copy, a fill or the launch that uses it.
    assert_eq!(of("size"), ["bounds", "bounds"]);
    assert_eq!(of("lifetime"), ["freed"; 4]);
    assert!(of("argument").contains(&"bounds"), "{:?}", of("argument"));
    assert!(of("launch").contains(&"survivor"), "{:?}", of("launch"));
    // What is explained is no survivor.
    let explained = tempfile::NamedTempFile::new().unwrap();
    let survivors =
        outcomes.iter().filter(|o| o["detector"] == "survivor").map(|o| o["id"].as_str().unwrap());
    let ids: Vec<String> = survivors.map(|id| format!("`{id}`")).collect();
    std::fs::write(explained.path(), format!("- {}: nobody looks at the result.\n", ids.join(" "))).unwrap();
    let text = explained.path().to_str().unwrap();
    let ran = exec(&["--mutate", "--name", "p", "--seeds", "1,2", "--explained", text], "64", &words);
    assert_eq!(ran.status.code(), Some(0), "{}", String::from_utf8_lossy(&ran.stdout));
    let sizes = ["--mutate", "--name", "p", "--seeds", "1", "--only", "p:size", "--all"];
    let ran = exec(&sizes, "64", &words);
    assert_eq!(ran.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&ran.stdout).contains("| detector | finds | alone |"));
}

#[test]
fn a_program_that_is_wrong_unbroken_is_not_mutated() {
    let words = [this(), "program".into(), "--exact".into()];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    for (elements, sentence) in [("65", "exit status: 9"), ("60", "1 findings")] {
        let ran = exec(&["--mutate", "--name", "p"], elements, &words);
        assert_eq!(ran.status.code(), Some(2));
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(said.contains("with nothing broken, p ends with") && said.contains(sentence), "{said}");
    }
    assert_eq!(exec(&["--seeds", "1"], "64", &["true"]).status.code(), Some(2), "--seeds is of --mutate");
}
