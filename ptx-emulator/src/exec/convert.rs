//! Conversions (PTX ISA, "cvt"), lane by lane through exact intermediate values.

use super::view::{Versions, View, each_lane, versions};
use crate::float::*;
use crate::ir::{Convert, Instruction, Op, Round};
use crate::types::Type;

/// Runs a conversion.
pub static RUN: Versions = versions!(run);

#[inline(always)]
fn run(v: &mut View, i: &Instruction, m: u32) {
    let Op::Convert(c) = i.op else { unreachable!("not a conversion") };
    if c.pack {
        return pack(v, i, m, c);
    }
    // The common ones, in vector form.
    let plain = !c.ftz && !c.sat && !c.relu && c.register_bytes == 4 && c.source_bytes == 4;
    match (c.to, c.from) {
        (Type::F32, Type::S32) if plain && c.round == Round::Near => {
            return v.map1(i, m, |a| (a as i32 as f32).to_bits());
        }
        (Type::F32, Type::U32) if plain && c.round == Round::Near => {
            return v.map1(i, m, |a| (a as f32).to_bits());
        }
        _ => {}
    }
    if c.source_bytes == 8 {
        let a = v.read64(i.s[0]);
        return write(v, i, m, c, a);
    }
    let a = each_lane(&v.read32(i.s[0]), u64::from);
    write(v, i, m, c, a);
}

#[inline(always)]
fn write(v: &mut View, i: &Instruction, m: u32, c: Convert, a: [u64; 32]) {
    let out = if c.to.integer() && c.from.integer() && !c.sat {
        let (from, to) = (64 - bits_of(c.from), 64 - bits_of(c.to));
        match (c.from.signed(), c.to.signed()) {
            (false, false) => each_lane(&a, |x| x << from >> from << to >> to),
            (true, false) => each_lane(&a, |x| (((x << from) as i64 >> from) as u64) << to >> to),
            (false, true) => each_lane(&a, |x| ((x << from >> from << to) as i64 >> to) as u64),
            (true, true) => each_lane(&a, |x| ((((x << from) as i64 >> from) << to) >> to) as u64),
        }
    } else if c.to.integer() && c.from.integer() {
        each_lane(&a, |x| integer_to_integer(c, x))
    } else if c.from.integer() {
        each_lane(&a, |x| integer_to_float(c, extend(c.from, x)))
    } else if matches!(c.to, Type::F16x2 | Type::E4m3x2 | Type::E5m2x2) {
        each_lane(&a, |x| eight_bits(c, x))
    } else if c.to.integer() {
        each_lane(&a, |x| float_to_integer(c, x))
    } else {
        each_lane(&a, |x| float_to_float(c, x))
    };
    if c.register_bytes == 8 {
        v.write64(i.d[0], m, &out);
    } else {
        let keep = if c.register_bytes == 4 { u32::MAX } else { 0xFFFF };
        v.write32(i.d[0], m, &each_lane(&out, |x| x as u32 & keep));
    }
}

fn bits_of(ty: Type) -> u32 {
    ty.bytes() * 8
}

/// The value of an integer's low bits.
fn extend(ty: Type, x: u64) -> i128 {
    let n = bits_of(ty);
    let low = x & (u64::MAX >> (64 - n));
    if ty.signed() { i128::from((low << (64 - n)) as i64 >> (64 - n)) } else { i128::from(low) }
}

fn limits(ty: Type) -> (i128, i128) {
    let n = bits_of(ty);
    if ty.signed() { (-(1 << (n - 1)), (1 << (n - 1)) - 1) } else { (0, (1 << n) - 1) }
}

/// The register bits of an integer result, extended by its sign to the register.
fn result(ty: Type, x: i128) -> u64 {
    extend(ty, x as u64) as u64
}

/// With `.sat`.
fn integer_to_integer(c: Convert, x: u64) -> u64 {
    let (low, high) = limits(c.to);
    result(c.to, extend(c.from, x).clamp(low, high))
}

fn integer_to_float(c: Convert, x: i128) -> u64 {
    match c.to {
        Type::F64 => {
            let r = x as f64;
            direct64(r, (x - r as i128) as f64, c.round).to_bits()
        }
        Type::F32 => {
            let r = x as f32;
            let r = direct32(r, (x - r as i128) as f64, c.round);
            u64::from(if c.sat { r.clamp(0.0, 1.0) } else { r }.to_bits())
        }
        // Beyond 2^53 all is infinity or the largest value of a 16-bit float, but for bf16: round to odd first.
        _ => {
            let r = x as f64;
            let rest = x - r as i128;
            let exact = odd_sum(r, rest as f64);
            let exact = if c.sat { exact.clamp(0.0, 1.0) } else { exact };
            u64::from(if c.to == Type::F16 { to_f16(exact, c.round) } else { to_bf16(exact, c.round) })
        }
    }
}

/// The value of a float source.
fn value(c: Convert, x: u64) -> f64 {
    match c.from {
        Type::F64 => f64::from_bits(x),
        Type::F32 => {
            let x = f32::from_bits(x as u32);
            f64::from(if c.ftz { flush(x) } else { x })
        }
        Type::F16 => f64::from(f16(x as u32 & 0xFFFF)),
        _ => f64::from(bf16(x as u32 & 0xFFFF)),
    }
}

fn integral(x: f64, round: Round) -> f64 {
    match round {
        Round::Near => x.round_ties_even(),
        Round::Away => x.round(),
        Round::Zero => x.trunc(),
        Round::Down => x.floor(),
        Round::Up => x.ceil(),
    }
}

