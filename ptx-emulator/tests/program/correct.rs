//! Kernels that are right, if only just: a false alarm is as bad as a bug that goes unseen.

use super::{ORDERS, kernel, run};

#[track_caller]
fn silent_with(declarations: &str, grid: &str, block: &str, body: &str, more: &[&str]) -> Vec<u32> {
    let text = kernel(declarations, body);
    let mut output = Vec::new();
    for order in ORDERS {
        let told = run(&text, grid, block, order, more);
        assert_eq!(told.code, 0, "{order}: {}\n{text}", told.text);
        assert_eq!(told.report["findings"], serde_json::json!([]));
        assert!(told.report["counters"].as_array().is_some_and(|c| c.iter().any(|c| c["issues"] != 0)));
        output = told.output;
    }
    output
}

#[track_caller]
fn silent(declarations: &str, block: &str, body: &str) -> Vec<u32> {
    silent_with(declarations, "1", block, body, &[])
}

/// Exchanges words through shared memory, with something in between.
fn exchange(threads: u32, between: &str) -> String {
    format!(
        "mov.u32 %r1, s; shl.b32 %r2, %r0, 2; add.u32 %r3, %r1, %r2; xor.b32 %r4, %r2, {}; add.u32 %r4, %r1, %r4;
         st.shared.u32 [%r3], %r0;
         {between}
         ld.shared.u32 %r5, [%r4];
         st.global.u32 [%rd3], %r5;",
        threads * 4 - 4
    )
}

const SHARED: &str = ".shared .align 16 .b8 s[4096];";

#[test]
fn barriers_of_the_block() {
    for barrier in
        ["bar.sync 0;", "barrier.sync 0;", "barrier.cta.sync.aligned 3;", "bar.red.popc.u32 %r9, 0, %p1;"]
    {
        let body = exchange(64, barrier).replacen("mov.u32", "setp.eq.u32 %p1, %r0, 0; mov.u32", 1);
        let out = silent(SHARED, "64", &body);
        assert!((0..64).all(|t| out[t] == 63 - t as u32));
    }
}

#[test]
fn warp_synchronous() {
    for sync in ["bar.warp.sync 0xffffffff;", "bar.warp.sync -1;"] {
        silent(SHARED, "32", &exchange(32, sync));
    }
    // Reduction in one warp, with bar.warp.sync after each step.
    let steps: String = [16, 8, 4, 2, 1]
        .map(|n| {
            format!(
                "setp.lt.u32 %p1, %r0, {n}; @%p1 ld.shared.u32 %r5, [%r3+{}]; @%p1 ld.shared.u32 %r6, [%r3];
                 @%p1 add.u32 %r5, %r5, %r6; bar.warp.sync -1; @%p1 st.shared.u32 [%r3], %r5; bar.warp.sync -1;\n",
                n * 4
            )
        })
        .concat();
    let body = format!(
        "mov.u32 %r1, s; shl.b32 %r2, %r0, 2; add.u32 %r3, %r1, %r2; st.shared.u32 [%r3], %r0; bar.warp.sync -1;
         {steps} setp.eq.u32 %p1, %r0, 0; @!%p1 bra END; ld.shared.u32 %r5, [%r3]; st.global.u32 [%rd1], %r5; END:"
    );
    assert_eq!(silent(SHARED, "32", &body)[0], 31 * 16);
}

#[test]
fn named_barriers_of_some_warps() {
    // Warps 0 and 1 use barrier 1, warps 2 and 3 barrier 2; each pair exchanges.
    let body = "mov.u32 %r1, s; shl.b32 %r2, %r0, 2; add.u32 %r3, %r1, %r2; xor.b32 %r4, %r2, 128; add.u32 %r4, %r1, %r4;
         st.shared.u32 [%r3], %r0; shr.u32 %r7, %r0, 6; add.u32 %r7, %r7, 1;
         bar.sync %r7, 64;
         ld.shared.u32 %r5, [%r4]; st.global.u32 [%rd3], %r5;";
    let out = silent(SHARED, "128", body);
    assert!((0..128).all(|t| out[t] == t as u32 ^ 32));
    // Producer and consumer: one warp arrives, the other waits.
    let body = "setp.ge.u32 %p1, %r0, 32; @%p1 bra CONSUME;
         mov.u32 %r1, s; shl.b32 %r2, %r0, 2; add.u32 %r3, %r1, %r2; st.shared.u32 [%r3], %r0;
         bar.arrive 4, 64; bra END;
         CONSUME: bar.sync 4, 64; mov.u32 %r1, s; shl.b32 %r2, %r0, 2; add.u32 %r3, %r1, %r2; ld.shared.u32 %r5, [%r3+-128];
         st.global.u32 [%rd3], %r5; END:";
    silent(SHARED, "64", body);
}

