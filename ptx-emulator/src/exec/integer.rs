//! Integer arithmetic, logic and bit operations, 32 lanes at a time.
//!
//! 16-bit values live in the low half of a 32-bit plane, the upper half zero.

use super::view::{Versions, View, each_lane, versions};
use crate::ir::*;

/// Runs an integer instruction.
pub static RUN: Versions = versions!(run);

#[inline(always)]
fn s16(v: u32) -> i32 {
    i32::from(v as u16 as i16)
}

#[inline(always)]
fn run(v: &mut View, i: &Instruction, m: u32) {
    match i.op {
        Op::Int2(f, Width::W32) => int2_32(v, i, m, f),
        Op::Int2(f, Width::W64) => int2_64(v, i, m, f),
        Op::Int2(f, Width::W16) => int2_16(v, i, m, f),
        Op::Int1(f, w) => int1(v, i, m, f, w),
        Op::Int3(f, w) => int3(v, i, m, f, w),
        Op::MulWide { signed, w } => mul_wide(v, i, m, signed, w, false),
        Op::MadWide { signed, w } => mul_wide(v, i, m, signed, w, true),
        Op::Lop3(lut) => v.map3(i, m, |a, b, c| {
            let mut d = 0;
            for k in 0..8 {
                let on = 0u32.wrapping_sub(u32::from(lut >> k & 1));
                let pick = |x: u32, bit: u32| if k & bit != 0 { x } else { !x };
                d |= on & pick(a, 4) & pick(b, 2) & pick(c, 1);
            }
            d
        }),
        Op::Shf { left, wrap } => v.map3(i, m, |lo, hi, c| {
            let n = if wrap { c & 31 } else { c.min(32) };
            let both = u64::from(hi) << 32 | u64::from(lo);
            if left { ((both << n) >> 32) as u32 } else { (both >> n) as u32 }
        }),
        Op::Prmt(mode) => v.map3(i, m, |a, b, c| prmt(mode, a, b, c)),
        Op::Bfi(Width::W64) => {
            let (a, b) = (v.read64(i.s[0]), v.read64(i.s[1]));
            let (c, d) = (v.read32(i.s[2]), v.read32(i.s[3]));
            let mut out = [0; 32];
            for l in 0..32 {
                out[l] = bfi(a[l], b[l], c[l], d[l], 64);
            }
            v.write64(i.d[0], m, &out);
        }
        Op::Bfi(_) => {
            let (a, b) = (v.read32(i.s[0]), v.read32(i.s[1]));
            let (c, d) = (v.read32(i.s[2]), v.read32(i.s[3]));
            let mut out = [0; 32];
            for l in 0..32 {
                out[l] = bfi(u64::from(a[l]), u64::from(b[l]), c[l], d[l], 32) as u32;
            }
            v.write32(i.d[0], m, &out);
        }
        Op::Bmsk { wrap } => v.map2(i, m, |a, b| {
            let (a, b) = if wrap { (a & 31, b & 31) } else { (a.min(32), b.min(32)) };
            (((1u64 << b) - 1) << a) as u32
        }),
        Op::Szext { signed, wrap } => v.map2(i, m, |a, n| {
            let n = if wrap { n & 31 } else { n.min(32) };
            if n == 32 {
                a
            } else if n == 0 {
                0
            } else if signed {
                ((a << (32 - n)) as i32 >> (32 - n)) as u32
            } else {
                a & ((1 << n) - 1)
            }
        }),
        Op::Mul24 { signed, high, add } => {
            let product = |a: u32, b: u32| {
                let p = if signed {
                    (i64::from((a << 8) as i32 >> 8) * i64::from((b << 8) as i32 >> 8)) as u64
                } else {
                    u64::from(a & 0xFF_FFFF) * u64::from(b & 0xFF_FFFF)
                };
                if high { (p >> 16) as u32 } else { p as u32 }
            };
            if add {
                v.map3(i, m, |a, b, c| product(a, b).wrapping_add(c));
            } else {
                v.map2(i, m, product);
            }
        }
        Op::Dp4a { signed_a, signed_b } => v.map3(i, m, |a, b, c| {
            let byte = |x: u32, k: u32, s: bool| {
                let b = (x >> (8 * k)) as u8;
                if s { i32::from(b as i8) } else { i32::from(b) }
            };
            (0..4).fold(c, |sum, k| sum.wrapping_add((byte(a, k, signed_a) * byte(b, k, signed_b)) as u32))
        }),
        Op::Dp2a { signed_a, signed_b, high } => v.map3(i, m, |a, b, c| {
            (0..2).fold(c, |sum, k| {
                let x = (a >> (16 * k)) as u16;
                let x = if signed_a { i32::from(x as i16) } else { i32::from(x) };
                let y = (b >> (8 * k + if high { 16 } else { 0 })) as u8;
                let y = if signed_b { i32::from(y as i8) } else { i32::from(y) };
                sum.wrapping_add(x.wrapping_mul(y) as u32)
            })
        }),
        Op::Carry { subtract, carry_in, carry_out, w } => carry(v, i, m, subtract, carry_in, carry_out, w),
        Op::MadCarry { high, signed, carry_in, carry_out, w } => {
            mad_carry(v, i, m, high, signed, carry_in, carry_out, w)
        }
        _ => unreachable!("not an integer instruction"),
    }
}

