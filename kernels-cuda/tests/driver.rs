//! The kernels launched by an ordinary program through cudarc: on the stand-in libcuda under what a GPU leaves open, and on a
//! GPU where there is one.
//!
//! The program is this crate's own `prove`, which knows nothing of the emulator: it takes limits from the driver, asks the launch
//! rules, allocates, copies on one stream, computes on another, and judges results against f64. In emulation its order is judged too.

mod stand_in;

use std::ffi::OsStr;
use std::process::{Command, ExitStatus};
use std::thread;

use ptx_emulator::stand_in::StandIn;
use selftok_kernels_cuda::device::{DeviceError, Kernels};
use selftok_kernels_cuda::{Float, GpuLimits, MODELLED_GPUS, gemm, layer_norm};

const GPUS: [&str; 4] = ["a100", "rtx4090", "h100", "rtx5090"];

/// What a GPU leaves open: the order of warps, the error of approximate instructions, how tensor cores sum.
const OPEN: [[&str; 3]; 3] = [
    ["forward", "below", "sequential"],
    ["reverse", "above", "truncating"],
    ["random:5", "random:11", "pairwise"],
];

const PROGRAM: &str = env!("CARGO_BIN_EXE_selftok-kernels-cuda");

fn prove() -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("prove");
    command
}

/// What the program left behind on the stand-in.
struct Ran {
    status: ExitStatus,
    text: String,
    report: serde_json::Value,
}

fn emulated(words: &[&str], variables: &[(&str, &str)]) -> Ran {
    let stand_in = StandIn::new(&stand_in::library()).unwrap();
    let mut command = stand_in.command(OsStr::new(PROGRAM));
    let output = command.arg("prove").args(words).envs(variables.iter().copied()).output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    Ran { status: output.status, text, report: stand_in.report() }
}

/// Proves every kernel on an emulated GPU; the seed says which stream moves when.
fn proved(gpu: &str, [order, approximation, accumulation]: [&str; 3], seed: usize) {
    let seed = seed.to_string();
    let ran = emulated(
        &[],
        &[
            ("PTX_EMULATOR_GPU", gpu),
            ("PTX_EMULATOR_ORDER", order),
            ("PTX_EMULATOR_APPROX", approximation),
            ("PTX_EMULATOR_ACCUMULATION", accumulation),
            ("PTX_EMULATOR_SEED", &seed),
        ],
    );
    let place = format!("{gpu} {order} {approximation} {accumulation} seed {seed}");
    assert_eq!(ran.status.code(), Some(0), "{place}\n{}\n{:#}", ran.text, ran.report);
    assert_eq!(
        ran.report["findings"].as_array().map(Vec::len),
        Some(0),
        "{place}: {:#}",
        ran.report["findings"]
    );
    assert_eq!(ran.report["notes"].as_array().map(Vec::len), Some(0), "{place}: {:#}", ran.report["notes"]);
    for entry in
        ["attention_d32_q64", "attention_d128_q64", "codebook_partial_c64", "gemm_bf16_bf16_128x128x32"]
    {
        assert!(ran.report["counters"].get(entry).is_some(), "{place}: {entry} was not launched");
    }
}

#[test]
fn every_kernel_is_right_on_every_modelled_gpu() {
    thread::scope(|scope| {
        for half in 0..2 {
            scope.spawn(move || {
                for k in (half..4).step_by(2) {
                    proved(GPUS[k], OPEN[k % 3], k);
                }
            });
        }
    });
}

#[test]
#[ignore = "runs for two minutes: every GPU under every order of warps and every error of approximate instructions"]
fn every_kernel_is_right_whatever_a_gpu_leaves_open() {
    let all: Vec<_> =
        (0..36).map(|k| (GPUS[k % 4], [OPEN[k / 4 % 3][0], OPEN[k / 12][1], OPEN[k % 3][2]], k)).collect();
    thread::scope(|scope| {
        for half in 0..2 {
            let all = &all;
            scope.spawn(move || {
                all.iter().skip(half).step_by(2).for_each(|&(gpu, open, seed)| proved(gpu, open, seed))
            });
        }
    });
}

#[test]
fn on_a_gpu_the_same_program_proves_the_same() {
    if !selftok_kernels_cuda::device::driver_present() {
        eprintln!("SKIPPED: there is no CUDA driver here, so no kernel was run on a GPU");
        let ran = prove().output().unwrap();
        assert_eq!(ran.status.code(), Some(4), "{ran:?}");
        assert!(String::from_utf8_lossy(&ran.stderr).contains("libcuda.so.1 is not on the library path"));
        return;
    }
    let ran = prove().output().unwrap();
    let text = String::from_utf8_lossy(&ran.stdout);
    print!("{text}");
    assert!(ran.status.success(), "{text}{}", String::from_utf8_lossy(&ran.stderr));
}

