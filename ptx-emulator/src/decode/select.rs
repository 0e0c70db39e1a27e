//! Moves, comparisons and selections (PTX ISA, "Comparison and Selection Instructions", "mov").

use super::arithmetic::{float, width};
use super::function::{FunctionDecoder, Name, Result};
use super::modifiers::Modifiers;
use crate::ir::*;
use crate::parse::ast::{self, Operand};
use crate::types::Type;

const COMPARISONS: [(&str, Compare); 18] = [
    ("eq", Compare::Eq),
    ("ne", Compare::Ne),
    ("lt", Compare::Lt),
    ("le", Compare::Le),
    ("gt", Compare::Gt),
    ("ge", Compare::Ge),
    ("lo", Compare::Lt),
    ("ls", Compare::Le),
    ("hi", Compare::Gt),
    ("hs", Compare::Ge),
    ("equ", Compare::Equ),
    ("neu", Compare::Neu),
    ("ltu", Compare::Ltu),
    ("leu", Compare::Leu),
    ("gtu", Compare::Gtu),
    ("geu", Compare::Geu),
    ("num", Compare::Num),
    ("nan", Compare::Nan),
];

const COMBINATIONS: [(&str, Combine); 3] =
    [("and", Combine::And), ("or", Combine::Or), ("xor", Combine::Xor)];

/// Decodes `i` when it belongs here.
pub(super) fn decode<'a>(cx: &mut FunctionDecoder<'_, 'a>, i: &'a ast::Instruction<'a>) -> Result<bool> {
    let mut m = Modifiers::new(i);
    match i.opcode {
        "mov" => mov(cx, i, &mut m)?,
        "setp" => setp(cx, i, &mut m)?,
        "set" => set(cx, i, &mut m)?,
        "selp" => {
            let ty = m.ty()?;
            m.finish()?;
            cx.count(i, 4..=4)?;
            if ty.bytes() < 2 || ty.bytes() > 8 {
                return Err(cx.error("'selp' takes 16, 32 or 64 bits"));
            }
            let s = [cx.source(&i.operands[1], ty)?, cx.source(&i.operands[2], ty)?];
            let p = cx.predicate(&i.operands[3])?;
            let d = cx.destination(&i.operands[0], ty.bytes())?;
            cx.emit(Op::Selp(width(ty)), [d], s);
            cx.last().p[2] = p;
        }
        "slct" => {
            let ftz = m.take("ftz");
            let ty = m.ty()?;
            let by = m.ty()?;
            m.finish()?;
            cx.count(i, 4..=4)?;
            if !matches!(by, Type::S32 | Type::F32) || ty.bytes() < 2 || ty.bytes() > 8 {
                return Err(cx.error("'slct' selects by .s32 or .f32"));
            }
            let s = [
                cx.source(&i.operands[1], ty)?,
                cx.source(&i.operands[2], ty)?,
                cx.source(&i.operands[3], by)?,
            ];
            let d = cx.destination(&i.operands[0], ty.bytes())?;
            cx.emit(Op::Slct { w: width(ty), float: by == Type::F32, ftz }, [d], s);
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn mov<'a>(cx: &mut FunctionDecoder<'_, 'a>, i: &'a ast::Instruction<'a>, m: &mut Modifiers) -> Result<()> {
    if let Some(n) = m.choose(&[("v2", 2usize), ("v4", 4)]) {
        // A vector register to a vector: element by element.
        let ty = m.ty()?;
        m.finish()?;
        cx.count(i, 2..=2)?;
        let (to, from) = (cx.elements(&i.operands[0]), cx.elements(&i.operands[1]));
        let all = |cx: &mut FunctionDecoder<'_, 'a>, list: &'a [Operand<'a>]| -> Result<Vec<Slot>> {
            match (list, n) {
                ([Operand::Name(name)], _) => match cx.lookup(name) {
                    Some(Name::Register { plane, ty: own, vector }) if vector as usize == n && own == ty => {
                        let step = ty.bytes().max(4) / 4;
                        Ok((0..n as u32).map(|k| Slot::register(plane + k * step)).collect())
                    }
                    _ => Err(cx.error(format!("'{name}' is not a vector of {n}"))),
                },
                (list, n) if list.len() == n => list.iter().map(|o| cx.source(o, ty)).collect(),
                _ => Err(cx.error(format!("expected {n} elements"))),
            }
        };
        let (from, to) = (all(cx, from)?, all(cx, to)?);
        if to.iter().any(|s| !s.is_register()) {
            return Err(cx.error("expected destination registers"));
        }
        for (d, s) in to.into_iter().zip(from) {
            cx.emit(Op::Mov(width(ty)), [d], [s]);
        }
        return Ok(());
    }
    let ty = m.ty()?;
    m.finish()?;
    cx.count(i, 2..=2)?;
    let (to, from) = (&i.operands[0], &i.operands[1]);
    if ty == Type::Pred {
        let d = cx.predicate_destination(to)?;
        let p = match from {
            Operand::Number(ast::Number::Int(n)) => {
                // A constant predicate: `p xor p`, or its complement.
                cx.emit(Op::PredLogic(AtomOp::Xor), [], []);
                cx.last().p = [d, d, d];
                if *n != 0 {
                    cx.emit(Op::PredNot, [], []);
                    cx.last().p = [d, d, Pred::NONE];
                }
                return Ok(());
            }
            other => cx.predicate(other)?,
        };
        cx.emit(Op::MovPred, [], []);
        cx.last().p = [d, p, Pred::NONE];
        return Ok(());
    }
    let whole = ty.bytes();
    match (to, from) {
        (Operand::Vector(_), Operand::Vector(_)) => Err(cx.error("'mov' takes a vector on one side only")),
        (Operand::Vector(parts), _) => {
            let part = part_bytes(cx, whole, parts)?;
            let s = cx.source(from, ty)?;
            let list = parts.iter().map(|o| cx.destination(o, part)).collect::<Result<Vec<_>>>()?;
            let defs = list.len() as u32;
            cx.emit_list(Op::Unpack { part, whole }, [], [s], list, defs);
            Ok(())
        }
        (_, Operand::Vector(parts)) => {
            let part = part_bytes(cx, whole, parts)?;
            let part_type = match part {
                1 => Type::B8,
                2 => Type::B16,
                4 => Type::B32,
                _ => Type::B64,
            };
            let list = parts.iter().map(|o| cx.source(o, part_type)).collect::<Result<Vec<_>>>()?;
            let d = cx.destination(to, whole)?;
            cx.emit_list(Op::Pack { part, whole }, [d], [], list, 0);
            Ok(())
        }
        _ => {
            let s = cx.source(from, ty)?;
            let d = cx.destination(to, whole)?;
            cx.emit(if whole == 16 { Op::Mov128 } else { Op::Mov(width(ty)) }, [d], [s]);
            Ok(())
        }
    }
}

