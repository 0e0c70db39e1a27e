//! `mbarrier`: barriers in shared memory that count arrivals and bytes of asynchronous copies (PTX ISA, "Parallel
//! Synchronization and Communication Instructions: mbarrier").
//!
//! The object's eight bytes are opaque, so its state is kept beside the memory. A phase ends when no arrival is pending
//! and as many bytes have come as were expected. Copies that a barrier counts are done when somebody looks whether the
//! phase has ended and nothing but them is missing: never earlier, which is as late as anybody can tell.

use super::access::{Place, addresses};
use super::view::Plane;
use super::warp::{Warp, lanes};
use super::{Cx, Flow, bulk};
use crate::check::FindingKind;
use crate::ir::Instruction;
use crate::memory::clock::{Known, merge};
use crate::memory::shadow::Epoch;
use crate::types::Space;

/// The largest count of arrivals or bytes of a phase.
const MAX_COUNT: u32 = (1 << 20) - 1;

/// State of one barrier.
#[derive(Clone, Debug, Default)]
pub struct Mbarrier {
    expected: u32,
    pending: u32,
    bytes: i64,
    /// Phases that have ended.
    phase: u64,
    gathered: Known,
    released: Known,
    /// The initialisation, which must have happened before all else.
    born: Epoch,
}

impl Mbarrier {
    /// Ends the phase when all is there.
    fn settle(&mut self) {
        if self.pending == 0 && self.bytes == 0 {
            self.phase += 1;
            self.pending = self.expected;
            merge(&mut self.released, &std::mem::take(&mut self.gathered));
        }
    }

    /// Whether only bytes of copies are missing.
    pub fn waits_for_bytes(&self) -> bool {
        self.pending == 0 && self.bytes > 0
    }

    /// Bytes of a copy have come, and what those who wait know by that.
    pub fn complete(&mut self, bytes: u32, known: &Known) {
        merge(&mut self.gathered, known);
        self.bytes -= i64::from(bytes);
        self.settle();
    }
}

/// What is done with a barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `.init`: `s[1]` = arrivals of a phase.
    Init,
    /// `.inval`
    Invalidate,
    /// `.arrive`, `.arrive_drop`: `d[0]` = state, `s[1]` = arrivals, `s[2]` = bytes to expect first.
    Arrive {
        /// Later phases expect as many arrivals fewer.
        drop: bool,
        /// What was done before is published.
        release: bool,
        /// It must not end the phase.
        incomplete: bool,
    },
    /// `.expect_tx`: `s[1]` = bytes.
    Expect,
    /// `.complete_tx`: `s[1]` = bytes.
    Complete,
    /// `.test_wait`, `.try_wait`: `p[0]` = whether the phase has ended, `s[1]` = state or parity.
    Wait {
        /// By parity.
        parity: bool,
        /// What the arrived have published is taken over.
        acquire: bool,
    },
    /// `cp.async.mbarrier.arrive`: arrives when the thread's earlier `cp.async` are done.
    AfterCopies {
        /// The arrival is one that the barrier counts; else its count is raised first.
        counted: bool,
    },
}

/// An instruction on a barrier, at the address in `s[0]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarrierOp {
    /// What.
    pub action: Action,
    /// Whether the address register has 64 bits.
    pub wide: bool,
    /// Added to the address.
    pub offset: i64,
    /// Shared, or generic.
    pub space: Space,
}

