//! PTX ISA, "Parallel Synchronization and Communication Instructions" and "Asynchronous copy": bar, barrier, fence, membar, cp.async.

use crate::support::{HEAD, kernel, launch};
use ptx_emulator::{FindingKind, Gpu, LaunchConfig, Options, Order};

pub const ALL: &[fn()] = &[
    bar_sync_orders_a_block,
    bar_arrive_and_sync_make_producers_and_consumers,
    barriers_have_numbers_and_counts,
    bar_red,
    bar_warp_sync_orders_lanes,
    fences_order_what_flags_announce,
    cp_async_of_each_size,
    cp_async_fills_with_zeros,
    cp_async_wait_group_lets_the_youngest_stay,
    cp_async_wait_all_needs_no_commit,
    cp_async_belongs_to_the_thread,
    cluster_barriers,
];

fn orders() -> [Options; 3] {
    [Order::Forward, Order::Reverse, Order::Random(3)].map(|order| Options { order, ..Options::default() })
}

/// Whether a body leaves a finding of this kind under each order.
fn finds(body: &str, threads: u32, kind: FindingKind) -> bool {
    orders().into_iter().all(|options| {
        let run = launch(
            &kernel(body),
            options,
            &LaunchConfig::new(1, threads),
            &(0..256).collect::<Vec<_>>(),
            256,
        );
        run.report.findings.iter().any(|f| f.kind == kind)
    })
}

/// A body without a finding under each order; its output under the first.
fn clean(body: &str, threads: u32, out: usize) -> Vec<u32> {
    let mut first = Vec::new();
    for options in orders() {
        let run = launch(
            &kernel(body),
            options,
            &LaunchConfig::new(1, threads),
            &(0..256).collect::<Vec<_>>(),
            out,
        );
        assert!(run.report.findings.is_empty(), "{body}: {}", run.report.to_text());
        if first.is_empty() {
            first.clone_from(&run.words);
        }
        assert_eq!(run.words, first, "{body}");
    }
    first
}

/// Each thread writes its slot of shared memory; after `between`, reads its neighbour's of the next warp and writes it out.
fn exchange(between: &str) -> String {
    format!(
        ".shared .align 4 .b8 s[512]; mov.u32 %r0, %tid.x; shl.b32 %r1, %r0, 2; mov.u32 %r2, s; add.u32 %r3, %r2, %r1; st.shared.u32 [%r3], %r0;\n\
         {between}\nadd.u32 %r4, %r0, 32; and.b32 %r4, %r4, 127; shl.b32 %r5, %r4, 2; add.u32 %r5, %r2, %r5; ld.shared.u32 %r6, [%r5];\n\
         mul.wide.u32 %rd2, %r0, 4; add.s64 %rd3, %rd1, %rd2; st.global.u32 [%rd3], %r6;"
    )
}

/// "bar.sync: all threads wait; accesses before it are performed for all of the block".
#[test]
fn bar_sync_orders_a_block() {
    for text in [
        "bar.sync 0;",
        "barrier.sync.aligned 0;",
        "barrier.sync 0;",
        "barrier.cta.sync.aligned 0;",
        "bar.cta.sync 0;",
        "bar.sync 5, 128;",
        "mov.u32 %r9, 3; bar.sync %r9;",
    ] {
        let out = clean(&exchange(text), 128, 128);
        assert!((0..128).all(|t| out[t as usize] == (t + 32) & 127), "{text}");
    }
    assert!(
        finds(&exchange(""), 128, FindingKind::Race) || finds(&exchange(""), 128, FindingKind::Uninitialised)
    );
}