#[test]
fn threads_that_have_left_are_not_waited_for() {
    silent(
        SHARED,
        "64",
        "setp.ge.u32 %p1, %r0, 32; @%p1 bra END; bar.sync 0; st.global.u32 [%rd3], %r0; END:",
    );
}

#[test]
fn atomics_order_nothing_but_race_with_nothing() {
    let out = silent_with(
        "",
        "8",
        "64",
        "red.global.add.u32 [%rd1], 1; atom.global.max.u32 %r1, [%rd1+4], %r0;",
        &[],
    );
    assert_eq!(out[..2], [512, 63]);
    silent(
        SHARED,
        "64",
        "setp.eq.u32 %p1, %r0, 0; @%p1 st.shared.u32 [s], 0; bar.sync 0; atom.shared.add.u32 %r1, [s], 1; bar.sync 0;
         ld.shared.u32 %r2, [s]; st.global.u32 [%rd3], %r2;",
    );
}

#[test]
fn lanes_that_write_one_value_to_one_place() {
    silent("", "32", "st.global.u32 [%rd1], 5;");
}

#[test]
fn partial_masks() {
    // Two halves of a warp shuffle apart; then lanes of a branch.
    let body = "setp.lt.u32 %p1, %r0, 16; @%p1 bra A;
         shfl.sync.bfly.b32 %r1, %r0, 1, 31, 0xffff0000; bra END;
         A: shfl.sync.bfly.b32 %r1, %r0, 2, 31, 0x0000ffff;
         END: st.global.u32 [%rd3], %r1;";
    let out = silent("", "32", body);
    assert!((0..32).all(|t| out[t] == if t < 16 { t as u32 ^ 2 } else { t as u32 ^ 1 }));
    silent(
        "",
        "24",
        "activemask.b32 %r2; shfl.sync.down.b32 %r1, %r0, 1, 23, 0x00ffffff; st.global.u32 [%rd3], %r1;",
    );
    // Sixteen lanes sum up: the upper ones read lanes that are not there, and nobody uses what they get.
    let steps: String = [8, 4, 2, 1]
        .map(|n| format!("shfl.sync.down.b32 %r2, %r1, {n}, 31, 0x0000ffff; add.u32 %r1, %r1, %r2;\n"))
        .concat();
    let body = format!(
        "setp.ge.u32 %p1, %r0, 16; @%p1 bra END; mov.u32 %r1, %r0; {steps} setp.eq.u32 %p2, %r0, 0; @%p2 st.global.u32 [%rd1], %r1; END:"
    );
    assert_eq!(silent("", "32", &body)[0], 120);
    // Half of the warp has left before, and is named all the same: that is allowed.
    silent(
        "",
        "32",
        "setp.ge.u32 %p1, %r0, 16; @%p1 bra END; shfl.sync.bfly.b32 %r1, %r0, 1, 31, 0xffffffff; st.global.u32 [%rd3], %r1; END:",
    );
    silent(
        "",
        "32",
        "and.b32 %r2, %r0, 1; setp.eq.u32 %p1, %r2, 0; vote.sync.ballot.b32 %r3, %p1, -1; @!%p1 bra END;
         redux.sync.add.s32 %r4, %r0, %r3; st.global.u32 [%rd3], %r4; END:",
    );
}

#[test]
fn flags_with_fences() {
    let message = |write: &str, read: &str| {
        format!(
            "mov.u32 %r1, %ctaid.x; setp.eq.u32 %p1, %r1, 1; @%p1 bra WAIT;
             st.global.u32 [%rd1+4], 7; {write} bra END;
             WAIT: {read} setp.eq.u32 %p2, %r2, 0; @%p2 bra WAIT;
             AFTER"
        )
    };
    let after = "ld.global.u32 %r3, [%rd1+4]; st.global.u32 [%rd1+8], %r3; END:";
    for (write, read, fence) in [
        (
            "fence.acq_rel.gpu; st.relaxed.gpu.global.u32 [%rd1], 1;",
            "ld.relaxed.gpu.global.u32 %r2, [%rd1];",
            "fence.acq_rel.gpu;",
        ),
        ("membar.gl; st.volatile.global.u32 [%rd1], 1;", "ld.volatile.global.u32 %r2, [%rd1];", "membar.gl;"),
        ("st.release.gpu.global.u32 [%rd1], 1;", "ld.acquire.gpu.global.u32 %r2, [%rd1];", ""),
        (
            "membar.gl; atom.global.exch.b32 %r9, [%rd1], 1;",
            "atom.global.cas.b32 %r2, [%rd1], 9, 9;",
            "membar.gl;",
        ),
        ("red.release.gpu.global.add.u32 [%rd1], 1;", "ld.acquire.sys.global.u32 %r2, [%rd1];", ""),
    ] {
        let body = message(write, read).replace("AFTER", &format!("{fence} {after}"));
        assert_eq!(silent_with("", "2", "1", &body, &[])[..3], [1, 7, 7]);
    }
}

