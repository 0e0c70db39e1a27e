//! PTX ISA, "ld", "ldu", "st", "atom", "red", "cvta", "isspacep", "prefetch", "createpolicy".

use crate::support::{HEAD, block, check, check_rows, edges, kernel, launch, product};
use ptx_emulator::{FindingKind, LaunchConfig, Options};

pub const ALL: &[fn()] = &[
    loads_extend_to_the_register,
    stores_cut_the_register,
    vectors,
    every_state_space,
    orders_and_cache_hints,
    generic_addresses,
    atomics_of_integers,
    atomics_of_floats,
    reductions_add_up_over_a_block,
    compare_and_swap,
    atomics_in_shared_memory,
    hints_do_nothing,
    misaligned_vectors_are_found,
];

/// "ld": "sign- or zero-extended to the destination register width"; "destination may be wider than the type".
#[test]
fn loads_extend_to_the_register() {
    for (t, bits) in [
        ("u8", 8),
        ("s8", 8),
        ("b8", 8),
        ("u16", 16),
        ("s16", 16),
        ("b16", 16),
        ("u32", 32),
        ("s32", 32),
        ("b32", 32),
        ("u64", 64),
        ("s64", 64),
        ("b64", 64),
    ] {
        for register in [16, 32, 64] {
            if register < bits {
                continue;
            }
            let text = format!(
                "{{.reg .b{register} x; st.global.b64 [%rd1], A; ld.global.{t} x, [%rd1]; mov.b{register} D, x;}}"
            );
            check(&text, register, &[64], &[&edges(64)], |v| {
                let cut = v[0] << (64 - bits);
                if t.starts_with('s') { (cut as i64 >> (64 - bits)) as u64 } else { cut >> (64 - bits) }
            });
        }
    }
    check(
        "{.reg .f32 x; st.global.b32 [%rd1], A; ld.global.f32 x, [%rd1]; mov.b32 D, x;}",
        32,
        &[32],
        &[&edges(32)],
        |v| v[0],
    );
    check(
        "{.reg .f64 x; st.global.b64 [%rd1], A; ld.global.f64 x, [%rd1]; mov.b64 D, x;}",
        64,
        &[64],
        &[&edges(64)],
        |v| v[0],
    );
}

/// "st": "the low bits of the register are stored"; neighbours stay.
#[test]
fn stores_cut_the_register() {
    for (t, bits) in [("u8", 8u32), ("b16", 16), ("s32", 32)] {
        let text = format!(
            "{{.reg .b64 x; mov.b64 x, -1; st.global.b64 [%rd1], x; st.global.{t} [%rd1], A; ld.global.b64 D, [%rd1];}}"
        );
        check(&text, 64, &[64], &[&edges(64)], |v| {
            let mask = (1u64 << bits) - 1;
            v[0] & mask | !mask
        });
    }
    // A literal is stored as its type.
    check(
        "{st.global.b64 [%rd1], A; st.global.u16 [%rd1+2], 513; ld.global.b64 D, [%rd1];}",
        64,
        &[64],
        &[&[0]],
        |_| 513 << 16,
    );
}

/// ".v2, .v4": consecutive elements; `_` takes none.
#[test]
fn vectors() {
    let body = "mov.u32 %r0, 11; mov.u32 %r1, 22; mov.u32 %r2, 33; st.global.v4.u32 [%rd1], {%r0, %r1, %r2, 44}; \
                ld.global.v2.u32 {%r4, %r5}, [%rd1+8]; st.global.v2.u32 [%rd1+16], {%r5, %r4}; ld.global.v4.u32 {_, %r6, _, _}, [%rd1]; \
                st.global.u32 [%rd1+24], %r6; ld.global.v4.u8 {%h0, %h1, %h2, %h3}, [%rd1+8]; cvt.u32.u16 %r7, %h0; st.global.u32 [%rd1+28], %r7; \
                ld.global.v2.u64 {%rd2, %rd3}, [%rd1]; st.global.v2.u64 [%rd1+32], {%rd3, %rd2}; ld.global.v4.f32 {%f0, %f1, %f2, %f3}, [%rd1]; \
                st.global.v2.f32 [%rd1+48], {%f3, %f2};";
    assert_eq!(block(body, 1, &[], 14), [11, 22, 33, 44, 44, 33, 22, 33, 33, 44, 11, 22, 44, 33]);
}

