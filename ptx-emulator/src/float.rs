//! Rounding, done from the exact residual: the nearest result, stepped where the direction asks for it.
//!
//! Residuals come from error-free transformations (Knuth's two-sum, products in twice the width), so that directed
//! rounding needs no change of the processor's rounding mode.

use crate::ir::Round;

/// Moves the nearest result `r` as `round` asks; `error` has the sign of (exact − r).
#[inline(always)]
pub fn direct32(r: f32, error: f64, round: Round) -> f32 {
    if round == Round::Near || error == 0.0 || r.is_nan() {
        return r;
    }
    let down = match round {
        Round::Down => true,
        Round::Up => false,
        _ => r > 0.0 || (r == 0.0 && error > 0.0),
    };
    match (down, error < 0.0) {
        (true, true) => r.next_down(),
        (false, false) => r.next_up(),
        _ => r,
    }
}

/// As [`direct32`], for f64.
#[inline(always)]
pub fn direct64(r: f64, error: f64, round: Round) -> f64 {
    if round == Round::Near || error == 0.0 || r.is_nan() {
        return r;
    }
    let down = match round {
        Round::Down => true,
        Round::Up => false,
        _ => r > 0.0 || (r == 0.0 && error > 0.0),
    };
    match (down, error < 0.0) {
        (true, true) => r.next_down(),
        (false, false) => r.next_up(),
        _ => r,
    }
}

/// `a + b` and what rounding lost of it.
#[inline(always)]
pub fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let s = a + b;
    let t = s - a;
    (s, (a - (s - t)) + (b - t))
}

/// `a + b` in f32.
#[inline(always)]
pub fn add32(a: f32, b: f32, round: Round) -> f32 {
    if round == Round::Near {
        return a + b;
    }
    let (s, t) = two_sum(f64::from(a), f64::from(b));
    let r = a + b;
    if s == 0.0 && t == 0.0 && a != 0.0 {
        // An exact zero of unlike signs is −0 when rounding down (IEEE 754, 6.3).
        return if round == Round::Down { -0.0 } else { 0.0 };
    }
    let d = s - f64::from(r);
    direct32(r, if d != 0.0 { d } else { t }, round)
}

/// `a * b` in f32.
#[inline(always)]
pub fn mul32(a: f32, b: f32, round: Round) -> f32 {
    let r = a * b;
    direct32(r, f64::from(a) * f64::from(b) - f64::from(r), round)
}

/// `a * b + c` in f32, rounded once.
#[inline(always)]
pub fn fma32(a: f32, b: f32, c: f32, round: Round) -> f32 {
    let r = a.mul_add(b, c);
    if round == Round::Near {
        return r;
    }
    let p = f64::from(a) * f64::from(b);
    let (s, t) = two_sum(p, f64::from(c));
    if s == 0.0 && t == 0.0 && p != 0.0 {
        return if round == Round::Down { -0.0 } else { 0.0 };
    }
    let d = s - f64::from(r);
    direct32(r, if d != 0.0 { d } else { t }, round)
}

/// `a / b` in f32.
#[inline(always)]
pub fn div32(a: f32, b: f32, round: Round) -> f32 {
    let r = a / b;
    if round == Round::Near || !r.is_finite() && (b == 0.0 || !a.is_finite()) {
        return r;
    }
    // a − r·b is exact in f64; divided by b it has the residual's sign.
    let error = if r.is_infinite() { -f64::from(r) } else { f64::from(a) - f64::from(r) * f64::from(b) };
    direct32(r, if r.is_infinite() { error } else { error * f64::from(b).signum() }, round)
}

/// `sqrt(a)` in f32.
#[inline(always)]
pub fn sqrt32(a: f32, round: Round) -> f32 {
    let r = a.sqrt();
    if round == Round::Near || !r.is_finite() {
        return r;
    }
    direct32(r, f64::from(a) - f64::from(r) * f64::from(r), round)
}

/// `a + b` in f64.
#[inline(always)]
pub fn add64(a: f64, b: f64, round: Round) -> f64 {
    if round == Round::Near {
        return a + b;
    }
    let (s, t) = two_sum(a, b);
    if s == 0.0 && t == 0.0 && a != 0.0 {
        return if round == Round::Down { -0.0 } else { 0.0 };
    }
    if s.is_infinite() && a.is_finite() && b.is_finite() {
        return direct64(s, -s, round);
    }
    direct64(s, t, round)
}

/// `a * b` in f64.
#[inline(always)]
pub fn mul64(a: f64, b: f64, round: Round) -> f64 {
    let r = a * b;
    if round == Round::Near {
        return r;
    }
    if r.is_infinite() && a.is_finite() && b.is_finite() {
        return direct64(r, -r, round);
    }
    direct64(r, a.mul_add(b, -r), round)
}