#[inline(always)]
fn int2_32(v: &mut View, i: &Instruction, m: u32, f: Int2) {
    match f {
        Int2::Add => v.map2(i, m, u32::wrapping_add),
        Int2::AddSat => v.map2(i, m, |a, b| (a as i32).saturating_add(b as i32) as u32),
        Int2::Sub => v.map2(i, m, u32::wrapping_sub),
        Int2::SubSat => v.map2(i, m, |a, b| (a as i32).saturating_sub(b as i32) as u32),
        Int2::MulLo => v.map2(i, m, u32::wrapping_mul),
        Int2::MulHiU => v.map2(i, m, |a, b| (u64::from(a) * u64::from(b) >> 32) as u32),
        Int2::MulHiS => v.map2(i, m, |a, b| (i64::from(a as i32) * i64::from(b as i32) >> 32) as u32),
        // Division by zero gives all ones, as GPUs do; the manual leaves it open.
        Int2::DivU => v.map2(i, m, |a, b| a.checked_div(b).unwrap_or(u32::MAX)),
        Int2::DivS => {
            v.map2(i, m, |a, b| if b == 0 { u32::MAX } else { (a as i32).wrapping_div(b as i32) as u32 })
        }
        Int2::RemU => v.map2(i, m, |a, b| a.checked_rem(b).unwrap_or(u32::MAX)),
        Int2::RemS => {
            v.map2(i, m, |a, b| if b == 0 { u32::MAX } else { (a as i32).wrapping_rem(b as i32) as u32 })
        }
        Int2::MinU => v.map2(i, m, u32::min),
        Int2::MinS => v.map2(i, m, |a, b| (a as i32).min(b as i32) as u32),
        Int2::MaxU => v.map2(i, m, u32::max),
        Int2::MaxS => v.map2(i, m, |a, b| (a as i32).max(b as i32) as u32),
        Int2::And => v.map2(i, m, |a, b| a & b),
        Int2::Or => v.map2(i, m, |a, b| a | b),
        Int2::Xor => v.map2(i, m, |a, b| a ^ b),
        Int2::Shl => v.map2(i, m, |a, b| if b > 31 { 0 } else { a << (b & 31) }),
        Int2::ShrU => v.map2(i, m, |a, b| if b > 31 { 0 } else { a >> (b & 31) }),
        Int2::ShrS => v.map2(i, m, |a, b| ((a as i32) >> b.min(31)) as u32),
    }
}

