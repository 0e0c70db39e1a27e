//! The program's `mutate`, on a sum over shared memory.

use std::process::Command;

const SUM: &str = ".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 p, .param .u64 q) {\n\
.reg .b32 %r<9>;\n.reg .b64 %rd<6>;\n.reg .pred %p<2>;\n.shared .align 4 .b8 s[256];\n\
ld.param.u64 %rd0, [p];\nld.param.u64 %rd1, [q];\nmov.u32 %r0, %tid.x;\nmul.wide.u32 %rd2, %r0, 4;\nadd.s64 %rd3, %rd0, %rd2;\n\
ld.global.u32 %r1, [%rd3];\nmov.u32 %r2, s;\nshl.b32 %r3, %r0, 2;\nadd.u32 %r4, %r2, %r3;\nst.shared.u32 [%r4], %r1;\nbar.sync 0;\n\
xor.b32 %r5, %r3, 128;\nadd.u32 %r6, %r2, %r5;\nld.shared.u32 %r7, [%r6];\nadd.u32 %r7, %r7, %r1;\nadd.s64 %rd4, %rd1, %rd2;\n\
st.global.u32 [%rd4], %r7;\nret;\n}\n";

#[test]
fn every_mutant_of_a_small_kernel_is_found_and_counted() {
    let folder = std::env::temp_dir().join(format!("ptx-mutate-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = |name: &str| folder.join(name).display().to_string();
    std::fs::write(file("sum.ptx"), SUM).unwrap();
    let words: Vec<u8> = (0..64u32).flat_map(|k| (k * k + 1).to_le_bytes()).collect();
    std::fs::write(file("in.bin"), &words).unwrap();
    std::fs::write(file("out.bin"), vec![0; 256]).unwrap();
    let run = |more: &[&str]| {
        let (input, output) = (format!("buf:{}", file("in.bin")), format!("buf:{}", file("out.bin")));
        let report = file("report.json");
        let fixed = [
            "mutate",
            &file("sum.ptx"),
            "--kernel",
            "k",
            "--grid",
            "1",
            "--block",
            "64",
            "--report",
            &report,
        ];
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
    assert_eq!(of("k:size:0")["detector"], "bounds", "{text}");
    // Reading what another thread has not written yet is a race, a read of nothing, and a wrong result.
    let detectors = of("k:barrier:0")["findings"].clone();
    assert_eq!(detectors, serde_json::json!(["race", "uninitialised", "wrong result"]), "{text}");
    assert!(text.contains("| swizzle | 1 | 0 | 0 | 0 | 1 |"), "{text}");
    let (code, text, json) = run(&["--without", "race", "--without", "uninitialised", "--first"]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(json["counts"]["barrier"]["wrong result"], 1, "{text}");
    assert_eq!(run_usage(&file("sum.ptx")), Some(2));
    std::fs::remove_dir_all(&folder).unwrap();
}

fn run_usage(file: &str) -> Option<i32> {
    let arguments = ["mutate", file, "--kernel", "none", "--grid", "1", "--block", "1"];
    Command::new(env!("CARGO_BIN_EXE_ptx-emulator")).args(arguments).output().unwrap().status.code()
}