/// ".global, .shared, .local, .const, .param", and variables with initial values.
#[test]
fn every_state_space() {
    let text = format!(
        "{HEAD}.const .align 4 .u32 c[2] = {{5, 6}};\n.global .align 4 .u32 g[2] = {{7, 8}};\n.global .align 8 .u64 at[1] = {{g}};\n\
         .visible .entry k(.param .u64 p, .param .u64 q) {{\n.reg .b32 %r<8>; .reg .b64 %rd<8>;\n.shared .align 4 .b8 s[16];\n.local .align 4 .b8 l[16];\n\
         ld.param.u64 %rd1, [q];\nld.const.u32 %r0, [c+4]; st.global.u32 [%rd1], %r0;\nld.global.u32 %r0, [g+4]; st.global.u32 [%rd1+4], %r0;\n\
         st.shared.u32 [s+8], 9; ld.shared.u32 %r0, [s+8]; st.global.u32 [%rd1+8], %r0;\nst.local.u32 [l+4], 10; ld.local.u32 %r0, [l+4]; \
         st.global.u32 [%rd1+12], %r0;\nld.global.u64 %rd2, [at]; ld.global.u32 %r0, [%rd2]; st.global.u32 [%rd1+16], %r0;\n\
         ld.param::entry.u64 %rd3, [q]; sub.s64 %rd3, %rd3, %rd1; st.global.u32 [%rd1+20], %rd3;\n\
         st.shared::cta.u32 [s], 3; ld.shared::cta.u32 %r0, [s]; st.global.u32 [%rd1+24], %r0;\nldu.global.u32 %r0, [g]; st.global.u32 [%rd1+28], %r0;\nret;\n}}\n"
    );
    let run = launch(&text, Options::default(), &LaunchConfig::new(1, 1), &[], 8);
    assert!(run.report.findings.is_empty(), "{}", run.report.to_text());
    assert_eq!(run.words, [6, 8, 9, 10, 7, 0, 3, 7]);
}

/// ".weak, .relaxed, .acquire, .release with .cta, .cluster, .gpu, .sys; .volatile; .mmio", and cache operators: the value is the same.
#[test]
fn orders_and_cache_hints() {
    for scope in ["cta", "gpu", "sys", "cluster"] {
        let body = format!(
            "st.release.{scope}.global.u32 [%rd1], 1; ld.acquire.{scope}.global.u32 %r0, [%rd1]; st.relaxed.{scope}.global.u32 [%rd1+4], %r0; \
             ld.relaxed.{scope}.global.u32 %r1, [%rd1+4]; st.global.u32 [%rd1+8], %r1;"
        );
        assert_eq!(block(&body, 1, &[], 3), [1, 1, 1], "{scope}");
    }
    let body = "st.weak.global.u32 [%rd1], 1; ld.weak.global.u32 %r0, [%rd1]; st.volatile.global.u32 [%rd1+4], %r0; \
                ld.volatile.global.u32 %r0, [%rd1+4]; st.global.wb.u32 [%rd1+8], %r0; ld.global.ca.u32 %r0, [%rd1+8]; \
                st.global.cs.u32 [%rd1+12], %r0; ld.global.cg.u32 %r0, [%rd1+12]; st.global.wt.u32 [%rd1+16], %r0; ld.global.cv.u32 %r0, [%rd1+16]; \
                st.global.u32 [%rd1+20], %r0; ld.global.L1::no_allocate.L2::128B.u32 %r0, [%rd1+20]; st.global.u32 [%rd1+24], %r0; \
                mmio_load: st.mmio.relaxed.sys.global.u32 [%rd1+28], 1; ld.mmio.relaxed.sys.global.u32 %r0, [%rd1+28];";
    assert_eq!(block(body, 1, &[], 8), [1; 8]);
    let body = "ld.global.nc.u32 %r0, [%rd0]; ld.global.nc.L1::evict_last.v2.u32 {%r1, %r2}, [%rd0]; st.global.v2.u32 [%rd1], {%r0, %r2};";
    assert_eq!(block(body, 1, &[4, 5], 2), [4, 5]);
}

