//! Which stream touched which device memory, so that two operations that nothing orders and that conflict are found
//! whatever order they happened to run in.
//!
//! Every operation has a vector clock: for each stream, the last operation known to be done before it starts. An
//! operation inherits the clocks of its predecessor in the stream, of what it waits for, and of what the host had
//! synchronised with when it was submitted. An access is known to a later operation whose clock reaches it.

use crate::abi::Handle;
use std::collections::BTreeMap;

/// Last operation known of each stream.
pub type Clock = BTreeMap<Handle, u64>;

/// Adds what `from` knows.
pub fn join(into: &mut Clock, from: &Clock) {
    for (&stream, &seq) in from {
        let known = into.entry(stream).or_insert(0);
        *known = (*known).max(seq);
    }
}

/// A range of device memory that an operation reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// First address.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// Whether it is written (allocating and freeing count as writing).
    pub write: bool,
}

impl Access {
    /// A read of a range.
    pub fn read(start: u64, len: u64) -> Access {
        Access { start, len, write: false }
    }

    /// A write of a range.
    pub fn write(start: u64, len: u64) -> Access {
        Access { start, len, write: true }
    }

    /// Whether both touch a byte and one of them writes.
    pub fn conflicts(&self, other: &Access) -> bool {
        (self.write || other.write)
            && self.start < other.start + other.len
            && other.start < self.start + self.len
    }
}

/// An access with who made it.
#[derive(Clone, Debug)]
pub struct Seen {
    access: Access,
    stream: Handle,
    seq: u64,
    clock: Clock,
    what: String,
}

/// Two operations that conflict and are not ordered.
#[derive(Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The first address that both touch.
    pub address: u64,
    /// The operation entered earlier.
    pub earlier: String,
    /// Whether it wrote.
    pub earlier_writes: bool,
}

/// Accesses that something may still race with.
#[derive(Debug, Default)]
pub struct History {
    seen: Vec<Seen>,
    /// Accesses forgotten because there were too many.
    pub forgotten: u64,
}

/// Accesses kept. A program that never synchronises forgets its oldest.
const KEPT: usize = 8192;

impl History {
    /// Enters an access of operation `seq` of `stream`; returns the conflict it makes, if any.
    pub fn enter(
        &mut self,
        access: Access,
        stream: Handle,
        seq: u64,
        clock: &Clock,
        what: &str,
    ) -> Option<Conflict> {
        if access.len == 0 {
            return None;
        }
        let knows = |clock: &Clock, stream: Handle, seq: u64| clock.get(&stream).is_some_and(|k| *k >= seq);
        let conflict = self.seen.iter().find(|s| {
            s.access.conflicts(&access) && !knows(clock, s.stream, s.seq) && !knows(&s.clock, stream, seq)
        });
        let conflict = conflict.map(|s| Conflict {
            address: s.access.start.max(access.start),
            earlier: s.what.clone(),
            earlier_writes: s.access.write,
        });
        // What does not know this operation does not know an earlier one of the same stream either.
        self.seen.retain(|s| {
            !(s.stream == stream
                && s.seq <= seq
                && s.access.start >= access.start
                && s.access.start + s.access.len <= access.start + access.len
                && s.access.write <= access.write)
        });
        if self.seen.len() >= KEPT {
            self.seen.remove(0);
            self.forgotten += 1;
        }
        self.seen.push(Seen { access, stream, seq, clock: clock.clone(), what: what.to_owned() });
        conflict
    }

    /// Forgets what every clock of `clocks` knows: nothing can race with it any more.
    pub fn prune(&mut self, clocks: &[&Clock]) {
        self.seen.retain(|s| !clocks.iter().all(|c| c.get(&s.stream).is_some_and(|k| *k >= s.seq)));
    }

    /// How many accesses are remembered.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.seen.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(pairs: &[(Handle, u64)]) -> Clock {
        pairs.iter().copied().collect()
    }

    #[test]
    fn unordered_writes_conflict_and_ordered_ones_do_not() {
        let mut h = History::default();
        assert_eq!(h.enter(Access::write(100, 50), 1, 1, &clock(&[(1, 1)]), "copy a"), None);
        let found = h.enter(Access::read(120, 4), 2, 1, &clock(&[(2, 1)]), "copy b").unwrap();
        assert_eq!((found.address, found.earlier.as_str(), found.earlier_writes), (120, "copy a", true));
        assert_eq!(h.enter(Access::write(120, 4), 3, 1, &clock(&[(1, 1), (2, 1), (3, 1)]), "copy c"), None);
    }

    #[test]
    fn reads_do_not_conflict_with_reads_nor_with_neighbours() {
        let mut h = History::default();
        h.enter(Access::read(0, 64), 1, 1, &clock(&[(1, 1)]), "a");
        assert_eq!(h.enter(Access::read(0, 64), 2, 1, &clock(&[(2, 1)]), "b"), None);
        assert_eq!(h.enter(Access::write(64, 8), 3, 1, &clock(&[(3, 1)]), "c"), None);
    }

    #[test]
    fn an_operation_judged_late_is_ordered_by_the_other_ones_clock() {
        // Kernels enter their accesses when they end, after later copies were entered.
        let mut h = History::default();
        h.enter(Access::write(0, 8), 2, 1, &clock(&[(1, 1), (2, 1)]), "a copy that waited for the kernel");
        assert_eq!(h.enter(Access::write(0, 8), 1, 1, &clock(&[(1, 1)]), "kernel"), None);
    }

    #[test]
    fn repeated_work_does_not_grow_the_history() {
        let mut h = History::default();
        for seq in 1..100 {
            h.enter(Access::write(0, 8), 1, seq, &clock(&[(1, seq)]), "again");
        }
        assert_eq!(h.len(), 1);
        h.prune(&[&clock(&[(1, 99)])]);
        assert_eq!(h.len(), 0);
    }
}
