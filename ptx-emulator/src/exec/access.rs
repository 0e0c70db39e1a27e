//! Loads, stores and atomics, with every check; and the arithmetic of addresses.

use super::view::{Plane, each_lane};
use super::warp::{Warp, lanes};
use super::{Cx, Flow, traffic};
use crate::check::FindingKind;
use crate::float;
use crate::ir::*;
use crate::memory::shadow::{ASYNC, Epoch, Judge};
use crate::memory::{SHARED_RANK_SHIFT, classify, generic};
use crate::types::{Scope, Space, Type};
use std::sync::atomic::Ordering::Relaxed;

/// Runs an access or an address instruction for the lanes of `m`.
pub fn run(cx: &mut Cx, w: &mut Warp, constants: &[Plane], i: &Instruction, m: u32) -> Flow {
    match &i.op {
        Op::Load(a) => load(cx, w, constants, i, m, a),
        Op::Store(a) => store(cx, w, constants, i, m, a),
        Op::Atom { op, access, returns } => atomic(cx, w, constants, i, m, *op, access, *returns),
        Op::Nop => {}
        Op::LocalAddress => {
            let base = u64::from(w.groups[0].base[2]);
            w.view(constants).wide1(i, m, |offset| base + offset);
        }
        Op::CvtaFrom { space, w: width } | Op::CvtaTo { space, w: width } => {
            let from = matches!(i.op, Op::CvtaFrom { .. });
            let f = |a: u64| match (from, space) {
                (true, s) => generic(*s, a),
                (false, Space::Shared | Space::Local | Space::Param) => classify(a).1,
                _ => a,
            };
            let mut v = w.view(constants);
            if *width == Width::W64 {
                v.wide1(i, m, f);
            } else {
                v.map1(i, m, |a| f(u64::from(a)) as u32);
            }
        }
        Op::IsSpace(space) => {
            let mut v = w.view(constants);
            let a = v.read64(i.s[0]);
            let mut bits = 0;
            for l in 0..32 {
                let found = classify(a[l]).0;
                bits |= u32::from(found == *space) << l;
            }
            v.write_pred(i.p[0], m, bits);
        }
        Op::MapA { w: width, .. } => {
            let mut v = w.view(constants);
            let rank = v.read32(i.s[1]);
            let map = |a: u64, rank: u32| {
                a & !(0xFFu64 << SHARED_RANK_SHIFT) | u64::from(rank + 1) << SHARED_RANK_SHIFT
            };
            if *width == Width::W64 {
                let a = v.read64(i.s[0]);
                v.write64(i.d[0], m, &std::array::from_fn(|l| map(a[l], rank[l])));
            } else {
                let a = v.read32(i.s[0]);
                v.write32(i.d[0], m, &std::array::from_fn(|l| map(u64::from(a[l]), rank[l]) as u32));
            }
        }
        Op::GetCtaRank { w: width, .. } => {
            let own = w.block;
            let mut v = w.view(constants);
            let a = if *width == Width::W64 { v.read64(i.s[0]) } else { v.read32(i.s[0]).map(u64::from) };
            let rank = |a: u64| match a as u32 >> SHARED_RANK_SHIFT {
                0 => own,
                r => r - 1,
            };
            v.write32(i.d[0], m, &a.map(rank));
        }
        Op::ReadClock(clock) => {
            let (cycles, ns) = (cx.worker.issued, cx.launch.nanoseconds());
            let value = match clock {
                Clock::Low | Clock::Full => cycles,
                Clock::High => cycles >> 32,
                Clock::GlobalTimer | Clock::GlobalTimerLow => ns,
                Clock::GlobalTimerHigh => ns >> 32,
            };
            let mut v = w.view(constants);
            if matches!(clock, Clock::Full | Clock::GlobalTimer) {
                v.write64(i.d[0], m, &[value; 32]);
            } else {
                v.write32(i.d[0], m, &[value as u32; 32]);
            }
        }
        other => unreachable!("{other:?} has its own branch"),
    }
    Flow::Next
}