/// "bar.arrive does not cause the executing thread to wait".
#[test]
fn bar_arrive_and_sync_make_producers_and_consumers() {
    let body = |arrive: &str| {
        format!(
            ".shared .align 4 .b8 s[128]; mov.u32 %r0, %tid.x; setp.ge.u32 %p0, %r0, 32; @%p0 bra CONSUME;\n\
             shl.b32 %r1, %r0, 2; mov.u32 %r2, s; add.u32 %r2, %r2, %r1; st.shared.u32 [%r2], %r0; {arrive} bra END;\n\
             CONSUME: bar.sync 1, 64; sub.u32 %r3, 63, %r0; shl.b32 %r3, %r3, 2; mov.u32 %r2, s; add.u32 %r2, %r2, %r3; ld.shared.u32 %r4, [%r2];\n\
             sub.u32 %r5, %r0, 32; mul.wide.u32 %rd2, %r5, 4; add.s64 %rd3, %rd1, %rd2; st.global.u32 [%rd3], %r4; END:"
        )
    };
    for arrive in ["bar.arrive 1, 64;", "barrier.arrive.aligned 1, 64;", "barrier.arrive 1, 64;"] {
        assert_eq!(clean(&body(arrive), 64, 32), (0..32).rev().collect::<Vec<_>>());
    }
    // Nobody arrives: nobody can go on.
    let run = launch(&kernel(&body("")), Options::default(), &LaunchConfig::new(1, 64), &[], 32);
    assert!(!run.report.findings.is_empty());
}

/// "barrier resources 0 to 15"; "the thread count must be a multiple of the warp size".
#[test]
fn barriers_have_numbers_and_counts() {
    let half = "mov.u32 %r9, %tid.x; shr.u32 %r9, %r9, 6; add.u32 %r9, %r9, 1; bar.sync %r9, 64;";
    clean(&format!(".shared .align 4 .b8 s[4]; {half}"), 128, 1);
    for text in ["bar.sync 16;", "bar.sync 0, 33;"] {
        let run = launch(&kernel(text), Options::default(), &LaunchConfig::new(1, 64), &[], 1);
        assert!(!run.report.findings.is_empty(), "{text}");
    }
}

/// "bar.red: .popc counts, .and, .or of the predicate over all threads".
#[test]
fn bar_red() {
    for (limit, count) in [(0u32, 0u32), (50, 50), (96, 96)] {
        for prefix in ["bar", "barrier"] {
            let aligned = if prefix == "bar" { "" } else { ".aligned" };
            for members in ["", ", 96"] {
                let body = format!(
                    "mov.u32 %r0, %tid.x; setp.lt.u32 %p0, %r0, {limit}; {prefix}.red.popc{aligned}.u32 %r1, 0{members}, %p0; \
                     {prefix}.red.and{aligned}.pred %p1, 0{members}, %p0; {prefix}.red.or{aligned}.pred %p2, 0{members}, %p0; \
                     {prefix}.red.or{aligned}.pred %p3, 0{members}, !%p0; selp.u32 %r2, 1, 0, %p1; @%p2 add.u32 %r2, %r2, 2; @%p3 add.u32 %r2, %r2, 4; \
                     mul.wide.u32 %rd2, %r0, 8; add.s64 %rd3, %rd1, %rd2; st.global.v2.u32 [%rd3], {{%r1, %r2}};"
                );
                let flags = u32::from(count == 96) | u32::from(count > 0) << 1 | u32::from(count < 96) << 2;
                assert!(clean(&body, 96, 192).chunks(2).all(|x| x == [count, flags]), "{prefix} {limit}");
            }
        }
    }
}

/// "bar.warp.sync: waits for the threads of the mask; memory ordering among them".
#[test]
fn bar_warp_sync_orders_lanes() {
    let body = |between: &str| {
        format!(
            ".shared .align 4 .b8 s[128]; mov.u32 %r0, %tid.x; shl.b32 %r1, %r0, 2; mov.u32 %r2, s; add.u32 %r3, %r2, %r1; st.shared.u32 [%r3], %r0;\n\
             {between}\nxor.b32 %r4, %r1, 4; add.u32 %r4, %r2, %r4; ld.shared.u32 %r6, [%r4]; mul.wide.u32 %rd2, %r0, 4; add.s64 %rd3, %rd1, %rd2; st.global.u32 [%rd3], %r6;"
        )
    };
    assert!((0..32).all(|t| clean(&body("bar.warp.sync -1;"), 32, 32)[t as usize] == t ^ 1));
    assert!(finds(&body(""), 32, FindingKind::Race));
}