/// `a * b + c` in f64, rounded once.
#[inline(always)]
pub fn fma64(a: f64, b: f64, c: f64, round: Round) -> f64 {
    let r = a.mul_add(b, c);
    if round == Round::Near || ![a, b, c].iter().all(|x| x.is_finite()) {
        return r;
    }
    if r.is_infinite() {
        return direct64(r, -r, round);
    }
    // p + q is a·b exactly; the residual of p + q + c against r by two sums.
    let p = a * b;
    let q = a.mul_add(b, -p);
    let (s, t) = two_sum(p, c);
    let (u, v) = two_sum(s - r, t);
    if r == 0.0 && u + q == 0.0 && v == 0.0 && p != 0.0 {
        // As for a sum: an exact zero of unlike signs.
        return if round == Round::Down { -0.0 } else { 0.0 };
    }
    direct64(r, if u + q != 0.0 { u + q } else { v }, round)
}

/// `a / b` in f64.
#[inline(always)]
pub fn div64(a: f64, b: f64, round: Round) -> f64 {
    let r = a / b;
    if round == Round::Near || !a.is_finite() || b == 0.0 || !b.is_finite() {
        return r;
    }
    if r.is_infinite() {
        return direct64(r, -r, round);
    }
    direct64(r, -r.mul_add(b, -a) * b.signum(), round)
}

/// `sqrt(a)` in f64.
#[inline(always)]
pub fn sqrt64(a: f64, round: Round) -> f64 {
    let r = a.sqrt();
    if round == Round::Near || !r.is_finite() {
        return r;
    }
    direct64(r, -r.mul_add(r, -a), round)
}

/// f64 to f32 with a rounding.
#[inline(always)]
pub fn narrow32(x: f64, round: Round) -> f32 {
    let r = x as f32;
    direct32(r, x - f64::from(r), round)
}

/// A subnormal f32 becomes a zero of its sign.
#[inline(always)]
pub fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

/// f16 bits to f32.
#[inline(always)]
pub fn f16(bits: u32) -> f32 {
    half::f16::from_bits(bits as u16).to_f32_const()
}

/// bf16 bits to f32.
#[inline(always)]
pub fn bf16(bits: u32) -> f32 {
    f32::from_bits(bits << 16)
}

/// Sums exactly enough that one more rounding to 11 or 8 bits is right: rounds to odd at 53 bits.
#[inline(always)]
pub fn odd_sum(a: f64, b: f64) -> f64 {
    let (s, t) = two_sum(a, b);
    if t == 0.0 || !s.is_finite() || s.to_bits() & 1 == 1 {
        return s;
    }
    if (t > 0.0) == (s > 0.0) { f64::from_bits(s.to_bits() + 1) } else { f64::from_bits(s.to_bits() - 1) }
}

/// f64 to the bits of a narrower float with `mantissa` stored bits and exponent bias `bias`, any rounding.
///
/// `top` is the largest exponent field that is not infinity or NaN. NaN becomes the canonical 0x7FFF.
pub fn narrow16(x: f64, mantissa: u32, bias: i32, top: u32, round: Round) -> u32 {
    if x.is_nan() {
        return 0x7FFF;
    }
    let sign = u32::from(x.is_sign_negative()) << 15;
    let infinity = (top + 1) << mantissa;
    if x.is_infinite() {
        return sign | infinity;
    }
    let magnitude = x.abs();
    if magnitude == 0.0 {
        return sign;
    }
    let e = ((magnitude.to_bits() >> 52) as i32 - 1023).max(1 - bias);
    // In units of the result's last place: exact, since only the exponent changes (two steps, against underflow).
    let shift = mantissa as i32 - e;
    let scaled = magnitude * 2f64.powi(shift / 2) * 2f64.powi(shift - shift / 2);
    let floor = scaled.floor();
    let rest = scaled - floor;
    let negative = sign != 0;
    let up = match round {
        Round::Near => rest > 0.5 || (rest == 0.5 && floor % 2.0 != 0.0),
        Round::Away => rest >= 0.5,
        Round::Zero => false,
        Round::Down => negative && rest > 0.0,
        Round::Up => !negative && rest > 0.0,
    };
    let units = floor as u32 + u32::from(up);
    // The exponent field of a normal number is added on top; a carry out of the mantissa moves it up by itself.
    let bits = if units < 1 << mantissa { units } else { ((e + bias - 1) as u32) * (1 << mantissa) + units };
    if bits >= infinity {
        let clamps = match round {
            Round::Near | Round::Away => false,
            Round::Zero => true,
            Round::Down => !negative,
            Round::Up => negative,
        };
        return sign | if clamps { infinity - 1 } else { infinity };
    }
    sign | bits
}

/// f64 to f16 bits.
pub fn to_f16(x: f64, round: Round) -> u32 {
    narrow16(x, 10, 15, 30, round)
}

/// f64 to bf16 bits.
pub fn to_bf16(x: f64, round: Round) -> u32 {
    narrow16(x, 7, 127, 254, round)
}

/// f32 to bf16 bits, nearest even: the common case without a detour.
#[inline(always)]
pub fn bf16_near(x: f32) -> u32 {
    let b = x.to_bits();
    if x.is_nan() { 0x7FFF } else { (b.wrapping_add(0x7FFF + (b >> 16 & 1))) >> 16 }
}

/// f32 to f16 bits, nearest even: the common case without a detour.
#[inline(always)]
pub fn f16_near(x: f32) -> u32 {
    if x.is_nan() { 0x7FFF } else { u32::from(half::f16::from_f32_const(x).to_bits()) }
}
