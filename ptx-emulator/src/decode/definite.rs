//! Which registers may be read before they are written: definite assignment, solved once for each function.
//!
//! Compilers leave few registers that this cannot prove written on every path, so the interpreter watches only the
//! instructions marked here (see [`crate::exec::undefined`]) and the rest run at full speed. The analysis knows no
//! values: a register that is written under a predicate may be undefined after it, and so is what is made from it.

use super::{Constant, ConstantValue, Function};
use crate::exec::tensor::TensorOp;
use crate::exec::wgmma::GroupOp;
use crate::ir::{Instruction, Int2, Op, Pred, Slot};
use crate::types::Space;
use std::collections::HashSet;

/// Words of all block states together, above which all instructions are watched instead (16 MiB).
const MAX_STATE: usize = 1 << 21;
/// Times that each instruction is looked at before all are watched instead.
const MAX_PASSES: usize = 64;

/// What an instruction does with an undefined operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Its result is undefined too.
    Passes,
    /// As `Passes` for the value exchanged; the rest must be defined.
    Exchanges,
    /// It acts on the value: it must be defined.
    Acts,
}

/// The role of an operation.
pub(crate) fn role(op: &Op) -> Role {
    match op {
        Op::Int1(..)
        | Op::Int2(..)
        | Op::Int3(..)
        | Op::MulWide { .. }
        | Op::MadWide { .. }
        | Op::Mul24 { .. }
        | Op::Bfi(_)
        | Op::Bmsk { .. }
        | Op::Szext { .. }
        | Op::Lop3(_)
        | Op::Shf { .. }
        | Op::Prmt(_)
        | Op::Dp4a { .. }
        | Op::Dp2a { .. }
        | Op::Carry { .. }
        | Op::MadCarry { .. }
        | Op::Float1(..)
        | Op::Float2(..)
        | Op::Fma(..)
        | Op::TestP(..)
        | Op::Convert(_)
        | Op::Mov(_)
        | Op::Mov128
        | Op::MovPred
        | Op::Pack { .. }
        | Op::Unpack { .. }
        | Op::ReadClock(_)
        | Op::SetpInt { .. }
        | Op::SetpFloat { .. }
        | Op::Set { .. }
        | Op::Selp(_)
        | Op::Slct { .. }
        | Op::PredLogic(_)
        | Op::PredNot
        | Op::CvtaFrom { .. }
        | Op::CvtaTo { .. }
        | Op::IsSpace(_)
        | Op::LocalAddress
        | Op::MapA { .. }
        | Op::GetCtaRank { .. } => Role::Passes,
        Op::Shfl(_) => Role::Exchanges,
        _ => Role::Acts,
    }
}

/// Whether the result is the same whatever the operands: `xor a, a` and the like.
pub(crate) fn cancels(i: &Instruction) -> bool {
    match i.op {
        Op::Int2(Int2::Xor | Int2::Sub, _) => i.s[0] == i.s[1],
        Op::PredLogic(crate::ir::AtomOp::Xor) => i.p[1].index() == i.p[2].index(),
        _ => false,
    }
}

/// The predicates that an instruction writes, and those that it reads beside its guard.
pub(crate) fn predicates(i: &Instruction) -> ([Pred; 3], [Pred; 3]) {
    const CARRY: u32 = 0;
    let carry = |on: bool| if on { Pred::new(CARRY, false) } else { Pred::NONE };
    let [a, b, c] = i.p;
    let none = Pred::NONE;
    match i.op {
        Op::MovPred | Op::PredNot | Op::PredLogic(_) => ([a, none, none], [b, c, none]),
        Op::Carry { carry_in, carry_out, .. } | Op::MadCarry { carry_in, carry_out, .. } => {
            ([carry(carry_out), none, none], [carry(carry_in), none, none])
        }
        _ => ([a, b, none], [c, none, none]),
    }
}

/// The registers that an instruction writes.
pub(crate) fn written(i: &Instruction) -> impl Iterator<Item = Slot> + '_ {
    let defs = &i.list[..i.list_defs as usize];
    i.d.iter().chain(defs).copied().filter(|s| !s.is_none() && s.is_register())
}

