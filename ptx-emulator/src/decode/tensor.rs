//! Matrix loads, stores and products (PTX ISA, "Warp Level Matrix Instructions").

use super::access::address;
use super::function::{FunctionDecoder, Result};
use super::modifiers::Modifiers;
use crate::exec::mma::Mma;
use crate::exec::tensor::TensorOp;
use crate::ir::Op;
use crate::parse::ast;
use crate::types::{Space, Type};

/// Decodes `i` when it belongs here.
pub(super) fn decode<'a>(cx: &mut FunctionDecoder<'_, 'a>, i: &'a ast::Instruction<'a>) -> Result<bool> {
    let mut m = Modifiers::new(i);
    if i.opcode == "mma" {
        mma(cx, i, &mut m)?;
        return Ok(true);
    }
    if i.opcode == "wgmma" {
        super::wgmma::decode(cx, i, m)?;
        return Ok(true);
    }
    let load = match i.opcode {
        "ldmatrix" => true,
        "stmatrix" => false,
        _ => return Ok(false),
    };
    m.need(&[("sync", ())])?;
    m.need(&[("aligned", ())])?;
    m.need(&[("m8n8", ())])?;
    let count = m.need(&[("x1", 1u32), ("x2", 2), ("x4", 4)])?;
    let transposed = m.take("trans");
    m.choose(&[("shared", ()), ("shared::cta", ())]);
    m.need(&[("b16", ())])?;
    m.finish()?;
    cx.count(i, 2..=2)?;
    let (registers, memory) = if load { (0, 1) } else { (1, 0) };
    let (slot, wide_address, offset, _) = address(cx, &i.operands[memory], Space::Shared)?;
    let elements = cx.elements(&i.operands[registers]);
    if elements.len() != count as usize {
        return Err(cx.error(format!("expected {count} registers")));
    }
    let mut list = Vec::new();
    for e in elements {
        list.push(if load { cx.destination(e, 4)? } else { cx.source(e, Type::B32)? });
    }
    let op = if load {
        TensorOp::LoadMatrix { count, transposed, offset, wide_address }
    } else {
        TensorOp::StoreMatrix { count, transposed, offset, wide_address }
    };
    cx.emit_list(Op::Tensor(op), [], [slot], list, if load { count } else { 0 });
    Ok(true)
}

fn mma<'a>(cx: &mut FunctionDecoder<'_, 'a>, i: &'a ast::Instruction<'a>, m: &mut Modifiers) -> Result<()> {
    m.need(&[("sync", ())])?;
    m.need(&[("aligned", ())])?;
    let k = m.need(&[("m16n8k4", 4), ("m16n8k8", 8), ("m16n8k16", 16), ("m16n8k32", 32)])?;
    m.need(&[("row", ())])?;
    m.need(&[("col", ())])?;
    let saturate = m.take("satfinite");
    let (d, a, b, c) = (m.ty()?, m.ty()?, m.ty()?, m.ty()?);
    m.finish()?;
    cx.count(i, 4..=4)?;
    let bytes8 = |t: Type| matches!(t, Type::S8 | Type::U8);
    let known = match (k, a, b, c) {
        (8 | 16, Type::F16, Type::F16, Type::F32 | Type::F16) => !saturate,
        (8 | 16, Type::Bf16, Type::Bf16, Type::F32) => !saturate,
        (4 | 8, Type::Tf32, Type::Tf32, Type::F32) => !saturate,
        (16 | 32, a, b, Type::S32) => bytes8(a) && bytes8(b),
        _ => false,
    };
    if !known || c != d {
        return Err(cx.error(format!("'mma.{}' is not supported", i.modifiers.join("."))));
    }
    let form = Mma { k, a, b, c, saturate };
    let [na, nb, nc] = form.registers();
    let mut list = Vec::new();
    for (at, n) in [(0, nc), (1, na), (2, nb), (3, nc)] {
        let elements = cx.elements(&i.operands[at]);
        if elements.len() != n {
            return Err(cx.error(format!("operand {at} has {} registers, expected {n}", elements.len())));
        }
        let ty = if at == 3 && c == Type::F32 { Type::F32 } else { Type::B32 };
        for e in elements {
            list.push(if at == 0 { cx.destination(e, 4)? } else { cx.source(e, ty)? });
        }
    }
    cx.emit_list(Op::Tensor(TensorOp::Mma(form)), [], [], list, nc as u32);
    Ok(())
}
