//! Kernels that are wrong in one place, marked `// here`: the finding must name the kind and that line, in every order.

use super::{ORDERS, kernel, run};

#[track_caller]
fn finds_with(kind: &str, declarations: &str, grid: &str, block: &str, body: &str, more: &[&str]) {
    let text = kernel(declarations, body);
    let lines: Vec<u64> =
        text.lines().enumerate().filter(|(_, l)| l.contains("// here")).map(|(n, _)| n as u64 + 1).collect();
    for order in ORDERS {
        let told = run(&text, grid, block, order, more);
        assert_eq!(told.code, 3, "{order}: {}", told.text);
        let findings = told.report["findings"].as_array().expect("a list of findings");
        let found = |f: &&serde_json::Value| {
            f["kind"] == kind && f["line"].as_u64().is_some_and(|line| lines.contains(&line))
        };
        let f = findings.iter().find(found).unwrap_or_else(|| panic!("{order}: {}\n{text}", told.text));
        assert_eq!(f["kernel"], "k");
        for place in ["block", "thread"] {
            assert_eq!(f[place].as_array().map(Vec::len), Some(3), "{f}");
        }
        assert!(f["message"].as_str().is_some_and(|m| m.len() > 10), "{f}");
        // What follows from it: who comes too early reads nothing yet, and what waits in vain waits for ever.
        let follows = ["uninitialised", "deadlock"];
        let only = |f: &serde_json::Value| f["kind"] == kind || follows.iter().any(|k| f["kind"] == *k);
        assert!(findings.iter().all(only), "{order}: only that: {}", told.text);
    }
}

#[track_caller]
fn finds(kind: &str, declarations: &str, block: &str, body: &str) {
    finds_with(kind, declarations, "1", block, body, &[]);
}

#[test]
fn missing_syncthreads() {
    finds(
        "race",
        ".shared .align 4 .b8 s[256];",
        "64",
        "mov.u32 %r1, s; shl.b32 %r2, %r0, 2; add.u32 %r3, %r1, %r2; xor.b32 %r4, %r2, 252; add.u32 %r4, %r1, %r4;
         st.shared.u32 [%r3], %r0; // here
         ld.shared.u32 %r5, [%r4]; // here
         st.global.u32 [%rd3], %r5;",
    );
}

#[test]
fn missing_syncwarp() {
    finds(
        "race",
        ".shared .align 4 .b8 s[128];",
        "32",
        "mov.u32 %r1, s; shl.b32 %r2, %r0, 2; add.u32 %r3, %r1, %r2; xor.b32 %r4, %r2, 124; add.u32 %r4, %r1, %r4;
         st.shared.u32 [%r3], %r0;
         ld.shared.u32 %r5, [%r4]; // here
         st.global.u32 [%rd3], %r5;",
    );
}

#[test]
fn second_barrier_of_a_loop_is_missing() {
    // One buffer: what is read must be read by all before it is overwritten.
    finds(
        "race",
        ".shared .align 4 .b8 s[256];",
        "64",
        "mov.u32 %r1, s; shl.b32 %r2, %r0, 2; add.u32 %r3, %r1, %r2; xor.b32 %r4, %r2, 252; add.u32 %r4, %r1, %r4;
         mov.u32 %r6, 0;
         L:
         st.shared.u32 [%r3], %r6; // here
         bar.sync 0;
         ld.shared.u32 %r5, [%r4]; // here
         add.u32 %r6, %r6, %r5;
         add.u32 %r6, %r6, 1;
         setp.lt.u32 %p1, %r6, 4;
         @%p1 bra L;
         st.global.u32 [%rd3], %r6;",
    );
}

#[test]
fn double_buffer_with_one_barrier_too_few() {
    // Two buffers and one barrier a step are right; a barrier every second step is not.
    finds(
        "race",
        ".shared .align 4 .b8 s[512];",
        "64",
        "mov.u32 %r1, s; shl.b32 %r2, %r0, 2; xor.b32 %r4, %r2, 252;
         mov.u32 %r6, 0;
         L: and.b32 %r7, %r6, 1; shl.b32 %r8, %r7, 8; add.u32 %r8, %r8, %r1; add.u32 %r9, %r8, %r2; add.u32 %r10, %r8, %r4;
         st.shared.u32 [%r9], %r6; // here
         setp.ne.u32 %p2, %r7, 0;
         @%p2 bra SKIP;
         bar.sync 0;
         SKIP:
         ld.shared.u32 %r5, [%r10]; // here
         st.global.u32 [%rd3], %r5;
         add.u32 %r6, %r6, 1;
         setp.lt.u32 %p1, %r6, 4;
         @%p1 bra L;",
    );
}

