//! PTX ISA, "Logic and Shift Instructions" and the bit-field instructions of "Integer Arithmetic Instructions".

use crate::support::{check, check_rows, edges, product, signed};

pub const ALL: &[fn()] =
    &[logic, shifts_beyond_the_width, lop3, shf, prmt, bfe_and_bfi, bfind_clz_popc_brev, bmsk, szext];

/// "and", "or", "xor", "not", "cnot": bit by bit; `cnot` is `(a==0) ? 1 : 0`.
#[test]
fn logic() {
    for bits in [16, 32, 64] {
        let e = edges(bits);
        check(&format!("and.b{bits} D, A, B;"), bits, &[bits; 2], &[&e, &e], |v| v[0] & v[1]);
        check(&format!("or.b{bits} D, A, B;"), bits, &[bits; 2], &[&e, &e], |v| v[0] | v[1]);
        check(&format!("xor.b{bits} D, A, B;"), bits, &[bits; 2], &[&e, &e], |v| v[0] ^ v[1]);
        check(&format!("not.b{bits} D, A;"), bits, &[bits], &[&e], |v| !v[0]);
        check(&format!("cnot.b{bits} D, A;"), bits, &[bits], &[&e], |v| u64::from(v[0] == 0));
    }
}

/// "shl", "shr": "shift amounts greater than the register width N are clamped to N"; `.s` fills with the sign.
#[test]
fn shifts_beyond_the_width() {
    for bits in [16, 32, 64] {
        let (e, by) =
            (edges(bits), [0, 1, 5, u64::from(bits) - 1, u64::from(bits), u64::from(bits) + 1, 0xFFFF_FFFF]);
        let n = |v: &[u64]| v[1].min(u64::from(bits)) as u32;
        check(&format!("shl.b{bits} D, A, B;"), bits, &[bits, 32], &[&e, &by], |v| {
            ((v[0] as u128) << n(v)) as u64
        });
        check(&format!("shr.u{bits} D, A, B;"), bits, &[bits, 32], &[&e, &by], |v| {
            (v[0] as u128 >> n(v)) as u64
        });
        check(&format!("shr.s{bits} D, A, B;"), bits, &[bits, 32], &[&e, &by], |v| {
            (signed(v[0], bits) >> n(v)) as u64
        });
    }
}

/// "lop3": the table is the function of 0xF0, 0xCC and 0xAA; each of the 256.
#[test]
fn lop3() {
    let list = product(&[&[0xF0F0_1234], &[0xCCCC_5678], &[0xAAAA_9ABC]]);
    for lut in 0..256u64 {
        check_rows(&format!("lop3.b32 D, A, B, C, {lut};"), 32, &[32; 3], &list, |v| {
            (0..32).fold(0, |d, k| {
                let at = (v[0] >> k & 1) << 2 | (v[1] >> k & 1) << 1 | (v[2] >> k & 1);
                d | (lut >> at & 1) << k
            })
        });
    }
}

/// "shf": of the 64 bits [b, a], the upper 32 after a left shift, the lower 32 after a right shift; the amount wraps or clamps at 32.
#[test]
fn shf() {
    let (e, by) = (edges(32), [0, 1, 13, 31, 32, 33, 64, 0xFFFF_FFFF]);
    for (mode, wrap) in [("wrap", true), ("clamp", false)] {
        let n = |v: &[u64]| if wrap { v[2] & 31 } else { v[2].min(32) };
        check(&format!("shf.l.{mode}.b32 D, A, B, C;"), 32, &[32; 3], &[&e, &e, &by], |v| {
            let both = u128::from(v[1]) << 32 | u128::from(v[0]);
            ((both << n(v)) >> 32) as u64
        });
        check(&format!("shf.r.{mode}.b32 D, A, B, C;"), 32, &[32; 3], &[&e, &e, &by], |v| {
            (u128::from(v[1] << 32 | v[0]) >> n(v)) as u64
        });
    }
}

/// "prmt": the generic form with its sign bit, and the table of the six modes.
#[test]
fn prmt() {
    let (a, b) = (0x8382_0100u64, 0x0786_8504u64);
    let byte = |v: &[u64], k: u64| (v[1] << 32 | v[0]) >> (8 * k) & 0xFF;
    check(
        "prmt.b32 D, A, B, C;",
        32,
        &[32; 3],
        &[&[a], &[b], &[0x3210, 0x7654, 0x0F81, 0xFEDC, 0x89AB, 0xFFFF_1357]],
        |v| {
            (0..4).fold(0, |d, k| {
                let selector = v[2] >> (4 * k) & 0xF;
                let value = byte(v, selector & 7);
                let value = if selector & 8 == 0 { value } else { 0xFF * (value >> 7) };
                d | value << (8 * k)
            })
        },
    );
    // Rows of the table: for control 0 to 3, the source bytes of destination bytes 3, 2, 1, 0.
    let modes: [(&str, [[u64; 4]; 4]); 6] = [
        ("f4e", [[3, 2, 1, 0], [4, 3, 2, 1], [5, 4, 3, 2], [6, 5, 4, 3]]),
        ("b4e", [[5, 6, 7, 0], [6, 7, 0, 1], [7, 0, 1, 2], [0, 1, 2, 3]]),
        ("rc8", [[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 3]]),
        ("ecl", [[3, 2, 1, 0], [3, 2, 1, 1], [3, 2, 2, 2], [3, 3, 3, 3]]),
        ("ecr", [[0, 0, 0, 0], [1, 1, 1, 0], [2, 2, 1, 0], [3, 2, 1, 0]]),
        ("rc16", [[1, 0, 1, 0], [3, 2, 3, 2], [1, 0, 1, 0], [3, 2, 3, 2]]),
    ];
    for (mode, table) in modes {
        check(&format!("prmt.b32.{mode} D, A, B, C;"), 32, &[32; 3], &[&[a], &[b], &[0, 1, 2, 3, 7]], |v| {
            table[(v[2] & 3) as usize].iter().fold(0, |d, k| d << 8 | byte(v, *k))
        });
    }
}

