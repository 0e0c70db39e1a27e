//! Asynchronous copies, done as late as is legal: when they are waited for, or when the thread exits.
//!
//! With eager completion a wait that is too loose would go unseen.

use super::access::{Place, addresses};
use super::bulk::{self, BulkOp, RemoteOp};
use super::mbarrier::{self, Action, BarrierOp};
use super::view::Plane;
use super::warp::{Warp, lanes};
use super::{Cx, Flow};
use crate::check::FindingKind;
use crate::ir::Instruction;
use crate::memory::shared::ROW;
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
    /// A bulk copy.
    Bulk(BulkOp),
    /// `st.async`, `red.async`
    Remote(RemoteOp),
    /// `cp.async.bulk.commit_group`
    BulkCommit,
    /// `cp.async.bulk.wait_group N`
    BulkWait {
        /// Groups that may stay pending.
        groups: u32,
        /// Whether it is enough that sources have been read.
        read: bool,
    },
    /// An instruction on an `mbarrier`.
    Barrier(BarrierOp),
}

/// The copies of one warp instruction that are not done.
#[derive(Clone, Debug)]
struct Copies {
    /// Lanes whose copy is pending.
    mask: u32,
    number: u64,
    pc: u32,
    bytes: u32,
    groups: [u32; 32],
    sizes: [u32; 32],
    to: [u64; 32],
    from: [u64; 32],
}

/// Copies of a warp's threads that are not done.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    copies: Vec<Copies>,
    /// Groups committed, by lane.
    committed: [u32; 32],
    /// Instructions so far.
    issued: u64,
    arrivals: Vec<Arrival>,
    /// Bulk groups committed, by lane.
    bulk: [u32; 32],
}

/// An arrival at a barrier, once the copies that a thread issued before are done.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    lane: u32,
    rank: u32,
    barrier: u32,
    before: u64,
}

impl Pending {
    /// A lane arrives at a barrier when the copies that it has issued are done.
    pub fn arrive_after(&mut self, lane: usize, rank: u32, barrier: u32) {
        self.arrivals.push(Arrival { lane: lane as u32, rank, barrier, before: self.issued + 1 });
    }

    /// The bulk group of a lane that is not yet committed.
    pub fn bulk_group(&self, lane: usize) -> u32 {
        self.bulk[lane]
    }
}

/// Runs an asynchronous instruction for the lanes of `m`.
pub fn run(op: &CopyOp, cx: &mut Cx, w: &mut Warp, constants: &[Plane], i: &Instruction, m: u32) -> Flow {
    match *op {
        CopyOp::Async { bytes, to_wide, to_offset, from_wide, from_offset } => {
            let to = addresses(w, constants, i.s[0], to_wide, to_offset);
            let from = addresses(w, constants, i.s[1], from_wide, from_offset);
            let v = w.view(constants);
            let mut sizes = if i.s[2].is_none() { [bytes; 32] } else { v.read32(i.s[2]) };
            let ignore = if i.p[2].is_none() { 0 } else { v.pred(i.p[2]) };
            for l in lanes(ignore) {
                sizes[l] = 0;
            }
            let pc = w.groups[0].pc - 1;
            let mut issued = 0;
            if bytes as usize == ROW {
                issued = issue_rows(cx, w, m, &to, &from, &sizes);
            }
            for l in lanes(m & !issued) {
                if issue(cx, w, i, l, [to[l], from[l]], bytes, sizes[l]) {
                    issued |= 1 << l;
                }
            }
            if issued != 0 {
                let groups = w.copies.committed;
                w.copies.issued += 1;
                let number = w.copies.issued;
                w.copies.copies.push(Copies { mask: issued, number, pc, bytes, groups, sizes, to, from });
            }
            cx.count(w, pc, Space::Shared, &to, bytes, m);
            cx.count(w, pc, Space::Global, &from, bytes, m);
        }
        CopyOp::Commit => lanes(m).for_each(|l| w.copies.committed[l] += 1),
        CopyOp::Wait { groups } => {
            let mut until = w.copies.committed;
            for group in &mut until {
                *group = group.saturating_sub(groups);
            }
            complete(cx, w, m, &until, u64::MAX);
        }
        CopyOp::WaitAll => {
            lanes(m).for_each(|l| w.copies.committed[l] += 1);
            complete(cx, w, m, &[u32::MAX; 32], u64::MAX);
        }
        CopyOp::ProxyFence => {
            cx.cluster.blocks[w.block as usize].shared.fence_proxy(&w.clock.own);
            w.clock.tick();
        }
        CopyOp::Bulk(op) => return bulk::run(op, cx, w, constants, i, m),
        CopyOp::Remote(op) => return bulk::send(op, cx, w, constants, i, m),
        CopyOp::BulkCommit => lanes(m).for_each(|l| w.copies.bulk[l] += 1),
        CopyOp::BulkWait { groups, read } => {
            let until = w.copies.bulk.map(|n| n.saturating_sub(groups));
            bulk::wait(cx, w, m, &until, read);
        }
        CopyOp::Barrier(op) => {
            if matches!(op.action, Action::Wait { .. }) {
                arrive_all(cx, w);
            }
            return mbarrier::run(op, cx, w, constants, i, m);
        }
    }
    Flow::Next
}