fn float_to_integer(c: Convert, x: u64) -> u64 {
    let x = value(c, x);
    // NaN gives 0, of 64 bits 0x8000000000000000; infinities and what is out of range clamp (PTX ISA, "cvt").
    if x.is_nan() {
        let wide = c.to.bytes() == 8 || c.from == Type::F64;
        return match (wide, c.to.bytes()) {
            (true, 8) => 1 << 63,
            (true, 4) => 1 << 31,
            _ => 0,
        };
    }
    let (low, high) = limits(c.to);
    result(c.to, (integral(x, c.round) as i128).clamp(low, high))
}

fn float_to_float(c: Convert, x: u64) -> u64 {
    let mut x = value(c, x);
    if c.integral {
        x = integral(x, c.round);
    }
    if c.sat {
        x = if x.is_nan() { 0.0 } else { x.clamp(0.0, 1.0) + 0.0 };
    }
    if c.relu && x < 0.0 {
        x = 0.0;
    }
    match c.to {
        Type::F64 => x.to_bits(),
        Type::F32 if x.is_nan() => 0x7FFF_FFFF,
        Type::F32 => {
            let r = narrow32(x, c.round);
            u64::from(if c.ftz { flush(r) } else { r }.to_bits())
        }
        Type::Tf32 => {
            // 10 stored bits in an f32's place: the low 13 bits are zero.
            if x.is_nan() {
                return 0x7FFF_FFFF;
            }
            let b = (x as f32).to_bits();
            let add = match c.round {
                Round::Zero => 0,
                Round::Near => 0xFFF + (b >> 13 & 1),
                _ => 0x1000,
            };
            if b & 0x7F80_0000 == 0x7F80_0000 {
                u64::from(b)
            } else {
                u64::from(b.wrapping_add(add) & !0x1FFF)
            }
        }
        Type::F16 => u64::from(clip(to_f16(x, c.round), 0x7C00, c)),
        _ => u64::from(clip(to_bf16(x, c.round), 0x7F80, c)),
    }
}

/// `.satfinite`: infinities become the largest finite value.
fn clip(bits: u32, infinity: u32, c: Convert) -> u32 {
    if c.satfinite && bits & 0x7FFF == infinity { bits - 1 } else { bits }
}

/// Two f32 to one register: `a` to the upper half, `b` to the lower.
#[inline(always)]
fn pack(v: &mut View, i: &Instruction, m: u32, c: Convert) {
    if c.to == Type::Bf16x2 && c.round == Round::Near && !c.relu && !c.satfinite {
        return v.map2(i, m, |a, b| bf16_near(f32::from_bits(a)) << 16 | bf16_near(f32::from_bits(b)));
    }
    let one = |bits: u32| {
        let x = f64::from(f32::from_bits(bits));
        let x = if c.relu && x < 0.0 { 0.0 } else { x };
        match c.to {
            Type::F16x2 => clip(to_f16(x, c.round), 0x7C00, c),
            Type::Bf16x2 => clip(to_bf16(x, c.round), 0x7F80, c),
            other => to_eight(x, other),
        }
    };
    let shift = if matches!(c.to, Type::E4m3x2 | Type::E5m2x2) { 8 } else { 16 };
    v.map2(i, m, |a, b| one(a) << shift | one(b));
}

/// f64 to an 8-bit float, nearest even, saturating to the largest finite value.
fn to_eight(x: f64, ty: Type) -> u32 {
    let (mantissa, bias, top, largest) =
        if ty == Type::E4m3x2 { (3, 7, 15, 0x7E) } else { (2, 15, 30, 0x7B) };
    if x.is_nan() {
        return 0x7F;
    }
    let bits = narrow16(x.abs(), mantissa, bias, top, Round::Near);
    let sign = if x.is_sign_negative() { 0x80 } else { 0 };
    sign | bits.min(largest)
}

fn from_eight(bits: u32, ty: Type) -> f64 {
    let (mantissa, bias) = if ty == Type::E4m3x2 { (3, 7) } else { (2, 15) };
    let magnitude = bits & 0x7F;
    let (e, f) = (magnitude >> mantissa, f64::from(magnitude & ((1 << mantissa) - 1)));
    let unit = 2f64.powi(-mantissa);
    let x = match (ty, magnitude, e) {
        (Type::E4m3x2, 0x7F, _) => f64::NAN,
        (Type::E5m2x2, _, 31) => {
            if f == 0.0 {
                f64::INFINITY
            } else {
                f64::NAN
            }
        }
        (_, _, 0) => f * unit * 2f64.powi(1 - bias),
        _ => (1.0 + f * unit) * 2f64.powi(e as i32 - bias),
    };
    if bits & 0x80 != 0 { -x } else { x }
}

/// The value of an 8-bit float.
pub fn eight_bit_value(ty: Type, byte: u8) -> f32 {
    let pair = if ty == Type::E4m3 { Type::E4m3x2 } else { Type::E5m2x2 };
    from_eight(u32::from(byte), pair) as f32
}

fn eight_bits(c: Convert, x: u64) -> u64 {
    let relu = |x: f64| if c.relu && x < 0.0 { 0.0 } else { x };
    let x = x as u32;
    u64::from(if c.to == Type::F16x2 {
        let one = |k: u32| to_f16(relu(from_eight(x >> (8 * k) & 0xFF, c.from)), Round::Near);
        one(0) | one(1) << 16
    } else {
        let one = |k: u32| to_eight(relu(f64::from(f16(x >> (16 * k) & 0xFFFF))), c.to);
        one(0) | one(1) << 8
    })
}
