//! The program, as a stranger uses it: kernels with the classic bugs and their correct twins, every kind of argument, and
//! every way of being wrong.

mod bugs;
mod compiled;
mod correct;
mod usage;

use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder that is removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ptx-emulator-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> String {
        std::fs::write(self.0.join(name), bytes).unwrap();
        self.path(name)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs the program.
fn program(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ptx-emulator")).args(args).output().unwrap()
}

/// A kernel `k` with a buffer in %rd0 and one in %rd1; %r0 is the thread, %rd2 and %rd3 are their word of each buffer.
fn kernel(declarations: &str, body: &str) -> String {
    format!(
        "\
.version 8.0
.target sm_80
.address_size 64
{declarations}
.visible .entry k(.param .u64 p, .param .u64 q)
{{
    .reg .pred %p<8>;
    .reg .b32 %r<40>;
    .reg .f32 %f<20>;
    .reg .b64 %rd<20>;
    ld.param.u64 %rd0, [p];
    ld.param.u64 %rd1, [q];
    mov.u32 %r0, %tid.x;
    mul.wide.u32 %rd4, %r0, 4;
    add.u64 %rd2, %rd0, %rd4;
    add.u64 %rd3, %rd1, %rd4;
{body}
    ret;
}}
"
    )
}

/// What a run told.
struct Told {
    code: i32,
    report: Value,
    text: String,
    output: Vec<u32>,
}

/// Runs a kernel on 256 words 0, 1, 2 … and 256 zeros, which are read back.
fn run(text: &str, grid: &str, block: &str, order: &str, more: &[&str]) -> Told {
    let folder = Folder::new();
    let file = folder.write("k.ptx", text.as_bytes());
    let words: Vec<u8> = (0..256u32).flat_map(u32::to_le_bytes).collect();
    let (input, zeros) = (folder.write("in.bin", &words), folder.write("zero.bin", &[0; 1024]));
    let (out, report) = (folder.path("out.bin"), folder.path("r.json"));
    let args = [format!("buf:{input}"), format!("buf:{zeros}={out}")];
    let mut all = vec!["run", &file, "--kernel", "k", "--grid", grid, "--block", block, "--order", order];
    all.extend(["--report", &report, "--arg", &args[0], "--arg", &args[1]]);
    all.extend(more);
    let told = program(&all);
    let read = |path: &str| std::fs::read(path).unwrap_or_default();
    Told {
        code: told.status.code().unwrap_or(-1),
        report: serde_json::from_slice(&read(&report)).unwrap_or(Value::Null),
        text: String::from_utf8_lossy(&told.stderr).into_owned(),
        output: read(&out).chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect(),
    }
}

/// The three orders in which each kernel is run.
const ORDERS: [&str; 3] = ["forward", "reverse", "random:5"];
