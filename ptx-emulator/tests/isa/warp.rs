//! PTX ISA, "shfl.sync", "vote.sync", "match.sync", "activemask", "redux.sync", "elect.sync", and special registers.

use crate::support::{block, kernel, launch};
use ptx_emulator::{FindingKind, LaunchConfig, Options};

pub const ALL: &[fn()] = &[
    shfl_in_each_mode_for_every_clamp_and_segment,
    shfl_of_part_of_a_warp,
    a_lane_outside_the_mask_is_found,
    vote,
    match_any_and_all,
    activemask_is_of_those_who_are_here,
    redux,
    elect,
    special_registers,
];

/// Values that lanes hold, some of them equal.
fn values() -> Vec<u32> {
    (0..32u32)
        .map(|l| if l % 5 == 0 { 77 } else { l.wrapping_mul(2_654_435_761) ^ (0x8000_0000 * (l & 1)) })
        .collect()
}

/// A warp that loads its value into %r1, runs `body`, and stores %r2 and %r3.
fn warp(body: &str) -> Vec<[u32; 2]> {
    let text = format!(
        "mov.u32 %r0, %laneid; mul.wide.u32 %rd2, %r0, 4; add.s64 %rd3, %rd0, %rd2; ld.global.u32 %r1, [%rd3]; mov.u32 %r2, 0; \
         mov.u32 %r3, 0; {body} mul.wide.u32 %rd2, %r0, 8; add.s64 %rd1, %rd1, %rd2; st.global.u32 [%rd1], %r2; \
         st.global.u32 [%rd1+4], %r3;"
    );
    block(&text, 32, &values(), 64).chunks(2).map(|c| [c[0], c[1]]).collect()
}

/// "shfl": the pseudo-code of the section, with b and c of every kind.
#[test]
fn shfl_in_each_mode_for_every_clamp_and_segment() {
    for mode in ["up", "down", "bfly", "idx"] {
        for b in [0i32, 1, 3, 8, 16, 31] {
            for c in [0u32, 31, 7, 0x1F00, 0x181F, 0x1C07, 0x1800, 0x100F] {
                let found = warp(&format!(
                    "shfl.sync.{mode}.b32 %r2|%p0, %r1, {b}, {c}, -1; selp.u32 %r3, 1, 0, %p0;"
                ));
                for lane in 0..32i32 {
                    let (clamp, mask) = ((c & 31) as i32, (c >> 8 & 31) as i32);
                    let (max, min) = ((lane & mask) | (clamp & !mask), lane & mask);
                    let (j, p) = match mode {
                        "up" => (lane - b, lane - b >= max),
                        "down" => (lane + b, lane + b <= max),
                        "bfly" => (lane ^ b, (lane ^ b) <= max),
                        _ => (min | (b & !mask), (min | (b & !mask)) <= max),
                    };
                    let from = if p { j } else { lane } as usize;
                    assert_eq!(
                        found[lane as usize],
                        [values()[from], u32::from(p)],
                        "shfl.{mode} {b} {c:#x} lane {lane}"
                    );
                }
            }
        }
    }
    // Without the predicate; with b and c in registers that differ by lane.
    let found = warp(
        "mov.u32 %r4, 31; sub.u32 %r4, %r4, %r0; mov.u32 %r5, 31; shfl.sync.idx.b32 %r2, %r1, %r4, %r5, -1;",
    );
    assert!((0..32).all(|l| found[l][0] == values()[31 - l]));
}

/// "Each thread that is in membermask must execute; others need not".
#[test]
fn shfl_of_part_of_a_warp() {
    let found = warp("setp.lt.u32 %p0, %r0, 8; @!%p0 bra L; shfl.sync.bfly.b32 %r2, %r1, 1, 31, 255; L:");
    for (lane, found) in found.iter().enumerate() {
        assert_eq!(found[0], if lane < 8 { values()[lane ^ 1] } else { 0 });
    }
}

/// "The behavior is undefined if the executing thread is not in the membermask" and when a lane is read that does not take part.
#[test]
fn a_lane_outside_the_mask_is_found() {
    for body in [
        "shfl.sync.bfly.b32 %r2, %r1, 1, 31, 0x7fffffff;",
        "setp.lt.u32 %p0, %r0, 8; @!%p0 bra L; shfl.sync.idx.b32 %r2, %r1, 9, 31, 255; st.global.u32 [%rd1], %r2; L:",
        "vote.sync.ballot.b32 %r2, %p0, 0x7fffffff;",
        "redux.sync.add.u32 %r2, %r1, 0x7fffffff;",
        "match.any.sync.b32 %r2, %r1, 0x7fffffff;",
        "bar.warp.sync 0x7fffffff;",
    ] {
        let text = kernel(&format!("mov.u32 %r0, %laneid; mov.u32 %r1, 5; setp.ne.u32 %p0, %r0, 3; {body}"));
        let run = launch(&text, Options::default(), &LaunchConfig::new(1, 32), &[], 1);
        assert!(
            run.report.findings.iter().any(|f| f.kind == FindingKind::Shuffle),
            "{body}: {}",
            run.report.to_text()
        );
    }
}

