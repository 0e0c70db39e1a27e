//! Kernels as NVRTC 12.9 compiles them for compute_80: the right ones are silent, each wrong one gives its kind.
//!
//! Compilers copy registers that nobody wrote, pass structures with padding, keep arrays in local memory and let lanes read what
//! nobody sent: none of that is a mistake as long as nothing depends on it.

use super::{Folder, ORDERS, program};

const CLEAN: &str = include_str!("compiled/clean.ptx");
const WRONG: &str = include_str!("compiled/wrong.ptx");

/// Runs a kernel on the words 1 to 256 and 256 zeros; its exit code and what it says.
fn run(
    folder: &Folder,
    text: &str,
    kernel: &str,
    grid: &str,
    block: &str,
    order: &str,
) -> (Option<i32>, String) {
    let file = folder.write("k.ptx", text.as_bytes());
    let words: Vec<u8> = (1..=256u32).flat_map(u32::to_le_bytes).collect();
    let input = format!("buf:{}", folder.write("in.bin", &words));
    let output = format!("buf:{}", folder.write("zero.bin", &[0; 1024]));
    let told = program(&[
        "run", &file, "--kernel", kernel, "--grid", grid, "--block", block, "--order", order, "--arg",
        &input, "--arg", &output,
    ]);
    (told.status.code(), String::from_utf8_lossy(&told.stderr).into_owned())
}

fn kernels(text: &str) -> Vec<&str> {
    text.split(".entry ").skip(1).map(|rest| &rest[..rest.find('(').unwrap()]).collect()
}

#[test]
fn what_is_right_is_silent() {
    let folder = Folder::new();
    let all = kernels(CLEAN);
    assert_eq!(all.len(), 24);
    for kernel in all {
        let (grid, block) = match kernel {
            "lastblock" | "early" => ("4", "64"),
            "guard" | "unroll" => ("1", "64"),
            "matchany" | "divergentwarp" => ("1", "32"),
            _ => ("1", "256"),
        };
        for order in ORDERS {
            let (code, text) = run(&folder, CLEAN, kernel, grid, block, order);
            assert_eq!(code, Some(0), "{kernel} {order}: {text}");
        }
    }
}

#[test]
fn what_is_wrong_is_found() {
    let folder = Folder::new();
    let expected = [
        ("locals", "256", "uninitialised: "),
        ("acc", "256", "uninitialised: "),
        ("reduce16", "32", "shuffle: "),
        ("shflhalf", "32", "shuffle: "),
        ("divbar", "32", "barrier: "),
        ("divbar2", "32", "barrier: "),
        ("tree", "256", "race: "),
        ("scan", "256", "race: "),
        ("hist", "256", "race: "),
        ("hist2", "256", "race: "),
        ("global", "256", "race: "),
        ("oob", "256", "bounds: "),
        ("mis", "256", "misaligned: "),
        ("earlysync", "256", "barrier: "),
    ];
    assert_eq!(kernels(WRONG), expected.map(|(kernel, ..)| kernel));
    for (kernel, block, kind) in expected {
        for order in ORDERS {
            let (code, text) = run(&folder, WRONG, kernel, "1", block, order);
            assert_eq!(code, Some(3), "{kernel} {order}: {text}");
            assert!(text.contains(kind), "{kernel} {order}: {text}");
        }
    }
}
