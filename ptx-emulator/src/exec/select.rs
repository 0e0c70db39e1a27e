//! Moves, comparisons and selections, 32 lanes at a time.

use super::view::{Versions, View, each_lane, versions};
use crate::float::{bf16, f16, flush};
use crate::ir::*;

/// Runs a move, comparison or selection.
pub static RUN: Versions = versions!(run);

#[inline(always)]
fn run(v: &mut View, i: &Instruction, m: u32) {
    match i.op {
        Op::Mov(Width::W64) => v.wide1(i, m, |a| a),
        Op::Mov(Width::W16) => v.map1(i, m, |a| a & 0xFFFF),
        Op::Mov(Width::W32) => v.map1(i, m, |a| a),
        Op::Mov128 => {
            for half in 0..2 {
                let at = |s: Slot| Slot(s.0 + 2 * half);
                let a = v.read64(at(i.s[0]));
                if !i.d[0].is_none() {
                    v.write64(at(i.d[0]), m, &a);
                }
            }
        }
        Op::MovPred => {
            let bits = v.pred(i.p[1]);
            v.write_pred(i.p[0], m, bits);
        }
        Op::PredNot => {
            let bits = !v.pred(i.p[1]);
            v.write_pred(i.p[0], m, bits);
        }
        Op::PredLogic(op) => {
            let (a, b) = (v.pred(i.p[1]), v.pred(i.p[2]));
            let bits = match op {
                AtomOp::And => a & b,
                AtomOp::Or => a | b,
                _ => a ^ b,
            };
            v.write_pred(i.p[0], m, bits);
        }
        Op::Pack { part, whole } => pack(v, i, m, part, whole),
        Op::Unpack { part, whole } => unpack(v, i, m, part, whole),
        Op::SetpInt { cmp, signed, w, combine } => {
            let bits = compare_int(v, i, cmp, signed, w);
            set_preds(v, i, m, bits, combine);
        }
        Op::SetpFloat { cmp, t, ftz, combine } => {
            let [bits, second] = compare_float(v, i, cmp, t, ftz);
            if matches!(t, Float::F16x2 | Float::Bf16x2) {
                // Packed: p is of the low halves, q of the high ones.
                let c = v.pred(i.p[2]);
                let (low, high) = (combined(bits, c, combine), combined(second, c, combine));
                v.write_pred(i.p[0], m, low);
                v.write_pred(i.p[1], m, high);
            } else {
                set_preds(v, i, m, bits, combine);
            }
        }
        Op::Set { cmp, t, ftz, combine, float: _, bytes: _ } => {
            let [low, high] = match t {
                SetType::Int { signed, w } => [compare_int(v, i, cmp, signed, w), 0],
                SetType::Float(t) => compare_float(v, i, cmp, t, ftz),
            };
            let packed = matches!(t, SetType::Float(Float::F16x2 | Float::Bf16x2));
            let c = v.pred(i.p[2]);
            let (low, high) = (combined(low, c, combine), combined(high, c, combine));
            let one = v.read32(i.s[2]);
            let mut out = [0; 32];
            for l in 0..32 {
                let on = |bits: u32, mask: u32| if bits >> l & 1 != 0 { one[l] & mask } else { 0 };
                out[l] = if packed { on(low, 0xFFFF) | on(high, 0xFFFF_0000) } else { on(low, u32::MAX) };
            }
            v.write32(i.d[0], m, &out);
        }
        Op::Selp(w) => {
            let p = v.pred(i.p[2]);
            if w == Width::W64 {
                let (a, b) = (v.read64(i.s[0]), v.read64(i.s[1]));
                let mut out = [0; 32];
                for l in 0..32 {
                    out[l] = if p >> l & 1 != 0 { a[l] } else { b[l] };
                }
                v.write64(i.d[0], m, &out);
            } else {
                let (a, b) = (v.read32(i.s[0]), v.read32(i.s[1]));
                let mut out = [0; 32];
                for l in 0..32 {
                    out[l] = if p >> l & 1 != 0 { a[l] } else { b[l] };
                }
                v.write32(i.d[0], m, &out);
            }
        }
        Op::Slct { w, float, ftz } => {
            let c = v.read32(i.s[2]);
            let first = |c: u32| {
                if float {
                    let x = f32::from_bits(c);
                    (if ftz { flush(x) } else { x }) >= 0.0
                } else {
                    c as i32 >= 0
                }
            };
            if w == Width::W64 {
                let (a, b) = (v.read64(i.s[0]), v.read64(i.s[1]));
                let mut out = [0; 32];
                for l in 0..32 {
                    out[l] = if first(c[l]) { a[l] } else { b[l] };
                }
                v.write64(i.d[0], m, &out);
            } else {
                v.map3(i, m, |a, b, c| if first(c) { a } else { b });
            }
        }
        _ => unreachable!("not a move, comparison or selection"),
    }
}

