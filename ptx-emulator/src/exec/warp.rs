//! A warp: its registers, the groups its lanes have split into, and the loop that runs them.
//!
//! Lanes that stand at one place with one call stack form a group. The group that is deepest in calls, then lowest
//! in the code, runs first, so that groups meet again where their paths do. When one spins on another, they take turns.

use super::view::Plane;
use super::view::View;
use super::{Cx, Flow, access, convert, copy, integer, real, select, shuffle, sync, tensor};
use crate::check::FindingKind;
use crate::decode::{FUNCTION_ADDRESS, special::Special};
use crate::ir::{Instruction, Op, Pred, Slot};
use crate::memory::clock::WarpClock;

/// Calls within calls.
const MAX_DEPTH: usize = 1024;
/// Local memory of a thread.
const MAX_LOCAL: u64 = 512 * 1024;
/// Register planes of a warp.
const MAX_PLANES: usize = 1 << 18;
/// Instructions that one of several groups may run before another gets its turn.
const PATIENCE: u32 = 4096;

/// Why a group does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// It does.
    No,
    /// At a barrier of the block.
    Barrier(u8),
    /// At `bar.warp.sync`, for these lanes.
    Warp(u32),
    /// Before a warp-wide instruction, for these lanes.
    Lanes(u32),
    /// At the barrier of the cluster.
    Cluster,
}

/// A call to return from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The function that called.
    pub function: u32,
    /// The call instruction.
    pub pc: u32,
}

/// Lanes at one place.
#[derive(Clone, Debug)]
pub struct Group {
    /// Next instruction.
    pub pc: u32,
    /// Lanes.
    pub mask: u32,
    /// The function they are in.
    pub function: u32,
    /// Calls to return from.
    pub stack: Vec<Frame>,
    /// First register plane, predicate and local byte of the frame.
    pub base: [u32; 3],
    /// Why it does not run.
    pub wait: Wait,
    /// Lanes that it waited for.
    waited: u32,
    last_run: u64,
}

/// One warp.
#[derive(Debug)]
pub struct Warp {
    /// Index of its block in the cluster.
    pub block: u32,
    /// Index in the block.
    pub id: u32,
    /// Lanes that have not exited.
    pub live: u32,
    /// Lanes that the block gave it.
    started: u32,
    /// Lanes by place; the running one is first.
    pub groups: Vec<Group>,
    /// Happens-before.
    pub clock: WarpClock,
    /// Asynchronous copies not yet done.
    pub copies: copy::Pending,
    /// Products of its warpgroup that are not done.
    pub products: super::wgmma::Pending,
    /// Registers of all frames.
    pub registers: Vec<Plane>,
    /// Predicates of all frames.
    pub preds: Vec<u32>,
    /// Special registers.
    pub specials: Vec<Plane>,
    /// Which of them nobody wrote.
    pub undefined: super::undefined::Undefined,
    local: Vec<u8>,
    local_stride: u64,
    /// Whether a group that has not run for long is to run next.
    turn: bool,
    ran: u64,
    /// Results of `bar.red`, by lane mask: applied when the barrier opens.
    pub reduction: Option<(Slot, Pred, super::sync::Reduction)>,
}

/// Where a slice of a warp ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slice {
    /// More to do.
    More,
    /// All groups wait for others.
    Blocked,
    /// All lanes have exited.
    Done,
}

/// Which lanes an instruction needs together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Convergence {
    /// None.
    Free,
    /// All live lanes.
    Whole,
    /// Those in the mask operand.
    Mask(Slot),
}

impl Op {
    /// Which lanes must execute this together.
    pub fn convergence(&self, i: &Instruction) -> Convergence {
        match self {
            Op::Shfl(_) => Convergence::Mask(i.s[3]),
            Op::Vote(_) | Op::Elect => Convergence::Mask(i.s[0]),
            Op::MatchAny(_) | Op::MatchAll(_) | Op::Redux(_) => Convergence::Mask(i.s[1]),
            Op::Bar { aligned: true, .. } | Op::Tensor(_) => Convergence::Whole,
            _ => Convergence::Free,
        }
    }
}