/// "vote.all, .any, .uni, .ballot" over the members of the mask, with a negated source too.
#[test]
fn vote() {
    for (limit, negate) in [(0u32, false), (1, false), (13, false), (32, false), (13, true), (0, true)] {
        let p = |l: u32| (l < limit) != negate;
        let bang = if negate { "!" } else { "" };
        let votes: Vec<bool> = (0..32).map(p).collect();
        let (all, any) = (votes.iter().all(|x| *x), votes.iter().any(|x| *x));
        for (mode, expected) in [("all", all), ("any", any), ("uni", all || !any)] {
            let found = warp(&format!(
                "setp.lt.u32 %p0, %r0, {limit}; vote.sync.{mode}.pred %p1, {bang}%p0, -1; selp.u32 %r2, 1, 0, %p1;"
            ));
            assert!(found.iter().all(|x| x[0] == u32::from(expected)), "vote.{mode} {limit} {negate}");
        }
        let ballot = (0..32).fold(0u32, |m, l| m | u32::from(p(l)) << l);
        let found = warp(&format!("setp.lt.u32 %p0, %r0, {limit}; vote.sync.ballot.b32 %r2, {bang}%p0, -1;"));
        assert!(found.iter().all(|x| x[0] == ballot));
    }
    // Of half a warp: lanes outside do not count.
    let found = warp("setp.lt.u32 %p0, %r0, 16; @!%p0 bra L; setp.lt.u32 %p1, %r0, 20; vote.sync.ballot.b32 %r2, %p1, 0xffff; L:".replace("0xffff", "65535").as_str());
    assert!((0..32).all(|l| found[l][0] == if l < 16 { 0xFFFF } else { 0 }));
}

/// "match.any: mask of the lanes with the same value; match.all: that of all lanes and true if all have the same value, else 0 and false".
#[test]
fn match_any_and_all() {
    let v = values();
    let same = |l: usize| (0..32).fold(0u32, |m, k| m | u32::from(v[k] == v[l]) << k);
    let found = warp("match.any.sync.b32 %r2, %r1, -1;");
    assert!((0..32).all(|l| found[l][0] == same(l)));
    let found = warp("mov.b64 %rd4, {%r1, %r1}; match.any.sync.b64 %r2, %rd4, -1;");
    assert!((0..32).all(|l| found[l][0] == same(l)));
    for (value, expected) in [("%r1", [0, 0]), ("5", [u32::MAX, 1])] {
        let found = warp(&format!(
            "mov.u32 %r4, {value}; match.all.sync.b32 %r2|%p0, %r4, -1; selp.u32 %r3, 1, 0, %p0;"
        ));
        assert!(found.iter().all(|x| *x == expected), "match.all of {value}");
        let found = warp(&format!(
            "mov.u32 %r4, {value}; mov.b64 %rd4, {{%r4, %r4}}; match.all.sync.b64 %r2|%p0, %rd4, -1; selp.u32 %r3, 1, 0, %p0;"
        ));
        assert!(found.iter().all(|x| *x == expected), "match.all of {value}");
    }
}

/// "activemask.b32 d: bit l is set if lane l is active here".
#[test]
fn activemask_is_of_those_who_are_here() {
    let found =
        warp("setp.lt.u32 %p0, %r0, 10; @%p0 bra L; activemask.b32 %r2; bra M; L: activemask.b32 %r3; M:");
    for (lane, found) in found.iter().enumerate() {
        assert_eq!(*found, if lane < 10 { [0, 0x3FF] } else { [!0x3FF, 0] });
    }
}

