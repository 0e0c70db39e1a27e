//! PTX ISA, "Parallel Synchronization and Communication Instructions: mbarrier": each operation on its own.

use crate::asynchronous::{Case, ORDERS, clean, init, kernel, kinds};
use ptx_emulator::{FindingKind, LaunchConfig, Order};

pub const ALL: &[fn()] = &[
    test_wait_by_state_and_by_parity,
    arrive_counts_and_gives_the_state_before,
    arrive_drop_lowers_what_later_phases_expect,
    expect_tx_and_complete_tx_balance,
    no_complete_may_not_end_a_phase,
    inval_ends_the_life_of_a_barrier,
    arrivals_at_a_barrier_of_another_block,
    generic_addresses,
    orders_and_scopes,
];

/// One thread runs a body with the barrier at %r1, initialised for `count`; words 0 to 7 of the output come back.
fn one(count: u32, body: &str) -> Vec<u32> {
    let mut out = Vec::new();
    for order in ORDERS {
        let case = Case::new(order).buffer(&[9; 8]);
        clean(&case.run(&kernel(1, &format!("{}{body}", init(count))), 1));
        out = case.words(0, 8);
    }
    out
}

/// Stores a predicate as 0 or 1.
fn told(p: &str, at: u32) -> String {
    format!("selp.u32 %r20, 1, 0, {p}; st.global.u32 [%rd0+{at}], %r20;\n")
}

/// "mbarrier.test_wait": non-blocking; waits for the phase of the state, or for the phase that a parity tells: 0 is that of the
/// even phases, and the phase before the current one counts as ended.
#[test]
fn test_wait_by_state_and_by_parity() {
    let test = |suffix: &str, value: &str, at: u32| {
        format!("mbarrier.test_wait{suffix}.shared::cta.b64 %p1, [%r1], {value};\n{}", told("%p1", at))
    };
    let body = format!(
        "mbarrier.arrive.shared::cta.b64 %rd5, [%r1];\n{}{}{}mbarrier.arrive.shared::cta.b64 %rd6, [%r1];\n{}{}{}",
        test("", "%rd5", 0),
        test(".parity", "0", 4),
        test(".parity", "1", 8),
        test("", "%rd5", 12),
        test(".parity", "0", 16),
        test(".parity", "1", 20),
    );
    assert_eq!(one(2, &body)[..6], [0, 0, 1, 1, 1, 0]);
}

/// "mbarrier.arrive": "an optional count, by default 1"; the state is that "prior to the arrive-on operation", of which
/// "mbarrier.pending_count" gives the pending arrivals.
#[test]
fn arrive_counts_and_gives_the_state_before() {
    let body = "mbarrier.arrive.shared::cta.b64 %rd5, [%r1], 3; mbarrier.pending_count.b64 %r20, %rd5; st.global.u32 [%rd0], %r20;
        mbarrier.arrive.shared::cta.b64 %rd5, [%r1]; mbarrier.pending_count.b64 %r20, %rd5; st.global.u32 [%rd0+4], %r20;
        mov.u32 %r21, 1; mbarrier.arrive.shared::cta.b64 %rd5, [%r1], %r21; mbarrier.pending_count.b64 %r20, %rd5;
        st.global.u32 [%rd0+8], %r20; mbarrier.arrive.shared::cta.b64 %rd5, [%r1]; mbarrier.pending_count.b64 %r20, %rd5;
        st.global.u32 [%rd0+12], %r20;";
    assert_eq!(one(5, body)[..4], [5, 2, 1, 5], "the fourth is of the next phase");
}

/// "mbarrier.arrive_drop": "decrements the expected arrival count" of the phases to come.
#[test]
fn arrive_drop_lowers_what_later_phases_expect() {
    let body = "mbarrier.arrive_drop.shared::cta.b64 %rd5, [%r1]; mbarrier.arrive.shared::cta.b64 %rd5, [%r1];
        mbarrier.arrive.shared::cta.b64 %rd5, [%r1]; mbarrier.pending_count.b64 %r20, %rd5; st.global.u32 [%rd0], %r20;
        mbarrier.test_wait.parity.shared::cta.b64 %p1, [%r1], 1;";
    let out = one(2, &format!("{body}{}", told("%p1", 4)));
    assert_eq!(out[..2], [1, 1], "one arrival is a phase now");
}

/// "mbarrier.expect_tx", "mbarrier.complete_tx": a phase ends when no arrival and no byte is pending.
#[test]
fn expect_tx_and_complete_tx_balance() {
    let test = "mbarrier.test_wait.parity.shared::cta.b64 %p1, [%r1], 0;\n";
    for expect in [
        "mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%r1], 48; mbarrier.arrive.shared::cta.b64 %rd5, [%r1];",
        "mbarrier.arrive.expect_tx.shared::cta.b64 %rd5, [%r1], 48;",
        "mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%r1], 48;",
    ] {
        let body = format!(
            "{expect} {test}{} mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [%r1], 32; {test}{} \
             mbarrier.complete_tx.shared::cta.b64 [%r1], 16; {test}{}",
            told("%p1", 0),
            told("%p1", 4),
            told("%p1", 8)
        );
        assert_eq!(one(1, &body)[..3], [0, 0, 1], "{expect}");
    }
}