#[inline(always)]
fn int2_64(v: &mut View, i: &Instruction, m: u32, f: Int2) {
    if matches!(f, Int2::Shl | Int2::ShrU | Int2::ShrS) {
        // The shift count has 32 bits.
        let (a, b) = (v.read64(i.s[0]), v.read32(i.s[1]));
        let mut out = [0u64; 32];
        for l in 0..32 {
            let n = b[l];
            out[l] = match f {
                Int2::Shl if n > 63 => 0,
                Int2::Shl => a[l] << (n & 63),
                Int2::ShrU if n > 63 => 0,
                Int2::ShrU => a[l] >> (n & 63),
                _ => (a[l] as i64 >> n.min(63)) as u64,
            };
        }
        v.write64(i.d[0], m, &out);
        return;
    }
    match f {
        Int2::Add | Int2::AddSat => v.wide2(i, m, u64::wrapping_add),
        Int2::Sub | Int2::SubSat => v.wide2(i, m, u64::wrapping_sub),
        Int2::MulLo => v.wide2(i, m, u64::wrapping_mul),
        Int2::MulHiU => v.wide2(i, m, |a, b| (u128::from(a) * u128::from(b) >> 64) as u64),
        Int2::MulHiS => v.wide2(i, m, |a, b| (i128::from(a as i64) * i128::from(b as i64) >> 64) as u64),
        Int2::DivU => v.wide2(i, m, |a, b| a.checked_div(b).unwrap_or(u64::MAX)),
        Int2::DivS => {
            v.wide2(i, m, |a, b| if b == 0 { u64::MAX } else { (a as i64).wrapping_div(b as i64) as u64 })
        }
        Int2::RemU => v.wide2(i, m, |a, b| a.checked_rem(b).unwrap_or(u64::MAX)),
        Int2::RemS => {
            v.wide2(i, m, |a, b| if b == 0 { u64::MAX } else { (a as i64).wrapping_rem(b as i64) as u64 })
        }
        Int2::MinU => v.wide2(i, m, u64::min),
        Int2::MinS => v.wide2(i, m, |a, b| (a as i64).min(b as i64) as u64),
        Int2::MaxU => v.wide2(i, m, u64::max),
        Int2::MaxS => v.wide2(i, m, |a, b| (a as i64).max(b as i64) as u64),
        Int2::And => v.wide2(i, m, |a, b| a & b),
        Int2::Or => v.wide2(i, m, |a, b| a | b),
        _ => v.wide2(i, m, |a, b| a ^ b),
    }
}

#[inline(always)]
fn int2_16(v: &mut View, i: &Instruction, m: u32, f: Int2) {
    let low = |x: u32| x & 0xFFFF;
    match f {
        Int2::Add | Int2::AddSat => v.map2(i, m, |a, b| low(a.wrapping_add(b))),
        Int2::Sub | Int2::SubSat => v.map2(i, m, |a, b| low(a.wrapping_sub(b))),
        Int2::MulLo => v.map2(i, m, |a, b| low(a.wrapping_mul(b))),
        Int2::MulHiU => v.map2(i, m, |a, b| low(low(a) * low(b) >> 16)),
        Int2::MulHiS => v.map2(i, m, |a, b| low((s16(a) * s16(b) >> 16) as u32)),
        Int2::DivU => v.map2(i, m, |a, b| low(a).checked_div(low(b)).unwrap_or(0xFFFF)),
        Int2::DivS => v.map2(i, m, |a, b| low(s16(a).checked_div(s16(b)).unwrap_or(-1) as u32)),
        Int2::RemU => v.map2(i, m, |a, b| low(a).checked_rem(low(b)).unwrap_or(0xFFFF)),
        Int2::RemS => v.map2(i, m, |a, b| low(s16(a).checked_rem(s16(b)).unwrap_or(-1) as u32)),
        Int2::MinU => v.map2(i, m, |a, b| low(a).min(low(b))),
        Int2::MinS => v.map2(i, m, |a, b| low(s16(a).min(s16(b)) as u32)),
        Int2::MaxU => v.map2(i, m, |a, b| low(a).max(low(b))),
        Int2::MaxS => v.map2(i, m, |a, b| low(s16(a).max(s16(b)) as u32)),
        Int2::And => v.map2(i, m, |a, b| low(a & b)),
        Int2::Or => v.map2(i, m, |a, b| low(a | b)),
        Int2::Xor => v.map2(i, m, |a, b| low(a ^ b)),
        Int2::Shl => v.map2(i, m, |a, b| if b > 15 { 0 } else { low(a << (b & 15)) }),
        Int2::ShrU => v.map2(i, m, |a, b| if b > 15 { 0 } else { low(a) >> (b & 15) }),
        Int2::ShrS => v.map2(i, m, |a, b| low((s16(a) >> b.min(15)) as u32)),
    }
}

