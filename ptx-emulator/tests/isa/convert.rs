//! PTX ISA, "cvt": integers, floats, and both ways, in every rounding.

use crate::real::round;
use crate::support::{check, check_rows, product, signed, unsigned};
use half::{bf16, f16};

pub const ALL: &[fn()] = &[
    integers_are_cut_or_extended,
    sat_clamps_integers_to_the_range_of_the_destination,
    floats_to_integers_in_each_rounding,
    integers_to_floats_in_each_rounding,
    floats_to_integral_floats,
    floats_to_narrower_floats_in_each_rounding,
    floats_to_wider_floats,
    pairs_of_f32_are_packed_high_first,
    f32_to_tf32,
    eight_bit_floats,
    sat_relu_and_ftz,
];

const WIDTHS: [u32; 4] = [8, 16, 32, 64];

fn integers() -> Vec<u64> {
    vec![
        0,
        1,
        0x7F,
        0x80,
        0xFF,
        0x7FFF,
        0x8000,
        0xFFFF,
        0x7FFF_FFFF,
        0x8000_0000,
        0xFFFF_FFFF,
        1 << 63,
        u64::MAX,
        0x1234_5678_9ABC_DEF0,
    ]
}

/// The register that a type lives in: 8-bit types live in 16 bits.
fn register(bits: u32) -> u32 {
    bits.max(16)
}

fn widen(t: &str, x: u64, bits: u32) -> i128 {
    if t == "s" { signed(x, bits) } else { unsigned(x, bits) }
}

/// "Integer conversions: zero- or sign-extends, or truncates".
#[test]
fn integers_are_cut_or_extended() {
    for (to, from) in [("s", "s"), ("u", "u"), ("s", "u"), ("u", "s")] {
        for n in WIDTHS {
            for m in WIDTHS {
                let text = format!("cvt.{to}{n}.{from}{m} D, A;");
                check(&text, register(n), &[register(m)], &[&integers()], |v| {
                    // "The result is extended to the register by the destination type."
                    let cut = widen(from, v[0], m) as u64;
                    widen(to, cut, n) as u64
                });
            }
        }
    }
}

/// ".sat: limits the result to MININT..MAXINT for the size of the operation".
#[test]
fn sat_clamps_integers_to_the_range_of_the_destination() {
    for (to, from) in [("s", "s"), ("u", "u"), ("s", "u"), ("u", "s")] {
        for n in WIDTHS {
            for m in WIDTHS {
                let (low, high) = if to == "s" {
                    (-(1i128 << (n - 1)), (1i128 << (n - 1)) - 1)
                } else {
                    (0, (1i128 << n) - 1)
                };
                check(
                    &format!("cvt.sat.{to}{n}.{from}{m} D, A;"),
                    register(n),
                    &[register(m)],
                    &[&integers()],
                    |v| widen(from, v[0], m).clamp(low, high) as u64,
                );
            }
        }
    }
}

