//! PTX ISA, "Comparison and Selection Instructions", "mov", and predicate logic.

use crate::support::{block, check, check_rows, edges, product, signed, unsigned};

pub const ALL: &[fn()] = &[
    setp_of_integers,
    setp_of_floats,
    setp_combines_with_a_predicate_and_writes_the_complement,
    set_gives_ones_or_one,
    selp_and_slct,
    predicate_logic,
    mov_packs_and_unpacks,
    guards_keep_lanes_out,
];

type Test = fn(i128, i128) -> bool;

const INTEGER: [(&str, &str, Test); 10] = [
    ("eq", "sub", |a, b| a == b),
    ("ne", "sub", |a, b| a != b),
    ("lt", "su", |a, b| a < b),
    ("le", "su", |a, b| a <= b),
    ("gt", "su", |a, b| a > b),
    ("ge", "su", |a, b| a >= b),
    ("lo", "u", |a, b| a < b),
    ("ls", "u", |a, b| a <= b),
    ("hi", "u", |a, b| a > b),
    ("hs", "u", |a, b| a >= b),
];

/// "setp": "lo, ls, hi, hs for unsigned"; .b types have eq and ne alone.
#[test]
fn setp_of_integers() {
    for (name, types, test) in INTEGER {
        for t in types.chars() {
            for bits in [16, 32, 64] {
                let e = edges(bits);
                check(
                    &format!("setp.{name}.{t}{bits} %p0, A, B; selp.b32 D, 1, 0, %p0;"),
                    32,
                    &[bits; 2],
                    &[&e, &e],
                    |v| {
                        let of = |x| if t == 's' { signed(x, bits) } else { unsigned(x, bits) };
                        u64::from(test(of(v[0]), of(v[1])))
                    },
                );
            }
        }
    }
}

const FLOAT: [(&str, fn(f64, f64) -> bool); 14] = [
    ("eq", |a, b| a == b),
    ("ne", |a, b| a != b && !a.is_nan() && !b.is_nan()),
    ("lt", |a, b| a < b),
    ("le", |a, b| a <= b),
    ("gt", |a, b| a > b),
    ("ge", |a, b| a >= b),
    ("equ", |a, b| a == b || a.is_nan() || b.is_nan()),
    ("neu", |a, b| a != b),
    ("ltu", |a, b| !(a >= b)),
    ("leu", |a, b| !(a > b)),
    ("gtu", |a, b| !(a <= b)),
    ("geu", |a, b| !(a < b)),
    ("num", |a, b| !a.is_nan() && !b.is_nan()),
    ("nan", |a, b| a.is_nan() || b.is_nan()),
];

