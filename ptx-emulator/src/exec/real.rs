//! Floating-point arithmetic, 32 lanes at a time.

use super::view::{Versions, View, versions};
use crate::approx::Bound;
use crate::float::*;
use crate::ir::*;

/// Runs a floating-point instruction.
pub static RUN: Versions = versions!(run);

/// The canonical NaN of f32 results (PTX ISA, "Floating Point": NaN payloads are not kept).
const NAN32: u32 = 0x7FFF_FFFF;

#[inline(always)]
fn run(v: &mut View, i: &Instruction, m: u32) {
    match i.op {
        Op::Fma(Float::F32, mode) => fma_f32(v, i, m, mode),
        Op::Fma(Float::F64, mode) => v.wide3(i, m, |a, b, c| {
            fma64(f64::from_bits(a), f64::from_bits(b), f64::from_bits(c), mode.round).to_bits()
        }),
        Op::Fma(t, mode) => v.map3(i, m, |a, b, c| {
            halves(t, |k| {
                let (a, b, c) = (part(t, a, k, mode), part(t, b, k, mode), part(t, c, k, mode));
                let exact = odd_sum(f64::from(a) * f64::from(b), f64::from(c));
                let d = finish16(t, exact, mode);
                let negative = d & 0x8000 != 0;
                if mode.relu && negative && d & 0x7FFF <= infinity(t) { 0 } else { d }
            })
        }),
        Op::Float2(f, Float::F32, mode) => float2_f32(v, i, m, f, mode),
        Op::Float2(f, Float::F64, mode) => v.wide2(i, m, |a, b| {
            let (x, y) = (f64::from_bits(a), f64::from_bits(b));
            match f {
                Float2::Add => add64(x, y, mode.round).to_bits(),
                Float2::Sub => add64(x, -y, mode.round).to_bits(),
                Float2::Mul => mul64(x, y, mode.round).to_bits(),
                Float2::Div | Float2::DivApprox => div64(x, y, mode.round).to_bits(),
                Float2::Min | Float2::MinNan => pick64(x, y, true).to_bits(),
                Float2::Max | Float2::MaxNan => pick64(x, y, false).to_bits(),
                // copysign d, a, b: the sign of a on the magnitude of b.
                Float2::CopySign => y.copysign(x).to_bits(),
            }
        }),
        Op::Float2(f, t, mode) => v.map2(i, m, |a, b| {
            halves(t, |k| {
                let (x, y) = (part(t, a, k, mode), part(t, b, k, mode));
                match f {
                    Float2::Add => finish16(t, odd_sum(f64::from(x), f64::from(y)), mode),
                    Float2::Sub => finish16(t, odd_sum(f64::from(x), -f64::from(y)), mode),
                    Float2::Mul => finish16(t, f64::from(x) * f64::from(y), mode),
                    Float2::Min => finish16(t, f64::from(pick32(x, y, true, false)), mode),
                    Float2::MinNan => finish16(t, f64::from(pick32(x, y, true, true)), mode),
                    Float2::Max => finish16(t, f64::from(pick32(x, y, false, false)), mode),
                    _ => finish16(t, f64::from(pick32(x, y, false, true)), mode),
                }
            })
        }),
        Op::Float1(f, Float::F32, mode) => float1_f32(v, i, m, f, mode),
        Op::Float1(f, Float::F64, mode) => {
            let (approx, salt) = (v.approx, v.salt);
            v.wide1(i, m, |a| {
                let x = f64::from_bits(a);
                match f {
                    Float1::Abs => a & !(1 << 63),
                    Float1::Neg => a ^ 1 << 63,
                    Float1::Rcp => div64(1.0, x, mode.round).to_bits(),
                    Float1::Sqrt => sqrt64(x, mode.round).to_bits(),
                    Float1::RcpApprox => coarse(a, |x| 1.0 / x),
                    Float1::RsqrtApprox if mode.ftz => coarse(a, |x| 1.0 / x.sqrt()),
                    // rsqrt.approx.f64: 2^-22.9 is promised of the f32 one, about the same of this.
                    _ => approx.apply(1.0 / x.sqrt(), Bound::Relative(2f64.powf(-22.9)), a, salt).to_bits(),
                }
            });
        }
        Op::Float1(f, t, mode) => {
            let (approx, salt) = (v.approx, v.salt);
            let half = matches!(t, Float::F16 | Float::F16x2);
            v.map1(i, m, |a| {
                halves(t, |k| {
                    let bits = half_bits(t, a, k, mode);
                    let x = f64::from(part(t, a, k, mode));
                    match f {
                        Float1::Abs => bits & 0x7FFF,
                        Float1::Neg => bits ^ 0x8000,
                        Float1::Ex2Approx => {
                            let bound = Bound::Relative(if half { 2f64.powf(-9.9) } else { 2f64.powi(-7) });
                            finish16(t, approx.apply(x.exp2(), bound, bits.into(), salt), mode)
                        }
                        _ => {
                            let bound = if half {
                                Bound::Absolute(2f64.powf(-10.987))
                            } else {
                                Bound::Absolute(2f64.powi(-8))
                            };
                            finish16(
                                t,
                                approx.apply(x.tanh(), bound, bits.into(), salt).clamp(-1.0, 1.0),
                                mode,
                            )
                        }
                    }
                })
            });
        }
        Op::TestP(class, t) => {
            let test = |x: f64, normal: bool, subnormal: bool| match class {
                TestP::Finite => x.is_finite(),
                TestP::Infinite => x.is_infinite(),
                TestP::Number => !x.is_nan(),
                TestP::NotANumber => x.is_nan(),
                // Zeros count as normal (PTX ISA, "testp").
                TestP::Normal => normal || x == 0.0,
                TestP::Subnormal => subnormal,
            };
            let mut bits = 0;
            if t == Float::F64 {
                for (l, &a) in v.read64(i.s[0]).iter().enumerate() {
                    let x = f64::from_bits(a);
                    bits |= u32::from(test(x, x.is_normal(), x.is_subnormal())) << l;
                }
            } else {
                for (l, &a) in v.read32(i.s[0]).iter().enumerate() {
                    let x = f32::from_bits(a);
                    bits |= u32::from(test(f64::from(x), x.is_normal(), x.is_subnormal())) << l;
                }
            }
            v.write_pred(i.p[0], m, bits);
        }
        _ => unreachable!("not a floating-point instruction"),
    }
}

