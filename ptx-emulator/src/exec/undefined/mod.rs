//! Registers that nobody wrote: which lanes of which registers hold no value, followed until something acts on one.
//!
//! Compiled code copies undefined registers where the copy is never used (the halves of a pair, a value that only some
//! lanes need), so reading one is no mistake yet. As Memcheck does, copies and arithmetic pass the state on, for each
//! lane and each 16 bits, and it is reported when it decides something: an address, a predicate that guards or votes, a
//! value stored to global or shared memory, an operand of an atomic, a matrix product or a barrier. Local memory carries
//! it through. Only the instructions that `decode::definite` could not prove harmless come here.

mod passing;

use super::view::Plane;
use super::warp::{Warp, lanes};
use super::{Cx, access, wgmma};
use crate::check::FindingKind;
use crate::decode::Function;
use crate::decode::definite::{self, Role};
use crate::ir::*;
use crate::types::Space;

/// The lanes in which each 16 bits of a register (up to 128 bits of them) are undefined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lanes {
    parts: [u32; 8],
    /// What it was made from: a register that nobody wrote, which is a plane, or a predicate above `PREDICATE`; or the
    /// result of an exchange, above `EXCHANGE`.
    origin: u32,
}

const PREDICATE: u32 = 1 << 31;
/// The instruction below this number read a lane that does not take part.
const EXCHANGE: u32 = 1 << 30;
const DEFINED: Lanes = Lanes { parts: [0; 8], origin: 0 };

impl Lanes {
    /// Lanes in which any of it is undefined.
    fn any(&self) -> u32 {
        self.parts.iter().fold(0, |all, p| all | p)
    }

    /// Lanes in which any of the low `bytes` are.
    fn low(&self, bytes: u32) -> u32 {
        self.parts[..bytes.div_ceil(2).min(8) as usize].iter().fold(0, |all, p| all | p)
    }

    fn whole(lanes: u32, origin: u32) -> Lanes {
        Lanes { parts: [lanes; 8], origin }
    }
}

/// What is undefined of a warp's registers and local memory; empty when nothing is watched.
#[derive(Clone, Debug, Default)]
pub struct Undefined {
    planes: Vec<Lanes>,
    preds: Vec<(u32, u32)>,
    /// By byte of local memory, whether it was written.
    local: Vec<u8>,
}

impl Undefined {
    /// Whether registers are watched at all.
    #[inline(always)]
    pub fn watching(&self) -> bool {
        !self.planes.is_empty() || !self.preds.is_empty()
    }

    /// A frame of `f` begins: nothing in it was written, in the lanes of `m`.
    pub fn begin(&mut self, base: [u32; 2], f: &Function, m: u32) {
        let unproven = |k: usize| f.unproven.get(k / 64).is_some_and(|w| w >> (k % 64) & 1 != 0);
        let end = (base[0] + f.planes) as usize;
        if self.planes.len() < end {
            self.planes.resize(end, DEFINED);
        }
        for (k, lanes) in self.planes[base[0] as usize..end].iter_mut().enumerate() {
            let now = if unproven(k) { m } else { 0 };
            lanes.parts.iter_mut().for_each(|p| *p = *p & !m | now);
            if now != 0 {
                lanes.origin = k as u32;
            }
        }
        let end = (base[1] + f.preds) as usize;
        if self.preds.len() < end {
            self.preds.resize(end, (0, 0));
        }
        for (k, (lanes, origin)) in self.preds[base[1] as usize..end].iter_mut().enumerate() {
            let now = if unproven(f.planes as usize + k) { m } else { 0 };
            *lanes = *lanes & !m | now;
            if now != 0 {
                *origin = k as u32 | PREDICATE;
            }
        }
    }
}

impl Warp {
    fn undefined_slot(&self, s: Slot) -> Lanes {
        if s.is_none() || !s.is_register() {
            return DEFINED;
        }
        self.undefined.planes[self.groups[0].base[0] as usize + s.index()]
    }

    fn undefined_pred(&self, p: Pred) -> (u32, u32) {
        if p.is_none() { (0, 0) } else { self.undefined.preds[self.groups[0].base[1] as usize + p.index()] }
    }

    fn set_undefined(&mut self, d: Slot, m: u32, value: Lanes) {
        if d.is_none() || !d.is_register() {
            return;
        }
        let at = self.groups[0].base[0] as usize + d.index();
        let old = &mut self.undefined.planes[at];
        for (to, from) in old.parts.iter_mut().zip(value.parts) {
            *to = *to & !m | from & m;
        }
        if value.any() & m != 0 {
            old.origin = value.origin;
        }
    }

    fn set_undefined_pred(&mut self, p: Pred, m: u32, (lanes, origin): (u32, u32)) {
        if p.is_none() {
            return;
        }
        let at = self.groups[0].base[1] as usize + p.index();
        let old = &mut self.undefined.preds[at];
        old.0 = old.0 & !m | lanes & m;
        if lanes & m != 0 {
            old.1 = origin;
        }
    }