impl Warp {
    /// A warp about to run its first instruction.
    pub fn new(launch: &super::LaunchState, block: u32, id: u32, linear: u32, lanes: u32) -> Warp {
        let f = launch.function();
        let total = launch.threads.iter().product::<u32>();
        let group = Group {
            pc: f.entry,
            mask: lanes,
            function: launch.kernel,
            stack: Vec::new(),
            base: [0; 3],
            wait: Wait::No,
            waited: 0,
            last_run: 0,
        };
        let mut undefined = super::undefined::Undefined::default();
        if launch.options.checks.registers && launch.loaded.module.0.watched {
            undefined.begin([0; 2], f, lanes);
        }
        Warp {
            block,
            id,
            live: lanes,
            started: lanes,
            groups: vec![group],
            clock: WarpClock::new(linear & crate::memory::shadow::MAX_BLOCK, id, total.div_ceil(32)),
            copies: copy::Pending::default(),
            products: super::wgmma::Pending::default(),
            registers: vec![Plane::default(); f.planes as usize],
            preds: vec![0; f.preds as usize],
            specials: vec![Plane::default(); Special::planes() as usize],
            undefined,
            local: vec![0; f.local_bytes as usize * 32],
            local_stride: u64::from(f.local_bytes),
            turn: false,
            ran: 0,
            reduction: None,
        }
    }

    /// Sets a special register of all lanes.
    pub fn set_special(&mut self, which: Special, value: impl Fn(u32) -> u64) {
        let at = which.plane() as usize;
        for l in 0..32 {
            if which.wide() {
                let x = value(l);
                let (pair, lane) = (at + l as usize / 16, l as usize % 16);
                self.specials[pair].0[lane * 2] = x as u32;
                self.specials[pair].0[lane * 2 + 1] = (x >> 32) as u32;
            } else {
                self.specials[at].0[l as usize] = value(l) as u32;
            }
        }
    }

    /// The running group.
    #[inline(always)]
    pub fn group(&mut self) -> &mut Group {
        &mut self.groups[0]
    }

    /// The registers of the running frame.
    #[inline(always)]
    pub fn view<'a>(&'a mut self, constants: &'a [Plane]) -> View<'a> {
        let [planes, preds, _] = self.groups[0].base;
        View {
            registers: &mut self.registers[planes as usize..],
            preds: &mut self.preds[preds as usize..],
            constants,
            specials: &self.specials,
            approx: crate::approx::Approximation::default(),
            accumulation: crate::approx::Accumulation::default(),
            salt: 0,
        }
    }

    /// The lanes where a predicate holds.
    #[inline(always)]
    pub fn pred(&self, p: Pred) -> u32 {
        if p.is_none() {
            return u32::MAX;
        }
        let bits = self.preds[self.groups[0].base[1] as usize + p.index()];
        if p.negated() { !bits } else { bits }
    }

    /// Bytes of local memory of one lane, when in bounds of the thread's stack.
    #[inline]
    pub fn local(&mut self, lane: u32, offset: u64, bytes: u64) -> Option<&mut [u8]> {
        if offset.checked_add(bytes)? > self.local_stride {
            return None;
        }
        let at = (u64::from(lane) * self.local_stride + offset) as usize;
        self.local.get_mut(at..at + bytes as usize)
    }

    fn grow_local(&mut self, needed: u64) {
        if needed <= self.local_stride {
            return;
        }
        let stride = needed.next_multiple_of(256);
        let mut new = vec![0; (stride * 32) as usize];
        let old = self.local_stride as usize;
        if old > 0 {
            for (to, from) in new.chunks_mut(stride as usize).zip(self.local.chunks(old)) {
                to[..old].copy_from_slice(from);
            }
        }
        self.local = new;
        self.local_stride = stride;
        self.grow_marks(old, stride as usize);
    }

    /// Bytes of local memory of all lanes, and of one.
    pub fn local_size(&self) -> (usize, u64) {
        (self.local.len(), self.local_stride)
    }