#[test]
fn off_by_one() {
    finds("bounds", "", "256", "ld.global.u32 %r1, [%rd2+4]; // here\n st.global.u32 [%rd3], %r1;");
    finds("bounds", "", "256", "st.global.u32 [%rd3+4], %r0; // here");
    finds("bounds", "", "32", "ld.global.u32 %r1, [%rd0+-4]; // here\n st.global.u32 [%rd3], %r1;");
    finds("bounds", ".shared .b32 s[32];", "32", "mov.u32 %r1, s; st.shared.u32 [%r1+128], %r0; // here");
    finds("bounds", "", "32", ".local .align 4 .b8 l[16];\n st.local.u32 [l+16], %r0; // here");
}

#[test]
fn null_pointer() {
    finds(
        "bounds",
        "",
        "32",
        "mov.u64 %rd5, 0;\n ld.global.u32 %r1, [%rd5]; // here\n st.global.u32 [%rd3], %r1;",
    );
    finds("bounds", "", "32", "mov.u64 %rd5, 0;\n st.u32 [%rd5], %r0; // here");
}

#[test]
fn misaligned_vector() {
    finds("misaligned", "", "16", "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd2]; // here");
    finds("misaligned", "", "1", "st.global.v2.u32 [%rd1+4], {%r0, %r0}; // here");
    finds("misaligned", "", "1", "ld.global.u32 %r1, [%rd0+2]; // here");
    finds("misaligned", ".shared .align 16 .b8 s[64];", "1", "st.shared.v4.u32 [s+8], {0, 0, 0, 0}; // here");
    finds("misaligned", "", "1", "red.global.add.u32 [%rd1+2], 1; // here");
}

#[test]
fn shuffle_masks() {
    // Half of the warp passes by, and is named all the same.
    finds(
        "shuffle",
        "",
        "32",
        "setp.ge.u32 %p1, %r0, 16; @%p1 bra PAST;
         shfl.sync.bfly.b32 %r0, %r0, 1, 31, 0xffffffff; // here
         PAST: st.global.u32 [%rd3], %r0;",
    );
    // The mask lacks lanes that execute.
    finds(
        "shuffle",
        "",
        "32",
        "shfl.sync.bfly.b32 %r1, %r0, 1, 31, 0x0000ffff; // here\n st.global.u32 [%rd3], %r1;",
    );
    // Reads a lane outside of the mask.
    finds(
        "shuffle",
        "",
        "32",
        "setp.ge.u32 %p1, %r0, 16; @%p1 bra DONE;
         shfl.sync.idx.b32 %r1, %r0, 20, 31, 0x0000ffff; // here
         st.global.u32 [%rd3], %r1;
         DONE:",
    );
    // Reads a lane that the block does not have.
    finds(
        "shuffle",
        "",
        "24",
        "shfl.sync.idx.b32 %r1, %r0, 30, 31, 0x00ffffff; // here\n st.global.u32 [%rd3], %r1;",
    );
    finds(
        "shuffle",
        "",
        "32",
        "vote.sync.ballot.b32 %r1, 1, 0x0000ffff; // here"
            .replace(", 1,", ", %p1,")
            .as_str()
            .replacen("vote", "setp.eq.u32 %p1, %r0, %r0; vote", 1)
            .as_str(),
    );
}

#[test]
fn divergent_barrier() {
    finds(
        "barrier",
        "",
        "64",
        "setp.lt.u32 %p1, %r0, 16; @!%p1 bra DONE;
         bar.sync 0; // here
         DONE:",
    );
    finds("barrier", "", "64", "setp.lt.u32 %p1, %r0, 16;\n @%p1 bar.sync 0; // here");
    // Two places in the text are one barrier for hardware, but not for the warp that splits between them.
    finds(
        "barrier",
        "",
        "32",
        "setp.lt.u32 %p1, %r0, 16; @%p1 bra A;
         bar.sync 0; // here
         bra END;
         A: bar.sync 0; // here
         END:",
    );
}