    /// Marks bytes of a lane's local memory as written or not. `stride` is that of the memory itself.
    pub fn mark_local(&mut self, lane: u32, offset: u64, bytes: u64, written: bool) {
        if !self.undefined.watching() {
            return;
        }
        let (len, stride) = self.local_size();
        self.undefined.local.resize(len, 0);
        let at = (u64::from(lane) * stride + offset) as usize;
        if let Some(marks) = self.undefined.local.get_mut(at..at + bytes as usize) {
            marks.fill(u8::from(written));
        }
    }

    /// Whether each byte of a lane's local memory was written.
    fn local_marks(&self, lane: u32, offset: u64, bytes: u64) -> Option<&[u8]> {
        let stride = self.local_size().1;
        if offset.checked_add(bytes)? > stride {
            return None;
        }
        let at = (u64::from(lane) * stride + offset) as usize;
        self.undefined.local.get(at..at + bytes as usize)
    }

    /// Whether no byte at all of a place in local memory was written.
    pub fn local_unwritten(&self, lane: u32, offset: u64, bytes: u64) -> bool {
        let (len, _) = self.local_size();
        self.undefined.watching()
            && (self.undefined.local.len() < len
                || self.local_marks(lane, offset, bytes).is_some_and(|marks| !marks.contains(&1)))
    }

    /// Copies what is known of local memory, within a lane.
    pub fn copy_marks(&mut self, from: usize, to: usize, bytes: usize) {
        if self.undefined.watching() {
            self.undefined.local.resize(self.local_size().0, 0);
            self.undefined.local.copy_within(from..from + bytes, to);
        }
    }

    /// Local memory of each lane has grown from `old` bytes to `new`.
    pub fn grow_marks(&mut self, old: usize, new: usize) {
        if !self.undefined.watching() {
            return;
        }
        let mut marks = vec![0; new * 32];
        if old > 0 {
            for (to, from) in marks.chunks_mut(new).zip(self.undefined.local.chunks(old)) {
                to[..from.len()].copy_from_slice(from);
            }
        }
        self.undefined.local = marks;
    }
}

/// Reports an undefined operand, and takes it for defined from then on, so that one mistake is one finding.
fn report(
    cx: &mut Cx,
    w: &mut Warp,
    i: &Instruction,
    lanes: u32,
    what: &str,
    operand: Result<Slot, Pred>,
    origin: u32,
) {
    let functions = &cx.launch.loaded.module.0.functions;
    let f = &functions[w.groups[0].function as usize];
    if origin & (PREDICATE | EXCHANGE) == EXCHANGE {
        let exchange = &cx.launch.loaded.module.0.code[(origin & !EXCHANGE) as usize];
        cx.report(w, exchange, lanes.trailing_zeros(), FindingKind::Shuffle, None, || {
            format!("reads a lane that does not take part; the value is used at line {}", i.line)
        });
        settle(w, lanes, operand);
        return;
    }
    cx.report(w, i, lanes.trailing_zeros(), FindingKind::Uninitialised, None, || {
        let origin = match origin & PREDICATE {
            0 => f.register_name(origin, false),
            _ => f.register_name(origin & !PREDICATE, true),
        };
        let name = match operand {
            Ok(s) => f.register_name(s.index() as u32, false),
            Err(p) => f.register_name(p.index() as u32, true),
        };
        if name == origin {
            format!("{what} {name}, which nobody wrote")
        } else {
            format!("{what} {name}, which is made from {origin}, which nobody wrote")
        }
    });
    settle(w, lanes, operand);
}

/// Takes an operand for defined from now on.
fn settle(w: &mut Warp, lanes: u32, operand: Result<Slot, Pred>) {
    match operand {
        Ok(s) => w.set_undefined(s, lanes, DEFINED),
        Err(p) => w.set_undefined_pred(p, lanes, (0, 0)),
    }
}

fn act(cx: &mut Cx, w: &mut Warp, i: &Instruction, m: u32, what: &str, s: Slot) {
    let found = w.undefined_slot(s);
    if found.any() & m != 0 {
        report(cx, w, i, found.any() & m, what, Ok(s), found.origin);
    }
}

fn act_pred(cx: &mut Cx, w: &mut Warp, i: &Instruction, m: u32, what: &str, p: Pred) {
    let (found, origin) = w.undefined_pred(p);
    if found & m != 0 {
        report(cx, w, i, found & m, what, Err(p), origin);
    }
}

/// The guard of an instruction, before the lanes of `mask` obey it.
#[cold]
pub fn guard(cx: &mut Cx, w: &mut Warp, i: &Instruction, mask: u32) {
    act_pred(cx, w, i, mask, "is guarded by", i.guard);
}