/// "fence.acq_rel, fence.sc, membar": a write, a fence and a flag on one side; the flag, a fence and the read on the other.
#[test]
fn fences_order_what_flags_announce() {
    let body = |fence: &str| {
        format!(
            "mov.u32 %r0, %ctaid.x; setp.ne.u32 %p0, %r0, 0; @%p0 bra WAIT;\nst.global.u32 [%rd1+4], 7; {fence} st.relaxed.gpu.global.u32 [%rd1], 1; bra END;\n\
             WAIT: ld.relaxed.gpu.global.u32 %r1, [%rd1]; setp.eq.u32 %p1, %r1, 0; @%p1 bra WAIT; {fence} ld.global.u32 %r2, [%rd1+4]; st.global.u32 [%rd1+8], %r2; END:"
        )
    };
    let run = |body: &str, options| launch(&kernel(body), options, &LaunchConfig::new(2, 1), &[], 3);
    for fence in [
        "fence.acq_rel.gpu;",
        "fence.sc.gpu;",
        "fence.acq_rel.sys;",
        "fence.sc.sys;",
        "membar.gl;",
        "membar.sys;",
    ] {
        for options in orders() {
            let run = run(&body(fence), options);
            assert!(run.report.findings.is_empty(), "{fence} {}", run.report.to_text());
            assert_eq!(run.words, [1, 7, 7]);
        }
    }
    // Without one, or with one that does not reach the other block, a race.
    for fence in ["", "fence.acq_rel.cta;", "membar.cta;"] {
        let found = orders()
            .into_iter()
            .all(|o| run(&body(fence), o).report.findings.iter().any(|f| f.kind == FindingKind::Race));
        assert!(found, "'{fence}'");
    }
    // Release and acquire in the accesses themselves.
    let text =
        body("").replace("st.relaxed.gpu", "st.release.gpu").replace("ld.relaxed.gpu", "ld.acquire.gpu");
    for options in orders() {
        assert!(run(&text, options).report.findings.is_empty());
    }
    // Proxy fences order accesses of another kind; here they change nothing.
    let text = "st.global.u32 [%rd1], 3; fence.proxy.alias; fence.proxy.async; fence.proxy.async.global; fence.proxy.async.shared::cta; membar.proxy.alias; \
                ld.global.u32 %r0, [%rd1]; st.global.u32 [%rd1+4], %r0;";
    assert_eq!(clean(text, 1, 2), [3, 3]);
    // Of a cluster, and of the cluster for a barrier in shared memory.
    clean("fence.acq_rel.cluster; fence.sc.cluster; fence.mbarrier_init.release.cluster;", 32, 1);
}

/// Each of 32 threads copies `bytes` from its place of the input to shared memory and stores four bytes of it.
fn copy(instruction: &str, bytes: u32, after: &str) -> String {
    format!(
        ".shared .align 16 .b8 s[512]; mov.u32 %r0, %tid.x; mul.lo.u32 %r1, %r0, {bytes}; mov.u32 %r2, s; add.u32 %r3, %r2, %r1; mul.wide.u32 %rd2, %r0, {bytes}; \
         add.s64 %rd3, %rd0, %rd2; {instruction} {after} ld.shared.u32 %r5, [%r3]; mul.wide.u32 %rd4, %r0, 4; add.s64 %rd5, %rd1, %rd4; \
         st.global.u32 [%rd5], %r5;"
    )
}