/// "redux.sync: .add, .min, .max of u32 and s32; .and, .or, .xor of b32".
#[test]
fn redux() {
    let v = values();
    let s = || v.iter().map(|x| *x as i32);
    let list = [
        ("add.u32", v.iter().fold(0u32, |a, x| a.wrapping_add(*x))),
        ("add.s32", v.iter().fold(0u32, |a, x| a.wrapping_add(*x))),
        ("min.u32", *v.iter().min().unwrap()),
        ("max.u32", *v.iter().max().unwrap()),
        ("min.s32", s().min().unwrap() as u32),
        ("max.s32", s().max().unwrap() as u32),
        ("and.b32", v.iter().fold(u32::MAX, |a, x| a & x)),
        ("or.b32", v.iter().fold(0, |a, x| a | x)),
        ("xor.b32", v.iter().fold(0, |a, x| a ^ x)),
    ];
    for (name, expected) in list {
        assert!(
            warp(&format!("redux.sync.{name} %r2, %r1, -1;")).iter().all(|x| x[0] == expected),
            "redux.{name}"
        );
    }
    let found = warp("setp.lt.u32 %p0, %r0, 4; @!%p0 bra L; redux.sync.add.u32 %r2, 1, 15; L:");
    assert!((0..32).all(|l| found[l][0] == if l < 4 { 4 } else { 0 }));
}

/// "elect.sync: one thread of the mask is elected, its laneid is d, the predicate is true for it alone; always the same for a mask".
#[test]
fn elect() {
    let found = warp("elect.sync %r2|%p0, -1; selp.u32 %r3, 1, 0, %p0;");
    let leaders: Vec<usize> = (0..32).filter(|l| found[*l][1] == 1).collect();
    assert_eq!(leaders.len(), 1);
    assert!(found.iter().all(|x| x[0] == leaders[0] as u32));
    let again = warp("elect.sync _|%p0, -1; selp.u32 %r3, 1, 0, %p0;");
    assert!((0..32).all(|l| again[l][1] == found[l][1]));
}

/// "Special Registers".
#[test]
fn special_registers() {
    let list = [
        ("%tid.x", (|l| l % 8) as fn(u32) -> u32),
        ("%tid.y", |l| l / 8 % 4),
        ("%tid.z", |l| l / 32),
        ("%ntid.x", |_| 8),
        ("%ntid.y", |_| 4),
        ("%ntid.z", |_| 2),
        ("%laneid", |l| l % 32),
        ("%warpid", |l| l / 32),
        ("%nwarpid", |_| 64),
        ("%ctaid.x", |_| 0),
        ("%nctaid.x", |_| 1),
        ("%lanemask_eq", |l| 1 << (l % 32)),
        ("%lanemask_lt", |l| (1 << (l % 32)) - 1),
        ("%lanemask_le", |l| (1 << (l % 32)) - 1 | 1 << (l % 32)),
        ("%lanemask_gt", |l| !((1 << (l % 32)) - 1 | 1 << (l % 32))),
        ("%lanemask_ge", |l| !((1 << (l % 32)) - 1)),
        ("%dynamic_smem_size", |_| 0),
        ("%cluster_ctarank", |_| 0),
        ("%cluster_nctarank", |_| 1),
    ];
    for (name, expected) in list {
        let text = kernel(&format!(
            "mov.u32 %r0, %tid.x; mov.u32 %r1, %tid.y; mad.lo.u32 %r0, %r1, 8, %r0; mov.u32 %r1, %tid.z; mad.lo.u32 %r0, %r1, 32, %r0; \
             mul.wide.u32 %rd2, %r0, 4; add.s64 %rd1, %rd1, %rd2; mov.u32 %r2, {name}; st.global.u32 [%rd1], %r2;"
        ));
        let config = LaunchConfig { block: [8, 4, 2], ..LaunchConfig::new(1, 1) };
        let run = launch(&text, Options::default(), &config, &[], 64);
        for (l, found) in run.words.into_iter().enumerate() {
            // How many warps a multiprocessor holds is the GPU's; that it is no fewer than there are is all that counts here.
            if name == "%nwarpid" {
                assert!(found >= 2);
            } else {
                assert_eq!(found, expected(l as u32), "{name} of thread {l}");
            }
        }
    }
    // Clocks never go back.
    let body = "mov.u32 %r0, %clock; mov.u64 %rd2, %clock64; mov.u32 %r1, %clock_hi; mov.u64 %rd3, %globaltimer; mov.u32 %r4, %globaltimer_lo; \
                mov.u32 %r5, %globaltimer_hi; mov.u64 %rd4, %clock64; mov.u64 %rd5, %globaltimer; setp.ge.u64 %p0, %rd4, %rd2; \
                setp.ge.and.u64 %p0, %rd5, %rd3, %p0; selp.u32 %r2, 1, 0, %p0; st.global.u32 [%rd1], %r2;";
    assert_eq!(block(body, 1, &[], 1), [1]);
}
