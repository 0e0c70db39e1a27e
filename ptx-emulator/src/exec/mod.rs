//! The interpreter: warps of 32 lanes over the decoded code.

pub mod access;
pub mod bulk;
pub mod cluster;
pub mod convert;
pub mod copy;
pub mod driver_call;
pub mod integer;
pub mod mbarrier;
pub mod mma;
mod mma_avx512;
pub mod real;
pub mod select;
pub mod shuffle;
pub mod sync;
pub mod tensor;
pub mod traffic;
pub mod undefined;
pub mod view;
pub mod warp;
pub mod wgmma;

use crate::check::{Finding, FindingKind};
use crate::counters::Counter;
use crate::device::{LoadedModule, Options};
use crate::gpu::Gpu;
use crate::ir::Instruction;
use crate::memory::global::{Allocation, GlobalMemory, find};
use crate::memory::shadow::{AllocationShadow, GlobalShadow};
use cluster::Cluster;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use warp::Warp;

/// What all workers of one launch share.
#[derive(Debug)]
pub struct LaunchState {
    /// The module.
    pub loaded: Arc<LoadedModule>,
    /// Index of the kernel among the module's functions.
    pub kernel: u32,
    /// Argument bytes.
    pub params: Vec<u8>,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: [u32; 3],
    /// Blocks of a cluster.
    pub cluster: [u32; 3],
    /// Offset of the dynamic shared memory.
    pub dynamic_offset: u32,
    /// Bytes of dynamic shared memory.
    pub dynamic_bytes: u32,
    /// Number of the launch.
    pub grid_id: u64,
    /// Options.
    pub options: Options,
    /// The GPU.
    pub gpu: Gpu,
    /// Device memory.
    pub memory: Arc<GlobalMemory>,
    /// Who touched what of it.
    pub shadow: GlobalShadow,
    /// Whether anything was ever published in device memory: a quick no for ordinary loads.
    pub any_published: AtomicBool,
    /// A fatal finding stops all workers.
    pub abort: AtomicBool,
    /// Warp instructions issued since memory last changed.
    pub idle: AtomicU64,
    /// Clusters started.
    pub started: AtomicU32,
    findings: Mutex<Findings>,
    clock_start: std::time::Instant,
}

/// Distinct findings kept.
const MAX_FINDINGS: usize = 256;

#[derive(Debug, Default)]
struct Findings {
    list: Vec<Finding>,
    index: HashMap<(FindingKind, u32), usize>,
}

impl LaunchState {
    /// A launch that has not begun.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        loaded: Arc<LoadedModule>,
        kernel: u32,
        params: Vec<u8>,
        shape: [[u32; 3]; 3],
        dynamic: [u32; 2],
        options: Options,
        gpu: Gpu,
        memory: Arc<GlobalMemory>,
    ) -> LaunchState {
        static GRID: AtomicU64 = AtomicU64::new(1);
        let [grid, threads, cluster] = shape;
        LaunchState {
            loaded,
            kernel,
            params,
            grid,
            threads,
            cluster,
            dynamic_offset: dynamic[0],
            dynamic_bytes: dynamic[1],
            grid_id: GRID.fetch_add(1, Relaxed),
            options,
            gpu,
            memory,
            shadow: GlobalShadow::default(),
            any_published: AtomicBool::new(false),
            abort: AtomicBool::new(false),
            idle: AtomicU64::new(0),
            started: AtomicU32::new(0),
            findings: Mutex::default(),
            clock_start: std::time::Instant::now(),
        }
    }

    /// The kernel's code and frame.
    pub fn function(&self) -> &crate::decode::Function {
        &self.loaded.module.0.functions[self.kernel as usize]
    }

    /// Findings so far, in the order of the text.
    pub fn findings(&self) -> Vec<Finding> {
        let mut list = self.findings.lock().unwrap_or_else(|e| e.into_inner()).list.clone();
        list.sort_by_key(|f| f.line);
        list
    }

    /// Enters a finding; the sentence is made for the first of its kind at its line.
    pub fn report(
        &self,
        kind: FindingKind,
        line: u32,
        place: ([u32; 3], [u32; 3]),
        address: Option<u64>,
        message: impl FnOnce() -> String,
    ) {
        if self.options.checks.wants(kind) {
            let mut findings = self.findings.lock().unwrap_or_else(|e| e.into_inner());
            let next = findings.list.len();
            if let Some(&at) = findings.index.get(&(kind, line)) {
                findings.list[at].count += 1;
            } else if next < MAX_FINDINGS {
                findings.index.insert((kind, line), next);
                findings.list.push(Finding {
                    kind,
                    kernel: self.function().name.clone(),
                    line,
                    block: place.0,
                    thread: place.1,
                    address,
                    message: message(),
                    count: 1,
                    error: kind.fatal(),
                });
            }
            if kind.fatal().is_some() {
                self.abort.store(true, Relaxed);
            }
        }
    }

    /// `%tid` of a thread by its index in the block.
    pub fn thread(&self, index: u32) -> [u32; 3] {
        let [x, y, _] = self.threads;
        [index % x, index / x % y, index / x / y]
    }

    /// Nanoseconds since the launch began.
    pub fn nanoseconds(&self) -> u64 {
        self.clock_start.elapsed().as_nanos() as u64
    }
}

