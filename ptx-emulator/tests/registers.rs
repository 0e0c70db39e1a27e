//! Registers that nobody wrote: what is reported, and what is not.
//!
//! PTX ISA, "State Spaces: Register State Space": a register holds no value until an instruction writes it.

use ptx_emulator::{Checks, Device, FindingKind, Gpu, LaunchConfig, Module, Options, Report};

/// Runs one warp of a kernel with a buffer of 256 words in %rd0, in which word `t` is at %rd1 for thread %tid.x in %r0.
fn run_text(text: &str, checks: Checks) -> Report {
    let device = Device::new(Gpu::h100(), Options { checks, ..Options::default() });
    let address = device.memory().alloc(1024).unwrap();
    device.memory().fill(address, 1024, 0).unwrap();
    let loaded = device.load(&Module::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"))).unwrap();
    device.launch(&loaded, "k", &LaunchConfig::new(1, 32), &address.to_le_bytes()).unwrap()
}

fn text(functions: &str, body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n.shared .align 1024 .b8 smem[4096];\n{functions}\n\
         .visible .entry k(.param .u64 p) {{ .reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<40>; .reg .f32 %f<99>; \
         .reg .b64 %rd<9>; .local .align 16 .b8 l[64]; ld.param.u64 %rd0, [p]; mov.u32 %r0, %tid.x; \
         mul.wide.u32 %rd1, %r0, 4; add.u64 %rd1, %rd0, %rd1;\n{body}\nret; }}\n"
    )
}

/// The messages of findings, all of which are of this kind.
fn found(body: &str) -> Vec<String> {
    let report = run_text(&text("", body), Checks::default());
    assert!(report.findings.iter().all(|f| f.kind == FindingKind::Uninitialised), "{}", report.to_text());
    report.findings.into_iter().map(|f| f.message).collect()
}

#[track_caller]
fn finds(body: &str, register: &str) {
    let found = found(body);
    assert!(
        found.len() == 1 && found[0].contains(&format!(" {register}, which nobody wrote")),
        "{body}: {found:?}"
    );
}

#[track_caller]
fn silent(body: &str) {
    assert_eq!(found(body), Vec::<String>::new(), "{body}");
}

#[test]
fn an_undefined_value_is_reported_where_it_acts() {
    for (body, register) in [
        ("st.global.u32 [%rd1], %r1;", "%r1"),
        ("st.shared.u32 [smem], %r1;", "%r1"),
        ("st.global.v2.u32 [%rd0], {%r0, %r5};", "%r5"),
        ("ld.global.u32 %r1, [%rd2];", "%rd2"),
        ("ld.shared.u32 %r2, [%r1];", "%r1"),
        ("@%p1 st.global.u32 [%rd1], %r0;", "%p1"),
        ("@%p3 bra OUT; st.global.u32 [%rd1], %r0; OUT:", "%p3"),
        ("atom.global.add.u32 %r1, [%rd0], %r2;", "%r2"),
        ("red.global.add.f32 [%rd0], %f2;", "%f2"),
        ("vote.sync.any.pred %p1, %p2, -1;", "%p2"),
        ("vote.sync.ballot.b32 %r3, %p2, -1;", "%p2"),
        ("redux.sync.add.u32 %r1, %r2, -1;", "%r2"),
        ("bar.sync %r3;", "%r3"),
        ("bar.red.popc.u32 %r1, 0, %p2;", "%p2"),
        ("mov.b32 %r9, -1; match.any.sync.b32 %r1, %r2, %r9;", "%r2"),
        ("mov.b32 %r9, -1; shfl.sync.idx.b32 %r1, %r0, %r2, 31, %r9;", "%r2"),
        ("mov.b32 %r9, -1; shfl.sync.idx.b32 %r1, %r2, 0, 31, %r9; st.global.u32 [%rd1], %r1;", "%r2"),
        (
            "mov.b32 %r1, 0; mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%f0, %f1, %f2, %f3}, {%r1, %r2}, {%r1}, \
             {0f00000000, 0f00000000, 0f00000000, 0f00000000};",
            "%r2",
        ),
        ("cp.async.ca.shared.global [smem], [%rd1], 4, %r3; cp.async.wait_all;", "%r3"),
        (
            "st.shared.u64 [smem], 0; mov.u32 %r1, smem; stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r1], {%r2};",
            "%r2",
        ),
        ("addc.u32 %r1, %r0, 1; st.global.u32 [%rd1], %r1;", "the carry bit"),
        ("{ .reg .v2 .b32 v; mov.b32 v.x, 1; st.global.u32 [%rd1], v.y; }", "v.y"),
    ] {
        // The bit of bank conflicts and races aside: these are kernels of one thread's mistake.
        let all = found_any(body);
        assert!(
            all.iter().any(|m| m.contains(&format!(" {register}, which nobody wrote"))),
            "{body}: {all:?}"
        );
    }
}