/// The addresses of all lanes.
pub fn addresses(w: &mut Warp, constants: &[Plane], s: Slot, wide: bool, offset: i64) -> [u64; 32] {
    let v = w.view(constants);
    let mut at = [0; 32];
    if wide {
        at = v.read64(s);
    } else {
        let narrow = v.read32(s);
        for l in 0..32 {
            at[l] = u64::from(narrow[l]);
        }
    }
    for a in &mut at {
        *a = a.wrapping_add_signed(offset);
    }
    at
}

/// A place in memory that was found to exist.
pub enum Place {
    /// Index of an allocation that the worker has met, and the offset in it.
    Global(usize, usize),
    /// Rank of the block and offset.
    Shared(usize, usize),
    /// Offset.
    Local(usize),
    /// Offset in the arguments.
    Param(usize),
}

impl Cx<'_> {
    /// Finds the place of an access; what is wrong with it is reported, and nothing is to be done.
    #[inline(always)]
    pub fn place(
        &mut self,
        w: &mut Warp,
        i: &Instruction,
        lane: usize,
        space: Space,
        address: u64,
        bytes: u32,
    ) -> Option<Place> {
        let (space, at) = match space {
            Space::Generic => classify(address),
            other => (other, address),
        };
        if !at.is_multiple_of(u64::from(bytes)) {
            self.report(w, i, lane as u32, FindingKind::Misaligned, Some(address), || {
                format!("{bytes} bytes at an address that is not a multiple of {bytes}")
            });
            return None;
        }
        match space {
            Space::Shared => {
                let rank = match (at as u32) >> SHARED_RANK_SHIFT {
                    0 => w.block,
                    r => r - 1,
                } as usize;
                let offset = (at & ((1 << SHARED_RANK_SHIFT) - 1)) as usize;
                let size = self.cluster.blocks.get(rank).map_or(0, |b| b.shared.data.len());
                if at >> 32 != 0 || offset + bytes as usize > size {
                    self.report(w, i, lane as u32, FindingKind::Bounds, Some(at), || {
                        format!("{bytes} bytes at {offset:#x} of {size} bytes of shared memory (block rank {rank})")
                    });
                    return None;
                }
                Some(Place::Shared(rank, offset))
            }
            Space::Local => {
                if w.local(lane as u32, at, u64::from(bytes)).is_none() {
                    self.report(w, i, lane as u32, FindingKind::Bounds, Some(at), || {
                        format!("{bytes} bytes at {at:#x}, outside the thread's local memory")
                    });
                    return None;
                }
                Some(Place::Local(at as usize))
            }
            Space::Param => {
                let size = self.launch.params.len();
                if at.checked_add(u64::from(bytes)).is_none_or(|end| end > size as u64) {
                    self.report(w, i, lane as u32, FindingKind::Bounds, Some(at), || {
                        format!("{bytes} bytes at {at} of {size} bytes of kernel parameters")
                    });
                    return None;
                }
                Some(Place::Param(at as usize))
            }
            _ => {
                let Some(k) = self.worker.meet(self.launch, at) else {
                    let freed = self.launch.memory.was_freed(at);
                    let kind = if freed { FindingKind::Freed } else { FindingKind::Bounds };
                    self.report(w, i, lane as u32, kind, Some(at), || {
                        format!("{bytes} bytes at {}", self.launch.memory.describe(at))
                    });
                    return None;
                };
                let a = &self.worker.met[k].allocation;
                let offset = at - a.base;
                if offset + u64::from(bytes) > a.bytes || a.is_freed() {
                    let kind = if a.is_freed() { FindingKind::Freed } else { FindingKind::Bounds };
                    self.report(w, i, lane as u32, kind, Some(at), || {
                        format!("{bytes} bytes at {}", self.launch.memory.describe(at))
                    });
                    return None;
                }
                Some(Place::Global(k, offset as usize))
            }
        }
    }

    /// Who judges a lane's accesses, and the lane's epoch for weak ones.
    #[inline(always)]
    pub fn judge<'w>(&self, w: &'w Warp, lane: usize) -> (Judge<'w>, Epoch) {
        let checks = &self.launch.options.checks;
        let me = Epoch::new(w.clock.block, w.id, lane as u32, w.clock.now(), false);
        (Judge { clock: &w.clock, lanes: checks.lane_race, warps: checks.race }, me)
    }

    /// Reads 16 bytes of the block's own shared memory for a lane, unless anything might be wrong with that.
    #[inline(always)]
    pub fn shared_row(&mut self, w: &Warp, lane: usize, address: u64) -> Option<u128> {
        let (judge, me) = self.judge(w, lane);
        let initialised = self.launch.options.checks.uninitialised;
        self.cluster.blocks[w.block as usize].shared.read_row(&judge, me, address, initialised)
    }

    /// Reads 16 bytes of device memory for a lane, unless anything might be wrong with that.
    #[inline(always)]
    pub fn global_row(&mut self, w: &Warp, lane: usize, address: u64) -> Option<u128> {
        let k = self.worker.meet(self.launch, address)?;
        let (judge, me) = self.judge(w, lane);
        let met = &self.worker.met[k];
        let a = &met.allocation;
        let offset = (address - a.base) as usize;
        if !address.is_multiple_of(16) || offset as u64 + 16 > a.bytes || a.is_freed() {
            return None;
        }
        if self.launch.options.checks.uninitialised
            && !(a.is_written(offset, 8) && a.is_written(offset + 8, 8))
        {
            return None;
        }
        if let Some(shadow) = &met.shadow
            && !shadow.read_row(&judge, me, offset)
        {
            return None;
        }
        Some(u128::from(a.data.load(offset, 8)) | u128::from(a.data.load(offset + 8, 8)) << 64)
    }

    /// Reads up to 16 bytes for a lane, with all checks. Bytes that may not be read are zero.
    #[inline(always)]
    pub fn load(
        &mut self,
        w: &mut Warp,
        i: &Instruction,
        lane: usize,
        space: Space,
        address: u64,
        bytes: u32,
        strong: bool,
    ) -> u128 {
        let Some(place) = self.place(w, i, lane, space, address, bytes) else { return 0 };
        self.touch(w, i, lane, &place, address, bytes, false, strong, None);
        match place {
            Place::Global(k, offset) => {
                let a = &self.worker.met[k].allocation;
                let unwritten = self.launch.options.checks.uninitialised
                    && match bytes {
                        16 => !a.is_written(offset, 8) || !a.is_written(offset + 8, 8),
                        n => !a.is_written(offset, n as usize),
                    };
                let value = match bytes {
                    16 => u128::from(a.data.load(offset, 8)) | u128::from(a.data.load(offset + 8, 8)) << 64,
                    n => u128::from(a.data.load(offset, n as usize)),
                };
                if unwritten {
                    self.report(w, i, lane as u32, FindingKind::Uninitialised, Some(address), || {
                        format!(
                            "reads {bytes} bytes that nobody wrote: {}",
                            self.launch.memory.describe(address)
                        )
                    });
                }
                value
            }
            Place::Shared(rank, offset) => {
                let s = &self.cluster.blocks[rank].shared;
                let range = offset..offset + bytes as usize;
                let mut raw = [0; 16];
                raw[..bytes as usize].copy_from_slice(&s.data[range.clone()]);
                if self.launch.options.checks.uninitialised && s.written[range].contains(&0) {
                    self.report(w, i, lane as u32, FindingKind::Uninitialised, Some(offset as u64), || {
                        format!("reads {bytes} bytes of shared memory that nobody wrote")
                    });
                }
                u128::from_le_bytes(raw)
            }
            Place::Local(offset) => {
                let mut raw = [0; 16];
                if let Some(from) = w.local(lane as u32, offset as u64, u64::from(bytes)) {
                    raw[..bytes as usize].copy_from_slice(from);
                }
                // With a local address the registers carry it on; see `undefined`.
                if space == Space::Generic && w.local_unwritten(lane as u32, offset as u64, u64::from(bytes))
                {
                    self.report(w, i, lane as u32, FindingKind::Uninitialised, Some(address), || {
                        format!("reads {bytes} bytes of local memory that nobody wrote")
                    });
                }
                u128::from_le_bytes(raw)
            }
            Place::Param(offset) => {
                let mut raw = [0; 16];
                raw[..bytes as usize].copy_from_slice(&self.launch.params[offset..offset + bytes as usize]);
                u128::from_le_bytes(raw)
            }
        }
    }

    /// Writes up to 16 bytes for a lane, with all checks. `others` are the lanes' addresses and values of the same
    /// instruction, by which two lanes that write one value to one place are told from a race.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    pub fn store(
        &mut self,
        w: &mut Warp,
        i: &Instruction,
        lane: usize,
        space: Space,
        address: u64,
        bytes: u32,
        strong: bool,
        value: u128,
        others: Option<(&[u64; 32], &[u128; 32], u32)>,
    ) {
        let Some(place) = self.place(w, i, lane, space, address, bytes) else { return };
        self.touch(w, i, lane, &place, address, bytes, true, strong, others);
        self.worker.changes += 1;
        match place {
            Place::Global(k, offset) => {
                let a = &self.worker.met[k].allocation;
                if a.read_only {
                    self.report(w, i, lane as u32, FindingKind::ReadOnly, Some(address), || {
                        "writes to constant memory".into()
                    });
                    return;
                }
                let n = bytes.min(8) as usize;
                a.data.store(offset, n, value as u64);
                a.mark(offset, n);
                if bytes == 16 {
                    a.data.store(offset + 8, 8, (value >> 64) as u64);
                    a.mark(offset + 8, 8);
                }
            }
            Place::Shared(rank, offset) => {
                let s = &mut self.cluster.blocks[rank].shared;
                let range = offset..offset + bytes as usize;
                s.data[range.clone()].copy_from_slice(&value.to_le_bytes()[..bytes as usize]);
                s.written[range].fill(1);
            }
            Place::Local(offset) => {
                if let Some(to) = w.local(lane as u32, offset as u64, u64::from(bytes)) {
                    to.copy_from_slice(&value.to_le_bytes()[..bytes as usize]);
                    w.mark_local(lane as u32, offset as u64, u64::from(bytes), true);
                }
            }
            Place::Param(_) => self.report(w, i, lane as u32, FindingKind::ReadOnly, Some(address), || {
                "writes to the kernel's parameters".into()
            }),
        }
    }

    /// Enters an access in the shadow and reports what it races with, and copies in flight over it.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    pub fn touch(
        &mut self,
        w: &mut Warp,
        i: &Instruction,
        lane: usize,
        place: &Place,
        address: u64,
        bytes: u32,
        write: bool,
        strong: bool,
        others: Option<(&[u64; 32], &[u128; 32], u32)>,
    ) {
        let checks = &self.launch.options.checks;
        if let Place::Shared(rank, offset) = *place
            && checks.in_flight
            && let Some(by) = self.cluster.blocks[rank].shared.flying(offset, bytes)
        {
            self.report(w, i, lane as u32, FindingKind::InFlight, Some(offset as u64), || {
                format!("touches bytes that thread {:?} is still copying to", self.launch.thread(by))
            });
        }
        if !checks.race && !checks.lane_race {
            return;
        }
        let me = Epoch::new(w.clock.block, w.id, lane as u32, w.clock.now(), strong);
        let judge = Judge { clock: &w.clock, lanes: checks.lane_race, warps: checks.race };
        let found = match *place {
            Place::Global(k, offset) => match &self.worker.met[k].shadow {
                Some(shadow) => shadow.enter(&judge, me, offset as u64, bytes, write),
                None => None,
            },
            Place::Shared(rank, offset) => {
                self.cluster.blocks[rank].shared.enter(&judge, me, offset as u64, bytes, write)
            }
            _ => None,
        };
        if let Some(earlier) = found {
            self.race(w, i, lane, address, bytes, write, earlier, me, others);
        }
    }

    /// Reports a race with an earlier access, unless lanes of one instruction write one value.
    #[cold]
    #[allow(clippy::too_many_arguments)]
    pub fn race(
        &self,
        w: &Warp,
        i: &Instruction,
        lane: usize,
        address: u64,
        bytes: u32,
        write: bool,
        earlier: Epoch,
        me: Epoch,
        others: Option<(&[u64; 32], &[u128; 32], u32)>,
    ) {
        let what = if write { "writes" } else { "reads" };
        if earlier.same_warp(me) {
            if let Some((addresses, values, mask)) = others
                && mask >> earlier.lane() & 1 != 0
                && addresses[earlier.lane() as usize] == address
            {
                let other = earlier.lane() as usize;
                if values[other] == values[lane] {
                    return;
                }
                self.report(w, i, lane as u32, FindingKind::Race, Some(address), || {
                    format!("lanes {other} and {lane} write different values here in one instruction")
                });
                return;
            }
            self.report(w, i, lane as u32, FindingKind::Race, Some(address), || {
                format!(
                    "{what} {bytes} bytes that lane {} of the same warp touched, with no bar.warp.sync between",
                    earlier.lane()
                )
            });
            return;
        }
        if earlier.block() & ASYNC != 0 {
            self.report(w, i, lane as u32, FindingKind::Race, Some(address), || {
                format!("{what} {bytes} bytes of an asynchronous copy or product that nobody waited for")
            });
            return;
        }
        let thread = self.launch.thread(earlier.warp() * 32 + earlier.lane());
        self.report(w, i, lane as u32, FindingKind::Race, Some(address), || {
            let block = if earlier.block() == me.block() {
                "the same block".into()
            } else {
                let [x, y, _] = self.launch.grid;
                let b = earlier.block();
                format!("block {:?}", [b % x, b / x % y, b / x / y])
            };
            format!("{what} {bytes} bytes that thread {thread:?} of {block} touched, with nothing to order the two")
        });
    }

    /// A strong read: what was published here may be taken over.
    pub fn acquire(&mut self, w: &mut Warp, place: &Place, address: u64, now: Option<Scope>) {
        let block = w.clock.block;
        let found: Vec<_> = match *place {
            Place::Shared(rank, offset) => {
                match self.cluster.blocks[rank].shared.published.get(&(offset as u32)) {
                    Some(p) => p.seen_by(block).collect(),
                    None => return,
                }
            }
            Place::Global(..) if self.launch.any_published.load(Relaxed) => {
                match self.launch.shadow.published().get(&address) {
                    Some(p) => p.seen_by(block).collect(),
                    None => return,
                }
            }
            _ => return,
        };
        for known in found {
            if now.is_some() {
                w.clock.join(&known);
            } else if !w.clock.seen.iter().any(|k| std::sync::Arc::ptr_eq(k, &known)) {
                // A spinning read sees many: only the latest of each place matters.
                if w.clock.seen.len() >= 64 {
                    w.clock.seen.remove(0);
                }
                w.clock.seen.push(known);
            }
        }
    }

    /// A strong write: what a fence made ready, or all with `.release`, is published here.
    pub fn publish(
        &mut self,
        w: &mut Warp,
        place: &Place,
        address: u64,
        release: Option<Scope>,
        replace: bool,
    ) {
        let nothing = release.is_none() && w.clock.ready.iter().all(Option::is_none);
        match *place {
            Place::Shared(rank, offset) => {
                let all = &mut self.cluster.blocks[rank].shared.published;
                if nothing && (!replace || !all.contains_key(&(offset as u32))) {
                    return;
                }
                all.entry(offset as u32).or_default().publish(&w.clock, release, replace);
            }
            Place::Global(..) => {
                if nothing && (!replace || !self.launch.any_published.load(Relaxed)) {
                    return;
                }
                self.launch.any_published.store(true, Relaxed);
                let mut all = self.launch.shadow.published();
                all.entry(address).or_default().publish(&w.clock, release, replace);
            }
            _ => return,
        }
        if release.is_some() {
            w.clock.tick();
        }
    }

    /// Counts wavefronts or sectors of one warp instruction.
    pub fn count(&mut self, w: &Warp, pc: u32, space: Space, addresses: &[u64; 32], bytes: u32, m: u32) {
        let first = match m {
            0 => return,
            m => m.trailing_zeros() as usize,
        };
        let space = if space == Space::Generic { classify(addresses[first]).0 } else { space };
        let _ = w;
        match space {
            Space::Shared => {
                let (wavefronts, ideal) = traffic::wavefronts(addresses, bytes, m);
                let c = &mut self.worker.counters[pc as usize];
                c.wavefronts += u64::from(wavefronts);
                c.ideal_wavefronts += u64::from(ideal);
            }
            Space::Global | Space::Const => {
                let (sectors, ideal) = traffic::sectors(addresses, bytes, m);
                let c = &mut self.worker.counters[pc as usize];
                c.sectors += u64::from(sectors);
                c.ideal_sectors += u64::from(ideal);
            }
            _ => {}
        }
    }
}

