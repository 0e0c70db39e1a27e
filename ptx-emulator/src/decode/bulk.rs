//! Barriers of asynchronous copies, and bulk copies (PTX ISA, "mbarrier", "cp.async.bulk", "cp.async.bulk.tensor").

use super::access::{address, address_of};
use super::function::{FunctionDecoder, Result};
use super::modifiers::Modifiers;
use crate::exec::bulk::{At, BulkOp, RemoteOp, Way, reduces};
use crate::exec::copy::CopyOp;
use crate::exec::mbarrier::{Action, BarrierOp};
use crate::ir::{AtomOp, Op, Pred, Slot};
use crate::parse::ast::{self, Operand};
use crate::types::{Space, Type};

/// Decodes an `mbarrier` instruction.
pub(super) fn mbarrier<'a>(cx: &mut FunctionDecoder<'_, 'a>, i: &'a ast::Instruction<'a>) -> Result<()> {
    let mut m = Modifiers::new(i);
    let what = m.need(&[
        ("init", 0),
        ("inval", 1),
        ("expect_tx", 2),
        ("complete_tx", 3),
        ("arrive", 4),
        ("arrive_drop", 5),
        ("test_wait", 6),
        ("try_wait", 7),
        ("pending_count", 8),
    ])?;
    if what == 8 {
        return pending_count(cx, i, m);
    }
    let arrives = matches!(what, 4 | 5);
    let waits = matches!(what, 6 | 7);
    let expect = arrives && m.take("expect_tx");
    let incomplete = arrives && m.take("noComplete");
    let parity = waits && m.take("parity");
    let order = m.choose(&[("release", 0), ("acquire", 1), ("relaxed", 2)]);
    if order == Some(u32::from(!waits)) && order != Some(2) {
        return Err(m.error("an order that goes with this".into()));
    }
    m.choose(&[("cta", ()), ("cluster", ())]);
    let space = match m.choose(&[("shared", ()), ("shared::cta", ()), ("shared::cluster", ())]) {
        Some(()) => Space::Shared,
        None => Space::Generic,
    };
    m.need(&[("b64", ())])?;
    m.finish()?;
    let results = usize::from(arrives || waits);
    let at = i.operands.get(results).ok_or_else(|| cx.error("a barrier's address is missing"))?;
    let (slot, wide, offset, _) = address(cx, at, space)?;
    let strong = order != Some(2);
    let action = match what {
        0 => Action::Init,
        1 => Action::Invalidate,
        2 => Action::Expect,
        3 => Action::Complete,
        4 | 5 => Action::Arrive { drop: what == 5, release: strong, incomplete },
        _ => Action::Wait { parity, acquire: strong },
    };
    match what {
        1 => cx.count(i, 1..=1)?,
        0 | 2 | 3 => cx.count(i, 2..=2)?,
        4 | 5 if expect || incomplete => cx.count(i, 3..=3)?,
        4 | 5 => cx.count(i, 2..=3)?,
        6 => cx.count(i, 3..=3)?,
        _ => cx.count(i, 3..=4)?,
    }
    let (mut d, mut s, mut p) = (Slot::NONE, [slot, Slot::NONE, Slot::NONE], Pred::NONE);
    if let Some(operand) = i.operands.get(results + 1) {
        let ty = if waits && !parity { Type::B64 } else { Type::U32 };
        s[if expect { 2 } else { 1 }] = cx.source(operand, ty)?;
    }
    if arrives {
        d = cx.destination(&i.operands[0], 8)?;
    }
    if waits {
        p = cx.predicate_destination(&i.operands[0])?;
    }
    cx.emit(Op::Copy(CopyOp::Barrier(BarrierOp { action, wide, offset, space })), [d], s);
    cx.last().p[0] = p;
    Ok(())
}

