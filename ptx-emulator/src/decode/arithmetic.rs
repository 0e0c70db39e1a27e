//! Integer and floating-point arithmetic, logic and bit operations (PTX ISA, "Integer Arithmetic Instructions" to
//! "Logic and Shift Instructions").

use super::function::{FunctionDecoder, Result};
use super::modifiers::Modifiers;
use crate::ir::*;
use crate::parse::ast;
use crate::types::Type;

/// The width of an integer type.
pub(super) fn width(ty: Type) -> Width {
    match ty.bytes() {
        8 => Width::W64,
        4 => Width::W32,
        _ => Width::W16,
    }
}

/// The float type that arithmetic knows.
pub(super) fn float(ty: Type) -> Option<Float> {
    Some(match ty {
        Type::F16 => Float::F16,
        Type::F16x2 => Float::F16x2,
        Type::Bf16 => Float::Bf16,
        Type::Bf16x2 => Float::Bf16x2,
        Type::F32 => Float::F32,
        Type::F64 => Float::F64,
        _ => return None,
    })
}

const ROUNDS: [(&str, Round); 5] =
    [("rn", Round::Near), ("rz", Round::Zero), ("rm", Round::Down), ("rp", Round::Up), ("rna", Round::Away)];

/// Decodes `i` when it belongs here.
pub(super) fn decode<'a>(cx: &mut FunctionDecoder<'_, 'a>, i: &'a ast::Instruction<'a>) -> Result<bool> {
    let mut m = Modifiers::new(i);
    let floating = i.modifiers.iter().any(|m| Type::from_name(m).and_then(float).is_some());
    match i.opcode {
        "add" | "sub" | "mul" | "div" | "min" | "max" | "abs" | "neg" | "mad" | "fma" | "rcp" | "sqrt"
        | "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh" | "copysign" | "testp"
            if floating =>
        {
            real(cx, i, &mut m)?
        }
        "add" | "sub" | "mul" | "mad" | "div" | "rem" | "min" | "max" | "abs" | "neg" | "sad" | "mul24"
        | "mad24" | "addc" | "subc" | "madc" => integer(cx, i, &mut m)?,
        "and" | "or" | "xor" | "not" | "cnot" | "shl" | "shr" | "popc" | "clz" | "brev" | "bfind" | "bfe"
        | "bfi" | "lop3" | "shf" | "prmt" | "dp4a" | "dp2a" | "bmsk" | "szext" => bits(cx, i, &mut m)?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn unary<'a>(
    cx: &mut FunctionDecoder<'_, 'a>,
    i: &'a ast::Instruction<'a>,
    op: Op,
    to: u32,
    ty: Type,
) -> Result<()> {
    cx.count(i, 2..=2)?;
    let s = cx.source(&i.operands[1], ty)?;
    let d = cx.destination(&i.operands[0], to)?;
    cx.emit(op, [d], [s]);
    Ok(())
}

fn binary<'a>(
    cx: &mut FunctionDecoder<'_, 'a>,
    i: &'a ast::Instruction<'a>,
    op: Op,
    to: u32,
    types: [Type; 2],
) -> Result<()> {
    cx.count(i, 3..=3)?;
    let s = [cx.source(&i.operands[1], types[0])?, cx.source(&i.operands[2], types[1])?];
    let d = cx.destination(&i.operands[0], to)?;
    cx.emit(op, [d], s);
    Ok(())
}

