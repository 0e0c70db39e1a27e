//! PTX ISA, "Integer Arithmetic Instructions" and "Extended-Precision Integer Arithmetic Instructions".

use crate::support::{check, check_rows, edges, product, signed, unsigned};

pub const ALL: &[fn()] = &[
    add_sub_mul_min_max,
    saturating_addition,
    division_and_remainder,
    mul_wide_and_mad,
    mad_hi_sat,
    mul24_and_mad24,
    sad,
    abs_and_neg,
    dp4a_and_dp2a,
    carries_chain_words_into_wide_sums,
    carries_chain_through_multiply_adds,
];

type Binary = fn(i128, i128) -> i128;

/// "add", "sub", "mul.lo", "mul.hi", "min", "max": modulo 2^N, in each width and sign.
#[test]
fn add_sub_mul_min_max() {
    let list: [(&str, Binary); 5] = [
        ("add.", |a, b| a + b),
        ("sub.", |a, b| a - b),
        ("mul.lo.", |a, b| a.wrapping_mul(b)),
        ("min.", i128::min),
        ("max.", i128::max),
    ];
    for bits in [16, 32, 64] {
        let e = edges(bits);
        for (name, f) in list {
            for (t, widen) in [("s", signed as fn(u64, u32) -> i128), ("u", unsigned)] {
                let text = format!("{name}{t}{bits} D, A, B;");
                check(&text, bits, &[bits, bits], &[&e, &e], |v| {
                    f(widen(v[0], bits), widen(v[1], bits)) as u64
                });
            }
        }
        check(&format!("mul.hi.s{bits} D, A, B;"), bits, &[bits; 2], &[&e, &e], |v| {
            ((signed(v[0], bits) * signed(v[1], bits)) >> bits) as u64
        });
        check(&format!("mul.hi.u{bits} D, A, B;"), bits, &[bits; 2], &[&e, &e], |v| {
            ((unsigned(v[0], bits) as u128 * unsigned(v[1], bits) as u128) >> bits) as u64
        });
    }
}

/// "add", "sub": ".sat limits result to MININT..MAXINT (no overflow) … applies only to .s32".
#[test]
fn saturating_addition() {
    let e = edges(32);
    let clamp = |x: i128| x.clamp(i128::from(i32::MIN), i128::from(i32::MAX)) as u64;
    check("add.sat.s32 D, A, B;", 32, &[32; 2], &[&e, &e], |v| clamp(signed(v[0], 32) + signed(v[1], 32)));
    check("sub.sat.s32 D, A, B;", 32, &[32; 2], &[&e, &e], |v| clamp(signed(v[0], 32) - signed(v[1], 32)));
}

/// "div", "rem": quotients are cut towards zero; a division by zero is left open, so it is not asked.
#[test]
fn division_and_remainder() {
    for bits in [16, 32, 64] {
        let e = edges(bits);
        let by: Vec<u64> = e.iter().copied().filter(|x| *x != 0).collect();
        for (t, widen) in [("s", signed as fn(u64, u32) -> i128), ("u", unsigned)] {
            check(&format!("div.{t}{bits} D, A, B;"), bits, &[bits; 2], &[&e, &by], |v| {
                (widen(v[0], bits) / widen(v[1], bits)) as u64
            });
            check(&format!("rem.{t}{bits} D, A, B;"), bits, &[bits; 2], &[&e, &by], |v| {
                (widen(v[0], bits) % widen(v[1], bits)) as u64
            });
        }
    }
}

/// "mul": ".wide: d is twice as wide as a and b"; "mad": `d = t + c`, `t<2n-1..n> + c` for .hi, `t<n-1..0> + c` for .lo.
#[test]
fn mul_wide_and_mad() {
    for (t, widen) in [("s", signed as fn(u64, u32) -> i128), ("u", unsigned)] {
        for bits in [16, 32] {
            let (e, c) = (edges(bits), edges(2 * bits));
            check(&format!("mul.wide.{t}{bits} D, A, B;"), 2 * bits, &[bits; 2], &[&e, &e], |v| {
                (widen(v[0], bits) * widen(v[1], bits)) as u64
            });
            let text = format!("mad.wide.{t}{bits} D, A, B, C;");
            check(&text, 2 * bits, &[bits, bits, 2 * bits], &[&e[..6], &e[..6], &c], |v| {
                (widen(v[0], bits) * widen(v[1], bits) + widen(v[2], 2 * bits)) as u64
            });
        }
        for bits in [16, 32, 64] {
            let e = edges(bits);
            check(&format!("mad.lo.{t}{bits} D, A, B, C;"), bits, &[bits; 3], &[&e, &e[..6], &e[..6]], |v| {
                v[0].wrapping_mul(v[1]).wrapping_add(v[2])
            });
            check(&format!("mad.hi.{t}{bits} D, A, B, C;"), bits, &[bits; 3], &[&e, &e[..6], &e[..6]], |v| {
                let high = if t == "s" {
                    ((signed(v[0], bits) * signed(v[1], bits)) >> bits) as u64
                } else {
                    ((unsigned(v[0], bits) as u128 * unsigned(v[1], bits) as u128) >> bits) as u64
                };
                high.wrapping_add(v[2])
            });
        }
    }
}

