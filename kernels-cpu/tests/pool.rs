//! The thread pool: every task exactly once, barriers that order writes, panics that reach the caller, and no hang.

use std::sync::atomic::{AtomicUsize, Ordering};

use selftok_kernels_cpu::pool::Pool;

fn pools() -> Vec<Pool> {
    [1, 2, 3, 8].into_iter().map(|threads| Pool::new(threads).unwrap()).collect()
}

#[test]
fn every_worker_executes_the_program_once() {
    for pool in pools() {
        let seen: Vec<AtomicUsize> = (0..pool.threads()).map(|_| AtomicUsize::new(0)).collect();
        for _ in 0..50 {
            pool.run(|worker| {
                assert_eq!(worker.count, seen.len());
                seen[worker.index].fetch_add(1, Ordering::Relaxed);
            });
        }
        assert!(seen.iter().all(|n| n.load(Ordering::Relaxed) == 50));
    }
}

#[test]
fn each_task_of_each_step_is_executed_exactly_once_without_barriers_between_steps() {
    for pool in pools() {
        let sizes = [5, 0, 1, 64, 3, 0, 0, 17, 1, 2];
        let counts: Vec<Vec<AtomicUsize>> =
            sizes.iter().map(|&n| (0..n).map(|_| AtomicUsize::new(0)).collect()).collect();
        for _ in 0..20 {
            pool.run(|worker| {
                for step in &counts {
                    worker.for_each_task(step.len(), |i| {
                        step[i].fetch_add(1, Ordering::Relaxed);
                    });
                }
            });
        }
        assert!(counts.iter().flatten().all(|n| n.load(Ordering::Relaxed) == 20));
    }
}

#[test]
fn a_barrier_makes_every_write_before_it_visible() {
    for pool in pools() {
        let (n, rounds) = (37, 200);
        let cells: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
        pool.run(|worker| {
            for round in 1..=rounds {
                worker.for_each_task(n, |i| cells[i].store(round, Ordering::Relaxed));
                worker.barrier();
                assert!(cells.iter().all(|cell| cell.load(Ordering::Relaxed) == round));
                worker.barrier();
            }
        });
    }
}

#[test]
fn a_panic_frees_the_waiters_reaches_the_caller_and_leaves_the_pool_usable() {
    for pool in pools() {
        for guilty in 0..pool.threads() {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                pool.run(|worker| {
                    if worker.index == guilty {
                        std::panic::panic_any(guilty);
                    }
                    worker.barrier();
                });
            }));
            assert_eq!(outcome.unwrap_err().downcast_ref::<usize>(), Some(&guilty));
            let done = AtomicUsize::new(0);
            pool.run(|worker| {
                worker.barrier();
                worker.for_each_task(10, |_| {
                    done.fetch_add(1, Ordering::Relaxed);
                });
            });
            assert_eq!(done.into_inner(), 10);
        }
    }
}

#[test]
fn runs_from_several_threads_take_turns() {
    let pool = Pool::new(3).unwrap();
    let (inside, total) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..25 {
                    pool.run(|worker| {
                        assert!(inside.fetch_add(1, Ordering::SeqCst) < 3);
                        worker.barrier();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        total.fetch_add(1, Ordering::Relaxed);
                        worker.barrier();
                    });
                }
            });
        }
    });
    assert_eq!(total.into_inner(), 4 * 25 * 3);
}

#[test]
fn sleeping_workers_wake_up_for_the_next_run() {
    let pool = Pool::new(2).unwrap();
    let seen = AtomicUsize::new(0);
    for _ in 0..3 {
        std::thread::sleep(std::time::Duration::from_millis(20));
        pool.run(|worker| {
            if worker.index == 0 {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            worker.barrier();
            seen.fetch_add(1, Ordering::Relaxed);
        });
    }
    assert_eq!(seen.into_inner(), 6);
}

#[test]
fn a_run_inside_a_run_is_refused_instead_of_waiting_for_ever() {
    let pool = Pool::new(2).unwrap();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pool.run(|_| pool.run(|_| ()))));
    assert!(outcome.is_err());
}