/// Messages of the kind, whatever else was found.
fn found_any(body: &str) -> Vec<String> {
    let checks = Checks { race: false, lane_race: false, ..Checks::default() };
    let report = run_text(&text("", body), checks);
    let kind = |f: &&ptx_emulator::Finding| f.kind == FindingKind::Uninitialised;
    report.findings.iter().filter(kind).map(|f| f.message.clone()).collect()
}

#[test]
fn arithmetic_passes_it_on_and_the_finding_names_its_origin() {
    finds("add.u32 %r2, %r0, %r1; mul.lo.u32 %r3, %r2, 3; st.global.u32 [%rd1], %r3;", "%r1");
    finds("setp.lt.u32 %p1, %r4, 3; selp.u32 %r3, 1, 2, %p1; st.global.u32 [%rd1], %r3;", "%r4");
    finds("fma.rn.f32 %f1, %f2, %f3, %f1; mov.f32 %f2, %f1; st.global.f32 [%rd1], %f2;", "%f1");
    let message = found("add.u32 %r2, %r0, %r1; st.global.u32 [%rd1], %r2;").remove(0);
    assert_eq!(message, "stores %r2, which is made from %r1, which nobody wrote");
}

#[test]
fn a_write_under_a_predicate_defines_the_lanes_that_made_it() {
    let head = "setp.lt.u32 %p1, %r0, 16; @%p1 mov.u32 %r1, 7;";
    silent(&format!("{head} @%p1 st.global.u32 [%rd1], %r1;"));
    finds(&format!("{head} st.global.u32 [%rd1], %r1;"), "%r1");
    silent(&format!("{head} @!%p1 mov.u32 %r1, 8; st.global.u32 [%rd1], %r1;"));
    let report = run_text(&text("", &format!("{head} st.global.u32 [%rd1], %r1;")), Checks::default());
    assert_eq!(report.findings[0].thread, [16, 0, 0], "the first lane that did not write");
    // Divergent branches as well.
    silent(
        "setp.lt.u32 %p1, %r0, 16; @%p1 bra A; mov.u32 %r1, 1; bra B; A: mov.u32 %r1, 2; B: st.global.u32 [%rd1], %r1;",
    );
    finds("setp.lt.u32 %p1, %r0, 16; @%p1 bra B; mov.u32 %r1, 1; B: st.global.u32 [%rd1], %r1;", "%r1");
}

#[test]
fn a_loop_that_writes_late_is_told_from_one_that_writes_first() {
    silent(
        "mov.u32 %r2, 0; L: setp.eq.u32 %p1, %r2, 0; @!%p1 bra USE; mov.u32 %r1, 5; USE: add.u32 %r1, %r1, 1; \
         add.u32 %r2, %r2, 1; setp.lt.u32 %p2, %r2, 3; @%p2 bra L; st.global.u32 [%rd1], %r1;",
    );
    finds(
        "mov.u32 %r2, 0; L: add.u32 %r1, %r1, 1; add.u32 %r2, %r2, 1; setp.lt.u32 %p2, %r2, 3; @%p2 bra L; \
         st.global.u32 [%rd1], %r1;",
        "%r1",
    );
}

#[test]
fn copies_that_are_never_used_are_silent() {
    for body in [
        // What compilers leave: a phi of a path that does not use it, and halves of pairs.
        "mov.u32 %r2, %r1;",
        "mov.b64 %rd2, {%r0, %r1}; mov.b64 {%r3, %r4}, %rd2; st.global.u32 [%rd1], %r3;",
        "mov.b16 %h0, 1; mov.b32 %r1, {%h0, %h1}; mov.b32 {%h2, %h3}, %r1; st.global.u16 [%rd1], %h2;",
        "mov.b16 %h0, 1; mov.b32 %r1, {%h0, %h1}; and.b32 %r2, %r1, 65535; st.global.u32 [%rd1], %r2;",
        "mov.b16 %h0, 1; mov.b32 %r1, {%h0, %h1}; shl.b32 %r2, %r1, 16; st.global.u32 [%rd1], %r2;",
        "mov.b16 %h0, 1; mov.b32 %r1, {%h0, %h1}; prmt.b32 %r2, %r1, %r0, 0x5410; st.global.u32 [%rd1], %r2;",
        "mov.b16 %h0, 1; mov.b32 %r1, {%h0, %h1}; cvt.u16.u32 %h4, %r1; st.global.u16 [%rd1], %h4;",
        "mov.b16 %h0, 1; mov.b32 %r1, {%h0, %h1}; add.f16x2 %r2, %r1, %r1; st.global.u16 [%rd1], %r2;",
        "setp.lt.u32 %p1, %r0, 99; selp.u32 %r2, %r0, %r1, %p1; st.global.u32 [%rd1], %r2;",
        "setp.lt.u32 %p1, %r0, 0; and.pred %p2, %p1, %p3; selp.u32 %r2, 1, 2, %p2; st.global.u32 [%rd1], %r2;",
        "setp.lt.u32 %p1, %r0, 99; or.pred %p2, %p3, %p1; selp.u32 %r2, 1, 2, %p2; st.global.u32 [%rd1], %r2;",
        "xor.b32 %r1, %r1, %r1; st.global.u32 [%rd1], %r1;",
        "mov.pred %p1, 1; @%p1 st.global.u32 [%rd1], %r0;",
        // Only lane 3 gives a value, and all read lane 3.
        "setp.eq.u32 %p1, %r0, 3; @%p1 mov.u32 %r1, 9; mov.b32 %r9, -1; shfl.sync.idx.b32 %r2, %r1, 3, 31, %r9; \
         st.global.u32 [%rd1], %r2;",
        // Addresses of lanes that ldmatrix does not look at.
        "st.shared.v4.u32 [smem], {0, 0, 0, 0}; bar.warp.sync -1; setp.lt.u32 %p1, %r0, 8; @%p1 mov.u32 %r1, smem; \
         ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r2}, [%r1];",
    ] {
        let all = found_any(body);
        assert!(all.is_empty(), "{body}: {all:?}");
    }
}

