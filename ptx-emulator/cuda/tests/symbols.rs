//! Every entry point that cudarc may look up for CUDA 12.2 or 12.9 is there, and none of them falls over when all of its
//! arguments are zero: before `cuInit`, with a context, and after an error.

mod support;

use std::path::Path;
use std::process::Command;
use support::run;

/// The names that cudarc declares for its features `cuda-12020` and `cuda-12090`.
fn names() -> Vec<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--offline", "--manifest-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .output()
        .expect("cargo starts");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("metadata is JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let cudarc = packages.iter().find(|p| p["name"] == "cudarc").expect("cudarc is a dependency");
    let manifest = Path::new(cudarc["manifest_path"].as_str().expect("a path"));
    let path = manifest.parent().expect("a folder").join("src/driver/sys/mod.rs");
    let text = std::fs::read_to_string(path).expect("cudarc's bindings");
    let lines: Vec<&str> = text.lines().collect();
    let declared = lines.windows(2).filter_map(|pair| {
        let name = pair[1].strip_prefix("pub unsafe fn cu")?.split('(').next()?;
        let versions = ["\"cuda-12020\"", "\"cuda-12090\""];
        let wanted = !pair[0].starts_with("#[cfg") || versions.iter().any(|v| pair[0].contains(v));
        (wanted && name != "lib").then(|| format!("cu{name}"))
    });
    declared.collect()
}

type AnyCall =
    extern "C" fn(usize, usize, usize, usize, usize, usize, usize, usize, usize, usize, usize, usize) -> u32;

/// Calls every entry point with zeros; gives how often each result came.
fn call_all(library: &libloading::Library, names: &[String]) -> std::collections::BTreeMap<u32, usize> {
    let mut results = std::collections::BTreeMap::new();
    for name in names {
        // SAFETY: the C calling convention lets a function be given more arguments than it takes, and zero is a
        // value that each must refuse or accept without following it.
        let call = unsafe { library.get::<AnyCall>(name.as_bytes()) };
        let call = call.unwrap_or_else(|e| panic!("{name} is not exported: {e}"));
        *results.entry(call(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)).or_insert(0) += 1;
    }
    results
}

#[test]
fn every_entry_point_is_there_and_survives_zeros() {
    let names = names();
    assert!(names.len() > 440, "cudarc declares {} entry points", names.len());
    let ran = run("every_entry_point_is_there_and_survives_zeros", &[], move || {
        // SAFETY: the stand-in runs no code when it is loaded.
        let library = unsafe { libloading::Library::new("libcuda.so.1") }.expect("the stand-in");
        let (init, rest): (Vec<String>, Vec<String>) = names.into_iter().partition(|name| name == "cuInit");
        let before = call_all(&library, &rest);
        assert!(before[&3] > 380, "nearly all say CUDA_ERROR_NOT_INITIALIZED: {before:?}");
        call_all(&library, &init);
        let without = call_all(&library, &rest);
        assert!(!without.contains_key(&999), "a panic: {without:?}");
        let create = ["cuDevicePrimaryCtxRetain".to_owned()];
        call_all(&library, &create);
        let mut context = 0usize;
        // SAFETY: the signatures of these two entry points.
        unsafe {
            let retain: libloading::Symbol<extern "C" fn(*mut usize, i32) -> u32> =
                library.get(b"cuDevicePrimaryCtxRetain").unwrap();
            assert_eq!(retain(&mut context, 0), 0);
            let set: libloading::Symbol<extern "C" fn(usize) -> u32> =
                library.get(b"cuCtxSetCurrent").unwrap();
            assert_eq!(set(context), 0);
        }
        let with = call_all(&library, &rest);
        assert!(!with.contains_key(&999), "a panic: {with:?}");
        assert!(with[&801] > 150 && with[&1] > 50, "{with:?}");
        // Nothing must keep the library from being used again.
        assert_eq!(call_all(&library, &init), [(0, 1)].into());
    });
    assert!(!String::from_utf8_lossy(&ran.output.stderr).contains("panicked"), "{:?}", ran.output);
}