#[test]
fn flags_within_a_block() {
    for (write, read, fence) in [
        ("membar.cta; st.volatile.shared.u32 [s+4], 1;", "ld.volatile.shared.u32 %r2, [s+4];", "membar.cta;"),
        (
            "fence.acq_rel.cta; st.relaxed.cta.shared.u32 [s+4], 1;",
            "ld.relaxed.cta.shared.u32 %r2, [s+4];",
            "fence.acq_rel.cta;",
        ),
        ("st.release.cta.shared.u32 [s+4], 1;", "ld.acquire.cta.shared.u32 %r2, [s+4];", ""),
        (
            "fence.sc.cta; atom.shared.exch.b32 %r9, [s+4], 1;",
            "atom.shared.or.b32 %r2, [s+4], 0;",
            "fence.sc.cta;",
        ),
    ] {
        let body = format!(
            "setp.eq.u32 %p1, %r0, 0; @%p1 st.shared.u32 [s+4], 0; bar.sync 0;
             setp.ge.u32 %p1, %r0, 32; @%p1 bra READ; setp.ne.u32 %p2, %r0, 0; @%p2 bra END;
             st.shared.u32 [s], 7; {write} bra END;
             READ: {read} setp.eq.u32 %p2, %r2, 0; @%p2 bra READ;
             {fence} ld.shared.u32 %r3, [s]; st.global.u32 [%rd3], %r3; END:"
        );
        let out = silent(SHARED, "64", &body);
        assert!(out[32..64].iter().all(|x| *x == 7), "{write}");
    }
}

/// All blocks write, meet, and read what another block wrote. `note` marks the lines where a race would show.
pub fn grid_barrier(fence: &str, note: &str) -> String {
    format!(
        "mov.u32 %r1, %ctaid.x; shl.b32 %r2, %r1, 5; add.u32 %r3, %r2, %r0; mul.wide.u32 %rd5, %r3, 4; add.u64 %rd6, %rd1, %rd5;
         st.global.u32 [%rd6+64], %r3; {note}
         bar.sync 0;
         setp.ne.u32 %p1, %r0, 0; @%p1 bra MET;
         {fence}
         atom.global.add.u32 %r4, [%rd1], 1;
         SPIN: ld.volatile.global.u32 %r5, [%rd1]; setp.lt.u32 %p2, %r5, 4; @%p2 bra SPIN;
         {fence}
         MET: bar.sync 0;
         xor.b32 %r6, %r3, 96; mul.wide.u32 %rd5, %r6, 4; add.u64 %rd7, %rd1, %rd5;
         ld.global.u32 %r7, [%rd7+64]; {note}
         add.u64 %rd8, %rd0, %rd5; st.global.u32 [%rd8], %r7;"
    )
}

#[test]
fn a_grid_barrier_finishes() {
    silent_with("", "4", "32", &grid_barrier("membar.gl;", ""), &["--cooperative"]);
    silent_with("", "4", "32", &grid_barrier("fence.acq_rel.gpu;", ""), &[]);
}

#[test]
fn the_last_block_sums_up() {
    let body = "mov.u32 %r1, %ctaid.x; mul.wide.u32 %rd5, %r1, 4; add.u64 %rd6, %rd1, %rd5; add.u32 %r2, %r1, 1;
         st.global.u32 [%rd6+16], %r2; membar.gl; atom.global.inc.u32 %r3, [%rd1], 3; setp.ne.u32 %p1, %r3, 3; @%p1 bra END;
         membar.gl; ld.global.u32 %r4, [%rd1+16]; ld.global.u32 %r5, [%rd1+20]; add.u32 %r4, %r4, %r5; ld.global.u32 %r5, [%rd1+24];
         add.u32 %r4, %r4, %r5; ld.global.u32 %r5, [%rd1+28]; add.u32 %r4, %r4, %r5; st.global.u32 [%rd1+4], %r4; END:";
    assert_eq!(silent_with("", "4", "1", body, &[])[..2], [0, 10]);
}

