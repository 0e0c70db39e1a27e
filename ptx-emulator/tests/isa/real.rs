//! PTX ISA, "Floating Point Instructions" of f32 and f64.
//!
//! Roundings are worked out in exact integer arithmetic: operands are small multiples of a power of two, so that sums and
//! products are integers of 128 bits, which are then rounded to so many digits by plain division.

use crate::support::{check, check_rows, product};

pub const ALL: &[fn()] = &[
    f32_add_sub_mul_fma_in_every_rounding,
    f64_add_sub_mul_fma_in_every_rounding,
    f32_division_reciprocal_and_root_in_every_rounding,
    f64_division_reciprocal_and_root_in_every_rounding,
    subnormals_are_kept_and_flushed_by_ftz,
    sat_clamps_to_one,
    infinities_and_nan,
    overflow_by_rounding,
    min_and_max,
    abs_neg_copysign,
    testp,
    approximations_are_within_their_bounds,
    approximations_at_their_special_values,
];

const ROUNDS: [&str; 4] = ["rn", "rz", "rm", "rp"];

/// `n` times 2^`scale`, rounded to `digits` binary digits.
pub fn round(n: i128, scale: i32, digits: u32, mode: &str) -> f64 {
    let (negative, a) = (n < 0, n.unsigned_abs());
    let drop = (128 - a.leading_zeros()).saturating_sub(digits);
    let (kept, rest, unit) = (a >> drop, a & ((1u128 << drop) - 1), 1u128 << drop);
    let up = rest != 0
        && match mode {
            "rn" => rest * 2 > unit || (rest * 2 == unit && kept & 1 == 1),
            "rz" => false,
            "rm" => negative,
            "rp" => !negative,
            _ => panic!("{mode}"),
        };
    let value = (kept + u128::from(up)) as f64 * 2f64.powi(drop as i32 + scale);
    if negative { -value } else { value }
}

/// A multiple of 2^-`bits` as an integer.
fn fixed(x: f64, bits: i32) -> i128 {
    (x * 2f64.powi(bits)) as i128
}

fn f(x: f32) -> u64 {
    u64::from(x.to_bits())
}