/// "cvta", "cvta.to", "isspacep": a generic address says which space it is in.
#[test]
fn generic_addresses() {
    let text = kernel(
        ".shared .align 4 .b8 s[16]; .local .align 4 .b8 l[16]; mov.u64 %rd2, s; cvta.shared.u64 %rd3, %rd2; st.u32 [%rd3], 21; ld.shared.u32 %r0, [s]; \
         st.global.u32 [%rd1], %r0; cvta.to.shared.u64 %rd4, %rd3; ld.shared.u32 %r0, [%rd4]; st.global.u32 [%rd1+4], %r0; \
         mov.u64 %rd5, l; cvta.local.u64 %rd6, %rd5; st.u32 [%rd6+4], 22; ld.local.u32 %r0, [l+4]; st.global.u32 [%rd1+8], %r0; \
         cvta.to.global.u64 %rd7, %rd1; st.global.u32 [%rd7+12], 23; cvta.global.u64 %rd8, %rd7; ld.u32 %r0, [%rd8+12]; st.global.u32 [%rd1+16], %r0; \
         isspacep.shared %p0, %rd3; selp.u32 %r0, 1, 0, %p0; isspacep.global %p0, %rd3; @%p0 add.u32 %r0, %r0, 2; isspacep.local %p0, %rd6; \
         @%p0 add.u32 %r0, %r0, 4; isspacep.global %p0, %rd8; @%p0 add.u32 %r0, %r0, 8; isspacep.shared %p0, %rd6; @%p0 add.u32 %r0, %r0, 16; \
         st.global.u32 [%rd1+20], %r0; cvta.to.local.u64 %rd9, %rd6; ld.local.u32 %r0, [%rd9+4]; st.global.u32 [%rd1+24], %r0;",
    );
    let run = launch(&text, Options::default(), &LaunchConfig::new(1, 1), &[], 7);
    assert!(run.report.findings.is_empty(), "{}", run.report.to_text());
    assert_eq!(run.words, [21, 21, 22, 23, 23, 13, 22]);
}

/// "atom": returns the old value; "inc: (old >= b) ? 0 : old+1; dec: ((old == 0) || (old > b)) ? b : old-1".
#[test]
fn atomics_of_integers() {
    type Op = fn(u64, u64) -> u64;
    let list: Vec<(&str, u32, Op)> = vec![
        ("add.u32", 32, |a, b| a.wrapping_add(b)),
        ("add.s32", 32, |a, b| a.wrapping_add(b)),
        ("add.u64", 64, |a, b| a.wrapping_add(b)),
        ("min.u32", 32, |a, b| a.min(b)),
        ("max.u32", 32, |a, b| a.max(b)),
        ("min.s32", 32, |a, b| (a as i32).min(b as i32) as u64),
        ("max.s32", 32, |a, b| (a as i32).max(b as i32) as u64),
        ("min.u64", 64, |a, b| a.min(b)),
        ("max.u64", 64, |a, b| a.max(b)),
        ("min.s64", 64, |a, b| (a as i64).min(b as i64) as u64),
        ("max.s64", 64, |a, b| (a as i64).max(b as i64) as u64),
        ("and.b32", 32, |a, b| a & b),
        ("or.b32", 32, |a, b| a | b),
        ("xor.b32", 32, |a, b| a ^ b),
        ("and.b64", 64, |a, b| a & b),
        ("or.b64", 64, |a, b| a | b),
        ("xor.b64", 64, |a, b| a ^ b),
        ("exch.b32", 32, |_, b| b),
        ("exch.b64", 64, |_, b| b),
        ("inc.u32", 32, |a, b| if a >= b { 0 } else { a + 1 }),
        ("dec.u32", 32, |a, b| if a == 0 || a > b { b } else { a - 1 }),
    ];
    for (name, bits, f) in list {
        let (e, rows) = (edges(bits), product(&[&edges(bits), &edges(bits)]));
        // The old value, then the new one in memory.
        let text = format!("{{st.global.b{bits} [%rd1], A; atom.global.{name} D, [%rd1], B;}}");
        check(&text, bits, &[bits; 2], &[&e, &e], |v| v[0]);
        let text = format!(
            "{{.reg .b{bits} x; st.global.b{bits} [%rd1], A; atom.global.{name} x, [%rd1], B; ld.global.b{bits} D, [%rd1];}}"
        );
        check_rows(&text, bits, &[bits; 2], &rows, |v| f(v[0], v[1]));
        if !name.starts_with("exch") {
            let text = format!(
                "{{st.global.b{bits} [%rd1], A; red.global.{name} [%rd1], B; ld.global.b{bits} D, [%rd1];}}"
            );
            check_rows(&text, bits, &[bits; 2], &rows, |v| f(v[0], v[1]));
        }
    }
    // Orders and scopes do not change the value; a generic address will do.
    for order in ["relaxed", "acquire", "release", "acq_rel"] {
        for scope in ["cta", "cluster", "gpu", "sys"] {
            for space in ["", ".global"] {
                let text =
                    format!("{{st.global.b32 [%rd1], A; atom.{order}.{scope}{space}.add.u32 D, [%rd1], B;}}");
                check(&text, 32, &[32; 2], &[&[5], &[6]], |_| 5);
            }
        }
        if order == "relaxed" || order == "release" {
            let text = format!(
                "{{st.global.b32 [%rd1], A; red.{order}.gpu.global.add.u32 [%rd1], B; ld.global.b32 D, [%rd1];}}"
            );
            check(&text, 32, &[32; 2], &[&[5], &[6]], |_| 11);
        }
    }
}

