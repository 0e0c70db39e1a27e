//! Barriers and fences.

use super::view::Plane;
use super::warp::{Wait, Warp, lanes};
use super::{Cx, Flow};
use crate::check::FindingKind;
use crate::ir::{BarKind, Instruction, Op};
use crate::types::Scope;
use std::sync::Arc;

/// What `bar.red` gathers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// Count of true predicates.
    Popc,
    /// All true.
    And,
    /// Any true.
    Or,
}

/// Runs a barrier or fence for the lanes of `m`.
pub fn run(cx: &mut Cx, w: &mut Warp, constants: &[Plane], i: &Instruction, m: u32) -> Flow {
    match i.op {
        Op::Bar { kind, .. } => bar(cx, w, constants, i, m, kind),
        Op::BarWarp => {
            let masks = w.view(constants).read32(i.s[0]);
            let mut need = 0;
            for l in lanes(m) {
                need |= masks[l];
                if masks[l] >> l & 1 == 0 {
                    cx.report(w, i, l as u32, FindingKind::Shuffle, None, || {
                        format!("the member mask {:#010x} lacks the lane that executes", masks[l])
                    });
                }
            }
            if need & w.live & !m == 0 {
                w.clock.tick();
                return Flow::Next;
            }
            let g = w.group();
            // Lanes that a guard holds back go on without.
            if g.mask != m {
                let mut rest = g.clone();
                rest.mask &= !m;
                g.mask = m;
                w.groups.push(rest);
            }
            w.group().wait = Wait::Warp(need);
            Flow::Wait
        }
        Op::Fence { scope, .. } => {
            fence(w, scope);
            Flow::Next
        }
        Op::ClusterArrive { release } => {
            // Relaxed, it announces what a fence made ready before.
            let ready = if release { Some(w.clock.publish()) } else { w.clock.ready[1].as_deref().cloned() };
            w.clock.tick();
            let c = &mut cx.cluster;
            c.arrived += m.count_ones();
            if let Some(known) = ready {
                crate::memory::clock::merge(&mut c.gathered, &known);
            }
            Flow::Next
        }
        _ => {
            let g = w.group();
            g.wait = Wait::Cluster;
            Flow::Wait
        }
    }
}

/// Takes over what strong reads have seen, and makes all that is known ready to be published.
pub fn fence(w: &mut Warp, scope: Scope) {
    for known in std::mem::take(&mut w.clock.seen) {
        w.clock.join(&known);
    }
    let known = Arc::new(w.clock.publish());
    if scope > Scope::Cta {
        w.clock.ready[1] = Some(known.clone());
    }
    w.clock.ready[0] = Some(known);
    w.clock.tick();
}

fn bar(cx: &mut Cx, w: &mut Warp, constants: &[Plane], i: &Instruction, m: u32, kind: BarKind) -> Flow {
    let v = w.view(constants);
    let lane = m.trailing_zeros();
    let (ids, p) = (v.read32(i.s[0]), v.pred(i.p[2]));
    let counts = if i.s[1].is_none() { None } else { Some(v.read32(i.s[1])) };
    let (id, count) = (ids[lane as usize], counts.map(|c| c[lane as usize]));
    if lanes(m).any(|l| ids[l] != id || counts.is_some_and(|c| Some(c[l]) != count)) {
        cx.report(w, i, lane, FindingKind::Barrier, None, || {
            "lanes name different barriers or counts".into()
        });
    }
    if id > 15 {
        cx.report(w, i, lane, FindingKind::Trap, None, || format!("barrier {id}: there are 0 to 15"));
        return Flow::Wait;
    }
    if let Some(n) = count
        && (n == 0 || n % 32 != 0 || n > 1024)
    {
        cx.report(w, i, lane, FindingKind::Trap, None, || {
            format!("a barrier of {n} threads: it must be a multiple of 32")
        });
        return Flow::Wait;
    }
    let place = (cx.cluster.blocks[w.block as usize].id, cx.launch.thread(w.id * 32 + lane));
    let b = &mut cx.cluster.blocks[w.block as usize].barriers[id as usize];
    if b.lanes.iter().any(|l| *l != 0) && b.count != count {
        let other = b.count;
        cx.launch.report(FindingKind::Barrier, i.line, place, None, || {
            format!("waits for {count:?} threads where others wait for {other:?}")
        });
    }
    b.count = count;
    b.line = i.line;
    b.lanes[w.id as usize] |= m;
    match kind {
        BarKind::RedPopc | BarKind::RedAnd | BarKind::RedOr => {
            b.popc += (p & m).count_ones();
            b.all &= p & m == m;
            b.any |= p & m != 0;
            let r = match kind {
                BarKind::RedPopc => Reduction::Popc,
                BarKind::RedAnd => Reduction::And,
                _ => Reduction::Or,
            };
            w.reduction = Some((i.d[0], i.p[0], r));
        }
        BarKind::Arrive => {
            // What this warp knows now is what the others will take over.
            b.gather(&w.clock);
            w.clock.tick();
            cx.cluster.blocks[w.block as usize].barrier_event = true;
            return Flow::Yield;
        }
        BarKind::Sync => {}
    }
    cx.cluster.blocks[w.block as usize].barrier_event = true;
    let g = w.group();
    if g.mask != m {
        let mut rest = g.clone();
        rest.mask &= !m;
        g.mask = m;
        w.groups.push(rest);
    }
    w.group().wait = Wait::Barrier(id as u8);
    Flow::Wait
}