/// Runs an instruction on barriers for the lanes of `m`.
pub fn run(op: BarrierOp, cx: &mut Cx, w: &mut Warp, constants: &[Plane], i: &Instruction, m: u32) -> Flow {
    let at = addresses(w, constants, i.s[0], op.wide, op.offset);
    let v = w.view(constants);
    // States have 64 bits; all other operands 32.
    let states = matches!(op.action, Action::Wait { parity: false, .. });
    let value: [u64; 32] = match i.s[1] {
        s if s.is_none() => [1; 32],
        s if states => v.read64(s),
        s => v.read32(s).map(u64::from),
    };
    let expect = if i.s[2].is_none() { [0; 32] } else { v.read32(i.s[2]) };
    let (mut out, mut done) = ([0u64; 32], 0u32);
    for l in lanes(m) {
        let Some(place) = cx.place(w, i, l, op.space, at[l], 8) else { continue };
        let Place::Shared(rank, offset) = place else {
            cx.report(w, i, l as u32, FindingKind::Trap, Some(at[l]), || {
                "a barrier object that is not in shared memory".into()
            });
            continue;
        };
        let key = offset as u32;
        let (init, wait) = (op.action == Action::Init, matches!(op.action, Action::Wait { .. }));
        let alone = init || op.action == Action::Invalidate;
        cx.touch(w, i, l, &place, at[l], 8, !wait, !alone, None);
        if init {
            let count = value[l] as u32;
            let live = cx.cluster.blocks[rank].shared.mbarriers.contains_key(&key);
            if live || count == 0 || count > MAX_COUNT {
                cx.report(w, i, l as u32, FindingKind::Barrier, Some(at[l]), || match live {
                    true => "initialises a barrier that is in use".into(),
                    false => format!("a barrier of {count} arrivals; 1 to {MAX_COUNT} are allowed"),
                });
            }
            let born = cx.judge(w, l).1;
            let new = Mbarrier { expected: count, pending: count, born, ..Mbarrier::default() };
            let shared = &mut cx.cluster.blocks[rank].shared;
            shared.mbarriers.insert(key, new);
            shared.written[offset..offset + 8].fill(1);
            cx.worker.changes += 1;
            continue;
        }
        if wait {
            bulk::land_for(cx, rank, key);
        }
        let Some(b) = cx.cluster.blocks[rank].shared.mbarriers.get(&key) else {
            cx.report(w, i, l as u32, FindingKind::Barrier, Some(at[l]), || {
                "a barrier that nobody initialised".into()
            });
            continue;
        };
        let born = b.born;
        let (judge, me) = cx.judge(w, l);
        if !judge.ordered(born, me) {
            cx.report(w, i, l as u32, FindingKind::Race, Some(at[l]), || {
                "a barrier whose initialisation nothing orders before this".into()
            });
        }
        let Some(b) = cx.cluster.blocks[rank].shared.mbarriers.get_mut(&key) else { continue };
        let mut wrong = None;
        match op.action {
            Action::Init => {}
            Action::Invalidate => {
                cx.cluster.blocks[rank].shared.mbarriers.remove(&key);
                cx.worker.changes += 1;
                continue;
            }
            Action::Arrive { drop, release, incomplete } => {
                // The state tells the phase, and how many arrivals it lacked.
                out[l] = b.phase << 32 | u64::from(b.pending);
                let count = value[l] as u32;
                b.bytes += i64::from(expect[l]);
                if count == 0 || count > b.pending || (incomplete && count == b.pending) {
                    wrong = Some(format!("{count} arrivals where {} are pending", b.pending));
                } else {
                    b.pending -= count;
                    b.expected = b.expected.saturating_sub(if drop { count } else { 0 });
                    if release {
                        merge(&mut b.gathered, &w.clock.publish());
                    }
                    b.settle();
                }
            }
            Action::Expect => {
                b.bytes += value[l] as i64;
                b.settle();
            }
            Action::Complete => b.complete(value[l] as u32, &Known::new()),
            Action::Wait { parity, acquire } => {
                let ended = if parity { b.phase & 1 != value[l] & 1 } else { b.phase > value[l] >> 32 };
                if ended {
                    done |= 1 << l;
                    if acquire {
                        w.clock.join(&b.released);
                    }
                }
                continue;
            }
            Action::AfterCopies { counted } => {
                if !counted {
                    b.pending += 1;
                }
                w.copies.arrive_after(l, rank as u32, key);
            }
        }
        if b.bytes.unsigned_abs() > u64::from(MAX_COUNT) {
            wrong = Some(format!("{} bytes expected; at most {MAX_COUNT} are allowed", b.bytes));
        }
        cx.worker.changes += 1;
        if let Some(what) = wrong {
            cx.report(w, i, l as u32, FindingKind::Barrier, Some(at[l]), || what);
        }
    }
    match op.action {
        Action::Arrive { .. } => {
            w.clock.tick();
            w.view(constants).write64(i.d[0], m, &out);
        }
        Action::Wait { .. } => {
            w.view(constants).write_pred(i.p[0], m, done);
            if done != m {
                return Flow::Yield;
            }
        }
        _ => {}
    }
    Flow::Next
}

/// A thread's copies before its `cp.async.mbarrier.arrive` are done: it arrives.
pub fn arrive_now(cx: &mut Cx, w: &mut Warp, rank: u32, key: u32) {
    let known = w.clock.publish();
    if let Some(b) = cx.cluster.blocks[rank as usize].shared.mbarriers.get_mut(&key)
        && b.pending > 0
    {
        merge(&mut b.gathered, &known);
        b.pending -= 1;
        b.settle();
        cx.worker.changes += 1;
        w.clock.tick();
    }
}