/// "cp.async.ca: 4, 8, 16 bytes; .cg: 16".
#[test]
fn cp_async_of_each_size() {
    let all = "cp.async.commit_group; cp.async.wait_group 0;";
    for (text, bytes) in [
        ("cp.async.ca.shared.global [%r3], [%rd3], 4;", 4),
        ("cp.async.ca.shared.global [%r3], [%rd3], 8;", 8),
        ("cp.async.ca.shared.global [%r3], [%rd3], 16;", 16),
        ("cp.async.cg.shared.global [%r3], [%rd3], 16;", 16),
        ("cp.async.cg.shared::cta.global.L2::128B [%r3], [%rd3], 16;", 16),
    ] {
        assert_eq!(
            clean(&copy(text, bytes, all), 32, 32),
            (0..32).map(|t| t * bytes / 4).collect::<Vec<_>>(),
            "{text}"
        );
        // Reading before the wait is found, whether or not the group was committed.
        for after in [
            "",
            "cp.async.commit_group;",
            "cp.async.wait_group 0;",
            "cp.async.commit_group; cp.async.wait_group 1;",
        ] {
            assert!(finds(&copy(text, bytes, after), 32, FindingKind::InFlight), "{text} {after}");
        }
    }
}

/// "src-size: the remaining bytes are filled with zeros"; "ignore-src: the data from source is ignored and zeros are used".
#[test]
fn cp_async_fills_with_zeros() {
    let all = "cp.async.commit_group; cp.async.wait_group 0;";
    for size in [0u32, 4, 8, 16] {
        let text = format!("mov.u32 %r9, {size}; cp.async.cg.shared.global [%r3], [%rd3], 16, %r9;");
        let body = copy(&text, 16, all).replace("ld.shared.u32 %r5, [%r3];", "ld.shared.u32 %r5, [%r3+4]; ld.shared.u32 %r6, [%r3+12]; shl.b32 %r6, %r6, 16; or.b32 %r5, %r5, %r6;");
        let out = clean(&body, 32, 32);
        for t in 0..32 {
            let (second, fourth) =
                (if size >= 8 { t * 4 + 1 } else { 0 }, if size >= 16 { t * 4 + 3 } else { 0 });
            assert_eq!(out[t as usize], second | fourth << 16, "{size}");
        }
    }
    let text = "setp.lt.u32 %p0, %r0, 10; cp.async.ca.shared.global [%r3], [%rd3], 4, %p0;";
    assert_eq!(
        clean(&copy(text, 4, all), 32, 32),
        (0..32).map(|t| if t < 10 { 0 } else { t }).collect::<Vec<_>>()
    );
    // No byte is read, so the address may be anything.
    let text = "mov.u32 %r9, 0; cp.async.cg.shared.global [%r3], [%rd3+1048576], 16, %r9;";
    assert_eq!(clean(&copy(text, 16, all), 32, 32), [0; 32]);
}

/// "cp.async.wait_group N: waits until only N or fewer of the most recent groups are pending and all prior groups are complete".
#[test]
fn cp_async_wait_group_lets_the_youngest_stay() {
    let body = |wait: &str, slot: u32| {
        format!(
            ".shared .align 16 .b8 s[48]; mov.u32 %r2, s; cp.async.ca.shared.global [%r2], [%rd0+4], 4; cp.async.commit_group; \
             cp.async.ca.shared.global [%r2+16], [%rd0+8], 4; cp.async.commit_group; cp.async.ca.shared.global [%r2+32], [%rd0+12], 4; cp.async.commit_group; \
             {wait} ld.shared.u32 %r5, [%r2+{}]; st.global.u32 [%rd1], %r5;",
            16 * slot
        )
    };
    for n in 0..4u32 {
        for slot in 0..3 {
            let text = body(&format!("cp.async.wait_group {n};"), slot);
            if slot + n < 3 {
                assert_eq!(clean(&text, 1, 1), [slot + 1], "group {slot} after waiting for all but {n}");
            } else {
                assert!(finds(&text, 1, FindingKind::InFlight), "group {slot} after waiting for all but {n}");
            }
        }
    }
    // "An empty group is complete": it counts all the same.
    assert_eq!(clean(&body("cp.async.commit_group; cp.async.wait_group 1;", 2), 1, 1), [3]);
}

