//! The program's `mutate`, on a sum over shared memory.

use std::process::Command;

const SUM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/sum.ptx");

#[test]
fn every_mutant_of_a_small_kernel_is_found_and_counted() {
    let folder = std::env::temp_dir().join(format!("ptx-mutate-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = |name: &str| folder.join(name).display().to_string();
    let words: Vec<u8> = (0..64u32).flat_map(|k| (k * k + 1).to_le_bytes()).collect();
    std::fs::write(file("in.bin"), &words).unwrap();
    std::fs::write(file("out.bin"), vec![0; 256]).unwrap();
    let run = |more: &[&str]| {
        let (input, output) = (format!("buf:{}", file("in.bin")), format!("buf:{}", file("out.bin")));
        let report = file("report.json");
        let fixed = ["mutate", SUM, "--kernel", "sum", "--grid", "1", "--block", "64", "--report", &report];
        let arguments = [&fixed[..], &["--arg", &input, "--arg", &output], more].concat();
        let out = Command::new(env!("CARGO_BIN_EXE_ptx-emulator")).args(arguments).output().unwrap();
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
        (out.status.code(), String::from_utf8(out.stdout).unwrap(), json)
    };
    let (code, text, json) = run(&[]);
    assert_eq!(code, Some(0), "{text}");
    // The barrier is the race check's, the neighbour by xor the result's, the buffers the bounds' and the freed memory's.
    assert_eq!(json["counts"]["barrier"]["race"], 1, "{text}");
    assert_eq!(json["counts"]["swizzle"]["wrong result"], 1, "{text}");
    assert_eq!(json["counts"]["lifetime"]["freed"], 2, "{text}");
    let of = |id: &str| json["outcomes"].as_array().unwrap().iter().find(|o| o["id"] == id).unwrap().clone();
    assert_eq!(of("sum:size:0")["detector"], "bounds", "{text}");
    // Reading what another thread has not written yet is a race, a read of nothing, and a wrong result.
    let detectors = of("sum:barrier:0")["findings"].clone();
    assert_eq!(detectors, serde_json::json!(["race", "uninitialised", "wrong result"]), "{text}");
    assert!(text.contains("| swizzle | 1 | 0 | 0 | 0 | 1 |"), "{text}");
    let (code, text, json) = run(&["--without", "race", "--without", "uninitialised", "--first"]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(json["counts"]["barrier"]["wrong result"], 1, "{text}");
    assert_eq!(run_usage(SUM), Some(2));
    let nothing = ["mutate", SUM, "--kernel", "sum", "--grid", "1", "--block", "64", "--only", "fence"];
    let buffers = ["--arg", &format!("buf:{}", file("in.bin")), "--arg", &format!("buf:{}", file("out.bin"))];
    let out = Command::new(env!("CARGO_BIN_EXE_ptx-emulator")).args(nothing).args(buffers).output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    std::fs::remove_dir_all(&folder).unwrap();
}

fn run_usage(file: &str) -> Option<i32> {
    let arguments = ["mutate", file, "--kernel", "none", "--grid", "1", "--block", "1"];
    Command::new(env!("CARGO_BIN_EXE_ptx-emulator")).args(arguments).output().unwrap().status.code()
}