fn infinity(t: Float) -> u32 {
    if matches!(t, Float::F16 | Float::F16x2) { 0x7C00 } else { 0x7F80 }
}

/// One or two 16-bit results.
#[inline(always)]
fn halves(t: Float, f: impl Fn(u32) -> u32) -> u32 {
    if matches!(t, Float::F16x2 | Float::Bf16x2) { f(0) | f(1) << 16 } else { f(0) }
}

/// The `k`-th half; `.ftz` flushes a subnormal f16.
#[inline(always)]
fn half_bits(t: Float, bits: u32, k: u32, mode: FloatMode) -> u32 {
    let bits = bits >> (16 * k) & 0xFFFF;
    let flushed = mode.ftz && matches!(t, Float::F16 | Float::F16x2) && bits & 0x7C00 == 0;
    if flushed { bits & 0x8000 } else { bits }
}

#[inline(always)]
fn part(t: Float, bits: u32, k: u32, mode: FloatMode) -> f32 {
    let bits = half_bits(t, bits, k, mode);
    if matches!(t, Float::F16 | Float::F16x2) { f16(bits) } else { bf16(bits) }
}

#[inline(always)]
fn finish16(t: Float, x: f64, mode: FloatMode) -> u32 {
    let half = matches!(t, Float::F16 | Float::F16x2);
    let x = if mode.sat { saturate(x) } else { x };
    let d = if half { to_f16(x, Round::Near) } else { to_bf16(x, Round::Near) };
    // .ftz flushes subnormal f16 results.
    if mode.ftz && half && d & 0x7C00 == 0 { d & 0x8000 } else { d }
}

