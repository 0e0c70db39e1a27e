//! The blocks of a cluster: whose turn it is, when barriers open, and when nothing can go on.
//!
//! A cluster is the unit that a worker takes up and lays down: its state is this value, so that a block which spins
//! on another's flag can be suspended while the other runs.

use super::sync::Reduction;
use super::warp::{Slice, Wait, Warp};
use super::{Cx, LaunchState, Worker};
use crate::check::{FindingKind, Order};
use crate::decode::special::Special;
use crate::memory::clock::{Known, WarpClock, merge};
use crate::memory::shared::Shared;

/// Warp instructions of one turn of a warp.
const TURN: u32 = 4096;

/// A named barrier of a block.
#[derive(Debug, Clone)]
pub struct Barrier {
    /// Lanes that have arrived, by warp.
    pub lanes: [u32; 32],
    /// Threads it waits for; `None`: all of the block.
    pub count: Option<u32>,
    /// Line of the last arrival.
    pub line: u32,
    /// True predicates, whether all were, whether any was.
    pub popc: u32,
    /// All predicates true.
    pub all: bool,
    /// Any predicate true.
    pub any: bool,
    known: Known,
}

impl Default for Barrier {
    fn default() -> Self {
        Barrier { lanes: [0; 32], count: None, line: 0, popc: 0, all: true, any: false, known: Known::new() }
    }
}

impl Barrier {
    /// Adds what a warp knows to what those who wait will take over.
    pub fn gather(&mut self, clock: &WarpClock) {
        merge(&mut self.known, &clock.publish());
    }
}

/// A block.
#[derive(Debug)]
pub struct Block {
    /// `%ctaid`
    pub id: [u32; 3],
    /// Index in the grid.
    pub linear: u32,
    /// Its memory.
    pub shared: Shared,
    /// Its barriers.
    pub barriers: Vec<Barrier>,
    /// A warp arrived somewhere since barriers were last looked at.
    pub barrier_event: bool,
}

/// A cluster (of one block, mostly).
#[derive(Debug)]
pub struct Cluster {
    /// Blocks by rank.
    pub blocks: Vec<Block>,
    /// Warps of all blocks; the running one is taken out.
    pub warps: Vec<Option<Warp>>,
    blocked: Vec<bool>,
    /// Threads that arrived at the cluster's barrier.
    pub arrived: u32,
    /// What they know.
    pub gathered: Known,
    /// Bulk copies not yet done, in the order of their issue.
    pub bulk: Vec<super::bulk::Bulk>,
    /// Bulk copies issued.
    pub bulk_count: u32,
    turn: usize,
}

/// Where a cluster stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// More to do.
    Suspended,
    /// All threads have exited, or the launch was stopped.
    Done,
}