/// "mad": ".sat … applies only to .s32 type in .hi mode".
#[test]
fn mad_hi_sat() {
    let e = edges(32);
    check("mad.hi.sat.s32 D, A, B, C;", 32, &[32; 3], &[&e, &e, &e], |v| {
        let sum = ((signed(v[0], 32) * signed(v[1], 32)) >> 32) + signed(v[2], 32);
        sum.clamp(i128::from(i32::MIN), i128::from(i32::MAX)) as u64
    });
}

/// "mul24", "mad24": `t = a * b` of the low 24 bits, `t<47..16>` for .hi, `t<31..0>` for .lo.
#[test]
fn mul24_and_mad24() {
    let e: Vec<u64> = edges(24).into_iter().chain([0xFFFF_FFFF, 0x0180_0001, 0x8000_0000]).collect();
    for (t, widen) in [("s", signed as fn(u64, u32) -> i128), ("u", unsigned)] {
        for (part, shift) in [("lo", 0), ("hi", 16)] {
            let product = move |v: &[u64]| ((widen(v[0], 24) * widen(v[1], 24)) >> shift) as u64;
            check(&format!("mul24.{part}.{t}32 D, A, B;"), 32, &[32; 2], &[&e, &e], product);
            check(
                &format!("mad24.{part}.{t}32 D, A, B, C;"),
                32,
                &[32; 3],
                &[&e[..7], &e[..7], &edges(32)],
                |v| product(v).wrapping_add(v[2]),
            );
        }
    }
}

/// "sad": `d = c + ((a<b) ? b-a : a-b)`.
#[test]
fn sad() {
    for bits in [16, 32, 64] {
        let e = edges(bits);
        for (t, widen) in [("s", signed as fn(u64, u32) -> i128), ("u", unsigned)] {
            check(&format!("sad.{t}{bits} D, A, B, C;"), bits, &[bits; 3], &[&e, &e[..7], &e[..5]], |v| {
                ((widen(v[0], bits) - widen(v[1], bits)).unsigned_abs() as u64).wrapping_add(v[2])
            });
        }
    }
}

/// "abs" `d = |a|`, "neg" `d = -a`; both of signed types, the least number staying itself.
#[test]
fn abs_and_neg() {
    for bits in [16, 32, 64] {
        let e = edges(bits);
        check(&format!("abs.s{bits} D, A;"), bits, &[bits], &[&e], |v| {
            signed(v[0], bits).unsigned_abs() as u64
        });
        check(&format!("neg.s{bits} D, A;"), bits, &[bits], &[&e], |v| (-signed(v[0], bits)) as u64);
    }
}

/// "dp4a": four bytes against four; "dp2a": two halves of a against the low or high two bytes of b.
#[test]
fn dp4a_and_dp2a() {
    let e = [0u64, 0x8001_7FFF, 0x80FF_7F01, 0x0102_0304, 0xFFFF_FFFF, 0x1234_89AB];
    for (ta, sa) in [("u32", false), ("s32", true)] {
        for (tb, sb) in [("u32", false), ("s32", true)] {
            let part = |x: u64, k: u32, bits: u32, s: bool| {
                let x = x >> (k * bits);
                if s { signed(x, bits) } else { unsigned(x, bits) }
            };
            check(&format!("dp4a.{ta}.{tb} D, A, B, C;"), 32, &[32; 3], &[&e, &e, &e], |v| {
                (unsigned(v[2], 32)
                    + (0..4).map(|k| part(v[0], k, 8, sa) * part(v[1], k, 8, sb)).sum::<i128>())
                    as u64
            });
            for (mode, from) in [("lo", 0), ("hi", 2)] {
                check(&format!("dp2a.{mode}.{ta}.{tb} D, A, B, C;"), 32, &[32; 3], &[&e, &e, &e], |v| {
                    let sum: i128 = (0..2).map(|k| part(v[0], k, 16, sa) * part(v[1], from + k, 8, sb)).sum();
                    (unsigned(v[2], 32) + sum) as u64
                });
            }
        }
    }
}

