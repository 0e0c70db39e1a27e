//! Asynchronous copies (PTX ISA, "Data Movement and Conversion Instructions: Asynchronous copy").

use super::access::{CACHE, address};
use super::function::{FunctionDecoder, Result};
use super::modifiers::Modifiers;
use crate::exec::copy::CopyOp;
use crate::ir::{Op, Slot};
use crate::parse::ast;
use crate::types::{Space, Type};

/// Decodes `i` when it belongs here.
pub(super) fn decode<'a>(cx: &mut FunctionDecoder<'_, 'a>, i: &'a ast::Instruction<'a>) -> Result<bool> {
    match i.opcode {
        "cp" => {}
        "mbarrier" => return super::bulk::mbarrier(cx, i).map(|()| true),
        "setmaxnreg" => return super::bulk::registers(cx, i).map(|()| true),
        _ => return Ok(false),
    }
    let mut m = Modifiers::new(i);
    let reduce = m.take("reduce");
    m.need(&[("async", ())])?;
    if reduce {
        m.need(&[("bulk", ())])?;
        return super::bulk::bulk(cx, i, m, true).map(|()| true);
    }
    if m.take("bulk") {
        return super::bulk::bulk(cx, i, m, false).map(|()| true);
    }
    if m.take("mbarrier") {
        return super::bulk::arrive_after(cx, i, m).map(|()| true);
    }
    if m.take("commit_group") {
        m.finish()?;
        cx.emit(Op::Copy(CopyOp::Commit), [], []);
        return Ok(true);
    }
    if m.take("wait_group") {
        m.finish()?;
        cx.count(i, 1..=1)?;
        let n = super::arithmetic::immediate(cx, &i.operands[0], u64::from(u32::MAX))? as u32;
        cx.emit(Op::Copy(CopyOp::Wait { groups: n }), [], []);
        return Ok(true);
    }
    if m.take("wait_all") {
        m.finish()?;
        cx.emit(Op::Copy(CopyOp::WaitAll), [], []);
        return Ok(true);
    }
    let only16 = m.need(&[("ca", false), ("cg", true)])?;
    m.need(&[("shared", ()), ("shared::cta", ())])?;
    m.need(&[("global", ())])?;
    let mut hint = false;
    while let Some(word) = m.peek() {
        hint |= word == "L2::cache_hint";
        if m.choose(&CACHE[14..22]).is_none() {
            break;
        }
    }
    m.finish()?;
    let n = 3 + usize::from(hint);
    cx.count(i, n..=n + 1)?;
    let (to, to_wide, to_offset, _) = address(cx, &i.operands[0], Space::Shared)?;
    let (from, from_wide, from_offset, _) = address(cx, &i.operands[1], Space::Global)?;
    let bytes = super::arithmetic::immediate(cx, &i.operands[2], 16)? as u32;
    if !matches!(bytes, 4 | 8 | 16) || (only16 && bytes != 16) {
        return Err(cx.error("'cp.async' copies 4, 8 or 16 bytes, and 16 with .cg"));
    }
    // A predicate here would be `ignore-src`; a register or number is the count of bytes that are really read.
    let (mut size, mut ignore) = (Slot::NONE, crate::ir::Pred::NONE);
    if i.operands.len() > n {
        if cx.is_predicate(&i.operands[3]) {
            ignore = cx.predicate(&i.operands[3])?;
        } else {
            size = cx.source(&i.operands[3], Type::U32)?;
        }
    }
    cx.emit(
        Op::Copy(CopyOp::Async { bytes, to_wide, to_offset, from_wide, from_offset }),
        [],
        [to, from, size],
    );
    cx.last().p[2] = ignore;
    Ok(true)
}