/// "setp": "if either operand is NaN, ordered comparisons are False, unordered ones True"; .ftz flushes f32 subnormals.
#[test]
fn setp_of_floats() {
    let values = [0.0f64, -0.0, 1.0, -2.5, f64::INFINITY, f64::NEG_INFINITY, f64::NAN];
    type Kind = (&'static str, u32, fn(f64) -> u64);
    let kinds: [Kind; 4] = [
        ("f32", 32, |x| u64::from((x as f32).to_bits())),
        ("f64", 64, f64::to_bits),
        ("f16", 16, |x| u64::from(half::f16::from_f64(x).to_bits())),
        ("bf16", 16, |x| u64::from(half::bf16::from_f64(x).to_bits())),
    ];
    for (name, test) in FLOAT {
        for (t, bits, encode) in kinds {
            let pairs: Vec<_> = values.iter().flat_map(|a| values.iter().map(|b| (*a, *b))).collect();
            let rows: Vec<_> = pairs.iter().map(|(a, b)| vec![encode(*a), encode(*b)]).collect();
            let text = format!("setp.{name}.{t} %p0, A, B; selp.b32 D, 1, 0, %p0;");
            for ((a, b), found) in pairs.iter().zip(crate::support::rows(&text, 32, &[bits; 2], &rows)) {
                assert_eq!(found != 0, test(*a, *b), "{text} of {a} {b}");
            }
        }
        let e = [0u64, 1, 0x8000_0001, 0x0080_0000];
        check(
            &format!("setp.{name}.ftz.f32 %p0, A, B; selp.b32 D, 1, 0, %p0;"),
            32,
            &[32; 2],
            &[&e, &e],
            |v| {
                let of = |x: u64| f64::from(f32::from_bits(if x & 0x7F80_0000 == 0 { 0 } else { x as u32 }));
                u64::from(test(of(v[0]), of(v[1])))
            },
        );
    }
    // Packed halves give a predicate each.
    for (t, one) in [("f16x2", 0x3C00u64), ("bf16x2", 0x3F80)] {
        let e = [one << 16, one, one << 16 | one];
        let rows = product(&[&e, &e]);
        let text = format!("setp.lt.{t} %p0|%p1, A, B; selp.b32 D, 1, 0, %p0; @%p1 add.u32 D, D, 2;");
        check_rows(&text, 32, &[32; 2], &rows, |v| {
            // Ones and zeros order as their bits do.
            u64::from(v[0] & 0xFFFF < v[1] & 0xFFFF) | u64::from(v[0] >> 16 < v[1] >> 16) << 1
        });
    }
}

/// "setp": `p = BoolOp(t, c); q = BoolOp(!t, c)`.
#[test]
fn setp_combines_with_a_predicate_and_writes_the_complement() {
    let list: [(&str, fn(bool, bool) -> bool); 3] =
        [("and", |a, b| a && b), ("or", |a, b| a || b), ("xor", |a, b| a != b)];
    let rows = product(&[&[1, 2], &[1, 2], &[0, 1]]);
    for (name, f) in list {
        for (c, negate) in [("%p2", false), ("!%p2", true)] {
            for t in ["s32", "f32"] {
                let text = format!(
                    "setp.ne.u32 %p2, C, 0; setp.eq.{name}.{t} %p0|%p1, A, B, {c}; selp.b32 D, 1, 0, %p0; @%p1 add.u32 D, D, 2;"
                );
                check_rows(&text, 32, &[32; 3], &rows, |v| {
                    let (t, c) = (v[0] == v[1], (v[2] != 0) != negate);
                    u64::from(f(t, c)) | u64::from(f(!t, c)) << 1
                });
            }
        }
    }
    // Without a BoolOp, q is the complement.
    check_rows(
        "setp.eq.s32 %p0|%p1, A, B; selp.b32 D, 1, 0, %p0; @%p1 add.u32 D, D, 2;",
        32,
        &[32; 3],
        &rows,
        |v| {
            if v[0] == v[1] { 1 } else { 2 }
        },
    );
    // "The sink symbol '_' may be used in place of any one of the destinations."
    check_rows("setp.eq.s32 _|%p1, A, B; selp.b32 D, 1, 0, %p1;", 32, &[32; 3], &rows, |v| {
        u64::from(v[0] != v[1])
    });
}

/// "set": "1.0f for floating-point destination types, 0xffffffff for integer destination types".
#[test]
fn set_gives_ones_or_one() {
    let e = edges(32);
    for (name, types, test) in INTEGER {
        for t in types.chars() {
            let of = |x| if t == 's' { signed(x, 32) } else { unsigned(x, 32) };
            for (to, one) in [("u32", 0xFFFF_FFFF), ("s32", 0xFFFF_FFFF), ("f32", u64::from(1f32.to_bits()))]
            {
                check(&format!("set.{name}.{to}.{t}32 D, A, B;"), 32, &[32; 2], &[&e, &e], |v| {
                    if test(of(v[0]), of(v[1])) { one } else { 0 }
                });
            }
        }
    }
    let values = [0.0f32, 1.0, f32::NAN, -3.0].map(|x| u64::from(x.to_bits()));
    for (name, test) in FLOAT {
        let of = |x: u64| f64::from(f32::from_bits(x as u32));
        check(&format!("set.{name}.u32.f32 D, A, B;"), 32, &[32; 2], &[&values, &values], |v| {
            if test(of(v[0]), of(v[1])) { 0xFFFF_FFFF } else { 0 }
        });
        check(
            &format!("setp.ne.u32 %p0, C, 0; set.{name}.and.f32.f32 D, A, B, %p0;"),
            32,
            &[32; 3],
            &[&values, &values, &[0, 1]],
            |v| {
                if test(of(v[0]), of(v[1])) && v[2] != 0 { u64::from(1f32.to_bits()) } else { 0 }
            },
        );
        check(&format!("set.{name}.ftz.u32.f32 D, A, B;"), 32, &[32; 2], &[&[1, 0], &[0]], |_| {
            if test(0.0, 0.0) { 0xFFFF_FFFF } else { 0 }
        });
        // Half precision: f16 gives f16 or u16, f16x2 a mask or two ones.
        let h = [0x0000u64, 0x3C00, 0x7E00, 0xC000];
        let of = |x: u64| half::f16::from_bits(x as u16).to_f64();
        check(&format!("set.{name}.f16.f16 D, A, B;"), 16, &[16; 2], &[&h, &h], |v| {
            if test(of(v[0]), of(v[1])) { 0x3C00 } else { 0 }
        });
        check(&format!("set.{name}.u16.f16 D, A, B;"), 16, &[16; 2], &[&h, &h], |v| {
            if test(of(v[0]), of(v[1])) { 0xFFFF } else { 0 }
        });
        let packed = [0x3C00_0000u64, 0x0000_7E00, 0xC000_3C00];
        check(&format!("set.{name}.f16x2.f16x2 D, A, B;"), 32, &[32; 2], &[&packed, &packed], |v| {
            (0..2).fold(0, |d, k| {
                d | if test(of(v[0] >> (16 * k)), of(v[1] >> (16 * k))) { 0x3C00 << (16 * k) } else { 0 }
            })
        });
    }
    for (name, f) in
        [("and", (|a, b| a && b) as fn(bool, bool) -> bool), ("or", |a, b| a || b), ("xor", |a, b| a != b)]
    {
        check(
            &format!("setp.ne.u32 %p0, C, 0; set.lt.{name}.u32.s64 D, A, B, %p0;"),
            32,
            &[64, 64, 32],
            &[&edges(64), &edges(64), &[0, 1]],
            |v| {
                if f((v[0] as i64) < v[1] as i64, v[2] != 0) { 0xFFFF_FFFF } else { 0 }
            },
        );
    }
}

/// "selp": `d = (c == 1) ? a : b`; "slct": `d = (c >= 0) ? a : b`, a NaN taking b, -0.0 taking a.
#[test]
fn selp_and_slct() {
    for bits in [16, 32, 64] {
        let e = edges(bits);
        check(
            &format!("setp.lt.u{bits} %p0, A, B; selp.b{bits} D, A, B, %p0;"),
            bits,
            &[bits; 2],
            &[&e, &e],
            |v| v[0].min(v[1]),
        );
        check(
            &format!("setp.lt.u{bits} %p0, A, B; selp.b{bits} D, A, B, !%p0;"),
            bits,
            &[bits; 2],
            &[&e, &e],
            |v| v[0].max(v[1]),
        );
        check(
            &format!("slct.b{bits}.s32 D, A, B, C;"),
            bits,
            &[bits, bits, 32],
            &[&[1], &[2], &edges(32)],
            |v| {
                if v[2] as i32 >= 0 { 1 } else { 2 }
            },
        );
        let floats =
            [0.0f32, -0.0, 1.0, -1.0, f32::NAN, f32::from_bits(0x8000_0001)].map(|x| u64::from(x.to_bits()));
        for ftz in ["", ".ftz"] {
            check(
                &format!("slct{ftz}.b{bits}.f32 D, A, B, C;"),
                bits,
                &[bits, bits, 32],
                &[&[1], &[2], &floats],
                |v| {
                    let c = f32::from_bits(v[2] as u32);
                    // "Subnormal c is negative unless flushed."
                    if c >= 0.0 || (!ftz.is_empty() && c.is_subnormal()) { 1 } else { 2 }
                },
            );
        }
    }
}

/// "and.pred", "or.pred", "xor.pred", "not.pred", "mov.pred".
#[test]
fn predicate_logic() {
    let list: [(&str, fn(u64, u64) -> u64); 3] =
        [("and", |a, b| a & b), ("or", |a, b| a | b), ("xor", |a, b| a ^ b)];
    for (name, f) in list {
        let text = format!(
            "setp.ne.u32 %p0, A, 0; setp.ne.u32 %p1, B, 0; {name}.pred %p2, %p0, %p1; selp.b32 D, 1, 0, %p2;"
        );
        check(&text, 32, &[32; 2], &[&[0, 1], &[0, 1]], |v| f(v[0], v[1]));
    }
    check(
        "setp.ne.u32 %p0, A, 0; not.pred %p2, %p0; mov.pred %p3, %p2; selp.b32 D, 1, 0, %p3;",
        32,
        &[32],
        &[&[0, 1]],
        |v| 1 - v[0],
    );
}

/// "mov": "packs and unpacks: mov.b32 d,{a,b}: d = a | (b << 16)" and so on, `_` taking nothing.
#[test]
fn mov_packs_and_unpacks() {
    for bits in [16, 32, 64] {
        check(&format!("mov.b{bits} D, A;"), bits, &[bits], &[&edges(bits)], |v| v[0]);
    }
    let x = [0x0123_4567_89AB_CDEFu64];
    check("{.reg .b32 l, h; mov.b64 {l, h}, A; mov.b64 D, {h, l};}", 64, &[64], &[&x], |v| {
        v[0].rotate_left(32)
    });
    check("{.reg .b16 l, h; mov.b32 {l, h}, A; mov.b32 D, {h, l};}", 32, &[32], &[&x], |v| {
        u64::from((v[0] as u32).rotate_left(16))
    });
    check(
        "{.reg .b16 a, b, c, d; mov.b64 {a, b, c, d}, A; mov.b64 D, {d, c, b, a};}",
        64,
        &[64],
        &[&x],
        |_| 0xCDEF_89AB_4567_0123,
    );
    check("{.reg .b8 a, b; mov.b16 {a, b}, A; mov.b16 D, {b, a};}", 16, &[16], &[&x], |_| 0xEFCD);
    check(
        "{.reg .b8 a, b, c, d; mov.b32 {a, b, c, d}, A; mov.b32 D, {d, c, b, a};}",
        32,
        &[32],
        &[&x],
        |v| u64::from((v[0] as u32).swap_bytes()),
    );
    check("{.reg .b32 h; mov.b64 {_, h}, A; mov.b32 D, h;}", 32, &[64], &[&x], |v| v[0] >> 32);
    check(
        "{.reg .b128 w; .reg .b64 l, h; mov.b128 w, {A, B}; mov.b128 {l, h}, w; sub.u64 D, h, l;}",
        64,
        &[64; 2],
        &[&x, &[7]],
        |v| v[1].wrapping_sub(v[0]),
    );
    check(
        "{.reg .b128 w, z; .reg .b64 l, h; mov.b128 w, {A, B}; mov.b128 z, w; mov.b128 {l, h}, z; mov.b64 D, h;}",
        64,
        &[64; 2],
        &[&x, &[7]],
        |_| 7,
    );
}

/// "Predicated execution: @p, @!p".
#[test]
fn guards_keep_lanes_out() {
    let body = "mov.u32 %r0, %laneid; mul.wide.u32 %rd2, %r0, 4; add.s64 %rd1, %rd1, %rd2; setp.lt.u32 %p0, %r0, 10; \
                mov.u32 %r1, 5; @%p0 mov.u32 %r1, 6; @!%p0 add.u32 %r1, %r1, %r0; st.global.u32 [%rd1], %r1;";
    for (lane, found) in block(body, 32, &[], 32).into_iter().enumerate() {
        assert_eq!(found, if lane < 10 { 6 } else { 5 + lane as u32 });
    }
}
