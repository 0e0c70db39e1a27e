//! PTX ISA, "Half Precision Floating Point Instructions": f16, f16x2, bf16, bf16x2.

use crate::support::{check, check_rows, product};
use half::{bf16, f16};

pub const ALL: &[fn()] = &[
    add_sub_mul_fma_of_f16,
    add_sub_mul_fma_of_bf16,
    packed_forms_work_on_both_halves,
    ftz_sat_and_relu,
    min_max_abs_neg,
    tanh_and_ex2,
];

/// Values that round, among them the least subnormal and the largest number.
fn f16s() -> Vec<u64> {
    [0x3C01, 0xBC01, 0x3555, 0x4248, 0x0001, 0x03FF, 0x7BFF, 0xFBFF, 0x0000, 0x8000, 0x7C00].to_vec()
}

fn bf16s() -> Vec<u64> {
    [0x3F81, 0xBF81, 0x3EAB, 0x4049, 0x0001, 0x7F7F, 0x0000, 0x8000, 0x7F80].to_vec()
}

fn h(bits: u64) -> f64 {
    f16::from_bits(bits as u16).to_f64()
}

fn b(bits: u64) -> f64 {
    bf16::from_bits(bits as u16).to_f64()
}

/// A NaN counts as one whatever its bits.
fn same(bits: u64, kind: fn(u64) -> f64) -> u64 {
    if kind(bits).is_nan() { 0x7FFF } else { bits }
}

/// f64 holds the sum, product and (all but the last of 80 bits of) a fused sum of f16, so one rounding from it is the rounding asked for;
/// where the fused sum is longer than f64, rounding it to odd keeps the second rounding harmless.
fn fused(a: f64, x: f64, c: f64) -> f64 {
    let (p, s) = (a * x, a * x + c);
    let t = s - p;
    let error = (p - (s - t)) + (c - t);
    if error == 0.0 || !s.is_finite() || s.to_bits() & 1 == 1 {
        return s;
    }
    if (error > 0.0) == (s > 0.0) { f64::from_bits(s.to_bits() | 1) } else { f64::from_bits(s.to_bits() - 1) }
}

fn compare(text: &str, bits: u32, lists: &[&[u64]], kind: fn(u64) -> f64, expected: impl Fn(&[u64]) -> u64) {
    let rows = product(lists);
    for (row, found) in rows.iter().zip(crate::support::rows(text, bits, &vec![bits; lists.len()], &rows)) {
        assert_eq!(same(found, kind), same(expected(row), kind), "{text} of {row:x?}");
    }
}

/// "add", "sub", "mul", "fma": "rounds to nearest even"; "subnormal numbers are supported".
#[test]
fn add_sub_mul_fma_of_f16() {
    let e = f16s();
    let to = |x: f64| u64::from(f16::from_f64(x).to_bits());
    for rn in ["", ".rn"] {
        compare(&format!("add{rn}.f16 D, A, B;"), 16, &[&e, &e], h, |v| to(h(v[0]) + h(v[1])));
        compare(&format!("sub{rn}.f16 D, A, B;"), 16, &[&e, &e], h, |v| to(h(v[0]) - h(v[1])));
        compare(&format!("mul{rn}.f16 D, A, B;"), 16, &[&e, &e], h, |v| to(h(v[0]) * h(v[1])));
    }
    compare("fma.rn.f16 D, A, B, C;", 16, &[&e, &e, &e], h, |v| to(fused(h(v[0]), h(v[1]), h(v[2]))));
}

/// The same of bf16, whose range is f32's.
#[test]
fn add_sub_mul_fma_of_bf16() {
    let e = bf16s();
    let to = |x: f64| u64::from(bf16::from_f64(x).to_bits());
    compare("fma.rn.bf16 D, A, B, C;", 16, &[&e, &e, &e], b, |v| to(fused(b(v[0]), b(v[1]), b(v[2]))));
}