#[inline(always)]
fn int1(v: &mut View, i: &Instruction, m: u32, f: Int1, w: Width) {
    if w == Width::W64 {
        let a = v.read64(i.s[0]);
        match f {
            Int1::Abs => v.wide1(i, m, |a| (a as i64).wrapping_abs() as u64),
            Int1::Neg => v.wide1(i, m, u64::wrapping_neg),
            Int1::Not => v.wide1(i, m, |a| !a),
            Int1::Cnot => v.wide1(i, m, |a| u64::from(a == 0)),
            Int1::Brev => v.wide1(i, m, u64::reverse_bits),
            Int1::Popc => v.write32(i.d[0], m, &each_lane(&a, u64::count_ones)),
            Int1::Clz => v.write32(i.d[0], m, &each_lane(&a, u64::leading_zeros)),
            Int1::Bfind { signed, shift } => {
                let find = |a: u64| {
                    let a = if signed && (a as i64) < 0 { !a } else { a };
                    if a == 0 {
                        u32::MAX
                    } else if shift {
                        a.leading_zeros()
                    } else {
                        63 - a.leading_zeros()
                    }
                };
                v.write32(i.d[0], m, &a.map(find));
            }
        }
        return;
    }
    if w == Width::W16 {
        let low = |x: u32| x & 0xFFFF;
        match f {
            Int1::Abs => v.map1(i, m, |a| low(s16(a).unsigned_abs())),
            Int1::Neg => v.map1(i, m, |a| low(a.wrapping_neg())),
            Int1::Not => v.map1(i, m, |a| low(!a)),
            _ => v.map1(i, m, |a| u32::from(low(a) == 0)),
        }
        return;
    }
    match f {
        Int1::Abs => v.map1(i, m, |a| (a as i32).wrapping_abs() as u32),
        Int1::Neg => v.map1(i, m, u32::wrapping_neg),
        Int1::Not => v.map1(i, m, |a| !a),
        Int1::Cnot => v.map1(i, m, |a| u32::from(a == 0)),
        Int1::Popc => v.map1(i, m, u32::count_ones),
        Int1::Clz => v.map1(i, m, u32::leading_zeros),
        Int1::Brev => v.map1(i, m, u32::reverse_bits),
        Int1::Bfind { signed, shift } => v.map1(i, m, |a| {
            let a = if signed && (a as i32) < 0 { !a } else { a };
            if a == 0 {
                u32::MAX
            } else if shift {
                a.leading_zeros()
            } else {
                31 - a.leading_zeros()
            }
        }),
    }
}