fn ternary<'a>(
    cx: &mut FunctionDecoder<'_, 'a>,
    i: &'a ast::Instruction<'a>,
    op: Op,
    to: u32,
    types: [Type; 3],
) -> Result<()> {
    cx.count(i, 4..=4)?;
    let s = [
        cx.source(&i.operands[1], types[0])?,
        cx.source(&i.operands[2], types[1])?,
        cx.source(&i.operands[3], types[2])?,
    ];
    let d = cx.destination(&i.operands[0], to)?;
    cx.emit(op, [d], s);
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum Part {
    Lo,
    Hi,
    Wide,
}

fn integer<'a>(
    cx: &mut FunctionDecoder<'_, 'a>,
    i: &'a ast::Instruction<'a>,
    m: &mut Modifiers,
) -> Result<()> {
    const PARTS: [(&str, Part); 3] = [("lo", Part::Lo), ("hi", Part::Hi), ("wide", Part::Wide)];
    let multiplies = matches!(i.opcode, "mul" | "mad" | "madc" | "mul24" | "mad24");
    let part = if multiplies { m.need(&PARTS)? } else { Part::Lo };
    let sat = m.take("sat");
    let carry_out = m.take("cc");
    let ty = m.ty()?;
    // `min.relu.s32` and `add.u16x2` are of sm_90: refused as unknown modifiers.
    m.finish()?;
    if !ty.integer() || ty.bytes() < 2 {
        return Err(cx.error(format!("'{}' does not take this type", i.opcode)));
    }
    if sat && ty != Type::S32 {
        return Err(cx.error("'.sat' needs .s32"));
    }
    let (w, signed, bytes) = (width(ty), ty.signed(), ty.bytes());
    if carry_out && (bytes < 4 || !matches!(i.opcode, "add" | "sub" | "mad" | "addc" | "subc" | "madc")) {
        return Err(cx.error("'.cc' needs an addition or subtraction of 32 or 64 bits"));
    }
    let op = match (i.opcode, signed) {
        ("add" | "addc", _) if carry_out || i.opcode == "addc" => {
            Op::Carry { subtract: false, carry_in: i.opcode == "addc", carry_out, w }
        }
        ("sub" | "subc", _) if carry_out || i.opcode == "subc" => {
            Op::Carry { subtract: true, carry_in: i.opcode == "subc", carry_out, w }
        }
        ("mad" | "madc", _) if (carry_out || i.opcode == "madc") && part != Part::Wide => {
            let op =
                Op::MadCarry { high: part == Part::Hi, signed, carry_in: i.opcode == "madc", carry_out, w };
            return ternary(cx, i, op, bytes, [ty; 3]);
        }
        ("add", _) => Op::Int2(if sat { Int2::AddSat } else { Int2::Add }, w),
        ("sub", _) => Op::Int2(if sat { Int2::SubSat } else { Int2::Sub }, w),
        ("mul", _) if part == Part::Wide => {
            if bytes == 8 {
                return Err(cx.error("'mul.wide' takes 16 or 32 bits"));
            }
            return binary(cx, i, Op::MulWide { signed, w }, bytes * 2, [ty; 2]);
        }
        ("mul", _) => Op::Int2(
            match (part, signed) {
                (Part::Lo, _) => Int2::MulLo,
                (_, true) => Int2::MulHiS,
                (_, false) => Int2::MulHiU,
            },
            w,
        ),
        ("mad", _) => {
            if part == Part::Wide {
                let wide = match (bytes, signed) {
                    (2, false) => Type::U32,
                    (2, true) => Type::S32,
                    (4, false) => Type::U64,
                    (4, true) => Type::S64,
                    _ => return Err(cx.error("'mad.wide' takes 16 or 32 bits")),
                };
                return ternary(cx, i, Op::MadWide { signed, w }, bytes * 2, [ty, ty, wide]);
            }
            let f = match (part, signed, sat) {
                (Part::Hi, true, true) => Int3::MadHiSatS,
                (_, _, true) => return Err(cx.error("'.sat' needs 'mad.hi.s32'")),
                (Part::Hi, true, false) => Int3::MadHiS,
                (Part::Hi, false, false) => Int3::MadHiU,
                _ => Int3::MadLo,
            };
            return ternary(cx, i, Op::Int3(f, w), bytes, [ty; 3]);
        }
        ("mul24" | "mad24", _) => {
            if bytes != 4 || part == Part::Wide || sat {
                return Err(cx.error(format!("'{}' takes .lo or .hi of 32 bits", i.opcode)));
            }
            let add = i.opcode == "mad24";
            let op = Op::Mul24 { signed, high: part == Part::Hi, add };
            return if add { ternary(cx, i, op, 4, [ty; 3]) } else { binary(cx, i, op, 4, [ty; 2]) };
        }
        ("sad", _) => {
            let f = if signed { Int3::SadS } else { Int3::SadU };
            return ternary(cx, i, Op::Int3(f, w), bytes, [ty; 3]);
        }
        ("div", true) => Op::Int2(Int2::DivS, w),
        ("div", false) => Op::Int2(Int2::DivU, w),
        ("rem", true) => Op::Int2(Int2::RemS, w),
        ("rem", false) => Op::Int2(Int2::RemU, w),
        ("min", true) => Op::Int2(Int2::MinS, w),
        ("min", false) => Op::Int2(Int2::MinU, w),
        ("max", true) => Op::Int2(Int2::MaxS, w),
        ("max", false) => Op::Int2(Int2::MaxU, w),
        ("abs", true) => return unary(cx, i, Op::Int1(Int1::Abs, w), bytes, ty),
        ("neg", true) => return unary(cx, i, Op::Int1(Int1::Neg, w), bytes, ty),
        _ => return Err(cx.error(format!("'{}' does not take this type", i.opcode))),
    };
    binary(cx, i, op, bytes, [ty; 2])
}

