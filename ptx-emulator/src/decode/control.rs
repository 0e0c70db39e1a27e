//! Branches, calls, barriers and fences (PTX ISA, "Control Flow Instructions", "Parallel Synchronization").

use super::access::SCOPES;
use super::function::{FunctionDecoder, Name, Result};
use super::modifiers::Modifiers;
use crate::ir::*;
use crate::parse::ast::{self, Operand};
use crate::types::{Scope, Space, Type};

/// Decodes `i` when it belongs here.
pub(super) fn decode<'a>(cx: &mut FunctionDecoder<'_, 'a>, i: &'a ast::Instruction<'a>) -> Result<bool> {
    let mut m = Modifiers::new(i);
    match i.opcode {
        "bra" => {
            let uniform = m.take("uni");
            m.finish()?;
            cx.count(i, 1..=1)?;
            let Operand::Name(label) = i.operands[0] else { return Err(cx.error("expected a label")) };
            cx.emit(Op::Branch { target: 0, uniform }, [], []);
            cx.branch_to(0, label);
        }
        "brx" => {
            m.need(&[("idx", ())])?;
            m.take("uni");
            m.finish()?;
            cx.count(i, 2..=2)?;
            let Operand::Name(list) = i.operands[1] else {
                return Err(cx.error("expected a list of targets"));
            };
            let index = cx.source(&i.operands[0], Type::U32)?;
            let labels = cx.targets(list)?;
            cx.emit(Op::BranchIndexed(vec![0; labels.len()].into()), [], [index]);
            for (which, label) in labels.into_iter().enumerate() {
                cx.branch_to(which, label);
            }
        }
        "call" => call(cx, i, &mut m)?,
        "ret" => {
            m.take("uni");
            m.finish()?;
            cx.count(i, 0..=0)?;
            cx.leave()?;
        }
        "exit" => {
            m.finish()?;
            cx.emit(Op::Exit, [], []);
        }
        "trap" | "brkpt" => {
            m.finish()?;
            cx.emit(Op::Trap, [], []);
        }
        "nanosleep" => {
            m.need(&[("u32", ())])?;
            m.finish()?;
            cx.count(i, 1..=1)?;
            let s = cx.source(&i.operands[0], Type::U32)?;
            cx.emit(Op::Nanosleep, [], [s]);
        }
        "bar" | "barrier" => barrier(cx, i, &mut m)?,
        "membar" | "fence" => fence(cx, i, &mut m)?,
        "griddepcontrol" => {
            m.need(&[("launch_dependents", ()), ("wait", ())])?;
            m.finish()?;
            cx.emit(Op::Nop, [], []);
        }
        "pmevent" => {
            m.take("mask");
            m.finish()?;
            cx.emit(Op::Nop, [], []);
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn call<'a>(cx: &mut FunctionDecoder<'_, 'a>, i: &'a ast::Instruction<'a>, m: &mut Modifiers) -> Result<()> {
    m.take("uni");
    m.finish()?;
    // call (ret), f, (args) [, prototype];   call f, (args);   call f;
    let mut rest = i.operands.iter();
    let returns: Vec<&'a Operand<'a>> = match i.operands.first() {
        Some(Operand::List(all)) => {
            rest.next();
            all.iter().collect()
        }
        _ => Vec::new(),
    };
    let Some(Operand::Name(target)) = rest.next() else { return Err(cx.error("expected a function")) };
    let args: Vec<&'a Operand<'a>> = match rest.next() {
        Some(Operand::List(all)) => all.iter().collect(),
        _ => Vec::new(),
    };
    let (function, pointer) = match cx.lookup(target) {
        Some(Name::Module(super::Symbol::Function(id))) => (Some(id), Slot::NONE),
        Some(Name::Register { .. }) => (None, cx.register(target, 8)?),
        _ => match builtin(target) {
            Some(message) => return Err(cx.error(message)),
            None => return Err(cx.error(format!("function '{target}' is not defined"))),
        },
    };
    let signature = function.map(|id| cx.functions[id as usize].clone());
    if let Some(f) = &signature {
        if f.kernel {
            return Err(cx.error(format!("'{target}' is a kernel and cannot be called")));
        }
        if f.params.len() != args.len() || f.returns.len() != returns.len() {
            return Err(cx.error(format!(
                "'{target}' takes {} arguments and returns {}, found {} and {}",
                f.params.len(),
                f.returns.len(),
                args.len(),
                returns.len()
            )));
        }
    }
    // Arguments in registers are first stored to the frame; results in registers are loaded afterwards.
    let place =
        |cx: &mut FunctionDecoder<'_, 'a>, operand: &'a Operand<'a>, want: Option<u32>, store: bool| {
            let bytes = |cx: &FunctionDecoder, b: u32| match want {
                Some(w) if w != b.max(4) && w != b => {
                    Err(cx.error(format!("an argument of {b} bytes, expected {w}")))
                }
                _ => Ok(b),
            };
            match operand {
                Operand::Name(name) => match cx.lookup(name) {
                    Some(Name::Local { offset, bytes: b }) => Ok(((offset, bytes(cx, b)?), None)),
                    Some(Name::Register { plane, ty, vector: 1 }) => {
                        let b = bytes(cx, ty.bytes())?;
                        let offset = cx.reserve_local(8)?;
                        if store {
                            cx.store_local(Slot::register(plane), offset, ty)?;
                        }
                        Ok(((offset, b), Some((Slot::register(plane), ty))))
                    }
                    _ => Err(cx.error(format!("'{name}' is neither a parameter nor a register"))),
                },
                Operand::Number(n) => {
                    let b = want.unwrap_or(4);
                    let ty = if b == 8 { Type::B64 } else { Type::B32 };
                    let slot = cx.constant(cx.literal(*n, ty), b);
                    let offset = cx.reserve_local(8)?;
                    cx.store_local(slot, offset, ty)?;
                    Ok(((offset, b), None))
                }
                _ => Err(cx.error("expected a parameter")),
            }
        };
    let mut c = Call { function, args: Vec::new(), returns: Vec::new() };
    for (k, a) in args.into_iter().enumerate() {
        let want = signature.as_ref().map(|f| f.params[k].bytes);
        c.args.push(place(cx, a, want, true)?.0);
    }
    let mut loads = Vec::new();
    for (k, r) in returns.into_iter().enumerate() {
        let want = signature.as_ref().map(|f| f.returns[k].bytes);
        let (at, register) = place(cx, r, want, false)?;
        c.returns.push(at);
        loads.extend(register.map(|(slot, ty)| (slot, ty, at.0)));
    }
    cx.emit(Op::Call(Box::new(c)), [], [pointer]);
    for (slot, ty, offset) in loads {
        cx.load_local(slot, offset, ty)?;
    }
    Ok(())
}

/// Functions that a driver supplies and this emulator does not.
fn builtin(name: &str) -> Option<String> {
    matches!(name, "vprintf" | "malloc" | "free" | "__assertfail")
        .then(|| format!("'{name}' is a function of the driver that is not modelled"))
}

fn barrier<'a>(
    cx: &mut FunctionDecoder<'_, 'a>,
    i: &'a ast::Instruction<'a>,
    m: &mut Modifiers,
) -> Result<()> {
    if i.opcode == "barrier" && m.take("cluster") {
        let wait = m.need(&[("arrive", false), ("wait", true)])?;
        let order = m.choose(&[("release", 1), ("acquire", 2), ("relaxed", 3)]);
        m.take("aligned");
        m.finish()?;
        cx.count(i, 0..=0)?;
        let op = match (wait, order) {
            (false, None | Some(1)) => Op::ClusterArrive { release: true },
            (false, Some(3)) => Op::ClusterArrive { release: false },
            (true, None | Some(2)) => Op::ClusterWait { acquire: true },
            _ => return Err(cx.error("this order does not go with this barrier")),
        };
        cx.emit(op, [], []);
        return Ok(());
    }
    m.take("cta");
    if i.opcode == "bar" && m.take("warp") {
        m.need(&[("sync", ())])?;
        m.finish()?;
        cx.count(i, 1..=1)?;
        let s = cx.source(&i.operands[0], Type::B32)?;
        cx.emit(Op::BarWarp, [], [s]);
        return Ok(());
    }
    let what = m.need(&[("sync", 0), ("arrive", 1), ("red", 2)])?;
    let red = if what == 2 { m.choose(&[("popc", 0), ("and", 1), ("or", 2)]) } else { None };
    let aligned = m.take("aligned") || i.opcode == "bar";
    if what == 2 {
        m.need(if red == Some(0) { &[("u32", ())] } else { &[("pred", ())] })?;
    }
    m.finish()?;
    let kind = match (what, red) {
        (0, _) => BarKind::Sync,
        (1, _) => BarKind::Arrive,
        (_, Some(0)) => BarKind::RedPopc,
        (_, Some(1)) => BarKind::RedAnd,
        _ => BarKind::RedOr,
    };
    let mut operands = i.operands.as_slice();
    let (mut d, mut p) = (Slot::NONE, [Pred::NONE; 3]);
    if what == 2 {
        cx.count(i, 3..=4)?;
        if kind == BarKind::RedPopc {
            d = cx.destination(&operands[0], 4)?;
        } else {
            p[0] = cx.predicate_destination(&operands[0])?;
        }
        p[2] = cx.predicate(&operands[operands.len() - 1])?;
        operands = &operands[1..operands.len() - 1];
    }
    if operands.is_empty() || operands.len() > 2 || (kind == BarKind::Arrive && operands.len() != 2) {
        return Err(cx.error("a barrier takes its number and, with .arrive always, a thread count"));
    }
    let id = cx.source(&operands[0], Type::U32)?;
    let count = match operands.get(1) {
        Some(o) => cx.source(o, Type::U32)?,
        None => Slot::NONE,
    };
    cx.emit(Op::Bar { kind, aligned }, [d], [id, count]);
    cx.last().p = p;
    Ok(())
}