/// The arrivals that were pending are the low half of a state.
fn pending_count<'a>(
    cx: &mut FunctionDecoder<'_, 'a>,
    i: &'a ast::Instruction<'a>,
    mut m: Modifiers,
) -> Result<()> {
    m.need(&[("b64", ())])?;
    m.finish()?;
    cx.count(i, 2..=2)?;
    let d = cx.destination(&i.operands[0], 4)?;
    let s = cx.source(&i.operands[1], Type::B64)?;
    let rest = cx.new_register(4)?;
    cx.emit_list(Op::Unpack { part: 4, whole: 8 }, [], [s], vec![d, rest], 2);
    Ok(())
}

/// Decodes what follows `cp.async.mbarrier`.
pub(super) fn arrive_after<'a>(
    cx: &mut FunctionDecoder<'_, 'a>,
    i: &'a ast::Instruction<'a>,
    mut m: Modifiers,
) -> Result<()> {
    m.need(&[("arrive", ())])?;
    let counted = m.take("noinc");
    let space = match m.choose(&[("shared", ()), ("shared::cta", ())]) {
        Some(()) => Space::Shared,
        None => Space::Generic,
    };
    m.need(&[("b64", ())])?;
    m.finish()?;
    cx.count(i, 1..=1)?;
    let (slot, wide, offset, _) = address(cx, &i.operands[0], space)?;
    let action = Action::AfterCopies { counted };
    cx.emit(Op::Copy(CopyOp::Barrier(BarrierOp { action, wide, offset, space })), [], [slot]);
    Ok(())
}

const RANKS: [(&str, u8); 5] = [("1d", 1), ("2d", 2), ("3d", 3), ("4d", 4), ("5d", 5)];

/// Decodes what follows `cp.async.bulk`, or `cp.reduce.async.bulk`.
pub(super) fn bulk<'a>(
    cx: &mut FunctionDecoder<'_, 'a>,
    i: &'a ast::Instruction<'a>,
    mut m: Modifiers,
    reduce: bool,
) -> Result<()> {
    if !reduce && m.take("commit_group") {
        m.finish()?;
        cx.count(i, 0..=0)?;
        cx.emit(Op::Copy(CopyOp::BulkCommit), [], []);
        return Ok(());
    }
    if !reduce && m.take("wait_group") {
        let read = m.take("read");
        m.finish()?;
        cx.count(i, 1..=1)?;
        let groups = super::arithmetic::immediate(cx, &i.operands[0], u64::from(u32::MAX))? as u32;
        cx.emit(Op::Copy(CopyOp::BulkWait { groups, read }), [], []);
        return Ok(());
    }
    if !reduce && m.take("prefetch") {
        return prefetch(cx, i, m);
    }
    let rank = if m.take("tensor") { m.need(&RANKS)? } else { 0 };
    let to = m.need(&[
        ("shared::cluster", Space::Shared),
        ("shared::cta", Space::Shared),
        ("global", Space::Global),
    ])?;
    let from = m.need(&[("global", Space::Global), ("shared::cta", Space::Shared)])?;
    let way = match (to, from) {
        (Space::Shared, Space::Global) if !reduce => Way::Load,
        (Space::Global, Space::Shared) => Way::Store,
        (Space::Shared, Space::Shared) if rank == 0 => Way::Exchange,
        _ => return Err(cx.error("a bulk copy does not go this way")),
    };
    // The operation of a tensor's reduction stands before the mode, that of plain bytes last.
    let mut operation = if reduce && rank > 0 { Some(m.need(&OPERATIONS)?) } else { None };
    if rank > 0 {
        m.take("tile");
    }
    let announced = way != Way::Store;
    m.need(&[(if announced { "mbarrier::complete_tx::bytes" } else { "bulk_group" }, ())])?;
    let multicast = way == Way::Load && m.take("multicast::cluster");
    let hint = way != Way::Exchange && m.take("L2::cache_hint");
    let mut ty = Type::B32;
    if reduce && rank == 0 {
        let op = m.need(&OPERATIONS)?;
        operation = Some(op);
        let noftz = m.take("noftz");
        ty = m.ty()?;
        let half = matches!(ty, Type::F16 | Type::Bf16);
        let known = match way {
            // Between blocks: integers only.
            Way::Exchange => match op {
                AtomOp::Add => matches!(ty, Type::U32 | Type::S32 | Type::U64 | Type::S64),
                AtomOp::Min | AtomOp::Max => matches!(ty, Type::U32 | Type::S32),
                AtomOp::Inc | AtomOp::Dec => ty == Type::U32,
                _ => ty == Type::B32,
            },
            _ if matches!(op, AtomOp::And | AtomOp::Or | AtomOp::Xor) => matches!(ty, Type::B32 | Type::B64),
            _ => reduces(op, ty) || (ty == Type::S64 && op == AtomOp::Add),
        };
        if !known || (noftz != (half && op == AtomOp::Add)) {
            return Err(cx.error(format!("'{}.{}' is not supported", i.opcode, i.modifiers.join("."))));
        }
        // Sums of either sign are the same bits.
        if ty == Type::S64 && op == AtomOp::Add {
            ty = Type::U64;
        }
        if !reduces(op, ty) {
            return Err(cx.error(format!("'{op:?}' does not go with this type")));
        }
    }
    m.finish()?;
    let n = 2 + usize::from(announced) + usize::from(rank == 0) + usize::from(multicast) + usize::from(hint);
    cx.count(i, n..=n)?;
    let (to, from) = (&i.operands[0], &i.operands[1]);
    let (inner, outer) = if way == Way::Store { (from, to) } else { (to, from) };
    let mut list = Vec::new();
    let (global, global_wide, global_offset) = if rank > 0 {
        tensor(cx, outer, rank, &mut list)?
    } else {
        let space = if way == Way::Exchange { Space::Shared } else { Space::Global };
        let (slot, wide, offset, _) = address(cx, outer, space)?;
        (slot, wide, offset)
    };
    let (shared, shared_wide, shared_offset, _) = address(cx, inner, Space::Shared)?;
    let mut next = 2;
    let mut size = Slot::NONE;
    if rank == 0 {
        size = cx.source(&i.operands[next], Type::U32)?;
        next += 1;
    }
    let (mut barrier, mut at) = (Slot::NONE, At { wide: false, offset: 0 });
    if announced {
        let (slot, wide, offset, _) = address(cx, &i.operands[next], Space::Shared)?;
        (barrier, at) = (slot, At { wide, offset });
        next += 1;
    }
    if multicast {
        list.push(cx.source(&i.operands[next], Type::U16)?);
    }
    let op = BulkOp {
        way,
        reduction: operation.map(|op| (op, ty)),
        rank,
        multicast,
        shared: At { wide: shared_wide, offset: shared_offset },
        global: At { wide: global_wide, offset: global_offset },
        barrier: at,
    };
    cx.emit_list(Op::Copy(CopyOp::Bulk(op)), [], [shared, global, barrier, size], list, 0);
    Ok(())
}

