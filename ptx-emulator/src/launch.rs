//! A launch: judged against the GPU's limits, then run: on all cores, or step by step beside others.

use crate::check::FindingKind;
use crate::counters::{Counter, Report};
use crate::decode::Function;
use crate::device::{LoadedModule, Options};
use crate::error::{CudaError, LaunchError};
use crate::exec::cluster::{Cluster, State};
use crate::exec::{LaunchState, Worker};
use crate::gpu::Gpu;
use crate::memory::global::GlobalMemory;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;

/// The shape of a launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchConfig {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Blocks of a cluster.
    pub cluster: [u32; 3],
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
    /// All blocks must be resident at once.
    pub cooperative: bool,
}

impl LaunchConfig {
    /// `grid` blocks of `block` threads, in one dimension, no dynamic shared memory.
    pub fn new(grid: u32, block: u32) -> LaunchConfig {
        LaunchConfig {
            grid: [grid, 1, 1],
            block: [block, 1, 1],
            cluster: [1, 1, 1],
            shared_bytes: 0,
            cooperative: false,
        }
    }

    /// The same with dynamic shared memory.
    pub fn shared(self, bytes: u32) -> LaunchConfig {
        LaunchConfig { shared_bytes: bytes, ..self }
    }

    fn check(&self, gpu: &Gpu, f: &Function) -> Result<(), LaunchError> {
        let refuse = |code, message: String| Err(LaunchError::new(code, message));
        let threads = self.block.iter().try_fold(1u32, |n, d| n.checked_mul(*d)).unwrap_or(u32::MAX);
        if self.grid.contains(&0) || self.block.contains(&0) || self.cluster.contains(&0) {
            return refuse(CudaError::InvalidValue, "a dimension of grid, block or cluster is 0".into());
        }
        if self.grid[0] > i32::MAX as u32 || self.grid[1] > 65535 || self.grid[2] > 65535 {
            return refuse(
                CudaError::InvalidValue,
                format!("grid {:?} exceeds [2147483647, 65535, 65535]", self.grid),
            );
        }
        if self.block[2] > 64 || threads > gpu.threads_per_block {
            return refuse(
                CudaError::InvalidValue,
                format!(
                    "block {:?} has {threads} threads; {} allows {}",
                    self.block, gpu.name, gpu.threads_per_block
                ),
            );
        }
        let limit = f.max_threads.map(|t| t.iter().product::<u32>());
        if let Some(limit) = limit.filter(|l| threads > *l) {
            return refuse(
                CudaError::InvalidValue,
                format!("{threads} threads; the kernel's .maxntid is {limit}"),
            );
        }
        if let Some(required) = f.required_threads.filter(|r| *r != self.block) {
            return refuse(
                CudaError::InvalidValue,
                format!("block {:?}; .reqntid is {required:?}", self.block),
            );
        }
        let shared = u64::from(f.shared_bytes) + u64::from(self.shared_bytes);
        if f.shared_bytes > gpu.shared_per_block {
            return refuse(
                CudaError::InvalidValue,
                format!(
                    "{} bytes of static shared memory; the limit is {}",
                    f.shared_bytes, gpu.shared_per_block
                ),
            );
        }
        if shared > u64::from(gpu.shared_per_block_optin) {
            return refuse(
                CudaError::InvalidValue,
                format!(
                    "{shared} bytes of shared memory; {} allows {} a block",
                    gpu.name, gpu.shared_per_block_optin
                ),
            );
        }
        let cluster: u32 = self.cluster.iter().try_fold(1u32, |n, d| n.checked_mul(*d)).unwrap_or(u32::MAX);
        if cluster > gpu.cluster_blocks {
            return refuse(
                CudaError::InvalidValue,
                format!("a cluster of {cluster} blocks; {} allows {}", gpu.name, gpu.cluster_blocks),
            );
        }
        if (0..3).any(|k| !self.grid[k].is_multiple_of(self.cluster[k])) {
            return refuse(
                CudaError::InvalidValue,
                format!("grid {:?} is not a multiple of the cluster {:?}", self.grid, self.cluster),
            );
        }
        if let Some(registers) = f.max_registers.filter(|r| r * threads > gpu.registers_per_block) {
            return refuse(
                CudaError::LaunchOutOfResources,
                format!(
                    "{registers} registers for {threads} threads; a block has {}",
                    gpu.registers_per_block
                ),
            );
        }
        let resident = gpu.resident_blocks(threads, shared as u32, f.max_registers.unwrap_or(32));
        let blocks = self.grid.iter().map(|d| u64::from(*d)).product::<u64>();
        if self.cooperative && blocks > u64::from(resident) * u64::from(gpu.sms) {
            return refuse(
                CudaError::CooperativeLaunchTooLarge,
                format!("{blocks} blocks; {} holds {} at once", gpu.name, resident * gpu.sms),
            );
        }
        Ok(())
    }
}