fn bits<'a>(cx: &mut FunctionDecoder<'_, 'a>, i: &'a ast::Instruction<'a>, m: &mut Modifiers) -> Result<()> {
    let wrong = |cx: &FunctionDecoder| cx.error(format!("'{}' does not take this type", i.opcode));
    match i.opcode {
        "and" | "or" | "xor" | "not" => {
            let ty = m.ty()?;
            m.finish()?;
            if ty == Type::Pred {
                return predicate_logic(cx, i);
            }
            if !matches!(ty, Type::B16 | Type::B32 | Type::B64) {
                return Err(wrong(cx));
            }
            let (w, n) = (width(ty), ty.bytes());
            match i.opcode {
                "and" => binary(cx, i, Op::Int2(Int2::And, w), n, [ty; 2]),
                "or" => binary(cx, i, Op::Int2(Int2::Or, w), n, [ty; 2]),
                "xor" => binary(cx, i, Op::Int2(Int2::Xor, w), n, [ty; 2]),
                _ => unary(cx, i, Op::Int1(Int1::Not, w), n, ty),
            }
        }
        "cnot" => {
            let ty = m.ty()?;
            m.finish()?;
            if !matches!(ty, Type::B16 | Type::B32 | Type::B64) {
                return Err(wrong(cx));
            }
            unary(cx, i, Op::Int1(Int1::Cnot, width(ty)), ty.bytes(), ty)
        }
        "shl" | "shr" => {
            let ty = m.ty()?;
            m.finish()?;
            if !ty.integer() || ty.bytes() < 2 {
                return Err(wrong(cx));
            }
            let f = match (i.opcode, ty.signed()) {
                ("shl", _) => Int2::Shl,
                (_, true) => Int2::ShrS,
                _ => Int2::ShrU,
            };
            binary(cx, i, Op::Int2(f, width(ty)), ty.bytes(), [ty, Type::U32])
        }
        "popc" | "clz" | "brev" => {
            let ty = m.ty()?;
            m.finish()?;
            if !matches!(ty, Type::B32 | Type::B64) {
                return Err(wrong(cx));
            }
            let (f, to) = match i.opcode {
                "popc" => (Int1::Popc, 4),
                "clz" => (Int1::Clz, 4),
                _ => (Int1::Brev, ty.bytes()),
            };
            unary(cx, i, Op::Int1(f, width(ty)), to, ty)
        }
        "bfind" => {
            let shift = m.take("shiftamt");
            let ty = m.ty()?;
            m.finish()?;
            if !ty.integer() || ty.bytes() < 4 {
                return Err(wrong(cx));
            }
            unary(cx, i, Op::Int1(Int1::Bfind { signed: ty.signed(), shift }, width(ty)), 4, ty)
        }
        "bfe" => {
            let ty = m.ty()?;
            m.finish()?;
            if !ty.integer() || ty.bytes() < 4 {
                return Err(wrong(cx));
            }
            let f = if ty.signed() { Int3::BfeS } else { Int3::BfeU };
            ternary(cx, i, Op::Int3(f, width(ty)), ty.bytes(), [ty, Type::U32, Type::U32])
        }
        "bfi" => {
            let ty = m.ty()?;
            m.finish()?;
            cx.count(i, 5..=5)?;
            if !matches!(ty, Type::B32 | Type::B64) {
                return Err(wrong(cx));
            }
            let types = [ty, ty, Type::U32, Type::U32];
            let mut s = [Slot::NONE; 4];
            for k in 0..4 {
                s[k] = cx.source(&i.operands[k + 1], types[k])?;
            }
            let d = cx.destination(&i.operands[0], ty.bytes())?;
            cx.emit(Op::Bfi(width(ty)), [d], s);
            Ok(())
        }
        "lop3" => {
            m.need(&[("b32", ())])?;
            m.finish()?;
            cx.count(i, 5..=5)?;
            let lut = immediate(cx, &i.operands[4], 255)? as u8;
            let mut s = [Slot::NONE; 3];
            for k in 0..3 {
                s[k] = cx.source(&i.operands[k + 1], Type::B32)?;
            }
            let d = cx.destination(&i.operands[0], 4)?;
            cx.emit(Op::Lop3(lut), [d], s);
            Ok(())
        }
        "shf" => {
            let left = m.need(&[("l", true), ("r", false)])?;
            let wrap = m.need(&[("wrap", true), ("clamp", false)])?;
            m.need(&[("b32", ())])?;
            m.finish()?;
            ternary(cx, i, Op::Shf { left, wrap }, 4, [Type::B32; 3])
        }
        "prmt" => {
            m.need(&[("b32", ())])?;
            let mode = m
                .choose(&[("f4e", 1u8), ("b4e", 2), ("rc8", 3), ("ecl", 4), ("ecr", 5), ("rc16", 6)])
                .unwrap_or(0);
            m.finish()?;
            ternary(cx, i, Op::Prmt(mode), 4, [Type::B32; 3])
        }
        "dp4a" | "dp2a" => {
            let high = i.opcode == "dp2a" && m.need(&[("lo", false), ("hi", true)])?;
            let kinds = [("u32", false), ("s32", true)];
            let (signed_a, signed_b) = (m.need(&kinds)?, m.need(&kinds)?);
            m.finish()?;
            let op = if i.opcode == "dp4a" {
                Op::Dp4a { signed_a, signed_b }
            } else {
                Op::Dp2a { signed_a, signed_b, high }
            };
            ternary(cx, i, op, 4, [Type::B32; 3])
        }
        "bmsk" => {
            let wrap = m.need(&[("wrap", true), ("clamp", false)])?;
            m.need(&[("b32", ())])?;
            m.finish()?;
            binary(cx, i, Op::Bmsk { wrap }, 4, [Type::B32; 2])
        }
        _ => {
            let wrap = m.need(&[("wrap", true), ("clamp", false)])?;
            let signed = m.need(&[("u32", false), ("s32", true)])?;
            m.finish()?;
            binary(cx, i, Op::Szext { signed, wrap }, 4, [Type::B32; 2])
        }
    }
}