/// Judges the operands of an instruction that the lanes of `m` are about to run, and settles what its results will be.
#[cold]
pub fn watch(cx: &mut Cx, w: &mut Warp, constants: &[Plane], i: &Instruction, m: u32) {
    let role = definite::role(&i.op);
    let (to, from) = definite::predicates(i);
    if role == Role::Passes {
        passing::passes(w, constants, i, m, to, from);
        return;
    }
    let mut result = DEFINED;
    match &i.op {
        Op::Shfl(mode) => {
            for s in &i.s[1..] {
                act(cx, w, i, m, "exchanges by", *s);
            }
            let value = w.undefined_slot(i.s[0]);
            let v = w.view(constants);
            let (b, c, members) = (v.read32(i.s[1]), v.read32(i.s[2]), v.read32(i.s[3]));
            let mut absent = 0;
            for l in lanes(m) {
                let source = super::shuffle::source(*mode, l as u32, b[l], c[l]).0 & 31;
                absent |= (!(members[l] & m) >> source & 1) << l;
                for (to, from) in result.parts.iter_mut().zip(value.parts) {
                    *to |= (from >> source & 1) << l;
                }
            }
            result.origin = value.origin;
            if absent != 0 {
                result.parts.iter_mut().for_each(|p| *p |= absent);
                result.origin = EXCHANGE | (w.groups[0].pc & (EXCHANGE - 1));
            }
        }
        Op::Load(a) => {
            act(cx, w, i, m, "the address is", i.s[0]);
            if a.space == Space::Local {
                load_local(w, constants, i, m, a);
                return;
            }
        }
        Op::Store(a) => {
            act(cx, w, i, m, "the address is", i.s[0]);
            if a.space != Space::Local {
                for &s in &i.list {
                    let found = w.undefined_slot(s);
                    let at = found.low(a.ty.bytes()) & m;
                    if at != 0 {
                        report(cx, w, i, at, "stores", Ok(s), found.origin);
                    }
                }
            }
        }
        Op::Tensor(op) => tensor(cx, w, constants, i, m, op),
        _ => {
            let what = if matches!(i.op, Op::Call(_)) { "calls" } else { "takes" };
            for s in i.s {
                act(cx, w, i, m, what, s);
            }
            for s in &i.list[i.list_defs as usize..] {
                act(cx, w, i, m, what, *s);
            }
            for p in from {
                act_pred(cx, w, i, m, what, p);
            }
        }
    }
    for d in definite::written(i) {
        w.set_undefined(d, m, result);
    }
    for p in to {
        w.set_undefined_pred(p, m, (0, 0));
    }
}

fn tensor(
    cx: &mut Cx,
    w: &mut Warp,
    constants: &[Plane],
    i: &Instruction,
    m: u32,
    op: &super::tensor::TensorOp,
) {
    use super::tensor::TensorOp::*;
    match op {
        LoadMatrix { count, .. } | StoreMatrix { count, .. } => {
            // Only these lanes give addresses.
            let used = if *count == 4 { u32::MAX } else { (1 << (8 * count)) - 1 };
            act(cx, w, i, m & used, "the address is", i.s[0]);
            for s in &i.list[i.list_defs as usize..] {
                act(cx, w, i, m, "stores", *s);
            }
        }
        Group(wgmma::GroupOp::Product(_)) => {
            act(cx, w, i, m, "takes", i.s[0]);
            act(cx, w, i, m, "takes", i.s[1]);
            act_pred(cx, w, i, m, "is scaled by", i.p[2]);
            let adds = w.view(constants).pred(i.p[2]) & m != 0;
            let first = if adds { 0 } else { i.list_defs as usize };
            for s in &i.list[first..] {
                act(cx, w, i, m, "multiplies and adds", *s);
            }
        }
        _ => {
            for s in &i.list[i.list_defs as usize..] {
                act(cx, w, i, m, "multiplies", *s);
            }
        }
    }
}

/// Elements of local memory that were never written are undefined, to 16 bits.
fn load_local(w: &mut Warp, constants: &[Plane], i: &Instruction, m: u32, a: &Access) {
    let at = access::addresses(w, constants, i.s[0], a.wide_address, a.offset);
    let each = a.ty.bytes();
    for (k, &d) in i.list.iter().enumerate() {
        let mut value = DEFINED;
        for l in lanes(m) {
            let offset = at[l].wrapping_add(u64::from(each) * k as u64);
            match w.local_marks(l as u32, offset, u64::from(each)) {
                Some(marks) => {
                    for (b, _) in marks.iter().enumerate().filter(|(_, mark)| **mark == 0) {
                        value.parts[b / 2] |= 1 << l;
                    }
                }
                // Nothing was ever written; what is out of bounds is reported by the access.
                None => value.parts.iter_mut().for_each(|p| *p |= 1 << l),
            }
        }
        value.origin = d.0;
        w.set_undefined(d, m, value);
    }
}

/// A store to local memory was done: undefined values leave undefined bytes.
#[cold]
pub fn stored(w: &mut Warp, constants: &[Plane], i: &Instruction, m: u32, a: &Access) {
    if a.space != Space::Local {
        return;
    }
    let at = access::addresses(w, constants, i.s[0], a.wide_address, a.offset);
    let each = a.ty.bytes();
    for (k, &s) in i.list.iter().enumerate() {
        let value = w.undefined_slot(s);
        for part in 0..each.div_ceil(2) {
            for l in lanes(value.parts[part as usize] & m) {
                let offset = at[l].wrapping_add(u64::from(each) * k as u64 + u64::from(2 * part));
                w.mark_local(l as u32, offset, u64::from(each.min(2)), false);
            }
        }
    }
}