impl Cluster {
    /// Cluster number `index` of a launch.
    pub fn new(launch: &LaunchState, index: u32) -> Cluster {
        let (grid, shape) = (launch.grid, launch.cluster);
        let clusters: [u32; 3] = std::array::from_fn(|k| grid[k] / shape[k]);
        let at = [index % clusters[0], index / clusters[0] % clusters[1], index / clusters[0] / clusters[1]];
        let total: u32 = launch.threads.iter().product();
        let warps_per_block = total.div_ceil(32);
        let f = launch.function();
        let checks = &launch.options.checks;
        let (mut blocks, mut warps) = (Vec::new(), Vec::new());
        for rank in 0..shape.iter().product::<u32>() {
            let within = [rank % shape[0], rank / shape[0] % shape[1], rank / shape[0] / shape[1]];
            let id: [u32; 3] = std::array::from_fn(|k| at[k] * shape[k] + within[k]);
            let linear = id[0] + grid[0] * (id[1] + grid[1] * id[2]);
            let bytes = launch.dynamic_offset + launch.dynamic_bytes;
            blocks.push(Block {
                id,
                linear,
                shared: Shared::new(bytes as usize, checks.race || checks.lane_race),
                barriers: vec![Barrier::default(); 16],
                barrier_event: false,
            });
            for warp in 0..warps_per_block {
                let count = (total - warp * 32).min(32);
                let mut w = Warp::new(launch, rank, warp, linear, u32::MAX >> (32 - count));
                let [x, y, _] = launch.threads;
                let t = move |l: u32| warp * 32 + l;
                w.set_special(Special::TidX, |l| u64::from(t(l) % x));
                w.set_special(Special::TidY, |l| u64::from(t(l) / x % y));
                w.set_special(Special::TidZ, |l| u64::from(t(l) / x / y));
                w.set_special(Special::LaneId, u64::from);
                w.set_special(Special::LaneMaskEq, |l| 1 << l);
                w.set_special(Special::LaneMaskLe, |l| (2u64 << l) - 1);
                w.set_special(Special::LaneMaskLt, |l| (1 << l) - 1);
                w.set_special(Special::LaneMaskGe, |l| !((1u64 << l) - 1) & 0xFFFF_FFFF);
                w.set_special(Special::LaneMaskGt, |l| !((2u64 << l) - 1) & 0xFFFF_FFFF);
                let mut three = |which: [Special; 3], values: [u32; 3]| {
                    for k in 0..3 {
                        w.set_special(which[k], |_| u64::from(values[k]));
                    }
                };
                use Special::*;
                three([NtidX, NtidY, NtidZ], launch.threads);
                three([CtaidX, CtaidY, CtaidZ], id);
                three([NctaidX, NctaidY, NctaidZ], grid);
                three([ClusterIdX, ClusterIdY, ClusterIdZ], at);
                three([NclusterIdX, NclusterIdY, NclusterIdZ], clusters);
                three([ClusterCtaidX, ClusterCtaidY, ClusterCtaidZ], within);
                three([ClusterNctaidX, ClusterNctaidY, ClusterNctaidZ], shape);
                for (which, value) in [
                    (WarpId, warp),
                    (NwarpId, warps_per_block),
                    (SmId, index % launch.gpu.sms),
                    (NsmId, launch.gpu.sms),
                    (ClusterCtarank, rank),
                    (ClusterNctarank, shape.iter().product()),
                    (DynamicSharedSize, launch.dynamic_bytes),
                    (TotalSharedSize, bytes),
                    (DynamicShared32, launch.dynamic_offset),
                ] {
                    w.set_special(which, |_| u64::from(value));
                }
                w.set_special(GridId, |_| launch.grid_id);
                w.set_special(DynamicShared64, |_| u64::from(launch.dynamic_offset));
                warps.push(Some(w));
            }
        }
        debug_assert!(f.kernel);
        let blocked = vec![false; warps.len()];
        Cluster {
            blocks,
            warps,
            blocked,
            arrived: 0,
            gathered: Known::new(),
            bulk: Vec::new(),
            bulk_count: 0,
            turn: 0,
        }
    }

    /// Runs for about `budget` warp instructions.
    pub fn run(&mut self, launch: &LaunchState, worker: &mut Worker, budget: u64) -> State {
        let end = worker.issued + budget;
        while worker.issued < end {
            let Some(k) = self.pick(launch, worker) else {
                if self.warps.iter().all(Option::is_none) {
                    return State::Done;
                }
                if !self.unblock(launch) {
                    return State::Done;
                }
                continue;
            };
            let mut warp = self.warps[k].take().expect("only present warps are picked");
            let turn = match launch.options.order {
                Order::Random(_) => 1 + (worker.next_random() % 256) as u32,
                _ => TURN,
            };
            let slice = warp.run(&mut Cx { launch, worker, cluster: self }, turn);
            if launch.abort.load(std::sync::atomic::Ordering::Relaxed) {
                return State::Done;
            }
            let block = warp.block as usize;
            match slice {
                Slice::Done => {
                    // A barrier may have waited for this warp.
                    self.blocks[block].barrier_event = true;
                }
                other => {
                    self.blocked[k] = other == Slice::Blocked;
                    self.warps[k] = Some(warp);
                }
            }
            if self.blocks[block].barrier_event {
                self.blocks[block].barrier_event = false;
                self.open_barriers(block);
            }
            self.open_cluster();
        }
        State::Suspended
    }

    fn pick(&mut self, launch: &LaunchState, worker: &mut Worker) -> Option<usize> {
        let n = self.warps.len();
        let ready = |k: &usize| self.warps[*k].is_some() && !self.blocked[*k];
        let k = match launch.options.order {
            // Round after round, so that a warp which spins gives way.
            Order::Forward => (0..n).map(|k| (self.turn + k) % n).find(ready),
            Order::Reverse => (0..n).map(|k| (self.turn + 2 * n - 1 - k) % n).find(ready),
            Order::Random(_) => {
                let start = worker.next_random() as usize % n;
                (0..n).map(|k| (start + k) % n).find(ready)
            }
        };
        let k = k?;
        self.turn = if launch.options.order == Order::Reverse { k } else { k + 1 };
        Some(k)
    }