fn strength(order: MemoryOrder) -> (bool, Option<Scope>, Option<Scope>) {
    match order {
        MemoryOrder::Weak => (false, None, None),
        MemoryOrder::Relaxed(_) => (true, None, None),
        MemoryOrder::Acquire(s) => (true, Some(s), None),
        MemoryOrder::Release(s) => (true, None, Some(s)),
        MemoryOrder::AcqRel(s) => (true, Some(s), Some(s)),
    }
}

fn load(cx: &mut Cx, w: &mut Warp, constants: &[Plane], i: &Instruction, m: u32, a: &Access) {
    let at = addresses(w, constants, i.s[0], a.wide_address, a.offset);
    let bytes = a.ty.bytes() * a.count;
    let (strong, acquire, _) = strength(a.order);
    let mut values = [0u128; 32];
    let row = bytes == 16 && !strong;
    for l in lanes(m) {
        let whole = match a.space {
            Space::Global if row => cx.global_row(w, l, at[l]),
            Space::Shared if row => cx.shared_row(w, l, at[l]),
            // All lanes have the same arguments.
            Space::Param if at == [at[l]; 32] => {
                values = [cx.load(w, i, l, a.space, at[l], bytes, strong); 32];
                break;
            }
            _ => None,
        };
        values[l] = match whole {
            Some(value) => value,
            None => cx.load(w, i, l, a.space, at[l], bytes, strong),
        };
        if strong && let Some(place) = cx.place(w, i, l, a.space, at[l], bytes) {
            cx.acquire(w, &place, at[l], acquire);
        }
    }
    let pc = w.groups[0].pc - 1;
    cx.count(w, pc, a.space, &at, bytes, m);
    let each = a.ty.bytes() * 8;
    let mut v = w.view(constants);
    if each == 32 && a.register_bytes == 4 {
        let words: &[[u32; 4]; 32] = bytemuck::cast_ref(&values);
        for (k, &d) in i.list.iter().enumerate() {
            let mut out = [0; 32];
            for l in 0..32 {
                out[l] = words[l][k];
            }
            v.write32(d, m, &out);
        }
        return;
    }
    for (k, &d) in i.list.iter().enumerate() {
        let part = |x: u128| {
            let x = (x >> (each * k as u32)) as u64 & (u64::MAX >> (64 - each.min(64)));
            // Loads into wider registers extend by the type's sign.
            if a.ty.signed() && a.register_bytes > a.ty.bytes() {
                ((x << (64 - each)) as i64 >> (64 - each)) as u64
            } else {
                x
            }
        };
        if each == 128 {
            v.write64(d, m, &each_lane(&values, |x| x as u64));
            v.write64(Slot(d.0 + 2), m, &each_lane(&values, |x| (x >> 64) as u64));
        } else if a.register_bytes == 8 {
            v.write64(d, m, &each_lane(&values, part));
        } else {
            let keep = if a.register_bytes >= 4 { u32::MAX } else { 0xFFFF };
            v.write32(d, m, &each_lane(&values, |x| part(x) as u32 & keep));
        }
    }
}

