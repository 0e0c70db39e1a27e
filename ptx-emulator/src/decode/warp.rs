//! Exchanges between the lanes of a warp (PTX ISA, "shfl.sync", "vote.sync", "match.sync", "redux.sync", "elect.sync").

use super::arithmetic::width;
use super::function::{FunctionDecoder, Result};
use super::modifiers::Modifiers;
use crate::ir::*;
use crate::parse::ast;
use crate::types::Type;

/// Decodes `i` when it belongs here.
pub(super) fn decode<'a>(cx: &mut FunctionDecoder<'_, 'a>, i: &'a ast::Instruction<'a>) -> Result<bool> {
    let mut m = Modifiers::new(i);
    match i.opcode {
        "shfl" => {
            sync(cx, &mut m)?;
            let mode = m.need(&[
                ("up", ShflMode::Up),
                ("down", ShflMode::Down),
                ("bfly", ShflMode::Bfly),
                ("idx", ShflMode::Idx),
            ])?;
            m.need(&[("b32", ())])?;
            m.finish()?;
            cx.count(i, 5..=5)?;
            let (d, p) = match &i.operands[0] {
                ast::Operand::Pair(d, p) => {
                    let d = if *d == "_" { Slot::NONE } else { cx.register(d, 4)? };
                    (d, cx.predicate_destination(&ast::Operand::Name(p))?)
                }
                other => (cx.destination(other, 4)?, Pred::NONE),
            };
            let mut s = [Slot::NONE; 4];
            for (k, slot) in s.iter_mut().enumerate() {
                *slot = cx.source(&i.operands[k + 1], Type::B32)?;
            }
            cx.emit(Op::Shfl(mode), [d], s);
            cx.last().p[0] = p;
        }
        "vote" => {
            sync(cx, &mut m)?;
            let mode = m.need(&[
                ("all", VoteMode::All),
                ("any", VoteMode::Any),
                ("uni", VoteMode::Uni),
                ("ballot", VoteMode::Ballot),
            ])?;
            m.need(if mode == VoteMode::Ballot { &[("b32", ())] } else { &[("pred", ())] })?;
            m.finish()?;
            cx.count(i, 3..=3)?;
            let p = cx.predicate(&i.operands[1])?;
            let mask = cx.source(&i.operands[2], Type::B32)?;
            if mode == VoteMode::Ballot {
                let d = cx.destination(&i.operands[0], 4)?;
                cx.emit(Op::Vote(mode), [d], [mask]);
            } else {
                let d = cx.predicate_destination(&i.operands[0])?;
                cx.emit(Op::Vote(mode), [], [mask]);
                cx.last().p[0] = d;
            }
            cx.last().p[2] = p;
        }
        "match" => {
            let all = m.need(&[("any", false), ("all", true)])?;
            sync(cx, &mut m)?;
            let ty = m.ty()?;
            m.finish()?;
            cx.count(i, 3..=3)?;
            if !matches!(ty, Type::B32 | Type::B64) {
                return Err(cx.error("'match' takes .b32 or .b64"));
            }
            let (d, p) = match &i.operands[0] {
                ast::Operand::Pair(d, p) if all => {
                    (cx.register(d, 4)?, cx.predicate_destination(&ast::Operand::Name(p))?)
                }
                other => (cx.destination(other, 4)?, Pred::NONE),
            };
            let s = [cx.source(&i.operands[1], ty)?, cx.source(&i.operands[2], Type::B32)?];
            let w = width(ty);
            cx.emit(if all { Op::MatchAll(w) } else { Op::MatchAny(w) }, [d], s);
            cx.last().p[0] = p;
        }
        "activemask" => {
            m.need(&[("b32", ())])?;
            m.finish()?;
            cx.count(i, 1..=1)?;
            let d = cx.destination(&i.operands[0], 4)?;
            cx.emit(Op::ActiveMask, [d], []);
        }
        "redux" => {
            sync(cx, &mut m)?;
            let op = m.need(&[
                ("add", AtomOp::Add),
                ("min", AtomOp::Min),
                ("max", AtomOp::Max),
                ("and", AtomOp::And),
                ("or", AtomOp::Or),
                ("xor", AtomOp::Xor),
            ])?;
            let ty = m.ty()?;
            m.finish()?;
            cx.count(i, 3..=3)?;
            let op = match (op, ty) {
                (AtomOp::Add, Type::U32 | Type::S32) => Redux::Add,
                (AtomOp::Min, Type::U32) => Redux::MinU,
                (AtomOp::Min, Type::S32) => Redux::MinS,
                (AtomOp::Max, Type::U32) => Redux::MaxU,
                (AtomOp::Max, Type::S32) => Redux::MaxS,
                (AtomOp::And, Type::B32) => Redux::And,
                (AtomOp::Or, Type::B32) => Redux::Or,
                (AtomOp::Xor, Type::B32) => Redux::Xor,
                _ => return Err(cx.error("'redux' does not take this type")),
            };
            let s = [cx.source(&i.operands[1], ty)?, cx.source(&i.operands[2], Type::B32)?];
            let d = cx.destination(&i.operands[0], 4)?;
            cx.emit(Op::Redux(op), [d], s);
        }
        "elect" => {
            sync(cx, &mut m)?;
            m.finish()?;
            cx.count(i, 2..=2)?;
            let (d, p) = match &i.operands[0] {
                ast::Operand::Pair(d, p) => {
                    let d = if *d == "_" { Slot::NONE } else { cx.register(d, 4)? };
                    (d, cx.predicate_destination(&ast::Operand::Name(p))?)
                }
                _ => return Err(cx.error("'elect' gives a lane and a predicate, d|p")),
            };
            let mask = cx.source(&i.operands[1], Type::B32)?;
            cx.emit(Op::Elect, [d], [mask]);
            cx.last().p[0] = p;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn sync(cx: &FunctionDecoder, m: &mut Modifiers) -> Result<()> {
    if m.take("sync") {
        Ok(())
    } else {
        Err(cx.error("the form without '.sync' does not exist from sm_70 on"))
    }
}