fn part_bytes(cx: &FunctionDecoder, whole: u32, parts: &[Operand]) -> Result<u32> {
    let n = parts.len() as u32;
    if matches!(n, 2 | 4) && whole / n >= 1 && whole.is_multiple_of(n) {
        Ok(whole / n)
    } else {
        Err(cx.error(format!("{} bits do not split into {n}", whole * 8)))
    }
}

fn setp<'a>(cx: &mut FunctionDecoder<'_, 'a>, i: &'a ast::Instruction<'a>, m: &mut Modifiers) -> Result<()> {
    let cmp = m.need(&COMPARISONS)?;
    let combine = m.choose(&COMBINATIONS).unwrap_or(Combine::None);
    let ftz = m.take("ftz");
    let ty = m.ty()?;
    m.finish()?;
    let n = if combine == Combine::None { 3 } else { 4 };
    cx.count(i, n..=n)?;
    let s = [cx.source(&i.operands[1], ty)?, cx.source(&i.operands[2], ty)?];
    let [p, q] = cx.predicate_pair(&i.operands[0])?;
    let with = if n == 4 { cx.predicate(&i.operands[3])? } else { Pred::NONE };
    let op = match float(ty) {
        Some(t) => Op::SetpFloat { cmp, t, ftz, combine },
        None => {
            check_int(cx, cmp, ty)?;
            Op::SetpInt { cmp, signed: ty.signed(), w: width(ty), combine }
        }
    };
    cx.emit(op, [], s);
    cx.last().p = [p, q, with];
    Ok(())
}

fn check_int(cx: &FunctionDecoder, cmp: Compare, ty: Type) -> Result<()> {
    use Compare::*;
    if matches!(cmp, Equ | Neu | Ltu | Leu | Gtu | Geu | Num | Nan) {
        return Err(cx.error("this comparison is for floating-point types"));
    }
    if !ty.integer() || ty.bytes() < 2 {
        return Err(cx.error("a comparison takes 16, 32 or 64 bits"));
    }
    Ok(())
}

fn set<'a>(cx: &mut FunctionDecoder<'_, 'a>, i: &'a ast::Instruction<'a>, m: &mut Modifiers) -> Result<()> {
    let cmp = m.need(&COMPARISONS)?;
    let combine = m.choose(&COMBINATIONS).unwrap_or(Combine::None);
    let ftz = m.take("ftz");
    let to = m.ty()?;
    let ty = m.ty()?;
    m.finish()?;
    let n = if combine == Combine::None { 3 } else { 4 };
    cx.count(i, n..=n)?;
    let s = [cx.source(&i.operands[1], ty)?, cx.source(&i.operands[2], ty)?];
    let with = if n == 4 { cx.predicate(&i.operands[3])? } else { Pred::NONE };
    let t = match float(ty) {
        Some(t) => SetType::Float(t),
        None => {
            check_int(cx, cmp, ty)?;
            SetType::Int { signed: ty.signed(), w: width(ty) }
        }
    };
    let float_result = match to {
        Type::U32 | Type::S32 | Type::U16 | Type::S16 => false,
        Type::F32 | Type::F16 | Type::Bf16 | Type::F16x2 | Type::Bf16x2 => true,
        _ => return Err(cx.error("'set' gives u32, s32, f32, u16, s16, f16, bf16, f16x2 or bf16x2")),
    };
    let packed = matches!(ty, Type::F16x2 | Type::Bf16x2);
    if packed && float_result && to != ty || !packed && matches!(to, Type::F16x2 | Type::Bf16x2) {
        return Err(cx.error("packed 'set' gives its own type or a mask"));
    }
    let d = cx.destination(&i.operands[0], to.bytes())?;
    // 1.0 of the result's type travels as a constant.
    let one = match (float_result, to) {
        (false, Type::U16 | Type::S16) => 0xFFFF,
        (false, _) => 0xFFFF_FFFF,
        (true, Type::F32) => u64::from(1f32.to_bits()),
        (true, Type::F16) => 0x3C00,
        (true, Type::F16x2) => 0x3C00_3C00,
        (true, Type::Bf16) => 0x3F80,
        _ => 0x3F80_3F80,
    };
    let one = cx.constant(one, 4);
    cx.emit(Op::Set { cmp, t, ftz, combine, float: float_result, bytes: to.bytes() }, [d], [s[0], s[1], one]);
    cx.last().p[2] = with;
    Ok(())
}