    fn open_barriers(&mut self, block: usize) {
        for id in 0..16u8 {
            let b = &self.blocks[block].barriers[id as usize];
            if b.lanes.iter().all(|l| *l == 0) {
                continue;
            }
            let (mut here, mut all) = (0, true);
            for warp in self.warps.iter().flatten().filter(|w| w.block as usize == block) {
                let complete = b.lanes[warp.id as usize] & warp.live == warp.live;
                all &= complete;
                here += if complete { 32 } else { 0 };
            }
            // Warps that arrived and have exited since still count.
            let gone = (0..32).filter(|&k| {
                b.lanes[k] != 0
                    && !self.warps.iter().flatten().any(|w| w.block as usize == block && w.id as usize == k)
            });
            here += 32 * gone.count() as u32;
            if b.count.map_or(all, |n| here >= n) {
                self.open(block, id);
            }
        }
    }

    fn open(&mut self, block: usize, id: u8) {
        let mut b = std::mem::take(&mut self.blocks[block].barriers[id as usize]);
        let waits = |w: &Warp| w.groups.iter().any(|g| g.wait == Wait::Barrier(id));
        for w in self.warps.iter().flatten().filter(|w| w.block as usize == block && waits(w)) {
            b.gather(&w.clock);
        }
        for (k, slot) in self.warps.iter_mut().enumerate() {
            let Some(w) = slot.as_mut().filter(|w| w.block as usize == block && waits(w)) else { continue };
            w.clock.join(&b.known);
            w.clock.tick();
            if let Some((d, p, r)) = w.reduction.take() {
                for g in 0..w.groups.len() {
                    if w.groups[g].wait == Wait::Barrier(id) {
                        let (mask, value) = (w.groups[g].mask, b.popc);
                        let bits = match r {
                            Reduction::Popc => 0,
                            Reduction::And => 0u32.wrapping_sub(u32::from(b.all)),
                            Reduction::Or => 0u32.wrapping_sub(u32::from(b.any)),
                        };
                        w.groups.swap(0, g);
                        let mut v = w.view(&[]);
                        v.write32(d, mask, &[value; 32]);
                        v.write_pred(p, mask, bits);
                        w.groups.swap(0, g);
                    }
                }
            }
            for g in &mut w.groups {
                if g.wait == Wait::Barrier(id) {
                    g.wait = Wait::No;
                }
            }
            self.blocked[k] = false;
        }
    }

    fn open_cluster(&mut self) {
        let live: u32 = self.warps.iter().flatten().map(|w| w.live.count_ones()).sum();
        let waiting: u32 = self
            .warps
            .iter()
            .flatten()
            .flat_map(|w| &w.groups)
            .filter(|g| g.wait == Wait::Cluster)
            .map(|g| g.mask.count_ones())
            .sum();
        if waiting == 0 || self.arrived < live || waiting < live {
            return;
        }
        self.arrived = 0;
        let known = std::mem::take(&mut self.gathered);
        for (k, slot) in self.warps.iter_mut().enumerate() {
            let Some(w) = slot else { continue };
            w.clock.join(&known);
            w.clock.tick();
            for g in w.groups.iter_mut().filter(|g| g.wait == Wait::Cluster) {
                g.wait = Wait::No;
            }
            self.blocked[k] = false;
        }
    }

    /// Nothing runs: lanes that wait for others of their warp go on without them, and are reported; failing that,
    /// barriers that cannot open are a deadlock. False when the cluster is stuck for good.
    fn unblock(&mut self, launch: &LaunchState) -> bool {
        let code = &launch.loaded.module.0.code;
        for (k, slot) in self.warps.iter_mut().enumerate() {
            let Some(w) = slot else { continue };
            let stuck = w.stuck();
            for &(pc, missing, mask) in &stuck {
                let i = &code[pc as usize];
                let thread = launch.thread(w.id * 32 + mask.trailing_zeros());
                let place = (self.blocks[w.block as usize].id, thread);
                let barrier = matches!(i.op, crate::ir::Op::Bar { .. });
                let kind = if barrier { FindingKind::Barrier } else { FindingKind::Shuffle };
                launch.report(kind, i.line, place, None, || {
                    format!("waits for lanes {missing:#010x}, which never come here")
                });
            }
            if !stuck.is_empty() {
                w.give_up();
                self.blocked[k] = false;
                return true;
            }
        }
        for w in self.warps.iter().flatten() {
            for g in &w.groups {
                if g.wait != Wait::No {
                    let i = &code[g.pc as usize - 1];
                    let place = (
                        self.blocks[w.block as usize].id,
                        launch.thread(w.id * 32 + g.mask.trailing_zeros()),
                    );
                    launch.report(FindingKind::Barrier, i.line, place, None, || {
                        "a barrier that not all threads reach".into()
                    });
                    launch.report(FindingKind::Deadlock, i.line, place, None, || {
                        "all threads left wait at barriers that cannot open".into()
                    });
                    return false;
                }
            }
        }
        false
    }
}