/// An allocation that a worker has met.
#[derive(Debug)]
pub struct Met {
    /// It.
    pub allocation: Arc<Allocation>,
    /// Its shadow, when races are looked for.
    pub shadow: Option<Arc<AllocationShadow>>,
}

/// What one worker thread keeps to itself.
#[derive(Debug)]
pub struct Worker {
    /// By instruction.
    pub counters: Vec<Counter>,
    /// Allocations met.
    pub met: Vec<Met>,
    last: usize,
    snapshot: Arc<Vec<Arc<Allocation>>>,
    /// State of the random generator.
    pub random: u64,
    /// Warp instructions issued.
    pub issued: u64,
    /// Changes to memory.
    pub changes: u64,
    /// Which compiled version of the hot loops to run.
    pub version: usize,
}

impl Worker {
    /// A worker of a launch.
    pub fn new(launch: &LaunchState, index: u64) -> Worker {
        let seed = match launch.options.order {
            crate::check::Order::Random(seed) => seed,
            _ => 0,
        };
        Worker {
            counters: vec![Counter::default(); launch.loaded.module.0.code.len()],
            met: Vec::new(),
            last: 0,
            snapshot: launch.memory.snapshot(),
            random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (index + 1),
            issued: 0,
            changes: 0,
            version: view::version(),
        }
    }

    /// The next random number (xorshift64*).
    pub fn next_random(&mut self) -> u64 {
        let mut x = self.random | 1;
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random = x;
        x.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// The allocation that holds an address, as an index into `met`.
    #[inline(always)]
    pub fn meet(&mut self, launch: &LaunchState, address: u64) -> Option<usize> {
        if let Some(m) = self.met.get(self.last)
            && address.wrapping_sub(m.allocation.base) < m.allocation.bytes
        {
            return Some(self.last);
        }
        self.meet_slow(launch, address)
    }

    fn meet_slow(&mut self, launch: &LaunchState, address: u64) -> Option<usize> {
        if let Some(at) =
            self.met.iter().position(|m| address.wrapping_sub(m.allocation.base) < m.allocation.bytes)
        {
            self.last = at;
            return Some(at);
        }
        if find(&self.snapshot, address).is_none() {
            self.snapshot = launch.memory.snapshot();
        }
        let allocation = find(&self.snapshot, address)?.clone();
        let race = launch.options.checks.race || launch.options.checks.lane_race;
        let shadow = race.then(|| launch.shadow.of(allocation.base, allocation.bytes));
        self.met.push(Met { allocation, shadow });
        self.last = self.met.len() - 1;
        Some(self.last)
    }
}

/// Everything an instruction may touch beside its own warp.
pub struct Cx<'a> {
    /// The launch.
    pub launch: &'a LaunchState,
    /// The worker.
    pub worker: &'a mut Worker,
    /// The cluster, without the running warp.
    pub cluster: &'a mut Cluster,
}

impl Cx<'_> {
    /// Reports a finding of a lane.
    pub fn report(
        &self,
        w: &Warp,
        i: &Instruction,
        lane: u32,
        kind: FindingKind,
        address: Option<u64>,
        message: impl FnOnce() -> String,
    ) {
        let block = self.cluster.blocks[w.block as usize].id;
        let thread = self.launch.thread(w.id * 32 + lane);
        self.launch.report(kind, i.line, (block, thread), address, message);
    }
}

/// What an instruction does to the flow of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// On to the next instruction.
    Next,
    /// On to the next instruction, but let others run first.
    Yield,
    /// The group waits (its `wait` is set); the next instruction follows.
    Wait,
}