/// "add.cc", "addc", "sub.cc", "subc": the carry of the low word reaches the high word.
#[test]
fn carries_chain_words_into_wide_sums() {
    let e = edges(64);
    let list = product(&[&e, &e]);
    for (name, f) in [("add", u64::wrapping_add as fn(u64, u64) -> u64), ("sub", u64::wrapping_sub)] {
        for t in ["u32", "s32"] {
            let text = format!(
                "{{.reg .b32 al, ah, bl, bh; mov.b64 {{al, ah}}, A; mov.b64 {{bl, bh}}, B; {name}.cc.{t} al, al, bl; \
                 {name}c.{t} ah, ah, bh; mov.b64 D, {{al, ah}};}}"
            );
            check_rows(&text, 64, &[64; 2], &list, |v| f(v[0], v[1]));
        }
        // `addc.cc` passes the carry on: three words, of which the last is asked for.
        let text = format!(
            "{{.reg .b32 x; .reg .b64 z; mov.u64 z, 0; {name}.cc.u64 z, A, B; {name}c.cc.u64 z, z, 0; {name}c.u32 x, 5, 0; \
             mov.u32 D, x;}}"
        );
        check_rows(&text, 32, &[64; 2], &list, |v| {
            let (low, first) =
                if name == "add" { v[0].overflowing_add(v[1]) } else { v[0].overflowing_sub(v[1]) };
            let f = if name == "add" { u64::overflowing_add } else { u64::overflowing_sub };
            let second = f(low, u64::from(first)).1;
            if name == "add" { 5 + u64::from(second) } else { 5 - u64::from(second) }
        });
    }
    let text = "{.reg .b32 x; add.cc.u32 x, A, B; addc.cc.u32 x, A, B; addc.u32 D, 0, 0;}";
    check(text, 32, &[32; 2], &[&edges(32), &edges(32)], |v| {
        (v[0] + v[1] + u64::from(v[0] + v[1] > 0xFFFF_FFFF)) >> 32
    });
    let text = "{.reg .b32 x; sub.cc.u32 x, A, B; subc.cc.u32 x, A, B; subc.u32 D, 0, 0;}";
    check(text, 32, &[32; 2], &[&edges(32), &edges(32)], |v| {
        let borrow = i128::from(v[0]) - i128::from(v[1]) < 0;
        (-i128::from(i128::from(v[0]) - i128::from(v[1]) - i128::from(borrow) < 0)) as u64
    });
    let text = "{.reg .b64 x; add.cc.u64 x, A, B; addc.u64 D, A, B;}";
    check(text, 64, &[64; 2], &[&e, &e], |v| {
        let (sum, carry) = v[0].overflowing_add(v[1]);
        sum.wrapping_add(u64::from(carry))
    });
    let text = "{.reg .b64 x; sub.cc.u64 x, A, B; subc.u64 D, A, B;}";
    check(text, 64, &[64; 2], &[&e, &e], |v| {
        let (difference, borrow) = v[0].overflowing_sub(v[1]);
        difference.wrapping_sub(u64::from(borrow))
    });
}

/// "mad.cc", "madc": a product of 64 by 32 bits from words, as compilers write it.
#[test]
fn carries_chain_through_multiply_adds() {
    let (e, f) = (edges(64), edges(32));
    let text = "{.reg .b32 al, ah, l, h; mov.b64 {al, ah}, A; mov.u32 l, 0; mov.u32 h, 0; mad.lo.cc.u32 l, al, B, C; \
                madc.hi.u32 h, al, B, 0; mad.lo.u32 h, ah, B, h; mov.b64 D, {l, h};}";
    check(text, 64, &[64, 32, 32], &[&e, &f, &f], |v| v[0].wrapping_mul(v[1]).wrapping_add(v[2]));
    // `madc.lo.cc` and `madc.hi.cc`: the carry out of each, asked for by an addc.
    for (part, shift) in [("lo", 0), ("hi", 32)] {
        for (t, widen) in [("u32", unsigned as fn(u64, u32) -> i128), ("s32", signed)] {
            let text = format!(
                "{{.reg .b32 x; add.cc.u32 x, 0xFFFFFFFF, 1; madc.{part}.cc.{t} x, A, B, C; addc.u32 x, 0, 0; mov.u32 D, x;}}"
            )
            .replace("0xFFFFFFFF", "-1");
            check(&text, 32, &[32; 3], &[&f, &f, &f], |v| {
                let part = ((widen(v[0], 32) * widen(v[1], 32)) >> shift) as u32;
                (u64::from(part) + v[2] + 1) >> 32
            });
            let text = format!("{{.reg .b32 x; mad.{part}.cc.{t} x, A, B, C; addc.u32 D, 0, 0;}}");
            check(&text, 32, &[32; 3], &[&f, &f, &f], |v| {
                let part = ((widen(v[0], 32) * widen(v[1], 32)) >> shift) as u32;
                (u64::from(part) + v[2]) >> 32
            });
            let text = format!("{{.reg .b32 x; add.cc.u32 x, -1, 1; madc.{part}.{t} D, A, B, C;}}");
            check(&text, 32, &[32; 3], &[&f, &f, &f], |v| {
                let part = ((widen(v[0], 32) * widen(v[1], 32)) >> shift) as u32;
                u64::from(part) + v[2] + 1
            });
        }
    }
}