/// "float-to-integer: .rni nearest even, .rzi towards zero, .rmi down, .rpi up; the result is clamped to the destination's range by
/// default; NaN becomes 0" for f32 and narrower.
#[test]
fn floats_to_integers_in_each_rounding() {
    let values = [
        0.0f64,
        0.5,
        1.5,
        2.5,
        -0.5,
        -1.5,
        -2.7,
        100.25,
        127.5,
        -128.75,
        255.5,
        40000.0,
        -40000.0,
        3e9,
        -3e9,
        1e19,
        -1e19,
        f64::INFINITY,
        f64::NEG_INFINITY,
    ];
    let rounds: [(&str, fn(f64) -> f64); 4] =
        [("rni", f64::round_ties_even), ("rzi", f64::trunc), ("rmi", f64::floor), ("rpi", f64::ceil)];
    type Encode = fn(f64) -> u64;
    type Decode = fn(u64) -> f64;
    let floats: [(&str, u32, Encode, Decode); 4] = [
        ("f64", 64, f64::to_bits, f64::from_bits),
        ("f32", 32, |x| u64::from((x as f32).to_bits()), |x| f64::from(f32::from_bits(x as u32))),
        ("f16", 16, |x| u64::from(f16::from_f64(x).to_bits()), |x| f16::from_bits(x as u16).to_f64()),
        ("bf16", 16, |x| u64::from(bf16::from_f64(x).to_bits()), |x| bf16::from_bits(x as u16).to_f64()),
    ];
    for (from, bits, encode, decode) in floats {
        let list: Vec<u64> = values.iter().map(|x| encode(*x)).collect();
        for (mode, f) in rounds {
            for to in ["s", "u"] {
                for n in WIDTHS {
                    let (low, high) = if to == "s" {
                        (-(1i128 << (n - 1)), (1i128 << (n - 1)) - 1)
                    } else {
                        (0, (1i128 << n) - 1)
                    };
                    let text = format!("cvt.{mode}.{to}{n}.{from} D, A;");
                    // `as` saturates, so the clamp is i128's and then the type's.
                    check(&text, register(n), &[bits], &[&list], |v| {
                        (f(decode(v[0])) as i128).clamp(low, high) as u64
                    });
                }
            }
        }
        if from != "f64" {
            check(&format!("cvt.rzi.s32.{from} D, A;"), 32, &[bits], &[&[encode(f64::NAN)]], |_| 0);
            check(&format!("cvt.rzi.u32.{from} D, A;"), 32, &[bits], &[&[encode(f64::NAN)]], |_| 0);
        }
    }
}

const FLOATS: [(&str, u32, u32); 4] = [("f16", 16, 11), ("bf16", 16, 8), ("f32", 32, 24), ("f64", 64, 53)];

/// A number that the type has, as its bits.
fn encode(t: &str, x: f64) -> u64 {
    match t {
        "f16" => u64::from(f16::from_f64(x).to_bits()),
        "bf16" => u64::from(bf16::from_f64(x).to_bits()),
        "f32" => u64::from((x as f32).to_bits()),
        _ => x.to_bits(),
    }
}

/// "integer-to-float: .rn, .rz, .rm, .rp".
#[test]
fn integers_to_floats_in_each_rounding() {
    for (to, width, digits) in FLOATS {
        for mode in ["rn", "rz", "rm", "rp"] {
            for from in ["s", "u"] {
                for m in WIDTHS {
                    // f16 ends at 65504: what is beyond is left to the test of overflow.
                    let list: Vec<u64> = integers()
                        .into_iter()
                        .filter(|x| to != "f16" || widen(from, *x, m).abs() < 65504)
                        .collect();
                    check(
                        &format!("cvt.{mode}.{to}.{from}{m} D, A;"),
                        width,
                        &[register(m)],
                        &[&list],
                        |v| encode(to, round(widen(from, v[0], m), 0, digits, mode)),
                    );
                }
            }
        }
    }
}

/// "float-to-float with an integer rounding: the result is an integral value in the same type".
#[test]
fn floats_to_integral_floats() {
    let values = [0.0, -0.0, 0.5, 1.5, 2.5, -0.5, -2.7, 100.25, 1e6];
    let rounds: [(&str, fn(f64) -> f64); 4] =
        [("rni", f64::round_ties_even), ("rzi", f64::trunc), ("rmi", f64::floor), ("rpi", f64::ceil)];
    for (t, width, _) in FLOATS {
        let list: Vec<u64> = values.iter().filter(|x| **x < 60000.0).map(|x| encode(t, *x)).collect();
        for (mode, f) in rounds {
            let decode = |x: u64| match t {
                "f16" => f16::from_bits(x as u16).to_f64(),
                "bf16" => bf16::from_bits(x as u16).to_f64(),
                "f32" => f64::from(f32::from_bits(x as u32)),
                _ => f64::from_bits(x),
            };
            check(&format!("cvt.{mode}.{t}.{t} D, A;"), width, &[width], &[&list], |v| {
                encode(t, f(decode(v[0])))
            });
        }
    }
}

