//! Matrix loads and, in time, matrix products (PTX ISA, "Warp Level Matrix Instructions").

use super::access::address;
use super::function::{FunctionDecoder, Result};
use super::modifiers::Modifiers;
use crate::exec::tensor::TensorOp;
use crate::ir::Op;
use crate::parse::ast;
use crate::types::{Space, Type};

/// Decodes `i` when it belongs here.
pub(super) fn decode<'a>(cx: &mut FunctionDecoder<'_, 'a>, i: &'a ast::Instruction<'a>) -> Result<bool> {
    if i.opcode == "mma" {
        return product(cx, i).map(|()| true);
    }
    let mut m = Modifiers::new(i);
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

/// The one product so far: `mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 d, a, b, c`.
fn product<'a>(cx: &mut FunctionDecoder<'_, 'a>, i: &'a ast::Instruction<'a>) -> Result<()> {
    let mut m = Modifiers::new(i);
    for modifier in ["sync", "aligned", "m16n8k16", "row", "col", "f32", "bf16", "bf16", "f32"] {
        m.need(&[(modifier, ())])?;
    }
    m.finish()?;
    cx.count(i, 4..=4)?;
    let mut list = Vec::new();
    for (operand, registers) in i.operands.iter().zip([4, 4, 2, 4]) {
        let elements = cx.elements(operand);
        if elements.len() != registers {
            return Err(cx.error(format!("expected {registers} registers")));
        }
        for e in elements {
            list.push(if list.len() < 4 { cx.destination(e, 4)? } else { cx.source(e, Type::B32)? });
        }
    }
    cx.emit_list(Op::Tensor(TensorOp::Mma), [], [], list, 4);
    Ok(())
}