/// "bfe": bits [pos, pos+len) with position and length of 8 bits, beyond them the sign; "bfi": the same bits replaced.
#[test]
fn bfe_and_bfi() {
    let by = [0u64, 1, 4, 8, 31, 32, 33, 63, 64, 255, 256 + 4];
    for bits in [32u32, 64] {
        let e = edges(bits);
        let msb = u64::from(bits) - 1;
        let extract = |v: &[u64], s: bool| {
            let (pos, len) = (v[1] & 0xFF, v[2] & 0xFF);
            let sign = if !s || len == 0 { 0 } else { v[0] >> (pos + len - 1).min(msb) & 1 };
            (0..=msb)
                .fold(0, |d, i| d | if i < len && pos + i <= msb { v[0] >> (pos + i) & 1 } else { sign } << i)
        };
        check(&format!("bfe.u{bits} D, A, B, C;"), bits, &[bits, 32, 32], &[&e, &by, &by], |v| {
            extract(v, false)
        });
        check(&format!("bfe.s{bits} D, A, B, C;"), bits, &[bits, 32, 32], &[&e, &by, &by], |v| {
            extract(v, true)
        });
        check(
            &format!("bfi.b{bits} D, A, B, C, E;"),
            bits,
            &[bits, bits, 32, 32],
            &[&e[..6], &e[..6], &by, &by],
            |v| {
                let (pos, len) = (v[2] & 0xFF, v[3] & 0xFF);
                (0..len)
                    .take_while(|i| pos + i <= msb)
                    .fold(v[1], |f, i| f & !(1 << (pos + i)) | (v[0] >> i & 1) << (pos + i))
            },
        );
    }
}

/// "bfind", "clz", "popc", "brev".
#[test]
fn bfind_clz_popc_brev() {
    for bits in [32u32, 64] {
        let mut e = edges(bits);
        e.extend((0..bits).step_by(7).map(|k| 1 << k));
        for (t, s) in [("u", false), ("s", true)] {
            for shift in [false, true] {
                let name = if shift { ".shiftamt" } else { "" };
                check(&format!("bfind{name}.{t}{bits} D, A;"), 32, &[bits], &[&e], |v| {
                    let a = if s && v[0] >> (bits - 1) & 1 == 1 { !v[0] } else { v[0] };
                    match (0..bits).rev().find(|i| a >> i & 1 == 1) {
                        None => 0xFFFF_FFFF,
                        Some(i) if shift => u64::from(bits - 1 - i),
                        Some(i) => u64::from(i),
                    }
                });
            }
        }
        check(&format!("clz.b{bits} D, A;"), 32, &[bits], &[&e], |v| {
            u64::from((0..bits).rev().take_while(|i| v[0] >> i & 1 == 0).count() as u32)
        });
        check(&format!("popc.b{bits} D, A;"), 32, &[bits], &[&e], |v| (0..bits).map(|i| v[0] >> i & 1).sum());
        check(&format!("brev.b{bits} D, A;"), bits, &[bits], &[&e], |v| {
            (0..bits).fold(0, |d, i| d | (v[0] >> i & 1) << (bits - 1 - i))
        });
    }
}

/// "bmsk": a mask of b bits from bit a on; .wrap takes both modulo 32, .clamp stops at 32.
#[test]
fn bmsk() {
    let e = [0u64, 1, 5, 16, 31, 32, 33, 40, 255];
    for (mode, clamp) in [("clamp", true), ("wrap", false)] {
        check(&format!("bmsk.{mode}.b32 D, A, B;"), 32, &[32; 2], &[&e, &e], |v| {
            let (a, b) = if clamp { (v[0].min(32), v[1].min(32)) } else { (v[0] & 31, v[1] & 31) };
            (a..(a + b).min(32)).fold(0, |d, k| d | 1 << k)
        });
    }
}

/// "szext": the low b bits, extended by their sign or by zeros; at b = 0 nothing is left, at 32 and more .clamp keeps all.
#[test]
fn szext() {
    let (e, by) = (edges(32), [0u64, 1, 4, 16, 31, 32, 40, 255]);
    for (mode, clamp) in [("clamp", true), ("wrap", false)] {
        for (t, s) in [("u32", false), ("s32", true)] {
            check(&format!("szext.{mode}.{t} D, A, B;"), 32, &[32; 2], &[&e, &by], |v| {
                let b = v[1] & 31;
                if clamp && v[1] >= 32 {
                    v[0]
                } else if b == 0 {
                    0
                } else if s {
                    signed(v[0], b as u32) as u64
                } else {
                    v[0] & ((1 << b) - 1)
                }
            });
        }
    }
}