/// Judges the addresses of a lane's copy, now that it is issued; bytes move when it is done. False when there is
/// nothing to move.
#[inline(always)]
fn issue(
    cx: &mut Cx,
    w: &mut Warp,
    i: &Instruction,
    l: usize,
    [to, from]: [u64; 2],
    bytes: u32,
    size: u32,
) -> bool {
    if size > bytes {
        cx.report(w, i, l as u32, FindingKind::Bounds, Some(from), || {
            format!("reads {size} bytes for a copy of {bytes}")
        });
        return false;
    }
    let thread = w.id * 32 + l as u32;
    let place = if size == 0 { None } else { cx.place(w, i, l, Space::Global, from, bytes) };
    let source = size == 0 || place.is_some();
    if let Some(Place::Global(k, offset)) = place {
        // It is read when the copy is done, which is a while from now.
        let met = &cx.worker.met[k];
        met.allocation.data.prefetch(offset);
        if let Some(shadow) = &met.shadow {
            shadow.prefetch(offset);
        }
    }
    if bytes as usize == ROW && source {
        let (judge, me) = cx.judge(w, l);
        if cx.cluster.blocks[w.block as usize].shared.take_off_row(&judge, me, to, thread) {
            return true;
        }
    }
    let Some(Place::Shared(rank, offset)) = cx.place(w, i, l, Space::Shared, to, bytes) else { return false };
    if !source {
        return false;
    }
    cx.touch(w, i, l, &Place::Shared(rank, offset), to, bytes, true, false, None);
    cx.cluster.blocks[rank].shared.take_off(offset as u32, bytes, thread);
    true
}

/// [`issue`] for the lanes whose copy is of a whole row and right in every respect: those lanes.
fn issue_rows(cx: &mut Cx, w: &Warp, m: u32, to: &[u64; 32], from: &[u64; 32], sizes: &[u32; 32]) -> u32 {
    let first = from[m.trailing_zeros() as usize & 31];
    let Some(k) = cx.worker.meet(cx.launch, first) else { return 0 };
    let (judge, me) = cx.judge(w, 0);
    let met = &cx.worker.met[k];
    let (a, shadow) = (&met.allocation, met.shadow.as_deref());
    let shared = &mut cx.cluster.blocks[w.block as usize].shared;
    let mut done = 0u32;
    if a.is_freed() {
        return 0;
    }
    for l in lanes(m) {
        let offset = from[l].wrapping_sub(a.base);
        if sizes[l] as usize != ROW
            || !offset.is_multiple_of(ROW as u64)
            || offset.saturating_add(ROW as u64) > a.bytes
        {
            continue;
        }
        // It is read when the copy is done, which is a while from now.
        a.data.prefetch(offset as usize);
        if let Some(shadow) = shadow {
            shadow.prefetch(offset as usize);
        }
        if shared.take_off_row(&judge, me.of_lane(l as u32), to[l], w.id * 32 + l as u32) {
            done |= 1 << l;
        }
    }
    done
}