fn store(cx: &mut Cx, w: &mut Warp, constants: &[Plane], i: &Instruction, m: u32, a: &Access) {
    let at = addresses(w, constants, i.s[0], a.wide_address, a.offset);
    let bytes = a.ty.bytes() * a.count;
    let each = a.ty.bytes() * 8;
    let (strong, _, release) = strength(a.order);
    let mut values = [0u128; 32];
    let v = w.view(constants);
    for (k, &s) in i.list.iter().enumerate() {
        if each == 32 && a.register_bytes == 4 {
            let words: &mut [[u32; 4]; 32] = bytemuck::cast_mut(&mut values);
            let part = v.read32(s);
            for l in 0..32 {
                words[l][k] = part[l];
            }
            continue;
        }
        let wide = a.register_bytes >= 8;
        let part = if wide { v.read64(s) } else { each_lane(&v.read32(s), u64::from) };
        let high = if each == 128 { v.read64(Slot(s.0 + 2)) } else { [0; 32] };
        for l in 0..32 {
            let x = u128::from(part[l] & (u64::MAX >> (64 - each.min(64)))) | u128::from(high[l]) << 64;
            values[l] |= x << (each * k as u32 % 128);
        }
    }
    for l in lanes(m) {
        if strong && let Some(place) = cx.place(w, i, l, a.space, at[l], bytes) {
            // The publication must be there before the value is.
            cx.publish(w, &place, at[l], release, true);
        }
        cx.store(w, i, l, a.space, at[l], bytes, strong, values[l], Some((&at, &values, m)));
    }
    let pc = w.groups[0].pc - 1;
    cx.count(w, pc, a.space, &at, bytes, m);
}

