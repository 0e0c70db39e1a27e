//! Where the time goes: one clock reading a step, on the caller's thread, when asked for.

use super::lower::step_name;
use selftok_graph::{Entry, Step};
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

/// Accumulates the time between barriers for each step of an entry.
#[derive(Debug, Clone)]
pub(super) struct Clock {
    last: Instant,
    /// Request steps, then steps: time and calls.
    steps: Vec<(Duration, u64)>,
    requests: usize,
}

impl Clock {
    pub fn new(entry: &Entry) -> Clock {
        let steps = vec![(Duration::ZERO, 0); entry.request.len() + entry.step.len()];
        Clock { last: Instant::now(), steps, requests: entry.request.len() }
    }

    /// A run begins.
    pub fn start(&mut self) {
        self.last = Instant::now();
    }

    /// All workers have passed the barrier behind a step.
    pub fn step_done(&mut self, request: bool, step: usize) {
        let now = Instant::now();
        let at = if request { step } else { self.requests + step };
        self.steps[at].0 += now - self.last;
        self.steps[at].1 += 1;
        self.last = now;
    }
}

/// Time spent in one kind of step.
#[derive(Debug, Clone, PartialEq)]
pub struct TimingRow {
    /// Entry.
    pub entry: String,
    /// Scope, with `*` for the number of a layer, and kernel.
    pub step: String,
    /// How often it ran.
    pub calls: u64,
    /// Time of all calls.
    pub time: Duration,
    /// Floating-point operations of all calls, at maximum extents.
    pub flop: u64,
}

/// Time by kernel and scope, longest first; prints as a table.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Timing {
    /// Rows.
    pub rows: Vec<TimingRow>,
}

impl Timing {
    pub(super) fn of<'a>(entries: impl Iterator<Item = (&'a Entry, &'a Clock)>) -> Timing {
        let mut rows: BTreeMap<(String, String), TimingRow> = BTreeMap::new();
        for (entry, clock) in entries {
            for (step, (time, calls)) in entry.request.iter().chain(&entry.step).zip(&clock.steps) {
                let key = (entry.name.clone(), kind(step));
                let row = rows.entry(key.clone()).or_insert_with(|| TimingRow {
                    entry: key.0,
                    step: key.1,
                    calls: 0,
                    time: Duration::ZERO,
                    flop: 0,
                });
                row.calls += calls;
                row.time += *time;
                row.flop += step.flop * calls;
            }
        }
        let mut rows: Vec<_> = rows.into_values().filter(|row| row.calls > 0).collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.time));
        Timing { rows }
    }
}

/// The step's name without the numbers of layers.
fn kind(step: &Step) -> String {
    let name = step_name(step);
    let parts = name.split('.').map(|part| match part.bytes().all(|b| b.is_ascii_digit()) {
        true => "*",
        false => part,
    });
    parts.collect::<Vec<_>>().join(".")
}

impl fmt::Display for Timing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: Duration = self.rows.iter().map(|row| row.time).sum();
        writeln!(f, "{:>10} {:>6} {:>8} {:>10}  step", "ms", "%", "calls", "GFLOP/s")?;
        for row in &self.rows {
            let seconds = row.time.as_secs_f64();
            let share = 100.0 * seconds / total.as_secs_f64().max(f64::MIN_POSITIVE);
            let rate = row.flop as f64 / seconds.max(f64::MIN_POSITIVE) / 1e9;
            let (ms, calls) = (seconds * 1e3, row.calls);
            writeln!(f, "{ms:>10.3} {share:>6.1} {calls:>8} {rate:>10.1}  {} {}", row.entry, row.step)?;
        }
        write!(f, "{:>10.3}  total", total.as_secs_f64() * 1e3)
    }
}