const OPERATIONS: [(&str, AtomOp); 8] = [
    ("add", AtomOp::Add),
    ("min", AtomOp::Min),
    ("max", AtomOp::Max),
    ("inc", AtomOp::Inc),
    ("dec", AtomOp::Dec),
    ("and", AtomOp::And),
    ("or", AtomOp::Or),
    ("xor", AtomOp::Xor),
];

/// `[map, {coordinates}]`: slot, width and offset of the map's address; the coordinates go to `list`.
fn tensor<'a>(
    cx: &mut FunctionDecoder<'_, 'a>,
    operand: &'a Operand<'a>,
    rank: u8,
    list: &mut Vec<Slot>,
) -> Result<(Slot, bool, i64)> {
    let Operand::Address { base, offset, more } = operand else {
        return Err(cx.error("expected [map, {coordinates}]"));
    };
    let [Operand::Vector(coordinates)] = more.as_slice() else {
        return Err(cx.error("expected [map, {coordinates}]"));
    };
    if coordinates.len() != usize::from(rank) {
        return Err(cx.error(format!("{} coordinates for rank {rank}", coordinates.len())));
    }
    for c in coordinates {
        list.push(cx.source(c, Type::S32)?);
    }
    let (slot, wide, offset, _) = address_of(cx, *base, *offset, Space::Generic)?;
    Ok((slot, wide, offset))
}