    /// Brings groups that stand at one place together, lets those go on that have what they wait for, and puts the
    /// one to run first. False when none can.
    fn choose(&mut self, turn: bool, code: &[Instruction]) -> bool {
        self.meet();
        self.settle();
        let runs = |g: &Group| g.wait == Wait::No;
        let best = if turn {
            (0..self.groups.len()).filter(|&k| runs(&self.groups[k])).min_by_key(|&k| self.groups[k].last_run)
        } else {
            (0..self.groups.len()).filter(|&k| runs(&self.groups[k])).min_by_key(|&k| {
                let g = &self.groups[k];
                // Who only has to leave does so first: it is not to be waited for.
                let leaves =
                    matches!(&code[g.pc as usize], i if matches!(i.op, Op::Exit) && i.guard.is_none());
                (!leaves, usize::MAX - g.stack.len(), g.pc)
            })
        };
        let Some(k) = best else { return false };
        self.groups.swap(0, k);
        self.ran += 1;
        self.groups[0].last_run = self.ran;
        true
    }

    /// Joins groups at one place that wait for the same.
    fn meet(&mut self) {
        let mut k = 0;
        while k < self.groups.len() {
            let mut j = k + 1;
            while j < self.groups.len() {
                let (a, b) = (&self.groups[k], &self.groups[j]);
                let alike = a.wait == b.wait || matches!((a.wait, b.wait), (Wait::Lanes(_), Wait::Lanes(_)));
                if a.pc == b.pc && alike && a.base == b.base && a.stack == b.stack {
                    let other = self.groups.swap_remove(j);
                    let g = &mut self.groups[k];
                    g.mask |= other.mask;
                    g.waited |= other.waited;
                    if let (Wait::Lanes(x), Wait::Lanes(y)) = (g.wait, other.wait) {
                        g.wait = Wait::Lanes(x | y);
                    }
                } else {
                    j += 1;
                }
            }
            k += 1;
        }
    }

    /// Lets groups go on whose lanes are all there.
    fn settle(&mut self) {
        let arrived: u32 =
            self.groups.iter().filter(|g| matches!(g.wait, Wait::Warp(_))).map(|g| g.mask).sum();
        let live = self.live;
        let mut synced = false;
        for g in &mut self.groups {
            match g.wait {
                Wait::Warp(need) if need & live & !arrived == 0 => {
                    g.wait = Wait::No;
                    synced = true;
                }
                Wait::Lanes(need) if need & live & !g.mask == 0 => g.wait = Wait::No,
                _ => {}
            }
        }
        if synced {
            self.clock.tick();
            self.meet();
        }
    }

    /// Groups that wait for lanes which can no longer come: the instruction of each, and what it lacks.
    pub fn stuck(&self) -> Vec<(u32, u32, u32)> {
        let lacks = |g: &Group| match g.wait {
            Wait::Warp(need) => Some((g.pc - 1, need & self.live & !g.mask, g.mask)),
            Wait::Lanes(need) => Some((g.pc, need & self.live & !g.mask, g.mask)),
            _ => None,
        };
        self.groups.iter().filter_map(lacks).collect()
    }

    /// Lets the first group that is stuck go on without the lanes it waits for.
    pub fn give_up(&mut self) {
        if let Some(g) = self.groups.iter_mut().find(|g| matches!(g.wait, Wait::Warp(_) | Wait::Lanes(_))) {
            // It is marked as served: the instruction will see that lanes are missing and not wait again.
            g.wait = Wait::No;
            g.last_run = u64::MAX;
        }
    }