/// "atom.add.f32, .f64, .noftz.f16, .f16x2, .bf16, .bf16x2": rounds to nearest; .f32 in global memory flushes no more than its inputs show.
#[test]
fn atomics_of_floats() {
    let f = |x: f32| u64::from(x.to_bits());
    for kind in ["atom", "red"] {
        let op = |t: &str, bits: u32| match kind {
            "atom" => format!(
                "{{.reg .b{bits} x; st.global.b{bits} [%rd1], A; atom.global.add.{t} x, [%rd1], B; ld.global.b{bits} D, [%rd1];}}"
            ),
            _ => format!(
                "{{st.global.b{bits} [%rd1], A; red.global.add.{t} [%rd1], B; ld.global.b{bits} D, [%rd1];}}"
            ),
        };
        let e = [1.5f32, -0.1, 1e10].map(f);
        check(&op("f32", 32), 32, &[32; 2], &[&e, &e], |v| {
            f(f32::from_bits(v[0] as u32) + f32::from_bits(v[1] as u32))
        });
        let e = [1.5f64, -0.1, 1e100].map(f64::to_bits);
        check(&op("f64", 64), 64, &[64; 2], &[&e, &e], |v| {
            (f64::from_bits(v[0]) + f64::from_bits(v[1])).to_bits()
        });
        let h = |a: u64, b: u64| {
            u64::from((half::f16::from_bits(a as u16) + half::f16::from_bits(b as u16)).to_bits())
        };
        let b = |x: u64, y: u64| {
            u64::from((half::bf16::from_bits(x as u16) + half::bf16::from_bits(y as u16)).to_bits())
        };
        check(&op("noftz.f16", 16), 16, &[16; 2], &[&[0x3C00, 0x0001], &[0x3555, 0x0001]], |v| h(v[0], v[1]));
        check(&op("noftz.bf16", 16), 16, &[16; 2], &[&[0x3F80, 0x4049], &[0x3EAB]], |v| b(v[0], v[1]));
        check(&op("noftz.f16x2", 32), 32, &[32; 2], &[&[0x3C00_0001], &[0x3555_0002]], |v| {
            h(v[0] >> 16, v[1] >> 16) << 16 | h(v[0], v[1])
        });
        check(&op("noftz.bf16x2", 32), 32, &[32; 2], &[&[0x3F80_4049], &[0x3EAB_3F80]], |v| {
            b(v[0] >> 16, v[1] >> 16) << 16 | b(v[0], v[1])
        });
    }
}

