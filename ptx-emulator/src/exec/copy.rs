//! Asynchronous copies, done as late as is legal: when they are waited for, or when the thread exits.
//!
//! With eager completion a wait that is too loose would go unseen.

use super::access::{Place, addresses};
use super::view::Plane;
use super::warp::{Warp, lanes};
use super::{Cx, Flow};
use crate::check::FindingKind;
use crate::ir::Instruction;
use crate::types::Space;

/// Instructions of the asynchronous family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyOp {
    /// `cp.async`: `s` = destination, source, bytes really read (or none); `p[2]`: ignore the source.
    Async {
        /// Bytes written.
        bytes: u32,
        /// Whether the destination register has 64 bits.
        to_wide: bool,
        /// Added to the destination.
        to_offset: i64,
        /// Whether the source register has 64 bits.
        from_wide: bool,
        /// Added to the source.
        from_offset: i64,
    },
    /// `cp.async.commit_group`
    Commit,
    /// `cp.async.wait_group N`
    Wait {
        /// Groups that may stay pending.
        groups: u32,
    },
    /// `cp.async.wait_all`
    WaitAll,
    /// `fence.proxy.*`: generic and asynchronous accesses are ordered.
    ProxyFence,
}

#[derive(Clone, Debug)]
struct Copy {
    lane: u32,
    group: u32,
    to: u64,
    from: u64,
    bytes: u32,
    size: u32,
    pc: u32,
}

/// Copies of a warp's threads that are not done.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    copies: Vec<Copy>,
    /// Groups committed, by lane.
    committed: [u32; 32],
}

/// Runs an asynchronous instruction for the lanes of `m`.
pub fn run(op: &CopyOp, cx: &mut Cx, w: &mut Warp, constants: &[Plane], i: &Instruction, m: u32) -> Flow {
    match *op {
        CopyOp::Async { bytes, to_wide, to_offset, from_wide, from_offset } => {
            let to = addresses(w, constants, i.s[0], to_wide, to_offset);
            let from = addresses(w, constants, i.s[1], from_wide, from_offset);
            let v = w.view(constants);
            let sizes = if i.s[2].is_none() { [bytes; 32] } else { v.read32(i.s[2]) };
            let ignore = if i.p[2].is_none() { 0 } else { v.pred(i.p[2]) };
            let pc = w.groups[0].pc - 1;
            for l in lanes(m) {
                let size = if ignore >> l & 1 != 0 { 0 } else { sizes[l] };
                if size > bytes {
                    cx.report(w, i, l as u32, FindingKind::Bounds, Some(from[l]), || {
                        format!("reads {size} bytes for a copy of {bytes}")
                    });
                    continue;
                }
                // Addresses are judged when the copy is issued; bytes move when it is done.
                let Some(Place::Shared(rank, offset)) = cx.place(w, i, l, Space::Shared, to[l], bytes) else {
                    continue;
                };
                if size > 0 && cx.place(w, i, l, Space::Global, from[l], bytes).is_none() {
                    continue;
                }
                let lane = l as u32;
                cx.touch(w, i, l, &Place::Shared(rank, offset), to[l], bytes, true, false, None);
                cx.cluster.blocks[rank].shared.take_off(offset as u32, bytes, w.id * 32 + lane);
                let group = w.copies.committed[l];
                w.copies.copies.push(Copy { lane, group, to: to[l], from: from[l], bytes, size, pc });
            }
            cx.count(w, pc, Space::Shared, &to, bytes, m);
            cx.count(w, pc, Space::Global, &from, bytes, m);
        }
        CopyOp::Commit => lanes(m).for_each(|l| w.copies.committed[l] += 1),
        CopyOp::Wait { groups } => {
            let until: [u32; 32] = std::array::from_fn(|l| w.copies.committed[l].saturating_sub(groups));
            complete(cx, w, |c| m >> c.lane & 1 != 0 && c.group < until[c.lane as usize]);
        }
        CopyOp::WaitAll => {
            lanes(m).for_each(|l| w.copies.committed[l] += 1);
            complete(cx, w, |c| m >> c.lane & 1 != 0);
        }
        CopyOp::ProxyFence => {}
    }
    Flow::Next
}

/// Threads that exit leave no copy behind.
pub fn at_exit(cx: &mut Cx, w: &mut Warp, _: &Instruction, m: u32) {
    if !w.copies.copies.is_empty() {
        complete(cx, w, |c| m >> c.lane & 1 != 0);
    }
}

fn complete(cx: &mut Cx, w: &mut Warp, which: impl Fn(&Copy) -> bool) {
    let (done, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut w.copies.copies).into_iter().partition(which);
    w.copies.copies = kept;
    let loaded = cx.launch.loaded.clone();
    for c in done {
        let (lane, i) = (c.lane as usize, &loaded.module.0.code[c.pc as usize]);
        let value = if c.size == 0 {
            0
        } else {
            let all = cx.load(w, i, lane, Space::Global, c.from, c.bytes, false);
            if c.size >= 16 { all } else { all & ((1u128 << (8 * c.size)) - 1) }
        };
        if let Some(Place::Shared(rank, offset)) = cx.place(w, i, lane, Space::Shared, c.to, c.bytes) {
            cx.cluster.blocks[rank].shared.land(offset as u32, c.bytes, w.id * 32 + c.lane);
        }
        cx.store(w, i, lane, Space::Shared, c.to, c.bytes, false, value, None);
    }
}