/// `rcp.approx.ftz.f64` and `rsqrt.approx.ftz.f64`: the upper 32 bits of the input give the upper 32 bits of the result, the lower
/// ones are ignored and zero; subnormals are flushed.
fn coarse(a: u64, f: impl Fn(f64) -> f64) -> u64 {
    let x = f64::from_bits(a & !0xFFFF_FFFF);
    let y = f(if x.is_subnormal() { 0f64.copysign(x) } else { x });
    let y = if y.is_subnormal() { 0f64.copysign(y) } else { y };
    y.to_bits() & !0xFFFF_FFFF
}

fn saturate(x: f64) -> f64 {
    if x.is_nan() { 0.0 } else { x.clamp(0.0, 1.0) + 0.0 }
}

/// The lesser or greater; a NaN loses, or wins with `nan`; −0 < +0.
#[inline(always)]
fn pick32(x: f32, y: f32, min: bool, nan: bool) -> f32 {
    if nan && (x.is_nan() || y.is_nan()) {
        return f32::NAN;
    }
    if x.is_nan() {
        return y;
    }
    if y.is_nan() {
        return x;
    }
    let x_less = x < y || (x == y && x.is_sign_negative());
    if x_less == min { x } else { y }
}

#[inline(always)]
fn pick64(x: f64, y: f64, min: bool) -> f64 {
    if x.is_nan() {
        return y;
    }
    if y.is_nan() {
        return x;
    }
    let x_less = x < y || (x == y && x.is_sign_negative());
    if x_less == min { x } else { y }
}

#[inline(always)]
fn finish32(x: f32, mode: FloatMode) -> u32 {
    let x = if mode.ftz { flush(x) } else { x };
    if mode.sat {
        // Written so that NaN gives +0.
        let x = if x > 0.0 { x } else { 0.0 };
        return if x < 1.0 { x } else { 1.0 }.to_bits();
    }
    if x.is_nan() { NAN32 } else { x.to_bits() }
}

#[inline(always)]
fn input(bits: u32, mode: FloatMode) -> f32 {
    let x = f32::from_bits(bits);
    if mode.ftz { flush(x) } else { x }
}

#[inline(always)]
fn fma_f32(v: &mut View, i: &Instruction, m: u32, mode: FloatMode) {
    if mode.round == Round::Near && !mode.ftz && !mode.sat {
        v.map3(i, m, |a, b, c| {
            let r = f32::from_bits(a).mul_add(f32::from_bits(b), f32::from_bits(c));
            if r.is_nan() { NAN32 } else { r.to_bits() }
        });
    } else {
        v.map3(i, m, |a, b, c| {
            finish32(fma32(input(a, mode), input(b, mode), input(c, mode), mode.round), mode)
        });
    }
}

