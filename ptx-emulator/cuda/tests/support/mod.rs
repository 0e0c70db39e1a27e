//! Runs a test's body in a child process in which the stand-in is `libcuda.so.1`, and reads the report it leaves.

#![allow(dead_code)]

use ptx_emulator::stand_in::StandIn;
use std::path::{Path, PathBuf};
use std::process::Output;

/// Set in the child: the name of the test whose body it runs.
const CHILD: &str = "PTX_EMULATOR_TEST_CHILD";

/// The stand-in as cargo built it for these tests: beside the test binary.
pub fn library() -> PathBuf {
    let exe = std::env::current_exe().expect("the path of the test");
    let deps = exe.parent().expect("a folder");
    let name = "libptx_emulator_cuda.so";
    [deps.join(name), deps.join("..").join(name)]
        .into_iter()
        .find(|path| path.exists())
        .expect("cargo builds the stand-in before its tests")
}

/// A folder in which the stand-in has the names that loaders look for.
pub fn stand_in() -> StandIn {
    StandIn::new(&library()).expect("a folder with links")
}

/// What a child left behind.
pub struct Ran {
    /// Exit status and output.
    pub output: Output,
    /// The report.
    pub report: serde_json::Value,
}

impl Ran {
    /// The kinds of the findings, each with kernel and message.
    pub fn findings(&self) -> Vec<String> {
        let text = |v: &serde_json::Value| v.as_str().unwrap_or("?").to_owned();
        let list = self.report["findings"].as_array().cloned().unwrap_or_default();
        list.iter()
            .map(|f| format!("{}: {}: {}", text(&f["kind"]), text(&f["kernel"]), text(&f["message"])))
            .collect()
    }

    /// All notes as one text.
    pub fn notes(&self) -> String {
        self.report["notes"].to_string()
    }

    /// Fails unless nothing was found.
    pub fn clean(&self) -> &Ran {
        assert_eq!(self.findings(), Vec::<String>::new());
        self
    }

    /// Fails unless something of this kind was found; gives it.
    pub fn found(&self, kind: &str) -> String {
        let found = self.findings().into_iter().find(|f| f.starts_with(kind));
        found.unwrap_or_else(|| panic!("no '{kind}' in {:?}", self.findings()))
    }
}

/// In the parent, runs this test again as a child on the stand-in with these variables and gives its report; in the
/// child, runs the body and ends.
pub fn run(name: &str, variables: &[(&str, &str)], body: impl FnOnce()) -> Ran {
    if std::env::var(CHILD).as_deref() == Ok(name) {
        body();
        // Leave as a program does: with the exit handlers, and without the parent's part of the test.
        std::process::exit(0);
    }
    let stand_in = stand_in();
    let mut command = stand_in.command(std::env::current_exe().expect("the path of the test").as_os_str());
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]);
    command.env(CHILD, name).envs(variables.iter().copied());
    let output = command.output().expect("the child starts");
    let ran = Ran { output, report: stand_in.report() };
    assert!(
        ran.output.status.success(),
        "the child failed:\n{}\n{}\nreport: {:#}",
        String::from_utf8_lossy(&ran.output.stdout),
        String::from_utf8_lossy(&ran.output.stderr),
        ran.report,
    );
    ran
}

/// The report at a path; null when there is none.
pub fn read_report(path: &Path) -> serde_json::Value {
    std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// Kernels for the tests.
pub const PTX: &str = r#"
.version 7.0
.target sm_80
.address_size 64

// out[i] = in[i] + 1, for i < n
.visible .entry add_one(.param .u64 out, .param .u64 in, .param .u32 n)
{
    .reg .pred %p<2>;
    .reg .b32 %r<8>;
    .reg .b64 %rd<8>;
    ld.param.u64 %rd1, [out];
    ld.param.u64 %rd2, [in];
    ld.param.u32 %r1, [n];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.u32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r5, %r1;
    @%p1 bra DONE;
    mul.wide.u32 %rd3, %r5, 4;
    add.u64 %rd4, %rd2, %rd3;
    add.u64 %rd5, %rd1, %rd3;
    ld.global.u32 %r6, [%rd4];
    add.u32 %r7, %r6, 1;
    st.global.u32 [%rd5], %r7;
DONE:
    ret;
}

// out[i] = byte 4 i of dynamic shared memory, after it was written there
.extern .shared .align 16 .b8 dynamic[];
.visible .entry through_shared(.param .u64 out)
{
    .reg .b32 %r<4>;
    .reg .b64 %rd<6>;
    ld.param.u64 %rd1, [out];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd2, %r1, 4;
    mov.u64 %rd3, dynamic;
    add.u64 %rd4, %rd3, %rd2;
    st.shared.u32 [%rd4], %r1;
    ld.shared.u32 %r2, [%rd4];
    add.u64 %rd5, %rd1, %rd2;
    st.global.u32 [%rd5], %r2;
    ret;
}

// counter += 1, once a block; all blocks wait until all have
.visible .entry grid_barrier(.param .u64 counter, .param .u32 blocks)
{
    .reg .pred %p<3>;
    .reg .b32 %r<6>;
    .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [counter];
    ld.param.u32 %r1, [blocks];
    mov.u32 %r2, %tid.x;
    setp.ne.u32 %p1, %r2, 0;
    @%p1 bra DONE;
    atom.global.add.u32 %r3, [%rd1], 1;
WAIT:
    ld.volatile.global.u32 %r4, [%rd1];
    setp.lt.u32 %p2, %r4, %r1;
    @%p2 bra WAIT;
DONE:
    ret;
}

.visible .global .align 4 .u32 scale = 3;
.visible .entry scaled(.param .u64 out)
{
    .reg .b32 %r<3>;
    .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [out];
    ld.global.u32 %r1, [scale];
    st.global.u32 [%rd1], %r1;
    ret;
}
"#;