/// ".f16x2, .bf16x2: half-word operands are operated in parallel".
#[test]
fn packed_forms_work_on_both_halves() {
    type Two = fn(f64, f64) -> f64;
    let list: [(&str, Two); 3] = [("add", |a, b| a + b), ("sub", |a, b| a - b), ("mul", |a, b| a * b)];
    let e = [0x3C01_4248u64, 0x4248_BC01, 0x0001_3555, 0x7BFF_0000];
    let each = |v: &[u64], f: &dyn Fn(&[u64]) -> u64| {
        (0..2)
            .fold(0, |d, k| d | f(&v.iter().map(|x| x >> (16 * k) & 0xFFFF).collect::<Vec<_>>()) << (16 * k))
    };
    let to = |x: f64| u64::from(f16::from_f64(x).to_bits());
    for (name, f) in list {
        check(&format!("{name}.f16x2 D, A, B;"), 32, &[32; 2], &[&e, &e], |v| {
            each(v, &|v| to(f(h(v[0]), h(v[1]))))
        });
    }
    check("fma.rn.f16x2 D, A, B, C;", 32, &[32; 3], &[&e, &e, &e], |v| {
        each(v, &|v| to(fused(h(v[0]), h(v[1]), h(v[2]))))
    });
    let e = [0x3F81_4049u64, 0x4049_BF81, 0x3EAB_3F80];
    check("fma.rn.bf16x2 D, A, B, C;", 32, &[32; 3], &[&e, &e, &e], |v| {
        each(v, &|v| u64::from(bf16::from_f64(fused(b(v[0]), b(v[1]), b(v[2]))).to_bits()))
    });
    check("neg.f16x2 D, A;", 32, &[32], &[&e], |v| v[0] ^ 0x8000_8000);
    check("neg.bf16x2 D, A;", 32, &[32], &[&e], |v| v[0] ^ 0x8000_8000);
    check("abs.f16x2 D, A;", 32, &[32], &[&e], |v| v[0] & 0x7FFF_7FFF);
    check("abs.bf16x2 D, A;", 32, &[32], &[&e], |v| v[0] & 0x7FFF_7FFF);
    for (name, less) in [("min", true), ("max", false)] {
        check(&format!("{name}.f16x2 D, A, B;"), 32, &[32; 2], &[&e, &e], |v| {
            each(v, &|v| if (h(v[0]) < h(v[1])) == less { v[0] } else { v[1] })
        });
        check(&format!("{name}.bf16x2 D, A, B;"), 32, &[32; 2], &[&e, &e], |v| {
            each(v, &|v| if (b(v[0]) < b(v[1])) == less { v[0] } else { v[1] })
        });
        let nan = [0x7E00_3C00u64, 0x3C00_BC00];
        check(&format!("{name}.NaN.f16x2 D, A, B;"), 32, &[32; 2], &[&nan, &nan[1..]], |v| {
            each(v, &|v| match h(v[0]).is_nan() {
                true => 0x7FFF,
                false => {
                    if (h(v[0]) < h(v[1])) == less {
                        v[0]
                    } else {
                        v[1]
                    }
                }
            })
        });
        let nan = [0x7FC0_3F80u64, 0x3F80_BF80];
        check(&format!("{name}.NaN.bf16x2 D, A, B;"), 32, &[32; 2], &[&nan, &nan[1..]], |v| {
            each(v, &|v| match b(v[0]).is_nan() {
                true => 0x7FFF,
                false => {
                    if (b(v[0]) < b(v[1])) == less {
                        v[0]
                    } else {
                        v[1]
                    }
                }
            })
        });
    }
}

/// ".ftz: subnormal inputs and results are flushed to sign-preserving zero"; ".sat: clamps to [0.0, 1.0], NaN to +0.0"; fma
/// ".relu: clamps the result to 0 if negative; NaN result is converted to canonical NaN".
#[test]
fn ftz_sat_and_relu() {
    let e = f16s();
    let to = |x: f64| u64::from(f16::from_f64(x).to_bits());
    let flush = |bits: u64| if bits & 0x7C00 == 0 { bits & 0x8000 } else { bits };
    let sat = |x: f64| if x.is_nan() || x <= 0.0 { 0.0 } else { x.min(1.0) };
    type Two = fn(f64, f64) -> f64;
    let list: [(&str, Two); 3] = [("add", |a, b| a + b), ("sub", |a, b| a - b), ("mul", |a, b| a * b)];
    for (name, f) in list {
        compare(&format!("{name}.ftz.f16 D, A, B;"), 16, &[&e, &e], h, |v| {
            flush(to(f(h(flush(v[0])), h(flush(v[1])))))
        });
        compare(&format!("{name}.sat.f16 D, A, B;"), 16, &[&e, &e], h, |v| to(sat(f(h(v[0]), h(v[1])))));
        compare(
            &format!("{name}.ftz.sat.f16x2 D, A, B;"),
            32,
            &[&[0x0001_4000, 0x3800_0001], &[0x3C00_3C00]],
            |x| x as f64,
            |v| {
                (0..2).fold(0, |d, k| {
                    let [a, b] = [v[0] >> (16 * k) & 0xFFFF, v[1] >> (16 * k) & 0xFFFF].map(|x| h(flush(x)));
                    d | flush(to(sat(f(a, b)))) << (16 * k)
                })
            },
        );
    }
    compare("fma.rn.ftz.f16 D, A, B, C;", 16, &[&e, &e, &e], h, |v| {
        flush(to(fused(h(flush(v[0])), h(flush(v[1])), h(flush(v[2])))))
    });
    compare("fma.rn.sat.f16 D, A, B, C;", 16, &[&e, &e, &e], h, |v| {
        to(sat(fused(h(v[0]), h(v[1]), h(v[2]))))
    });
    let relu = |x: f64| if x < 0.0 { 0.0 } else { x };
    check("abs.ftz.f16 D, A;", 16, &[16], &[&e], |v| flush(v[0]) & 0x7FFF);
    check("neg.ftz.f16 D, A;", 16, &[16], &[&e], |v| flush(v[0]) ^ 0x8000);
    compare("fma.rn.relu.f16 D, A, B, C;", 16, &[&e, &e[..5], &e[..5]], h, |v| {
        to(relu(fused(h(v[0]), h(v[1]), h(v[2]))))
            & if relu(fused(h(v[0]), h(v[1]), h(v[2]))) == 0.0 { 0x7FFF } else { 0xFFFF }
    });
    let e = bf16s();
    compare("fma.rn.relu.bf16 D, A, B, C;", 16, &[&e[..5], &e[..5], &e[..5]], b, |v| {
        u64::from(bf16::from_f64(relu(fused(b(v[0]), b(v[1]), b(v[2])))).to_bits())
    });
}