fn predicate_logic<'a>(cx: &mut FunctionDecoder<'_, 'a>, i: &'a ast::Instruction<'a>) -> Result<()> {
    let (op, n) = match i.opcode {
        "and" => (Op::PredLogic(AtomOp::And), 3),
        "or" => (Op::PredLogic(AtomOp::Or), 3),
        "xor" => (Op::PredLogic(AtomOp::Xor), 3),
        _ => (Op::PredNot, 2),
    };
    cx.count(i, n..=n)?;
    let d = cx.predicate_destination(&i.operands[0])?;
    let a = cx.predicate(&i.operands[1])?;
    let b = if n == 3 { cx.predicate(&i.operands[2])? } else { Pred::NONE };
    cx.emit(op, [], []);
    cx.last().p = [d, a, b];
    Ok(())
}

/// A literal operand of at most `max`.
pub(super) fn immediate(cx: &FunctionDecoder, operand: &ast::Operand, max: u64) -> Result<u64> {
    match operand {
        ast::Operand::Number(ast::Number::Int(n)) if *n <= max => Ok(*n),
        _ => Err(cx.error(format!("expected a number from 0 to {max}"))),
    }
}

fn real<'a>(cx: &mut FunctionDecoder<'_, 'a>, i: &'a ast::Instruction<'a>, m: &mut Modifiers) -> Result<()> {
    if i.opcode == "testp" {
        let class = m.need(&[
            ("finite", TestP::Finite),
            ("infinite", TestP::Infinite),
            ("number", TestP::Number),
            ("notanumber", TestP::NotANumber),
            ("normal", TestP::Normal),
            ("subnormal", TestP::Subnormal),
        ])?;
        let ty = m.ty()?;
        m.finish()?;
        cx.count(i, 2..=2)?;
        let Some(t @ (Float::F32 | Float::F64)) = float(ty) else {
            return Err(cx.error("'testp' takes f32 or f64"));
        };
        let s = cx.source(&i.operands[1], ty)?;
        let d = cx.predicate_destination(&i.operands[0])?;
        cx.emit(Op::TestP(class, t), [], [s]);
        cx.last().p[0] = d;
        return Ok(());
    }
    // Modifiers come in one order in the manual; compilers keep to it, hands do not always.
    let (mut round, mut approx, mut full) = (None, false, false);
    let (mut ftz, mut sat, mut relu, mut nan, mut xorsign) = (false, false, false, false, false);
    let ty = loop {
        if let Some(r) = m.choose(&ROUNDS[..4]) {
            round = Some(r);
        } else if m.take("approx") {
            approx = true;
        } else if m.take("full") {
            full = true;
        } else if m.take("ftz") {
            ftz = true;
        } else if m.take("sat") {
            sat = true;
        } else if m.take("relu") {
            relu = true;
        } else if m.take("NaN") {
            nan = true;
        } else if m.take("xorsign") {
            xorsign = true;
        } else if m.take("abs") || m.take("oob") {
            return Err(cx.error(format!("'{}' with this modifier is not supported", i.opcode)));
        } else {
            break m.ty()?;
        }
    };
    m.finish()?;
    if xorsign {
        return Err(cx.error("'.xorsign' is not supported"));
    }
    let Some(t) = float(ty) else { return Err(m.error("expected a floating-point type".into())) };
    let wide = matches!(t, Float::F32 | Float::F64);
    let half = matches!(t, Float::F16 | Float::F16x2);
    let bytes = ty.bytes();
    let bad = |cx: &FunctionDecoder, what: &str| Err(cx.error(format!("'{}': {what}", i.opcode)));
    let coarse = matches!(i.opcode, "rcp" | "rsqrt") && approx;
    if ftz && t == Float::F64 && !coarse || ftz && !wide && !half && i.opcode != "ex2" {
        return bad(cx, "'.ftz' is for f32 and f16");
    }
    if sat && !(t == Float::F32 || half) {
        return bad(cx, "'.sat' is for f32 and f16");
    }
    if matches!(round, Some(Round::Zero | Round::Down | Round::Up)) && !wide {
        return bad(cx, "this type rounds to nearest even only");
    }
    if relu && (i.opcode != "fma" || wide) {
        return bad(cx, "'.relu' is for fma of 16-bit floats");
    }
    let mode = FloatMode { round: round.unwrap_or(Round::Near), ftz, sat, relu };
    let special = |cx: &FunctionDecoder, f: Float1, ok: bool| {
        if ok && round.is_none() && !sat {
            Ok(Op::Float1(f, t, mode))
        } else {
            Err(cx.error(format!("'{}' does not come in this form", i.opcode)))
        }
    };
    let op = match i.opcode {
        "fma" | "mad" => {
            if wide && round.is_none() {
                return bad(cx, "a rounding modifier is required");
            }
            return ternary(cx, i, Op::Fma(t, mode), bytes, [ty; 3]);
        }
        "add" => return binary(cx, i, Op::Float2(Float2::Add, t, mode), bytes, [ty; 2]),
        "sub" => return binary(cx, i, Op::Float2(Float2::Sub, t, mode), bytes, [ty; 2]),
        "mul" => return binary(cx, i, Op::Float2(Float2::Mul, t, mode), bytes, [ty; 2]),
        "min" | "max" => {
            let f = match (i.opcode, nan) {
                ("min", false) => Float2::Min,
                ("min", true) => Float2::MinNan,
                (_, false) => Float2::Max,
                _ => Float2::MaxNan,
            };
            if nan && t == Float::F64 {
                return bad(cx, "'.NaN' is not for f64");
            }
            if i.operands.len() == 4 {
                return bad(cx, "three operands need sm_100, which is not modelled");
            }
            return binary(cx, i, Op::Float2(f, t, mode), bytes, [ty; 2]);
        }
        "div" => {
            let f = if approx || full { Float2::DivApprox } else { Float2::Div };
            if !wide || (t == Float::F64 && (approx || full)) || ((approx || full) == round.is_some()) {
                return bad(cx, "takes f32 with .approx, .full or a rounding, or f64 with a rounding");
            }
            return binary(cx, i, Op::Float2(f, t, mode), bytes, [ty; 2]);
        }
        "copysign" if wide => return binary(cx, i, Op::Float2(Float2::CopySign, t, mode), bytes, [ty; 2]),
        "abs" => special(cx, Float1::Abs, !approx)?,
        "neg" => special(cx, Float1::Neg, !approx)?,
        "rcp" | "sqrt" if wide && round.is_some() && !approx => {
            let f = if i.opcode == "rcp" { Float1::Rcp } else { Float1::Sqrt };
            Op::Float1(f, t, mode)
        }
        // rcp and rsqrt of f64: `.approx.ftz.f64`, a coarse start for Newton steps.
        "rcp" => special(cx, Float1::RcpApprox, approx && (t == Float::F32 || ftz && wide))?,
        "rsqrt" => special(cx, Float1::RsqrtApprox, approx && wide)?,
        "sqrt" => special(cx, Float1::SqrtApprox, approx && t == Float::F32)?,
        "lg2" => special(cx, Float1::Lg2Approx, approx && t == Float::F32)?,
        "sin" => special(cx, Float1::SinApprox, approx && t == Float::F32)?,
        "cos" => special(cx, Float1::CosApprox, approx && t == Float::F32)?,
        "ex2" => special(cx, Float1::Ex2Approx, approx && t != Float::F64)?,
        "tanh" => special(cx, Float1::TanhApprox, approx && t != Float::F64 && !ftz)?,
        _ => return bad(cx, "does not take this type"),
    };
    unary(cx, i, op, bytes, ty)
}