/// [`move_bytes`] for the lanes whose copy is of a whole row and right in every respect: those lanes.
fn move_rows(cx: &mut Cx, w: &Warp, m: u32, c: &Copies) -> u32 {
    if m == 0 {
        return 0;
    }
    let Some(k) = cx.worker.meet(cx.launch, c.from[m.trailing_zeros() as usize]) else { return 0 };
    let initialised = cx.launch.options.checks.uninitialised;
    let (judge, me) = cx.judge(w, 0);
    let met = &cx.worker.met[k];
    let (a, shadow) = (&met.allocation, met.shadow.as_deref());
    let shared = &mut cx.cluster.blocks[w.block as usize].shared;
    let mut done = 0u32;
    if a.is_freed() {
        return 0;
    }
    for l in lanes(m) {
        let (offset, me) = (c.from[l].wrapping_sub(a.base), me.of_lane(l as u32));
        if c.sizes[l] as usize != ROW || offset.saturating_add(ROW as u64) > a.bytes {
            continue;
        }
        let offset = offset as usize;
        if initialised && !(a.is_written(offset, 8) && a.is_written(offset + 8, 8)) {
            continue;
        }
        if shadow.is_some_and(|s| !s.read_row(&judge, me, offset)) {
            continue;
        }
        let value = u128::from(a.data.load(offset, 8)) | u128::from(a.data.load(offset + 8, 8)) << 64;
        // Should this fail, the row is read again, which changes nothing.
        if shared.land_row(&judge, me, c.to[l], w.id * 32 + l as u32, value) {
            done |= 1 << l;
        }
    }
    cx.worker.changes += u64::from(done.count_ones());
    done
}

/// Threads that exit leave no copy behind.
pub fn at_exit(cx: &mut Cx, w: &mut Warp, _: &Instruction, m: u32) {
    complete(cx, w, m, &[u32::MAX; 32], u64::MAX);
    arrive_own(cx, w, m);
    bulk::at_exit(cx, w, m);
}

/// Somebody waits for a barrier: all that arrive at one when their copies are done do so.
fn arrive_all(cx: &mut Cx, w: &mut Warp) {
    arrive_own(cx, w, u32::MAX);
    for k in 0..cx.cluster.warps.len() {
        if let Some(mut other) = cx.cluster.warps[k].take_if(|o| !o.copies.arrivals.is_empty()) {
            arrive_own(cx, &mut other, u32::MAX);
            cx.cluster.warps[k] = Some(other);
        }
    }
}

fn arrive_own(cx: &mut Cx, w: &mut Warp, m: u32) {
    for a in std::mem::take(&mut w.copies.arrivals) {
        if m >> a.lane & 1 == 0 {
            w.copies.arrivals.push(a);
            continue;
        }
        complete(cx, w, 1 << a.lane, &[u32::MAX; 32], a.before);
        mbarrier::arrive_now(cx, w, a.rank, a.barrier);
    }
}

/// Does the copies of the lanes of `m` that belong to groups before `until`, of instructions before `before`.
fn complete(cx: &mut Cx, w: &mut Warp, m: u32, until: &[u32; 32], before: u64) {
    if w.copies.copies.is_empty() {
        return;
    }
    let launch = cx.launch;
    let mut all = std::mem::take(&mut w.copies.copies);
    for c in &mut all {
        let i = &launch.loaded.module.0.code[c.pc as usize];
        if c.number >= before {
            break;
        }
        let mut due = lanes(c.mask & m).fold(0, |due, l| due | u32::from(c.groups[l] < until[l]) << l);
        c.mask &= !due;
        if c.bytes as usize == ROW {
            due &= !move_rows(cx, w, due, c);
        }
        for l in lanes(due) {
            move_bytes(cx, w, i, l, [c.to[l], c.from[l]], c.bytes, c.sizes[l]);
        }
    }
    all.retain(|c| c.mask != 0);
    w.copies.copies = all;
}

#[inline(always)]
fn move_bytes(
    cx: &mut Cx,
    w: &mut Warp,
    i: &Instruction,
    lane: usize,
    [to, from]: [u64; 2],
    bytes: u32,
    size: u32,
) {
    let thread = w.id * 32 + lane as u32;
    let value = if size == 0 {
        0
    } else {
        let row = if bytes as usize == ROW { cx.global_row(w, lane, from) } else { None };
        let all = row.unwrap_or_else(|| cx.load(w, i, lane, Space::Global, from, bytes, false));
        if size >= 16 { all } else { all & ((1u128 << (8 * size)) - 1) }
    };
    if bytes as usize == ROW {
        let (judge, me) = cx.judge(w, lane);
        if cx.cluster.blocks[w.block as usize].shared.land_row(&judge, me, to, thread, value) {
            cx.worker.changes += 1;
            return;
        }
    }
    if let Some(Place::Shared(rank, offset)) = cx.place(w, i, lane, Space::Shared, to, bytes) {
        cx.cluster.blocks[rank].shared.land(offset as u32, bytes, thread);
    }
    cx.store(w, i, lane, Space::Shared, to, bytes, false, value, None);
}