/// "min", "max" (NaN gives way, with .NaN it wins; -0 < +0), "abs", "neg".
#[test]
fn min_max_abs_neg() {
    for (t, kind, list, nan) in
        [("f16", h as fn(u64) -> f64, f16s(), 0x7E00u64), ("bf16", b, bf16s(), 0x7FC0)]
    {
        let e: Vec<u64> = list.into_iter().chain([nan]).collect();
        for (name, sign) in [("min", 1.0), ("max", -1.0)] {
            let pick = move |v: &[u64]| {
                let (x, y) = (kind(v[0]) * sign, kind(v[1]) * sign);
                let second = x.is_nan() || y < x || (x == y && y.is_sign_negative() && !x.is_sign_negative());
                if second && !kind(v[1]).is_nan() { v[1] } else { v[0] }
            };
            compare(&format!("{name}.{t} D, A, B;"), 16, &[&e, &e], kind, pick);
            compare(&format!("{name}.NaN.{t} D, A, B;"), 16, &[&e, &e], kind, move |v| {
                if kind(v[0]).is_nan() || kind(v[1]).is_nan() { nan } else { pick(v) }
            });
        }
        check_rows(&format!("abs.{t} D, A;"), 16, &[16], &product(&[&e]), |v| v[0] & 0x7FFF);
        check_rows(&format!("neg.{t} D, A;"), 16, &[16], &product(&[&e[..8]]), |v| v[0] ^ 0x8000);
    }
}

/// "tanh.approx.{f16, f16x2, bf16, bf16x2}", "ex2.approx.atype", "ex2.approx.ftz.btype": within "2^-10.987 absolute" (f16), "2^-8" (bf16); "2^-9.9
/// relative" (f16), "2^-7" (bf16).
#[test]
fn tanh_and_ex2() {
    for (t, kind, width, tanh, ex2) in [
        ("f16", h as fn(u64) -> f64, 16, 2f64.powf(-10.987), 2f64.powf(-9.9)),
        ("f16x2", h, 32, 2f64.powf(-10.987), 2f64.powf(-9.9)),
        ("bf16", b, 16, 2f64.powi(-8), 2f64.powi(-7)),
        ("bf16x2", b, 32, 2f64.powi(-8), 2f64.powi(-7)),
    ] {
        let values: Vec<u64> = [0.0f32, 0.25, -0.7, 1.3, -2.0, 3.1]
            .iter()
            .map(|x| {
                u64::from(if t.starts_with('f') {
                    f16::from_f32(*x).to_bits()
                } else {
                    bf16::from_f32(*x).to_bits()
                })
            })
            .map(|x| if width == 32 { x << 16 | x } else { x })
            .collect();
        let rows = product(&[&values]);
        let ftz = if t.starts_with('b') { ".ftz" } else { "" };
        for (text, f, absolute, relative) in [
            (format!("tanh.approx.{t} D, A;"), f64::tanh as fn(f64) -> f64, tanh, 0.0),
            (format!("ex2.approx{ftz}.{t} D, A;"), f64::exp2, 0.0, ex2),
        ] {
            for (row, found) in rows.iter().zip(crate::support::rows(&text, width, &[width], &rows)) {
                for k in 0..width / 16 {
                    let (x, y) = (kind(row[0] >> (16 * k) & 0xFFFF), kind(found >> (16 * k) & 0xFFFF));
                    let most = (absolute + relative * f(x).abs())
                        .max(f(x).abs() * 2f64.powi(if t.starts_with('f') { -11 } else { -8 }));
                    assert!((y - f(x)).abs() <= most, "{text} of {x}: {y}, not {} ± {most}", f(x));
                }
            }
        }
    }
}