#[inline(always)]
fn float2_f32(v: &mut View, i: &Instruction, m: u32, f: Float2, mode: FloatMode) {
    let plain = mode.round == Round::Near && !mode.ftz && !mode.sat;
    let nan = |x: f32| if x.is_nan() { NAN32 } else { x.to_bits() };
    match f {
        Float2::Add if plain => v.map2(i, m, |a, b| nan(f32::from_bits(a) + f32::from_bits(b))),
        Float2::Sub if plain => v.map2(i, m, |a, b| nan(f32::from_bits(a) - f32::from_bits(b))),
        Float2::Mul if plain => v.map2(i, m, |a, b| nan(f32::from_bits(a) * f32::from_bits(b))),
        Float2::Add => v.map2(i, m, |a, b| finish32(add32(input(a, mode), input(b, mode), mode.round), mode)),
        Float2::Sub => {
            v.map2(i, m, |a, b| finish32(add32(input(a, mode), -input(b, mode), mode.round), mode))
        }
        Float2::Mul => v.map2(i, m, |a, b| finish32(mul32(input(a, mode), input(b, mode), mode.round), mode)),
        Float2::Div => v.map2(i, m, |a, b| finish32(div32(input(a, mode), input(b, mode), mode.round), mode)),
        Float2::DivApprox => {
            let (approx, salt) = (v.approx, v.salt);
            v.map2(i, m, |a, b| {
                let q = f64::from(input(a, mode)) / f64::from(input(b, mode));
                finish32(
                    approx.apply(q, Bound::Ulp(2.0), u64::from(a) << 32 | u64::from(b), salt) as f32,
                    mode,
                )
            });
        }
        Float2::Min => {
            v.map2(i, m, |a, b| finish32(pick32(input(a, mode), input(b, mode), true, false), mode))
        }
        Float2::MinNan => {
            v.map2(i, m, |a, b| finish32(pick32(input(a, mode), input(b, mode), true, true), mode))
        }
        Float2::Max => {
            v.map2(i, m, |a, b| finish32(pick32(input(a, mode), input(b, mode), false, false), mode))
        }
        Float2::MaxNan => {
            v.map2(i, m, |a, b| finish32(pick32(input(a, mode), input(b, mode), false, true), mode))
        }
        Float2::CopySign => v.map2(i, m, |a, b| a & 1 << 31 | b & !(1 << 31)),
    }
}

#[inline(always)]
fn float1_f32(v: &mut View, i: &Instruction, m: u32, f: Float1, mode: FloatMode) {
    let (approx, salt) = (v.approx, v.salt);
    let apply = |x: f64, bound: Bound, a: u32| finish32(approx.apply(x, bound, a.into(), salt) as f32, mode);
    // Below this, results and inputs of the approximations are flushed only with .ftz; the exact path keeps them.
    let x = |a: u32| f64::from(input(a, mode));
    match f {
        Float1::Abs => v.map1(i, m, |a| finish32(f32::from_bits(a & !(1 << 31)), mode)),
        Float1::Neg => v.map1(i, m, |a| {
            let x = -input(a, mode);
            if x.is_nan() { NAN32 } else { x.to_bits() }
        }),
        Float1::Rcp => v.map1(i, m, |a| finish32(div32(1.0, input(a, mode), mode.round), mode)),
        Float1::Sqrt => v.map1(i, m, |a| finish32(sqrt32(input(a, mode), mode.round), mode)),
        Float1::RcpApprox => v.map1(i, m, |a| apply(1.0 / x(a), Bound::Ulp(1.0), a)),
        Float1::SqrtApprox => v.map1(i, m, |a| apply(x(a).sqrt(), Bound::Relative(2f64.powi(-23)), a)),
        Float1::RsqrtApprox => {
            v.map1(i, m, |a| apply(1.0 / x(a).sqrt(), Bound::Relative(2f64.powf(-22.9)), a))
        }
        Float1::Ex2Approx => v.map1(i, m, |a| apply(x(a).exp2(), Bound::Ulp(2.0), a)),
        // 2^-22 absolute within (0.5, 2), relative elsewhere.
        Float1::Lg2Approx => v.map1(i, m, |a| {
            let inside = x(a) > 0.5 && x(a) < 2.0;
            let e = 2f64.powi(-22);
            apply(x(a).log2(), if inside { Bound::Absolute(e) } else { Bound::Relative(e) }, a)
        }),
        Float1::SinApprox => v.map1(i, m, |a| apply(x(a).sin(), Bound::Absolute(2f64.powf(-20.5)), a)),
        Float1::CosApprox => v.map1(i, m, |a| apply(x(a).cos(), Bound::Absolute(2f64.powf(-20.5)), a)),
        Float1::TanhApprox => v.map1(i, m, |a| {
            finish32(
                approx.apply(x(a).tanh(), Bound::Relative(2f64.powi(-11)), a.into(), salt).clamp(-1.0, 1.0)
                    as f32,
                mode,
            )
        }),
    }
}