/// The registers that an instruction reads.
pub(crate) fn read(i: &Instruction) -> impl Iterator<Item = Slot> + '_ {
    // A product of a warpgroup adds to its result when a predicate says so.
    let adds = matches!(i.op, Op::Tensor(TensorOp::Group(GroupOp::Product(_))));
    let from = if adds { 0 } else { i.list_defs as usize };
    i.s.iter().chain(&i.list[from..]).copied().filter(|s| !s.is_none() && s.is_register())
}

/// Sets of registers: planes by their number, then predicates.
struct Numbers {
    planes: usize,
    words: usize,
    /// Slots that hold a mask of all lanes.
    full: HashSet<Slot>,
}

impl Numbers {
    fn pred(&self, p: Pred) -> usize {
        self.planes + p.index()
    }

    fn written<'i>(&'i self, i: &'i Instruction) -> impl Iterator<Item = usize> + 'i {
        let preds = predicates(i).0.into_iter().filter(|p| !p.is_none()).map(|p| self.pred(p));
        written(i).map(Slot::index).chain(preds)
    }

    fn read<'i>(&'i self, i: &'i Instruction) -> impl Iterator<Item = usize> + 'i {
        let preds = predicates(i).1.into_iter().chain([i.guard]);
        read(i).map(Slot::index).chain(preds.filter(|p| !p.is_none()).map(|p| self.pred(p)))
    }

    /// Whether an exchange may read a lane that does not take part.
    fn partial(&self, i: &Instruction) -> bool {
        matches!(i.op, Op::Shfl(_)) && !self.full.contains(&i.s[3])
    }

    /// What may be undefined after an instruction.
    fn step(&self, i: &Instruction, undefined: &mut [u64]) {
        let passes = match role(&i.op) {
            _ if cancels(i) => false,
            Role::Passes => self.read(i).any(|r| has(undefined, r)),
            Role::Exchanges => self.partial(i) || i.s[0].is_register() && has(undefined, i.s[0].index()),
            Role::Acts => matches!(&i.op, Op::Load(a) if a.space == Space::Local),
        };
        for r in self.written(i) {
            if passes {
                undefined[r / 64] |= 1 << (r % 64);
            } else if i.guard.is_none() {
                undefined[r / 64] &= !(1 << (r % 64));
            }
        }
    }
}

fn has(set: &[u64], r: usize) -> bool {
    set[r / 64] >> (r % 64) & 1 != 0
}

/// Marks the instructions of a function that the interpreter must watch, and notes the registers that they are watched
/// for. True when there are any.
pub(super) fn mark(f: &mut Function, code: &mut [Instruction], constants: &[Constant]) -> bool {
    let (entry, end) = (f.entry as usize, f.end as usize);
    if entry == end {
        return false;
    }
    let numbers = Numbers {
        planes: f.planes as usize,
        words: (f.planes as usize + f.preds as usize).div_ceil(64),
        full: full_masks(&code[entry..end], constants),
    };
    let Some(late) = read_undefined(&numbers, &code[entry..end], entry) else {
        code[entry..end].iter_mut().for_each(|i| i.watched = true);
        f.unproven = vec![u64::MAX; numbers.words];
        return true;
    };
    let mut any = false;
    for i in &mut code[entry..end] {
        // Local memory remembers what of it is undefined.
        let local = matches!(&i.op, Op::Load(a) if a.space == Space::Local);
        let watched =
            local || numbers.partial(i) || numbers.read(i).chain(numbers.written(i)).any(|r| has(&late, r));
        i.watched = watched;
        // A generic address may turn out to be local.
        let perhaps = matches!(&i.op, Op::Load(a) if a.space == Space::Generic) && f.local_bytes > 0;
        any |= watched || perhaps;
    }
    f.unproven = late;
    any
}