#[test]
fn a_spin_lock() {
    let body = "setp.ne.u32 %p1, %r0, 0; @%p1 bra END;
         TRY: atom.global.cas.b32 %r1, [%rd1], 0, 1; setp.ne.u32 %p2, %r1, 0; @%p2 bra TRY;
         membar.gl; ld.global.u32 %r2, [%rd1+4]; add.u32 %r2, %r2, 1; st.global.u32 [%rd1+4], %r2; membar.gl;
         atom.global.exch.b32 %r3, [%rd1], 0; END:";
    assert_eq!(silent_with("", "8", "32", body, &[])[..2], [0, 8]);
    // Within a warp each lane in its turn: divergent lanes must make progress.
    let body = "TRY: atom.global.cas.b32 %r1, [%rd1], 0, 1; setp.eq.u32 %p2, %r1, 0; @!%p2 bra AGAIN;
         membar.gl; ld.volatile.global.u32 %r2, [%rd1+4]; add.u32 %r2, %r2, 1; st.volatile.global.u32 [%rd1+4], %r2; membar.gl;
         atom.global.exch.b32 %r3, [%rd1], 0; bra END; AGAIN: bra TRY; END:";
    assert_eq!(silent("", "32", body)[..2], [0, 32]);
}

#[test]
fn double_buffers() {
    let body = "mov.u32 %r1, s; shl.b32 %r2, %r0, 2; xor.b32 %r4, %r2, 252; mov.u32 %r6, 0; mov.u32 %r11, 0;
         L: and.b32 %r7, %r6, 1; shl.b32 %r8, %r7, 8; add.u32 %r8, %r8, %r1; add.u32 %r9, %r8, %r2; add.u32 %r10, %r8, %r4;
         st.shared.u32 [%r9], %r6; bar.sync 0; ld.shared.u32 %r5, [%r10]; add.u32 %r11, %r11, %r5;
         add.u32 %r6, %r6, 1; setp.lt.u32 %p1, %r6, 6; @%p1 bra L; st.global.u32 [%rd3], %r11;";
    assert_eq!(silent(SHARED, "64", body)[0], 15);
}

#[test]
fn copies_that_are_waited_for() {
    for wait in ["cp.async.commit_group; cp.async.wait_group 0;", "cp.async.wait_all;"] {
        let body = format!(
            "mov.u32 %r1, s; shl.b32 %r2, %r0, 2; add.u32 %r3, %r1, %r2; xor.b32 %r4, %r2, 252; add.u32 %r4, %r1, %r4;
             cp.async.ca.shared.global [%r3], [%rd2], 4; {wait} bar.sync 0; ld.shared.u32 %r5, [%r4]; st.global.u32 [%rd3], %r5;"
        );
        let out = silent(SHARED, "64", &body);
        assert!((0..64).all(|t| out[t] == 63 - t as u32));
    }
    // A ring of two stages: the older group has come when one may stay pending.
    let body = "mov.u32 %r1, s; shl.b32 %r2, %r0, 2; add.u32 %r3, %r1, %r2;
         cp.async.ca.shared.global [%r3], [%rd2], 4; cp.async.commit_group;
         cp.async.ca.shared.global [%r3+256], [%rd2+256], 4; cp.async.commit_group;
         cp.async.wait_group 1; ld.shared.u32 %r5, [%r3]; st.global.u32 [%rd3], %r5;
         cp.async.wait_group 0; ld.shared.u32 %r5, [%r3+256]; st.global.u32 [%rd3+256], %r5;";
    let out = silent(SHARED, "64", body);
    assert!((0..128).all(|t| out[t] == t as u32));
}

#[test]
fn parts_of_a_word_by_different_threads() {
    // Bytes of one word are different places.
    silent("", "64", "cvt.u64.u32 %rd5, %r0; add.u64 %rd6, %rd1, %rd5; st.global.u8 [%rd6], %r0;");
    silent(
        SHARED,
        "64",
        "mov.u32 %r1, s; shl.b32 %r2, %r0, 1; add.u32 %r3, %r1, %r2; st.shared.u16 [%r3], %r0;",
    );
}