    /// Runs up to about `budget` instructions.
    pub fn run(&mut self, cx: &mut Cx, budget: u32) -> Slice {
        let loaded = cx.launch.loaded.clone();
        let (code, constants) = (&loaded.module.0.code, loaded.constants.as_slice());
        let mut left = budget;
        loop {
            if self.live == 0 {
                return Slice::Done;
            }
            if left == 0 {
                return Slice::More;
            }
            let forced = self.groups.iter().any(|g| g.last_run == u64::MAX);
            let turn = std::mem::take(&mut self.turn);
            if !self.choose(turn, code) {
                return Slice::Blocked;
            }
            // Another group may be met further down: stop there.
            let depth = self.groups[0].stack.len();
            let here = self.groups[0].pc;
            let meeting = if self.groups.len() > 1 {
                self.groups[1..].iter().filter(|g| g.stack.len() == depth && g.pc > here).map(|g| g.pc).min()
            } else {
                None
            };
            let meeting = meeting.unwrap_or(u32::MAX);
            let mut quantum = if self.groups.len() > 1 { left.min(PATIENCE) } else { left };
            left -= quantum;
            let mut first = forced;
            loop {
                if quantum == 0 {
                    self.turn = self.groups.len() > 1;
                    break;
                }
                quantum -= 1;
                let pc = self.groups[0].pc;
                let mask = self.groups[0].mask;
                let i = &code[pc as usize];
                let m = mask & self.pred(i.guard);
                match self.step(cx, code, constants, i, pc, mask, m, std::mem::take(&mut first)) {
                    Go::On => {
                        if self.groups[0].pc == meeting {
                            break;
                        }
                    }
                    Go::Changed => break,
                    Go::Yield => {
                        // Others of the warp first, then other warps.
                        self.turn = self.groups.len() > 1;
                        (left, quantum) = (0, 0);
                        break;
                    }
                }
            }
            left += quantum;
            if cx.launch.abort.load(std::sync::atomic::Ordering::Relaxed) {
                return Slice::Done;
            }
        }
    }

    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    fn step(
        &mut self,
        cx: &mut Cx,
        code: &[Instruction],
        constants: &[Plane],
        i: &Instruction,
        pc: u32,
        mask: u32,
        m: u32,
        forced: bool,
    ) -> Go {
        let version = cx.worker.version;
        cx.worker.issued += 1;
        let counter = &mut cx.worker.counters[pc as usize];
        counter.issues += 1;
        // Counting bits takes many instructions where the machine may lack one for it.
        counter.lanes += if m == u32::MAX { 32 } else { u64::from(m.count_ones()) };
        if self.products.watching {
            super::wgmma::watch(cx, self, i, m);
        }
        let watched = i.watched && self.undefined.watching();
        if watched && !i.guard.is_none() {
            super::undefined::guard(cx, self, i, mask);
        }
        let run = match &i.op {
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
            | Op::MadCarry { .. } => integer::RUN[version],
            Op::Float1(..) | Op::Float2(..) | Op::Fma(..) | Op::TestP(..) => real::RUN[version],
            Op::Convert(_) => convert::RUN[version],
            Op::Mov(_)
            | Op::Mov128
            | Op::MovPred
            | Op::Pack { .. }
            | Op::Unpack { .. }
            | Op::SetpInt { .. }
            | Op::SetpFloat { .. }
            | Op::Set { .. }
            | Op::Selp(_)
            | Op::Slct { .. }
            | Op::PredLogic(_)
            | Op::PredNot => select::RUN[version],
            _ => return self.step_other(cx, code, constants, i, pc, mask, m, forced),
        };
        if watched {
            super::undefined::watch(cx, self, constants, i, m);
        }
        let approx = cx.launch.options.approximation;
        let salt = cx.worker.issued;
        let mut view = self.view(constants);
        view.approx = approx;
        view.salt = salt;
        // SAFETY: `version` is what this machine was found to support.
        unsafe { run(&mut view, i, m) };
        self.groups[0].pc = pc + 1;
        Go::On
    }

