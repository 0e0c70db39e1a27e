//! Loads, stores, atomics and addresses (PTX ISA, "Data Movement and Conversion Instructions", "atom", "red").

use super::arithmetic::width;
use super::function::{FunctionDecoder, Name, Result};
use super::modifiers::Modifiers;
use crate::ir::*;
use crate::parse::ast::{self, Operand};
use crate::types::{Scope, Space, Type};

pub(super) const SCOPES: [(&str, Scope); 4] =
    [("cta", Scope::Cta), ("cluster", Scope::Cluster), ("gpu", Scope::Gpu), ("sys", Scope::Sys)];

const SPACES: [(&str, Space); 11] = [
    ("global", Space::Global),
    ("shared", Space::Shared),
    ("shared::cta", Space::Shared),
    ("shared::cluster", Space::Shared),
    ("const", Space::Const),
    ("local", Space::Local),
    ("param", Space::Param),
    ("param::entry", Space::Param),
    ("param::func", Space::Param),
    ("generic", Space::Generic),
    ("generic::", Space::Generic),
];

/// A weak access of one element with a 64-bit address.
pub(super) fn plain(space: Space, ty: Type) -> Access {
    Access {
        space,
        ty,
        count: 1,
        order: MemoryOrder::Weak,
        offset: 0,
        wide_address: true,
        register_bytes: ty.bytes(),
    }
}

/// Decodes `i` when it belongs here.
pub(super) fn decode<'a>(cx: &mut FunctionDecoder<'_, 'a>, i: &'a ast::Instruction<'a>) -> Result<bool> {
    let mut m = Modifiers::new(i);
    match i.opcode {
        "st" | "red" if m.take("async") => super::bulk::remote(cx, i, m, i.opcode == "red")?,
        "ld" | "ldu" | "st" => load_store(cx, i, &mut m)?,
        "atom" | "red" => atomic(cx, i, &mut m)?,
        "cvta" => {
            let to = m.take("to");
            let space = m.need(&SPACES)?;
            let ty = m.ty()?;
            m.finish()?;
            cx.count(i, 2..=2)?;
            if !matches!(ty, Type::U32 | Type::U64) || space == Space::Generic {
                return Err(cx.error("'cvta' takes a state space and .u32 or .u64"));
            }
            let s = cx.source(&i.operands[1], ty)?;
            let d = cx.destination(&i.operands[0], ty.bytes())?;
            let w = width(ty);
            cx.emit(if to { Op::CvtaTo { space, w } } else { Op::CvtaFrom { space, w } }, [d], [s]);
        }
        "isspacep" => {
            let space = m.need(&SPACES)?;
            m.finish()?;
            cx.count(i, 2..=2)?;
            let s = cx.source(&i.operands[1], Type::U64)?;
            let p = cx.predicate_destination(&i.operands[0])?;
            cx.emit(Op::IsSpace(space), [], [s]);
            cx.last().p[0] = p;
        }
        "prefetch" | "prefetchu" | "applypriority" | "discard" => {
            m.choose(&SPACES);
            m.need(&[
                ("L1", ()),
                ("L2", ()),
                ("L2::evict_normal", ()),
                ("L2::evict_last", ()),
                ("tensormap", ()),
            ])?;
            if i.opcode == "discard" {
                return Err(cx.error("'discard' is not supported"));
            }
            m.finish()?;
            cx.count(i, 1..=1)?;
            address(cx, &i.operands[0], Space::Generic)?;
            cx.emit(Op::Nop, [], []);
        }
        "createpolicy" => {
            m.need(&[("fractional", ()), ("range", ()), ("cvt", ())])?;
            while m.choose(&CACHE).is_some() || m.choose(&SPACES).is_some() {}
            m.need(&[("b64", ())])?;
            m.finish()?;
            if i.operands.is_empty() {
                return Err(cx.error("'createpolicy' needs a destination"));
            }
            let d = cx.destination(&i.operands[0], 8)?;
            let zero = cx.constant(0, 8);
            cx.emit(Op::Mov(Width::W64), [d], [zero]);
        }
        "mapa" | "getctarank" => {
            let generic = m.choose(&SPACES[3..4]).is_none();
            let ty = m.ty()?;
            m.finish()?;
            if !matches!(ty, Type::U32 | Type::U64) {
                return Err(cx.error("expected .u32 or .u64"));
            }
            let n = if i.opcode == "mapa" { 3 } else { 2 };
            cx.count(i, n..=n)?;
            let s = cx.source(&i.operands[1], ty)?;
            let w = width(ty);
            if i.opcode == "mapa" {
                let rank = cx.source(&i.operands[2], Type::U32)?;
                let d = cx.destination(&i.operands[0], ty.bytes())?;
                cx.emit(Op::MapA { generic, w }, [d], [s, rank]);
            } else {
                let d = cx.destination(&i.operands[0], 4)?;
                cx.emit(Op::GetCtaRank { generic, w }, [d], [s]);
            }
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Cache and prefetch hints, which have no effect on values.
pub(super) const CACHE: [(&str, ()); 28] = [
    ("ca", ()),
    ("cg", ()),
    ("cs", ()),
    ("lu", ()),
    ("cv", ()),
    ("wb", ()),
    ("wt", ()),
    ("nc", ()),
    ("unified", ()),
    ("L1::evict_normal", ()),
    ("L1::evict_unchanged", ()),
    ("L1::evict_first", ()),
    ("L1::evict_last", ()),
    ("L1::no_allocate", ()),
    ("L2::evict_normal", ()),
    ("L2::evict_first", ()),
    ("L2::evict_last", ()),
    ("L2::evict_unchanged", ()),
    ("L2::cache_hint", ()),
    ("L2::64B", ()),
    ("L2::128B", ()),
    ("L2::256B", ()),
    ("evict_first", ()),
    ("evict_last", ()),
    ("evict_normal", ()),
    ("evict_unchanged", ()),
    ("L2", ()),
    ("L1", ()),
];

/// An address operand: its slot, whether that has 64 bits, the offset, and the space it turned out to be in.
pub(super) fn address<'a>(
    cx: &mut FunctionDecoder<'_, 'a>,
    operand: &'a Operand<'a>,
    space: Space,
) -> Result<(Slot, bool, i64, Space)> {
    let Operand::Address { base, offset, more } = operand else {
        return Err(cx.error("expected an address in brackets"));
    };
    if !more.is_empty() {
        return Err(cx.error("coordinates are not expected in this address"));
    }
    address_of(cx, *base, *offset, space)
}

/// As [`address`], of the parts of an operand.
pub(super) fn address_of<'a>(
    cx: &mut FunctionDecoder<'_, 'a>,
    base: Option<&'a str>,
    offset: i64,
    space: Space,
) -> Result<(Slot, bool, i64, Space)> {
    let Some(name) = base else {
        return Ok((cx.constant(offset as u64, 8), true, 0, space));
    };
    match cx.lookup(name) {
        Some(Name::Register { plane, ty, vector: 1 }) if matches!(ty.bytes(), 4 | 8) => {
            Ok((Slot::register(plane), ty.bytes() == 8, offset, space))
        }
        // A parameter of a function or a call lives in the frame.
        Some(Name::Local { offset: at, .. }) if matches!(space, Space::Param | Space::Local) => {
            Ok((cx.local_address(at)?, true, offset, Space::Local))
        }
        Some(Name::Module(_) | Name::Local { .. } | Name::KernelParam { .. }) => {
            let slot = cx.symbol_address(name, offset, 8)?;
            Ok((slot, true, 0, space))
        }
        None => Err(cx.error(format!("'{name}' is not defined"))),
        Some(_) => Err(cx.error(format!("'{name}' cannot be an address"))),
    }
}