#[test]
fn read_before_the_copy_is_waited_for() {
    let copy = |wait: &str| {
        format!(
            "mov.u32 %r1, s; shl.b32 %r2, %r0, 4; add.u32 %r3, %r1, %r2; mul.wide.u32 %rd5, %r0, 16; add.u64 %rd6, %rd0, %rd5;
             cp.async.cg.shared.global [%r3], [%rd6], 16; cp.async.commit_group;
             {wait}
             ld.shared.u32 %r5, [%r3]; // here
             st.global.u32 [%rd3], %r5;"
        )
    };
    let shared = ".shared .align 16 .b8 s[512];";
    finds("in-flight", shared, "32", &copy(""));
    finds("in-flight", shared, "32", &copy("cp.async.wait_group 1;"));
    // Waited for, but only by the thread that copied.
    finds(
        "race",
        shared,
        "64",
        "mov.u32 %r1, s; shl.b32 %r2, %r0, 2; add.u32 %r3, %r1, %r2; xor.b32 %r4, %r2, 252; add.u32 %r4, %r1, %r4;
         cp.async.ca.shared.global [%r3], [%rd2], 4; cp.async.commit_group;
         cp.async.wait_group 0; // here
         ld.shared.u32 %r5, [%r4]; // here
         st.global.u32 [%rd3], %r5;",
    );
}

#[test]
fn uninitialised_shared_memory() {
    finds(
        "uninitialised",
        ".shared .b32 s[32];",
        "32",
        "mov.u32 %r1, s; shl.b32 %r2, %r0, 2; add.u32 %r3, %r1, %r2; setp.lt.u32 %p1, %r0, 31; @%p1 st.shared.u32 [%r3], %r0;
         ld.shared.u32 %r5, [%r3]; // here
         st.global.u32 [%rd3], %r5;",
    );
    finds(
        "uninitialised",
        ".shared .align 16 .b8 s[16];",
        "32",
        "atom.shared.add.u32 %r5, [s], 1; // here\n st.global.u32 [%rd3], %r5;",
    );
}

#[test]
fn uninitialised_register() {
    finds("uninitialised", "", "32", "add.f32 %f1, %f2, %f3;\n st.global.f32 [%rd3], %f1; // here");
}

#[test]
fn blocks_write_one_word() {
    finds_with("race", "", "4", "32", "mov.u32 %r1, %ctaid.x;\n st.global.u32 [%rd3], %r1; // here", &[]);
    // An ordinary read of what another block adds to.
    finds_with(
        "race",
        "",
        "4",
        "1",
        "red.global.add.u32 [%rd1], 1; // here\n ld.global.u32 %r1, [%rd1]; // here\n st.global.u32 [%rd2], %r1; // here",
        &[],
    );
}

#[test]
fn lanes_write_one_word_with_different_values() {
    finds("race", "", "32", "st.global.u32 [%rd1], %r0; // here");
}

#[test]
fn a_flag_without_a_fence() {
    finds_with(
        "race",
        "",
        "2",
        "1",
        "mov.u32 %r1, %ctaid.x; setp.eq.u32 %p1, %r1, 1; @%p1 bra WAIT;
         st.global.u32 [%rd1+4], 7; // here
         st.relaxed.gpu.global.u32 [%rd1], 1;
         bra END;
         WAIT: ld.relaxed.gpu.global.u32 %r2, [%rd1]; setp.eq.u32 %p2, %r2, 0; @%p2 bra WAIT;
         ld.global.u32 %r3, [%rd1+4]; // here
         st.global.u32 [%rd1+8], %r3;
         END:",
        &[],
    );
}

#[test]
fn a_grid_barrier_without_a_fence() {
    finds_with("race", "", "4", "32", &super::correct::grid_barrier("", "// here"), &["--cooperative"]);
}

#[test]
fn nothing_comes() {
    // A barrier that waits for more threads than there are.
    finds("barrier", "", "32", "bar.sync 1, 64; // here");
    // A flag that nobody sets: once for all orders, as the emulator is patient.
    let body = "L: ld.volatile.global.u32 %r1, [%rd1];\n setp.eq.u32 %p1, %r1, 0;\n @%p1 bra L;";
    let told = run(&kernel("", body), "1", "1", "forward", &[]);
    assert_eq!(told.code, 3, "{}", told.text);
    let finding = &told.report["findings"][0];
    assert!(
        finding["kind"] == "deadlock" && (17..=19).contains(&finding["line"].as_u64().unwrap()),
        "{finding}"
    );
}

#[test]
fn traps() {
    finds("trap", "", "32", "setp.eq.u32 %p1, %r0, 3;\n @%p1 trap; // here");
}