    #[allow(clippy::too_many_arguments)]
    fn step_other(
        &mut self,
        cx: &mut Cx,
        code: &[Instruction],
        constants: &[Plane],
        i: &Instruction,
        pc: u32,
        mask: u32,
        m: u32,
        forced: bool,
    ) -> Go {
        match &i.op {
            Op::Branch { target, uniform } => {
                if *uniform && m != mask && m != 0 {
                    let lane = m.trailing_zeros();
                    cx.report(self, i, lane, FindingKind::Barrier, None, || {
                        "'bra.uni' that not all lanes take".into()
                    });
                }
                return self.split(&[(*target, m)], mask & !m, pc);
            }
            Op::BranchIndexed(targets) => {
                if i.watched && self.undefined.watching() {
                    super::undefined::watch(cx, self, constants, i, m);
                }
                let index = self.view(constants).read32(i.s[0]);
                let mut ways: Vec<(u32, u32)> = Vec::new();
                for l in lanes(m) {
                    let Some(&to) = targets.get(index[l] as usize) else {
                        cx.report(self, i, l as u32, FindingKind::Trap, None, || {
                            format!("branch index {} of {} targets", index[l], targets.len())
                        });
                        return Go::Changed;
                    };
                    match ways.iter_mut().find(|w| w.0 == to) {
                        Some(w) => w.1 |= 1 << l,
                        None => ways.push((to, 1 << l)),
                    }
                }
                return self.split(&ways, mask & !m, pc);
            }
            Op::Exit => {
                self.groups[0].pc = pc + 1;
                return if m == 0 { Go::On } else { self.exit(cx, i, m) };
            }
            Op::Return => return self.return_from(cx, code, i, pc, m),
            Op::Call(call) => {
                if m == 0 {
                    self.groups[0].pc = pc + 1;
                    return Go::On;
                }
                if i.watched && self.undefined.watching() {
                    super::undefined::watch(cx, self, constants, i, m);
                }
                return self.call(cx, constants, i, call, pc, m);
            }
            _ => {}
        }
        if m == 0 {
            self.groups[0].pc = pc + 1;
            return Go::On;
        }
        let watched = i.watched && self.undefined.watching();
        let need = match i.op.convergence(i) {
            Convergence::Free => 0,
            Convergence::Whole => self.live,
            Convergence::Mask(slot) => {
                let masks = self.view(constants).read32(slot);
                lanes(m).fold(0, |all, l| all | masks[l])
            }
        };
        let missing = need & self.live & !m;
        if missing != 0 && !forced && self.groups.len() > 1 && missing & !mask != 0 {
            // Others may still come here; those of this group that the guard holds back never will.
            self.groups[0].wait = Wait::Lanes(need & !(mask & !m));
            self.groups[0].waited |= missing;
            return Go::Changed;
        }
        // Those that left before are excused, except where the manual wants the whole warp; those that passed by and
        // left are not.
        let left = match i.op {
            Op::Bar { aligned: true, .. } => self.started & !self.live,
            Op::Tensor(_) => !self.live,
            _ => std::mem::take(&mut self.groups[0].waited) & need & !self.live,
        };
        let missing = missing | left & !m;
        if missing != 0 {
            let kind =
                if matches!(i.op, Op::Bar { .. }) { FindingKind::Barrier } else { FindingKind::Shuffle };
            cx.report(self, i, m.trailing_zeros(), kind, None, || {
                format!("lanes {missing:#010x} must execute this together with {m:#010x} and do not")
            });
        }
        if forced {
            self.groups[0].last_run = self.ran;
        }
        if watched {
            super::undefined::watch(cx, self, constants, i, m);
        }
        // What a waiting instruction leaves behind must already stand at the next one.
        self.groups[0].pc = pc + 1;
        let flow = match &i.op {
            Op::Shfl(_)
            | Op::Vote(_)
            | Op::MatchAny(_)
            | Op::MatchAll(_)
            | Op::ActiveMask
            | Op::Redux(_)
            | Op::Elect => shuffle::run(cx, self, constants, i, m),
            Op::Bar { .. }
            | Op::BarWarp
            | Op::Fence { .. }
            | Op::ClusterArrive { .. }
            | Op::ClusterWait { .. } => sync::run(cx, self, constants, i, m),
            Op::Tensor(op) => tensor::run(op, cx, self, constants, i, m),
            Op::Copy(op) => copy::run(op, cx, self, constants, i, m),
            Op::Nanosleep => Flow::Yield,
            Op::Trap => {
                cx.report(self, i, m.trailing_zeros(), FindingKind::Trap, None, || {
                    "the kernel executes 'trap'".into()
                });
                Flow::Wait
            }
            _ => access::run(cx, self, constants, i, m),
        };
        if watched && let Op::Store(a) = &i.op {
            super::undefined::stored(self, constants, i, m, a);
        }
        if cx.launch.abort.load(std::sync::atomic::Ordering::Relaxed) {
            return Go::Changed;
        }
        match flow {
            Flow::Next => Go::On,
            Flow::Yield => Go::Yield,
            Flow::Wait => Go::Changed,
        }
    }