/// The semantics and scope words in front of an access.
fn order(m: &mut Modifiers, load: bool) -> Result<MemoryOrder> {
    let sem = m.choose(&[
        ("weak", 0),
        ("relaxed", 1),
        ("acquire", 2),
        ("release", 3),
        ("volatile", 4),
        ("mmio", 5),
    ]);
    Ok(match sem {
        None | Some(0) => MemoryOrder::Weak,
        Some(4) => MemoryOrder::Relaxed(Scope::Sys),
        Some(5) => {
            m.take("relaxed");
            m.need(&SCOPES[3..])?;
            MemoryOrder::Relaxed(Scope::Sys)
        }
        Some(sem) => {
            let scope = m.need(&SCOPES)?;
            match (sem, load) {
                (1, _) => MemoryOrder::Relaxed(scope),
                (2, true) => MemoryOrder::Acquire(scope),
                (3, false) => MemoryOrder::Release(scope),
                _ => return Err(m.error("this order does not go with this access".into())),
            }
        }
    })
}

fn load_store<'a>(
    cx: &mut FunctionDecoder<'_, 'a>,
    i: &'a ast::Instruction<'a>,
    m: &mut Modifiers,
) -> Result<()> {
    let load = i.opcode != "st";
    let order = order(m, load)?;
    let space = m.choose(&SPACES).unwrap_or(Space::Generic);
    let mut hint = false;
    while let Some(word) = m.peek() {
        hint |= word == "L2::cache_hint";
        if m.choose(&CACHE[..22]).is_none() {
            break;
        }
    }
    let count = m.choose(&[("v2", 2), ("v4", 4), ("v8", 8)]).unwrap_or(1);
    let ty = m.ty()?;
    m.finish()?;
    let n = 2 + usize::from(hint);
    cx.count(i, n..=n)?;
    if hint {
        cx.source(&i.operands[2], Type::B64)?;
    }
    if ty == Type::Pred || count * ty.bytes() > 16 || matches!(ty, Type::F16x2 | Type::Bf16x2 | Type::Tf32) {
        return Err(cx.error("a load or store takes up to 128 bits of a fundamental type"));
    }
    let (memory, values) = if load { (1, 0) } else { (0, 1) };
    let (slot, wide_address, offset, space) = address(cx, &i.operands[memory], space)?;
    if !load && (space == Space::Const || space == Space::Param) {
        return Err(cx.error("this state space is read-only"));
    }
    let elements = cx.elements(&i.operands[values]);
    if elements.len() != count as usize {
        return Err(cx.error(format!("expected {count} elements, found {}", elements.len())));
    }
    let mut list = Vec::new();
    let mut register_bytes = ty.bytes();
    for element in elements {
        let (slot, bytes) = match element {
            Operand::Sink if load => (Slot::NONE, register_bytes),
            Operand::Name(name) if load || matches!(cx.lookup(name), Some(Name::Register { .. })) => {
                cx.wide_register(element, ty.bytes())?
            }
            Operand::Component(..) if load => (cx.destination(element, ty.bytes())?, ty.bytes()),
            other => (cx.source(other, if ty.bytes() == 1 { Type::B16 } else { ty })?, ty.bytes()),
        };
        register_bytes = bytes;
        list.push(slot);
    }
    let defs = if load { count } else { 0 };
    let access = Access { space, ty, count, order, offset, wide_address, register_bytes };
    cx.emit_list(if load { Op::Load(access) } else { Op::Store(access) }, [], [slot], list, defs);
    Ok(())
}