fn g(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

fn same(found: u64) -> u64 {
    // A NaN is a NaN whatever its payload.
    if g(found).is_nan() { 0x7FFF_FFFF } else { found }
}

/// Values whose products and sums need rounding, between 2^-11 and 2^11.
fn singles() -> Vec<u64> {
    let values = [
        1.0f32,
        1.0 + f32::EPSILON,
        1.0 - f32::EPSILON / 2.0,
        3.1415927,
        1.0 / 3.0,
        1000.2,
        0.001,
        5.5,
        2.0f32.powi(-11),
    ];
    values.iter().flat_map(|x| [f(*x), f(-x)]).collect()
}

fn not_zero(n: i128, value: f64, mode: &str) -> f64 {
    // "x - x" is +0, and −0 when rounding down.
    if n == 0 { if mode == "rm" { -0.0 } else { 0.0 } } else { value }
}

/// "add", "sub", "mul", "fma": ".rn mantissa LSB rounds to nearest even, .rz towards zero, .rm towards negative infinity, .rp
/// towards positive infinity"; fma rounds once.
#[test]
fn f32_add_sub_mul_fma_in_every_rounding() {
    let e = singles();
    let n = |bits: u64| fixed(g(bits).into(), 40);
    for mode in ROUNDS {
        let single = |n: i128, scale| f(not_zero(n, round(n, scale, 24, mode), mode) as f32);
        check(&format!("add.{mode}.f32 D, A, B;"), 32, &[32; 2], &[&e, &e], |v| {
            single(n(v[0]) + n(v[1]), -40)
        });
        check(&format!("sub.{mode}.f32 D, A, B;"), 32, &[32; 2], &[&e, &e], |v| {
            single(n(v[0]) - n(v[1]), -40)
        });
        check(&format!("mul.{mode}.f32 D, A, B;"), 32, &[32; 2], &[&e, &e], |v| {
            single(n(v[0]) * n(v[1]), -80)
        });
        check(&format!("fma.{mode}.f32 D, A, B, C;"), 32, &[32; 3], &[&e, &e, &e], |v| {
            single(n(v[0]) * n(v[1]) + (n(v[2]) << 40), -80)
        });
        check(&format!("mad.{mode}.f32 D, A, B, C;"), 32, &[32; 3], &[&e[..6], &e[..6], &e], |v| {
            single(n(v[0]) * n(v[1]) + (n(v[2]) << 40), -80)
        });
    }
    // "add: no rounding modifier defaults to round-to-nearest-even".
    check("add.f32 D, A, B;", 32, &[32; 2], &[&e, &e], |v| f(g(v[0]) + g(v[1])));
    check("sub.f32 D, A, B;", 32, &[32; 2], &[&e, &e], |v| f(g(v[0]) - g(v[1])));
    check("mul.f32 D, A, B;", 32, &[32; 2], &[&e, &e], |v| f(g(v[0]) * g(v[1])));
}

/// The same of f64.
#[test]
fn f64_add_sub_mul_fma_in_every_rounding() {
    let values = [1.0f64, 1.0 + f64::EPSILON, 1.0 - f64::EPSILON / 2.0, 3.141592653589793, 2.0 / 3.0, 1.5];
    let e: Vec<u64> = values.iter().flat_map(|x| [x.to_bits(), (-x).to_bits()]).collect();
    let n = |bits: u64| fixed(f64::from_bits(bits), 54);
    for mode in ROUNDS {
        let double = |n: i128, scale| not_zero(n, round(n, scale, 53, mode), mode).to_bits();
        check(&format!("add.{mode}.f64 D, A, B;"), 64, &[64; 2], &[&e, &e], |v| {
            double(n(v[0]) + n(v[1]), -54)
        });
        check(&format!("sub.{mode}.f64 D, A, B;"), 64, &[64; 2], &[&e, &e], |v| {
            double(n(v[0]) - n(v[1]), -54)
        });
        check(&format!("mul.{mode}.f64 D, A, B;"), 64, &[64; 2], &[&e, &e], |v| {
            double(n(v[0]) * n(v[1]), -108)
        });
        check(&format!("fma.{mode}.f64 D, A, B, C;"), 64, &[64; 3], &[&e, &e, &e], |v| {
            double(n(v[0]) * n(v[1]) + (n(v[2]) << 54), -108)
        });
        check(&format!("mad.{mode}.f64 D, A, B, C;"), 64, &[64; 3], &[&e[..4], &e, &e], |v| {
            double(n(v[0]) * n(v[1]) + (n(v[2]) << 54), -108)
        });
    }
}

/// "div.rnd", "rcp.rnd", "sqrt.rnd": the quotient of two integers and the root of one, rounded with a digit that says whether
/// anything is left.
#[test]
fn f32_division_reciprocal_and_root_in_every_rounding() {
    let e = singles();
    let quotient = |a: f32, b: f32, mode: &str| {
        let (x, y) = (fixed(a.into(), 40), fixed(b.into(), 40));
        let (q, r) = ((x.abs() << 60) / y.abs(), (x.abs() << 60) % y.abs());
        let n = (q << 1 | i128::from(r != 0)) * if (x < 0) != (y < 0) { -1 } else { 1 };
        f(round(n, -61, 24, mode) as f32)
    };
    for mode in ROUNDS {
        check(&format!("div.{mode}.f32 D, A, B;"), 32, &[32; 2], &[&e, &e], |v| {
            quotient(g(v[0]), g(v[1]), mode)
        });
        check(&format!("rcp.{mode}.f32 D, A;"), 32, &[32], &[&e], |v| quotient(1.0, g(v[0]), mode));
        let positive: Vec<u64> = e.iter().copied().filter(|x| g(*x) > 0.0).collect();
        check(&format!("sqrt.{mode}.f32 D, A;"), 32, &[32], &[&positive], |v| {
            let n = (fixed(g(v[0]).into(), 40) as u128) << 60;
            let root = n.isqrt();
            f(round((root << 1 | u128::from(root * root != n)) as i128, -51, 24, mode) as f32)
        });
    }
}

/// The same of f64.
#[test]
fn f64_division_reciprocal_and_root_in_every_rounding() {
    let values = [1.0f64, 3.0, 1.0 + f64::EPSILON, 1.75, 0.7, -1.9, 1.1];
    let e: Vec<u64> = values.iter().map(|x| x.to_bits()).collect();
    // Digit by digit: 60 digits of the quotient of two integers, and one more that says whether anything is left.
    let quotient = |a: f64, b: f64, mode: &str| {
        let (x, y) = (fixed(a.abs(), 54), fixed(b.abs(), 54));
        let (mut q, mut r) = (x / y, x % y);
        for _ in 0..60 {
            (q, r) = (q << 1 | i128::from(r * 2 >= y), if r * 2 >= y { r * 2 - y } else { r * 2 });
        }
        let n = (q << 1 | i128::from(r != 0)) * if (a < 0.0) != (b < 0.0) { -1 } else { 1 };
        round(n, -61, 53, mode).to_bits()
    };
    for mode in ROUNDS {
        check(&format!("div.{mode}.f64 D, A, B;"), 64, &[64; 2], &[&e, &e], |v| {
            quotient(f64::from_bits(v[0]), f64::from_bits(v[1]), mode)
        });
        check(&format!("rcp.{mode}.f64 D, A;"), 64, &[64], &[&e], |v| {
            quotient(1.0, f64::from_bits(v[0]), mode)
        });
        check(
            &format!("sqrt.{mode}.f64 D, A;"),
            64,
            &[64],
            &[&[1f64, 2.0, 3.0, 0.7, 1.1].map(f64::to_bits)],
            |v| {
                // 55 digits of the root; a rational root has few digits and leaves nothing.
                let n = (fixed(f64::from_bits(v[0]), 54) as u128) << 56;
                let root = n.isqrt();
                let rest = n - root * root;
                let (root, rest) = (root << 1 | u128::from(rest > root), rest != 0);
                round((root << 1 | u128::from(rest)) as i128, -57, 53, mode).to_bits()
            },
        );
    }
}

/// "Subnormal numbers are supported. … .ftz flushes subnormal inputs and results to sign-preserving zero."
#[test]
fn subnormals_are_kept_and_flushed_by_ftz() {
    let (small, least) = (f32::MIN_POSITIVE, f32::from_bits(1));
    let flush = |x: f32| if x.is_subnormal() { 0f32.copysign(x) } else { x };
    let e = [small, -small, least, -least, 1.5 * small, 0.5, 1.0, -0.0].map(f);
    type Two = fn(f32, f32) -> f32;
    let list: [(&str, Two); 3] = [("add", |a, b| a + b), ("sub", |a, b| a - b), ("mul", |a, b| a * b)];
    for (name, op) in list {
        check(&format!("{name}.f32 D, A, B;"), 32, &[32; 2], &[&e, &e], |v| f(op(g(v[0]), g(v[1]))));
        for mode in ["", ".rn"] {
            check(&format!("{name}{mode}.ftz.f32 D, A, B;"), 32, &[32; 2], &[&e, &e], |v| {
                f(flush(op(flush(g(v[0])), flush(g(v[1])))))
            });
        }
    }
    check("fma.rn.ftz.f32 D, A, B, C;", 32, &[32; 3], &[&e, &e, &e], |v| {
        f(flush(flush(g(v[0])).mul_add(flush(g(v[1])), flush(g(v[2])))))
    });
    check("fma.rn.f32 D, A, B, C;", 32, &[32; 3], &[&e, &e, &e], |v| f(g(v[0]).mul_add(g(v[1]), g(v[2]))));
    check("div.rn.ftz.f32 D, A, B;", 32, &[32; 2], &[&e, &[f(0.5), f(2.0), f(-4.0)]], |v| {
        f(flush(flush(g(v[0])) / g(v[1])))
    });
    check("rcp.rn.ftz.f32 D, A;", 32, &[32], &[&[f(3e38), f(1.0), f(small)]], |v| f(flush(1.0 / g(v[0]))));
    check("sqrt.rn.ftz.f32 D, A;", 32, &[32], &[&[f(least), f(small), f(4.0)]], |v| f(flush(g(v[0])).sqrt()));
    check("abs.ftz.f32 D, A;", 32, &[32], &[&e], |v| f(flush(g(v[0])).abs()));
    check("neg.ftz.f32 D, A;", 32, &[32], &[&e], |v| f(-flush(g(v[0]))));
    check("min.ftz.f32 D, A, B;", 32, &[32; 2], &[&e[..7], &e[..7]], |v| {
        f(least_of(flush(g(v[0])), flush(g(v[1]))))
    });
    check("max.ftz.f32 D, A, B;", 32, &[32; 2], &[&e[..7], &e[..7]], |v| {
        f(-least_of(-flush(g(v[0])), -flush(g(v[1]))))
    });
    // "Subnormal numbers are supported" by f64 always.
    check(
        "mul.rn.f64 D, A, B;",
        64,
        &[64; 2],
        &[&[f64::MIN_POSITIVE.to_bits()], &[0.5f64.to_bits()]],
        |_| (f64::MIN_POSITIVE * 0.5).to_bits(),
    );
}

/// "min": "-0.0 < +0.0".
fn least_of(a: f32, b: f32) -> f32 {
    if a.is_nan() {
        b
    } else if b.is_nan() || a < b || (a == b && a.is_sign_negative()) {
        a
    } else {
        b
    }
}

/// ".sat clamps the result to [0.0, 1.0]. NaN results are flushed to +0.0f."
#[test]
fn sat_clamps_to_one() {
    let e = [0.25f32, 0.5, 1.0, 7.0, -0.5, -3.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN].map(f);
    let sat = |x: f32| f(if x.is_nan() || x <= 0.0 { 0.0 } else { x.min(1.0) });
    for ftz in ["", ".ftz"] {
        check(&format!("add{ftz}.sat.f32 D, A, B;"), 32, &[32; 2], &[&e, &e], |v| sat(g(v[0]) + g(v[1])));
        check(&format!("sub{ftz}.sat.f32 D, A, B;"), 32, &[32; 2], &[&e, &e], |v| sat(g(v[0]) - g(v[1])));
        check(&format!("mul{ftz}.sat.f32 D, A, B;"), 32, &[32; 2], &[&e, &e], |v| sat(g(v[0]) * g(v[1])));
        check(&format!("fma.rn{ftz}.sat.f32 D, A, B, C;"), 32, &[32; 3], &[&e, &e, &e], |v| {
            sat(g(v[0]).mul_add(g(v[1]), g(v[2])))
        });
    }
}

/// IEEE 754 results of infinities, zeros and NaN.
#[test]
fn infinities_and_nan() {
    let e = [0.0f32, -0.0, 1.0, -2.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN].map(f);
    type Two = fn(f32, f32) -> f32;
    let list: [(&str, Two); 4] = [
        ("add.f32", |a, b| a + b),
        ("sub.f32", |a, b| a - b),
        ("mul.f32", |a, b| a * b),
        ("div.rn.f32", |a, b| a / b),
    ];
    for (name, op) in list {
        for (row, found) in product(&[&e, &e]).iter().zip(crate::support::rows(
            &format!("{name} D, A, B;"),
            32,
            &[32; 2],
            &product(&[&e, &e]),
        )) {
            assert_eq!(same(found), same(f(op(g(row[0]), g(row[1])))), "{name} {row:x?}");
        }
    }
    for (text, op) in [
        ("rcp.rn.f32 D, A;", (|x| 1.0 / x) as fn(f32) -> f32),
        ("sqrt.rn.f32 D, A;", f32::sqrt),
        ("rcp.approx.f32 D, A;", |x| 1.0 / x),
        ("sqrt.approx.f32 D, A;", f32::sqrt),
        ("rsqrt.approx.f32 D, A;", |x| if x == 0.0 { f32::INFINITY.copysign(x) } else { 1.0 / x.sqrt() }),
    ] {
        let list: Vec<Vec<u64>> = [0.0f32, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 4.0, 0.25, -4.0]
            .map(|x| vec![f(x)])
            .to_vec();
        for (row, found) in list.iter().zip(crate::support::rows(text, 32, &[32], &list)) {
            assert_eq!(same(found), same(f(op(g(row[0])))), "{text} {row:x?}");
        }
    }
}

/// IEEE 754: an overflow becomes infinity or the largest number, as the rounding leads.
#[test]
fn overflow_by_rounding() {
    let (max, inf) = (f32::MAX, f32::INFINITY);
    for (mode, above, below) in [("rn", inf, -inf), ("rz", max, -max), ("rm", max, -inf), ("rp", inf, -max)] {
        check(&format!("mul.{mode}.f32 D, A, B;"), 32, &[32; 2], &[&[f(max)], &[f(2.0), f(-2.0)]], |v| {
            f(if g(v[1]) > 0.0 { above } else { below })
        });
        check(
            &format!("fma.{mode}.f32 D, A, B, C;"),
            32,
            &[32; 3],
            &[&[f(max)], &[f(2.0), f(-2.0)], &[f(0.0)]],
            |v| f(if g(v[1]) > 0.0 { above } else { below }),
        );
    }
    // A result below the least subnormal.
    for (mode, positive) in [("rn", 0), ("rz", 0), ("rm", 0), ("rp", 1)] {
        check(&format!("mul.{mode}.f32 D, A, B;"), 32, &[32; 2], &[&[1], &[f(0.25)]], |_| positive);
    }
}

/// "min", "max": "if one of the inputs is NaN, the other; with .NaN, canonical NaN; -0.0 < +0.0".
#[test]
fn min_and_max() {
    let e = [0.0f32, -0.0, 1.0, -1.0, 2.5, f32::INFINITY, f32::NEG_INFINITY, f32::NAN].map(f);
    let nan = |v: &[u64]| g(v[0]).is_nan() || g(v[1]).is_nan();
    let both = |v: &[u64]| g(v[0]).is_nan() && g(v[1]).is_nan();
    check("min.f32 D, A, B;", 32, &[32; 2], &[&e, &e], |v| {
        if both(v) { 0x7FFF_FFFF } else { f(least_of(g(v[0]), g(v[1]))) }
    });
    check("max.f32 D, A, B;", 32, &[32; 2], &[&e, &e], |v| {
        if both(v) {
            0x7FFF_FFFF
        } else if nan(v) {
            if g(v[0]).is_nan() { v[1] } else { v[0] }
        } else {
            f(-least_of(-g(v[0]), -g(v[1])))
        }
    });
    check("min.NaN.f32 D, A, B;", 32, &[32; 2], &[&e, &e], |v| {
        if nan(v) { 0x7FFF_FFFF } else { f(least_of(g(v[0]), g(v[1]))) }
    });
    check("max.NaN.f32 D, A, B;", 32, &[32; 2], &[&e, &e], |v| {
        if nan(v) { 0x7FFF_FFFF } else { f(-least_of(-g(v[0]), -g(v[1]))) }
    });
    let e = [0.0f64, -0.0, 1.0, -1.0, f64::INFINITY, f64::NAN].map(f64::to_bits);
    for (name, sign) in [("min", 1.0), ("max", -1.0)] {
        let list: Vec<_> = product(&[&e, &e])
            .into_iter()
            .filter(|v| !v.iter().all(|x| f64::from_bits(*x).is_nan()))
            .collect();
        check_rows(&format!("{name}.f64 D, A, B;"), 64, &[64; 2], &list, |v| {
            let (a, b) = (f64::from_bits(v[0]), f64::from_bits(v[1]));
            let (x, y) = (a * sign, b * sign);
            if a.is_nan() || (!b.is_nan() && (y < x || (x == y && y.is_sign_negative()))) {
                v[1]
            } else {
                v[0]
            }
        });
    }
}

/// "abs", "neg", "copysign": "copy sign bit of a into value of b".
#[test]
fn abs_neg_copysign() {
    let e = [0.0f32, -0.0, 1.5, -2.5, f32::INFINITY, f32::NEG_INFINITY].map(f);
    check("abs.f32 D, A;", 32, &[32], &[&e], |v| v[0] & 0x7FFF_FFFF);
    check("neg.f32 D, A;", 32, &[32], &[&e], |v| v[0] ^ 0x8000_0000);
    check("copysign.f32 D, A, B;", 32, &[32; 2], &[&e, &e], |v| v[0] & 0x8000_0000 | v[1] & 0x7FFF_FFFF);
    let e = [0.0f64, -0.0, 1.5, -2.5, f64::INFINITY].map(f64::to_bits);
    check("abs.f64 D, A;", 64, &[64], &[&e], |v| v[0] << 1 >> 1);
    check("neg.f64 D, A;", 64, &[64], &[&e], |v| v[0] ^ 1 << 63);
    check("copysign.f64 D, A, B;", 64, &[64; 2], &[&e, &e], |v| v[0] >> 63 << 63 | v[1] << 1 >> 1);
}

/// "testp": "as a special case, positive and negative zero are considered normal numbers".
#[test]
fn testp() {
    let e =
        [0.0f32, -0.0, 1.0, f32::MIN_POSITIVE, f32::from_bits(1), f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
    type Test = (&'static str, fn(f64, bool) -> bool);
    let list: [Test; 6] = [
        ("finite", |x, _| x.is_finite()),
        ("infinite", |x, _| x.is_infinite()),
        ("number", |x, _| !x.is_nan()),
        ("notanumber", |x, _| x.is_nan()),
        ("normal", |x, subnormal| x.is_finite() && !subnormal),
        ("subnormal", |_, subnormal| subnormal),
    ];
    for (name, test) in list {
        check(&format!("testp.{name}.f32 %p0, A; selp.b32 D, 1, 0, %p0;"), 32, &[32], &[&e.map(f)], |v| {
            u64::from(test(g(v[0]).into(), g(v[0]).is_subnormal()))
        });
        let d =
            [0.0f64, -1.0, f64::MIN_POSITIVE, f64::from_bits(1), f64::INFINITY, f64::NAN].map(f64::to_bits);
        check(&format!("testp.{name}.f64 %p0, A; selp.b32 D, 1, 0, %p0;"), 32, &[64], &[&d], |v| {
            let x = f64::from_bits(v[0]);
            u64::from(test(x, x.is_subnormal()))
        });
    }
}

/// The bounds that the sections of each give: "ex2.approx.f32: 2 ulp", "rcp.approx: 1 ulp", "rsqrt.approx: 2^-22.9 relative", "sqrt.approx:
/// 2^-23 relative", "lg2.approx: 2^-22 (absolute in (0.5, 2), relative beyond)", "sin, cos: 2^-20.5 absolute in [-2π, 2π]", "tanh: 2^-11
/// relative", "div.approx, div.full: 2 ulp".
#[test]
fn approximations_are_within_their_bounds() {
    use crate::support::{Run, kernel, launch};
    use ptx_emulator::{Approximation, ApproximationMode, LaunchConfig, Options};
    let inputs: Vec<f32> = (0..64).map(|k| 0.03 + k as f32 * 0.0951).collect();
    let ulp = |x: f64| f64::from((x.abs() as f32).next_up() - x.abs() as f32);
    type Bound = Box<dyn Fn(f64) -> f64>;
    let relative = |r: f64| -> Bound { Box::new(move |y| y.abs() * r) };
    let absolute = |a: f64| -> Bound { Box::new(move |_| a) };
    let list: Vec<(&str, fn(f64) -> f64, Bound)> = vec![
        ("ex2.approx.f32 %f1, %f0;", f64::exp2, Box::new(move |y| 2.0 * ulp(y))),
        ("ex2.approx.ftz.f32 %f1, %f0;", f64::exp2, Box::new(move |y| 2.0 * ulp(y))),
        ("rcp.approx.f32 %f1, %f0;", |x| 1.0 / x, Box::new(ulp)),
        ("rcp.approx.ftz.f32 %f1, %f0;", |x| 1.0 / x, Box::new(ulp)),
        ("rsqrt.approx.f32 %f1, %f0;", |x| 1.0 / x.sqrt(), relative(2f64.powf(-22.9))),
        ("rsqrt.approx.ftz.f32 %f1, %f0;", |x| 1.0 / x.sqrt(), relative(2f64.powf(-22.9))),
        ("sqrt.approx.f32 %f1, %f0;", f64::sqrt, relative(2f64.powi(-23))),
        ("sqrt.approx.ftz.f32 %f1, %f0;", f64::sqrt, relative(2f64.powi(-23))),
        ("lg2.approx.f32 %f1, %f0;", f64::log2, Box::new(|y| 2f64.powi(-22) * y.abs().max(1.0))),
        ("lg2.approx.ftz.f32 %f1, %f0;", f64::log2, Box::new(|y| 2f64.powi(-22) * y.abs().max(1.0))),
        ("sin.approx.f32 %f1, %f0;", f64::sin, absolute(2f64.powf(-20.5))),
        ("sin.approx.ftz.f32 %f1, %f0;", f64::sin, absolute(2f64.powf(-20.5))),
        ("cos.approx.f32 %f1, %f0;", f64::cos, absolute(2f64.powf(-20.5))),
        ("cos.approx.ftz.f32 %f1, %f0;", f64::cos, absolute(2f64.powf(-20.5))),
        ("tanh.approx.f32 %f1, %f0;", f64::tanh, relative(2f64.powi(-11))),
        (
            "div.approx.f32 %f1, 0f40490FDB, %f0;",
            |x| f64::from(std::f32::consts::PI) / x,
            Box::new(move |y| 2.0 * ulp(y)),
        ),
        (
            "div.approx.ftz.f32 %f1, 0f40490FDB, %f0;",
            |x| f64::from(std::f32::consts::PI) / x,
            Box::new(move |y| 2.0 * ulp(y)),
        ),
        (
            "div.full.f32 %f1, 0f40490FDB, %f0;",
            |x| f64::from(std::f32::consts::PI) / x,
            Box::new(move |y| 2.0 * ulp(y)),
        ),
        (
            "div.full.ftz.f32 %f1, 0f40490FDB, %f0;",
            |x| f64::from(std::f32::consts::PI) / x,
            Box::new(move |y| 2.0 * ulp(y)),
        ),
    ];
    use ApproximationMode::{Above, Below, Exact, Random};
    for (text, function, bound) in list {
        let mut moved = false;
        for mode in [Exact, Below, Above, Random] {
            let body = format!(
                "mov.u32 %r0, %tid.x; mul.wide.u32 %rd2, %r0, 4; add.s64 %rd0, %rd0, %rd2; add.s64 %rd1, %rd1, %rd2; \
                 ld.global.f32 %f0, [%rd0]; {text} st.global.f32 [%rd1], %f1;"
            );
            let options = Options { approximation: Approximation { mode, seed: 3 }, ..Options::default() };
            let words: Vec<u32> = inputs.iter().map(|x| x.to_bits()).collect();
            let Run { words, report } =
                launch(&kernel(&body), options, &LaunchConfig::new(1, 64), &words, 64);
            assert!(report.findings.is_empty());
            for (x, y) in inputs.iter().zip(words) {
                let (exact, found) = (function(f64::from(*x)), f64::from(f32::from_bits(y)));
                // The last bit of a result rounded to f32 is no fault of the approximation.
                let most = bound(exact).max(0.5 * ulp(exact)) * (1.0 + 1e-9);
                assert!(
                    (found - exact).abs() <= most,
                    "{text} {mode:?} of {x}: {found}, not {exact} ± {most:e}"
                );
                moved |= found != f64::from(exact as f32);
            }
        }
        assert!(moved, "{text}: the error is never used");
    }
}

/// "rsqrt.approx.ftz.f64", "rcp.approx.ftz.f64" (upper 20 bits), and the tables of special values.
#[test]
fn approximations_at_their_special_values() {
    let table = |text: &str, list: &[(f32, f32)]| {
        let rows: Vec<Vec<u64>> = list.iter().map(|x| vec![f(x.0)]).collect();
        for ((x, y), found) in list.iter().zip(crate::support::rows(text, 32, &[32], &rows)) {
            assert_eq!(same(found), same(f(*y)), "{text} of {x}");
        }
    };
    let (inf, nan, sub) = (f32::INFINITY, f32::NAN, f32::from_bits(0x0040_0000));
    table(
        "ex2.approx.f32 D, A;",
        &[(-inf, 0.0), (inf, inf), (0.0, 1.0), (-0.0, 1.0), (nan, nan), (3.0, 8.0)],
    );
    table("ex2.approx.ftz.f32 D, A;", &[(-127.0, 0.0), (sub, 1.0), (-inf, 0.0), (inf, inf), (nan, nan)]);
    table(
        "lg2.approx.f32 D, A;",
        &[(0.0, -inf), (-0.0, -inf), (inf, inf), (-1.0, nan), (nan, nan), (8.0, 3.0)],
    );
    table("lg2.approx.ftz.f32 D, A;", &[(sub, -inf)]);
    table("rcp.approx.ftz.f32 D, A;", &[(sub, inf), (-sub, -inf), (inf, 0.0), (-inf, -0.0), (nan, nan)]);
    table("rsqrt.approx.ftz.f32 D, A;", &[(sub, inf), (-sub, -inf), (inf, 0.0), (-1.0, nan)]);
    table("sqrt.approx.ftz.f32 D, A;", &[(sub, 0.0), (-sub, -0.0), (inf, inf), (-1.0, nan)]);
    table("sin.approx.f32 D, A;", &[(0.0, 0.0), (-0.0, -0.0), (inf, nan), (-inf, nan), (nan, nan)]);
    table("cos.approx.f32 D, A;", &[(0.0, 1.0), (-0.0, 1.0), (inf, nan), (nan, nan)]);
    table("tanh.approx.f32 D, A;", &[(0.0, 0.0), (-0.0, -0.0), (inf, 1.0), (-inf, -1.0), (nan, nan)]);
    table("div.approx.f32 D, A, 0f40000000;", &[(inf, inf), (-0.0, -0.0), (nan, nan), (4.0, 2.0)]);
    let d = |x: f64| vec![x.to_bits()];
    for (text, function) in [
        ("rsqrt.approx.f64 D, A;", (|x| 1.0 / x.sqrt()) as fn(f64) -> f64),
        ("rsqrt.approx.ftz.f64 D, A;", |x| 1.0 / x.sqrt()),
        ("rcp.approx.ftz.f64 D, A;", |x| 1.0 / x),
    ] {
        let rows = [d(2.0), d(0.3), d(1e10)];
        for (row, found) in rows.iter().zip(crate::support::rows(text, 64, &[64], &rows)) {
            let (exact, found) = (function(f64::from_bits(row[0])), f64::from_bits(found));
            assert!((found / exact - 1.0).abs() < 2f64.powi(-19), "{text}: {found}, not {exact}");
            // "The least significant 32 bits of the result are zero."
            assert!(!text.contains("ftz") || found.to_bits() as u32 == 0, "{text}");
        }
    }
}