/// Decodes what follows `st.async` or `red.async`.
pub(super) fn remote<'a>(
    cx: &mut FunctionDecoder<'_, 'a>,
    i: &'a ast::Instruction<'a>,
    mut m: Modifiers,
    reduce: bool,
) -> Result<()> {
    if reduce {
        m.need(&[("relaxed", ())])?;
        m.need(&[("cluster", ())])?;
    } else {
        m.take("weak");
    }
    m.choose(&[("shared::cluster", ())]);
    m.need(&[("mbarrier::complete_tx::bytes", ())])?;
    let operation = if reduce { Some(m.need(&OPERATIONS)?) } else { None };
    let count = if reduce { 1 } else { m.choose(&[("v2", 2), ("v4", 4)]).unwrap_or(1) };
    let ty = m.ty()?;
    m.finish()?;
    cx.count(i, 3..=3)?;
    use Type::*;
    let known = match operation {
        None => matches!(ty, B32 | B64 | U32 | U64 | S32 | S64 | F32 | F64) && count * ty.bytes() <= 16,
        Some(AtomOp::Add) => matches!(ty, U32 | S32 | U64),
        Some(AtomOp::Min | AtomOp::Max) => matches!(ty, U32 | S32),
        Some(AtomOp::Inc | AtomOp::Dec) => ty == U32,
        Some(_) => ty == B32,
    };
    if !known {
        return Err(cx.error(format!("'{}.{}' is not supported", i.opcode, i.modifiers.join("."))));
    }
    let (to, to_wide, to_offset, _) = address(cx, &i.operands[0], Space::Shared)?;
    let elements = cx.elements(&i.operands[1]);
    if elements.len() != count as usize {
        return Err(cx.error(format!("expected {count} elements, found {}", elements.len())));
    }
    let mut list = Vec::new();
    for e in elements {
        list.push(cx.source(e, ty)?);
    }
    let (barrier, wide, offset, _) = address(cx, &i.operands[2], Space::Shared)?;
    let op = RemoteOp {
        ty,
        reduction: operation,
        to: At { wide: to_wide, offset: to_offset },
        barrier: At { wide, offset },
    };
    cx.emit_list(Op::Copy(CopyOp::Remote(op)), [], [to, Slot::NONE, barrier], list, 0);
    Ok(())
}

/// Decodes what follows `cp.async.bulk.prefetch`: a hint to the cache, which changes no result.
fn prefetch<'a>(
    cx: &mut FunctionDecoder<'_, 'a>,
    i: &'a ast::Instruction<'a>,
    mut m: Modifiers,
) -> Result<()> {
    let rank = if m.take("tensor") { m.need(&RANKS)? } else { 0 };
    m.need(&[("L2", ())])?;
    m.need(&[("global", ())])?;
    if rank > 0 {
        m.take("tile");
    }
    let hint = m.take("L2::cache_hint");
    m.finish()?;
    let n = 1 + usize::from(rank == 0) + usize::from(hint);
    cx.count(i, n..=n)?;
    if rank > 0 {
        tensor(cx, &i.operands[0], rank, &mut Vec::new())?;
    } else {
        address(cx, &i.operands[0], Space::Global)?;
        cx.source(&i.operands[1], Type::U32)?;
    }
    cx.emit(Op::Nop, [], []);
    Ok(())
}

/// Decodes `setmaxnreg`: registers move between warps, which changes no result. What is checked is the count.
pub(super) fn registers<'a>(cx: &mut FunctionDecoder<'_, 'a>, i: &'a ast::Instruction<'a>) -> Result<()> {
    let mut m = Modifiers::new(i);
    m.need(&[("inc", ()), ("dec", ())])?;
    m.need(&[("sync", ())])?;
    m.need(&[("aligned", ())])?;
    m.need(&[("u32", ())])?;
    m.finish()?;
    cx.count(i, 1..=1)?;
    let n = super::arithmetic::immediate(cx, &i.operands[0], 256)?;
    if n < 24 || n % 8 != 0 {
        return Err(cx.error(format!("{n} registers: a multiple of 8 from 24 to 256 is needed")));
    }
    cx.emit(Op::Nop, [], []);
    Ok(())
}