#[test]
fn a_product_of_a_warpgroup_reads_its_result_only_when_it_adds() {
    let product = |scale: u32| {
        let body = format!(
            "mov.u64 %rd3, 0; setp.ne.u32 %p1, {scale}, 0; mov.u32 %r1, 0; mov.u32 %r2, 0; mov.u32 %r3, 0; mov.u32 %r4, 0; \
             wgmma.fence.sync.aligned; \
             wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {{%f0, %f1, %f2, %f3}}, {{%r1, %r2, %r3, %r4}}, %rd3, %p1, 1, 1, 0; \
             wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0; st.global.f32 [%rd1], %f3;"
        );
        // The operand in shared memory is unwritten on purpose; that is another finding.
        found_any(&body).into_iter().filter(|m| !m.contains("shared memory")).collect::<Vec<_>>()
    };
    assert_eq!(product(0), Vec::<String>::new());
    assert_eq!(product(1), ["multiplies and adds %f0, which nobody wrote"]);
}

#[test]
fn local_memory_carries_it() {
    silent("st.local.u32 [l], %r0; ld.local.u32 %r1, [l]; st.global.u32 [%rd1], %r1;");
    silent("ld.local.u32 %r1, [l];");
    silent("st.local.u32 [l+4], %r3; ld.local.v2.u32 {%r1, %r2}, [l];");
    let from_memory = found("ld.local.u32 %r1, [l]; st.global.u32 [%rd1], %r1;");
    assert_eq!(from_memory, ["stores %r1, which nobody wrote"]);
    let through = found("st.local.u32 [l], %r3; ld.local.u32 %r1, [l]; st.global.u32 [%rd1], %r1;");
    assert_eq!(through.len(), 1);
    // By a generic address the load itself is reported.
    let generic = found("cvta.local.u64 %rd2, l; ld.u32 %r1, [%rd2];");
    assert_eq!(generic, ["reads 4 bytes of local memory that nobody wrote"]);
}

#[test]
fn calls_pass_it_and_each_call_begins_afresh() {
    let functions = ".func (.param .b32 out) twice(.param .b32 x) { .reg .b32 %a<3>; ld.param.b32 %a0, [x]; \
                     add.u32 %a1, %a0, %a0; st.param.b32 [out], %a1; ret; }\n\
                     .func (.reg .b32 out) forgets(.reg .b32 x) { .reg .b32 %a<3>; .reg .pred %q; setp.eq.u32 %q, x, 1; \
                     @%q mov.u32 %a1, 4; mov.u32 out, %a1; ret; }";
    let run = |body: &str| -> Vec<String> {
        let report = run_text(&text(functions, body), Checks::default());
        report.findings.into_iter().map(|f| f.message).collect()
    };
    let twice = |r: &str| {
        format!(
            "{{ .param .b32 a; .param .b32 b; st.param.b32 [a], {r}; call (b), twice, (a); ld.param.b32 %r1, [b]; }} \
             st.global.u32 [%rd1], %r1;"
        )
    };
    assert!(run(&twice("%r0")).is_empty());
    assert_eq!(run(&twice("%r7")).len(), 1);
    // The first call writes %a1, the second does not: what the first left is not a value.
    assert!(run("call (%r2), forgets, (1); st.global.u32 [%rd1], %r2;").is_empty());
    assert_eq!(
        run("call (%r2), forgets, (1); call (%r2), forgets, (0); st.global.u32 [%rd1], %r2;").len(),
        1
    );
}

#[test]
fn one_mistake_is_one_finding_and_the_check_can_be_turned_off() {
    let body = "st.global.u32 [%rd1], %r1;\nst.global.u32 [%rd1], %r1;\n@%p1 bra A;\n@%p1 bra A; A:";
    assert_eq!(found(body).len(), 2);
    let mut checks = Checks::default();
    assert!(checks.set("registers", false));
    assert!(run_text(&text("", body), checks).findings.is_empty());
    let mut checks = Checks::default();
    assert!(checks.set("uninitialised", false));
    assert_eq!(run_text(&text("", body), checks).findings.len(), 2, "memory and registers are two checks");
}
