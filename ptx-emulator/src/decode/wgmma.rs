//! Products of a warpgroup (PTX ISA, "wgmma.mma_async", "wgmma.fence", "wgmma.commit_group", "wgmma.wait_group").

use super::arithmetic::immediate;
use super::function::{FunctionDecoder, Result};
use super::modifiers::Modifiers;
use crate::exec::tensor::TensorOp;
use crate::exec::wgmma::{GroupOp, Product};
use crate::ir::{Op, Pred, Slot};
use crate::parse::ast::{self, Operand};
use crate::types::Type;

/// Decodes a `wgmma` instruction.
pub(super) fn decode<'a>(
    cx: &mut FunctionDecoder<'_, 'a>,
    i: &'a ast::Instruction<'a>,
    mut m: Modifiers,
) -> Result<()> {
    let what = m.need(&[("fence", 0), ("commit_group", 1), ("wait_group", 2), ("mma_async", 3)])?;
    m.need(&[("sync", ())])?;
    m.need(&[("aligned", ())])?;
    if what == 3 {
        return product(cx, i, m);
    }
    m.finish()?;
    let n = usize::from(what == 2);
    cx.count(i, n..=n)?;
    let op = match what {
        0 => GroupOp::Fence,
        1 => GroupOp::Commit,
        _ => GroupOp::Wait { groups: immediate(cx, &i.operands[0], 7)? as u32 },
    };
    cx.emit(Op::Tensor(TensorOp::Group(op)), [], []);
    Ok(())
}

fn product<'a>(
    cx: &mut FunctionDecoder<'_, 'a>,
    i: &'a ast::Instruction<'a>,
    mut m: Modifiers,
) -> Result<()> {
    let shape = m.peek().and_then(shape).ok_or_else(|| m.error("expected a shape m64nNkK".into()))?;
    m.take(m.peek().unwrap_or_default());
    let (d, a, b) = (m.ty()?, element(&mut m)?, element(&mut m)?);
    let saturate = m.take("satfinite");
    m.finish()?;
    let (n, k) = shape;
    let bytes8 = |t: Type| matches!(t, Type::S8 | Type::U8);
    let bytes_float = |t: Type| matches!(t, Type::E4m3 | Type::E5m2);
    let known = match (d, a, b) {
        (Type::F16 | Type::F32, a, b) if bytes_float(a) && bytes_float(b) => k == 32,
        (Type::F16 | Type::F32, Type::F16, Type::F16) | (Type::F32, Type::Bf16, Type::Bf16) => k == 16,
        (Type::F32, Type::Tf32, Type::Tf32) => k == 8,
        (Type::S32, a, b) => k == 32 && bytes8(a) && bytes8(b) && (n <= 24 || n % 16 == 0),
        _ => false,
    };
    if !known || (saturate && d != Type::S32) || n % 8 != 0 || !(8..=256).contains(&n) {
        return Err(cx.error(format!("'wgmma.{}' is not supported", i.modifiers.join("."))));
    }
    let registers = matches!(i.operands.get(1), Some(Operand::Vector(_)));
    let half = matches!(a, Type::F16 | Type::Bf16);
    let signs = if d == Type::S32 { 0 } else { 2 };
    let transposes = if !half { 0 } else { 2 - usize::from(registers) };
    let count = 4 + signs + transposes;
    cx.count(i, count..=count)?;
    let mut form = Product { n, d, a, b, negate: [false; 2], transposed: [false; 2], registers, saturate };
    for s in 0..signs {
        form.negate[s] = match i.operands[4 + s] {
            Operand::Number(ast::Number::Int(1)) => false,
            Operand::Number(ast::Number::Int(u64::MAX)) => true,
            _ => return Err(cx.error("the scale of an operand is 1 or -1")),
        };
    }
    for t in 0..transposes {
        // Only B has one when A is in registers.
        form.transposed[t + 2 - transposes] = immediate(cx, &i.operands[4 + signs + t], 1)? == 1;
    }
    let mut list = Vec::new();
    for e in elements(cx, &i.operands[0], form.results())? {
        list.push(cx.destination(e, 4)?);
    }
    let mut descriptors = [Slot::NONE; 2];
    if registers {
        for e in elements(cx, &i.operands[1], 4)? {
            list.push(cx.source(e, Type::B32)?);
        }
    } else {
        descriptors[0] = cx.source(&i.operands[1], Type::B64)?;
    }
    if list.iter().any(|s| s.is_none() || !s.is_register()) {
        return Err(cx.error("D and A take registers only"));
    }
    descriptors[1] = cx.source(&i.operands[2], Type::B64)?;
    let add = match &i.operands[3] {
        Operand::Number(ast::Number::Int(n @ (0 | 1))) => {
            // A constant scale: the predicate that always holds, or its opposite.
            Err(cx.error(format!("'scale-d' is a predicate, not {n}")))
        }
        p => cx.predicate(p),
    }?;
    let defs = form.results() as u32;
    cx.emit_list(Op::Tensor(TensorOp::Group(GroupOp::Product(form))), [], descriptors, list, defs);
    cx.last().p = [Pred::NONE, Pred::NONE, add];
    Ok(())
}

/// The type of A or B.
fn element(m: &mut Modifiers) -> Result<Type> {
    match m.choose(&[("e4m3", Type::E4m3), ("e5m2", Type::E5m2)]) {
        Some(ty) => Ok(ty),
        None => m.ty(),
    }
}

fn elements<'o, 'a>(
    cx: &FunctionDecoder<'_, 'a>,
    operand: &'o Operand<'a>,
    want: usize,
) -> Result<&'o [Operand<'a>]> {
    let elements = cx.elements(operand);
    if elements.len() != want {
        return Err(cx.error(format!("{} registers, expected {want}", elements.len())));
    }
    Ok(elements)
}

/// N and K of `m64nNkK`.
fn shape(name: &str) -> Option<(u32, u32)> {
    let (n, k) = name.strip_prefix("m64n")?.split_once('k')?;
    Some((n.parse().ok()?, k.parse().ok()?))
}