/// The new value of an atomic operation.
pub fn combine(op: AtomOp, ty: Type, old: u64, b: u64, c: u64) -> u64 {
    let f32s =
        |f: fn(f32, f32) -> f32| u64::from(f(f32::from_bits(old as u32), f32::from_bits(b as u32)).to_bits());
    let half = |k: u32, bf: bool| {
        let part = |x: u64| (x >> (16 * k)) as u32 & 0xFFFF;
        let (x, y) = (part(old), part(b));
        let sum = if bf {
            float::to_bf16(f64::from(float::bf16(x)) + f64::from(float::bf16(y)), Round::Near)
        } else {
            float::to_f16(f64::from(float::f16(x)) + f64::from(float::f16(y)), Round::Near)
        };
        u64::from(sum) << (16 * k)
    };
    match (op, ty) {
        (AtomOp::Add, Type::F32) => f32s(|x, y| x + y),
        (AtomOp::Add, Type::F64) => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
        (AtomOp::Add, Type::F16) => half(0, false),
        (AtomOp::Add, Type::Bf16) => half(0, true),
        (AtomOp::Add, Type::F16x2) => half(0, false) | half(1, false),
        (AtomOp::Add, Type::Bf16x2) => half(0, true) | half(1, true),
        (AtomOp::Add, _) => old.wrapping_add(b),
        (AtomOp::Min | AtomOp::Max, Type::F16 | Type::Bf16) => {
            let value = |x: u64| {
                let x = x as u32 & 0xFFFF;
                if ty == Type::F16 { float::f16(x) } else { float::bf16(x) }
            };
            let (x, y) = (value(old), value(b));
            // A number wins over NaN, and -0 is below +0.
            let first = match op {
                _ if x.is_nan() => false,
                _ if y.is_nan() => true,
                AtomOp::Min => x.total_cmp(&y).is_le(),
                _ => x.total_cmp(&y).is_ge(),
            };
            if first { old } else { b }
        }
        (AtomOp::Min, Type::S32) => (old as i32).min(b as i32) as u32 as u64,
        (AtomOp::Max, Type::S32) => (old as i32).max(b as i32) as u32 as u64,
        (AtomOp::Min, Type::S64) => (old as i64).min(b as i64) as u64,
        (AtomOp::Max, Type::S64) => (old as i64).max(b as i64) as u64,
        (AtomOp::Min, _) => old.min(b),
        (AtomOp::Max, _) => old.max(b),
        (AtomOp::And, _) => old & b,
        (AtomOp::Or, _) => old | b,
        (AtomOp::Xor, _) => old ^ b,
        (AtomOp::Exch, _) => b,
        (AtomOp::Cas, _) => {
            if old == b {
                c
            } else {
                old
            }
        }
        (AtomOp::Inc, _) => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        (AtomOp::Dec, _) => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
    }
}

