//! What copies and arithmetic pass on of undefined operands: to 16 bits where the operation moves or settles whole halves,
//! else all of the result.

use super::super::view::Plane;
use super::super::warp::Warp;
use super::{DEFINED, Lanes};
use crate::decode::definite;
use crate::ir::*;
use crate::types::Type;

/// The result of an instruction that computes.
pub(super) fn passes(
    w: &mut Warp,
    constants: &[Plane],
    i: &Instruction,
    m: u32,
    to: [Pred; 3],
    from: [Pred; 3],
) {
    // Most often nothing is undefined: then only the results are to be marked.
    let mut all = DEFINED;
    if !definite::cancels(i) {
        let mut met = |lanes: u32, origin: u32| {
            if lanes & m != 0 {
                all.parts[0] |= lanes;
                all.origin = origin;
            }
        };
        definite::read(i).map(|s| w.undefined_slot(s)).for_each(|x| met(x.any(), x.origin));
        from.into_iter().map(|p| w.undefined_pred(p)).for_each(|(lanes, origin)| met(lanes, origin));
    }
    let lanes = all.parts[0] & m;
    if lanes != 0 && precise(w, constants, i, m, to, from, all.origin) {
        return;
    }
    let value = Lanes::whole(lanes, all.origin);
    for d in definite::written(i) {
        w.set_undefined(d, m, value);
    }
    for p in to {
        w.set_undefined_pred(p, m, (lanes, all.origin));
    }
}

/// The bits of a constant that is the same in all lanes.
fn constant(constants: &[Plane], s: Slot) -> Option<u32> {
    (!s.is_none() && s.is_constant()).then(|| constants[s.index()].0[0])
}

/// Operations whose result is undefined only in parts. False when it is not one of those.
fn precise(
    w: &mut Warp,
    constants: &[Plane],
    i: &Instruction,
    m: u32,
    to: [Pred; 3],
    from: [Pred; 3],
    origin: u32,
) -> bool {
    let s: [Lanes; 4] = i.s.map(|s| w.undefined_slot(s));
    let mut out = Lanes { parts: [0; 8], origin };
    let half = |k: u32, word: u32| word >> (16 * k) & 0xFFFF;
    match i.op {
        Op::Mov(_) | Op::Mov128 => out = s[0],
        Op::Pack { part, .. } => {
            for (k, &source) in i.list.iter().enumerate() {
                let value = w.undefined_slot(source);
                match part as usize / 2 {
                    0 => out.parts[k / 2] |= value.any(),
                    n => out.parts[n * k..n * (k + 1)].copy_from_slice(&value.parts[..n]),
                }
            }
        }
        Op::Unpack { part, .. } => {
            for (k, &d) in i.list.iter().enumerate() {
                let mut value = Lanes { parts: [0; 8], origin };
                match part as usize / 2 {
                    0 => value.parts[0] = s[0].parts[k / 2],
                    n => value.parts[..n].copy_from_slice(&s[0].parts[n * k..n * (k + 1)]),
                }
                w.set_undefined(d, m, value);
            }
            return true;
        }
        Op::Selp(_) => {
            let picks = w.pred(i.p[2]);
            let unknown = w.undefined_pred(i.p[2]).0;
            for k in 0..8 {
                out.parts[k] = picks & s[0].parts[k] | !picks & s[1].parts[k] | unknown;
            }
        }
        Op::Int2(op @ (Int2::And | Int2::Or | Int2::Xor), width) => {
            for k in 0..8 {
                out.parts[k] = s[0].parts[k] | s[1].parts[k];
            }
            // A half that the other operand settles is defined.
            if width != Width::W64 {
                for c in [i.s[0], i.s[1]].into_iter().filter_map(|s| constant(constants, s)) {
                    for k in 0..2 {
                        let settled = match op {
                            Int2::And => half(k, c) == 0,
                            Int2::Or => half(k, c) == 0xFFFF,
                            _ => false,
                        };
                        if settled {
                            out.parts[k as usize] = 0;
                        }
                    }
                }
            }
        }
        Op::Int2(op @ (Int2::Shl | Int2::ShrU), width) => {
            let words = width.bits() as usize / 16;
            let Some(by) = constant(constants, i.s[1]).filter(|n| n % 16 == 0) else { return false };
            let by = (by as usize / 16).min(words);
            for k in 0..words - by {
                match op {
                    Int2::Shl => out.parts[k + by] = s[0].parts[k],
                    _ => out.parts[k] = s[0].parts[k + by],
                }
            }
        }
        Op::Prmt(0) => {
            let Some(selector) = constant(constants, i.s[2]) else { return false };
            for byte in 0..4 {
                let pick = selector >> (4 * byte) & 7;
                out.parts[byte / 2] |= s[pick as usize / 4].parts[pick as usize % 4 / 2];
            }
        }
        Op::Convert(c) if c.pack => {
            if !matches!(c.to, Type::F16x2 | Type::Bf16x2) {
                return false;
            }
            out.parts[1] = s[0].low(c.from.bytes());
            out.parts[0] = s[1].low(c.from.bytes());
        }
        Op::Convert(c) => {
            // From integer to integer, a narrower result looks at no more than it holds.
            let integers = c.from.integer() && c.to.integer() && !c.sat;
            let bytes = if integers { c.from.bytes().min(c.to.bytes()) } else { c.from.bytes() };
            out = Lanes::whole(s[0].low(bytes), origin);
        }
        Op::Float1(_, t, _) | Op::Float2(_, t, _) | Op::Fma(t, _)
            if matches!(t, Float::F16x2 | Float::Bf16x2) =>
        {
            for k in 0..2 {
                out.parts[k] = s.iter().fold(0, |all, x| all | x.parts[k]);
            }
        }
        Op::PredLogic(op) => {
            let (a, b) = (w.undefined_pred(from[0]), w.undefined_pred(from[1]));
            // Defined operands that settle the result alone.
            let settles = |p: Pred, undefined: u32| match op {
                AtomOp::And => !undefined & !w.pred(p),
                AtomOp::Or => !undefined & w.pred(p),
                _ => 0,
            };
            let settled = settles(from[0], a.0) | settles(from[1], b.0);
            w.set_undefined_pred(to[0], m, ((a.0 | b.0) & !settled, origin));
            return true;
        }
        Op::SetpInt { combine, .. } | Op::SetpFloat { combine, .. } => {
            let compared = s[0].any() | s[1].any();
            let (with, _) = w.undefined_pred(i.p[2]);
            let settled = match combine {
                Combine::And => !with & !w.pred(i.p[2]),
                Combine::Or => !with & w.pred(i.p[2]),
                _ => 0,
            };
            for p in to {
                w.set_undefined_pred(p, m, ((compared | with) & !settled, origin));
            }
            return true;
        }
        _ => return false,
    }
    for d in definite::written(i) {
        w.set_undefined(d, m, out);
    }
    true
}