#[inline(always)]
fn int3(v: &mut View, i: &Instruction, m: u32, f: Int3, w: Width) {
    if matches!(f, Int3::BfeU | Int3::BfeS) {
        let signed = f == Int3::BfeS;
        let (b, c) = (v.read32(i.s[1]), v.read32(i.s[2]));
        if w == Width::W64 {
            let a = v.read64(i.s[0]);
            let mut out = [0; 32];
            for l in 0..32 {
                out[l] = bfe(a[l], b[l], c[l], 64, signed);
            }
            v.write64(i.d[0], m, &out);
        } else {
            let a = v.read32(i.s[0]);
            let mut out = [0; 32];
            for l in 0..32 {
                out[l] = bfe(u64::from(a[l]), b[l], c[l], 32, signed) as u32;
            }
            v.write32(i.d[0], m, &out);
        }
        return;
    }
    match (w, f) {
        (Width::W32, Int3::MadLo) => v.map3(i, m, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        (Width::W32, Int3::MadHiU) => {
            v.map3(i, m, |a, b, c| ((u64::from(a) * u64::from(b) >> 32) as u32).wrapping_add(c));
        }
        (Width::W32, Int3::MadHiS) => {
            v.map3(i, m, |a, b, c| {
                ((i64::from(a as i32) * i64::from(b as i32) >> 32) as u32).wrapping_add(c)
            });
        }
        (Width::W32, Int3::MadHiSatS) => v.map3(i, m, |a, b, c| {
            ((i64::from(a as i32) * i64::from(b as i32) >> 32) as i32).saturating_add(c as i32) as u32
        }),
        (Width::W32, Int3::SadU) => v.map3(i, m, |a, b, c| c.wrapping_add(a.abs_diff(b))),
        (Width::W32, _) => v.map3(i, m, |a, b, c| c.wrapping_add((a as i32).abs_diff(b as i32))),
        (Width::W64, Int3::MadLo) => v.wide3(i, m, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        (Width::W64, Int3::MadHiU) => {
            v.wide3(i, m, |a, b, c| ((u128::from(a) * u128::from(b) >> 64) as u64).wrapping_add(c));
        }
        (Width::W64, Int3::MadHiS) => {
            v.wide3(i, m, |a, b, c| {
                ((i128::from(a as i64) * i128::from(b as i64) >> 64) as u64).wrapping_add(c)
            });
        }
        (Width::W64, Int3::SadU) => v.wide3(i, m, |a, b, c| c.wrapping_add(a.abs_diff(b))),
        (Width::W64, _) => v.wide3(i, m, |a, b, c| c.wrapping_add((a as i64).abs_diff(b as i64))),
        (_, Int3::MadLo) => v.map3(i, m, |a, b, c| a.wrapping_mul(b).wrapping_add(c) & 0xFFFF),
        (_, Int3::MadHiU) => {
            v.map3(i, m, |a, b, c| ((a & 0xFFFF) * (b & 0xFFFF) >> 16).wrapping_add(c) & 0xFFFF);
        }
        (_, Int3::MadHiS) => {
            v.map3(i, m, |a, b, c| ((s16(a) * s16(b) >> 16) as u32).wrapping_add(c) & 0xFFFF)
        }
        (_, Int3::SadU) => v.map3(i, m, |a, b, c| c.wrapping_add((a & 0xFFFF).abs_diff(b & 0xFFFF)) & 0xFFFF),
        (_, _) => v.map3(i, m, |a, b, c| c.wrapping_add(s16(a).abs_diff(s16(b))) & 0xFFFF),
    }
}

#[inline(always)]
fn mul_wide(v: &mut View, i: &Instruction, m: u32, signed: bool, w: Width, add: bool) {
    let (a, b) = (v.read32(i.s[0]), v.read32(i.s[1]));
    if w == Width::W16 {
        let c = if add { v.read32(i.s[2]) } else { [0; 32] };
        let mut out = [0u32; 32];
        for l in 0..32 {
            let p = if signed { (s16(a[l]) * s16(b[l])) as u32 } else { (a[l] & 0xFFFF) * (b[l] & 0xFFFF) };
            out[l] = p.wrapping_add(c[l]);
        }
        v.write32(i.d[0], m, &out);
        return;
    }
    let c = if add { v.read64(i.s[2]) } else { [0; 32] };
    let mut out = [0u64; 32];
    for l in 0..32 {
        let p = if signed {
            (i64::from(a[l] as i32) * i64::from(b[l] as i32)) as u64
        } else {
            u64::from(a[l]) * u64::from(b[l])
        };
        out[l] = p.wrapping_add(c[l]);
    }
    v.write64(i.d[0], m, &out);
}

/// Inserts the low `len` bits of `a` into `b` at `pos` (PTX ISA, "bfi"): counts are taken modulo 256.
fn bfi(a: u64, b: u64, pos: u32, len: u32, bits: u32) -> u64 {
    let (pos, len) = (pos & 0xFF, len & 0xFF);
    if pos >= bits || len == 0 {
        return b;
    }
    let len = len.min(bits - pos);
    let field = (u64::MAX >> (64 - len)) << pos;
    b & !field | a << pos & field
}

/// Extracts a field, sign-extended by its top bit or the value's (PTX ISA, "bfe").
fn bfe(a: u64, pos: u32, len: u32, bits: u32, signed: bool) -> u64 {
    let (pos, len) = (pos & 0xFF, len & 0xFF);
    let msb = bits - 1;
    let sign = if !signed || len == 0 { 0 } else { a >> (pos + len - 1).min(msb) & 1 };
    let mut d = if sign != 0 { u64::MAX } else { 0 };
    if len > 0 && pos <= msb {
        let n = len.min(msb - pos + 1);
        let field = u64::MAX >> (64 - n);
        d = d & !field | a >> pos & field;
    }
    d & (u64::MAX >> (64 - bits))
}

/// Picks bytes of `{b, a}` by the nibbles of `c` (PTX ISA, "prmt").
#[inline(always)]
fn prmt(mode: u8, a: u32, b: u32, c: u32) -> u32 {
    let both = u64::from(b) << 32 | u64::from(a);
    let byte = |k: u32| (both >> (8 * (k & 7))) as u32 & 0xFF;
    if mode == 0 {
        let one = |nibble: u32| {
            let x = byte(nibble);
            if nibble & 8 != 0 { if x & 0x80 != 0 { 0xFF } else { 0 } } else { x }
        };
        return one(c & 15) | one(c >> 4 & 15) << 8 | one(c >> 8 & 15) << 16 | one(c >> 12 & 15) << 24;
    }
    let n = c & 3;
    let at: [u32; 4] = match mode {
        1 => [n, n + 1, n + 2, n + 3],
        2 => [n, n.wrapping_sub(1), n.wrapping_sub(2), n.wrapping_sub(3)],
        3 => [n; 4],
        4 => [n, n.max(1), n.max(2), 3],
        5 => [0, n.min(1), n.min(2), n],
        _ => [(n & 1) * 2, (n & 1) * 2 + 1, (n & 1) * 2, (n & 1) * 2 + 1],
    };
    byte(at[0]) | byte(at[1]) << 8 | byte(at[2]) << 16 | byte(at[3]) << 24
}

#[inline(always)]
fn carry(v: &mut View, i: &Instruction, m: u32, subtract: bool, carry_in: bool, carry_out: bool, w: Width) {
    let flag = v.preds[0];
    let mut out_flag = 0u32;
    // For subtraction the flag is the borrow.
    let step = |a: u128, b: u128, c: u128, bits: u32| -> (u64, u32) {
        let mask = (1u128 << bits) - 1;
        let r = if subtract { a.wrapping_sub(b).wrapping_sub(c) } else { a + b + c };
        ((r & mask) as u64, u32::from(r >> bits & 1 != 0))
    };
    let c = |l: usize| u128::from(carry_in && flag >> l & 1 != 0);
    if w == Width::W64 {
        let (a, b) = (v.read64(i.s[0]), v.read64(i.s[1]));
        let mut out = [0; 32];
        for l in 0..32 {
            let (r, f) = step(u128::from(a[l]), u128::from(b[l]), c(l), 64);
            out[l] = r;
            out_flag |= f << l;
        }
        v.write64(i.d[0], m, &out);
    } else {
        let (a, b) = (v.read32(i.s[0]), v.read32(i.s[1]));
        let mut out = [0; 32];
        for l in 0..32 {
            let (r, f) = step(u128::from(a[l]), u128::from(b[l]), c(l), 32);
            out[l] = r as u32;
            out_flag |= f << l;
        }
        v.write32(i.d[0], m, &out);
    }
    if carry_out {
        v.preds[0] = flag & !m | out_flag & m;
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn mad_carry(
    v: &mut View,
    i: &Instruction,
    m: u32,
    high: bool,
    signed: bool,
    carry_in: bool,
    carry_out: bool,
    w: Width,
) {
    let flag = v.preds[0];
    let mut out_flag = 0u32;
    let bits = w.bits();
    let read = |v: &View, s: Slot| if bits == 64 { v.read64(s) } else { each_lane(&v.read32(s), u64::from) };
    let (a, b, c) = (read(v, i.s[0]), read(v, i.s[1]), read(v, i.s[2]));
    let mut out = [0u64; 32];
    for l in 0..32 {
        let p = match (bits, signed) {
            (64, true) => (i128::from(a[l] as i64) * i128::from(b[l] as i64)) as u128,
            (64, false) => u128::from(a[l]) * u128::from(b[l]),
            (_, true) => (i64::from(a[l] as u32 as i32) * i64::from(b[l] as u32 as i32)) as u64 as u128,
            _ => u128::from(a[l] * b[l]),
        };
        let mask = (1u128 << bits) - 1;
        let part = if high { p >> bits & mask } else { p & mask };
        let r = part + u128::from(c[l]) + u128::from(carry_in && flag >> l & 1 != 0);
        out[l] = (r & mask) as u64;
        out_flag |= u32::from(r >> bits != 0) << l;
    }
    if bits == 64 {
        v.write64(i.d[0], m, &out);
    } else {
        v.write32(i.d[0], m, &each_lane(&out, |x| x as u32));
    }
    if carry_out {
        v.preds[0] = flag & !m | out_flag & m;
    }
}