/// "mbarrier.arrive.noComplete": "must not cause the mbarrier to complete its current phase, otherwise the behavior is undefined".
#[test]
fn no_complete_may_not_end_a_phase() {
    let body = "mbarrier.arrive.noComplete.shared::cta.b64 %rd5, [%r1], 2; mbarrier.pending_count.b64 %r20, %rd5; st.global.u32 [%rd0], %r20;
        mbarrier.arrive_drop.noComplete.shared::cta.b64 %rd5, [%r1], 1; mbarrier.pending_count.b64 %r20, %rd5; st.global.u32 [%rd0+4], %r20;";
    assert_eq!(one(4, body)[..2], [4, 2]);
    let ends = format!("{}mbarrier.arrive.noComplete.shared::cta.b64 %rd5, [%r1], 2;", init(2));
    let report = Case::new(Order::Forward).run(&kernel(0, &ends), 1);
    assert_eq!(kinds(&report), [FindingKind::Barrier]);
}

/// "mbarrier.inval": afterwards only mbarrier.init may use the place as a barrier; and a live barrier is not to be initialised again.
#[test]
fn inval_ends_the_life_of_a_barrier() {
    let again = "mbarrier.init.shared::cta.b64 [%r1], 1; mbarrier.arrive.shared::cta.b64 %rd5, [%r1];";
    one(1, &format!("mbarrier.inval.shared::cta.b64 [%r1]; {again}"));
    let run =
        |body: &str| kinds(&Case::new(Order::Forward).run(&kernel(0, &format!("{}{body}", init(1))), 1));
    assert_eq!(run(again), [FindingKind::Barrier]);
    assert_eq!(
        run("mbarrier.inval.shared::cta.b64 [%r1]; mbarrier.arrive.shared::cta.b64 %rd5, [%r1];"),
        [FindingKind::Barrier]
    );
}

/// "mbarrier.arrive": ".shared::cluster" with the sink for a state; both blocks count at the barrier of block 0.
#[test]
fn arrivals_at_a_barrier_of_another_block() {
    let body = format!(
        "{}mov.u32 %r2, %cluster_ctarank; fence.mbarrier_init.release.cluster; barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
         mov.u32 %r5, s; add.u32 %r6, %r2, 41; mapa.shared::cluster.u32 %r7, %r5, 0; mad.lo.u32 %r7, %r2, 4, %r7;
         st.shared::cluster.u32 [%r7], %r6;
         mapa.shared::cluster.u32 %r3, %r1, 0; mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r3];
         setp.ne.u32 %p1, %r2, 0; @%p1 bra END;
         W: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p2, [%r1], 0; @!%p2 bra W;
         ld.shared.v2.u32 {{%r10, %r11}}, [s]; st.global.v2.u32 [%rd0], {{%r10, %r11}};
         END: barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;",
        init(2)
    );
    let config = LaunchConfig { cluster: [2, 1, 1], ..LaunchConfig::new(2, 1) };
    for order in ORDERS {
        let case = Case::new(order).buffer(&[0; 2]);
        clean(&case.launch(&kernel(1, &body), &config));
        assert_eq!(case.words(0, 2), [41, 42]);
    }
    // Without the wait nothing orders the neighbour's store before the read.
    let early = body.replace("@!%p2 bra W;", "");
    let report = Case::new(Order::Forward).buffer(&[0; 2]).launch(&kernel(1, &early), &config);
    assert!(report.findings.iter().any(|f| matches!(f.kind, FindingKind::Race | FindingKind::Uninitialised)));
}

/// "If no state space is specified then Generic Addressing is used", which must fall within shared memory.
#[test]
fn generic_addresses() {
    let body = "cvt.u64.u32 %rd4, %r1; cvta.shared.u64 %rd4, %rd4; mbarrier.arrive.b64 %rd5, [%rd4];
        mbarrier.test_wait.b64 %p1, [%rd4], %rd5; mbarrier.inval.b64 [%rd4]; mbarrier.init.b64 [%rd4], 7;
        mbarrier.expect_tx.b64 [%rd4], 16; mbarrier.complete_tx.b64 [%rd4], 16;";
    assert_eq!(one(1, &format!("{body}{}", told("%p1", 0)))[0], 1);
    let report = Case::new(Order::Forward).buffer(&[0; 2]).run(&kernel(1, "mbarrier.init.b64 [%rd0], 1;"), 1);
    assert_eq!(kinds(&report), [FindingKind::Trap]);
}

/// "The optional .sem": release or relaxed for an arrival, acquire or relaxed for a wait. What arrives relaxed publishes nothing.
#[test]
fn orders_and_scopes() {
    let body = |arrive: &str, wait: &str| {
        format!(
            "{}setp.ge.u32 %p1, %r0, 32; @%p1 bra WAIT;
             st.shared.u32 [s], 7; mbarrier.arrive{arrive}.shared::cta.b64 %rd5, [%r1]; bra END;
             WAIT: mbarrier.try_wait.parity{wait}.shared::cta.b64 %p2, [%r1], 0; @!%p2 bra WAIT;
             ld.shared.u32 %r5, [s]; st.global.u32 [%rd0], %r5; END:",
            init(32)
        )
    };
    for (arrive, wait) in [
        ("", ""),
        (".release.cta", ".acquire.cta"),
        (".release.cluster", ".acquire.cluster"),
        (".release.cta", ""),
    ] {
        for order in ORDERS {
            let case = Case::new(order).buffer(&[0; 2]);
            clean(&case.run(&kernel(1, &body(arrive, wait)), 64));
            assert_eq!(case.words(0, 1), [7]);
        }
    }
    for (arrive, wait) in [(".relaxed.cluster", ""), ("", ".relaxed.cluster")] {
        let report = Case::new(Order::Forward).buffer(&[0; 2]).run(&kernel(1, &body(arrive, wait)), 64);
        assert_eq!(kinds(&report), [FindingKind::Race], "{arrive}{wait}");
    }
}