    /// Sends lanes to their targets; `stay` goes on to the next instruction.
    fn split(&mut self, ways: &[(u32, u32)], stay: u32, pc: u32) -> Go {
        let taken: Vec<_> = ways.iter().filter(|w| w.1 != 0).collect();
        match (taken.as_slice(), stay) {
            ([], _) => self.groups[0].pc = pc + 1,
            ([(target, _)], 0) => self.groups[0].pc = *target,
            (taken, stay) => {
                let mut rest = taken;
                let g = &mut self.groups[0];
                if stay != 0 {
                    (g.pc, g.mask) = (pc + 1, stay);
                } else {
                    (g.pc, g.mask) = *taken[0];
                    rest = &taken[1..];
                }
                let model = g.clone();
                for &&(target, mask) in rest {
                    self.groups.push(Group { pc: target, mask, ..model.clone() });
                }
                return Go::Changed;
            }
        }
        Go::On
    }

    fn exit(&mut self, cx: &mut Cx, i: &Instruction, m: u32) -> Go {
        copy::at_exit(cx, self, i, m);
        self.live &= !m;
        self.groups[0].mask &= !m;
        if self.groups[0].mask == 0 {
            self.groups.swap_remove(0);
        }
        Go::Changed
    }

    fn call(
        &mut self,
        cx: &mut Cx,
        constants: &[Plane],
        i: &Instruction,
        call: &crate::ir::Call,
        pc: u32,
        m: u32,
    ) -> Go {
        let functions = &cx.launch.loaded.module.0.functions;
        // Through a pointer, lanes may go to different functions: one after the other.
        let (id, m) = match call.function {
            Some(id) => (u64::from(id), m),
            None => {
                let at = self.view(constants).read64(i.s[0]);
                let first = at[m.trailing_zeros() as usize];
                let same = lanes(m).filter(|&l| at[l] == first).fold(0u32, |all, l| all | 1 << l);
                (first.wrapping_sub(FUNCTION_ADDRESS), same)
            }
        };
        if let Some(supplied) = call
            .function
            .and_then(|id| functions.get(id as usize))
            .filter(|f| f.end == f.entry)
            .and_then(|f| super::driver_call::DriverFunction::named(&f.name))
        {
            let local = self.groups[0].base[2];
            supplied.call(cx, self, i, call, local, m);
            self.groups[0].pc = pc + 1;
            return Go::Changed;
        }
        let lane = m.trailing_zeros();
        let Some(f) =
            usize::try_from(id).ok().and_then(|k| functions.get(k)).filter(|f| !f.kernel && f.end > f.entry)
        else {
            cx.report(self, i, lane, FindingKind::Trap, None, || "call of what is not a function".into());
            return Go::Changed;
        };
        if f.params.len() != call.args.len() || f.returns.len() != call.returns.len() {
            cx.report(self, i, lane, FindingKind::Trap, None, || {
                format!("'{}' is called with {} arguments, has {}", f.name, call.args.len(), f.params.len())
            });
            return Go::Changed;
        }
        let caller = &functions[self.groups[0].function as usize];
        let [planes, preds, local] = self.groups[0].base;
        // Wide registers need an even plane, 128-bit ones a multiple of four.
        let base = [
            planes + caller.planes.next_multiple_of(4),
            preds + caller.preds,
            local + caller.local_bytes.next_multiple_of(16),
        ];
        let planes_end = base[0] as usize + f.planes as usize;
        let local_end = u64::from(base[2]) + u64::from(f.local_bytes);
        if self.groups[0].stack.len() >= MAX_DEPTH || planes_end > MAX_PLANES || local_end > MAX_LOCAL {
            cx.report(self, i, lane, FindingKind::Resource, None, || {
                format!("the call stack overflows at '{}'", f.name)
            });
            return Go::Changed;
        }
        if self.registers.len() < planes_end {
            self.registers.resize(planes_end, Plane::default());
        }
        if self.preds.len() < (base[1] + f.preds) as usize {
            self.preds.resize((base[1] + f.preds) as usize, 0);
        }
        self.grow_local(local_end);
        if self.undefined.watching() {
            self.undefined.begin([base[0], base[1]], f, m);
            for l in lanes(m) {
                self.mark_local(l as u32, u64::from(base[2]), u64::from(f.local_bytes), false);
            }
        }
        for l in lanes(m) {
            for (from, to) in call.args.iter().zip(&f.params) {
                self.copy_local(l, local + from.0, base[2] + to.offset, from.1.min(to.bytes));
            }
        }
        // Lanes that do not call now stay at the call (another function) or pass it (predicated off).
        let function = self.groups[0].function;
        let rest = self.groups[0].mask & !m;
        if rest != 0 {
            let mut other = self.groups[0].clone();
            other.mask = rest;
            // Their guard is evaluated again: those it holds back go on, the others call.
            other.pc = pc;
            self.groups.push(other);
        }
        let g = &mut self.groups[0];
        g.mask = m;
        g.stack.push(Frame { function, pc });
        g.function = id as u32;
        g.base = base;
        g.pc = f.entry;
        Go::Changed
    }