/// "cp.async.wait_all: waits for all prior cp.async operations", committed or not.
#[test]
fn cp_async_wait_all_needs_no_commit() {
    let text = "cp.async.ca.shared.global [%r3], [%rd3], 4;";
    assert_eq!(clean(&copy(text, 4, "cp.async.wait_all;"), 32, 32), (0..32).collect::<Vec<_>>());
}

/// "The wait makes the writes visible to the executing thread": another needs a barrier too.
#[test]
fn cp_async_belongs_to_the_thread() {
    let neighbour = |between: &str| {
        let wait = format!("cp.async.wait_all; {between} xor.b32 %r3, %r3, 128;");
        copy("cp.async.ca.shared.global [%r3], [%rd3], 4;", 4, &wait)
    };
    assert_eq!(clean(&neighbour("bar.sync 0;"), 64, 64), (0..64).map(|t| t ^ 32).collect::<Vec<_>>());
    assert!(finds(&neighbour(""), 64, FindingKind::InFlight) || finds(&neighbour(""), 64, FindingKind::Race));
}

/// "barrier.cluster.arrive, .wait"; "mapa", "getctarank": shared memory of a neighbour.
#[test]
fn cluster_barriers() {
    for (arrive, wait) in [
        ("barrier.cluster.arrive;", "barrier.cluster.wait;"),
        ("barrier.cluster.arrive.release.aligned;", "barrier.cluster.wait.acquire.aligned;"),
        (
            "fence.acq_rel.cluster; barrier.cluster.arrive.relaxed;",
            "barrier.cluster.wait; fence.acq_rel.cluster;",
        ),
    ] {
        let text = format!(
            "{HEAD}.visible .entry k(.param .u64 p, .param .u64 q) {{ .reg .b32 %r<8>; .reg .b64 %rd<8>; .reg .pred %p<2>; .shared .align 4 .b8 s[4];\n\
             ld.param.u64 %rd1, [q]; mov.u32 %r0, %cluster_ctarank; add.u32 %r1, %r0, 50; st.shared.u32 [s], %r1; {arrive} {wait}\n\
             xor.b32 %r2, %r0, 1; mov.u32 %r3, s; mapa.shared::cluster.u32 %r4, %r3, %r2; ld.shared::cluster.u32 %r5, [%r4]; \
             getctarank.shared::cluster.u32 %r6, %r4; mul.wide.u32 %rd2, %r0, 8; add.s64 %rd3, %rd1, %rd2; st.global.v2.u32 [%rd3], {{%r5, %r6}};\n\
             mov.u64 %rd4, s; cvta.shared.u64 %rd4, %rd4; mapa.u64 %rd5, %rd4, %r2; ld.u32 %r5, [%rd5]; getctarank.u64 %r6, %rd5; add.u32 %r5, %r5, %r6; \
             mul.wide.u32 %rd2, %r0, 4; add.s64 %rd3, %rd1, %rd2; st.global.u32 [%rd3+16], %r5; {arrive} {wait} ret; }}"
        )
        .replace(".target sm_80", ".target sm_90");
        let device = ptx_emulator::Device::new(Gpu::h100(), Options::default());
        let at = device.memory().alloc(24).unwrap();
        let loaded = device.load(&crate::support::module(&text)).unwrap();
        let config = LaunchConfig { cluster: [2, 1, 1], ..LaunchConfig::new(2, 1) };
        let report =
            device.launch(&loaded, "k", &config, &[at.to_le_bytes(), at.to_le_bytes()].concat()).unwrap();
        assert!(report.findings.is_empty(), "{arrive} {}", report.to_text());
        let mut bytes = [0; 24];
        device.memory().read(at, &mut bytes).unwrap();
        let words: Vec<u32> = bytes.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect();
        assert_eq!(words, [51, 1, 50, 0, 52, 50], "{arrive}");
    }
}
