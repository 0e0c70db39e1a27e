//! `cvt` (PTX ISA, "cvt", "cvt.pack").

use super::function::{FunctionDecoder, Result};
use super::modifiers::Modifiers;
use crate::ir::{Convert, Op, Round};
use crate::parse::ast;
use crate::types::Type;

/// Decodes `i` when it belongs here.
pub(super) fn decode<'a>(cx: &mut FunctionDecoder<'_, 'a>, i: &'a ast::Instruction<'a>) -> Result<bool> {
    if i.opcode != "cvt" {
        return Ok(false);
    }
    let mut m = Modifiers::new(i);
    let (mut round, mut integral) = (None, false);
    let (mut ftz, mut sat, mut relu, mut satfinite) = (false, false, false, false);
    let to = loop {
        if let Some(r) = m.choose(&[
            ("rn", Round::Near),
            ("rz", Round::Zero),
            ("rm", Round::Down),
            ("rp", Round::Up),
            ("rna", Round::Away),
        ]) {
            round = Some(r);
        } else if let Some(r) =
            m.choose(&[("rni", Round::Near), ("rzi", Round::Zero), ("rmi", Round::Down), ("rpi", Round::Up)])
        {
            (round, integral) = (Some(r), true);
        } else if m.take("ftz") {
            ftz = true;
        } else if m.take("sat") {
            sat = true;
        } else if m.take("relu") {
            relu = true;
        } else if m.take("satfinite") {
            satfinite = true;
        } else {
            break m.ty()?;
        }
    };
    let from = m.ty()?;
    m.finish()?;
    let is_float = |t: Type| matches!(t, Type::F16 | Type::Bf16 | Type::F32 | Type::F64);
    let pair = matches!(to, Type::F16x2 | Type::Bf16x2 | Type::E4m3x2 | Type::E5m2x2);
    let ok = if pair {
        match (to, from) {
            (Type::F16x2 | Type::Bf16x2, Type::F32) => {
                matches!(round, Some(Round::Near | Round::Zero)) && !integral
            }
            (Type::E4m3x2 | Type::E5m2x2, Type::F32 | Type::F16x2) => round == Some(Round::Near) && satfinite,
            (Type::F16x2, Type::E4m3x2 | Type::E5m2x2) => round == Some(Round::Near),
            _ => false,
        }
    } else {
        match (to, from) {
            (Type::Tf32, Type::F32) => matches!(round, Some(Round::Away | Round::Near | Round::Zero)),
            (t, f) if t.integer() && f.integer() => round.is_none(),
            (t, f) if t.integer() && is_float(f) => integral,
            (t, f) if is_float(t) && f.integer() => round.is_some() && !integral,
            (t, f) if is_float(t) && is_float(f) => {
                let narrows = t.bytes() < f.bytes() || (t.bytes() == f.bytes() && t != f);
                if narrows { round.is_some() && !integral } else { round.is_none() || integral }
            }
            _ => false,
        }
    };
    if !ok {
        let form = i.modifiers.join(".");
        return Err(
            cx.error(format!("'cvt.{form}' is not a conversion, or its rounding is missing or wrong"))
        );
    }
    let pack = pair && from == Type::F32;
    let n = if pack { 3 } else { 2 };
    cx.count(i, n..=n)?;
    // An integer source narrower than its register is its low bits; a literal is taken as it is.
    let mut source = |operand: &ast::Operand<'a>| match operand {
        ast::Operand::Name(name) if cx.lookup(name).is_some() => cx.wide_register(operand, from.bytes()),
        other => Ok((cx.source(other, if from.bytes() == 1 { Type::B16 } else { from })?, from.bytes())),
    };
    let (s0, source_bytes) = source(&i.operands[1])?;
    let s1 = if pack { source(&i.operands[2])?.0 } else { crate::ir::Slot::NONE };
    let (d, register_bytes) = cx.wide_register(&i.operands[0], to.bytes())?;
    let op = Op::Convert(Convert {
        to,
        from,
        round: round.unwrap_or(Round::Near),
        integral,
        ftz,
        sat,
        relu,
        satfinite,
        pack,
        register_bytes,
        source_bytes,
    });
    cx.emit(op, [d], [s0, s1]);
    Ok(true)
}