/// "red", "atom": each of many threads counts once, without a race.
#[test]
fn reductions_add_up_over_a_block() {
    let text = kernel(
        "mov.u32 %r0, %tid.x; red.global.add.u32 [%rd1], %r0; atom.global.max.u32 %r1, [%rd1+4], %r0; red.global.or.b32 [%rd1+8], %r0;",
    );
    let run = launch(&text, Options::default(), &LaunchConfig::new(3, 96), &[], 3);
    assert!(run.report.findings.is_empty(), "{}", run.report.to_text());
    assert_eq!(run.words, [3 * 95 * 96 / 2, 95, 127]);
}

/// "cas: d = (old == b) ? c : old", in 16, 32 and 64 bits.
#[test]
fn compare_and_swap() {
    for bits in [16u32, 32, 64] {
        let text = format!(
            "{{.reg .b{bits} x; st.global.b{bits} [%rd1], A; atom.global.cas.b{bits} x, [%rd1], B, C; ld.global.b{bits} D, [%rd1];}}"
        );
        check(&text, bits, &[bits; 3], &[&[1, 2], &[1, 2], &[9]], |v| if v[0] == v[1] { v[2] } else { v[0] });
        let text = format!("{{st.global.b{bits} [%rd1], A; atom.global.cas.b{bits} D, [%rd1], B, C;}}");
        check(&text, bits, &[bits; 3], &[&[1, 2], &[1, 2], &[9]], |v| v[0]);
    }
}

/// The same in shared memory.
#[test]
fn atomics_in_shared_memory() {
    let body = ".shared .align 8 .b8 s[16]; mov.u32 %r0, %tid.x; setp.ne.u32 %p0, %r0, 0; @%p0 bra L; st.shared.u32 [s], 0; st.shared.u64 [s+8], 0; L: \
                bar.sync 0; atom.shared.add.u32 %r1, [s], 2; red.shared.add.u64 [s+8], 3; atom.shared.cas.b32 %r2, [s+4], 0, 0; bar.sync 0; \
                @%p0 bra M; ld.shared.u32 %r3, [s]; ld.shared.u64 %rd2, [s+8]; st.global.u32 [%rd1], %r3; st.global.u32 [%rd1+4], %rd2; M:";
    let body = body.replace("st.shared.u64 [s+8], 0;", "st.shared.u64 [s+8], 0; st.shared.u32 [s+4], 0;");
    assert_eq!(block(&body, 64, &[], 2), [128, 192]);
}

/// "prefetch", "prefetchu", "applypriority", "createpolicy" and cache hints change no value.
#[test]
fn hints_do_nothing() {
    let body = "prefetch.global.L1 [%rd0]; prefetch.global.L2 [%rd0]; prefetchu.L1 [%rd0]; createpolicy.fractional.L2::evict_last.b64 %rd2, 0f3F800000; \
                ld.global.L2::cache_hint.u32 %r0, [%rd0], %rd2; st.global.L2::cache_hint.u32 [%rd1], %r0, %rd2; nanosleep.u32 20; pmevent 3; \
                red.global.add.L2::cache_hint.u32 [%rd1], 1, %rd2;";
    assert_eq!(block(body, 1, &[8], 1), [9]);
}

/// "If an address is not properly aligned, the resulting behavior is undefined": the access size is what counts.
#[test]
fn misaligned_vectors_are_found() {
    for (text, ok) in [
        ("ld.global.v4.u32 {%r0,%r1,%r2,%r3}, [%rd1+16];", true),
        ("ld.global.v4.u32 {%r0,%r1,%r2,%r3}, [%rd1+8];", false),
        ("ld.global.v2.u32 {%r0,%r1}, [%rd1+4];", false),
        ("ld.global.u64 %rd2, [%rd1+4];", false),
        ("st.global.u16 [%rd1+1], 0;", false),
        ("st.global.u8 [%rd1+1], 0;", true),
        ("atom.global.add.u32 %r0, [%rd1+2], 1;", false),
    ] {
        let run = launch(&kernel(text), Options::default(), &LaunchConfig::new(1, 1), &[], 16);
        let found = run.report.findings.iter().any(|f| f.kind == FindingKind::Misaligned);
        assert_eq!(found, !ok, "{text}: {}", run.report.to_text());
    }
}