#[allow(clippy::too_many_arguments)]
fn atomic(
    cx: &mut Cx,
    w: &mut Warp,
    constants: &[Plane],
    i: &Instruction,
    m: u32,
    op: AtomOp,
    a: &Access,
    returns: bool,
) {
    let at = addresses(w, constants, i.s[0], a.wide_address, a.offset);
    let bytes = a.ty.bytes();
    let v = w.view(constants);
    let read = |s: Slot| match (s.is_none(), bytes) {
        (true, _) => [0; 32],
        (_, 8) => v.read64(s),
        (_, 2) => v.read32(s).map(|x| u64::from(x & 0xFFFF)),
        _ => each_lane(&v.read32(s), u64::from),
    };
    let (b, c) = (read(i.s[1]), read(i.s[2]));
    let (_, acquire, release) = strength(a.order);
    let keep = u64::MAX >> (64 - 8 * bytes);
    let mut old = [0u64; 32];
    for l in lanes(m) {
        let Some(place) = cx.place(w, i, l, a.space, at[l], bytes) else { continue };
        cx.touch(w, i, l, &place, at[l], bytes, true, true, None);
        cx.publish(w, &place, at[l], release, false);
        let f = |x: u64| combine(op, a.ty, x, b[l], c[l]) & keep;
        let unwritten = match place {
            Place::Global(k, offset) => {
                let target = &cx.worker.met[k].allocation;
                if target.read_only {
                    cx.report(w, i, l as u32, FindingKind::ReadOnly, Some(at[l]), || {
                        "writes to constant memory".into()
                    });
                    continue;
                }
                let unwritten = op != AtomOp::Exch && !target.is_written(offset, bytes as usize);
                old[l] = target.data.update(offset, bytes as usize, f);
                target.mark(offset, bytes as usize);
                unwritten
            }
            Place::Shared(rank, offset) => {
                let s = &mut cx.cluster.blocks[rank].shared;
                let range = offset..offset + bytes as usize;
                let mut raw = [0; 8];
                raw[..bytes as usize].copy_from_slice(&s.data[range.clone()]);
                old[l] = u64::from_le_bytes(raw);
                s.data[range.clone()].copy_from_slice(&f(old[l]).to_le_bytes()[..bytes as usize]);
                let unwritten = op != AtomOp::Exch && s.written[range.clone()].contains(&0);
                s.written[range].fill(1);
                unwritten
            }
            _ => {
                cx.report(w, i, l as u32, FindingKind::Trap, Some(at[l]), || {
                    "an atomic on memory that is neither global nor shared".into()
                });
                continue;
            }
        };
        if unwritten && cx.launch.options.checks.uninitialised {
            cx.report(w, i, l as u32, FindingKind::Uninitialised, Some(at[l]), || {
                "an atomic on bytes that nobody wrote".into()
            });
        }
        cx.worker.changes += u64::from(f(old[l]) != old[l]);
        cx.acquire(w, &place, at[l], acquire);
    }
    let pc = w.groups[0].pc - 1;
    cx.count(w, pc, a.space, &at, bytes, m);
    if returns {
        let mut v = w.view(constants);
        if bytes == 8 {
            v.write64(i.d[0], m, &old);
        } else {
            v.write32(i.d[0], m, &each_lane(&old, |x| x as u32));
        }
    }
}
