//! PTX ISA, "Control Flow Instructions": bra, brx.idx, call, ret, exit, trap; and divergence.

use crate::support::{HEAD, block, kernel, launch};
use ptx_emulator::{CudaError, LaunchConfig, Options};

pub const ALL: &[fn()] = &[
    branches_diverge_and_meet,
    branches_by_index,
    calls_pass_parameters_and_return_values,
    calls_through_a_register,
    recursion_has_a_frame_a_call,
    exit_and_ret_end_a_thread,
    trap_is_an_error,
    griddepcontrol_does_nothing_alone,
];

const STORE: &str = "mul.wide.u32 %rd2, %r0, 4; add.s64 %rd3, %rd1, %rd2; st.global.u32 [%rd3], %r1;";

/// "bra, bra.uni; @p bra": each lane takes its own way, and loops as often as it wants.
#[test]
fn branches_diverge_and_meet() {
    let body = format!(
        "mov.u32 %r0, %laneid; mov.u32 %r1, 0; mov.u32 %r2, 0; LOOP: setp.ge.u32 %p0, %r2, %r0; @%p0 bra END; and.b32 %r3, %r2, 1; setp.eq.u32 %p1, %r3, 0; \
         @!%p1 bra ODD; add.u32 %r1, %r1, 100; bra.uni NEXT; ODD: add.u32 %r1, %r1, 1; NEXT: add.u32 %r2, %r2, 1; bra LOOP; END: {STORE}"
    );
    let out = block(&body, 32, &[], 32);
    assert!((0..32u32).all(|l| out[l as usize] == l.div_ceil(2) * 100 + l / 2));
}

/// "brx.idx: an indexed branch through a list of labels".
#[test]
fn branches_by_index() {
    for uni in ["", ".uni"] {
        let index = if uni.is_empty() { "and.b32 %r2, %r0, 3;" } else { "mov.u32 %r2, 2;" };
        let body = format!(
            "mov.u32 %r0, %laneid; {index} T: .branchtargets A, B, C, D; brx.idx{uni} %r2, T; A: mov.u32 %r1, 5; bra END; B: mov.u32 %r1, 6; bra END; \
             C: mov.u32 %r1, 7; bra END; D: mov.u32 %r1, 8; END: {STORE}"
        );
        let out = block(&body, 32, &[], 32);
        assert!((0..32).all(|l| out[l] == if uni.is_empty() { 5 + (l as u32 & 3) } else { 7 }));
    }
}

fn functions() -> String {
    format!(
        "{HEAD}.func (.param .b32 r) twice(.param .b32 a) {{ .reg .b32 %x; ld.param.b32 %x, [a]; add.u32 %x, %x, %x; st.param.b32 [r], %x; ret; }}\n\
         .func (.reg .b32 r) thrice(.reg .b32 a) {{ mul.lo.u32 r, a, 3; ret.uni; }}\n\
         .func store(.param .b64 at, .param .b32 value) {{ .reg .b64 %p; .reg .b32 %v; ld.param.b64 %p, [at]; ld.param.b32 %v, [value]; st.global.b32 [%p], %v; ret; }}\n\
         .func (.param .b32 r) sum(.param .b32 n) {{ .reg .b32 %n, %m; .reg .pred %q; .param .b32 a; .param .b32 b; ld.param.b32 %n, [n]; setp.eq.u32 %q, %n, 0; \
         @%q bra Z; sub.u32 %m, %n, 1; st.param.b32 [a], %m; call (b), sum, (a); ld.param.b32 %m, [b]; add.u32 %n, %n, %m; Z: st.param.b32 [r], %n; ret; }}\n"
    )
}

fn program(body: &str) -> String {
    format!(
        "{}.visible .entry k(.param .u64 p, .param .u64 q) {{ .reg .b32 %r<8>; .reg .b64 %rd<8>; ld.param.u64 %rd1, [q]; mov.u32 %r0, %tid.x;\n{body}\nret; }}",
        functions()
    )
}