    fn copy_local(&mut self, lane: usize, from: u32, to: u32, bytes: u32) {
        let at = lane as u64 * self.local_stride;
        let (from, to) = ((at + u64::from(from)) as usize, (at + u64::from(to)) as usize);
        self.local.copy_within(from..from + bytes as usize, to);
        self.copy_marks(from, to, bytes as usize);
    }

    fn return_from(&mut self, cx: &mut Cx, code: &[Instruction], i: &Instruction, pc: u32, m: u32) -> Go {
        if m == 0 {
            self.groups[0].pc = pc + 1;
            return Go::On;
        }
        let functions = &cx.launch.loaded.module.0.functions;
        let rest = self.groups[0].mask & !m;
        if rest != 0 {
            let mut other = self.groups[0].clone();
            other.mask = rest;
            other.pc = pc + 1;
            self.groups.push(other);
            self.groups[0].mask = m;
        }
        let Some(frame) = self.groups[0].stack.pop() else {
            cx.report(self, i, m.trailing_zeros(), FindingKind::Trap, None, || {
                "return without a call".into()
            });
            return Go::Changed;
        };
        let (caller, callee) =
            (&functions[frame.function as usize], &functions[self.groups[0].function as usize]);
        let [planes, preds, local] = self.groups[0].base;
        let base = [
            planes - caller.planes.next_multiple_of(4),
            preds - caller.preds,
            local - caller.local_bytes.next_multiple_of(16),
        ];
        if let Op::Call(call) = &code[frame.pc as usize].op {
            for l in lanes(m) {
                for (to, from) in call.returns.iter().zip(&callee.returns) {
                    self.copy_local(l, local + from.offset, base[2] + to.0, to.1.min(from.bytes));
                }
            }
        }
        let g = &mut self.groups[0];
        g.base = base;
        g.function = frame.function;
        g.pc = frame.pc + 1;
        Go::Changed
    }
}

enum Go {
    On,
    Changed,
    Yield,
}

/// The lanes of a mask, in order.
#[inline(always)]
pub fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        (mask != 0).then(|| {
            let l = mask.trailing_zeros() as usize;
            mask &= mask - 1;
            l
        })
    })
}