/// "float-to-float to a smaller type: a rounding is required".
#[test]
fn floats_to_narrower_floats_in_each_rounding() {
    let values = [
        1.0f64,
        1.0 / 3.0,
        -1.0 / 3.0,
        1.0009765625,
        1.00146484375,
        3.0e-5,
        65504.0,
        -7.77,
        0.0,
        1.0 + 2f64.powi(-24),
    ];
    for mode in ["rn", "rz", "rm", "rp"] {
        let narrow = |x: f64, digits: u32| round((x * 2f64.powi(70)) as i128, -70, digits, mode);
        for (from, bits) in [("f64", 64), ("f32", 32)] {
            for (to, width, digits) in FLOATS {
                // ".bf16, .f16 from .f32: .rn and .rz"; from f64 and to f32 all four.
                if width >= bits {
                    continue;
                }
                let list: Vec<u64> = values.iter().map(|x| encode(from, *x)).collect();
                check(&format!("cvt.{mode}.{to}.{from} D, A;"), width, &[bits], &[&list], |v| {
                    let x = if from == "f64" {
                        f64::from_bits(v[0])
                    } else {
                        f64::from(f32::from_bits(v[0] as u32))
                    };
                    // f16's digits dwindle below 2^-14.
                    let digits = if to == "f16" && x != 0.0 && x.abs() < 2f64.powi(-14) {
                        11 - (-14 - x.abs().log2().floor() as i32) as u32
                    } else {
                        digits
                    };
                    encode(to, narrow(x, digits))
                });
            }
        }
    }
    // Between the two of 16 bits: both roundings.
    let list: Vec<u64> = [1.0, -3.14, 0.3333].map(|x| encode("f16", x)).to_vec();
    for mode in ["rn", "rz", "rm", "rp"] {
        check(&format!("cvt.{mode}.bf16.f16 D, A;"), 16, &[16], &[&list], |v| {
            encode(
                "bf16",
                round((f16::from_bits(v[0] as u16).to_f64() * 2f64.powi(40)) as i128, -40, 8, mode),
            )
        });
        let list = [1.5, -3.14, 0.3333].map(|x| encode("bf16", x));
        check(&format!("cvt.{mode}.f16.bf16 D, A;"), 16, &[16], &[&list], |v| {
            encode(
                "f16",
                round((bf16::from_bits(v[0] as u16).to_f64() * 2f64.powi(40)) as i128, -40, 11, mode),
            )
        });
    }
    // Overflow goes to infinity or to the largest number, as the rounding leads.
    for (mode, above) in [("rn", 0x7C00), ("rz", 0x7BFF), ("rm", 0x7BFF), ("rp", 0x7C00)] {
        check(&format!("cvt.{mode}.f16.f32 D, A;"), 16, &[32], &[&[encode("f32", 1e6)]], |_| above);
        check(&format!("cvt.{mode}.f16.s32 D, A;"), 16, &[32], &[&[1_000_000]], |_| above);
    }
}

/// "float-to-float to a larger type: exact, no rounding".
#[test]
fn floats_to_wider_floats() {
    let values = [1.5f64, -0.0, 0.09375, f64::INFINITY, -24.0];
    for (from, bits, _) in FLOATS {
        for (to, width, _) in FLOATS {
            if width > bits {
                let list: Vec<u64> = values.iter().map(|x| encode(from, *x)).collect();
                let rows = product(&[&list]);
                for (x, found) in values.iter().zip(crate::support::rows(
                    &format!("cvt.{to}.{from} D, A;"),
                    width,
                    &[bits],
                    &rows,
                )) {
                    assert_eq!(found, encode(to, *x), "cvt.{to}.{from} of {x}");
                }
            }
        }
    }
    check("cvt.f32.f16 D, A;", 32, &[16], &[&[0x0001]], |_| encode("f32", 2f64.powi(-24)));
}

