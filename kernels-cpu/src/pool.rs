//! One persistent team of threads that executes a whole plan as one program on many workers (SPMD).
//!
//! Forking threads per kernel costs more than a small kernel: a decode step has a few hundred of them. So a run
//! wakes every worker *once*, all execute the same closure, and they meet at [`Worker::barrier`]s, which spin
//! first and sleep only when the wait grows long (so that a machine with more threads than cores still moves).
//! Work inside a step is claimed task by task from one shared word ([`Worker::for_each_task`]), whose high half
//! counts the steps: nobody has to reset it, and no second barrier is spent on it.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Rounds of `spin_loop` before a waiter starts to yield its core: about 25 µs on Zen 5, where one takes 47 ns.
/// Where two workers share a core, each barrier waits that long for the other to get its turn.
const SPINS: u32 = 500;
/// Yields before a waiter goes to sleep: each is a system call of some 0.3 µs if nobody else wants the core.
const YIELDS: u32 = 100;

/// A team of threads; the thread that calls [`Pool::run`] is worker 0 of it.
///
/// A run takes the whole pool, and runs that come from several threads wait for one another.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    turn: Mutex<()>,
}

/// One member of the team, as the closure of a run sees it.
pub struct Worker<'a> {
    /// This worker's number, from 0 (the caller) to `count - 1`.
    pub index: usize,
    /// How many workers execute the run.
    pub count: usize,
    shared: &'a Shared,
    step: Cell<u32>,
}