fn run(text: &str) -> Vec<u32> {
    let run = launch(text, Options::default(), &LaunchConfig::new(1, 8), &[], 8);
    assert!(run.report.findings.is_empty(), "{}", run.report.to_text());
    run.words
}

/// "call (ret), func, (params)": by .param and by .reg; "call.uni"; results and none.
#[test]
fn calls_pass_parameters_and_return_values() {
    let body = "{ .param .b32 a; .param .b32 b; st.param.b32 [a], %r0; call.uni (b), twice, (a); ld.param.b32 %r1, [b]; } call (%r2), thrice, (%r1); \
                mul.wide.u32 %rd2, %r0, 4; add.s64 %rd3, %rd1, %rd2; { .param .b64 at; .param .b32 v; st.param.b64 [at], %rd3; st.param.b32 [v], %r2; \
                call store, (at, v); }";
    assert_eq!(run(&program(body)), (0..8).map(|t| t * 6).collect::<Vec<_>>());
}

/// "call (ret), fptr, (params), prototype": indirect.
#[test]
fn calls_through_a_register() {
    let body = "mov.u64 %rd4, twice; P: .callprototype (.param .b32 _) _ (.param .b32 _); { .param .b32 a; .param .b32 b; st.param.b32 [a], %r0; \
                call (b), %rd4, (a), P; ld.param.b32 %r1, [b]; } mul.wide.u32 %rd2, %r0, 4; add.s64 %rd3, %rd1, %rd2; st.global.u32 [%rd3], %r1;";
    assert_eq!(run(&program(body)), (0..8).map(|t| t * 2).collect::<Vec<_>>());
}

/// "Recursion is supported": each call has its own parameters and registers, and lanes go to different depths.
#[test]
fn recursion_has_a_frame_a_call() {
    let body = "{ .param .b32 a; .param .b32 b; st.param.b32 [a], %r0; call (b), sum, (a); ld.param.b32 %r1, [b]; } \
                mul.wide.u32 %rd2, %r0, 4; add.s64 %rd3, %rd1, %rd2; st.global.u32 [%rd3], %r1;";
    assert_eq!(run(&program(body)), (0..8).map(|t| t * (t + 1) / 2).collect::<Vec<_>>());
}

/// "exit", "ret": threads that have left do nothing more, and barriers no longer wait for them.
#[test]
fn exit_and_ret_end_a_thread() {
    for leave in ["exit", "ret"] {
        let body = format!(
            "mov.u32 %r0, %tid.x; mov.u32 %r1, 9; setp.ge.u32 %p0, %r0, 64; @%p0 {leave}; bar.sync 0; {STORE}"
        );
        let out = block(&body, 96, &[], 96);
        assert!((0..96).all(|t| out[t] == if t < 64 { 9 } else { 0 }));
    }
}

/// "trap: abort execution and generate an interrupt to the host"; "brkpt".
#[test]
fn trap_is_an_error() {
    for text in ["trap;", "brkpt;"] {
        let run = launch(&kernel(text), Options::default(), &LaunchConfig::new(1, 32), &[], 1);
        assert_eq!(run.report.error(), Some(CudaError::LaunchFailed), "{text}");
    }
    let text = "mov.u32 %r0, %tid.x; setp.eq.u32 %p0, %r0, 99; @%p0 trap;";
    assert!(
        launch(&kernel(text), Options::default(), &LaunchConfig::new(1, 32), &[], 1)
            .report
            .findings
            .is_empty()
    );
}

/// "griddepcontrol: if there are no prerequisite grids, .wait does not block".
#[test]
fn griddepcontrol_does_nothing_alone() {
    let text = kernel("griddepcontrol.wait; st.global.u32 [%rd1], 4; griddepcontrol.launch_dependents;");
    assert_eq!(launch(&text, Options::default(), &LaunchConfig::new(1, 1), &[], 1).words, [4]);
}