/// "For .f16x2 and .bf16x2: the value converted from a is stored in the upper half of d, from b in the lower".
#[test]
fn pairs_of_f32_are_packed_high_first() {
    // What .relu makes of −0 the manual does not say.
    let values = [1.0f64, -0.333, 7.77, 0.0, 65504.0].map(|x| encode("f32", x));
    let x = |bits: u64| f64::from(f32::from_bits(bits as u32));
    for mode in ["rn", "rz"] {
        for (t, digits) in [("f16", 11), ("bf16", 8)] {
            for relu in ["", ".relu"] {
                check(
                    &format!("cvt.{mode}{relu}.{t}x2.f32 D, A, B;"),
                    32,
                    &[32; 2],
                    &[&values, &values],
                    |v| {
                        let one = |bits: u64| {
                            let x = if relu.is_empty() { x(bits) } else { x(bits).max(0.0) };
                            let y = round((x * 2f64.powi(60)) as i128, -60, digits, mode);
                            encode(t, y)
                        };
                        one(v[0]) << 16 | one(v[1])
                    },
                );
            }
        }
    }
}

/// "cvt.rna.tf32.f32": to nearest, ties away from zero, in the upper 19 bits; the others may hold anything.
#[test]
fn f32_to_tf32() {
    let list = [
        0x3F80_0000u64,
        0x3F80_0FFF,
        0x3F80_1000,
        0x3F80_1001,
        0x3F80_3000,
        0xBF80_1000,
        0x0000_0000,
        0x4049_0FDB,
    ];
    check(
        "{.reg .b32 t; cvt.rna.tf32.f32 t, A; and.b32 D, t, 0xFFFFE000;}"
            .replace("0xFFFFE000", "-8192")
            .as_str(),
        32,
        &[32],
        &[&list],
        |v| (v[0] + 0x1000) & !0x1FFF,
    );
}

/// e4m3: four bits of exponent (bias 7), three of mantissa, no infinity, NaN is 0x7F; e5m2: bias 15, two of mantissa. ".satfinite:
/// beyond the range, the largest number of its sign; NaN stays NaN".
#[test]
fn eight_bit_floats() {
    let decode = |bits: u64, mantissa: i32, bias: i32| {
        let (e, m) = ((bits & 0x7F) >> mantissa, bits & ((1 << mantissa) - 1));
        let sign = if bits & 0x80 == 0 { 1.0 } else { -1.0 };
        let m = m as f64 / 2f64.powi(mantissa);
        sign * if e == 0 { m * 2f64.powi(1 - bias) } else { (1.0 + m) * 2f64.powi(e as i32 - bias) }
    };
    // Every finite value up: both bytes of every pair.
    for (t, mantissa, bias, last) in [("e4m3x2", 3, 7, 0x7Eu64), ("e5m2x2", 2, 15, 0x7B)] {
        let all: Vec<Vec<u64>> =
            (0..=255u64).filter(|b| b & 0x7F <= last).map(|b| vec![b << 8 | (b ^ 1).min(last)]).collect();
        check_rows(&format!("cvt.rn.f16x2.{t} D, A;"), 32, &[16], &all, |v| {
            let one = |b: u64| u64::from(f16::from_f64(decode(b, mantissa, bias)).to_bits());
            one(v[0] >> 8) << 16 | one(v[0] & 0xFF)
        });
        // And down: nearest of all values, ties to the even mantissa.
        let nearest = |x: f64| {
            let best = (0..=last).min_by(|a, b| {
                let (x, ya, yb) = (x.abs(), decode(*a, mantissa, bias), decode(*b, mantissa, bias));
                (x - ya).abs().total_cmp(&(x - yb).abs()).then((a & 1).cmp(&(b & 1)))
            });
            best.unwrap() | if x.is_sign_negative() { 0x80 } else { 0 }
        };
        let values = [
            0.0f64,
            1.0,
            -1.0625,
            1.1875,
            0.3,
            -0.0021,
            447.0,
            449.0,
            1e6,
            -1e6,
            0.015625,
            2f64.powi(-10),
            57344.0,
        ]
        .map(|x| encode("f32", x));
        check(&format!("cvt.rn.satfinite.{t}.f32 D, A, B;"), 16, &[32; 2], &[&values, &values], |v| {
            let x = |bits: u64| f64::from(f32::from_bits(bits as u32));
            nearest(x(v[0])) << 8 | nearest(x(v[1]))
        });
        let halves = [0x3C00_0000u64, 0x7BFF_BC40, 0x34CD_1400].to_vec();
        check(&format!("cvt.rn.satfinite.{t}.f16x2 D, A;"), 16, &[32], &[&halves], |v| {
            let x = |bits: u64| f16::from_bits(bits as u16).to_f64();
            nearest(x(v[0] >> 16)) << 8 | nearest(x(v[0] & 0xFFFF))
        });
        check(&format!("cvt.rn.satfinite.relu.{t}.f32 D, A, B;"), 16, &[32; 2], &[&values, &values], |v| {
            let x = |bits: u64| f64::from(f32::from_bits(bits as u32)).max(0.0);
            (nearest(x(v[0])) << 8 | nearest(x(v[1]))) & 0x7F7F
        });
    }
}

