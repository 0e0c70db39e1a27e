//! Executes lists of steps on the whole team: woken once a run, every worker walks the same list.
//!
//! Between steps stands one barrier. Whether to stop is decided by worker 0 (the caller's thread) before it arrives there,
//! in terms of the barrier's number, so that all workers read the same answer behind it.

use super::RunError;
use super::context::{Context, Need};
use super::lower::Ready;
use super::timing::Clock;
use crate::pool::{Pool, Worker};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How far a run has come, as a callback sees it: after every step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The iteration that is being computed, from 0.
    pub iteration: usize,
    /// Iterations of the run.
    pub iterations: usize,
    /// Steps done of this iteration's (of the request's, before the first iteration).
    pub step: usize,
    /// Steps of this iteration (or request).
    pub steps: usize,
    /// Whether these are the steps that run once, before the first iteration.
    pub request: bool,
}

/// How to run.
#[derive(Default)]
pub struct RunOptions<'a> {
    /// Read between steps: once true, the run stops with [`RunError::Cancelled`].
    pub cancel: Option<&'a AtomicBool>,
    /// Called on the caller's thread after every step.
    pub progress: Option<&'a mut dyn FnMut(Progress)>,
}

/// What only worker 0 touches, which is the caller's own thread.
struct Caller<'a, 'c> {
    progress: Option<&'a mut dyn FnMut(Progress)>,
    clock: Option<&'c mut Clock>,
    outcome: Result<(), RunError>,
}

struct CallerCell<'a, 'c>(UnsafeCell<Caller<'a, 'c>>);

// SAFETY: only worker 0 reaches inside (`CallerCell::of`), on the thread that owns what it borrows.
unsafe impl Sync for CallerCell<'_, '_> {}

impl<'a, 'c> CallerCell<'a, 'c> {
    /// # Safety
    /// The reference is gone before the next call.
    #[allow(clippy::mut_from_ref)] // one worker, one reference at a time: see the contract
    unsafe fn of(&self, worker: &Worker<'_>) -> Option<&mut Caller<'a, 'c>> {
        // SAFETY: by contract, and because no other worker has index 0.
        (worker.index == 0).then(|| unsafe { &mut *self.0.get() })
    }
}

/// Working space of a run, which each step cuts as it needs: what all workers share, then a part for each.
#[derive(Clone, Copy)]
pub(super) struct Workspace(pub *mut u8);

// SAFETY: each worker takes its own part of the memory, which belongs to the run.
unsafe impl Sync for Workspace {}

impl Workspace {
    /// # Safety
    /// Called once a step by each worker, and not used beyond it; the memory is `need.total(count)` bytes at least.
    unsafe fn part<'a>(self, need: Need, worker: &Worker<'_>) -> &'a mut [u8] {
        let size = need.worker.next_multiple_of(64);
        let offset = need.shared.next_multiple_of(64) + worker.index * size;
        // SAFETY: parts of distinct workers do not overlap, and lie inside by contract.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(offset), size) }
    }
}

/// One row of slot values an iteration.
#[derive(Clone, Copy)]
pub(super) struct SlotRows<'a> {
    pub values: &'a [u32],
    pub width: usize,
    pub count: usize,
}

impl<'a> SlotRows<'a> {
    pub fn row(&self, iteration: usize) -> &'a [u32] {
        &self.values[iteration * self.width..(iteration + 1) * self.width]
    }
}

/// The lists of a run.
pub(super) struct Lists<'a> {
    pub request: &'a [Ready],
    pub step: &'a [Ready],
}

/// Runs `lists.request` with the first row of slots, then `lists.step` with each row.
///
/// # Safety
/// The regions of `cx` (whose slots are replaced) are as large as the steps were checked against, for every row;
/// `workspace` is large enough for them; nobody else uses this memory meanwhile.
pub(super) unsafe fn execute(
    pool: &Pool,
    lists: &Lists<'_>,
    cx: &Context<'_>,
    rows: SlotRows<'_>,
    workspace: Workspace,
    options: RunOptions<'_>,
    clock: Option<&mut Clock>,
) -> Result<(), RunError> {
    let cancel = options.cancel;
    let caller = Caller { progress: options.progress, clock, outcome: Ok(()) };
    let caller = CallerCell(UnsafeCell::new(caller));
    // The barrier behind which all stop.
    let stop_at = AtomicU64::new(u64::MAX);
    pool.run(|worker| {
        let mut barriers = 0u64;
        let iterations = rows.count;
        let lists = std::iter::once((true, 0, lists.request))
            .chain((0..iterations).map(|iteration| (false, iteration, lists.step)));
        for (request, iteration, list) in lists {
            let cx = Context { slots: rows.row(iteration), ..*cx };
            for (i, step) in list.iter().enumerate() {
                // SAFETY: once a step; the memory is large enough by contract.
                let scratch = unsafe { workspace.part(step.need, worker) };
                // SAFETY: by contract; the barrier keeps the next step off this one's memory.
                let result = unsafe { step.run.run(&cx, worker, scratch) };
                // SAFETY: the reference ends with this statement's block.
                if let Some(caller) = unsafe { caller.of(worker) } {
                    let cancelled = cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed));
                    if cancelled && caller.outcome.is_ok() {
                        caller.outcome = Err(RunError::Cancelled { iteration });
                        stop_at.store(barriers, Ordering::Relaxed);
                    }
                    if let Err(error) = &result {
                        caller.outcome = Err(error.clone());
                    }
                }
                if result.is_err() {
                    // Every worker found the same.
                    return;
                }
                worker.barrier();
                // SAFETY: as above.
                if let Some(caller) = unsafe { caller.of(worker) } {
                    if let Some(clock) = &mut caller.clock {
                        clock.step_done(request, i);
                    }
                    if let Some(progress) = &mut caller.progress {
                        let (step, steps) = (i + 1, list.len());
                        progress(Progress { iteration, iterations, step, steps, request });
                    }
                }
                if stop_at.load(Ordering::Relaxed) <= barriers {
                    return;
                }
                barriers += 1;
            }
        }
    });
    caller.0.into_inner().outcome
}