#[test]
fn wrong_usage_is_told() {
    for words in [&["gelu"][..], &["--size"], &["--size", "huge"], &["--repeat", "0"], &["--device", "-1"]] {
        let ran = prove().args(words).output().unwrap();
        assert_eq!(ran.status.code(), Some(2), "{words:?}");
        assert!(String::from_utf8_lossy(&ran.stderr).starts_with("usage:"));
    }
}

#[test]
fn a_device_that_is_not_there_is_an_error() {
    let ran = emulated(&["--device", "3"], &[]);
    assert_eq!(ran.status.code(), Some(1), "{}", ran.text);
    assert!(ran.text.contains("CUDA_ERROR_INVALID_DEVICE"), "{}", ran.text);
}

/// Set in a child that runs a test's body on the stand-in.
const CHILD: &str = "SELFTOK_DRIVER_TEST_CHILD";

/// In the parent, runs this test again as a child on an emulated GPU, and gives true when that went well; in the child, false.
fn in_parent(name: &str, gpu: &str) -> bool {
    if std::env::var_os(CHILD).is_some() {
        return false;
    }
    let stand_in = StandIn::new(&stand_in::library()).unwrap();
    let mut command = stand_in.command(std::env::current_exe().unwrap().as_os_str());
    command.args([name, "--exact", "--nocapture"]).env(CHILD, gpu).env("PTX_EMULATOR_GPU", gpu);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{gpu}: {}", String::from_utf8_lossy(&output.stderr));
    // A launch that is refused for its shape is a finding as well; nothing else is to be found.
    let report = stand_in.report();
    let findings = report["findings"].as_array().unwrap();
    assert!(findings.iter().all(|f| f["kind"] == "resource"), "{report:#}");
    true
}

#[test]
fn the_limits_that_a_driver_gives_are_those_that_the_rules_are_tested_with() {
    let name = "the_limits_that_a_driver_gives_are_those_that_the_rules_are_tested_with";
    if GPUS.iter().fold(false, |_, gpu| in_parent(name, gpu)) {
        return;
    }
    let asked = std::env::var(CHILD).unwrap();
    let plain = |name: &str| name.to_lowercase().replace(' ', "");
    let known = MODELLED_GPUS.into_iter().find(|gpu| plain(gpu.name) == asked).expect("a modelled GPU");
    let kernels = Kernels::open(0).unwrap();
    let found = kernels.limits();
    let bandwidth = found.memory_bandwidth / known.memory_bandwidth;
    assert!((bandwidth - 1.0).abs() < 0.01, "{bandwidth}");
    let same = GpuLimits { name: known.name, memory_bandwidth: known.memory_bandwidth, ..found.clone() };
    assert_eq!(&same, known);
    assert!(kernels.name().starts_with("Emulated"));
}

#[test]
fn what_cannot_be_launched_is_told_in_a_sentence() {
    if in_parent("what_cannot_be_launched_is_told_in_a_sentence", "a100") {
        return;
    }
    let kernels = Kernels::open(0).unwrap();
    let unknown = kernels.function("gemm_bf16_f32_1x1x1").unwrap_err();
    assert_eq!(unknown.to_string(), "there is no kernel 'gemm_bf16_f32_1x1x1'");
    let stream = kernels.context().new_stream().unwrap();
    let nothing = layer_norm::Arguments {
        x: 0,
        y: 0,
        weight: 0,
        bias: 0,
        scale: 0,
        shift: 0,
        rows: 0,
        cols: 8,
        x_stride: 8,
        y_stride: 8,
        modulation_div: 1,
        modulation_rows: 1,
        modulation_stride: 8,
        eps: 1e-6,
        rms: 0,
    };
    // SAFETY: refused before anything is launched.
    let error = unsafe { kernels.layer_norm(&stream, &SMALL, &nothing) }.unwrap_err();
    assert!(matches!(error, DeviceError::Shape(_)), "{error:?}");
    assert_eq!(error.to_string(), "layer_norm: rows is 0; a launch needs at least one");
    // The arguments of another family never come to the driver.
    let shape = gemm::Shape { m: 64, n: 64, k: 64, lda: 64, ldw: 64, output: Float::F32 };
    let mut launch = gemm::launch(&shape, kernels.limits()).unwrap();
    // SAFETY: likewise.
    let error = unsafe { kernels.launch(&stream, &launch, &nothing) }.unwrap_err();
    assert_eq!(
        error.to_string(),
        "gemm_bf16_f32_64x64x32 was given the arguments of the kernels layer_norm_*"
    );
    // More threads than a block can have are the driver's to refuse; the error names the kernel.
    launch = layer_norm::launch(&layer_norm::Shape { rows: 1, ..SMALL }).unwrap();
    launch.block = [2048, 1, 1];
    // SAFETY: likewise; no block runs.
    let error = unsafe { kernels.launch(&stream, &launch, &nothing) }.unwrap_err().to_string();
    assert!(
        error.starts_with("layer_norm_f32_f32_warp: ") && error.contains("CUDA_ERROR_INVALID_VALUE"),
        "{error}"
    );
}

const SMALL: layer_norm::Shape =
    layer_norm::Shape { rows: 0, cols: 8, input: Float::F32, output: Float::F32 };