#[inline(always)]
fn combined(bits: u32, with: u32, combine: Combine) -> u32 {
    match combine {
        Combine::None => bits,
        Combine::And => bits & with,
        Combine::Or => bits | with,
        Combine::Xor => bits ^ with,
    }
}

#[inline(always)]
fn set_preds(v: &mut View, i: &Instruction, m: u32, bits: u32, combine: Combine) {
    let c = v.pred(i.p[2]);
    v.write_pred(i.p[0], m, combined(bits, c, combine));
    v.write_pred(i.p[1], m, combined(!bits, c, combine));
}

#[inline(always)]
fn gather<T: Copy>(a: &[T; 32], b: &[T; 32], f: impl Fn(T, T) -> bool) -> u32 {
    let mut bits = 0;
    for l in 0..32 {
        bits |= u32::from(f(a[l], b[l])) << l;
    }
    bits
}

macro_rules! by_order {
    ($cmp:expr, $a:expr, $b:expr, $cast:expr) => {{
        let c = $cast;
        match $cmp {
            Compare::Eq => gather($a, $b, |x, y| c(x) == c(y)),
            Compare::Ne => gather($a, $b, |x, y| c(x) != c(y)),
            Compare::Lt => gather($a, $b, |x, y| c(x) < c(y)),
            Compare::Le => gather($a, $b, |x, y| c(x) <= c(y)),
            Compare::Gt => gather($a, $b, |x, y| c(x) > c(y)),
            _ => gather($a, $b, |x, y| c(x) >= c(y)),
        }
    }};
}

#[inline(always)]
fn compare_int(v: &View, i: &Instruction, cmp: Compare, signed: bool, w: Width) -> u32 {
    if w == Width::W64 {
        let (a, b) = (&v.read64(i.s[0]), &v.read64(i.s[1]));
        return if signed {
            by_order!(cmp, a, b, |x: u64| x as i64)
        } else {
            by_order!(cmp, a, b, |x: u64| x)
        };
    }
    let (a, b) = (&v.read32(i.s[0]), &v.read32(i.s[1]));
    match (w, signed) {
        (Width::W32, true) => by_order!(cmp, a, b, |x: u32| x as i32),
        (Width::W32, false) => by_order!(cmp, a, b, |x: u32| x),
        (_, true) => by_order!(cmp, a, b, |x: u32| x as u16 as i16),
        _ => by_order!(cmp, a, b, |x: u32| x as u16),
    }
}

#[inline(always)]
fn compare_one(cmp: Compare, x: f64, y: f64) -> bool {
    let nan = x.is_nan() || y.is_nan();
    match cmp {
        Compare::Eq => x == y,
        Compare::Ne => !nan && x != y,
        Compare::Lt => x < y,
        Compare::Le => x <= y,
        Compare::Gt => x > y,
        Compare::Ge => x >= y,
        Compare::Equ => nan || x == y,
        Compare::Neu => x != y,
        Compare::Ltu => nan || x < y,
        Compare::Leu => nan || x <= y,
        Compare::Gtu => nan || x > y,
        Compare::Geu => nan || x >= y,
        Compare::Num => !nan,
        Compare::Nan => nan,
    }
}

