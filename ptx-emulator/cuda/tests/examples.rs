//! cudarc's own published examples, built unchanged from the crate as cargo fetched it, run on the stand-in.
//!
//! | example | here |
//! | --- | --- |
//! | 01-allocate, 02-copy, 03-launch-kernel, 04-streams, 10-function-attributes, 12-context-config | run |
//! | 13-copy-multi-gpu | runs on two devices |
//! | 05-device-repr, 06-threading, 09-constant-memory, matmul-kernel, nvrtc-compile | need NVRTC: run where it is installed |
//! | 08-cupti, cufile-copy | need CUPTI, cuFile |

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use support::{Ran, stand_in};

/// The examples that need libcuda alone, with the variables they need.
const PLAIN: &[&str] = &[
    "01-allocate",
    "02-copy",
    "03-launch-kernel",
    "04-streams",
    "10-function-attributes",
    "12-context-config",
];

/// Those that need NVRTC as well.
const WITH_NVRTC: &[&str] =
    &["05-device-repr", "06-threading", "09-constant-memory", "matmul-kernel", "nvrtc-compile"];

/// Where cargo unpacked cudarc.
fn source() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--offline", "--manifest-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .output()
        .expect("cargo starts");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("metadata is JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let cudarc = packages.iter().find(|p| p["name"] == "cudarc").expect("cudarc is a dependency");
    PathBuf::from(cudarc["manifest_path"].as_str().expect("a path")).parent().expect("a folder").to_owned()
}

/// A package whose binaries are the examples where they lie; built once.
fn built() -> &'static PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let source = source();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cudarc-examples");
        std::fs::create_dir_all(folder.join("src")).expect("a folder");
        let mut manifest = String::from(
            "[package]\nname = \"examples\"\nversion = \"0.0.0\"\nedition = \"2021\"\n\n[workspace]\n\n[dependencies]\n\
             cudarc = { version = \"=0.19.10\", default-features = false, features = [\"std\", \"driver\", \"nvrtc\", \
             \"dynamic-loading\", \"cuda-12020\"] }\n",
        );
        for name in PLAIN.iter().chain(WITH_NVRTC).chain(&["13-copy-multi-gpu"]) {
            let path = source.join("examples").join(format!("{name}.rs"));
            assert!(path.exists(), "{} is not part of the crate", path.display());
            manifest += &format!("\n[[bin]]\nname = \"{name}\"\npath = {path:?}\n");
        }
        std::fs::write(folder.join("Cargo.toml"), manifest).expect("the manifest");
        let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.lock");
        std::fs::copy(lock, folder.join("Cargo.lock")).expect("the lock file, so that nothing newer is looked for");
        let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
        let output = Command::new(cargo)
            .args(["build", "--offline", "--quiet", "-j2"])
            .current_dir(&folder)
            .env_remove("CARGO_TARGET_DIR")
            .output()
            .expect("cargo starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        folder
    })
}

/// Runs an example in cudarc's folder, as its authors do.
fn run(name: &str, devices: &str) -> Ran {
    let stand_in = stand_in();
    let mut command = stand_in.command(built().join("target/debug").join(name).as_os_str());
    if let Some(more) = nvrtc_folder() {
        let mut path = stand_in.folder().as_os_str().to_owned();
        path.push(":");
        path.push(more);
        command.env("LD_LIBRARY_PATH", path);
    }
    let output = command.current_dir(source()).env("PTX_EMULATOR_DEVICES", devices).output();
    let ran = Ran { output: output.expect("the example starts"), report: stand_in.report() };
    assert!(
        ran.output.status.success(),
        "{name}: {}\n{}\n{}",
        String::from_utf8_lossy(&ran.output.stdout),
        String::from_utf8_lossy(&ran.output.stderr),
        ran.notes()
    );
    ran
}

/// The folder of NVRTC, from the project's toolchain or from an installed wheel.
fn nvrtc_folder() -> Option<PathBuf> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            let library = |folder: &Path| folder.join("libnvrtc.so.12").exists();
            let toolchain = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../../kernels-cuda/toolchain/wheels/nvidia/cuda_nvrtc/lib");
            if library(&toolchain) {
                return Some(toolchain);
            }
            let find = "import nvidia.cuda_nvrtc as m; print(list(m.__path__)[0])";
            let output = Command::new("python3").args(["-c", find]).output().ok()?;
            let folder = Path::new(String::from_utf8(output.stdout).ok()?.trim()).join("lib");
            library(&folder).then_some(folder)
        })
        .clone()
}

#[test]
fn examples_that_need_libcuda_alone_run_clean() {
    for name in PLAIN {
        let ran = run(name, "1");
        assert_eq!(ran.findings(), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn the_sine_example_computes_sines() {
    let text = String::from_utf8(run("03-launch-kernel", "1").output.stdout).unwrap();
    let numbers = |line: &str| -> Vec<f32> {
        let list = line.split(['[', ']']).nth(1).expect("a list");
        list.split(',').map(|n| n.trim().parse().expect("a number")).collect()
    };
    let (found, expected) = (numbers(text.lines().next().unwrap()), numbers(text.lines().nth(1).unwrap()));
    for (f, e) in found.iter().zip(&expected) {
        assert!((f - e).abs() <= 1e-6, "{text}");
    }
}

/// cudarc submits the copy between the devices to the default stream of the *source's* context: the event that it records
/// there is dropped at the end of the statement before the copy, dropping it makes that context the current one, and stream 0 is
/// the current context's. So the copy is in another stream than the memory it writes and the download after it. That is no race: the
/// programming guide promises that a copy between two devices in a default stream waits for, and is waited for by, all that either
/// device is given. (For the same reason its frees go to the context that happens to be current; what the last of them
/// finds is a destroyed context, which the report notes.)
#[test]
fn the_multi_gpu_example_runs_clean() {
    let ran = run("13-copy-multi-gpu", "2");
    assert_eq!(ran.findings(), Vec::<String>::new());
}

#[test]
fn examples_that_need_nvrtc_run_where_it_is_installed() {
    if nvrtc_folder().is_none() {
        eprintln!(
            "SKIPPED: NVRTC is not installed (nvidia-cuda-nvrtc-cu12), so these do not run: {WITH_NVRTC:?}"
        );
        return;
    }
    for name in WITH_NVRTC {
        let ran = run(name, "1");
        assert_eq!(ran.findings(), Vec::<String>::new(), "{name}");
        if *name == "06-threading" {
            // 21 launches of 1024 threads, each of which prints.
            let said =
                String::from_utf8_lossy(&ran.output.stdout).matches("Hello from the cuda kernel").count();
            assert!(said >= 20 * 1024, "{said}");
        }
    }
}