/// The closure of a run with its lifetime erased; see the SAFETY notes at its two uses.
type Job = *const (dyn Fn(&Worker) + Sync + 'static);

struct Shared {
    count: usize,
    job: UnsafeCell<Option<Job>>,
    /// Number of the run; changes when a run starts.
    run: AtomicU32,
    started: Bell,
    /// Workers (without worker 0) that have not finished this run.
    unfinished: AtomicUsize,
    finished: Bell,
    /// Barrier: how many have arrived, and how often it has opened.
    arrived: AtomicUsize,
    generation: AtomicU32,
    opened: Bell,
    /// High half: step; low half: next unclaimed task of that step.
    claims: AtomicU64,
    poisoned: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    closing: AtomicBool,
}

// SAFETY: `job` is written only by the holder of `Pool::turn` while no worker runs (before `run` is advanced with
// Release, after `unfinished` fell to 0), and read by workers only between these two points; it points to a `Sync` closure.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer is never dereferenced outside a run, whatever thread drops the structure.
unsafe impl Send for Shared {}

/// What a worker unwinds with at a barrier because another one panicked.
struct Poisoned;

thread_local! {
    static INSIDE_RUN: Cell<bool> = const { Cell::new(false) };
}

impl Pool {
    /// A pool of `threads` workers, the caller included; 0 stands for as many as the machine has.
    ///
    /// # Errors
    /// What the operating system says when a thread cannot be started.
    pub fn new(threads: usize) -> std::io::Result<Pool> {
        let count = match threads {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
            n => n,
        };
        let shared = Arc::new(Shared::new(count));
        let mut pool = Pool { shared, threads: Vec::with_capacity(count - 1), turn: Mutex::new(()) };
        for index in 1..count {
            let shared = Arc::clone(&pool.shared);
            let name = format!("selftok-{index}");
            // On failure `pool` is dropped here, which ends those already started.
            pool.threads.push(std::thread::Builder::new().name(name).spawn(move || shared.serve(index))?);
        }
        Ok(pool)
    }

    /// How many workers a run has, the caller included.
    pub fn threads(&self) -> usize {
        self.shared.count
    }

    /// Executes `program` on every worker at once and returns when all have finished.
    ///
    /// Every worker has to pass the same barriers and the same task loops in the same order.
    ///
    /// # Panics
    /// With the first panic of any worker, once all have left the run; the pool stays usable.
    /// Also when called from inside a run, which could never get its turn.
    pub fn run<F: Fn(&Worker) + Sync>(&self, program: F) {
        assert!(!INSIDE_RUN.get(), "Pool::run was called from inside a run");
        let _turn: MutexGuard<()> = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &*self.shared;
        shared.claims.store(0, Ordering::Relaxed);
        shared.arrived.store(0, Ordering::Relaxed);
        if shared.count > 1 {
            let job: *const (dyn Fn(&Worker) + Sync + '_) = &program;
            // SAFETY: only the lifetime is erased. `program` outlives every use: this function leaves only after `unfinished` is 0.
            let job = unsafe { std::mem::transmute::<*const (dyn Fn(&Worker) + Sync + '_), Job>(job) };
            // SAFETY: no worker reads `job` now: the previous run has ended and this thread holds the turn.
            unsafe { *shared.job.get() = Some(job) };
            shared.unfinished.store(shared.count - 1, Ordering::Relaxed);
            shared.run.fetch_add(1, Ordering::SeqCst);
            shared.started.ring();
        }
        INSIDE_RUN.set(true);
        shared.execute(0, &program);
        INSIDE_RUN.set(false);
        if shared.count > 1 {
            shared.finished.wait_until(|| shared.unfinished.load(Ordering::SeqCst) == 0);
        }
        shared.poisoned.store(false, Ordering::Relaxed);
        let panic = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(_turn);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        self.shared.started.ring();
        for thread in self.threads.drain(..) {
            // A worker catches the panics of its jobs, so joining cannot fail for a reason worth telling.
            let _ = thread.join();
        }
    }
}

impl Worker<'_> {
    /// Waits until every worker of the run has come here; what they wrote before is visible after.
    pub fn barrier(&self) {
        let shared = self.shared;
        if self.count == 1 {
            return;
        }
        let generation = shared.generation.load(Ordering::Relaxed);
        if shared.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.count {
            shared.arrived.store(0, Ordering::Relaxed);
            shared.generation.store(generation.wrapping_add(1), Ordering::SeqCst);
            shared.opened.ring();
        } else {
            let opened = || shared.generation.load(Ordering::SeqCst) != generation;
            shared.opened.wait_until(|| opened() || shared.poisoned.load(Ordering::SeqCst));
            if !opened() {
                // Somebody panicked and will never arrive. Unwind without a second message.
                resume_unwind(Box::new(Poisoned));
            }
        }
    }

    /// Executes `task(i)` for the `i` in `0..tasks` that this worker claims; over all workers each `i` is executed once.
    ///
    /// Returns when no task is left to *claim*: others may still be at work, so put a [`Worker::barrier`] before
    /// anything that reads the results.
    ///
    /// # Panics
    /// If `tasks` does not fit in 32 bits.
    pub fn for_each_task(&self, tasks: usize, mut task: impl FnMut(usize)) {
        if self.count == 1 {
            return (0..tasks).for_each(task);
        }
        assert!(u32::try_from(tasks).is_ok(), "a step of {tasks} tasks: at most 2^32 - 1 can be counted");
        let step = self.step.get() + 1;
        self.step.set(step);
        while let Some(index) = self.shared.claim(step, tasks) {
            task(index);
        }
    }
}

impl Shared {
    fn new(count: usize) -> Shared {
        Shared {
            count,
            job: UnsafeCell::new(None),
            run: AtomicU32::new(0),
            started: Bell::default(),
            unfinished: AtomicUsize::new(0),
            finished: Bell::default(),
            arrived: AtomicUsize::new(0),
            generation: AtomicU32::new(0),
            opened: Bell::default(),
            claims: AtomicU64::new(0),
            poisoned: AtomicBool::new(false),
            panic: Mutex::new(None),
            closing: AtomicBool::new(false),
        }
    }

    /// The life of a worker other than 0.
    fn serve(&self, index: usize) {
        INSIDE_RUN.set(true);
        let mut seen = 0;
        loop {
            self.started.wait_until(|| {
                self.run.load(Ordering::SeqCst) != seen || self.closing.load(Ordering::SeqCst)
            });
            if self.run.load(Ordering::SeqCst) == seen {
                return;
            }
            seen = seen.wrapping_add(1);
            // SAFETY: `run` was advanced after `job` was written, and `job` stays as it is until `unfinished` is 0.
            if let Some(job) = unsafe { *self.job.get() } {
                // SAFETY: the closure lives in the frame of `Pool::run`, which waits for `unfinished` to be 0.
                self.execute(index, unsafe { &*job });
            }
            if self.unfinished.fetch_sub(1, Ordering::SeqCst) == 1 {
                self.finished.ring();
            }
        }
    }

    /// Runs the closure as worker `index`; a panic is kept (the first one) and frees all who wait at a barrier.
    fn execute(&self, index: usize, program: &(dyn Fn(&Worker) + Sync)) {
        let worker = Worker { index, count: self.count, shared: self, step: Cell::new(0) };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| program(&worker))) {
            if !payload.is::<Poisoned>() {
                self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
            }
            self.poisoned.store(true, Ordering::SeqCst);
            self.opened.ring();
        }
    }

    /// The next task of `step` that nobody has, or None when all are claimed.
    ///
    /// A worker moves the word to its step only after it found the step before exhausted, so no task can be lost;
    /// one that comes late sees a later step and knows that its own is exhausted.
    fn claim(&self, step: u32, tasks: usize) -> Option<usize> {
        let mut word = self.claims.load(Ordering::Relaxed);
        loop {
            let (at, next) = ((word >> 32) as u32, word as u32 as usize);
            let index = if at < step { 0 } else { next };
            if at > step || index >= tasks {
                return None;
            }
            let claimed = (u64::from(step) << 32) | (index as u64 + 1);
            match self.claims.compare_exchange_weak(word, claimed, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(index),
                Err(now) => word = now,
            }
        }
    }
}

/// Where threads wait for a condition that another thread makes true: spinning first, then yielding, then asleep.
#[derive(Default)]
struct Bell {
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Bell {
    /// Wakes all who sleep. Call it after making their condition true with a SeqCst store.
    fn ring(&self) {
        // Either this load sees the sleeper, or the sleeper's check, which comes after its own SeqCst increment, sees the store.
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.wake.notify_all();
        }
    }

    /// Returns once `ready` holds; `ready` reads with SeqCst.
    fn wait_until(&self, ready: impl Fn() -> bool) {
        for _ in 0..SPINS {
            if ready() {
                return;
            }
            std::hint::spin_loop();
        }
        for _ in 0..YIELDS {
            if ready() {
                return;
            }
            std::thread::yield_now();
        }
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while !ready() {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}