/// ".sat: clamps to [0.0, 1.0], NaN to +0.0"; ".relu: negative to 0"; ".ftz: subnormal f32 to zero of its sign".
#[test]
fn sat_relu_and_ftz() {
    let values = [0.5f64, -0.5, 2.0, f64::INFINITY, f64::NAN].map(|x| encode("f32", x));
    let x = |bits: u64| f64::from(f32::from_bits(bits as u32));
    let sat = |x: f64| if x.is_nan() || x <= 0.0 { 0.0 } else { x.min(1.0) };
    check("cvt.sat.f32.f32 D, A;", 32, &[32], &[&values], |v| encode("f32", sat(x(v[0]))));
    check("cvt.rn.sat.f16.f32 D, A;", 16, &[32], &[&values], |v| encode("f16", sat(x(v[0]))));
    check("cvt.sat.f64.f32 D, A;", 64, &[32], &[&values], |v| encode("f64", sat(x(v[0]))));
    for t in ["f16", "bf16"] {
        check(&format!("cvt.rn.relu.{t}.f32 D, A;"), 16, &[32], &[&values[..4]], |v| {
            encode(t, x(v[0]).max(0.0))
        });
        check(&format!("cvt.rz.relu.{t}.f32 D, A;"), 16, &[32], &[&values[..3]], |v| {
            encode(t, x(v[0]).max(0.0))
        });
    }
    let tiny = [1u64, 0x8000_0001, 0x0080_0000, 0x3F80_0000];
    check("cvt.ftz.f64.f32 D, A;", 64, &[32], &[&tiny], |v| {
        let flushed = if v[0] & 0x7F80_0000 == 0 { v[0] & 0x8000_0000 } else { v[0] };
        x(flushed).to_bits()
    });
    check("cvt.rpi.ftz.f32.f32 D, A;", 32, &[32], &[&tiny], |v| {
        let flushed = if v[0] & 0x7F80_0000 == 0 { v[0] & 0x8000_0000 } else { v[0] };
        encode("f32", x(flushed).ceil())
    });
    check(
        "cvt.rn.ftz.f32.f64 D, A;",
        32,
        &[64],
        &[&[1e-40f64.to_bits(), (-1e-40f64).to_bits(), 1.5f64.to_bits()]],
        |v| {
            let y = f64::from_bits(v[0]) as f32;
            u64::from(if y.is_subnormal() { 0f32.copysign(y) } else { y }.to_bits())
        },
    );
    check("cvt.rni.ftz.s32.f32 D, A;", 32, &[32], &[&tiny], |v| u64::from(v[0] == 0x3F80_0000));
}