/// Constants of all ones, and registers that are given one and nothing else.
fn full_masks(code: &[Instruction], constants: &[Constant]) -> HashSet<Slot> {
    let ones = |c: &&Constant| c.value == ConstantValue::Bits(u64::from(u32::MAX)) && c.bytes == 4;
    let mut full: HashSet<Slot> = constants.iter().filter(ones).map(|c| Slot::constant(c.plane)).collect();
    let given = |i: &&Instruction| matches!(i.op, Op::Mov(_)) && i.guard.is_none() && full.contains(&i.s[0]);
    let mut masks: HashSet<Slot> = code.iter().filter(given).map(|i| i.d[0]).collect();
    for i in code.iter().filter(|i| !given(i)) {
        written(i).for_each(|d| {
            masks.remove(&d);
        });
    }
    full.extend(masks);
    full
}

/// The registers that are read somewhere while they may be undefined; `None` when it takes too long to tell.
fn read_undefined(numbers: &Numbers, code: &[Instruction], entry: usize) -> Option<Vec<u64>> {
    // Basic blocks.
    let mut leads = vec![false; code.len()];
    leads[0] = true;
    for (at, i) in code.iter().enumerate() {
        let (targets, falls) = flow(i);
        targets.iter().for_each(|t| leads[*t as usize - entry] = true);
        if (!targets.is_empty() || !falls) && at + 1 < code.len() {
            leads[at + 1] = true;
        }
    }
    let starts: Vec<usize> = (0..code.len()).filter(|at| leads[*at]).collect();
    let mut number = vec![0; code.len()];
    let mut block = 0;
    for (at, lead) in leads.iter().enumerate() {
        block += usize::from(*lead && at > 0);
        number[at] = block;
    }
    if starts.len().checked_mul(numbers.words).is_none_or(|n| n > MAX_STATE) {
        return None;
    }
    let range = |b: usize| starts[b]..starts.get(b + 1).copied().unwrap_or(code.len());

    let mut at_start: Vec<Option<Vec<u64>>> = vec![None; starts.len()];
    at_start[0] = Some(vec![u64::MAX; numbers.words]);
    let mut todo = vec![true; starts.len()];
    let mut left = code.len() * MAX_PASSES;
    loop {
        let mut changed = false;
        for b in 0..starts.len() {
            if !std::mem::take(&mut todo[b]) {
                continue;
            }
            let Some(mut state) = at_start[b].clone() else { continue };
            left = left.checked_sub(range(b).len())?;
            range(b).for_each(|at| numbers.step(&code[at], &mut state));
            let last = range(b).end - 1;
            let (targets, falls) = flow(&code[last]);
            let next = (falls && last + 1 < code.len()).then_some(last + 1);
            for at in targets.iter().map(|t| *t as usize - entry).chain(next) {
                let to = number[at];
                let grew = match &mut at_start[to] {
                    Some(old) => old.iter_mut().zip(&state).fold(false, |grew, (a, b)| {
                        let before = *a;
                        *a |= b;
                        grew || *a != before
                    }),
                    none => {
                        *none = Some(state.clone());
                        true
                    }
                };
                todo[to] |= grew;
                changed |= grew;
            }
        }
        if !changed {
            break;
        }
    }
    let mut late = vec![0u64; numbers.words];
    for b in 0..starts.len() {
        let Some(mut state) = at_start[b].take() else { continue };
        for i in &code[range(b)] {
            if !cancels(i) {
                for r in numbers.read(i).filter(|r| has(&state, *r)) {
                    late[r / 64] |= 1 << (r % 64);
                }
            }
            numbers.step(i, &mut state);
        }
    }
    Some(late)
}

/// Where an instruction may branch to, and whether the next one may follow it.
fn flow(i: &Instruction) -> (&[u32], bool) {
    let guarded = !i.guard.is_none();
    match &i.op {
        Op::Branch { target, .. } => (std::slice::from_ref(target), guarded),
        Op::BranchIndexed(targets) => (targets, guarded),
        Op::Exit | Op::Return | Op::Trap => (&[], guarded),
        _ => (&[], true),
    }
}