/// Whether a launch goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More to do.
    Running,
    /// All blocks are done, or a fatal finding stopped it.
    Done,
}

/// Warp instructions that a cluster runs before another gets its turn.
const SLICE: u64 = 200_000;

#[derive(Debug)]
struct Queue {
    suspended: VecDeque<Cluster>,
    next: u32,
    total: u32,
    /// Clusters begun and not done.
    live: u32,
    resident: u32,
}

/// A launch that has been accepted. Memory changes as it is stepped.
#[derive(Debug)]
pub struct Launch {
    state: LaunchState,
    queue: Mutex<Queue>,
    /// The worker of [`Launch::step`], and the cluster it holds.
    own: Option<Worker>,
    counters: Vec<Counter>,
}

impl Launch {
    pub(crate) fn new(
        gpu: &Gpu,
        options: &Options,
        memory: &Arc<GlobalMemory>,
        loaded: &Arc<LoadedModule>,
        kernel: &str,
        config: &LaunchConfig,
        args: &[u8],
    ) -> Result<Launch, LaunchError> {
        let functions = &loaded.module.0.functions;
        let id = functions.iter().position(|f| f.kernel && f.name == kernel).ok_or_else(|| {
            LaunchError::new(CudaError::NotFound, format!("the module has no kernel '{kernel}'"))
        })?;
        let f = &functions[id];
        let mut config = config.clone();
        if let Some(cluster) = f.required_cluster {
            config.cluster = cluster;
        }
        config.check(gpu, f)?;
        let wanted = f.params.last().map_or(0, |p| p.offset + p.bytes) as usize;
        if args.len() != wanted {
            return Err(LaunchError::new(
                CudaError::InvalidValue,
                format!(
                    "{} bytes of arguments; '{kernel}' takes {} in {wanted} bytes",
                    args.len(),
                    f.params.len()
                ),
            ));
        }
        let threads: u32 = config.block.iter().product();
        let clusters = (0..3).map(|k| u64::from(config.grid[k] / config.cluster[k])).product::<u64>();
        let total = u32::try_from(clusters).map_err(|_| {
            LaunchError::new(
                CudaError::InvalidValue,
                format!("{clusters} blocks are more than can be emulated"),
            )
        })?;
        let dynamic = f.shared_bytes.next_multiple_of(f.dynamic_align.max(1));
        let resident =
            gpu.resident_blocks(threads, f.shared_bytes + config.shared_bytes, f.max_registers.unwrap_or(32));
        let state = LaunchState::new(
            loaded.clone(),
            id as u32,
            args.to_vec(),
            [config.grid, config.block, config.cluster],
            [dynamic, config.shared_bytes],
            options.clone(),
            gpu.clone(),
            memory.clone(),
        );
        let cluster_blocks: u32 = config.cluster.iter().product();
        let queue = Queue {
            suspended: VecDeque::new(),
            next: 0,
            total,
            live: 0,
            resident: (resident.max(1) * gpu.sms / cluster_blocks).max(1),
        };
        let counters = vec![Counter::default(); loaded.module.0.code.len()];
        Ok(Launch { state, queue: Mutex::new(queue), own: None, counters })
    }

    /// The kernel's name.
    pub fn kernel(&self) -> &str {
        &self.state.function().name
    }

    /// Runs about `budget` warp instructions on this thread.
    pub fn step(&mut self, budget: u64) -> Progress {
        let mut worker = self.own.take().unwrap_or_else(|| Worker::new(&self.state, 0));
        let end = worker.issued + budget;
        let mut progress = Progress::Running;
        while worker.issued < end && progress == Progress::Running {
            let slice = SLICE.min(end - worker.issued);
            if !self.turn(&mut worker, slice) {
                progress = Progress::Done;
            }
        }
        self.own = Some(worker);
        progress
    }