fn atomic<'a>(
    cx: &mut FunctionDecoder<'_, 'a>,
    i: &'a ast::Instruction<'a>,
    m: &mut Modifiers,
) -> Result<()> {
    let mut sem = 0;
    let mut scope = Scope::Gpu;
    let mut space = Space::Generic;
    let mut words = |m: &mut Modifiers| loop {
        if let Some(s) = m.choose(&[("relaxed", 0), ("acquire", 1), ("release", 2), ("acq_rel", 3)]) {
            sem = s;
        } else if let Some(s) = m.choose(&SCOPES) {
            scope = s;
        } else if let Some(s) = m.choose(&SPACES) {
            space = s;
        } else {
            return;
        }
    };
    words(m);
    let op = m.need(&[
        ("add", AtomOp::Add),
        ("min", AtomOp::Min),
        ("max", AtomOp::Max),
        ("and", AtomOp::And),
        ("or", AtomOp::Or),
        ("xor", AtomOp::Xor),
        ("exch", AtomOp::Exch),
        ("cas", AtomOp::Cas),
        ("inc", AtomOp::Inc),
        ("dec", AtomOp::Dec),
    ])?;
    // Inline assembly of the CUDA headers has them after the operation.
    words(m);
    let noftz = m.take("noftz");
    let hint = m.take("L2::cache_hint");
    let count = m.choose(&[("v2", 2), ("v4", 4)]).unwrap_or(1);
    let ty = m.ty()?;
    m.finish()?;
    let half = matches!(ty, Type::F16 | Type::Bf16 | Type::F16x2 | Type::Bf16x2);
    let legal = match op {
        AtomOp::Add => {
            matches!(ty, Type::U32 | Type::S32 | Type::U64 | Type::F32 | Type::F64) || (half && noftz)
        }
        AtomOp::Min | AtomOp::Max => matches!(ty, Type::U32 | Type::S32 | Type::U64 | Type::S64),
        AtomOp::And | AtomOp::Or | AtomOp::Xor => matches!(ty, Type::B32 | Type::B64),
        AtomOp::Exch => matches!(ty, Type::B32 | Type::B64 | Type::B128),
        AtomOp::Cas => matches!(ty, Type::B16 | Type::B32 | Type::B64 | Type::B128),
        AtomOp::Inc | AtomOp::Dec => ty == Type::U32,
    };
    if !legal || count != 1 || ty == Type::B128 {
        return Err(cx.error(format!("'{}.{}' is not supported", i.opcode, i.modifiers.join("."))));
    }
    let returns = i.opcode == "atom";
    let sources = if op == AtomOp::Cas { 2 } else { 1 };
    let n = 1 + usize::from(returns) + sources + usize::from(hint);
    cx.count(i, n..=n)?;
    let d = if returns { cx.destination(&i.operands[0], ty.bytes())? } else { Slot::NONE };
    let at = usize::from(returns);
    let (slot, wide_address, offset, space) = address(cx, &i.operands[at], space)?;
    if !matches!(space, Space::Generic | Space::Global | Space::Shared) {
        return Err(cx.error("an atomic takes global or shared memory"));
    }
    let mut s = [slot, Slot::NONE, Slot::NONE];
    for k in 0..sources {
        s[1 + k] = cx.source(&i.operands[at + 1 + k], ty)?;
    }
    let order = match sem {
        0 => MemoryOrder::Relaxed(scope),
        1 => MemoryOrder::Acquire(scope),
        2 => MemoryOrder::Release(scope),
        _ => MemoryOrder::AcqRel(scope),
    };
    let access = Access { space, ty, count: 1, order, offset, wide_address, register_bytes: ty.bytes() };
    cx.emit(Op::Atom { op, access, returns }, [d], s);
    Ok(())
}