#[inline(always)]
fn compare_float(v: &View, i: &Instruction, cmp: Compare, t: Float, ftz: bool) -> [u32; 2] {
    if t == Float::F64 {
        let (a, b) = (&v.read64(i.s[0]), &v.read64(i.s[1]));
        return [gather(a, b, |x, y| compare_one(cmp, f64::from_bits(x), f64::from_bits(y))), 0];
    }
    let (a, b) = (&v.read32(i.s[0]), &v.read32(i.s[1]));
    let fl = |x: f32| f64::from(if ftz { flush(x) } else { x });
    let half = |x: u32| {
        // .ftz flushes subnormal f16 inputs.
        let x = if ftz && x & 0x7C00 == 0 { x & 0x8000 } else { x };
        f64::from(f16(x & 0xFFFF))
    };
    match t {
        Float::F32 => {
            [gather(a, b, |x, y| compare_one(cmp, fl(f32::from_bits(x)), fl(f32::from_bits(y)))), 0]
        }
        Float::F16 | Float::F16x2 => [0, 16]
            .map(|k| gather(a, b, |x, y| compare_one(cmp, half(x >> k & 0xFFFF), half(y >> k & 0xFFFF)))),
        _ => [0, 16].map(|k| {
            gather(a, b, |x, y| {
                compare_one(cmp, f64::from(bf16(x >> k & 0xFFFF)), f64::from(bf16(y >> k & 0xFFFF)))
            })
        }),
    }
}

fn pack(v: &mut View, i: &Instruction, m: u32, part: u32, whole: u32) {
    if part == 8 {
        for (k, &s) in i.list.iter().enumerate() {
            let a = v.read64(s);
            v.write64(Slot(i.d[0].0 + 2 * k as u32), m, &a);
        }
        return;
    }
    if whole == 16 {
        for k in 0..2 {
            let (a, b) = (v.read32(i.list[2 * k]), v.read32(i.list[2 * k + 1]));
            let mut out = [0; 32];
            for l in 0..32 {
                out[l] = u64::from(a[l]) | u64::from(b[l]) << 32;
            }
            v.write64(Slot(i.d[0].0 + 2 * k as u32), m, &out);
        }
        return;
    }
    let bits = part * 8;
    let mut out = [0u64; 32];
    for (k, &s) in i.list.iter().enumerate() {
        let a = v.read32(s);
        for l in 0..32 {
            out[l] |= (u64::from(a[l]) & (u64::MAX >> (64 - bits))) << (bits * k as u32);
        }
    }
    if whole == 8 {
        v.write64(i.d[0], m, &out);
    } else {
        v.write32(i.d[0], m, &each_lane(&out, |x| x as u32));
    }
}

fn unpack(v: &mut View, i: &Instruction, m: u32, part: u32, whole: u32) {
    if whole == 16 {
        let halves = [v.read64(i.s[0]), v.read64(Slot(i.s[0].0 + 2))];
        for (k, &d) in i.list.iter().enumerate() {
            if part == 8 {
                v.write64(d, m, &halves[k]);
            } else {
                let out = each_lane(&halves[k / 2], |x| (x >> (32 * (k % 2))) as u32);
                v.write32(d, m, &out);
            }
        }
        return;
    }
    let a = if whole == 8 { v.read64(i.s[0]) } else { each_lane(&v.read32(i.s[0]), u64::from) };
    let bits = part * 8;
    for (k, &d) in i.list.iter().enumerate() {
        let out = each_lane(&a, |x| (x >> (bits * k as u32) & (u64::MAX >> (64 - bits))) as u32);
        v.write32(d, m, &out);
    }
}