fn fence<'a>(cx: &mut FunctionDecoder<'_, 'a>, i: &'a ast::Instruction<'a>, m: &mut Modifiers) -> Result<()> {
    cx.count(i, 0..=0)?;
    let (scope, cluster_barrier) = if i.opcode == "membar" {
        if m.take("proxy") {
            m.need(&[("alias", ()), ("async", ())])?;
            m.finish()?;
            cx.emit(Op::Copy(crate::exec::copy::CopyOp::ProxyFence), [], []);
            return Ok(());
        }
        (m.need(&[("cta", Scope::Cta), ("gl", Scope::Gpu), ("sys", Scope::Sys)])?, false)
    } else if m.take("mbarrier_init") {
        m.need(&[("release", ())])?;
        m.need(&[("cluster", ())])?;
        (Scope::Cluster, true)
    } else if m.take("proxy") {
        m.need(&[("alias", ()), ("async", ()), ("async::generic", ())])?;
        m.choose(&[
            ("global", Space::Global),
            ("shared::cta", Space::Shared),
            ("shared::cluster", Space::Shared),
        ]);
        m.finish()?;
        cx.emit(Op::Copy(crate::exec::copy::CopyOp::ProxyFence), [], []);
        return Ok(());
    } else {
        m.choose(&[("sc", ()), ("acq_rel", ())]);
        (m.need(&SCOPES)?, false)
    };
    m.finish()?;
    cx.emit(Op::Fence { scope, cluster_barrier }, [], []);
    Ok(())
}