    /// Runs to the end on `threads` threads (0: one a core).
    pub fn run(&mut self, threads: usize) {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if threads == 0 { cores } else { threads };
        let threads = threads.min(self.queue.get_mut().map_or(1, |q| q.total as usize)).max(1);
        if threads == 1 {
            while self.step(u64::from(u32::MAX)) == Progress::Running {}
            return;
        }
        let this = &*self;
        let all: Vec<Worker> = std::thread::scope(|scope| {
            let run = |index: u64| {
                let mut worker = Worker::new(&this.state, index);
                loop {
                    if !this.turn(&mut worker, SLICE) {
                        let q = this.queue.lock().unwrap_or_else(|e| e.into_inner());
                        let over = this.state.abort.load(Relaxed) || (q.live == 0 && q.next >= q.total);
                        drop(q);
                        if over {
                            return worker;
                        }
                        std::thread::yield_now();
                    }
                }
            };
            let handles: Vec<_> = (1..threads as u64).map(|k| scope.spawn(move || run(k))).collect();
            let mut all = vec![run(0)];
            all.extend(handles.into_iter().filter_map(|h| h.join().ok()));
            all
        });
        for worker in &all {
            self.gather(worker);
        }
    }

    fn gather(&mut self, worker: &Worker) {
        for (all, one) in self.counters.iter_mut().zip(&worker.counters) {
            all.add(one);
        }
    }

    /// Takes up one cluster for a while; false when there is none to take.
    fn turn(&self, worker: &mut Worker, budget: u64) -> bool {
        if self.state.abort.load(Relaxed) {
            return false;
        }
        let mut cluster = {
            let mut q = self.queue.lock().unwrap_or_else(|e| e.into_inner());
            // A suspended cluster may be waiting for one not yet begun: new ones first, while there is room.
            if q.next < q.total && q.live < q.resident {
                let index = match self.state.options.order {
                    crate::check::Order::Reverse => q.total - 1 - q.next,
                    _ => q.next,
                };
                q.next += 1;
                q.live += 1;
                drop(q);
                Cluster::new(&self.state, index)
            } else {
                match q.suspended.pop_front() {
                    Some(c) => c,
                    None => return false,
                }
            }
        };
        let (issued, changes) = (worker.issued, worker.changes);
        let state = cluster.run(&self.state, worker, budget);
        if worker.changes != changes || state == State::Done {
            self.state.idle.store(0, Relaxed);
        } else {
            let idle = self.state.idle.fetch_add(worker.issued - issued, Relaxed);
            if idle > self.state.options.patience {
                self.hung(&cluster);
            }
        }
        let mut q = self.queue.lock().unwrap_or_else(|e| e.into_inner());
        match state {
            State::Done => q.live -= 1,
            State::Suspended => q.suspended.push_back(cluster),
        }
        true
    }

    fn hung(&self, cluster: &Cluster) {
        let Some(w) = cluster.warps.iter().flatten().next() else { return };
        let Some(g) = w.groups.first() else { return };
        let code = &self.state.loaded.module.0.code;
        let line = code.get(g.pc as usize).map_or(0, |i| i.line);
        let place = (
            cluster.blocks[w.block as usize].id,
            self.state.thread(w.id * 32 + g.mask.trailing_zeros().min(31)),
        );
        self.state.report(FindingKind::Deadlock, line, place, None, || {
            format!("no memory changed during {} warp instructions: all spin", self.state.options.patience)
        });
    }

    /// The device memory that ordinary accesses touched so far, by address; empty when races are not looked for.
    /// Whoever runs several launches at once can tell from it which two of them conflict.
    pub fn touched(&self) -> Vec<crate::memory::shadow::Touched> {
        self.state.shadow.touched()
    }

    /// What was found and counted so far; the launch need not be over.
    pub fn finish(mut self) -> Report {
        if let Some(worker) = self.own.take() {
            self.gather(&worker);
        }
        let code = &self.state.loaded.module.0.code;
        let mut counters = std::mem::take(&mut self.counters);
        for (c, i) in counters.iter_mut().zip(code) {
            c.line = i.line;
        }
        counters.retain(|c| c.issues > 0);
        Report { findings: self.state.findings(), counters }
    }
}
